"""Whether what a gate says about itself can be: sizes that a device can hold, tables that agree."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dripgate.types import ArrayInput, AudioInput, ImageInput, InputSpec

if TYPE_CHECKING:
    from dripgate.gate_info import Calibration, GateInfo, Histogram

#: Most bytes of one decoded sample, most classes, most dimensions of an array, most samples.
LARGEST_SAMPLE, MOST_CLASSES, MOST_DIMENSIONS, MOST_SAMPLES = 256 << 20, 1 << 16, 8, 1 << 40
_RATES = (1_000, 768_000)


def contradictions(info: "GateInfo") -> Iterator[str]:
    """What cannot be in it, a phrase each."""
    classes, bounds = len(info.classes), info.thresholds
    if not 0 < classes <= MOST_CLASSES:
        yield f"{classes:,} classes, expected 1 to {MOST_CLASSES:,}"
    lengths = {len(bounds.low), len(bounds.high)}
    if lengths != {classes}:
        yield f"{classes} classes, thresholds for {sorted(lengths)}"
    if not all(map(math.isfinite, _numbers(info))):
        yield "thresholds that are no numbers"
    if not 0 <= info.keep <= 1:
        yield f"a share to keep of {info.keep:g}, expected 0 to 1"
    if not all(0 < size <= LARGEST_SAMPLE for size in info.layer.shape):
        yield f"a target of the shape {info.layer.shape}"
    if info.calibration.samples:  # a gate that is being fitted has seen nothing yet
        yield from _calibration(info.calibration, classes)
    if info.last is not None:
        yield from _learning(info, classes)
    if problem := input_problem(info.input):
        yield problem


def _learning(info: "GateInfo", classes: int) -> Iterator[str]:
    last, memory = info.last, info.memory
    if last is not None:
        if last.rows not in ({1, 2} if classes == 2 else {classes}):
            yield f"{classes} classes, a last layer of {last.rows}"
        if not 0 < last.width <= LARGEST_SAMPLE:
            yield f"a last layer of {last.width} features"
        if not 0 < last.scale2 < math.inf:
            yield f"features of the size {last.scale2}"
    if memory is not None and (
        len(memory.counts) != classes
        or any(not 0 <= count < MOST_SAMPLES for count in (memory.samples, *memory.counts))
    ):
        yield f"a memory of {len(memory.counts)} classes"


def _calibration(seen: "Calibration", classes: int) -> Iterator[str]:
    if (len(seen.predicted), len(seen.kept)) != (classes, classes):
        yield f"{classes} classes, calibration of {len(seen.predicted)} and {len(seen.kept)}"
    for name, one in (("score", seen.score), ("quality", seen.quality)):
        if not _is_histogram(one):
            yield f"a histogram of the {name} that is none"
    counts = (*seen.predicted, *seen.kept, *seen.score.counts, *seen.quality.counts)
    if any(not 0 <= count < MOST_SAMPLES for count in counts):
        yield "counts that are none"


def _numbers(info: "GateInfo") -> Iterator[float]:
    bounds = info.thresholds
    yield from (value for value in (*bounds.low, *bounds.high) if value is not None)
    yield from (*bounds.typical.centre, *(v for row in bounds.typical.whitening for v in row))
    yield from (info.keep, *info.calibration.distances)
    if bounds.quality_low is not None:
        yield bounds.quality_low


def _is_histogram(found: "Histogram") -> bool:
    edges = found.edges
    return (
        len(edges) == len(found.counts) + 1 > 1
        and all(map(math.isfinite, edges))
        and list(edges) == sorted(edges)
    )


def input_problem(spec: InputSpec) -> str:
    """What is wrong with the shape of a sample; "" where nothing is."""
    match spec:
        case ImageInput() if spec.channels not in (1, 3):
            return f"images of {spec.channels} channels, expected 1 or 3"
        case ImageInput() if spec.range and not 0 <= spec.range[0] < spec.range[1] <= 0xFFFF:
            return f"a range of {spec.range}, expected two values of 16 bits"
        case AudioInput() if not _RATES[0] <= spec.rate <= _RATES[1]:
            return f"audio of {spec.rate:,} Hz, expected {_RATES[0]:,} to {_RATES[1]:,}"
        case ArrayInput() if len(spec.shape) > MOST_DIMENSIONS:
            return f"arrays of {len(spec.shape)} dimensions, expected {MOST_DIMENSIONS} at most"
    if min(spec.shape, default=1) < 1:
        return f"samples of the shape {spec.shape}"
    size = math.prod(spec.shape) * spec.dtype.itemsize
    if size > LARGEST_SAMPLE:
        return f"samples of {size / 1e6:,.0f} MB, more than {LARGEST_SAMPLE / 1e6:,.0f} MB"
    return ""
