"""The policy: the gate's verdict on each sample, and what the device makes of it.

The order of questions is the order of this file: is it readable and of good quality (the graph
has said so), does it rank high enough for the share and the budget, does its class need it, is it
a scene that was kept already, can it be paid for, and if none of this keeps it, does the audit?
Each part is a module of its own and knows nothing of the others.
"""

import hashlib
from collections.abc import Sequence
from math import isnan
from typing import NamedTuple

import msgspec
import numpy as np

from dripgate.gate_info import GateInfo
from dripgate.policy import state as states
from dripgate.policy.audit import affordable, capped
from dripgate.policy.budget import SLOTS
from dripgate.policy.chance import uniforms
from dripgate.policy.drift import Alarm, DriftAlarm
from dripgate.policy.duplicates import Point, memory
from dripgate.policy.estimate import Stream
from dripgate.policy.rules import Rules
from dripgate.policy.share import Ranks, above
from dripgate.policy.state import Counts
from dripgate.types import Array, Decision, Reason, Sample, Verdict


class _Prospect(NamedTuple):
    """How likely a sample is to be kept for its worth, and why it is or is not.

    wanted: share of the stream to keep now. floor: the least share of its class.
    """

    chance: float
    wanted: float
    floor: float
    reason: Reason
    otherwise: Reason


class Policy:
    """Turns the gate's verdicts into verdicts within a share, budgets and a memory.

    Samples are decided in their order, one at a time; how they are batched changes nothing.

    rules: what is asked. info: the gate's. saved: what ``save`` returned earlier: the policy
    goes on as if it had never stopped. With other rules it keeps what was counted, and budgets
    that are still asked for; with another gate all that rests on scores begins anew.

    Raises:
        StoreError: ``saved`` is damaged.
    """

    def __init__(self, rules: Rules, info: GateInfo, saved: bytes = b"") -> None:
        # As it will be read back: 40 as 40.0, so that states are equal byte for byte.
        self.rules = rules = msgspec.msgpack.decode(msgspec.msgpack.encode(rules), type=Rules)
        self.gate = hashlib.sha256(info.to_json().encode()).hexdigest()[:12]
        self._band, self._sound = info.keep, info.thresholds.quality_low
        # A budget takes the best of what comes, not of what the band lets through: scores drift,
        # and repeats within the band would leave the budget unspent.
        self._keep = info.keep if rules.keep is None and rules.budgets else rules.keep
        self._audit = capped(rules)
        self._pause = min((one.period for one in rules.budgets), default=0.0) / SLOTS
        self._ranks = Ranks.seeded(info.calibration.score)
        self._recent = memory(info, rules.duplicates)
        old = states.read(saved) if saved else None
        if old is not None and old.gate == self.gate:
            self._state = old if old.rules == rules else states.amended(old, rules)
            self._remember(len(info.classes))
        else:
            self._state = states.fresh(self.gate, rules, len(info.classes), old)
        self._drift = DriftAlarm(info.calibration, self._state.drift)

    @classmethod
    def restored(cls, info: GateInfo, saved: bytes) -> "Policy":
        """The policy that was saved, with the rules it had. Raises StoreError."""
        return cls(states.read(saved).rules, info, saved)

    @classmethod
    def counted(cls, rules: Rules, info: GateInfo, counts: Counts) -> "Policy":
        """A policy that has not begun, with the counts of what was decided by other means."""
        policy = cls(rules, info)
        policy._state.counts = counts
        return policy

    def __call__(
        self, samples: Sequence[Sample], verdicts: Sequence[Verdict], embeddings: Array
    ) -> list[Verdict]:
        """Verdicts of the policy from those of the gate, with the gate's embeddings (N, D)."""
        self._watch(samples, verdicts)
        ties, coins = uniforms(self.rules.seed, self._state.number, len(samples))
        self._state.number += len(samples)
        points = self._recent.points(embeddings)
        rows = zip(samples, verdicts, points, ties, coins, strict=True)
        found = [self._one(*row) for row in rows]
        self._count(found)
        return found

    def save(self) -> bytes:
        """All that is remembered; give it to a new policy to go on."""
        self._state.ranks = self._ranks.pack()
        self._state.kept = self._recent.pack()
        return msgspec.msgpack.encode(self._state)

    @property
    def counts(self) -> Counts:
        """What passed so far, restarts included."""
        return self._state.counts

    @property
    def stream(self) -> Stream:
        """How much passed with what chance to be kept, for ``estimate``."""
        counts = self._state.counts
        return Stream(certain=counts.certain, chance=counts.chance, blind=counts.blind)

    @property
    def alarms(self) -> list[Alarm]:
        """The last drift alarm of each kind, over or not."""
        return self._drift.alarms

    # One sample ---------------------------------------------------------------------------------

    def _one(
        self, sample: Sample, given: Verdict, point: Point, tie: float, coin: float
    ) -> Verdict:
        state = self._state
        if self.rules.budgets:
            state.pace.tick(sample, self._pause)
        if given.reason is Reason.UNREADABLE:
            return given
        state.quarantine.tick(self.rules.quarantine)
        rate = self._audit and affordable(self._audit, state.audit_budget, state.pace, sample)
        audited = coin < rate
        if self._alien(given) or isnan(given.score):
            return self._aside(sample, given, rate, audited)
        return self._weighed(sample, given, point, rate, audited, tie)

    def _alien(self, given: Verdict) -> bool:
        """Whether the gate found it broken; where ranks decide, not if the world drifts there."""
        found = given.decision is Decision.QUARANTINE
        if self._keep is None or self._sound is None or isnan(given.quality):
            return found
        return self._state.quarantine.alien(given.quality, self._sound) and found

    def _aside(self, sample: Sample, given: Verdict, rate: float, audited: bool) -> Verdict:
        """Broken or alien input: quarantine while there is room, never training by itself."""
        state = self._state
        if state.quarantine.open and state.quarantine_budget.affords(sample, state.pace):
            state.quarantine.spend()
            state.quarantine_budget.spend(sample)
            return _verdict(given, Decision.QUARANTINE, Reason.QUALITY, 1.0)
        if audited:
            state.audit_budget.spend(sample)
            return _verdict(given, Decision.QUARANTINE, Reason.AUDIT, rate)
        return _verdict(given, Decision.DROP, Reason.QUALITY, rate)

    def _weighed(
        self, sample: Sample, given: Verdict, point: Point, rate: float, audited: bool,
        tie: float,
    ) -> Verdict:  # fmt: skip
        state = self._state
        chance, wanted, floor, because, reason = self._prospect(given)
        same = self._recent.find(*point) if chance or audited else None
        if chance and same is not None:
            chance, reason = 0.0, Reason.DUPLICATE
        elif chance and not state.budget.affords(sample, state.pace):
            chance, reason = 0.0, Reason.BUDGET
        chosen = tie < chance
        kept = chosen or audited
        if kept:
            reason = because if chosen else Reason.AUDIT
            (state.budget if chosen else state.audit_budget).spend(sample)
        if same is not None:
            self._recent.renew(same)
        elif kept:
            self._recent.add(*point)
        self._ranks.add(given.score)
        state.share.note(wanted, kept)
        if kept or same is None:  # a class whose scenes are stored does not dry up by repeats
            state.floors.note(given.predicted, floor, kept)
        decision = Decision.KEEP if kept else Decision.DROP
        return _verdict(given, decision, reason, chance + (1 - chance) * rate)

    def _prospect(self, given: Verdict) -> _Prospect:
        state, keep = self._state, self._keep
        payable = state.budget.share(state.pace)
        wanted = payable if keep is None else min(keep, payable)
        floor = self.rules.floor * min(self._band if keep is None else keep, payable)
        low, high = self._ranks.rank(given.score)
        bar = state.share.bar(wanted)
        if keep is None:
            inside = given.decision is Decision.KEEP
        else:
            inside = above(low, high, min(1 - keep, bar)) > 0
        chance = above(low, high, bar) if inside else 0.0
        otherwise = Reason.BUDGET if inside and payable < (keep or 1) else Reason.BAND
        if floor and not chance and bar < 1:
            chance = above(low, high, state.floors.bar(given.predicted, floor))
            return _Prospect(chance, wanted, floor, Reason.FLOOR, otherwise)
        return _Prospect(chance, wanted, floor, Reason.BAND, otherwise)

    # What is remembered -------------------------------------------------------------------------

    def _remember(self, classes: int) -> None:
        """Unpack the memories of the state. Raises StoreError."""
        state = self._state
        try:
            if len(state.floors.debts) != classes:
                raise ValueError("it has another number of classes")
            self._ranks = Ranks.unpack(state.ranks)
            self._recent.unpack(*state.kept)
        except ValueError as error:
            raise states.damaged(error) from None

    def _watch(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> None:
        rows = [
            (given.score, given.quality, given.predicted, sample.time)
            for sample, given in zip(samples, verdicts, strict=True)
            if given.reason is not Reason.UNREADABLE
        ]
        if rows:
            score, quality, predicted, time = (
                np.array(column) for column in zip(*rows, strict=True)
            )
            self._drift.note(score, quality, predicted, time)

    def _count(self, verdicts: Sequence[Verdict]) -> None:
        counts = self._state.counts
        reasons, seen, kept = counts.reasons, counts.seen, counts.kept
        for verdict in verdicts:
            key = verdict.decision + ": " + verdict.reason
            reasons[key] = reasons.get(key, 0) + 1
            if verdict.reason is Reason.UNREADABLE:
                continue
            seen[verdict.predicted] += 1
            if verdict.decision is Decision.KEEP:
                kept[verdict.predicted] += 1
            if verdict.propensity >= 1:
                counts.certain += 1
            elif verdict.propensity > 0:
                counts.chance += 1
            else:
                counts.blind += 1


def _verdict(given: Verdict, decision: Decision, reason: Reason, propensity: float) -> Verdict:
    return Verdict(
        decision=decision, reason=reason, score=given.score, quality=given.quality,
        predicted=given.predicted, propensity=propensity, detail=given.detail,
    )  # fmt: skip
