"""What can be asked of a store. Every read is short and holds no lock afterwards, so that no
reader, however slow, keeps the writer from committing.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from dripgate.errors import StoreError
from dripgate.store.records import Change, Outcome, StoredSample, Summary, stored_sample
from dripgate.store.schema import COLUMNS, snapshot, sqlite_errors
from dripgate.types import Array, Decision

_NEXT = f"""
SELECT key, {COLUMNS} FROM samples JOIN payloads USING (key)
WHERE key > :after AND (:decision IS NULL OR decision = :decision)
  AND (:labelled IS NULL OR (label IS NOT NULL) = :labelled)
ORDER BY key"""  # noqa: S608 - our own constant
_PENDING = f"""
SELECT key, {COLUMNS} FROM samples INDEXED BY samples_pending JOIN payloads USING (key)
WHERE uploaded = 0 AND key > :after
ORDER BY key"""  # noqa: S608 - our own constant
_STRAYS = """
SELECT 'samples without a payload', count(*) FROM samples WHERE key NOT IN
  (SELECT key FROM payloads)
UNION ALL SELECT 'payloads without a sample', count(*) FROM payloads WHERE key NOT IN
  (SELECT key FROM samples)
UNION ALL SELECT 'embeddings without a sample', count(*) FROM embeddings WHERE key NOT IN
  (SELECT key FROM samples)
UNION ALL SELECT 'bytes that the shares are wrong by', abs(sum(
  CASE name WHEN 'audited' THEN value ELSE 0 END) - (SELECT coalesce(sum(footprint), 0)
  FROM samples WHERE pool = 'audit')) + abs(sum(
  CASE name WHEN 'quarantined' THEN value ELSE 0 END) - (SELECT coalesce(sum(footprint), 0)
  FROM samples WHERE pool = 'quarantine')) FROM settings"""
_GET = f"SELECT {COLUMNS} FROM samples JOIN payloads USING (key) WHERE id = ?"  # noqa: S608
_OUTCOMES = """
SELECT source, decision, reason, predicted, propensity, label FROM samples ORDER BY key"""
_EMBEDDINGS = "SELECT key, width, numbers FROM embeddings WHERE key > ? ORDER BY key LIMIT ?"
#: Samples are read in parts of about so many rows or bytes.
_PART_ROWS, _PART_BYTES = 256, 2**20
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
    _db: sqlite3.Connection
    _open: ExitStack

    def close(self) -> None:
        """Close the store; a second time does nothing."""
        self._open.close()

    def __enter__(self) -> Self:
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
        return stored_sample(rows[0]) if rows else None

    def samples(
        self, *, decision: Decision | None = None, labelled: bool | None = None
    ) -> Iterator[StoredSample]:
        """Samples in the order of their insertion, about a megabyte in memory at a time.

        decision: only these. labelled: only those with (True) or without (False) a label. What is
        put meanwhile comes at the end; what is evicted meanwhile may still be met.
        """
        wanted = {"decision": decision and decision.value, "labelled": labelled, "after": 0}
        while rows := self._part(_NEXT, wanted):
            yield from (stored_sample(row[1:]) for row in rows)
            wanted["after"] = rows[-1][0]

    def pending(self, limit: int, *, after: str | None = None) -> list[StoredSample]:
        """The oldest samples that are not uploaded yet, at most ``limit``, oldest first.

        Fewer where they are large: about a megabyte together, but at least one. after: only those
        that were stored later than the sample with this id, such as the last one on its way; an
        id that is not in the store is as None.
        """
        if limit < 1:
            return []
        found = self._query("SELECT key FROM samples WHERE id = ?", (digest(after or ""),))
        rows = self._part(_PENDING, {"after": found[0][0] if found else 0}, limit)
        return [stored_sample(row[1:]) for row in rows]

    @property
    def backlog(self) -> int:
        """How many samples are not uploaded yet."""
        return int(self._query("SELECT count(*) FROM samples WHERE uploaded = 0")[0][0])

    def outcomes(self) -> list[Outcome]:
        """What was decided about each sample, and its label, without the payloads."""
        return [Outcome(*row) for row in self._query(_OUTCOMES)]

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
            for change, time, who, undone in rows
        ]  # fmt: skip

    def _labels_of(self, change: int) -> dict[str, tuple[str | None, str | None]]:
        rows = self._query("SELECT id, before, after FROM labels WHERE change = ?", (change,))
        return {id.hex(): (before, after) for id, before, after in rows}

    def embeddings(self, *, after: int = 0, most: int = 4096) -> Embeddings:
        """Embeddings in the order their samples were stored, after the key ``after``, a part at a
        time: only those as wide as the first of the part. Empty where there are no more.
        """
        rows = self._query(_EMBEDDINGS, (after, most))
        width = rows[0][1] if rows else 0
        known = [row for row in rows if row[1] == width]
        values = np.frombuffer(b"".join(row[2] for row in known), "<f2").reshape(len(known), width)
        keys = np.array([row[0] for row in known], np.int64)
        return Embeddings(keys, values, rows[-1][0] if rows else after)

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that are not in the store, in their order."""
        return [id for id in ids if id not in self]

    @property
    def limit(self) -> int | None:
        """Bytes that all files of the store may take together; None is no limit."""
        limit: int | None = self._setting("limit")
        return limit

    @property
    def counters(self) -> dict[str, int]:
        """All counters: the caller's, ``refused``, and ``evicted_…`` by reason."""
        return dict(self._query("SELECT name, value FROM counters ORDER BY name"))

    @property
    def meta(self) -> dict[str, str]:
        """All texts noted with ``set_meta``."""
        return dict(self._query("SELECT key, value FROM meta ORDER BY key"))

    @property
    def disk_bytes(self) -> int:
        """Sum of the sizes of the store's files, journal included."""
        return sum(file_size(Path(f"{self.path}{suffix}")) for suffix in _FILES)

    def summary(self) -> Summary:
        """Counts and sizes at one moment."""
        with sqlite_errors(self.path), snapshot(self._db):
            return self._summary()

    def check(self) -> list[str]:
        """What is wrong with the file, one line each; empty is sound.

        Reads everything: SQLite's own check of its structure, each payload against its id, and
        what is remembered about sizes against the samples.
        """
        try:
            problems = [row for (row,) in self._query("PRAGMA integrity_check") if row != "ok"]
            return problems or [*self._strays(), *self._changed()]
        except StoreError as error:  # too damaged to be read to the end
            return [str(error)]

    def _changed(self) -> Iterator[str]:
        for stored in self:
            if not stored.intact:
                yield f"sample {stored.id}: its payload has another hash"

    def _strays(self) -> Iterator[str]:
        for what, count in self._query(_STRAYS):
            if count:
                yield f"{what}: {count:,}"

    def _part(
        self, sql: str, wanted: dict[str, Any], most: int = _PART_ROWS
    ) -> list[tuple[Any, ...]]:
        rows, size = [], 0
        with (
            sqlite_errors(self.path),
            snapshot(self._db),
            closing(self._db.execute(sql, wanted)) as cursor,
        ):
            for row in cursor:
                rows.append(row)
                size += len(row[-1])
                if len(rows) == most or size > _PART_BYTES:
                    break
        return rows

    def _summary(self) -> Summary:
        samples, labelled, uploaded, payload = self._query(
            "SELECT count(*), count(label), coalesce(sum(uploaded), 0), coalesce(sum(bytes), 0)"
            " FROM samples"
        )[0]
        return Summary(
            samples=samples,
            decisions=self._counts("decision"),
            reasons=self._counts("reason"),
            predicted=self._counts("predicted"),
            labelled=labelled,
            uploaded=uploaded,
            payload_bytes=payload,
            disk_bytes=self.disk_bytes,
            limit=self.limit,
            counters=self.counters,
            gate=self.meta.get("gate_id", ""),
        )

    def _counts(self, column: str) -> dict[Any, int]:
        """Samples per value of a column; ``column`` is ours, never a user's."""
        return dict(
            self._query(f"SELECT {column}, count(*) FROM samples GROUP BY 1 ORDER BY 1")  # noqa: S608
        )

    def _setting(self, name: str) -> Any:
        rows = self._query("SELECT value FROM settings WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def _query(self, sql: str, parameters: tuple[Any, ...] | dict[str, Any] = ()) -> list[Any]:
        with sqlite_errors(self.path), snapshot(self._db):
            return self._db.execute(sql, parameters).fetchall()


def file_size(path: Path) -> int:
    """Bytes; 0 where there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def digest(id: object) -> bytes | None:
    """An id as the database holds it; None for what is no id."""
    try:
        return bytes.fromhex(id) if isinstance(id, str) and len(id) == 64 else None
    except ValueError:
        return None
