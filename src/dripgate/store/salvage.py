"""What is whole in a damaged store, written into a new one.

Nothing here trusts the file. Its pages are looked at one by one, in whatever order they lie, by
the layout of https://www.sqlite.org/fileformat2.html: a leaf of a table holds rows, a long row goes
on in a chain of pages. A payload counts only if its SHA-256 is written somewhere in the file, so
no half or mixed sample comes out, whatever is broken: the header, the index, any page.
"""

import hashlib
import mmap
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dripgate.errors import StoreError
from dripgate.store.beside import check_journal, plain_size
from dripgate.store.records import StoredSample, stored_sample
from dripgate.store.schema import connect, sqlite_errors
from dripgate.store.space import PAGE
from dripgate.store.store import Store
from dripgate.types import Decision, Reason, Verdict

_LEAF = 0x0D
_LARGEST_LOCAL, _SMALLEST_LOCAL, _OVERFLOW = PAGE - 35, 489, PAGE - 4
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # bytes by serial type
#: Columns of a row of ``samples`` in the order of the file: 15 in schema 1, then ``uploaded``,
#: ``ran`` and ``gate``.
_COLUMNS = 15
_LONGEST_ROW = 1 << 16  # bytes of a row of samples: its texts are bounded
_LOST = "salvaged: its verdict was lost"


class Salvaged(msgspec.Struct, frozen=True, kw_only=True):
    """What a salvage found.

    whole: samples written, of which ``without_verdict`` are quarantined because theirs was lost.
    damaged: payloads that were there but not whole, or rows without one. limit: of the damaged
    store; None is none, or not known. The new store has none, so that all finds room. journal: why
    the journal beside the store was not used, if it was not.
    """

    whole: int = 0
    without_verdict: int = 0
    damaged: int = 0
    limit: int | None = None
    journal: str = ""


class _Row(NamedTuple):
    key: int
    values: list[Any]


def salvage(path: Path, out: Path, *, told: Callable[[int], None] = lambda _: None) -> Salvaged:
    """Write every whole sample of a damaged store into a new one; the damaged file is only read.

    Takes room for a copy beside ``out``. told: is given the number of samples so far. Counters
    and texts are taken over where SQLite can still read them. What was deleted may come back
    where the list of free pages is lost. Raises StoreError where the file cannot be read, or
    ``out`` exists.
    """
    if out.exists():
        raise StoreError(f"{out} exists; give the path of a new store")
    if path.exists() and not path.is_file():
        raise StoreError(f"{path} is not a regular file, so it is no store; give another path")
    with (
        sqlite_errors(path),
        tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.absolute().parent) as scratch,
    ):
        copy = Path(scratch) / "copy.db"
        shutil.copyfile(path, copy)
        unused = _undo(path, copy)
        known = _readable(copy)
        if not copy.stat().st_size:
            return Salvaged(journal=unused)
        with copy.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return msgspec.structs.replace(_rescue(data, out, known, told), journal=unused)


def _undo(path: Path, copy: Path) -> str:
    """Undo an unfinished transaction in the copy, if its journal is one of ours and whole.

    Returns why the journal was not used, if it was not.
    """
    journal = Path(f"{copy}-journal")
    try:
        if plain_size(path, "-journal"):
            shutil.copyfile(f"{path}-journal", journal)
            check_journal(path, journal)
    except StoreError as error:
        journal.unlink(missing_ok=True)
        return str(error).partition(", so it")[0]
    with suppress(sqlite3.Error), closing(sqlite3.connect(copy)) as db:
        db.execute("PRAGMA schema_version").fetchone()
    return ""


def _rescue(
    data: mmap.mmap, out: Path, known: dict[str, dict[str, Any]], told: Callable[[int], None]
) -> Salvaged:
    free = _free_pages(data)
    rows = [one for one in _rows(data, free, blobs=False) if len(one.values) >= _COLUMNS]
    verdicts = {one.values[1]: one for one in rows}
    whole = without = damaged = 0
    with Store(out) as store:
        for part in _parts(one.values[1] for one in _rows(data, free, blobs=True)):
            found: dict[str, StoredSample] = {}
            for payload in part:
                digest = hashlib.sha256(payload).digest()
                row = verdicts.pop(digest, None)
                if row is None and (digest.hex() in found or digest.hex() in store):
                    continue  # an old copy of the page
                if row is None and data.find(digest) < 0:
                    damaged += 1
                    continue
                restored = _restored(row, payload) if row else None
                without += restored is None
                found[digest.hex()] = restored or _alone(digest, payload)
            store.put_many(
                [(one.sample, one.verdict) for one in found.values()],
                labels={id: one.label for id, one in found.items() if one.label is not None},
                gates={id: one.gate for id, one in found.items() if one.gate},
            )
            store.mark_uploaded(id for id, one in found.items() if one.uploaded)
            whole += len(found)
            told(whole)
        store.count(**known["counters"])
        for key, value in known["meta"].items():
            store.set_meta(key, value)
    limit = known["settings"].get("limit")
    limit = limit if isinstance(limit, int) and limit > 0 else None
    return Salvaged(
        whole=whole, without_verdict=without, damaged=damaged + len(verdicts), limit=limit
    )


def _parts(payloads: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Some at a time: one commit each."""
    part: list[bytes] = []
    for payload in payloads:
        part.append(payload)
        if len(part) == 256 or sum(map(len, part)) > 2**22:
            yield part
            part = []
    yield part


def _restored(row: _Row, payload: bytes) -> StoredSample | None:
    """From a row of the file; None where its values cannot be a verdict's."""
    with suppress(msgspec.ValidationError):
        later = row.values[_COLUMNS:]
        uploaded, _, gate = later + [0, 0.0, None][len(later) :]
        return stored_sample((*row.values[1:12], uploaded, gate, payload))
    return None


def _alone(digest: bytes, payload: bytes) -> StoredSample:
    verdict = Verdict(
        decision=Decision.QUARANTINE, reason=Reason.QUALITY, score=float("nan"),
        quality=float("nan"), predicted=-1, propensity=1.0, detail=_LOST,
    )  # fmt: skip
    fields = {name: getattr(verdict, name) for name in verdict.__struct_fields__}
    return StoredSample(
        id=digest.hex(), payload=payload, source="", time=float("nan"), label=None,
        uploaded=False, **fields,
    )  # fmt: skip


def _readable(copy: Path) -> dict[str, dict[str, Any]]:
    """The small tables, as far as SQLite can read them and they hold what is ours."""
    known: dict[str, dict[str, Any]] = {"settings": {}, "counters": {}, "meta": {}}
    kinds: dict[str, Any] = {"settings": (int, float), "counters": int, "meta": str}
    with suppress(StoreError, sqlite3.Error), closing(connect(copy, create=True)) as db:
        for table, values in known.items():
            with suppress(sqlite3.Error):
                rows = db.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - ours
                values.update(
                    (key, value) for key, value in rows
                    if isinstance(key, str) and isinstance(value, kinds[table])
                )  # fmt: skip
    return known


# The pages of the file ---------------------------------------------------------------------------


def _free_pages(data: mmap.mmap) -> set[int]:
    """Pages with what was deleted; as many as the list still tells."""
    free: set[int] = set()
    trunk = struct.unpack_from(">I", data, 32)[0] if len(data) >= PAGE else 0
    while trunk and trunk not in free and trunk * PAGE <= len(data):
        free.add(trunk)
        at = (trunk - 1) * PAGE
        following, count = struct.unpack_from(">II", data, at)
        leaves = struct.unpack_from(f">{min(count, PAGE // 4 - 2)}I", data, at + 8)
        free.update(leaves)
        trunk = following
    return free


def _rows(data: mmap.mmap, free: set[int], *, blobs: bool) -> Iterator[_Row]:
    """The rows that can be read: of ``payloads`` (blobs) or of tables with more columns."""
    for number in range(1, len(data) // PAGE + 1):
        start = (number - 1) * PAGE
        if number in free or data[start] != _LEAF:
            continue
        count = struct.unpack_from(">H", data, start + 3)[0]
        for pointer in struct.unpack_from(f">{min(count, PAGE // 2 - 4)}H", data, start + 8):
            with suppress(ValueError, IndexError, struct.error, OverflowError, RecursionError):
                row = _row(data, start, pointer, blobs)
                if row:
                    yield row


def _row(data: mmap.mmap, start: int, pointer: int, blobs: bool) -> _Row | None:
    size, at = _varint(data, start + pointer)
    key, at = _varint(data, at)
    local = _local(size)
    if size > len(data) or at + local > start + PAGE:
        raise ValueError("outside of its page")
    head, end = _varint(data, at)
    types = []
    while end < at + head:
        kind, end = _varint(data, end)
        types.append(kind)
    if not blobs and size > _LONGEST_ROW:
        return None
    payload_alone = len(types) == 2 and types[0] == 0 and types[1] >= 12 and types[1] % 2 == 0
    if payload_alone is not blobs:
        return None
    body = data[at : at + local]
    if local < size:
        body += _chain(data, at + local, size - local)
    return _Row(key, _values(body, head, types))


def _local(size: int) -> int:
    """How many bytes of a row lie in the leaf itself."""
    if size <= _LARGEST_LOCAL:
        return size
    local = _SMALLEST_LOCAL + (size - _SMALLEST_LOCAL) % _OVERFLOW
    return local if local <= _LARGEST_LOCAL else _SMALLEST_LOCAL


def _chain(data: mmap.mmap, at: int, left: int) -> bytes:
    parts, seen = [], set[int]()
    while left > 0:
        page = struct.unpack_from(">I", data, at)[0]
        if not 1 < page <= len(data) // PAGE or page in seen:
            raise ValueError("the chain is broken")
        seen.add(page)
        at = (page - 1) * PAGE
        parts.append(data[at + 4 : at + 4 + min(left, _OVERFLOW)])
        left -= _OVERFLOW
    return b"".join(parts)


def _values(body: bytes, at: int, types: list[int]) -> list[Any]:
    values: list[Any] = []
    for kind in types:
        size = _INTEGERS.get(kind, 8 if kind == 7 else (kind - 12) // 2 if kind >= 12 else 0)
        part = body[at : at + size]
        if len(part) != size:
            raise ValueError("the row is cut")
        at += size
        if kind in _INTEGERS:
            values.append(int.from_bytes(part, "big", signed=True))
        elif kind == 7:
            values.append(struct.unpack(">d", part)[0])
        elif kind >= 12:
            values.append(part if kind % 2 == 0 else part.decode())
        else:
            values.append({0: None, 8: 0, 9: 1}[kind])
    return values


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for place in range(9):
        byte = data[at + place]
        if place == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + place + 1
    raise AssertionError
