"""A file as samples: exactly the bytes that were read, and the time at which it was taken."""

import hashlib
import io
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from dripgate.errors import UnreadableError
from dripgate.media import too_many_bytes, windows
from dripgate.stream.tree import Found
from dripgate.types import InputSpec, Sample

#: How the time of a sample is found: when it was read, the file's time, or what the picture says.
TIMES = ("read", "mtime", "exif")
#: A time of before September 2001 was never set.
_UNSET = 1e9
_EXIF, _ORIGINAL, _OFFSET = 0x8769, 0x9003, 0x9011


class Read(NamedTuple):
    """A file that was read: what was found, the status of the bytes read, and these.

    problem: why payload is empty although the file is not.
    """

    found: Found
    status: os.stat_result
    payload: bytes
    problem: str

    @property
    def content(self) -> bytes:
        """The hash of exactly these bytes; of what could not be read, of its status."""
        if not self.problem:
            return hashlib.sha256(self.payload).digest()
        return hashlib.sha256(f"{self.problem}{tuple(self.status)}".encode()).digest()


def read(found: Found, limit: int) -> Read | None:
    """Read a file; None where it is gone, or changed meanwhile: it will be met again."""
    try:
        # Never wait for the other end of a pipe that took the file's place.
        handle = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return Read(found, found.status, b"", f"cannot be read: {error.strerror}")
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > limit:
            return Read(found, status, b"", too_many_bytes(status.st_size, limit))
        try:
            payload = file.read(limit + 1)
        except OSError as error:
            return Read(found, status, b"", f"cannot be read: {error.strerror}")
        return Read(found, status, payload, "") if same(status, os.fstat(handle)) else None


def same(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether two statuses are of the same bytes, as far as a status can say."""
    return _known(one) == _known(other) and one.st_ctime_ns == other.st_ctime_ns


def moved(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether they are of the same bytes, of which only the name changed between them."""
    return _known(one) == _known(other)


def _known(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# Samples ----------------------------------------------------------------------------------------


def samples(
    payload: bytes, problem: str, source: str, spec: InputSpec | None, taken: float | None
) -> Iterator[Sample]:
    """The samples of one file: itself, or the windows of a long recording.

    taken: seconds since the epoch at which the file begins; None is now. What is damaged further
    on is one more sample, with its problem.
    """
    if problem or spec is None:
        yield _sample(payload, source, taken, problem)
        return
    try:
        for window in windows(payload, spec):
            at = None if taken is None else taken + window.at
            yield _sample(window.payload, window.name(source), at)
    except UnreadableError as error:
        yield _sample(b"", source, taken, str(error))


def _sample(payload: bytes, source: str, at: float | None, problem: str = "") -> Sample:
    if at is None:
        return Sample(payload, source, problem=problem)
    return Sample(payload, source, at, problem)


def taken_at(
    how: str, payload: bytes, changed: float | None, clock: Callable[[], float] = time.time
) -> float | None:
    """When a file was taken, in seconds since the epoch; None where nothing credible says so.

    how: one of ``TIMES``. changed: the file's own time.
    """
    found = None
    if how == "exif":
        found = _credible(_exif_time(payload), clock())
    if how != "read" and found is None:
        found = _credible(changed, clock())
    return found


def _credible(at: float | None, now: float) -> float | None:
    return at if at is not None and _UNSET <= at <= now + 86_400 else None


def _exif_time(payload: bytes) -> float | None:
    """DateTimeOriginal; without an offset in it, in this machine's time zone."""
    from PIL import Image

    with suppress(Exception), Image.open(io.BytesIO(payload)) as image:  # hostile bytes
        tags: dict[int, Any] = image.getexif().get_ifd(_EXIF)
        text = f"{tags[_ORIGINAL]}".strip("\0 ")
        offset = f"{tags.get(_OFFSET, '')}".strip("\0 ")
        if offset:
            return datetime.strptime(f"{text} {offset}", "%Y:%m:%d %H:%M:%S %z").timestamp()
        return datetime.strptime(text, "%Y:%m:%d %H:%M:%S").timestamp()
    return None
