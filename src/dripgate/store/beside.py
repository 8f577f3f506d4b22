"""The files beside a store, looked at before SQLite sees them.

SQLite does what a journal says, whoever wrote it: one that names a "super-journal" lets it delete
any file, and a write-ahead log or a link lets it write to one. A store of ours has a rollback
journal without such a name, and an empty lock file; nothing else is ever opened.
"""

import os
import stat
from pathlib import Path

from dripgate.errors import StoreError
from dripgate.store.space import PAGE

_MAGIC = bytes.fromhex("d9d505f920a163d7")
_NAME_END = 16  # bytes behind a super-journal's name: its length, its checksum, the magic
_LONGEST_NAME = 4096


def check_beside(path: Path) -> None:
    """Raise StoreError where a file beside a store is none that a store of ours has."""
    for suffix in ("-wal", "-shm", "-lock-journal", "-lock-wal", "-lock-shm"):
        if os.path.lexists(f"{path}{suffix}"):
            raise _strange(path, suffix, "is no file of a dripgate store")
    if (size := plain_size(path, "-lock")) > 0:
        raise _strange(path, "-lock", f"holds {size:,} bytes, but the lock of a store is empty")
    if plain_size(path, "-journal") > 0:
        check_journal(path, Path(f"{path}-journal"))


def check_journal(path: Path, journal: Path) -> None:
    """Raise StoreError for a journal that asks for more than pages of the store itself.

    Nobody holds a lock on a journal, so it may be opened and closed here.
    """
    with journal.open("rb") as file:
        head = file.read(28)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _NAME_END - _LONGEST_NAME))
        tail = file.read()
    if name := _super_journal(tail):
        raise _strange(path, "-journal", f"names another file to be deleted ({name})")
    page = int.from_bytes(head[24:28], "big")
    if head.startswith(_MAGIC) and len(head) == 28 and page != PAGE:
        raise _strange(path, "-journal", f"has pages of {page:,} bytes, a store has {PAGE:,}")


def _super_journal(tail: bytes) -> str:
    """The name that SQLite would obey, by https://www.sqlite.org/fileformat2.html; else ""."""
    if len(tail) < _NAME_END or not tail.endswith(_MAGIC):
        return ""
    length, checksum = (int.from_bytes(tail[at : at + 4], "big") for at in (-16, -12))
    name = tail[-_NAME_END - length : -_NAME_END] if 0 < length <= len(tail) - _NAME_END else b""
    # SQLite adds its bytes up, signed on some machines; what only resembles a name is a sample's.
    sums = {sum(name) & 0xFFFFFFFF, (sum(name) - 256 * sum(b > 127 for b in name)) & 0xFFFFFFFF}
    return name.decode("utf-8", "backslashreplace") if name and checksum in sums else ""


def plain_size(path: Path, suffix: str) -> int:
    """Bytes of a plain file beside the store; 0 where there is none."""
    try:
        found = os.lstat(f"{path}{suffix}")
    except FileNotFoundError:
        return 0
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise _strange(path, suffix, "is a link or no plain file")
    return found.st_size


def _strange(path: Path, suffix: str, what: str) -> StoreError:
    return StoreError(
        f"{path}{suffix} {what}, so it is not opened: move it away if you trust the store, or "
        f"write what is whole into a new one: dripgate inspect {path} --salvage OUT"
    )
