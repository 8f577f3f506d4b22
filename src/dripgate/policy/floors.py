"""No class dries up: each predicted class keeps at least a share of its own samples."""

from math import exp, log

import msgspec

#: How strongly a class's bar answers to what was kept of it; few samples have to be enough.
_GAIN = 0.5
#: Samples kept beyond the floor that are remembered: a class that did well may dry up soon after.
_MOST = 4.0


class Floors(msgspec.Struct, forbid_unknown_fields=True):
    """One debt per predicted class: samples kept beyond its floor, bounded on both sides.

    A class that gets its share anyway is not helped; one that does not is given a bar of its
    own, in ranks of the whole stream, that falls until it does (as in ``share``).
    """

    debts: list[float]

    @classmethod
    def of(cls, classes: int) -> "Floors":
        """Nothing kept, nothing owed."""
        return cls([0.0] * classes)

    def bar(self, predicted: int, floor: float) -> float:
        """The rank above which a sample of this class is kept for its class's sake."""
        return 1 - floor * exp(-_GAIN * self.debts[predicted])

    def note(self, predicted: int, floor: float, kept: bool) -> None:
        """Count one sample of a class that should keep at least ``floor`` of its own."""
        if floor:
            debt = min(self.debts[predicted] + kept - floor, _MOST)
            self.debts[predicted] = max(debt, log(floor) / _GAIN)
