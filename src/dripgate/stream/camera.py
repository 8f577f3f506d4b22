"""A camera, a film or a network camera through OpenCV. Needs the camera extra."""

import time

import cv2
import numpy as np

from dripgate.errors import DataError
from dripgate.types import Array


class Camera:
    """An ``Eye`` of frames.py: camera number ``which``, or the film or address of this name.

    name: what it is called in messages, without credentials. Raises DataError where it cannot be
    opened.
    """

    def __init__(self, which: str, name: str) -> None:
        number = int(which) if which.isdecimal() else None
        self._capture = cv2.VideoCapture(which if number is None else number)
        if not self._capture.isOpened():
            remedy = (
                "check its address, its login (--source-credentials) and the network"
                if "://" in which
                else "give the number of a camera (0 is the first), a film, or the address of a "
                "stream, and check the rights to /dev/video*; a Raspberry Pi's own is picamera:0"
            )
            raise DataError(f"{name}: cannot be opened; {remedy}")
        wide, high = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
        self.size = (int(self._capture.get(wide)), int(self._capture.get(high)))
        self.film = self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0

    def grab(self) -> bool:
        """Whether there is another frame."""
        return bool(self._capture.grab())

    def now(self) -> float:
        """Seconds of the film, or of the machine's clock."""
        if self.film:
            return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        return time.monotonic()

    def frame(self) -> Array | None:
        """RGB uint8 (H, W, 3); None where it cannot be decoded."""
        found, frame = self._capture.retrieve()
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)) if found else None

    def close(self) -> None:
        """Let go of it."""
        self._capture.release()
