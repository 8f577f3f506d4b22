"""Writing files whole or not at all."""

import errno
import os
import secrets
import stat
from pathlib import Path


def read_whole(path: Path, limit: int) -> bytes:
    """The bytes of a plain file of at most ``limit`` bytes; sized before it is read.

    Raises OSError, also for what is larger, and for devices and pipes, which might never end.
    """
    # Opening a pipe waits for somebody to write into it.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:  # noqa: PTH123
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        data = file.read(limit + 1) if found.st_size <= limit else b""
    if found.st_size > limit or len(data) > limit:
        size = max(found.st_size, len(data))
        what = f"it has {size:,} bytes, more than the {limit:,} that are read"
        raise OSError(errno.EFBIG, what, str(path))
    return data


def write_whole(path: Path, data: bytes) -> None:
    """Write to a temporary file beside ``path``, fsync, rename. Raises OSError, leaves no part.

    A link stays, and what it leads to is written. A device or a pipe is written into: a file in
    the place of /dev/null would be the end of much else.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        # Opening a pipe waits for somebody to read from it; so nobody being there is an error.
        handle = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
        os.set_blocking(handle, True)
        with open(handle, "wb") as file:  # noqa: PTH123
            file.write(data)
        return
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Make it last that a file was made, renamed or removed in a folder. Raises OSError."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
