"""Writing to a store: durable when a call returns, and never over the limit.

Two rules carry both promises. Whatever is acknowledged has been committed with synchronous=FULL.
And evictions are committed before the samples they make room for are written: SQLite does not
journal a free page that it fills again, so the journal stays small whatever the payloads are.
"""

import math
import sqlite3
import time as clock
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from dripgate.errors import StoreError
from dripgate.progress import Progress
from dripgate.store import schema, space
from dripgate.store.age import Tenure
from dripgate.store.browse import Browsing
from dripgate.store.records import (
    LONGEST_SAID,
    Candidate,
    Decided,
    Event,
    Wanted,
    candidate,
    clean,
    clean_label,
    packed,
    typed,
)
from dripgate.store.space import PAGE, SLACK, Pool, Victim
from dripgate.types import Array, Sample, Verdict

T = TypeVar("T")

ADD = """
INSERT INTO counters (name, value) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"""
NOTE = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
_INSERT = """
INSERT INTO samples (id, source, time, decision, reason, score, quality, predicted, propensity,
                     detail, label, bytes, value, footprint, ran, gate)
VALUES (:id, :source, :time, :decision, :reason, :score, :quality, :predicted, :propensity,
        :detail, :label, :bytes, :value, :footprint, :ran, :gate)"""
_VICTIMS = """
SELECT key, pool, uploaded, worth, footprint FROM samples
WHERE pool = ? ORDER BY uploaded DESC, worth, key"""
_MATCHING = """
SELECT key, pool, uploaded, worth, footprint FROM samples
WHERE (:uploaded IS NULL OR uploaded = :uploaded)
  AND (:labelled IS NULL OR (label IS NOT NULL) = :labelled)
  AND (:decision IS NULL OR decision = :decision) AND (:before IS NULL OR time < :before)
  AND (:stored_before IS NULL OR (uploaded AND label IS NOT NULL)
       OR coalesce(ran, 0) < :stored_before)
LIMIT 1000"""
#: Key and right time of samples whose time cannot be.
WRONG = """
SELECT key, :now - (:ran - ran) FROM samples
WHERE ran IS NOT NULL
  AND (time < 1e9 OR (key > :since AND abs(time - (:now - (:ran - ran))) > 60)) LIMIT 1000"""
_LOG = """
INSERT INTO events (device, number, time, what, gate, said, uploaded)
SELECT :device, :number, :time, :what, :gate, :said, 0 WHERE NOT EXISTS
  (SELECT 1 FROM events WHERE device = :device AND number = :number AND time = :time)"""
#: Never the last of this device: its number is where numbers go on.
_FORGET_EVENTS = """
DELETE FROM events WHERE event <= (SELECT max(event) FROM events) - ?
  AND event < coalesce((SELECT max(event) FROM events WHERE device = ''), 1 << 62)"""
_SET = "INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)"
_EVICTED = {
    Pool.QUARANTINE: "evicted_quarantine", Pool.AUDIT: "evicted_audit", Pool.KEEP: "evicted_limit"
}  # fmt: skip
_REFUSED = {
    Pool.QUARANTINE: "refused_quarantine", Pool.AUDIT: "refused_audit", Pool.KEEP: "refused"
}  # fmt: skip
_Seconds: Any = float | None
_Share: Any = Annotated[float, msgspec.Meta(ge=0, le=1)] | None
DEFAULT_SHARES = {Pool.QUARANTINE: space.QUARANTINE_SHARE, Pool.AUDIT: space.AUDIT_SHARE}
#: Where bytes in a pool are counted, for those that have a share.
_TAKEN = {Pool.QUARANTINE: "quarantined", Pool.AUDIT: "audited"}


class Writer(Browsing):
    """Transactions and room: what the public calls of a store are made of."""

    read_only: bool
    _limit: int | None
    _shares: dict[Pool, float]
    _embeds: bool  # not yet, while an older store is brought up to date
    _tenure: Tenure
    #: Told where a reader keeps a commit waiting.
    on_wait: Callable[[str], object] = staticmethod(lambda _: None)

    # Transactions -------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self.read_only:
            raise StoreError(f"{self.path} was opened with read_only=True; open it for writing")
        with schema.sqlite_errors(self.path):
            self._patiently("BEGIN IMMEDIATE")
            try:
                yield
                self._patiently("COMMIT")
            except BaseException:
                # SQLite may have rolled back already, and the first error is the one to tell.
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _patiently(self, statement: str) -> None:
        schema.patiently(self._db, statement, lambda text: self.on_wait(f"{self.path}: {text}"))

    def _write(
        self,
        write: Callable[[T], None],
        items: Sequence[T],
        *,
        then: Mapping[str, int] | None = None,
        notes: Mapping[str, str] | None = None,
        decided: Decided | None = None,
        events: Sequence[Event] = (),
        spare: int = 0,
        first: int = 0,
    ) -> int:
        """Write items in one transaction, as many as it may hold; returns how many.

        then, notes, decided, events: counters to add, and what to note, where the last item was
        written. spare: pages that must stay free. first: pages that must be free before the first
        item: another process may have taken some since they were counted, and then nothing is
        written.
        """
        increments = [(name, amount) for name, amount in (then or {}).items() if amount]
        if not (items or increments or notes or decided or events):
            return 0
        with self._transaction():
            if items and first and self._free_pages() < first:  # evictions ask for none
                return 0
            for done, item in enumerate(items, 1):
                write(item)
                if done < len(items) and (self._journal_spent() or self._free_pages() < spare):
                    return done
            self._db.executemany(ADD, increments)
            self._db.executemany(NOTE, (notes or {}).items())
            if decided:
                self._note_decided(decided)
            self._note_events(events)
        return len(items)

    def _note_decided(self, decided: Decided) -> None:
        """Append to the ledger, and forget the oldest where it has more than its part."""
        self._db.execute("DELETE FROM decided WHERE open = 1")
        last = self._db.execute("SELECT coalesce(max(upto), 0) FROM decided").fetchone()[0]
        for is_open, marks in ((0, decided.marks), (1, decided.leaving)):
            if marks:
                last += len(marks)
                row = (last, is_open, decided.newest, marks)
                self._db.execute("INSERT INTO decided VALUES (?, ?, ?, ?)", row)
        oldest = (last - space.ledger_bound(self._limit),)
        if decided.crowded:
            (floor,) = self._db.execute("SELECT max(newest) FROM decided WHERE upto <= ?", oldest)
            if floor[0]:
                self._db.execute(_SET, ("floor", floor[0]))
        self._db.execute("DELETE FROM decided WHERE upto <= ?", oldest)

    def _note_events(self, events: Sequence[Event]) -> list[Event]:
        """Append to the log, and forget the oldest where it has more than its part. Returns those
        that it did not have.
        """
        new = []
        for one in events:
            row = msgspec.structs.asdict(one)
            row |= {name: clean(row[name]) for name in ("device", "what", "gate", "said")}
            row["said"] = row["said"][:LONGEST_SAID]
            if not one.device:
                found = self._db.execute("SELECT max(number) FROM events WHERE device = ''")
                row["number"] = (found.fetchone()[0] or 0) + 1
            if self._db.execute(_LOG, row).rowcount:
                new.append(one)
        if events:
            self._db.execute(_FORGET_EVENTS, (space.log_bound(self._limit),))
        return new

    def _set_time(self, key_and_time: tuple[int, float]) -> None:
        key, time = key_and_time
        self._db.execute("UPDATE samples SET time = ? WHERE key = ?", (time, key))

    def _begin_tenure(self) -> None:
        ran, wall = (self._setting(name, _Seconds) for name in ("ran", "wall"))
        self._tenure.begin(ran or 0.0, wall)

    def _save_tenure(self) -> None:
        with self._transaction():
            self._db.executemany(_SET, self._tenure.state.items())

    def _insert(self, one: Candidate) -> None:
        key = self._db.execute(_INSERT, one.row | {"ran": self._tenure.ran}).lastrowid
        self._db.execute("INSERT INTO payloads VALUES (?, ?)", (key, one.row["payload"]))
        if one.row["numbers"] is not None:
            self._db.execute(
                "INSERT INTO embeddings VALUES (?, ?, ?)",
                (key, len(one.row["numbers"]) // 2, one.row["numbers"]),
            )
        self._note_taken(one.pool, one.footprint)

    def _note_taken(self, pool: Pool, change: int) -> None:
        if pool in _TAKEN:
            self._db.execute(
                "UPDATE settings SET value = value + ? WHERE name = ?", (change, _TAKEN[pool])
            )

    # Room ---------------------------------------------------------------------------------------

    def _sift(
        self,
        pairs: Iterable[tuple[Sample, Verdict]],
        labels: Mapping[str, str],
        embeddings: Mapping[str, Array],
        gates: Mapping[str, str],
    ) -> tuple[list[str], list[Candidate]]:
        """All ids, and the samples that are new, once each."""
        ids: list[str] = []
        waiting: dict[str, Candidate] = {}
        for sample, verdict in pairs:
            if not verdict.stored:
                raise ValueError(
                    f"sample {sample.id} ({sample.source}) is to be dropped, not stored"
                )
            ids.append(sample.id)
            if sample.id not in waiting and sample.id not in self:
                label = clean_label(labels.get(sample.id))
                numbers = packed(embeddings.get(sample.id))
                gate = gates.get(sample.id)
                waiting[sample.id] = candidate(len(waiting), sample, verdict, label, numbers, gate)
        return ids, list(waiting.values())

    def _admit(self, waiting: list[Candidate]) -> tuple[list[Candidate], Counter[str]]:
        """Evict what is worth less than those who wait; returns those for whom there is room, and
        how many were refused.
        """
        if self._limit is None:
            return waiting, Counter()
        admitted: list[Candidate] = []
        for pool in Pool:  # audit before keep, which takes what is left
            admitted += self._admit_to(pool, [one for one in waiting if one.pool is pool], admitted)
        places = {one.position for one in admitted}
        refused = Counter(_REFUSED[one.pool] for one in waiting if one.position not in places)
        return sorted(admitted), refused

    def _admit_to(
        self, pool: Pool, asking: list[Candidate], admitted: Sequence[Candidate]
    ) -> list[Candidate]:
        """Those of one pool for whom there is room beside the ones admitted before.

        The plan rests on estimated sizes, so what it freed is measured before it is believed.
        """
        audits = sum(one.footprint for one in admitted if one.pool is Pool.AUDIT)
        while asking:
            self._borrow(pool, sum(one.footprint for one in asking), audits)
            with closing(self._victims(pool)) as victims:
                asking, evicted = space.plan(asking, victims, self._room(pool) - audits)
            if not evicted:
                break
            self._evict(evicted)
        return asking

    def _borrow(self, pool: Pool, need: int, audits: int) -> None:
        """Evict from the other pool what is on the wrong side of the audit's share.

        Rows share pages, so a row frees less than it takes: measured until it is enough.
        """
        if pool is Pool.QUARANTINE:
            return
        while True:
            left, room = self._left(Pool.AUDIT) - audits, self._room(Pool.KEEP) - audits
            if pool is Pool.AUDIT:
                victims = self._least(Pool.KEEP, min(need, left) - room)
            else:
                victims = self._least(Pool.AUDIT, min(need - room, -left))
            if not victims:
                return
            self._evict(victims)

    def _room(self, pool: Pool) -> int:
        """Bytes free for this pool; what quarantine has left of its share is its own."""
        left = self._left(Pool.QUARANTINE)
        free = int(self._free_pages() - SLACK) * PAGE
        return min(left, free) if pool is Pool.QUARANTINE else free - max(left, 0)

    def _left(self, pool: Pool) -> int:
        """Bytes that a pool has left of its share; negative where it has more than that."""
        share = int(space.max_pages(self._limit or 0) * PAGE * self._shares[pool])
        return share - self._setting(_TAKEN[pool], int)

    def _victims(self, pool: Pool) -> Generator[Victim]:
        with (
            schema.sqlite_errors(self.path),
            schema.snapshot(self._db),
            closing(self._db.execute(_VICTIMS, (pool.value,))) as rows,
        ):
            yield from (typed(row, Victim) for row in rows)

    def _delete(
        self, wanted: Wanted, reason: str, now: float | None = None, ran: float | None = None,
        told: Progress = lambda _: None,
    ) -> int:  # fmt: skip
        """Delete what matches, whoever it is; returns how many. ran: what is not both uploaded
        and labelled was stored before this, by the store's own clock. told: is given how many.
        """
        oldest = None if wanted.age is None else (clock.time() if now is None else now) - wanted.age
        asked = wanted._asdict() | {"before": oldest, "stored_before": ran}
        deleted = 0
        while rows := self._query(_MATCHING, asked):
            self._evict(self._typed(list[Victim], rows), reason)
            deleted += len(rows)
            told(deleted)
        return deleted

    def _least(self, pool: Pool, size: float) -> list[Victim]:
        """The samples that go first and take about ``size`` bytes together."""
        chosen: list[Victim] = []
        with closing(self._victims(pool)) as victims:
            while size > 0 and (victim := next(victims, None)):
                chosen.append(victim)
                size -= victim.footprint
        return chosen

    def _evict(self, victims: Sequence[Victim], reason: str | None = None) -> None:
        """Delete samples; counted under the reason, or under the one of their pool."""

        def delete(victim: Victim) -> None:
            pool = Pool(victim.pool)
            gone = self._db.execute("DELETE FROM samples WHERE key = ?", (victim.key,))
            if not gone.rowcount:  # whoever labels beside this writer evicted it meanwhile
                return
            self._db.execute("DELETE FROM payloads WHERE key = ?", (victim.key,))
            if self._embeds:
                self._db.execute("DELETE FROM embeddings WHERE key = ?", (victim.key,))
            self._note_taken(pool, -victim.footprint)
            name = (reason or _EVICTED[pool]) + ("_uploaded" if victim.uploaded else "")
            self._db.execute(ADD, (name, 1))

        while victims:
            victims = victims[self._write(delete, victims) :]

    def _make_spare(self, pages: int, reason: str | None = None) -> None:
        """Evict until so many pages are free.

        What a pool has over its share goes first, and what it has within its share last. Of audit
        samples a random one goes, whatever the reason, and they are counted as that.
        """
        while (short := (pages - self._free_pages()) * PAGE) > 0:
            over = {pool: min(short, -self._left(pool)) for pool in _TAKEN}
            for pool, size in [
                *over.items(), (Pool.KEEP, short), (Pool.QUARANTINE, short), (Pool.AUDIT, short)
            ]:  # fmt: skip
                if victims := self._least(pool, size):
                    self._evict(victims, None if pool is Pool.AUDIT else reason)
                    break
            else:
                return

    def _free_pages(self) -> float:
        if self._limit is None:
            return math.inf
        with schema.sqlite_errors(self.path), schema.snapshot(self._db):
            free = schema.pragma(self._db, "freelist_count")
            used = schema.pragma(self._db, "page_count") - free
        return space.max_pages(self._limit) - used

    def _journal_spent(self) -> bool:
        """Whether one more row could take the journal out of its part of the limit."""
        if self._limit is None:
            return False
        size = schema.file_size(Path(f"{self.path}-journal"))
        return size + space.row_journal_bound(self._limit) > space.journal_bound(self._limit)

    # Settings and the journal ---------------------------------------------------------------------

    def _know_settings(self) -> None:
        with schema.sqlite_errors(self.path), schema.snapshot(self._db):
            self._embeds = schema.pragma(self._db, "user_version") >= schema.WITH_EMBEDDINGS
        self._limit = self.limit
        known = ((pool, self._setting(f"{pool}_share", _Share)) for pool in DEFAULT_SHARES)
        self._shares = {
            pool: DEFAULT_SHARES[pool] if share is None else share for pool, share in known
        }

    def _remove_journal(self) -> None:
        """Leave one file: a cleanly closed store can be copied as it is."""
        with suppress(sqlite3.Error):
            self._db.execute("PRAGMA journal_mode = DELETE")
