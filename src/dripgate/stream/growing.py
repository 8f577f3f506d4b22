"""What is new in a folder that grows, found at a cost that old files do not raise.

A folder whose own status is as it was holds no new names, so it is not listed again. Files that
are written to in place change nothing about their folder: for those everything is looked at from
time to time. Both are done only as often as they take a small part of the time: a twentieth of a
core for changed folders, a hundredth for everything, whatever number of old files there is.

A file is left alone until it has not changed for ``settle`` seconds, so that one being written is
not taken half. Files that are there at the first look at their folder are believed where their
time of change says so; all others are watched for so long, by a clock that nobody sets: file
systems have clocks of their own, and what is moved in has times of long ago.
"""

import heapq
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dripgate.stream.ledger import GIVEN, STAYS, Ledger
from dripgate.stream.reading import same
from dripgate.stream.tree import Found, Tree
from dripgate.text import one_line

#: Files held at once; a folder with more new ones is looked at again for the rest.
BATCH = 50_000
#: Parts of the time that looking takes: at changed folders, at everything.
_CHANGED, _ALL = 20, 100
#: Seconds after which a file that never settles is named.
_RESTLESS = 60.0
#: Seconds within which a folder may change without its time showing it.
_COARSE = 3.0


class _Waiting(NamedTuple):
    found: Found
    unchanged: float
    since: float


class Growing:
    """Gives the files that have settled and are not known, in the order of their arrival.

    clock: the machine's time. steady: seconds that pass. known: how many files were found that
    were decided before. total: files at the last look at everything. leaves: give also what was
    decided and did not leave.
    """

    def __init__(
        self,
        tree: Tree,
        ledger: Ledger,
        settle: float,
        clock: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        self._tree, self._ledger, self._settle = tree, ledger, settle
        self._clock, self._steady = clock, steady
        self._folders: dict[str, tuple[int, ...]] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._due_all = self._due_changed = -float("inf")
        self.known = self.total = 0
        self.leaves = self.more = False
        self._first = True

    def files(self) -> list[Found]:
        """Those that have settled now; ``more`` says that there may be others."""
        began, measured, self.more = self._steady(), time.thread_time(), False
        if began >= self._due_all:
            ready = self._choose(self._look_at_all())
            self.more = len(ready) >= BATCH
            cost = time.thread_time() - measured
            self._due_all = began if self.more else began + _ALL * cost
            if self.more:
                self._folders = {}  # the first look at them is not over
            self._first = False
        elif began >= self._due_changed:
            ready = self._choose(self._look_at_changed())
            self._due_changed = began + _CHANGED * (time.thread_time() - measured)
        else:
            ready = []
        ready += self._settled()
        ready.sort(key=lambda one: (one.status.st_ctime_ns, one.name))
        return ready

    @property
    def restless(self) -> list[str]:
        """Names of files that wait because they go on changing."""
        return list(self._waiting)

    def _choose(self, found: Iterator[tuple[Found, bool]]) -> list[Found]:
        """Of files that are not known those that have settled; the others are watched."""
        now, horizon = self._steady(), int((self._clock() - self._settle) * 1e9)
        oldest = heapq.nsmallest(BATCH, found, lambda one: one[0].status.st_ctime_ns)
        ready = []
        for one, is_first in oldest:
            if is_first and one.status.st_ctime_ns <= horizon:
                self._waiting.pop(one.name, None)
                ready.append(one)
            else:
                self._watch(one, now)
        return ready

    def _watch(self, found: Found, now: float) -> None:
        before = self._waiting.get(found.name)
        if before is None:
            self._waiting[found.name] = _Waiting(found, now, now)
        elif not same(before.found.status, found.status):
            self._waiting[found.name] = before._replace(found=found, unchanged=now)
            if now - before.since >= _RESTLESS:
                self._tree.once(f"restless {found.name}", (
                    f"{one_line(found.path)}: has been changing for {now - before.since:.0f} s and "
                    f"is not read before it rests for {self._settle:g} s; write beside and rename, "
                    "or give --settle"
                ))  # fmt: skip

    def _settled(self) -> list[Found]:
        """Of the watched those that have not changed for long enough."""
        now, ready = self._steady(), []
        for name, one in list(self._waiting.items()):
            found = self._tree.again(one.found)
            if found is None:
                del self._waiting[name]
                continue
            self._watch(found, now)
            if now - self._waiting[name].unchanged >= self._settle:
                del self._waiting[name]
                ready.append(found)
        return ready

    # Looking ------------------------------------------------------------------------------------

    def _look_at_all(self) -> Iterator[tuple[Found, bool]]:
        before, self._folders = self._folders, {}
        self.total = 0
        folders = [""]
        while folders:
            folder = folders.pop()
            first = folder not in before
            for found, inner in self._look_at(folder):
                folders += inner
                yield from ((one, first) for one in found)

    def _look_at_changed(self) -> Iterator[tuple[Found, bool]]:
        folders = list(self._folders)
        while folders:
            folder = folders.pop()
            first = folder not in self._folders
            if not first and self._mark(folder) == self._folders[folder]:
                continue
            for found, inner in self._look_at(folder):
                folders += [one for one in inner if one not in self._folders]
                yield from ((one, first) for one in found)

    def _look_at(self, folder: str) -> Iterator[tuple[list[Found], list[str]]]:
        """Files that are not known, and sub-folders, once; nothing where the folder is gone."""
        mark = self._mark(folder)
        there = self._tree.list(folder)
        if there is None or not mark:
            self._folders.pop(folder, None)
            if not folder:
                self._tree.once("gone", f"{one_line(self._tree.root)}: is gone; waiting for it")
            return
        self._folders[folder] = mark
        files, inner = there
        self.total += len(files)
        yield self._unknown(files), inner

    def _unknown(self, files: list[Found]) -> list[Found]:
        states = self._ledger.states([self._ledger.of_status(one.status) for one in files])
        unknown = []
        for one, state in zip(files, states, strict=True):
            below = one.status.st_ctime_ns <= self._ledger.floor
            if state:
                self.known += self._first and state < GIVEN
            elif below:
                self._tree.once("floor", (
                    f"{one_line(self._tree.root)}: holds more files than can be remembered; those "
                    "as old as the oldest forgotten ones are taken as decided; move what is "
                    "decided away with --processed"
                ))  # fmt: skip
            if (not state and not below) or (self.leaves and 0 < state < STAYS):
                unknown.append(one)
        return unknown

    def _mark(self, folder: str) -> tuple[int, ...]:
        """Changes when something in a folder gets, loses or changes its name."""
        status = self._tree.status(folder)
        if status is None:
            return ()
        recent = abs(self._clock() - status.st_mtime) < _COARSE
        look = int(self._steady() * 1e3) if recent else 0
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, look
