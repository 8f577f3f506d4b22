"""Frames of a camera or a film, through OpenCV, each as a JPEG. Needs the camera extra."""

import time
from collections.abc import Callable

import cv2

from dripgate.errors import DataError
from dripgate.media import DEFAULT_LIMITS, too_many_bytes
from dripgate.stream.feed import ROOM, Live, Stop
from dripgate.types import Sample

_QUALITY = 95


def camera(
    which: str,
    every: float,
    stop: Stop,
    *,
    room: int = ROOM,
    drop_oldest: bool | None = None,
) -> Live:
    """Frames of camera number ``which``, or of the film or address of this name.

    every: seconds between two frames, 0 is all of them; of a film, by its own clock. drop_oldest:
    None is true for a camera, which cannot wait, and false for a film, which can.
    Raises DataError where it cannot be opened, and later where a camera stops.
    """
    number = int(which) if which.isdecimal() else None
    capture = cv2.VideoCapture(which if number is None else number)
    if not capture.isOpened():
        raise DataError(
            f"camera:{which}: cannot be opened; give the number of a camera (0 is the first), a "
            "film, or the address of a stream, and check the rights to /dev/video*"
        )
    wide, high = (int(capture.get(one)) for one in (cv2.CAP_PROP_FRAME_WIDTH, 4))
    if wide * high > DEFAULT_LIMITS.pixels:
        raise DataError(f"camera:{which}: {wide} × {high} pixels are more than the limit of "
                        f"{DEFAULT_LIMITS.pixels:,}; set it to less")  # fmt: skip
    film = capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0

    def produce(put: Callable[[Sample], bool]) -> None:
        due = 0.0
        while capture.grab():
            now = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 if film else time.monotonic()
            if now < due:
                continue
            due = max(due + every, now) if film else now + every
            found, frame = capture.retrieve()
            if found and not put(_sample(frame, f"camera:{which}@{now:.3f}s")):
                break
        else:
            if not film:
                raise DataError(f"camera:{which}: gives no more frames; check its cable")
        capture.release()

    drop = not film if drop_oldest is None else drop_oldest
    return Live(produce, stop, room=room, drop_oldest=drop)


def _sample(frame: cv2.typing.MatLike, source: str) -> Sample:
    done, coded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    payload = coded.tobytes() if done else b""
    if not done or len(payload) > DEFAULT_LIMITS.payload_bytes:
        problem = too_many_bytes(len(payload), DEFAULT_LIMITS.payload_bytes) if done else "no JPEG"
        return Sample(b"", source, problem=problem)
    return Sample(payload, source)
