"""Has the stream become another one than the calibration data?

Every WINDOW samples, three counts are compared with calibration: scores, qualities and predicted
classes, in the bins the gate brings. The test is chi-squared for two samples, so a small
calibration set alarms no more often than a large one. ALARM is chosen for one false alarm in
about 1,000 windows of independent samples, all three together (tests/policy/test_drift.py
simulates it); neighbouring frames of a video are not independent and alarm more often.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np

from dripgate.gate_info import Calibration, Histogram
from dripgate.types import Array

WINDOW = 1000
#: In standard deviations of a normal: above ALARM it is raised, below CALM it may end.
ALARM, CALM = 3.4, 2.0
#: Calm windows in a row that end an alarm: one change is one alarm.
_CALM_WINDOWS = 3
#: Cells are merged until each holds this share of calibration, and so many samples.
_SHARE, _FEWEST = 0.02, 10


class Alarm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What drifted: "score", "quality" or "classes".

    statistic: standard deviations beyond chance, the largest so far. psi: population stability
    index at that moment, how much it drifted (above 0.25 is commonly called a lot). since: time
    of the first sample of the first window. windows: how many it lasted. over: whether it ended.
    """

    what: str
    statistic: float
    psi: float
    since: float
    windows: int = 1
    over: bool = False


class Cells(NamedTuple):
    """What calibration counted, (cells,), and how a value finds its cell."""

    counts: Array
    find: Callable[[Array], Array]  # cells of values


class Watched(msgspec.Struct, forbid_unknown_fields=True):
    """The window of one of the three, and its alarm."""

    counts: list[int]
    calm: int = 0
    alarm: Alarm | None = None


class Drift(msgspec.Struct, forbid_unknown_fields=True):
    """The present windows. raised: alarms raised so far."""

    watched: dict[str, Watched] = {}
    seen: int = 0
    since: float = 0.0
    raised: int = 0


def cells_of(calibration: Calibration) -> dict[str, Cells]:
    """Of "score", "quality" and "classes", as far as calibration tells them apart."""
    cells = {
        "score": _merged(calibration.score),
        "quality": _merged(calibration.quality),
        "classes": _lumped(calibration.predicted),
    }
    return {name: one for name, one in cells.items() if len(one.counts) > 1}


class DriftAlarm:
    """Compares the stream with calibration; ``state`` is all that changes."""

    def __init__(self, calibration: Calibration, state: Drift | None = None) -> None:
        self._cells = cells_of(calibration)
        sizes = {name: len(one.counts) for name, one in self._cells.items()}
        self.state = state or Drift()
        if {name: len(w.counts) for name, w in self.state.watched.items()} != sizes:
            self.state.watched = {name: Watched([0] * size) for name, size in sizes.items()}
            self.state.seen = 0

    @property
    def alarms(self) -> list[Alarm]:
        """The last alarm of each kind, over or not."""
        return [one.alarm for one in self.state.watched.values() if one.alarm]

    def note(self, score: Array, quality: Array, predicted: Array, time: Array) -> None:
        """Count samples, (N,) each."""
        state = self.state
        while len(score):
            if not state.seen:
                state.since = float(time[0])
            room = WINDOW - state.seen
            now = {"score": score[:room], "quality": quality[:room], "classes": predicted[:room]}
            for name, cells in self._cells.items():
                counts = state.watched[name].counts
                found = np.bincount(cells.find(now[name]), minlength=len(counts))
                state.watched[name].counts = [
                    a + b for a, b in zip(counts, found.tolist(), strict=True)
                ]
            state.seen += len(now["score"])
            if state.seen == WINDOW:
                self._close()
            score, quality, predicted, time = (
                part[room:] for part in (score, quality, predicted, time)
            )

    def _close(self) -> None:
        self.state.seen = 0
        for name, watched in self.state.watched.items():
            statistic, psi = compare(np.array(watched.counts), self._cells[name].counts)
            watched.counts = [0] * len(watched.counts)
            self._judge(watched, Alarm(name, statistic, psi, self.state.since))

    def _judge(self, watched: Watched, new: Alarm) -> None:
        old = watched.alarm if watched.alarm and not watched.alarm.over else None
        if old is None:
            if new.statistic > ALARM:
                watched.alarm, watched.calm = new, 0
                self.state.raised += 1
            return
        watched.calm = watched.calm + 1 if new.statistic < CALM else 0
        worst = max(old, new, key=lambda one: one.statistic)
        watched.alarm = msgspec.structs.replace(
            old, statistic=worst.statistic, psi=worst.psi, windows=old.windows + 1,
            over=watched.calm == _CALM_WINDOWS,
        )  # fmt: skip


def compare(seen: Array, expected: Array) -> tuple[float, float]:
    """(statistic, population stability index) of two counts of the same cells, (cells,) each.

    Two-sample chi-squared, as standard deviations of a normal by Wilson and Hilferty (1931).
    """
    n, m = seen.sum(), expected.sum()
    both = seen + expected
    inside = both > 0
    gap = (np.sqrt(m / n) * seen - np.sqrt(n / m) * expected)[inside]
    squared = float((gap**2 / both[inside]).sum())
    spread = 2 / (9 * max(inside.sum() - 1, 1))
    statistic = ((squared * 4.5 * spread) ** (1 / 3) - (1 - spread)) / spread**0.5
    p, q = (seen + 0.5) / (n + len(seen) / 2), (expected + 0.5) / (m + len(seen) / 2)
    return float(statistic), float(((p - q) * np.log(p / q)).sum())


def _merged(histogram: Histogram) -> Cells:
    """Neighbouring bins together, so that none is nearly empty."""
    enough = max(_FEWEST, _SHARE * sum(histogram.counts))
    counts, edges, open_ = [], [], 0
    for count, edge in zip(histogram.counts, histogram.edges[1:], strict=False):
        open_ += count
        if open_ >= enough:
            counts.append(open_)
            edges.append(edge)
            open_ = 0
    if counts:  # what is left belongs to the last cell, which has no upper end
        counts[-1] += open_
        edges.pop()
    return Cells(np.array(counts), lambda values: np.searchsorted(edges, values, "right"))


def _lumped(predicted: tuple[int, ...]) -> Cells:
    """One cell per class, and one for all that calibration hardly saw."""
    enough = max(_FEWEST, _SHARE * sum(predicted) / 4)
    common = [c for c, count in enumerate(predicted) if count >= enough]
    rest = sum(predicted) - sum(predicted[c] for c in common)
    counts = [predicted[c] for c in common] + [rest] * (len(common) < len(predicted))
    of = np.full(len(predicted), len(common))
    of[common] = np.arange(len(common))
    return Cells(np.array(counts), of.__getitem__)
