"""Budgets: so many samples or bytes in any period, spent evenly, saved while little comes.

Two bounds make one budget. A bucket fills evenly and holds one period's amount: what a quiet
night left is there in the morning. And what was spent in the period before now, wherever the
period begins, never exceeds the amount: strict, so a bucket saved up cannot double it.

Nobody can tell an archive from a camera's first seconds, so an eighth of the amount may be spent
ahead of time: a folder that is read in ten seconds gets that much of an hourly budget.
"""

from math import isfinite

import msgspec

from dripgate.policy.rules import Allowance
from dripgate.types import Sample

#: Parts of a period in which spending is counted. One part is lost to being strict.
SLOTS = 64
#: Share of the amount that may be spent ahead of time, from the beginning on …
AHEAD = 1 / 8
#: … over about so many samples, however fast they come.
_SAMPLES = 512
#: Share that is held back: with nothing in hand the next good sample could not be paid for.
_RESERVE = 1 / 32
#: What was saved beyond it is spent over this share of a period.
_SPEND = 1 / 4
#: No 1/8 of a period spends more than three times its part, even before the pace is known.
_BURSTS, _MOST_IN_A_BURST = 8, 3 / 8
#: Weight of a new sample in the means of cost and interval.
_NEW = 1 / 256


class Pace(msgspec.Struct, forbid_unknown_fields=True):
    """How fast the stream comes and what it costs, each sample weighing less as it ages.

    clock: the latest time seen, in seconds; a clock that goes back stands still here, and grants
    nothing, until it has caught up. seconds, samples, bytes: sums over the recent past.
    """

    clock: float | None = None
    seconds: float = 0.0
    samples: float = 0.0
    bytes: float = 0.0

    def tick(self, sample: Sample, pause: float) -> None:
        """Count a sample. Longer than ``pause`` seconds is no pace of what follows."""
        if isfinite(sample.time):
            before = sample.time if self.clock is None else self.clock
            self.clock = max(before, sample.time)
            self.seconds += min(self.clock - before, pause)
        self.seconds -= _NEW * self.seconds
        self.samples += 1 - _NEW * self.samples
        self.bytes += len(sample.payload) - _NEW * self.bytes


class Bucket(msgspec.Struct, forbid_unknown_fields=True):
    """One allowance and what is left of it.

    tokens: what may be spent, at the time ``filled``. spent: amounts in the last SLOTS slots and
    this one, whose number is ``slot``; total is their sum.
    """

    allowance: Allowance
    tokens: float = 0.0
    filled: float | None = None
    slot: int = 0
    spent: list[int] = []
    total: int = 0

    def share(self, pace: Pace) -> float:
        """The share of the stream that can be paid for at this pace; may be above 1."""
        if pace.clock != self.filled or not self.spent:
            self._fill(pace.clock)
        amount, period = self.allowance.amount, self.allowance.period
        cost = pace.bytes if self.allowance.bytes else pace.samples
        if not cost:
            return 1.0
        if (saved := self.tokens - _RESERVE * amount) < 0:
            return self.tokens / _RESERVE / period * pace.seconds / cost
        income = (amount + saved / _SPEND) / period
        ahead = min(saved, AHEAD * amount) / _SAMPLES
        return (income * pace.seconds + ahead * pace.samples) / cost

    def affords(self, sample: Sample, pace: Pace) -> bool:
        """Whether the sample can be stored without exceeding the allowance."""
        if pace.clock != self.filled or not self.spent:
            self._fill(pace.clock)
        cost = self._cost(sample)
        amount = self.allowance.amount
        if cost > self.tokens:
            return False
        recent = sum(self.spent[-SLOTS // _BURSTS :])
        return not recent or recent + cost <= _MOST_IN_A_BURST * amount

    def spend(self, sample: Sample) -> None:
        """Take what was afforded."""
        cost = self._cost(sample)
        self.tokens -= cost
        self.total += cost
        self.spent[-1] += cost

    def _cost(self, sample: Sample) -> int:
        return len(sample.payload) if self.allowance.bytes else 1

    def _fill(self, clock: float | None) -> None:
        amount, period = self.allowance.amount, self.allowance.period
        if not self.spent:
            self.spent, self.tokens = [0] * (SLOTS + 1), (AHEAD + _RESERVE) * amount
        if clock is None:
            return
        if (slot := int(clock // (period / SLOTS))) != self.slot:
            self._turn(slot)
        if self.filled is not None:
            self.tokens += amount * (clock - self.filled) / period
        # What the window has no room for would only be spent in a lump when it has.
        if self.tokens > (room := amount - self.total):
            self.tokens = room
        self.filled = clock

    def _turn(self, slot: int) -> None:
        passed = slot - self.slot
        if passed > SLOTS:
            self.spent, self.total = [0] * (SLOTS + 1), 0
        elif passed > 0:
            self.total -= sum(self.spent[:passed])
            self.spent = self.spent[passed:] + [0] * passed
        self.slot = slot


class Purse(msgspec.Struct, forbid_unknown_fields=True):
    """Several budgets that must all be kept to; none is no limit."""

    buckets: list[Bucket]

    @classmethod
    def of(cls, allowances: tuple[Allowance, ...]) -> "Purse":
        """Full purses of these allowances."""
        return cls([Bucket(one) for one in allowances])

    def share(self, pace: Pace) -> float:
        """The share of the stream that all of them can pay for; 1 without a budget."""
        least = 1.0
        for bucket in self.buckets:
            if (share := bucket.share(pace)) < least:
                least = share
        return least

    def affords(self, sample: Sample, pace: Pace) -> bool:
        """Whether all of them allow the sample."""
        for bucket in self.buckets:  # noqa: SIM110 - a generator costs more than the buckets
            if not bucket.affords(sample, pace):
                return False
        return True

    def spend(self, sample: Sample) -> None:
        """Take what was afforded out of all of them."""
        for bucket in self.buckets:
            bucket.spend(sample)
