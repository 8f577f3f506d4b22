"""The store as its users see it."""

import os
import time as clock
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from dripgate.errors import StoreError
from dripgate.progress import Progress
from dripgate.store import schema, space
from dripgate.store.age import MACHINE, UNSET, Clocks, Tenure
from dripgate.store.labelling import Labelling
from dripgate.store.reading import digest
from dripgate.store.records import Decided, Event, Put, Wanted, clean
from dripgate.store.size import format_size, parse_size
from dripgate.store.space import PAGE, SPARE
from dripgate.store.writing import ADD, DEFAULT_SHARES, NOTE, WRONG
from dripgate.types import Array, Sample, Verdict

_SET = "INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)"
_NONE = Decided()
_DEFAULTS: dict[str, Any] = {
    "limit": None,
    **{f"{pool}_share": share for pool, share in DEFAULT_SHARES.items()},
    "quarantined": 0,
    "audited": 0,
}


class Store(Labelling):
    """The bounded, crash-safe database of kept samples.

    path: the file; made where there is none, and brought up to date where an older dripgate made
    it. limit: bytes, or text such as "500MB", that all its files together never exceed;
    remembered in the file, as are quarantine_share, the part of the limit (0 … 1) where
    quarantined samples live, and audit_share, the part that audit samples are sure of. A limit
    below what is there evicts the least valuable. read_only: beside a writer, or where nothing
    may change. clocks: the machine's time, and how it passes. ``on_wait`` is told, in a line,
    where another process keeps a write waiting.

    Raises:
        StoreError: the file is not a store, has a writer already, or the limit is impossible.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        limit: int | str | None = None,
        *,
        quarantine_share: float | None = None,
        audit_share: float | None = None,
        read_only: bool = False,
        clocks: Clocks = MACHINE,
    ) -> None:
        super().__init__(Path(path).resolve())  # as SQLite does before it names the journal
        self.read_only = read_only
        self._tenure = Tenure(clocks)
        self._limit = None  # until _prepare has read it
        shares = {"quarantine_share": quarantine_share, "audit_share": audit_share}
        wanted = _settings(self.path, limit, shares)
        with schema.sqlite_errors(self.path), ExitStack() as stack:
            self._connection = schema.connect(self.path, create=not read_only)
            stack.callback(self._connection.close)
            if read_only:
                self._db.execute("PRAGMA query_only = ON")
            else:
                stack.enter_context(closing(schema.lock(self.path)))
                schema.configure(self._db)
                stack.callback(self._remove_journal)
                self._prepare(wanted)
                self._begin_tenure()
                stack.callback(self._end_tenure)
            self._open = stack.pop_all()

    # Samples ------------------------------------------------------------------------------------

    def put(self, sample: Sample, verdict: Verdict, *, label: str | None = None) -> Put:
        """Store one sample; when this returns STORED or PRESENT it survives a power loss.

        Raises:
            ValueError: the verdict is to drop.
            StoreError: it could not be written; the store is as it was.
        """
        labels = {} if label is None else {sample.id: label}
        return self.put_many([(sample, verdict)], labels=labels)[0]

    def put_many(
        self,
        pairs: Iterable[tuple[Sample, Verdict]],
        *,
        labels: Mapping[str, str] | None = None,
        embeddings: Mapping[str, Array] | None = None,
        gates: Mapping[str, str] | None = None,
        counters: Mapping[str, int] | None = None,
        meta: Mapping[str, str] | None = None,
        decided: Decided | None = None,
        events: Sequence[Event] = (),
    ) -> list[Put]:
        """Store samples and add to counters, with as few commits as the limit allows: often one.

        labels: by sample id. embeddings: (D,) by sample id, of those that have one; stored as
        float16. gates: by sample id, the id of the gate that decided. counters: added, meta: noted
        as by ``set_meta``, decided: files, noted in the ledger, and events: appended to the log,
        all in the transaction of the last sample, so they never run ahead of the samples.
        Returns what became of each, in order, when all is durable.

        Raises: as ``put``; then earlier samples of the call may be stored, and nothing is counted.
        """
        ids, waiting = self._sift(pairs, labels or {}, embeddings or {}, gates or {})
        fate = dict.fromkeys(ids, Put.PRESENT) | dict.fromkeys((w.id for w in waiting), Put.REFUSED)
        added = Counter(counters or {})
        notes = {key: self._note(key, value) for key, value in (meta or {}).items()}
        size = sum(len(text.encode()) for text in notes.values()) + (decided or _NONE).size
        size += len(events) * PAGE // 2
        room = SPARE + size // (PAGE // 2)
        if notes or decided or events:
            self._make_spare(room)
        while True:
            admitted, refused = self._admit(waiting)
            added.update(refused)
            # What rows need together is an estimate; stop in time, and look again.
            largest = max((one.footprint for one in admitted), default=0)
            spare = room + largest // PAGE
            first = SPARE // 2 + largest // PAGE  # labels written beside may have taken some
            done = self._write(
                self._insert,
                admitted,
                then=added,
                notes=notes,
                decided=decided,
                events=events,
                spare=spare,
                first=first,
            )
            fate |= dict.fromkeys((one.id for one in admitted[:done]), Put.STORED)
            waiting = admitted[done:]
            if not waiting:
                return _in_order(ids, fate)

    def mark_uploaded(self, ids: Iterable[str]) -> int:
        """Note that the receiving end has these samples; returns how many of them are here.

        They are no longer ``pending``, and go first where room is needed. Ids that are not in the
        store are left out: they may have been evicted meanwhile.
        """
        waiting = [digest(id) for id in ids]
        marked = 0

        def update(id: bytes | None) -> None:
            nonlocal marked
            marked += self._db.execute(
                "UPDATE samples SET uploaded = 1 WHERE id = ?", (id,)
            ).rowcount

        while waiting:
            self._make_spare(SPARE)
            waiting = waiting[self._write(update, waiting, spare=SPARE // 2) :]
        return marked

    def note_reports(self, reports: Mapping[str, str], events: Sequence[Event] = ()) -> list[Event]:
        """Note each device's last report, JSON text by name, and events of theirs, once each.

        Returns the events that are new.
        """
        texts = {name: self._note(f"report of {name}", text) for name, text in reports.items()}
        size = sum(len(text.encode()) for text in texts.values()) + len(events) * PAGE // 2
        self._make_spare(SPARE + size // (PAGE // 2))
        with self._transaction():
            rows = [(name, clock.time(), text) for name, text in texts.items()]
            self._db.executemany("INSERT OR REPLACE INTO devices VALUES (?, ?, ?)", rows)
            return self._note_events(events)

    def mark_events(self, numbers: Iterable[int]) -> None:
        """Note that the receiving end has these events of this device."""
        self._make_spare(SPARE)
        with self._transaction():
            self._db.executemany(
                "UPDATE events SET uploaded = 1 WHERE device = '' AND number = ?",
                [(number,) for number in numbers],
            )

    # Leaving on purpose -------------------------------------------------------------------------

    def expire(self, max_age: float, *, now: float | None = None) -> int:
        """Delete every sample older than ``max_age`` seconds; returns how many.

        By ``sample.time`` against ``now``, by default this machine's clock; a sample without a time
        stays. But a clock may jump: what is not uploaded, or not labelled, has to have been here
        for so long by the store's own clock too, which counts the time of its runs, and of a
        pause between two runs a day, or half of ``max_age``, at most. Reads all metadata once:
        call it every so often, not for every sample. Counted as ``evicted_age``.
        """
        self._tenure.take_pause(max_age)
        self._save_tenure()
        return self._delete(Wanted(age=max_age), "evicted_age", now, self._tenure.ran - max_age)

    def put_right(self, now: float, *, since: int | None = None) -> int:
        """Correct the times of samples that were read by a wrong clock; returns how many.

        Those of before 2001, which no clock that was set says; after the key ``since`` also those
        that are more than a minute off: for samples of this run, once its clock has jumped.
        ``now``: the right time. How long each has been here is known by the store's own clock.
        """
        asked = {"now": now, "ran": self._tenure.ran, "since": since}
        corrected = 0
        if now < UNSET:
            return corrected
        while rows := self._query(WRONG, asked):
            while rows:
                self._make_spare(SPARE)
                done = self._write(self._set_time, rows, spare=SPARE // 2)
                corrected, rows = corrected + done, rows[done:]
        return corrected

    @property
    def last_key(self) -> int:
        """The number of the sample stored last; they rise."""
        return int(self._query("SELECT coalesce(max(key), 0) FROM samples")[0][0])

    def purge(self, wanted: Wanted, *, told: Progress = lambda _: None) -> int:
        """Delete the samples that match; returns how many. Counted as ``purged``.

        told: is given the number so far.
        """
        return self._delete(wanted, "purged", told=told)

    def shrink(self) -> None:
        """Give free room back to the file system; what was deleted there is not overwritten."""
        self._shrink(0)

    def count(self, **increments: int) -> None:
        """Add to counters, in one transaction; a counter begins at 0."""
        self._make_spare(SPARE)
        with self._transaction():
            self._db.executemany(ADD, increments.items())

    def set_meta(self, key: str, value: str) -> None:
        """Note a small text, such as the gate's JSON, replacing the one under the same key.

        Raises:
            StoreError: it is too large for a store of this limit.
        """
        text = self._note(key, value)
        if self.meta.get(key) != text:
            self._make_spare(SPARE + len(text.encode()) // (PAGE // 2))
            with self._transaction():
                self._db.execute(NOTE, (key, text))

    def _note(self, key: str, value: str) -> str:
        """The text as it is stored, once it is certain that it fits."""
        text = clean(value)
        size = len(text.encode())
        # Replacing a text journals the pages of the old one.
        if self._limit is not None and size > (most := space.journal_bound(self._limit) // 4):
            raise StoreError(
                f"{self.path} cannot hold {format_size(size)} under the key {key!r}, at most "
                f"{format_size(most)} with its limit; raise the limit"
            )
        return text

    # Opening and closing ------------------------------------------------------------------------

    def _prepare(self, wanted: Mapping[str, float]) -> None:
        """Make the tables where there are none, note the settings, and get below the limit."""
        if schema.is_empty(self._db):
            with self._transaction():
                schema.create_tables(self._db)
                self._db.executemany(_SET, (_DEFAULTS | dict(wanted)).items())
            self._know_settings()
        else:
            self._bring_up_to_date()
            with self._transaction():
                self._db.executemany(_SET, wanted.items())
            self._know_settings()
        if self._limit is not None:
            pages = space.max_pages(self._limit)
            self._make_spare(SPARE, reason="evicted_resize")
            self._shrink(pages)
            self._db.execute(f"PRAGMA max_page_count = {pages}")

    def _shrink(self, pages: int) -> None:
        """Give free pages at the end of the file back until it has ``pages``, or none is free."""
        # Moving a page journals about three: its own, its parent's, a pointer map.
        step = space.journal_bound(self._limit or 2**30) // (8 * PAGE)
        with schema.sqlite_errors(self.path):
            while (
                schema.pragma(self._db, "page_count") > pages
                and schema.pragma(self._db, "freelist_count") > 0
            ):
                self._db.execute(f"PRAGMA incremental_vacuum({step})").fetchall()

    def _bring_up_to_date(self) -> None:
        """From an older schema; evicts where the limit has no room for it."""
        for version in range(schema.pragma(self._db, "user_version"), schema.VERSION):
            if version > 1:  # the first step needs no room, and makes what eviction looks at
                self._know_settings()
                pages = SPARE + len(self) * schema.STEP_BYTES.get(version, 0) // PAGE
                self._make_spare(pages, reason="evicted_resize")
            with self._transaction():
                schema.step(self._db, version)

    def _end_tenure(self) -> None:
        with suppress(StoreError):  # a full disk: a little younger, then
            self._save_tenure()


def _settings(
    path: Path, limit: int | str | None, shares: Mapping[str, float | None]
) -> dict[str, float]:
    """The settings that were given, checked."""
    given: dict[str, float] = {}
    if limit is not None:
        given["limit"] = size = parse_size(limit) if isinstance(limit, str) else int(limit)
        if size < space.SMALLEST:
            raise StoreError(
                f"{path} cannot keep a limit of {format_size(size)}; the smallest possible is "
                f"{format_size(space.SMALLEST)}"
            )
    for name, share in shares.items():
        if share is not None:
            if not 0 <= share <= 1:
                raise StoreError(f"{path}: {name} is {share}; give a part between 0 and 1")
            given[name] = float(share)
    return given


def _in_order(ids: Iterable[str], fate: dict[str, Put]) -> list[Put]:
    """One outcome per id; what was stored by this call is present for its later duplicates."""
    outcomes = []
    for id in ids:
        outcomes.append(fate[id])
        if fate[id] is Put.STORED:
            fate[id] = Put.PRESENT
    return outcomes
