"""Members of .tar and .zip files, one at a time, with every limit before anything is read.

Nothing is ever extracted. Symbolic links are not followed; a hard link is its member's content.
What an archive's headers and index may take of memory is bounded, whatever they say.
"""

import bz2
import gzip
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

from dripgate.data.names import File, clean, hidden
from dripgate.data.unused import Pass
from dripgate.media import too_many_bytes

#: Bytes that the headers of one member of a tar may take, and hard links that are remembered.
HEADERS, LINKS = 1 << 20, 100_000
#: Bytes and members of a zip's index, which is held in memory as a whole.
INDEX, MEMBERS = 32 << 20, 200_000
_HOPS = 8
_UTF8 = 0x800
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_STRANGE_KINDS = {
    tarfile.SYMTYPE: "a symbolic link within an archive",
    tarfile.CHRTYPE: "no regular file",
    tarfile.BLKTYPE: "no regular file",
    tarfile.FIFOTYPE: "no regular file",
}

EMPTY = "an empty folder"

#: Whether the payload of a member is to be read.
Wanted = Callable[[str], bool]


def from_tar(path: Path, limit: int, wanted: Wanted, unused: Pass) -> Iterator[File]:
    """The regular files of a tar in its order, then its hard links."""
    links, folders = dict[str, str](), _Folders()
    for name, member, read in _members(path):
        folders.met(name, member.isdir())
        if member.isdir():
            continue
        if why := hidden(name):
            unused(why, name)
        elif member.islnk():
            if len(links) < LINKS:
                links[name] = clean(member.linkname)
            else:
                unused(f"more than {LINKS:,} hard links", name)
        elif member.isreg():
            content = read(limit) if wanted(name) else (b"", "")
            yield File(name, *content, float(member.mtime))
        else:
            unused(_STRANGE_KINDS.get(member.type, "no regular file"), name)
    folders.tell(unused)
    if links:
        yield from _linked(path, links, limit, wanted, unused)


class _Folders:
    """Folders of an archive that hold nothing, of the first ones that it lists."""

    def __init__(self) -> None:
        self._empty: dict[str, None] = {}

    def met(self, name: str, is_folder: bool) -> None:
        """A member: what it lies in is not empty."""
        self._empty.pop(name.rpartition("/")[0], None)
        if is_folder and len(self._empty) < LINKS and name and not hidden(name):
            self._empty[name] = None

    def tell(self, unused: Pass) -> None:
        """After the last member."""
        for name in self._empty:
            unused(EMPTY, name)


def _linked(
    path: Path, links: dict[str, str], limit: int, wanted: Wanted, unused: Pass
) -> Iterator[File]:
    """A second way through the archive, for the content of hard links."""
    of: dict[str, list[str]] = {}
    for name, target in links.items():
        for _ in range(_HOPS):  # links to links
            target = links.get(target, target)
        of.setdefault(target, []).append(name)
    for name, member, read in _members(path):
        if member.isreg() and name in of:
            asked = {link: wanted(link) for link in of.pop(name)}
            content = read(limit) if any(asked.values()) else (b"", "")
            for link, is_wanted in asked.items():
                yield File(link, *(content if is_wanted else (b"", "")), float(member.mtime))
    for names in of.values():
        for name in names:
            unused("a hard link to nothing in the archive", name)


_Read = Callable[[int], tuple[bytes, str]]


def _members(path: Path) -> Iterator[tuple[str, tarfile.TarInfo, _Read]]:
    """Name, header and a way to read each member."""
    with (
        _Metered(_opened(path)) as metered,
        tarfile.open(fileobj=cast(IO[bytes], metered), mode="r:", tarinfo=_StrictTarInfo) as tar,
    ):
        while True:
            with metered.metering():
                member = tar.next()
            if member is None:
                break
            # Else tarfile remembers every member, and memory grows with the archive.
            tar.members.clear()  # type: ignore[attr-defined]
            if member.size < 0:
                raise tarfile.ReadError(f"a member of {member.size} bytes")

            def read(limit: int, member: tarfile.TarInfo = member) -> tuple[bytes, str]:
                stream = tar.extractfile(member)
                return bounded(stream, member.size, limit) if stream else (b"", "")

            yield clean(member.name), member, read
        while metered.read(1 << 20):
            pass  # to the very end, where gzip's checksum of the whole is compared


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        begin = file.read(6)
    if begin[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.open(path))
    if begin[:3] == b"BZh":
        return cast(IO[bytes], bz2.open(path))
    if begin in (b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"):
        raise tarfile.ReadError("compressed by xz or zstd, which is not read; use gzip")
    return path.open("rb")


class _Metered:
    """A file of which tarfile can read only so much for one header, whatever the header says."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, HEADERS
        self._metered = True
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def __enter__(self) -> "_Metered":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def metering(self) -> "_Metering":
        """While a header is parsed."""
        self._left = HEADERS
        return _Metering(self)

    def read(self, size: int = -1) -> bytes:
        """As the file's."""
        if self._metered:
            self._left -= size
            if size < 0 or self._left < 0:
                raise tarfile.ReadError(f"headers of more than {HEADERS:,} bytes")
        return self._file.read(size)


class _Metering:
    def __init__(self, metered: _Metered) -> None:
        self._of = metered

    def __enter__(self) -> None:
        self._of._metered = True

    def __exit__(self, *_: object) -> None:
        self._of._metered = False


class _StrictTarInfo(tarfile.TarInfo):
    """Damage between members is an error; tarfile itself takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_StrictTarInfo":
        try:
            found = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(tarfile.BLOCKSIZE):
                raise  # the regular end mark
            raise tarfile.ReadError(f"damaged between members: {error}") from error
        if found.size < 0:  # tarfile would go backwards, and read the same for ever
            raise tarfile.ReadError(f"a member of {found.size} bytes")
        return found


def from_zip(path: Path, limit: int, wanted: Wanted, unused: Pass) -> Iterator[File]:
    """The regular files of a zip in its order."""
    _check_index(path)
    folders = _Folders()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name, guessed = _zip_name(member)
            kind = stat.S_IFMT(member.external_attr >> 16)
            folders.met(name, member.is_dir())
            if member.is_dir():
                continue
            if why := hidden(name):
                unused(why, name)
            elif kind == stat.S_IFLNK:
                unused("a symbolic link within an archive", name)
            elif kind not in (0, stat.S_IFREG):
                unused("no regular file", name)
            else:
                if guessed:
                    unused(NO_ENCODING, name)
                content = _unzipped(archive, member, limit) if wanted(name) else (b"", "")
                yield File(name, *content, _zip_time(member))
    folders.tell(unused)


#: Not a reason to leave a member out: its name may be wrong.
NO_ENCODING = "a name in no known encoding, read as code page 437 (pack again with names in UTF-8)"


def _zip_time(member: zipfile.ZipInfo) -> float | None:
    """A zip has the time of the place where it was made, to two seconds: taken as our place's."""
    try:
        return datetime(*member.date_time).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _zip_name(member: zipfile.ZipInfo) -> tuple[str, bool]:
    """The clean name, and whether its encoding is a guess.

    Without the flag that says UTF-8 names are in code page 437 by the standard; macOS and older
    tools write UTF-8 all the same.
    """
    name, guessed = member.filename, False
    if not member.flag_bits & _UTF8 and not name.isascii():
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            guessed = True
    return clean(name.replace("\\", "/")), guessed


def _check_index(path: Path) -> None:
    """Raises BadZipFile where the index would take too much memory."""
    with path.open("rb") as file:
        try:
            end = cast(Any, zipfile)._EndRecData(file)  # so that zipfile finds the same
        except OSError:
            end = None
        if not end:
            raise zipfile.BadZipFile("File is not a zip file")
        size = end[5]
        if size <= INDEX:
            file.seek(max(0, end[9] - size))
            members = file.read(size).count(b"PK\x01\x02")
            if members <= MEMBERS:
                return
    raise zipfile.BadZipFile(
        f"its index has {size:,} bytes or more than {MEMBERS:,} members, which takes too much "
        "memory; unpack it, or pack it as .tar"
    )


def _unzipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> tuple[bytes, str]:
    """Payload and problem: the index is sound, so damage here is this member's alone."""
    if member.compress_type not in _PACKED:
        return b"", f"cannot be unpacked: compression method {member.compress_type}; use deflate"
    try:
        with archive.open(member) as stream:
            return bounded(stream, member.file_size, limit)
    except Exception as error:  # encrypted, wrong checksum, …
        return b"", f"cannot be unpacked: {error}"


def bounded(stream: IO[bytes], size: int, limit: int) -> tuple[bytes, str]:
    """Payload and problem; a stream longer than it says is cut at the limit, not believed."""
    payload = stream.read(limit + 1) if size <= limit else b""
    if (found := max(size, len(payload))) > limit:
        return b"", too_many_bytes(found, limit)
    return payload, ""
