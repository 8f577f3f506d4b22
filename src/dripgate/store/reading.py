"""What can be asked of a store. Every read is short and holds no lock afterwards, so that no
reader, however slow, keeps the writer from committing.
"""

import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np

from dripgate.errors import StoreError
from dripgate.progress import Progress
from dripgate.store.checking import problems, steps
from dripgate.store.records import (
    Change,
    Event,
    Ledger,
    StoredSample,
    Summary,
    stored_sample,
    typed,
)
from dripgate.store.schema import COLUMNS, file_size, snapshot, sqlite_errors
from dripgate.store.space import LEDGER, SMALLEST
from dripgate.types import Array, Decision

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")

_NEXT = f"""
SELECT key, {COLUMNS} FROM samples JOIN payloads USING (key)
WHERE key > :after AND (:decision IS NULL OR decision = :decision)
  AND (:labelled IS NULL OR (label IS NOT NULL) = :labelled)
ORDER BY key"""  # noqa: S608 - our own constant
_PENDING = f"""
SELECT key, {COLUMNS} FROM samples INDEXED BY samples_pending JOIN payloads USING (key)
WHERE uploaded = 0 AND key > :after
ORDER BY key"""  # noqa: S608 - our own constant
_GET = f"SELECT {COLUMNS} FROM samples JOIN payloads USING (key) WHERE id = ?"  # noqa: S608
_LABELS = """
SELECT label, count(*) FROM samples WHERE key BETWEEN :low AND :high AND label IS NOT NULL
GROUP BY 1"""
_COUNTS = """
SELECT decision, reason, predicted, count(*), count(label), sum(uploaded), sum(bytes)
FROM samples WHERE key BETWEEN :low AND :high GROUP BY 1, 2, 3"""
_DECIDED = "SELECT upto, open, marks FROM decided WHERE upto > ? ORDER BY upto LIMIT 1000"
_EMBEDDING_OF = "SELECT numbers FROM embeddings JOIN samples USING (key) WHERE id = ?"
_EMBEDDINGS = "SELECT key, width, numbers FROM embeddings WHERE key > ? ORDER BY key LIMIT ?"
#: Samples are read in parts of about so many rows or bytes.
_PART_ROWS, _PART_BYTES = 256, 2**20
_Changed: Any = tuple[int, float, str, int]
_Relabelled: Any = tuple[bytes, str | None, str | None]
_Embedded: Any = tuple[int, int, bytes]
_Marks: Any = Annotated[bytes, msgspec.Meta(max_length=LEDGER)]
_Noted: Any = tuple[int, Literal[0, 1], _Marks]
_Whole: Any = int | None
_Limit: Any = Annotated[int, msgspec.Meta(ge=SMALLEST)] | None
_LOG = "SELECT device, number, time, what, gate, said FROM events"
_EVENTS = f"{_LOG} ORDER BY event DESC LIMIT ?"
_UNSENT = f"{_LOG} WHERE device = '' AND NOT uploaded ORDER BY event LIMIT ?"
_Logged: Any = tuple[str, int, float, str, str, str]
_Reported: Any = tuple[str, float, str]
_FILES = ("", "-journal", "-wal", "-shm", "-lock")


class Embeddings(NamedTuple):
    """A part of the stored embeddings.

    keys: int64 (n,), the samples' places in the order of insertion. values: float16 (n, D).
    last: where the next part goes on.
    """

    keys: Array
    values: Array
    last: int


class Reader:
    """The reading half of a store."""

    path: Path
    _connection: sqlite3.Connection
    _open: ExitStack
    _closed = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner = os.getpid(), threading.get_ident()

    def close(self) -> None:
        """Close the store; a second time does nothing."""
        if not self._closed:
            self._owned()
            self._open.close()
            self._closed = True

    @property
    def _db(self) -> sqlite3.Connection:
        self._owned()
        if self._closed:
            raise StoreError(f"{self.path} is closed; open it again: Store(path)")
        return self._connection

    def _owned(self) -> None:
        """Raise StoreError where this is not the thread that opened the store."""
        process, thread = self._owner
        if process != os.getpid():
            raise StoreError(
                f"{self.path} was opened by another process, before a fork; open it where it is "
                "used: only one may write, any number may read with read_only=True"
            )
        if thread != threading.get_ident():
            raise StoreError(
                f"{self.path} was opened in another thread; use it in that one, or open it with "
                "read_only=True in each that reads"
            )

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of samples."""
        return int(self._query("SELECT count(*) FROM samples")[0][0])

    def __bool__(self) -> bool:
        """True: an empty store is a store."""
        return True

    def __contains__(self, id: object) -> bool:
        key = digest(id)
        return key is not None and bool(self._query("SELECT 1 FROM samples WHERE id = ?", (key,)))

    def __iter__(self) -> Iterator[StoredSample]:
        return self.samples()

    def get(self, id: str) -> StoredSample | None:
        """The sample with this id, 64 hex digits; None where there is none."""
        key = digest(id)
        rows = self._query(_GET, (key,)) if key is not None else []
        with sqlite_errors(self.path):
            return stored_sample(rows[0]) if rows else None

    def samples(
        self, *, decision: Decision | None = None, labelled: bool | None = None
    ) -> Iterator[StoredSample]:
        """Samples in the order of their insertion, about a megabyte in memory at a time.

        decision: only these. labelled: only those with (True) or without (False) a label. What is
        put meanwhile comes at the end; what is evicted meanwhile may still be met.
        """
        wanted = {"decision": decision and decision.value, "labelled": labelled, "after": 0}
        while found := self._part(_NEXT, wanted):
            yield from (stored for _, stored in found)
            wanted["after"] = found[-1][0]

    def pending(self, limit: int, *, after: str | None = None) -> list[StoredSample]:
        """The oldest samples that are not uploaded yet, at most ``limit``, oldest first.

        Fewer where they are large: about a megabyte together, but at least one. after: only those
        that were stored later than the sample with this id, such as the last one on its way; an
        id that is not in the store is as None.
        """
        if limit < 1:
            return []
        found = self._query("SELECT key FROM samples WHERE id = ?", (digest(after or ""),))
        part = self._part(_PENDING, {"after": found[0][0] if found else 0}, limit)
        return [stored for _, stored in part]

    @property
    def backlog(self) -> int:
        """How many samples are not uploaded yet."""
        return int(self._query("SELECT count(*) FROM samples WHERE uploaded = 0")[0][0])

    def labels(self) -> dict[str, int]:
        """Samples per label that was given to any."""
        found = Counter[str]()
        for step in steps(self._query):
            found.update(self._typed(dict[str, int], dict(self._query(_LABELS, step))))
        return dict(sorted(found.items()))

    def changes(self, *, since: int = 0, most: int = 100) -> list[Change]:
        """The newest changes of labels after the change ``since``, newest first, at most so many.

        Of changes made within one call that is larger than a transaction, all there is so far.
        """
        rows = self._query(
            "SELECT change, time, who, undone FROM changes WHERE change > ?"
            " ORDER BY change DESC LIMIT ?", (since, most),
        )  # fmt: skip
        return [
            Change(change=change, time=time, who=who, undone=bool(undone),
                   labels=self._labels_of(change))
            for change, time, who, undone in self._typed(list[_Changed], rows)
        ]  # fmt: skip

    def _labels_of(self, change: int) -> dict[str, tuple[str | None, str | None]]:
        rows = self._query("SELECT id, before, after FROM labels WHERE change = ?", (change,))
        known = self._typed(list[_Relabelled], rows)
        return {id.hex(): (before, after) for id, before, after in known}

    def embeddings(self, *, after: int = 0, most: int = 4096) -> Embeddings:
        """Embeddings in the order their samples were stored, after the key ``after``, a part at a
        time: only those as wide as the first of the part. Empty where there are no more.
        """
        rows = self._typed(list[_Embedded], self._query(_EMBEDDINGS, (after, most)))
        width = len(rows[0][2]) // 2 if rows else 0
        known = [row for row in rows if row[1] == width and len(row[2]) == 2 * width]
        values = np.frombuffer(b"".join(row[2] for row in known), "<f2").reshape(len(known), width)
        keys = np.array([row[0] for row in known], np.int64)
        return Embeddings(keys, values, rows[-1][0] if rows else after)

    def embedding_of(self, id: str) -> bytes:
        """A sample's embedding as it is stored, little-endian float16; b"" where there is none."""
        rows = self._typed(list[tuple[bytes]], self._query(_EMBEDDING_OF, (digest(id),)))
        return rows[0][0] if rows else b""

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that are not in the store, in their order."""
        return [id for id in ids if id not in self]

    def events(self, *, most: int = 100, unsent: bool = False) -> list[Event]:
        """The newest events of the log, oldest first; unsent: of this device, the oldest ones that
        the receiving end does not have.
        """
        rows = self._query(_UNSENT if unsent else _EVENTS, (most,))
        found = self._typed(list[_Logged], rows if unsent else rows[::-1])
        fields = ("device", "number", "time", "what", "gate", "said")
        return [Event(**dict(zip(fields, row, strict=True))) for row in found]

    def devices(self) -> dict[str, tuple[float, str]]:
        """By device that sends here: when its last report came, and the report, JSON text."""
        rows = self._query("SELECT name, time, said FROM devices ORDER BY name")
        return {name: (at, said) for name, at, said in self._typed(list[_Reported], rows)}

    @property
    def limit(self) -> int | None:
        """Bytes that all files of the store may take together; None is no limit."""
        limit: int | None = self._setting("limit", _Limit)
        return limit

    @property
    def counters(self) -> dict[str, int]:
        """All counters: the caller's, ``refused``, and ``evicted_…`` by reason."""
        found = self._query("SELECT name, value FROM counters ORDER BY name")
        return self._typed(dict[str, int], dict(found))

    @property
    def meta(self) -> dict[str, str]:
        """All texts noted with ``set_meta``."""
        return self._typed(
            dict[str, str], dict(self._query("SELECT key, value FROM meta ORDER BY key"))
        )

    def decided(self) -> Ledger:
        """What is noted about decided files, read in short parts."""
        found: dict[int, list[bytes]] = {0: [], 1: []}
        after = size = 0
        while size <= LEDGER and (rows := self._query(_DECIDED, (after,))):
            noted = self._typed(list[_Noted], rows)
            for _, is_open, marks in noted:
                found[is_open].append(marks)
                size += len(marks)
            after = noted[-1][0]
        staying, leaving = (b"".join(found[is_open]) for is_open in (0, 1))
        return Ledger(staying, leaving, self._setting("floor", _Whole) or 0)

    @property
    def disk_bytes(self) -> int:
        """Sum of the sizes of the store's files, journal included."""
        return sum(file_size(Path(f"{self.path}{suffix}")) for suffix in _FILES)

    def summary(self) -> Summary:
        """Counts and sizes; beside a writer each part of the samples is counted at its moment."""
        totals, counts = [0, 0, 0, 0], [Counter[Any](), Counter[Any](), Counter[Any]()]
        for step in steps(self._query):
            for *values, samples, labelled, uploaded, size in self._query(_COUNTS, step):
                for counter, value in zip(counts, values, strict=True):
                    counter[value] += samples
                part = samples, labelled, uploaded, size
                totals = [a + b for a, b in zip(totals, part, strict=True)]
        decisions, reasons, predicted = (dict(sorted(counter.items())) for counter in counts)
        found = {
            "samples": totals[0],
            "decisions": decisions,
            "reasons": reasons,
            "predicted": predicted,
            "labelled": totals[1],
            "uploaded": totals[2],
            "payload_bytes": totals[3],
            "disk_bytes": self.disk_bytes,
            "limit": self.limit,
            "counters": self.counters,
            "gate": self.meta.get("gate_id", ""),
        }
        return self._typed(Summary, found)

    def check(self, *, told: Progress = lambda _: None) -> list[str]:
        """What is wrong with the file, one line each; empty is sound.

        Reads everything: the structure, each payload against its id, and what is remembered about
        sizes against the samples; beside a writer in steps that do not keep it waiting.
        """
        try:
            return list(problems(self._query, iter(self), self.path, told))
        except StoreError as error:  # too damaged to be read to the end
            return [str(error)]

    def _part(
        self, sql: str, wanted: dict[str, Any], most: int = _PART_ROWS
    ) -> list[tuple[int, StoredSample]]:
        """Samples with their keys, as many as make a part."""
        found, size = [], 0
        with (
            sqlite_errors(self.path),
            snapshot(self._db),
            closing(self._db.execute(sql, wanted)) as cursor,
        ):
            for key, *row in cursor:
                found.append((key, stored_sample(row)))
                size += len(found[-1][1].payload)
                if len(found) == most or size > _PART_BYTES:
                    break
        return found

    def _setting(self, name: str, kind: type[T]) -> T:
        rows = self._query("SELECT value FROM settings WHERE name = ?", (name,))
        return self._typed(kind, rows[0][0] if rows else None)

    def _typed(self, kind: type[T], found: Any) -> T:
        """What was read, once it is what a dripgate could have written. Raises StoreError."""
        with sqlite_errors(self.path):
            return typed(found, kind)

    def _query(self, sql: str, parameters: tuple[Any, ...] | dict[str, Any] = ()) -> list[Any]:
        with sqlite_errors(self.path), snapshot(self._db):
            return self._db.execute(sql, parameters).fetchall()


def digest(id: object) -> bytes | None:
    """An id as the database holds it; None for what is no id."""
    try:
        return bytes.fromhex(id) if isinstance(id, str) and len(id) == 64 else None
    except ValueError:
        return None
