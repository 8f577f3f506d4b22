"""Labels of stored samples: durable, with their history, and written beside the store's writer.

A change is what one person or one file did at once, whatever the number of samples, and is taken
back at once. Everything an act of labelling needs is in the file, not in a process, so labels are
the one thing that a second process may write: in short transactions that wait for the writer's.
"""

import os
import time as clock
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from dripgate.errors import StoreError
from dripgate.progress import Progress
from dripgate.store import schema, space
from dripgate.store.reading import digest
from dripgate.store.records import clean, clean_label
from dripgate.store.space import SPARE
from dripgate.store.writing import Writer

#: Samples labelled in one transaction: whoever waits for it waits for milliseconds.
_TOGETHER = 256
#: With a limit, one entry of the history for so many bytes of it: 1/32 of the room.
_BYTES_PER_ENTRY = 4096
_FEWEST_ENTRIES = 100
LONGEST_WHO = 256


class Relabelled(NamedTuple):
    """What became of a change of labels.

    change: its number; None where nothing differed. labels: (before, after) by id of those samples
    whose label is another now. same: ids that had the label already. missing: ids that are not in
    the store. kept: of an undo, ids whose label somebody changed since, and which stay as they are.
    """

    change: int | None
    labels: dict[str, tuple[str | None, str | None]]
    same: list[str]
    missing: list[str]
    kept: list[str] = []  # noqa: RUF012 - never changed


class Labelling(Writer):
    """Setting labels and taking that back."""

    def label(self, id: str, label: str | None, *, who: str = "") -> None:
        """Set the label of one sample; None removes it. who: noted in the history.

        Raises:
            StoreError: there is no sample with this id.
        """
        if self.relabel({id: label}, who=who).missing:
            raise StoreError(
                f"{self.path} has no sample {id!r} to label; ids are 64 hex digits, as the store "
                f"lists them"
            )

    def set_labels(self, labels: Mapping[str, str | None], *, who: str = "") -> int:
        """Set labels by sample id; returns how many of the samples are in the store.

        Ids that are not are left out: ``missing(labels)`` names them.
        """
        return len(labels) - len(self.relabel(labels, who=who).missing)

    def relabel(
        self, labels: Mapping[str, str | None], *, who: str = "", told: Progress = lambda _: None
    ) -> Relabelled:
        """Set labels by sample id, as one change that can be taken back, and say what differed.

        told: is given the number of labels so far.

        Raises:
            StoreError: a label is too long, or the file cannot be written.
        """
        wanted = {id: clean_label(label) for id, label in labels.items()}
        return self._change(wanted, {}, who, undoes=None, told=told)

    def undo(self, *, who: str | None = None, change: int | None = None) -> Relabelled | None:
        """Take back the newest change, of ``who`` where given, or the one with this number.

        A label that somebody changed since stays. Returns None where there is nothing to take back.
        """
        found = self._query(
            "SELECT change, who FROM changes WHERE NOT undone AND (:who IS NULL OR who = :who)"
            " AND (:change IS NULL OR change = :change) ORDER BY change DESC LIMIT 1",
            {"who": who, "change": change},
        )
        if not found:
            return None
        number, whose = found[0]
        labels = self._labels_of(number)
        before = {id: old for id, (old, _) in labels.items()}
        after = {id: new for id, (_, new) in labels.items()}
        return self._change(before, after, whose, undoes=number)

    def _change(
        self,
        wanted: Mapping[str, str | None],
        expected: Mapping[str, str | None],
        who: str,
        undoes: int | None,
        told: Progress = lambda _: None,
    ) -> Relabelled:
        """Set the wanted labels; where a label is expected, only of samples that have it."""
        done = Relabelled(None, {}, [], [], [])
        number: int | None = None
        now = clock.time()

        def update(one: tuple[str, str | None]) -> None:
            nonlocal number
            id, label = one
            key = digest(id)
            rows = self._db.execute("SELECT label FROM samples WHERE id = ?", (key,)).fetchall()
            if not rows:
                done.missing.append(id)
            elif rows[0][0] == label:
                done.same.append(id)
            elif id in expected and rows[0][0] != expected[id]:
                done.kept.append(id)
            else:
                number = number or self._begin_change(now, who, undoes)
                self._db.execute("UPDATE samples SET label = ? WHERE id = ?", (label, key))
                self._db.execute(
                    "INSERT INTO labels VALUES (?, ?, ?, ?)", (number, key, rows[0][0], label)
                )
                done.labels[id] = (rows[0][0], label)

        waiting = list(wanted.items())
        while waiting:
            self._make_spare(SPARE)
            part = waiting[: min(_TOGETHER, self._history_room // 2)]
            first = SPARE // 2 if len(self) else 0  # with nothing to evict there is none to label
            waiting = waiting[self._write(update, part, spare=SPARE // 2, first=first) :]
            told(len(wanted) - len(waiting))
            self._forget()  # now: the history of one large change must not push out what it labels
        if undoes is not None:
            with self._transaction():
                self._db.execute("UPDATE changes SET undone = 1 WHERE change = ?", (undoes,))
        return done._replace(change=number)

    def _begin_change(self, now: float, who: str, undoes: int | None) -> int:
        row = (now, clean(who)[:LONGEST_WHO], undoes is not None)
        cursor = self._db.execute("INSERT INTO changes (time, who, undone) VALUES (?, ?, ?)", row)
        return int(cursor.lastrowid or 0)

    @property
    def _history_room(self) -> int:
        """Entries that the history may have."""
        if self._limit is None:
            return 2 * _TOGETHER  # of a part of a change; the history itself has no bound
        return max(self._limit // _BYTES_PER_ENTRY, _FEWEST_ENTRIES)

    def _forget(self) -> None:
        """Let go of the oldest changes where the history has outgrown its part of the limit."""
        if self._limit is None:
            return
        while self._query("SELECT count(*) FROM labels")[0][0] > self._history_room:
            with self._transaction():
                oldest = "(SELECT min(change) FROM labels)"
                self._db.execute(f"DELETE FROM changes WHERE change <= {oldest}")  # noqa: S608
                rows = self._db.execute(
                    f"SELECT change, id FROM labels WHERE change = {oldest} LIMIT {_TOGETHER}"  # noqa: S608
                ).fetchall()
                self._db.executemany("DELETE FROM labels WHERE change = ? AND id = ?", rows)


class Labels(Labelling):
    """The labels of a store, for a process beside its writer, such as ``dripgate review``.

    Reads all and writes labels alone. Each change is committed and synced when the call returns,
    as with ``Store``; it waits for the writer's commit, and the writer for this one.

    Raises:
        StoreError: the file is no store, or one of an older schema.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(Path(path).resolve())
        self.read_only = False
        self._limit = None
        with schema.sqlite_errors(self.path), ExitStack() as stack:
            self._connection = schema.connect(self.path, create=False)
            stack.callback(self._connection.close)
            schema.make_durable(self._db)
            stack.callback(self._remove_journal)
            self._open = stack.pop_all()

    def _change(
        self,
        wanted: Mapping[str, str | None],
        expected: Mapping[str, str | None],
        who: str,
        undoes: int | None,
        told: Progress = lambda _: None,
    ) -> Relabelled:
        self._know_settings()  # the writer may have another limit by now
        if self._limit is not None:
            with schema.sqlite_errors(self.path):
                pages = space.max_pages(self._limit)
                self._patiently(f"PRAGMA max_page_count = {pages}")
        return super()._change(wanted, expected, who, undoes, told)

    def _patiently(self, statement: str) -> None:
        schema.promptly(self._db, statement)
