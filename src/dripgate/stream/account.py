"""What became of the stream, and what was dropped: counts, and the audit's estimates."""

from collections.abc import Sequence
from itertools import islice

import msgspec

from dripgate.data.layout import label_of
from dripgate.errors import StoreError
from dripgate.gate_info import GateInfo, noted
from dripgate.policy import Alarm, Estimates, Policy, Rules, Seen, Stream, estimate
from dripgate.store import BROKEN, Browsing, Store
from dripgate.stream.loop import saved_policy

#: Verdicts on samples whose quality was outside of the gate's range.
_OUTSIDE = ("quarantine: quality", "quarantine: audit", "drop: quality")


#: Samples of a stratum that estimates rest on: more would narrow them by less than is shown.
MOST = 5_000
#: The class index of a label that the gate has no class for.
STRANGE = -2


class ClassShare(msgspec.Struct, frozen=True):
    """Samples predicted as one class."""

    name: str
    seen: int
    kept: int


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """All runs of one policy into one store, taken together.

    reasons: verdicts by "decision: reason". outside: samples whose quality was outside of the
    gate's range; those that found room are in quarantine. strange: stored samples by the label
    they were given, where the gate has no such class. estimates: None where there can be none;
    ``why`` then says why.
    """

    rules: Rules
    reasons: dict[str, int]
    classes: list[ClassShare]
    outside: int
    strange: dict[str, int]
    alarms: list[Alarm]
    estimates: Estimates | None
    why: str


def account(store: Store) -> Account | None:
    """The account of a store that a policy filled; None where there was no policy.

    Which labels count: see ``measured``. Raises StoreError where the saved policy is damaged.
    """
    meta, saved = store.meta, saved_policy(store)
    if not saved or "gate" not in meta:
        return None
    if (info := noted(meta)) is None:
        raise StoreError(
            f"{store.path}: the gate noted in it is damaged, or another dripgate's, so there is no "
            "account of its policy; run the present gate into it"
        )
    policy = Policy.restored(info, saved)
    estimates, why = _estimates(store, policy, info)
    counts = policy.counts
    return Account(
        rules=policy.rules,
        reasons=counts.reasons,
        classes=[
            ClassShare(*row) for row in zip(info.classes, counts.seen, counts.kept, strict=True)
        ],
        outside=sum(counts.reasons.get(key, 0) for key in _OUTSIDE),
        strange=_strange(store, info),
        alarms=policy.alarms,
        estimates=estimates,
        why=why,
    )


def _strange(store: Store, info: GateInfo) -> dict[str, int]:
    known = {*info.classes, BROKEN}
    return {label: n for label, n in store.labels().items() if label not in known}


def audited(store: Browsing, policy: Policy) -> tuple[Stream | None, str]:
    """How much of the stream the stored samples stand for; None, and why, where for none."""
    counters = store.counters
    if gone := _sum(counters, "evicted_age", "purged", "evicted_audit_uploaded"):
        why = "samples were deleted, or evicted when uploaded, so what is left is no audit"
        return None, f"{gone:,} {why}"
    # Of audit samples a random one is evicted or refused, so those that are left stand for all.
    # Of the others the least valuable is: nobody can say any more what they were.
    lost = _sum(counters, "evicted_limit", "evicted_quarantine", "evicted_resize")
    lost += counters.get("refused", 0) + counters.get("refused_quarantine", 0)
    lost = min(lost, policy.stream.certain)
    stream = msgspec.structs.replace(
        policy.stream, certain=policy.stream.certain - lost, blind=policy.stream.blind + lost
    )
    return stream, ""


def measured(
    store: Browsing, classes: Sequence[str], most: int = MOST, *, gate: str | None = None
) -> list[Seen]:
    """Labelled samples that were drawn by chance, whoever chose what to label.

    People label what is strange first, and estimates from that would mislead. So of each stratum
    the samples count in the order of their hashes, which is chance, up to the first that has no
    label; at most ``most`` of each. Labels are those in the store, else the class folder a sample
    came from: ``class_of``. A label that the gate does not know is a mistake of the gate; what
    is marked as broken is passed over. gate: only what this one decided, by its id.
    """
    known = {name: index for index, name in enumerate(classes)}
    seen = []
    for chance in (True, False):
        for one in islice(store.drawn(chance=chance, gate=gate), most):
            label = label_of(one.label, one.source, known)
            if label is None:
                break
            if label != BROKEN:
                seen.append(Seen(known.get(label, STRANGE), one.predicted, one.propensity))
    return seen


def _estimates(store: Store, policy: Policy, info: GateInfo) -> tuple[Estimates | None, str]:
    stream, why = audited(store, policy)
    if stream is None:
        return None, why
    found = estimate(measured(store, info.classes), stream, len(info.classes))
    return found, "" if found else (
        "no stored sample is labelled among those that chance draws first; label in the order"
        " 'measure' of dripgate review"
    )


def _sum(counters: dict[str, int], *names: str) -> int:
    """Of counters that begin so."""
    return sum(count for name, count in counters.items() if name.startswith(names))
