"""Decoded data sets on disk, so that a second start decodes nothing; bounded, oldest use first.

The samples of one source, one input and one version of the decoders are kept under ``decoded/``
in the cache as raw values and one JSON table, written aside, synced and renamed. All of them
together take at most ``$DRIPGATE_CACHE_LIMIT`` (10GB by default), those of one source no more
than the KEPT last used. Everything in the folder can be deleted at any time.
"""

import hashlib
import io
import os
import re
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TypeVar

import msgspec
import numpy as np

from dripgate.data.named import cache_root
from dripgate.data.sources import Source
from dripgate.data.table import Table
from dripgate.errors import DataError
from dripgate.files import write_whole
from dripgate.types import Array, InputSpec

T = TypeVar("T")
Decode = Callable[[IO[bytes]], Table]

#: Goes up with the rules by which files become samples: which folders are classes, for example.
VERSION = 3
#: Copies of one source that are kept: other inputs, or the data before it changed.
KEPT = 3
LIMIT = "10GB"
#: Archives whose input is remembered.
_INFERRED = 200
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
#: Seconds after which what an interrupted start left is litter.
_STALE = 86_400


def through(source: Source, spec: InputSpec, decode: Decode) -> tuple[Table, Array]:
    """Table and samples (N, …) from the cache; decoded into it where they are not there, or
    into memory where it cannot be used.
    """
    root = cache_root() / "decoded"
    folder = root / _key(source, spec)
    limit = _limit()
    try:
        found = _read(folder, spec)
        if found is None:
            _write(folder, decode)
            found = _read(folder, spec)
            _prune(root, folder, limit)
    except OSError as error:
        found = None
        warnings.warn(
            f"{folder}: the cache cannot be used ({error.strerror}); decoding into memory, which "
            "the next start has to do again; set DRIPGATE_CACHE to a folder with space",
            RuntimeWarning,
            stacklevel=3,
        )
    if found:
        return found
    sink = io.BytesIO()
    table = decode(sink)
    return table, np.frombuffer(sink.getbuffer(), spec.dtype).reshape(-1, *spec.shape)


def remembered(source: Source, made: type[T], make: Callable[[], T]) -> T:
    """What ``make`` finds in an archive, which has to be unpacked for it, from an earlier time."""
    if not source.path or not source.path.is_file():
        return make()
    root = cache_root() / "inferred"
    file = root / f"{_hash(f'{source.fingerprint()} {_decoders()}', 32)}.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=made)
    except (OSError, msgspec.DecodeError):
        found = make()
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_whole(file, msgspec.json.encode(found))
        for old in sorted(root.iterdir(), key=lambda one: one.stat().st_mtime)[:-_INFERRED]:
            old.unlink(missing_ok=True)
    except OSError:
        pass  # found again next time
    return found


def emptied() -> tuple[Path, int, int]:
    """Delete all that is kept here: the folder, how many copies there were, and their bytes.

    Downloaded data sets stay.
    """
    root, copies, size = cache_root() / "decoded", 0, 0
    for _, folder in _folders(root) if root.is_dir() else []:
        copies, size = copies + 1, size + _size(folder)
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(cache_root() / "inferred", ignore_errors=True)
    return root, copies, size


def described(spec: InputSpec) -> str:
    """An input as text."""
    return msgspec.json.encode(spec).decode()


def _limit() -> int:
    text = os.environ.get("DRIPGATE_CACHE_LIMIT") or LIMIT
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", text.upper())
    if not match or match[2] not in _UNITS:
        raise DataError(f"DRIPGATE_CACHE_LIMIT is '{text}', expected a size such as 10GB")
    return int(float(match[1]) * _UNITS[match[2]])


def _key(source: Source, spec: InputSpec) -> str:
    """A folder name that changes with the data, the input, and the code that decodes.

    What comes before the last dash is the source's own, whatever becomes of its data.
    """
    text = f"{source.fingerprint()} {described(spec)} {_decoders()}"
    place = str(source.path.resolve()) if source.path else source.name
    readable = re.sub(r"[^\w-]", "_", source.name)[:80]
    return f"{readable}-{_hash(place, 8)}-{_hash(text, 24)}"


def _decoders() -> tuple[object, ...]:
    return (VERSION, version("pillow"), version("soundfile"), version("numpy"))


def _hash(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:digits]


def _read(folder: Path, spec: InputSpec) -> tuple[Table, Array] | None:
    """Table and samples, mapped copy-on-write; None where they are not there, or not whole."""
    try:
        table = msgspec.json.decode((folder / "table.json").read_bytes(), type=Table)
        shape = (len(table.ids), *spec.shape)
        if (folder / "x.bin").stat().st_size != prod(shape) * spec.dtype.itemsize:
            return None
        os.utime(folder)  # the time of its last use
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return table, np.asarray(np.memmap(folder / "x.bin", spec.dtype, "c", shape=shape))


def _write(folder: Path, decode: Decode) -> None:
    """Decode into a temporary folder beside ``folder`` and rename it: never half there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".part-", dir=folder.parent) as temporary:
        part = Path(temporary, "part")
        part.mkdir()
        with (part / "x.bin").open("wb") as sink:
            table = decode(sink)
            sink.flush()
            os.fsync(sink.fileno())
        write_whole(part / "table.json", msgspec.json.encode(table))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)


def _prune(root: Path, current: Path, limit: int) -> None:
    """Remove what was used longest ago: beyond KEPT of a source, and beyond the limit of all.

    Never the current one. Who has a removed one mapped keeps its pages.
    """
    total, copies = 0, Counter[str]()
    for last_used, folder in sorted(_folders(root), reverse=True):
        size = _size(folder)
        source = folder.name.rpartition("-")[0]
        if folder.name.startswith(".part-"):
            litter = time.time() - last_used > _STALE
        else:
            total, copies[source] = total + size, copies[source] + 1
            litter = folder != current and (total > limit or copies[source] > KEPT)
        if litter:
            shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    except OSError:
        return 0  # another start is pruning too


def _folders(root: Path) -> list[tuple[float, Path]]:
    found = []
    for folder in root.iterdir():
        try:
            if folder.is_dir():
                found.append((folder.stat().st_mtime, folder))
        except OSError:
            continue  # another start is pruning too
    return found
