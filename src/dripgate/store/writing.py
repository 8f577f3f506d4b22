"""Writing to a store: durable when a call returns, and never over the limit.

Two rules carry both promises. Whatever is acknowledged has been committed with synchronous=FULL.
And evictions are committed before the samples they make room for are written: SQLite does not
journal a free page that it fills again, so the journal stays small whatever the payloads are.
"""

import math
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from dripgate.errors import StoreError
from dripgate.store import schema, space
from dripgate.store.reading import Reader, file_size
from dripgate.store.records import Candidate, candidate, clean_label
from dripgate.store.space import PAGE, SLACK, Victim
from dripgate.types import Decision, Sample, Verdict

T = TypeVar("T")

ADD = """
INSERT INTO counters (name, value) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"""
NOTE = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
_INSERT = """
INSERT INTO samples (id, source, time, decision, reason, score, quality, predicted, propensity,
                     detail, label, bytes, value, footprint)
VALUES (:id, :source, :time, :decision, :reason, :score, :quality, :predicted, :propensity,
        :detail, :label, :bytes, :value, :footprint)"""
_VICTIMS = """
SELECT key, decision, value, footprint FROM samples WHERE decision = ? ORDER BY value, key"""
_EVICTED = {Decision.QUARANTINE: "evicted_quarantine", Decision.KEEP: "evicted_limit"}


class Writer(Reader):
    """Transactions and room: what the public calls of a store are made of."""

    read_only: bool
    _limit: int | None
    _share: float

    # Transactions -------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self.read_only:
            raise StoreError(f"{self.path} was opened with read_only=True; open it for writing")
        with schema.sqlite_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite may have rolled back already, and the first error is the one to tell.
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _write(
        self,
        write: Callable[[T], None],
        items: Sequence[T],
        *,
        then: Mapping[str, int] | None = None,
        notes: Mapping[str, str] | None = None,
        spare: int = 0,
    ) -> int:
        """Write items in one transaction, as many as it may hold; returns how many.

        then, notes: counters to add and texts to note where the last item was written. spare:
        pages that must stay free.
        """
        increments = [(name, amount) for name, amount in (then or {}).items() if amount]
        if not items and not increments and not notes:
            return 0
        with self._transaction():
            for done, item in enumerate(items, 1):
                write(item)
                if done < len(items) and (self._journal_spent() or self._free_pages() < spare):
                    return done
            self._db.executemany(ADD, increments)
            self._db.executemany(NOTE, (notes or {}).items())
        return len(items)

    def _insert(self, one: Candidate) -> None:
        key = self._db.execute(_INSERT, one.row).lastrowid
        self._db.execute("INSERT INTO payloads VALUES (?, ?)", (key, one.row["payload"]))
        self._note_quarantined(one.decision, one.footprint)

    def _note_quarantined(self, decision: str, change: int) -> None:
        if decision == Decision.QUARANTINE:
            self._db.execute(
                "UPDATE settings SET value = value + ? WHERE name = 'quarantined'", (change,)
            )

    # Room ---------------------------------------------------------------------------------------

    def _sift(
        self, pairs: Iterable[tuple[Sample, Verdict]], labels: Mapping[str, str]
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
                waiting[sample.id] = candidate(len(waiting), sample, verdict, label)
        return ids, list(waiting.values())

    def _admit(self, waiting: list[Candidate]) -> list[Candidate]:
        """Evict what is worth less than those who wait; returns those for whom there is room.

        The plan rests on estimated sizes, so what it freed is measured before it is believed.
        """
        if self._limit is None:
            return waiting
        admitted: list[Candidate] = []
        for decision, reason in _EVICTED.items():
            pool = [one for one in waiting if one.decision is decision]
            while pool:
                with closing(self._victims(decision)) as victims:
                    pool, evicted = space.plan(pool, victims, self._room(decision))
                if not evicted:
                    break
                self._evict(evicted, reason)
            admitted += pool
        return sorted(admitted)

    def _room(self, decision: Decision) -> int:
        """Bytes free for this decision; what quarantine has left of its share is its own."""
        left = self._quarantine_left()
        free = int(self._free_pages() - SLACK) * PAGE
        return min(left, free) if decision is Decision.QUARANTINE else free - max(left, 0)

    def _quarantine_left(self) -> int:
        share = int(space.max_pages(self._limit or 0) * PAGE * self._share)
        return share - int(self._setting("quarantined"))

    def _victims(self, decision: Decision) -> Generator[Victim]:
        with (
            schema.sqlite_errors(self.path),
            closing(self._db.execute(_VICTIMS, (decision.value,))) as rows,
        ):
            yield from map(Victim._make, rows)

    def _least(self, decision: Decision, size: float) -> list[Victim]:
        """The least valuable samples that take about ``size`` bytes together."""
        chosen: list[Victim] = []
        with closing(self._victims(decision)) as victims:
            for victim in victims:
                if size <= 0:
                    break
                chosen.append(victim)
                size -= victim.footprint
        return chosen

    def _evict(self, victims: Sequence[Victim], reason: str) -> None:
        def delete(victim: Victim) -> None:
            self._db.execute("DELETE FROM samples WHERE key = ?", (victim.key,))
            self._db.execute("DELETE FROM payloads WHERE key = ?", (victim.key,))
            self._note_quarantined(victim.decision, -victim.footprint)
            self._db.execute(ADD, (reason, 1))

        while victims:
            victims = victims[self._write(delete, victims) :]

    def _make_spare(self, pages: int, reason: str = "evicted_limit") -> None:
        """Evict the least valuable until so many pages are free.

        What quarantine has over its share goes first, what it has within its share last.
        """
        while (short := (pages - self._free_pages()) * PAGE) > 0:
            over = -self._quarantine_left()
            victims = (
                self._least(Decision.QUARANTINE, min(short, over))
                or self._least(Decision.KEEP, short)
                or self._least(Decision.QUARANTINE, short)
            )
            if not victims:
                return
            self._evict(victims, reason)

    def _free_pages(self) -> float:
        if self._limit is None:
            return math.inf
        used = schema.pragma(self._db, "page_count") - schema.pragma(self._db, "freelist_count")
        return space.max_pages(self._limit) - used

    def _journal_spent(self) -> bool:
        """Whether one more row could take the journal out of its part of the limit."""
        if self._limit is None:
            return False
        size = file_size(Path(f"{self.path}-journal"))
        return size + space.row_journal_bound(self._limit) > space.journal_bound(self._limit)
