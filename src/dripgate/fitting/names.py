"""Class names: which output is which folder, and what a confusion says of a wrong order."""

import re
import unicodedata
from pathlib import Path

import numpy as np

from dripgate.errors import DataError, ModelError, UserError
from dripgate.types import Array

_LONGEST = 1_000_000  # bytes of a labels file
_NUMBERED = re.compile(r"^\d+\s*[:,\s]\s*(?=\S)")


def read_names(path: Path) -> tuple[str, ...]:
    """Class names of a file, one per line; leading numbers, as Teachable Machine has, are left out.

    Raises UserError.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such file; give a text file with one class name per line")
        if path.stat().st_size > _LONGEST:
            raise UserError(f"{path}: larger than {_LONGEST / 1e6:.0f} MB, no list of class names")
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: no UTF-8 text; give one class name per line") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    names = [line.strip() for line in lines if line.strip()]
    if names and all(_NUMBERED.match(name) for name in names):
        names = [_NUMBERED.sub("", name) for name in names]
    return tuple(names)


def match(
    names: tuple[str, ...] | None, folders: tuple[str, ...], outputs: int, data: str, model: str
) -> tuple[tuple[str, ...], Array, list[str]]:
    """(the classes by output, each folder's output (len(folders),), what is to be said).

    names: what is known of the outputs; without it the folders in sorted order are they.
    Raises ModelError or DataError where the numbers or the names do not fit.
    """
    notes = []
    if names is None:
        if len(folders) != outputs:
            raise ModelError(
                f"{model} has {outputs} outputs, {data} has {len(folders)} classes "
                f"({', '.join(folders[:6])}{', …' if len(folders) > 6 else ''}); say what the "
                "outputs are with --classes FILE, one name per line"
            )
        notes.append(f"classes: the folders in sorted order ({', '.join(folders[:4])}, …)")
        return tuple(folders), np.arange(outputs), notes
    if len(names) != outputs:
        raise ModelError(
            f"{len(names)} class names for the {outputs} outputs of {model}; give one per output, "
            "in their order"
        )
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise ModelError(f"two outputs of {model} are called '{double}'; names must differ")
    exact = {name: i for i, name in enumerate(names)}
    loose = {_plain(name): i for i, name in enumerate(names)}
    found = [exact.get(folder, loose.get(_plain(folder), -1)) for folder in folders]
    strange = [folder for folder, i in zip(folders, found, strict=True) if i < 0]
    if strange:
        raise DataError(
            f"{data}: {model} does not know the classes {', '.join(strange[:5])}; it knows "
            f"{', '.join(names[:10])}{', …' if len(names) > 10 else ''}; rename the folders, or "
            "give the right names with --classes"
        )
    unseen = len(names) - len(set(found))
    if unseen:
        notes.append(f"{unseen} of {len(names)} classes have no samples here")
    return tuple(names), np.array(found), notes


def _plain(name: str) -> str:
    """Without case, accents' form, and what stands for a space."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name).casefold()).strip()


def best_order(predicted: Array, labels: Array, classes: int) -> tuple[Array, float]:
    """(order (classes,), accuracy): for each class the output that stands for it, if it is another.

    The largest counts of the confusion first, each row and column once; -1 where nothing is left.
    """
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predicted), 1)
    order = np.full(classes, -1)
    for place in np.argsort(-counts, axis=None, kind="stable"):
        row, column = divmod(int(place), classes)
        if order[row] < 0 and column not in order and counts[row, column]:
            order[row] = column
    rows = np.flatnonzero(order >= 0)
    return order, float(counts[rows, order[rows]].sum() / max(len(labels), 1))


def permuted(predicted: Array, labels: Array, classes: int) -> Array | None:
    """The order of the classes that explains the confusion, (classes,), or None.

    It is one if the accuracy under it is high, where that of the given order is not.
    """
    order, right = best_order(predicted, labels, classes)
    given = float((predicted == labels).mean())
    moved = order[order >= 0] != np.flatnonzero(order >= 0)
    return order if other_names(right, given) and moved.any() else None


def other_names(matched: float, given: float) -> bool:
    """Whether an accuracy under the best order of the classes is another than the given order's."""
    return matched > 0.5 and matched > 1.5 * given + 0.1
