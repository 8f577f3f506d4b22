"""A microphone or a camera that may go away, and is opened again until it is back."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

from dripgate.errors import DataError
from dripgate.stream.feed import ROOM, Live, Stop
from dripgate.types import Sample

#: Seconds between two attempts to open a device that has gone.
PAUSE = 5.0
#: Seconds between two lines about what a device lost, and for a device to end.
_MINUTE, _END = 60.0, 2.0


class Gone(DataError):  # noqa: N818 - reads as what it is
    """A device that was there gives nothing more. The message is the cause, without its name."""


class Reader(Protocol):
    """A device that was opened."""

    def samples(self) -> Iterator[Sample | str]:
        """Samples as they come; a string says what was lost between two of them.

        Ends where a film does. Raises Gone.
        """

    def close(self) -> None:
        """Let go of it."""


class Device(Live):
    """Samples of a device, called ``name``, that ``opened`` reads and ``again`` opens anew.

    gaps: how often something is missing, since the device was gone or too fast. told: is given a
    line when it goes, when it is back, and now and then about what was lost. wait: how the time
    between two attempts passes, None is by the clock.
    """

    def __init__(
        self,
        name: str,
        opened: Reader,
        again: Callable[[], Reader],
        stop: Stop,
        *,
        told: Callable[[str], object],
        room: int = ROOM,
        drop_oldest: bool = True,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        super().__init__(self._read, stop, room=room, drop_oldest=drop_oldest)
        self.gaps = 0
        self._name, self._reader, self._again, self._told = name, opened, again, told
        self._ended = threading.Event()
        self._wait = wait or self._ended.wait
        self._last = float("-inf")

    def close(self) -> None:
        """Take nothing more, and let go of the device."""
        self._ended.set()
        super().close()
        if self._thread.ident is None:
            self._reader.close()
        else:
            self._thread.join(_END)

    def _read(self, put: Callable[[Sample], bool]) -> None:
        while True:
            try:
                for one in self._reader.samples():
                    if self._ended.is_set() or (isinstance(one, Sample) and not put(one)):
                        return
                    if isinstance(one, str):
                        self._missing(one)
                return
            except Gone as error:
                self.gaps += 1
                self._told(f"{self._name}: {error}; tried again every {PAUSE:.0f} s")
            finally:
                self._reader.close()
            if not self._opened():
                return
            self._told(f"{self._name}: is there again")

    def _opened(self) -> bool:
        """Whether it came back before an end was asked for."""
        while True:
            self._wait(PAUSE)
            if self._ended.is_set() or self._stop():
                return False
            with suppress(DataError):
                self._reader = self._again()
                return True

    def _missing(self, what: str) -> None:
        self.gaps += 1
        if time.monotonic() - self._last >= _MINUTE:
            self._last = time.monotonic()
            self._told(f"{self._name}: {what} ({self.gaps:,} so far)")
