"""How long samples have been in a store: by a clock of its own, because the machine's may jump.

A device without a battery-backed clock starts in 1970, or when it was last shut down, and is
right once it has a network. So a store counts the seconds of its runs by a clock that nobody
sets. Of the time between two runs only the machine's clock knows: it is believed for a day.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

#: Most seconds that a pause between two runs counts.
PAUSE = 86_400.0
#: A machine's clock that says less was never set: September 2001.
UNSET = 1e9


class Clocks(NamedTuple):
    """wall: seconds since the epoch, as the machine has them. steady: seconds that pass."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic


MACHINE = Clocks()


class Tenure:
    """The store's own clock: seconds that it was in use."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._began, self._before, self._pause = clocks.steady(), 0.0, 0.0

    def begin(self, ran: float, wall: float | None) -> None:
        """Go on from what ``state`` was."""
        self._began, self._before = self._clocks.steady(), ran
        if wall is not None and wall > UNSET:
            self._pause = max(0.0, self._clocks.wall() - wall)

    def take_pause(self, max_age: float) -> None:
        """Count the pause before this run, once: a day or half of ``max_age`` at most."""
        self._before += min(self._pause, PAUSE, max_age / 2)
        self._pause = 0.0

    @property
    def ran(self) -> float:
        """Seconds."""
        return self._before + self._clocks.steady() - self._began

    @property
    def state(self) -> dict[str, float]:
        """What is remembered."""
        return {"ran": self.ran, "wall": self._clocks.wall() - self._pause}
