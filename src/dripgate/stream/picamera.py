"""A Raspberry Pi's own camera through picamera2, which Raspberry Pi OS brings, and no index."""

import time
from importlib import import_module
from typing import Any

import numpy as np

from dripgate.errors import DataError
from dripgate.stream.device import Gone
from dripgate.types import Array

#: Seconds without a frame after which a camera counts as gone.
_PATIENCE = 10.0
_REMEDY = (
    "sudo apt install python3-picamera2, and make the environment that dripgate is in with "
    "--system-site-packages"
)


class Picamera:
    """An ``Eye`` of frames.py: the camera of this number, in the size that picamera2 chooses for
    a video. Raises DataError where it cannot be opened.
    """

    film = False

    def __init__(self, which: str, name: str) -> None:
        if not which.isdecimal():
            raise DataError(f"{name}: expected the number of a camera, such as picamera:0")
        try:
            module = import_module("picamera2")
        except ImportError as error:
            raise DataError(f"{name}: needs picamera2 ({error}); {_REMEDY}") from None
        try:
            # What libcamera calls BGR888 is R, G, B in memory.
            self._camera = module.Picamera2(int(which))
            video = self._camera.create_video_configuration(main={"format": "BGR888"})
            self._camera.configure(video)
            self._camera.start()
        except (IndexError, RuntimeError) as error:
            raise DataError(
                f"{name}: cannot be opened ({error}); see what rpicam-hello --list-cameras has, "
                "and that nothing else uses it"
            ) from None
        self.size = tuple(self._camera.camera_configuration()["main"]["size"])
        self._request: Any = None

    def grab(self) -> bool:
        """Wait for the next frame."""
        self._release()
        try:
            self._request = self._camera.capture_request(wait=_PATIENCE)
        except (TimeoutError, RuntimeError) as error:
            raise Gone(
                f"gives no more frames ({str(error) or 'none came'}); check its cable"
            ) from None
        return True

    def now(self) -> float:
        """Seconds of the machine's clock."""
        return time.monotonic()

    def frame(self) -> Array | None:
        """RGB uint8 (H, W, 3)."""
        return np.asarray(self._request.make_array("main"))

    def close(self) -> None:
        """Let go of it."""
        self._release()
        self._camera.close()

    def _release(self) -> None:
        if self._request is not None:
            self._request.release()
            self._request = None
