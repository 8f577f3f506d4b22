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

from dripgate.errors import StoreError
from dripgate.gate_info import GateInfo
from dripgate.policy.audit import AUDIT_PART, QUARANTINE_PART, audit_rate
from dripgate.policy.budget import SLOTS, Pace, Purse
from dripgate.policy.chance import uniforms
from dripgate.policy.drift import Alarm, Drift, DriftAlarm
from dripgate.policy.duplicates import Duplicates, Point
from dripgate.policy.estimate import Stream
from dripgate.policy.floors import Floors
from dripgate.policy.quarantine import Quarantine
from dripgate.policy.rules import Rules
from dripgate.policy.share import Ranks, Share, above
from dripgate.types import Array, Decision, Reason, Sample, Verdict


class Counts(msgspec.Struct, forbid_unknown_fields=True):
    """What passed. seen and kept: per predicted class. reasons: by "decision: reason"."""

    seen: list[int]
    kept: list[int]
    reasons: dict[str, int] = {}
    certain: int = 0
    chance: int = 0
    blind: int = 0


class State(msgspec.Struct, forbid_unknown_fields=True):
    """All that a policy remembers; a few kB, whatever the stream's length."""

    gate: str
    rules: Rules
    number: int
    pace: Pace
    budget: Purse
    audit_budget: Purse
    quarantine_budget: Purse
    quarantine: Quarantine
    counts: Counts
    drift: Drift
    share: Share
    floors: Floors
    ranks: bytes = b""
    kept: tuple[int, bytes, bytes] = (0, b"", b"")


_KEYS = {(decision, reason): f"{decision}: {reason}" for decision in Decision for reason in Reason}


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
        self._band = info.keep
        self._pause = min((one.period for one in rules.budgets), default=0.0) / SLOTS
        state = _read(saved) if saved else None
        same = state is not None and state.gate == self.gate
        self._ranks = Ranks.seeded(info.calibration.score)
        self._recent = Duplicates(rules.duplicates)
        if state is None or not same:
            state = _fresh(self.gate, rules, len(info.classes), state)
        elif state.rules != rules:
            _amend(state, rules)
        if same:
            try:
                if len(state.floors.debts) != len(info.classes):
                    raise ValueError("it has another number of classes")
                self._ranks = Ranks.unpack(state.ranks)
                self._recent.unpack(*state.kept)
            except ValueError as error:
                raise _damaged(error) from None
        self._state = state
        self._drift = DriftAlarm(info.calibration, state.drift)

    @classmethod
    def restored(cls, info: GateInfo, saved: bytes) -> "Policy":
        """The policy that was saved, with the rules it had. Raises StoreError."""
        return cls(_read(saved).rules, info, saved)

    def __call__(
        self, samples: Sequence[Sample], verdicts: Sequence[Verdict], embeddings: Array
    ) -> list[Verdict]:
        """Verdicts of the policy from those of the gate, with the gate's embeddings (N, D)."""
        self._watch(samples, verdicts)
        ties, coins = uniforms(self.rules.seed, self._state.number, len(samples))
        self._state.number += len(samples)
        points = self._recent.points(embeddings)
        rows = zip(samples, verdicts, points, ties, coins, strict=True)
        return [self._counted(self._one(*row)) for row in rows]

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
        rate = audit_rate(self.rules, state.audit_budget, state.pace, sample)
        audited = coin < rate
        if given.decision is Decision.QUARANTINE or isnan(given.score):
            return self._aside(sample, given, rate, audited)
        return self._weighed(sample, given, point, rate, audited, tie)

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
        prospect = self._prospect(given)
        chance, reason = prospect.chance, prospect.otherwise
        same = self._recent.find(*point) if chance or audited else None
        if chance and same is not None:
            chance, reason = 0.0, Reason.DUPLICATE
        elif chance and not state.budget.affords(sample, state.pace):
            chance, reason = 0.0, Reason.BUDGET
        chosen = tie < chance
        kept = chosen or audited
        if kept:
            reason = prospect.reason if chosen else Reason.AUDIT
            (state.budget if chosen else state.audit_budget).spend(sample)
        if same is not None:
            self._recent.renew(same)
        elif kept:
            self._recent.add(*point)
        self._ranks.add(given.score)
        state.share.note(prospect.wanted, kept)
        state.floors.note(given.predicted, prospect.floor, kept)
        decision = Decision.KEEP if kept else Decision.DROP
        return _verdict(given, decision, reason, chance + (1 - chance) * rate)

    def _prospect(self, given: Verdict) -> "_Prospect":
        state, keep = self._state, self.rules.keep
        payable = state.budget.share(state.pace)
        wanted = payable if keep is None else min(keep, payable)
        floor = self.rules.floor * min(self._band if keep is None else keep, payable)
        rank = self._ranks.rank(given.score)
        bar = state.share.bar(wanted)
        if keep is None:  # the band has the first word, and a budget takes the best of it
            inside = given.decision is Decision.KEEP
        else:
            inside = above(rank, min(1 - keep, bar)) > 0
        chance = above(rank, bar) if inside else 0.0
        otherwise = Reason.BUDGET if inside and payable < (keep or 1) else Reason.BAND
        if floor and bar < 1 and not chance:
            chance = above(rank, state.floors.bar(given.predicted, floor))
            return _Prospect(chance, wanted, floor, Reason.FLOOR, otherwise)
        return _Prospect(chance, wanted, floor, Reason.BAND, otherwise)

    def _counted(self, verdict: Verdict) -> Verdict:
        counts = self._state.counts
        key = _KEYS[verdict.decision, verdict.reason]
        counts.reasons[key] = counts.reasons.get(key, 0) + 1
        if verdict.reason is Reason.UNREADABLE:
            return verdict
        counts.seen[verdict.predicted] += 1
        counts.kept[verdict.predicted] += verdict.decision is Decision.KEEP
        if verdict.propensity >= 1:
            counts.certain += 1
        elif verdict.propensity > 0:
            counts.chance += 1
        else:
            counts.blind += 1
        return verdict


def _verdict(given: Verdict, decision: Decision, reason: Reason, propensity: float) -> Verdict:
    return Verdict(
        decision=decision, reason=reason, score=given.score, quality=given.quality,
        predicted=given.predicted, propensity=propensity, detail=given.detail,
    )  # fmt: skip


# State ------------------------------------------------------------------------------------------


def _purses(rules: Rules) -> tuple[Purse, Purse, Purse]:
    """Every budget in three parts, each kept to: for the best, the audit and quarantine."""
    audit = AUDIT_PART * (rules.audit > 0)
    aside = QUARANTINE_PART * (rules.quarantine > 0)
    parts = (1 - audit - aside, audit, aside)
    best, audited, quarantined = (Purse.of(rules.budgets, part) for part in parts)
    return best, audited, quarantined


def _fresh(gate: str, rules: Rules, classes: int, old: State | None) -> State:
    """The beginning with a gate; chance and budgets go on where another gate ended."""
    budget, audit_budget, quarantine_budget = _purses(rules)
    state = State(
        gate=gate, rules=rules, number=0, pace=Pace(), budget=budget, audit_budget=audit_budget,
        quarantine_budget=quarantine_budget, quarantine=Quarantine(),
        counts=Counts([0] * classes, [0] * classes), drift=Drift(), share=Share(),
        floors=Floors.of(classes),
    )  # fmt: skip
    if old is not None:
        state.number, state.quarantine = old.number, old.quarantine
        state.pace = old.pace
        _carry(old, state)
    return state


def _amend(state: State, rules: Rules) -> None:
    """Other rules from here on."""
    purses = _purses(rules)
    new = msgspec.structs.replace(
        state, budget=purses[0], audit_budget=purses[1], quarantine_budget=purses[2]
    )
    _carry(state, new)
    state.budget, state.audit_budget = new.budget, new.audit_budget
    state.quarantine_budget, state.rules, state.share = new.quarantine_budget, rules, Share()


def _carry(old: State, new: State) -> None:
    """An allowance that is asked for again keeps its bucket: nothing is granted twice."""
    for name in ("budget", "audit_budget", "quarantine_budget"):
        known = {bucket.allowance: bucket for bucket in getattr(old, name).buckets}
        purse: Purse = getattr(new, name)
        purse.buckets = [known.get(bucket.allowance, bucket) for bucket in purse.buckets]


def _read(saved: bytes) -> State:
    try:
        return msgspec.msgpack.decode(saved, type=State)
    except (msgspec.DecodeError, ValueError) as error:
        raise _damaged(error) from None


def _damaged(error: Exception) -> StoreError:
    return StoreError(
        f"the saved policy is damaged ({error}); begin anew with another store, or run "
        "without policy options"
    )
