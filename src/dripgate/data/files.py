"""Files of a folder or an archive, one at a time, in a stable order; nothing is ever extracted.

Hidden files (a name or folder that begins with a dot), what systems leave behind and everything
that is not a regular file are passed over, and told to who asks. Links are followed to files and
folders inside the folder, and where that is asked for also out of it; a folder that several
links lead to is read once. Those in archives never. Names are relative, with forward slashes,
composed (NFC), and cannot climb out: ``/a/../b`` is ``a/b``. One file that cannot be read is
handed on with its problem; a damaged archive is a DataError.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dripgate.data.archives import EMPTY, Wanted, bounded, from_tar, from_zip
from dripgate.data.names import ARCHIVES, File, LabelledFile, Side, clean, hidden, is_archive, stem
from dripgate.data.unused import Pass, nobody
from dripgate.errors import DataError
from dripgate.media import DEFAULT_LIMITS

__all__ = [
    "ARCHIVES", "File", "LabelledFile", "Side", "check", "fingerprint", "is_archive", "iter_files",
    "iter_names", "listing", "read_file", "stem",
]  # fmt: skip


def check(path: Path) -> None:
    """DataError unless ``path`` is a folder or an archive."""
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder; give a folder or an archive ({', '.join(ARCHIVES)})"
        )
    if not path.is_dir() and not is_archive(path):
        raise DataError(
            f"{path}: not a folder or an archive; archives end in {', '.join(ARCHIVES)}"
        )
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{path}: no regular file; give a folder or an archive")


def iter_files(
    path: Path,
    limit: int = DEFAULT_LIMITS.payload_bytes,
    *,
    unused: Pass = nobody,
    outside: bool = False,
    wanted: Wanted = lambda name: True,
) -> Iterator[File]:
    """Every file below ``path``: sorted in a folder, in archive order in an archive.

    Holds one file at a time; one of more than ``limit`` bytes comes without its payload. unused:
    is told what is passed over. outside: also follow links that lead out of a folder. wanted:
    whether a file's payload is to be read; by default all are.
    Raises DataError for what is neither folder nor archive, and for a damaged archive.
    """
    check(path)
    if path.is_dir():
        yield from _from_folder(path, limit, wanted, unused, outside)
        return
    members = from_zip if path.name.lower().endswith(".zip") else from_tar
    try:
        yield from members(path, limit, wanted, unused)
    except Exception as error:  # these parsers raise whatever they like on hostile bytes
        if isinstance(error, OSError) and error.errno:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        cause = " ".join(str(error).split())
        raise DataError(
            f"{path}: a truncated or damaged archive ({cause:.160}); copy or download it again"
        ) from error


def iter_names(path: Path, *, unused: Pass = nobody, outside: bool = False) -> Iterator[str]:
    """The names that iter_files gives, without reading the files."""
    files = iter_files(path, unused=unused, outside=outside, wanted=lambda name: False)
    return (file.name for file in files)


def listing(
    folder: Path, *, unused: Pass = nobody, outside: bool = False
) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Name, path and status of each regular file below ``folder``, sorted within each folder.

    A folder's files come before its sub-folders. unused, outside: as of ``iter_files``.
    """
    root, linked = folder.resolve(), set[tuple[int, int]]()
    todo = [folder]
    while todo:
        here, folders = todo.pop(), list[Path]()
        entries = _entries(here, folder, unused)
        if entries == [] and here != folder:
            unused(EMPTY, _relative(here, folder))
        for name, path in entries or []:
            try:
                status = path.stat()
                link = path.is_symlink()
                inside = not link or path.resolve().is_relative_to(root)
            except (OSError, RuntimeError):  # RuntimeError: a loop of links
                if path.is_symlink():
                    unused("a link to nowhere", name)
                continue  # or gone since it was listed
            if why := hidden(name):
                unused(why, name)
            elif not inside and not outside:
                unused("a link that leads out of the folder", name)
            elif stat.S_ISREG(status.st_mode):
                yield name, path, status
            elif not stat.S_ISDIR(status.st_mode):
                unused("no regular file", name)
            elif not link:
                folders.append(path)
            elif inside or root.is_relative_to(path.resolve()) or _again(status, linked):
                unused("a link to a folder that is read already", name)
            else:
                folders.append(path)
        todo += reversed(folders)


def _entries(here: Path, folder: Path, unused: Pass) -> list[tuple[str, Path]] | None:
    """Clean name and path of what lies in a folder, sorted; None where it cannot be listed."""
    try:
        names = sorted(path.name for path in here.iterdir())
    except OSError as error:
        unused(f"a folder that cannot be listed: {error.strerror}", _relative(here, folder))
        return None
    return [(_relative(here / name, folder), here / name) for name in names]


def _relative(path: Path, folder: Path) -> str:
    return clean(path.relative_to(folder).as_posix()) or "."


def _again(status: os.stat_result, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder was seen before; it is from now on."""
    key = (status.st_dev, status.st_ino)
    known = key in seen
    seen.add(key)
    return known


def fingerprint(path: Path, *, outside: bool = False) -> str:
    """Of a folder or a file: its names, sizes and times of change, without reading them."""
    digest = hashlib.sha256(str(path.resolve()).encode(errors="replace"))
    entries = listing(path, outside=outside) if path.is_dir() else [(path.name, path, path.stat())]
    for name, _, status in entries:
        digest.update(f"\0{name}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="replace"))
    return digest.hexdigest()


def read_file(path: Path, limit: int) -> tuple[bytes, str] | None:
    """Payload and problem of one file on disk; None where it is gone."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return bounded(file, size, limit)
    except FileNotFoundError:
        return None
    except OSError as error:
        return b"", f"cannot be read: {error.strerror}"


def _from_folder(
    folder: Path, limit: int, wanted: Wanted, unused: Pass, outside: bool
) -> Iterator[File]:
    for name, path, _ in listing(folder, unused=unused, outside=outside):
        if not wanted(name):
            yield File(name, b"")
        elif (read := read_file(path, limit)) is not None:
            yield File(name, *read)
