"""Quarantine stays small, and follows the world: what is broken, not what is no longer usual.

Light fades, a microphone's room grows loud: in an hour all that comes may be unlike what the gate
was calibrated on, and of good use. So the gate's bound moves down with what drifts across it.
"""

from math import log

import msgspec

#: Samples that may be quarantined in a row, and at the very beginning.
MOST, HEAD = 100.0, 20.0
#: Of what comes lately, this part lies below the level; a bound there sets that much aside.
_PART = 0.3
#: How far a sample moves the level, in logarithms of quality.
_STEP = 0.02
#: Further below the bound than this, in the same, a sample is broken and moves nothing.
_REACH = 1.0
#: Where the level begins, and its highest place: the quality of calibration samples on average.
_USUAL = log(0.5)
_LEAST = 1e-12


class Quarantine(msgspec.Struct, forbid_unknown_fields=True):
    """At most a share of the stream, plus a handful saved up while nothing was wrong.

    level: log of the quality that _PART of the recent samples were below. It follows those within
    _REACH of the bound and above: slow drift. What jumps further away, a covered lens or a cut
    cable, does not move it however long it lasts.
    """

    credit: float = HEAD
    level: float = _USUAL

    def tick(self, share: float) -> None:
        """Count one sample of the stream."""
        self.credit = min(self.credit + share, MOST)

    def alien(self, quality: float, low: float) -> bool:
        """Whether a quality below the gate's bound ``low`` is unusual by now as well; counts it."""
        value, bound = log(max(quality, _LEAST)), min(log(max(low, _LEAST)), self.level)
        if value > bound - _REACH:
            self.level = min(self.level + _STEP * (_PART - (value < self.level)), _USUAL)
        return value < bound

    @property
    def open(self) -> bool:
        """Whether one more may go in."""
        return self.credit >= 1

    def spend(self) -> None:
        """One went in."""
        self.credit -= 1
