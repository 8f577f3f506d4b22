"""Frames of a camera or a film, each as a JPEG: so many seconds apart, as large as is allowed."""

import io
from collections.abc import Callable, Iterator
from typing import Protocol

from PIL import Image

from dripgate.errors import DataError
from dripgate.media import DEFAULT_LIMITS, too_many_bytes
from dripgate.stream.device import Device, Gone
from dripgate.stream.feed import ROOM, Stop
from dripgate.types import Array, Sample

_QUALITY = 95


class Eye(Protocol):
    """What looks. film: whether it waits for us, and ends. size: width and height."""

    film: bool
    size: tuple[int, int]

    def grab(self) -> bool:
        """Whether there is another frame: it is the one that the others tell of."""

    def now(self) -> float:
        """Seconds at which it was taken, by the clock that fits."""

    def frame(self) -> Array | None:
        """RGB uint8 (H, W, 3); None where it cannot be decoded."""

    def close(self) -> None:
        """Let go of it."""


def look(
    name: str,
    opened: Callable[[], Eye],
    every: float,
    stop: Stop,
    *,
    told: Callable[[str], object] = lambda _: None,
    room: int = ROOM,
    drop_oldest: bool | None = None,
    wait: Callable[[float], object] | None = None,
) -> Device:
    """The frames of what ``opened`` opens.

    every: seconds between two of them, 0 is all; of a film, by its own clock. drop_oldest: None
    is true for a camera, which cannot wait, and false for a film, which can. told, wait: as in
    ``Device``. Raises DataError where it cannot be opened.
    """
    first = _Frames(name, opened(), every)
    return Device(
        name, first, lambda: _Frames(name, opened(), every), stop, told=told, room=room,
        drop_oldest=not first.eye.film if drop_oldest is None else drop_oldest, wait=wait,
    )  # fmt: skip


class _Frames:
    """A ``Reader`` of an eye."""

    def __init__(self, name: str, eye: Eye, every: float) -> None:
        wide, high = eye.size
        if wide * high > DEFAULT_LIMITS.pixels:
            eye.close()
            raise DataError(f"{name}: {wide} × {high} pixels are more than the limit of "
                            f"{DEFAULT_LIMITS.pixels:,}; set it to less")  # fmt: skip
        self.eye = eye
        self._name, self._every = name, every

    def samples(self) -> Iterator[Sample]:
        due, eye = 0.0, self.eye
        while eye.grab():
            now = eye.now()
            if now < due:
                continue
            due = max(due + self._every, now) if eye.film else now + self._every
            if (frame := eye.frame()) is not None:
                yield _sample(frame, f"{self._name}@{now:.3f}s")
        if not eye.film:
            raise Gone("gives no more frames; check its cable")

    def close(self) -> None:
        self.eye.close()


def _sample(frame: Array, source: str) -> Sample:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=_QUALITY)
    payload = file.getvalue()
    if len(payload) > DEFAULT_LIMITS.payload_bytes:
        problem = too_many_bytes(len(payload), DEFAULT_LIMITS.payload_bytes)
        return Sample(b"", source, problem=problem)
    return Sample(payload, source)
