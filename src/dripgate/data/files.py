"""Files of a folder or an archive, one at a time, in a stable order; nothing is ever extracted.

Hidden files (a name or folder that begins with a dot), ``__MACOSX`` and everything that is not a
regular file are skipped. Links are followed only to files inside the folder; those in archives
never. Names are relative, with forward slashes, and cannot climb out: ``/a/../b`` is ``a/b``.
One file that cannot be read is handed on with its problem; a damaged archive is a DataError.
"""

import hashlib
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple

from dripgate.errors import DataError
from dripgate.media import DEFAULT_LIMITS, too_many_bytes

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
Side = Literal["train", "test"]


class File(NamedTuple):
    """problem: why payload is empty although the file is not; else the empty string."""

    name: str
    payload: bytes
    problem: str = ""


class LabelledFile(NamedTuple):
    """split is None where the source does not say; problem as in File."""

    split: Side | None
    label: str
    name: str
    payload: bytes
    problem: str = ""


def is_archive(path: Path) -> bool:
    """Whether the name says that this is an archive we read."""
    return path.name.lower().endswith(ARCHIVES)


def stem(path: Path) -> str:
    """What people call it: the last part of the path, without an archive's ending."""
    name = path.resolve().name
    endings = [ending for ending in ARCHIVES if name.lower().endswith(ending)]
    return name[: -len(endings[0])] if endings and not path.is_dir() else name


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


def iter_files(path: Path, limit: int = DEFAULT_LIMITS.payload_bytes) -> Iterator[File]:
    """Every file below ``path``: sorted in a folder, in archive order in an archive.

    Holds one file at a time; one of more than ``limit`` bytes comes without its payload.
    Raises DataError for what is neither folder nor archive, and for a damaged archive.
    """
    return _iterate(path, limit)


def iter_names(path: Path) -> Iterator[str]:
    """The names that iter_files gives, without reading the files."""
    return (file.name for file in _iterate(path, None))


def listing(folder: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Name, path and status of each regular file below ``folder``, sorted within each folder."""
    root = folder.resolve()
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(here, name)
            try:
                inside = not path.is_symlink() or path.resolve().is_relative_to(root)
                status = path.stat()
            except OSError:
                continue  # gone since it was listed, or a link to nowhere
            clean = _clean(path.relative_to(folder).as_posix())
            if inside and clean and stat.S_ISREG(status.st_mode):
                yield clean, path, status


def fingerprint(path: Path) -> str:
    """Of a folder or a file: its names, sizes and times of change, without reading them."""
    digest = hashlib.sha256(str(path.resolve()).encode(errors="replace"))
    entries = listing(path) if path.is_dir() else [(path.name, path, path.stat())]
    for name, _, status in entries:
        digest.update(f"\0{name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()


def read_file(path: Path, limit: int) -> tuple[bytes, str] | None:
    """Payload and problem of one file on disk; None where it is gone."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _bounded(file, size, limit)
    except FileNotFoundError:
        return None
    except OSError as error:
        return b"", f"cannot be read: {error.strerror}"


def _iterate(path: Path, limit: int | None) -> Iterator[File]:
    """The files, or with no limit only their names."""
    check(path)
    if path.is_dir():
        yield from _from_folder(path, limit)
        return
    members = _from_zip if path.name.lower().endswith(".zip") else _from_tar
    try:
        yield from members(path, limit)
    except Exception as error:  # these parsers raise whatever they like on hostile bytes
        if isinstance(error, OSError) and error.errno:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        cause = " ".join(str(error).split())
        raise DataError(
            f"{path}: a truncated or damaged archive ({cause:.160}); copy or download it again"
        ) from error


def _from_folder(folder: Path, limit: int | None) -> Iterator[File]:
    for name, path, _ in listing(folder):
        if limit is None:
            yield File(name, b"")
        elif (read := read_file(path, limit)) is not None:
            yield File(name, *read)


def _from_tar(path: Path, limit: int | None) -> Iterator[File]:
    with tarfile.open(path, "r:*", tarinfo=_StrictTarInfo) as tar:
        while (member := tar.next()) is not None:
            # Else tarfile remembers every member, and memory grows with the archive.
            tar.members.clear()  # type: ignore[attr-defined]
            name = _clean(member.name)
            if name and member.isreg():
                yield File(name, *_tar_member(tar, member, limit))
        while tar.fileobj and tar.fileobj.read(1 << 20):
            pass  # to the very end, where gzip's checksum of the whole is compared


def _tar_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, limit: int | None
) -> tuple[bytes, str]:
    if limit is None or (stream := tar.extractfile(member)) is None:
        return b"", ""
    return _bounded(stream, member.size, limit)


class _StrictTarInfo(tarfile.TarInfo):
    """Damage between members is an error; tarfile itself takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_StrictTarInfo":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(tarfile.BLOCKSIZE):
                raise  # the regular end mark
            raise tarfile.ReadError(f"damaged between members: {error}") from error


def _from_zip(path: Path, limit: int | None) -> Iterator[File]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = _clean(member.filename.replace("\\", "/"))
            kind = stat.S_IFMT(member.external_attr >> 16)
            if not name or member.is_dir() or kind not in (0, stat.S_IFREG):
                continue
            yield File(name, *_zip_member(archive, member, limit))


def _zip_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int | None
) -> tuple[bytes, str]:
    """Payload and problem: the directory is sound, so damage here is this member's alone."""
    if limit is None:
        return b"", ""
    try:
        with archive.open(member) as stream:
            return _bounded(stream, member.file_size, limit)
    except Exception as error:  # encrypted, unknown compression, wrong checksum, …
        return b"", f"cannot be unpacked: {error}"


def _bounded(stream: IO[bytes], size: int, limit: int) -> tuple[bytes, str]:
    """Payload and problem; a stream longer than it says is cut at the limit, not believed."""
    payload = stream.read(limit + 1) if size <= limit else b""
    if (found := max(size, len(payload))) > limit:
        return b"", too_many_bytes(found, limit)
    return payload, ""


def _clean(name: str) -> str:
    """The name without roots and climbs; empty where it, or a folder on the way, is hidden."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return ""
    # Bytes that are no UTF-8 arrive as lone surrogates, which cannot be printed or stored.
    return "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
