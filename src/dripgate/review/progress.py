"""How far is the labelling? What the labels say by now, and which next one would say most.

The same estimates as ``dripgate inspect`` gives, from the samples that chance drew. A stratum is
what was kept for certain, or what was kept by chance; the next label narrows the interval of one of
them more than that of the other, which is computed, not guessed.
"""

import msgspec

from dripgate.gate_info import GateInfo
from dripgate.policy import Estimates, Interval, Policy, Seen, Stream, estimate
from dripgate.store import Browsing
from dripgate.stream.account import audited, measured
from dripgate.stream.loop import saved_policy


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """Which label narrows most: of a sample kept by ``chance`` or for ``certain``.

    now, then: half the width of the interval, before and after that label. of: which estimate.
    """

    kind: str
    of: str
    now: float
    then: float


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What labels say by now.

    accuracy: of the deployed model, on the stream where there was an audit, else on what is stored
    (``stream`` says which). dropped, mistakes: as in ``Estimates``, None without an audit. counted:
    labelled samples that chance drew. covered: share of the stream. why: what is not known, and
    what to do.
    """

    accuracy: Interval | None
    dropped: Interval | None
    mistakes: Interval | None
    counted: int
    covered: float
    stream: bool
    why: str
    next: Next | None


def progress(store: Browsing, info: GateInfo | None) -> Progress:
    """What is known by now. Raises StoreError where the saved policy is damaged."""
    if info is None:
        return _nothing("the store does not say which gate filled it; give it with --gate")
    seen = measured(store, info.classes)
    size, why = strata(store, info)
    found = estimate(seen, size, len(info.classes))
    whole = not why
    return Progress(
        accuracy=found.accuracy if found else None,
        dropped=found.dropped_accuracy if found and whole else None,
        mistakes=found.dropped_mistakes if found and whole else None,
        counted=len(seen),
        covered=found.covered if found else 0.0,
        stream=whole,
        why=why,
        next=_next(seen, size, found, len(info.classes)),
    )


def strata(store: Browsing, info: GateInfo) -> tuple[Stream, str]:
    """How many samples stand behind those kept for certain and by chance.

    Without an audit it is those that are stored, and the text says why no more is known.
    """
    saved = saved_policy(store)
    if saved:
        stream, why = audited(store, Policy.restored(info, saved))
        if stream is not None and stream.chance:
            return stream, ""
        why = why or "no sample was kept by chance yet"
    else:
        why = "nothing is known of what was dropped: run with --audit 0.01"
    pools = store.pools()
    chance = pools.get("audit", 0)
    return Stream(certain=sum(pools.values()) - chance, chance=chance, blind=0), why


def _next(seen: list[Seen], size: Stream, found: Estimates | None, classes: int) -> Next | None:
    """The stratum whose next label, right as often as those before, narrows accuracy most."""
    labelled = {"chance": [one for one in seen if one.propensity < 1],
                "certain": [one for one in seen if one.propensity >= 1]}  # fmt: skip
    room = {"chance": size.chance, "certain": size.certain}
    now = _half(found)
    best = None
    for kind, rows in labelled.items():
        if len(rows) >= room[kind]:
            continue
        right = sum(one.label == one.predicted for one in rows)
        share = (right + 1) / (len(rows) + 2)
        chance = rows[-1].propensity if rows else (0.5 if kind == "chance" else 1.0)
        then = sum(
            weight * _half(estimate([*seen, Seen(0, predicted, chance)], size, classes))
            for weight, predicted in ((share, 0), (1 - share, 1))
        )
        if best is None or then < best.then:
            best = Next(kind=kind, of="accuracy", now=now, then=min(then, now))
    return best


def _half(found: Estimates | None) -> float:
    return (found.accuracy.high - found.accuracy.low) / 2 if found else 0.5


def _nothing(why: str) -> Progress:
    return Progress(
        accuracy=None, dropped=None, mistakes=None, counted=0, covered=0.0, stream=False, why=why,
        next=None,
    )  # fmt: skip
