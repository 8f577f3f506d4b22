"""Budgets: so many samples or bytes in any period, spent evenly, saved while little comes.

Two bounds make one budget. A bucket fills evenly and holds one period's amount: what a quiet
night left is there in the morning. And what was spent in the period before now, wherever the
period begins, never exceeds the amount: strict, so a bucket saved up cannot double it.
"""

from math import isfinite

import msgspec

from dripgate.policy.rules import Allowance
from dripgate.types import Sample

#: Parts of a period in which spending is counted. One part is lost to being strict.
SLOTS = 64
#: What a new bucket holds, as a share of its amount: the first minutes do not get more.
HEAD = 1 / 20
#: What was saved is spent over this share of a period.
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
    this one, whose number is ``slot``.
    """

    allowance: Allowance
    tokens: float = 0.0
    filled: float | None = None
    slot: int = 0
    spent: list[int] = []

    def share(self, pace: Pace) -> float:
        """The share of the stream that can be paid for at this pace."""
        self._fill(pace.clock)
        amount, period = self.allowance.amount, self.allowance.period
        income = amount / period + self.tokens / (_SPEND * period)
        cost = pace.bytes if self.allowance.bytes else pace.samples
        return min(income * pace.seconds / cost, 1.0) if cost else 1.0

    def affords(self, sample: Sample, pace: Pace) -> bool:
        """Whether the sample can be stored without exceeding the allowance."""
        self._fill(pace.clock)
        cost = self._cost(sample)
        if cost > self.tokens:
            return False
        self._turn()
        amount, recent = self.allowance.amount, sum(self.spent[-SLOTS // _BURSTS :])
        calm = not recent or recent + cost <= _MOST_IN_A_BURST * amount
        return calm and sum(self.spent) + cost <= amount

    def spend(self, sample: Sample) -> None:
        """Take what was afforded."""
        cost = self._cost(sample)
        self.tokens -= cost
        self.spent[-1] += cost

    def _cost(self, sample: Sample) -> int:
        return len(sample.payload) if self.allowance.bytes else 1

    def _fill(self, clock: float | None) -> None:
        amount = self.allowance.amount
        if self.filled is None:
            self.tokens = HEAD * amount
        elif clock is not None and clock > self.filled:
            income = amount * (clock - self.filled) / self.allowance.period
            self.tokens = min(self.tokens + income, amount)
        self.filled = clock

    def _turn(self) -> None:
        slot = int((self.filled or 0.0) // (self.allowance.period / SLOTS))
        passed = slot - self.slot
        if not self.spent or passed > SLOTS:
            self.spent = [0] * (SLOTS + 1)
        elif passed:
            self.spent = self.spent[passed:] + [0] * passed
        self.slot = slot


class Purse(msgspec.Struct, forbid_unknown_fields=True):
    """Several budgets that must all be kept to; none is no limit."""

    buckets: list[Bucket]

    @classmethod
    def of(cls, allowances: tuple[Allowance, ...], share: float) -> "Purse":
        """A share of each allowance."""
        return cls([Bucket(one.part(share)) for one in allowances])

    def share(self, pace: Pace) -> float:
        """The share of the stream that all of them can pay for; 1 without a budget."""
        return min([bucket.share(pace) for bucket in self.buckets]) if self.buckets else 1.0

    def affords(self, sample: Sample, pace: Pace) -> bool:
        """Whether all of them allow the sample."""
        return all(bucket.affords(sample, pace) for bucket in self.buckets)

    def spend(self, sample: Sample) -> None:
        """Take what was afforded out of all of them."""
        for bucket in self.buckets:
            bucket.spend(sample)
