"""An archive can be looked at twice: exactly so many of it are chosen, once all is decided.

The order of questions is that of ``policy``, but nothing is estimated: each class gets its floor,
the rest goes to the highest scores, none near-duplicate of another, no day with more than its
part; and of all that is left some are drawn by chance, with one propensity.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec

from dripgate.archive.rows import unsketched
from dripgate.archive.scratch import Row, Scratch
from dripgate.errors import UserError
from dripgate.gate_info import GateInfo
from dripgate.policy import Rules
from dripgate.policy.audit import capped
from dripgate.policy.duplicates import radius
from dripgate.twins import Twins
from dripgate.types import Decision, Reason


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """keep: share of the readable samples, exactly; None is what the gate's band keeps. floor,
    duplicates, audit, seed: as of ``Rules``. per_day: most that are chosen of one day (UTC), what
    has no time being a day of its own; what the audit draws comes on top.

    Raises UserError for a number outside its range.
    """

    keep: float | None = None
    floor: float = 0.25
    per_day: int | None = None
    duplicates: float = 0.05
    audit: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self.rules
        if self.per_day is not None and self.per_day < 1:
            raise UserError(f"per day {self.per_day}, expected a number of samples above 0")

    @property
    def rules(self) -> Rules:
        """The same as a policy's rules."""
        return Rules(keep=self.keep, floor=self.floor, duplicates=self.duplicates,
                     audit=self.audit, seed=self.seed, quarantine=0.0)  # fmt: skip


class Pick(NamedTuple):
    """One of the chosen. part, at: which row of which partition."""

    part: int
    at: int
    decision: Decision
    reason: Reason
    propensity: float


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen of an archive, and what was not, by reason.

    samples: distinct readable ones; repeats: further ones of the same bytes. wanted: how many
    were to be chosen, None for those of the band. chosen: for certain; audited: by chance, each
    with ``propensity``. duplicates: near-duplicates of a chosen one; full_days: of days that had
    their part; both only as far down as was looked. cutoff: score of the last that was chosen for
    it. nearness: how near two are duplicates. classes: (seen, chosen) by name. short: classes that
    have fewer than their floor.
    """

    samples: int
    repeats: int
    wanted: int | None
    chosen: int
    audited: int
    propensity: float
    outside: int
    duplicates: int
    full_days: int
    cutoff: float | None
    nearness: float
    classes: dict[str, tuple[int, int]]
    reasons: dict[str, int]
    short: dict[str, int] = {}


def choose(
    parts: Sequence[Path],
    info: GateInfo,
    wish: Wish,
    scratch: Path,
    *,
    told: Callable[[int], object] = lambda _: None,
) -> tuple[Choice, list[Pick]]:
    """Choose from the partitions. The same partitions and wish give the same choice.

    scratch: a file that is made and removed: what is sorted is sorted on disk, so memory grows
    with what is chosen alone. told: how many partitions are read.
    """
    with Scratch(scratch) as rows:
        rows.load(parts, info.classes, told)
        return _Chooser(rows, info, wish).choose()


class _Chooser:
    def __init__(self, rows: Scratch, info: GateInfo, wish: Wish) -> None:
        self._rows, self._info, self._wish = rows, info, wish
        self._seen = rows.by_class()
        self._total = sum(self._seen.values())
        sound, band = rows.sound_by_class(), rows.kept()
        self._sound = sound
        self._share = wish.keep if wish.keep is not None else band / max(self._total, 1)
        self._wanted = round(self._share * self._total) if wish.keep is not None else None
        audit = min(capped(wish.rules), 0.25 * self._share)
        self._audit = round(audit * self._total)
        most = band if self._wanted is None else self._wanted
        self._nearness = radius(info.calibration.distances, wish.duplicates, most)
        self._twins = Twins(self._nearness)
        self._days: Counter[int] = Counter()
        self._got: Counter[int] = Counter()
        self._picked: dict[int, tuple[Row, bool]] = {}
        self._duplicates: set[int] = set()
        self._full: set[int] = set()

    def choose(self) -> tuple[Choice, list[Pick]]:
        """Floors, then the best of all, then chance."""
        most = None if self._wanted is None else self._wanted - self._audit
        short = self._floors(most)
        cutoff = self._best(most)
        drawn, propensity = self._drawn(self._audit)
        picks = [self._pick(row, by_floor, cutoff) for row, by_floor in self._picked.values()]
        picks += [_audited(row, propensity) for row in drawn]
        picks.sort()
        names = self._info.classes
        for row in drawn:
            self._got[row.predicted] += row.sound
        choice = Choice(
            samples=self._total, repeats=self._rows.repeats, wanted=self._wanted,
            chosen=len(self._picked), audited=len(drawn), propensity=propensity,
            outside=self._total - sum(self._sound.values()),
            duplicates=len(self._duplicates - self._picked.keys()),
            full_days=len(self._full - self._picked.keys()), cutoff=cutoff,
            nearness=self._nearness,
            classes={names[c]: (n, self._got[c]) for c, n in sorted(self._seen.items())},
            reasons=dict(Counter(f"{one.decision}: {one.reason}" for one in picks)),
            short={names[c]: n for c, n in short.items()},
        )  # fmt: skip
        return choice, picks

    def _floors(self, most: int | None) -> dict[int, int]:
        """The best of each class until it has its floor; the classes that have less, and how much.

        Classes with the fewest samples come first: they are the ones that dry up.
        """
        short = {}
        for predicted, count in sorted(self._sound.items(), key=lambda item: (item[1], item[0])):
            floor = int(self._wish.floor * self._share * count)
            for row in self._rows.ranked(predicted) if floor else ():
                if self._got[predicted] >= floor or len(self._picked) == most:
                    break
                self._take(row, by_floor=True)
            if self._got[predicted] < floor:
                short[predicted] = self._got[predicted]
        return short

    def _best(self, most: int | None) -> float | None:
        """The highest scores of all; the lowest of those that are taken."""
        cutoff = None
        for row in self._rows.ranked(None, band=self._wanted is None):
            if len(self._picked) == most:
                break
            if row.key in self._picked or self._take(row, by_floor=False):
                cutoff = row.score
        return cutoff

    def _take(self, row: Row, *, by_floor: bool) -> bool:
        limit = self._wish.per_day
        if row.key in self._duplicates:
            return False
        if limit is not None and self._days[row.day] >= limit:
            self._full.add(row.key)
            return False
        point = unsketched([row.sketch])[0]
        if self._twins.find(point) is not None:
            self._duplicates.add(row.key)
            return False
        self._twins.add(point)
        self._days[row.day] += 1
        self._got[row.predicted] += 1
        self._picked[row.key] = (row._replace(sketch=b""), by_floor)
        return True

    def _drawn(self, count: int) -> tuple[list[Row], float]:
        """A simple random sample of what is not chosen; which it is depends on ids and seed."""
        left = self._total - len(self._picked)
        count = min(count, left)
        if not count:
            return [], 0.0
        seed = self._wish.seed.to_bytes(8, "little")

        def luck(row: Row) -> bytes:
            return blake2b(row.id, key=seed, digest_size=16).digest()

        rows = (row for row in self._rows.all() if row.key not in self._picked)
        return heapq.nsmallest(count, rows, key=luck), count / left

    def _pick(self, row: Row, by_floor: bool, cutoff: float | None) -> Pick:
        low = by_floor and (cutoff is None or row.score < cutoff)
        reason = Reason.FLOOR if low else Reason.BAND
        return Pick(row.part, row.at, Decision.KEEP, reason, 1.0)


def _audited(row: Row, propensity: float) -> Pick:
    decision = Decision.KEEP if row.sound else Decision.QUARANTINE
    return Pick(row.part, row.at, decision, Reason.AUDIT, propensity)


def in_parts(picks: Sequence[Pick]) -> Iterator[tuple[int, list[Pick]]]:
    """Picks by partition, in order."""
    begin = 0
    for i in range(1, len(picks) + 1):
        if i == len(picks) or picks[i].part != picks[begin].part:
            yield picks[begin].part, list(picks[begin:i])
            begin = i
