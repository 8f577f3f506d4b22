"""The summary of a decoded data set: what is there, what is not used, what people should know."""

import unicodedata
from collections import defaultdict

import numpy as np

from dripgate.data.found import ClassFound, Found
from dripgate.data.split import Split
from dripgate.data.table import Table
from dripgate.data.unused import Unused
from dripgate.types import AudioInput, InputSpec

#: A class of fewer training samples is named: nothing much is learned of it.
FEW = 5
_EXAMPLES = 3


def summary(
    name: str, spec: InputSpec, classes: tuple[str, ...], train: Split, test: Split, table: Table
) -> Found:
    """What ``train`` and ``fit`` print of a data set, as data."""
    unused = Unused(dict(table.finding.unused.reasons))
    unreadable: dict[str, int] = defaultdict(int)
    for entry in table.skipped:
        unused.add_unreadable(entry.cause, entry.name)
        unreadable[entry.label] += 1
    learned, tested = (np.bincount(part.y, minlength=len(classes)) for part in (train, test))
    rows = [
        ClassFound(label, int(learned[i]), int(tested[i]), unreadable.get(label, 0))
        for i, label in enumerate(classes)
    ]
    lost = [label for label in unreadable if label not in classes]
    rows += [ClassFound(label, 0, 0, unreadable[label]) for label in sorted(lost)]
    return Found(
        name=name,
        input=spec,
        samples=len(table.ids),
        classes=tuple(rows),
        splits=table.finding.splits,
        unused=unused.reasons,
        notes=(
            *table.finding.notes,
            *(_lost(row) for row in rows if not row.train + row.test),
            *_few(rows),
            *_alike(rows),
            *_untested(rows, table),
            *_contradictions(classes, train, test),
            *_on_both_sides(train, test),
            *_remarks(spec, table),
        ),
    )


def _lost(row: ClassFound) -> str:
    return (
        f"class {row.name}: none of its {row.unreadable:,} files can be read, so no model will "
        "know it"
    )


def _few(rows: list[ClassFound]) -> list[str]:
    few = [f"{row.name} ({row.train})" for row in rows if 0 < row.train < FEW]
    if not few:
        return []
    return [f"fewer than {FEW} samples to learn from: {_some(few)}; too few to be learned"]


def _alike(rows: list[ClassFound]) -> list[str]:
    """Classes that may be one, written in two ways."""
    spelt: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        spelt[" ".join(unicodedata.normalize("NFKC", row.name).casefold().split())].append(row.name)
    same = [" and ".join(map(repr, names)) for names in spelt.values() if len(names) > 1]
    if not same:
        return []
    return [f"classes that differ in upper and lower case or spaces only: {_some(same)}"]


def _untested(rows: list[ClassFound], table: Table) -> list[str]:
    """Of a test part that was given: classes that are not in it."""
    names = [row.name for row in rows if row.train and not row.test]
    if not names or "test" not in table.sides:
        return []
    return [f"not in test, so nothing says how well they are known: {_some(names)}"]


def _contradictions(classes: tuple[str, ...], train: Split, test: Split) -> list[str]:
    """Contents that carry more than one label."""
    seen: dict[str, dict[int, str]] = defaultdict(dict)
    for part in (train, test):
        for id_, y, name in zip(part.ids, part.y, part.names, strict=True):
            seen[id_].setdefault(int(y), name)
    twice = [" = ".join(names.values()) for names in seen.values() if len(names) > 1]
    if not twice:
        return []
    return [f"{len(twice):,} contents are in two classes, and cannot be learned: {_some(twice)}"]


def _on_both_sides(train: Split, test: Split) -> list[str]:
    """Contents that are learned from and tested on."""
    learned = dict(zip(train.ids, train.names, strict=True))
    both = {id_: f"{learned[id_]} = {name}"
            for id_, name in zip(test.ids, test.names, strict=True) if id_ in learned}  # fmt: skip
    if not both:
        return []
    return [
        f"{len(both):,} contents are in train and in test, so the accuracy is too good: "
        f"{_some(list(both.values()))}"
    ]


def _remarks(spec: InputSpec, table: Table) -> list[str]:
    said = []
    for what, pile in table.finding.remarks.reasons.items():
        names = _some(pile.examples, pile.count)
        if what == Table.LONG and isinstance(spec, AudioInput):
            seconds = spec.length / spec.rate
            said.append(
                f"{pile.count:,} recordings are longer than {seconds:.3g} s and became "
                f"{table.windows:,} windows that overlap by half: {names}"
            )
        else:
            said.append(f"{pile.count:,} files have {what}: {names}")
    return said


def _some(names: list[str], count: int | None = None) -> str:
    more = (len(names) if count is None else count) - _EXAMPLES
    return ", ".join(names[:_EXAMPLES]) + (f" and {more:,} more" if more > 0 else "")
