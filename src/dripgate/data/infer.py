"""The input that a model for a source should have, from the headers of files of every class."""

from collections import Counter
from collections.abc import Iterable
from math import prod
from typing import NamedTuple, TypeVar

import numpy as np

from dripgate.data.cache import remembered
from dripgate.data.sources import Source
from dripgate.errors import DataError, UnreadableError
from dripgate.media import ArrayHeader, AudioHeader, ImageHeader, levels, probe
from dripgate.types import ArrayInput, AudioInput, ImageInput, InputSpec

T = TypeVar("T")

#: Files of each class whose headers are read, and so many headers are enough.
EACH, PROBED = 8, 20_000
#: Without a spec: equal sizes up to EQUAL_SIDE stay, everything else becomes at most MIXED_SIDE.
EQUAL_SIDE, MIXED_SIDE = 96, 64
LONGEST_SECONDS = 10
#: 16-bit pictures that use less than this of their range are spread over the 256 levels.
WIDE = 1 << 15


class Inferred(NamedTuple):
    """An input, and what else was found that it is not."""

    spec: InputSpec
    notes: list[str]


class _Probed(NamedTuple):
    label: str
    name: str
    header: ImageHeader | AudioHeader | ArrayHeader
    values: tuple[int, int] | None


def infer_input(source: Source) -> InputSpec:
    """The input of a model for this source, from the first readable files of every class.

    Images: their common size, or where they differ the median, scaled down to a longest side of
    MIXED_SIDE; grey if all are grey; the range of values that 16-bit pictures use. Audio: the
    highest rate that a class has, and the length that most classes have. Arrays: their shape.
    """
    return infer(source).spec


def infer(source: Source) -> Inferred:
    """As infer_input, with what is to be said about the choice. Raises DataError."""
    return remembered(source, Inferred, lambda: _infer(source))


def _infer(source: Source) -> Inferred:
    probed, cause = _headers(source)
    if not probed:
        raise DataError(f"{source.name}: no file is an image, audio or a .npy array ({cause})")
    kinds = Counter(type(one.header) for one in probed)
    kind = kinds.most_common(1)[0][0]
    alike = [one for one in probed if type(one.header) is kind]
    notes = []
    if len(kinds) > 1:
        found = ", ".join(f"{n:,} {_KINDS[each]}" for each, n in kinds.most_common())
        notes.append(f"files of several kinds ({found}): {_KINDS[kind]} are used")
    choose = {ImageHeader: _image_input, AudioHeader: _audio_input, ArrayHeader: _array_input}
    chosen = choose[kind](source.name, alike)
    return Inferred(chosen.spec, notes + chosen.notes)


_KINDS = {ImageHeader: "images", AudioHeader: "recordings", ArrayHeader: "arrays"}


def _headers(source: Source) -> tuple[list[_Probed], str]:
    """The headers, and why a file has none."""
    found: list[_Probed] = []
    cause = "there are no files"
    for file in source.examples(EACH):
        try:
            header = probe(file.payload)
            values = levels(file.payload)
        except UnreadableError as error:
            cause = f"{file.name}: {file.problem or error}"
            continue
        found.append(_Probed(file.label, file.name, header, values))
        if len(found) == PROBED:
            break
    return found, cause


def _image_input(name: str, probed: list[_Probed]) -> Inferred:
    headers = [one.header for one in probed if isinstance(one.header, ImageHeader)]
    sides = [(h.height, h.width) for h in headers]
    height, width = np.median(sides, axis=0)
    limit = EQUAL_SIDE if len(set(sides)) == 1 else MIXED_SIDE
    scale = 1 if max(height, width) <= limit else MIXED_SIDE / max(height, width)
    height, width = (max(1, round(side * scale)) for side in (height, width))
    grey, notes = sum(h.grey for h in headers), []
    if 0 < grey < len(headers):
        notes.append(f"{grey:,} of {len(headers):,} pictures looked at are grey: all become colour")
    values, said = _range([one.values for one in probed if one.values])
    spec = ImageInput(
        height=height, width=width, channels=1 if grey == len(headers) else 3, range=values
    )
    return Inferred(spec, notes + said)


def _range(used: list[tuple[int, int]]) -> tuple[tuple[int, int] | None, list[str]]:
    """What part of 16 bits pictures use, with a margin of a tenth; None where it is most of it."""
    if not used:
        return None, []
    low, high = min(one[0] for one in used), max(one[1] for one in used)
    said = f"16-bit pictures with values from {low:,} to {high:,}"
    if high - low >= WIDE:
        return None, [f"{said}: the upper 8 bits are used; --levels LOW,HIGH overrules that"]
    margin = max(1, (high - low) // 10)
    low, high = max(0, low - margin), min(0xFFFF, high + margin)
    return (low, high), [
        f"{said}: {low:,} to {high:,} become 0 to 255, here and on the device; "
        "--levels LOW,HIGH overrules that"
    ]


def _audio_input(name: str, probed: list[_Probed]) -> Inferred:
    headers = [(one.label, one.header) for one in probed if isinstance(one.header, AudioHeader)]
    # A class whose sounds lie above the others' rate is nothing but silence there.
    rate = max(_of_classes((label, header.rate) for label, header in headers))
    told = [(label, round(h.frames * rate / h.rate)) for label, h in headers if h.frames]
    length = _most_common(_of_classes(told)) if told else rate
    length, lengths = max(1, min(length, LONGEST_SECONDS * rate)), {one for _, one in told}
    rates = Counter(header.rate for _, header in headers)
    notes = []
    if len(rates) > 1:
        found = ", ".join(f"{n:,} at {r:,} Hz" for r, n in sorted(rates.items()))
        notes.append(f"recordings of several rates ({found} looked at): {rate:,} Hz is chosen")
    if len(lengths) > 1:
        notes.append(
            f"recordings of {min(lengths) / rate:.3g} to {max(lengths) / rate:.3g} s: windows of "
            f"{length / rate:.3g} s; shorter ones end in silence"
        )
    return Inferred(AudioInput(rate=rate, length=length), notes)


def _array_input(name: str, probed: list[_Probed]) -> Inferred:
    shapes = [one.header.shape for one in probed if isinstance(one.header, ArrayHeader)]
    shape = max(Counter(shapes).items(), key=lambda item: item[1])[0]
    if not prod(shape) or not shape:
        raise DataError(f"{name}: arrays of shape {shape}, without values; save one per sample")
    if shapes.count(shape) * 2 <= len(shapes):
        first: dict[tuple[int, ...], str] = {}
        for one, its_shape in zip(probed, shapes, strict=True):
            first.setdefault(its_shape, one.name)
        found = ", ".join(f"{s} in {file}" for s, file in list(first.items())[:3])
        raise DataError(f"{name}: arrays of different shapes ({found}); make all of one shape")
    return Inferred(ArrayInput(shape=shape), [])


def _of_classes(values: Iterable[tuple[str, int]]) -> list[int]:
    """The most common value of each class, whatever the number of its files."""
    of_class: dict[str, list[int]] = {}
    for label, value in values:
        of_class.setdefault(label, []).append(value)
    return [_most_common(found) for found in of_class.values()]


def _most_common(values: Iterable[T]) -> T:
    """The most common value, the largest of equally common ones."""
    return max(Counter(values).items(), key=lambda item: (item[1], item[0]))[0]
