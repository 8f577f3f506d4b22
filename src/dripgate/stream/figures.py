"""What came of the stream, by the gate that decided: the last gates, noted with each batch."""

from collections.abc import Iterable, Mapping

import msgspec

from dripgate.errors import StoreError
from dripgate.policy import Stream
from dripgate.types import Decision, Reason, Verdict

#: Where the store notes them, and of how many gates.
FIGURES = "figures"
MOST = 16


class Figures(msgspec.Struct, forbid_unknown_fields=True):
    """Of one gate. seen, keep, drop, quarantine, unreadable: samples. certain, chance, blind:
    readable ones by whether they were kept for certain, by chance, or had none. predicted, kept: by
    class index.
    """

    seen: int = 0
    keep: int = 0
    drop: int = 0
    quarantine: int = 0
    unreadable: int = 0
    certain: int = 0
    chance: int = 0
    blind: int = 0
    predicted: list[int] = []
    kept: list[int] = []

    @property
    def stream(self) -> Stream:
        """For ``policy.estimate``."""
        return Stream(certain=self.certain, chance=self.chance, blind=self.blind)

    def add(self, verdicts: Iterable[Verdict]) -> None:
        """Count verdicts, as they came of gate and policy together."""
        for one in verdicts:
            self.seen += 1
            setattr(self, one.decision.value, getattr(self, one.decision.value) + 1)
            if one.reason is Reason.UNREADABLE:
                self.unreadable += 1
                continue
            missing = one.predicted + 1 - len(self.predicted)
            self.predicted += [0] * missing
            self.kept += [0] * missing
            self.predicted[one.predicted] += 1
            self.kept[one.predicted] += one.decision is Decision.KEEP
            kind = "certain" if one.propensity >= 1 else "chance" if one.propensity > 0 else "blind"
            setattr(self, kind, getattr(self, kind) + 1)


ByGate = dict[str, Figures]


def noted_figures(meta: Mapping[str, str]) -> ByGate:
    """By gate id, the gate in force last. Raises StoreError where they are damaged."""
    try:
        return msgspec.json.decode(meta.get(FIGURES, "{}"), type=ByGate)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(
            f"the figures noted in the store are no dripgate's ({error}); begin anew with another"
        ) from None


def added(figures: ByGate, gate: str, verdicts: Iterable[Verdict]) -> str:
    """Count verdicts of a gate; returns the text to be noted."""
    of = figures.pop(gate, Figures())
    of.add(verdicts)
    figures[gate] = of  # last
    while len(figures) > MOST:
        del figures[next(iter(figures))]
    return msgspec.json.encode(figures).decode()
