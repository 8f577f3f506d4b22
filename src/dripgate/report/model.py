"""What a report says: numbers and arrays, nothing decoded or drawn yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dripgate.gate_info import GateInfo
from dripgate.policy import Estimates
from dripgate.types import Array, Decision, FloatArray, Reason, Verdict

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the whole loop gave.

    accuracy: test accuracy by rule, among ``initial``, ``full``, ``dripgate``, ``random`` and
    ``margin``; other names are shown as they are. steps: training steps, the same for all rules; 0
    where the last layer alone was learned. tested: number of test samples, 0 where unknown.
    stream, kept, quarantined: samples seen, with verdict keep, with verdict quarantine. bytes_seen,
    bytes_kept: payload bytes of the stream, and of what was stored (kept and quarantined).
    seconds: by phase.

    runs: streams whose mean the accuracies are; the rest is of the first. Of more than one,
    ``intervals`` has the half widths of their 95 % intervals by rule, ``ahead`` those of dripgate's
    difference to each rule, paired by stream.
    """

    accuracy: Mapping[str, float]
    steps: int
    stream: int
    kept: int
    quarantined: int
    bytes_seen: int
    bytes_kept: int
    seconds: Mapping[str, float]
    tested: int = 0
    runs: int = 1
    intervals: Mapping[str, float] = field(default_factory=dict)
    ahead: Mapping[str, float] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """Samples with verdict drop."""
        return self.stream - self.stored

    @property
    def stored(self) -> int:
        """Samples in the store: kept and quarantined."""
        return self.kept + self.quarantined

    @property
    def samples_saved(self) -> float:
        """Share of the stream's samples that were not stored; 0 for an empty stream."""
        return 1 - self.stored / self.stream if self.stream else 0.0

    @property
    def bytes_saved(self) -> float:
        """Share of the stream's bytes that were not stored; 0 for an empty stream."""
        return 1 - self.bytes_kept / self.bytes_seen if self.bytes_seen else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHistogram:
    """Scores of the stream, per bin and decision.

    edges ascend and have one entry more than each tuple of counts; geometric edges are drawn on a
    logarithmic axis. The end bins also hold what lies beyond them. unscored: samples without a
    finite score, in no bin.
    """

    edges: tuple[float, ...]
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    quarantined: tuple[int, ...]
    unscored: int = 0

    def __post_init__(self) -> None:
        for name in ("kept", "dropped", "quarantined"):
            if len(getattr(self, name)) != len(self.edges) - 1:
                raise ValueError(
                    f"score histogram: {len(getattr(self, name))} counts in '{name}' for "
                    f"{len(self.edges)} edges; give one count less than edges"
                )

    @classmethod
    def of(cls, scores: ArrayLike, decisions: Sequence[Decision], bins: int = 40) -> "Self":
        """Count scores (N,) by decision (N,), in bins chosen from the scores."""
        values = np.asarray(scores, np.float64).reshape(-1)
        codes = np.array([decision.code for decision in decisions], np.int8)
        finite = np.isfinite(values)
        edges = _edges(values[finite], bins)
        inside = np.clip(values, edges[0], edges[-1])

        def count(decision: Decision) -> tuple[int, ...]:
            chosen = inside[finite & (codes == decision.code)]
            return tuple(np.histogram(chosen, edges)[0].tolist())

        return cls(
            edges=tuple(edges.tolist()),
            kept=count(Decision.KEEP),
            dropped=count(Decision.DROP),
            quarantined=count(Decision.QUARANTINE),
            unscored=int((~finite).sum()),
        )


def _edges(values: Array, bins: int) -> Array:
    """Equal bins over the middle 99 % of the values; geometric ones where the tail is long."""
    if not values.size:
        return np.linspace(0.0, 1.0, bins + 1)
    low, middle, high = np.quantile(values, [0.005, 0.5, 0.995])
    positive = values[values > 0]
    if values.min() >= 0 and high > 10 * middle and len(positive) > len(values) / 2:
        low = max(float(np.quantile(positive, 0.02)), high * 1e-9)
        if high > 10 * low:
            return np.geomspace(low, high, bins + 1)
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        pad = 0.05 * max(abs(low), abs(high)) or 0.5
        low, high = low - pad, high + pad
    return np.linspace(low, high, bins + 1)


class ClassShare(NamedTuple):
    """How many samples predicted as one class were seen, kept and quarantined."""

    name: str
    seen: int
    kept: int
    quarantined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sample to show.

    array: uint8 (H, W) or (H, W, C) is drawn as an image, anything (T,) as a waveform; None or
    another shape shows the heatmap alone. heatmap: float (h, w) over the image's rows and columns,
    or, for a waveform, over time (rows) and frequency (columns); None where there is none.
    label: the true class, if known.
    """

    source: str
    verdict: Verdict
    array: Array | None = None
    heatmap: FloatArray | None = None
    label: str | None = None


class Unreadable(NamedTuple):
    """A sample that could not be decoded, and why."""

    source: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything on the page.

    command: what made it, to be run again. examples: up to 12 per decision are shown, in the order
    given. unreadable: the first 20 are shown. reasons: how often each verdict was given, and why.
    estimates: what the audit says of the stream, its classes in the gate's order; None without.
    """

    title: str
    data: str
    seed: int
    command: str
    outcome: Outcome
    gate: GateInfo
    scores: StreamHistogram
    classes: Sequence[ClassShare] = ()
    examples: Sequence[Example] = ()
    reasons: Mapping[tuple[Decision, Reason], int] = field(default_factory=dict)
    estimates: Estimates | None = None
    unreadable: Sequence[Unreadable] = ()
