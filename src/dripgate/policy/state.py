"""What a policy remembers: a few kB, written with each batch, and what carries over."""

import msgspec

from dripgate.errors import StoreError
from dripgate.policy.audit import AUDIT_PART, QUARANTINE_PART
from dripgate.policy.budget import Pace, Purse
from dripgate.policy.drift import Drift
from dripgate.policy.floors import Floors
from dripgate.policy.quarantine import Quarantine
from dripgate.policy.rules import Allowance, Rules
from dripgate.policy.share import Share


class Counts(msgspec.Struct, forbid_unknown_fields=True):
    """What passed. seen and kept: per predicted class. reasons: by "decision: reason".

    certain, chance and blind: readable samples that were kept for certain, that had a chance to be
    kept, and that had none.
    """

    seen: list[int]
    kept: list[int]
    reasons: dict[str, int] = {}
    certain: int = 0
    chance: int = 0
    blind: int = 0


class State(msgspec.Struct, forbid_unknown_fields=True):
    """All that a policy remembers, whatever the stream's length.

    number: of the next sample, from which its chance is drawn. ranks and kept: the packed memories
    of ``Ranks`` and ``Duplicates``.
    """

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


def fresh(gate: str, rules: Rules, classes: int, old: State | None) -> State:
    """The beginning with a gate; chance and budgets go on where another gate ended."""
    budget, audit_budget, quarantine_budget = _purses(rules)
    state = State(
        gate=gate, rules=rules, number=0, pace=Pace(), budget=budget, audit_budget=audit_budget,
        quarantine_budget=quarantine_budget, quarantine=Quarantine(),
        counts=Counts([0] * classes, [0] * classes), drift=Drift(), share=Share(),
        floors=Floors.of(classes),
    )  # fmt: skip
    if old is not None:
        state.number, state.quarantine, state.pace = old.number, old.quarantine, old.pace
        _carry(old, state)
    return state


def amended(state: State, rules: Rules) -> State:
    """The same with other rules from here on."""
    budget, audit_budget, quarantine_budget = _purses(rules)
    new = msgspec.structs.replace(
        state, rules=rules, share=Share(), budget=budget, audit_budget=audit_budget,
        quarantine_budget=quarantine_budget,
    )  # fmt: skip
    _carry(state, new)
    return new


def read(saved: bytes) -> State:
    """What ``msgspec.msgpack.encode`` made of a state. Raises StoreError."""
    try:
        return msgspec.msgpack.decode(saved, type=State)
    except (msgspec.DecodeError, ValueError) as error:
        raise damaged(error) from None


def damaged(error: Exception) -> StoreError:
    """What to say of a state that cannot be gone on from."""
    return StoreError(
        f"the saved policy is damaged ({error}); begin anew with another store, or run "
        "without policy options"
    )


def _purses(rules: Rules) -> tuple[Purse, Purse, Purse]:
    """Every budget in three parts, each kept to: for the best, the audit and quarantine."""
    shares = AUDIT_PART * (rules.audit > 0), QUARANTINE_PART * (rules.quarantine > 0)
    parts = [_parts(one, *shares) for one in rules.budgets]
    best, audit, aside = zip(*parts, strict=True) if parts else ((), (), ())
    return Purse.of(best), Purse.of(audit), Purse.of(aside)


def _parts(one: Allowance, *shares: float) -> tuple[Allowance, ...]:
    """What is left, and the shares; of samples only whole ones, so that none is lost."""
    amounts = [one.amount * share if one.bytes else one.amount * share // 1 for share in shares]
    rest = one.amount - sum(amounts)
    return tuple(msgspec.structs.replace(one, amount=part) for part in (rest, *amounts))


def _carry(old: State, new: State) -> None:
    """An allowance that is asked for again keeps its bucket: nothing is granted twice."""
    for name in ("budget", "audit_budget", "quarantine_budget"):
        known = {bucket.allowance: bucket for bucket in getattr(old, name).buckets}
        purse: Purse = getattr(new, name)
        purse.buckets = [known.get(bucket.allowance, bucket) for bucket in purse.buckets]
