"""A folder or an archive as a feed: read once, or followed as it grows.

A file is decided once by a gate and its rules, however often it is met: what was decided is noted
in the store, in the transaction of the verdicts, and known again by inode, size and times, or by
content (``ledger``). So a run that was interrupted goes on after its last commit, a folder that is
read every night gives what is new in it, and what is moved in, mounted or dated in the future is
given like anything else. A file that is written again is another one.

A file is given as one sample, or as several: the windows of a long recording. Where files are to be
removed or moved, one goes when all its samples have verdicts of the gate that are durable, and
those to be stored are in the store. What could not be decoded stays, and what was written again.

The disk is the queue: a slow scorer makes files wait, not memory grow.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from dripgate.data.files import check, fingerprint, iter_files
from dripgate.errors import DataError
from dripgate.media import DEFAULT_LIMITS
from dripgate.store import Store
from dripgate.store.records import Decided, clean
from dripgate.store.space import ledger_bound
from dripgate.stream.feed import TICK, Feed, Stop
from dripgate.stream.growing import Growing
from dripgate.stream.leaving import Leaving
from dripgate.stream.ledger import DROPPED, GIVEN, STAYS, STORED, Ledger, packed
from dripgate.stream.reading import TIMES, Read, read, samples, taken_at
from dripgate.stream.tree import Found, Told, Tree
from dripgate.text import one_line
from dripgate.types import InputSpec, Reason, Sample, Verdict

#: Where the store notes how far an archive was read.
POSITION = "position"
_MARKS = 3 * 8  # bytes of a file in the ledger
#: Seconds within which a file may be written again without its status showing it.
_FRESH = 2.0
_BESIDE = ("", "-journal", "-wal", "-shm", "-lock")  # files of a store


class Position(msgspec.Struct, frozen=True):
    """How far an archive was read: so many members, while it was this file, by this gate."""

    source: str
    given: int = 0
    fingerprint: str = ""
    by: str = ""


class _UnderWay:
    """A file whose samples are being decided. name: its mark by name."""

    def __init__(self, file: Read | None, marks: list[int], name: int, source: str) -> None:
        self.file, self.marks, self.name, self.source = file, marks, name, source
        self.state, self.stored, self.given, self.decided = 0, list[str](), 0, 0
        self.whole = False

    def note(self, state: int, id: str) -> None:
        """One more of its samples has this state."""
        self.state = max(self.state, state)
        self.decided += 1
        if state == STORED:
            self.stored.append(id)

    @property
    def complete(self) -> bool:
        """Whether all its samples are decided."""
        return self.whole and self.decided == self.given


class Folder(Feed):
    """The files of a folder or archive; with ``follow`` those of a folder, until ``stop()``.

    limit: bytes; what has more, or cannot be read, comes without payload and with its problem.
    processed: "keep", "remove" or "move:DIR"; unreadable: "keep" or "move:DIR", for what could not
    be decoded. spec: what the gate takes; then a long recording is cut into windows. times: one of
    "read", "mtime", "exif": when a sample was taken. poll, settle: seconds. again: also what was
    decided before. own: files of the program itself. told: is given a line for what is passed
    over. clock, steady, wait: tell the time, how it passes, and pass it; wait may say that it
    ended early because the loop has something to do.
    Raises DataError at once for what is no folder or archive; later for a damaged archive.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        follow: bool = False,
        processed: str = "keep",
        unreadable: str = "keep",
        spec: InputSpec | None = None,
        times: str = "read",
        again: bool = False,
        own: Sequence[Path] = (),
        told: Told = lambda _: None,
        poll: float = 1.0,
        settle: float = 2.0,
        stop: Stop = lambda: False,
        limit: int = DEFAULT_LIMITS.payload_bytes,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._path = Path(path).expanduser()
        check(self._path)
        if follow and not self._path.is_dir():
            raise DataError(f"{path}: an archive does not grow; leave out follow, or give a folder")
        if times not in TIMES:
            raise DataError(f"{times!r}: a sample's time is one of {', '.join(TIMES)}")
        if unreadable == "remove":
            raise DataError("what cannot be read is never removed; give keep or move:FOLDER")
        self._processed = Leaving(processed, self._path)
        self._apart = Leaving(unreadable, self._path, "--unreadable")
        self._follow, self._stop, self._limit, self._spec = follow, stop, limit, spec
        self._times, self._again = times, again
        self._poll, self._settle, self._wait = poll, settle, wait
        self._clock, self._steady = clock, steady
        self._tree = Tree(self._path, told)
        self._tree.leave_out(list(own))
        self._ledger, self._capacity = Ledger(), ledger_bound(None) // _MARKS
        self._held: Callable[[str], bool] = lambda _: False
        self._begun = False
        self._position: Position | None = None
        self._growing: Growing | None = None
        self._queue: deque[tuple[_UnderWay, int]] = deque()  # and the mark of the sample
        self._finished: list[_UnderWay] = []
        self._staying: list[tuple[int, int]] = []  # marks for the next commit
        self._newest = self._files = self._met = self._stayed = 0

    def begin(self, store: Store, by: str) -> None:
        """Go on from what this store says was decided by ``by``."""
        self._begun = True
        self._ledger = Ledger(by) if self._again else Ledger(by, store.decided())
        self._held = store.__contains__
        self._capacity = ledger_bound(store.limit) // _MARKS
        self._tree.leave_out([Path(f"{store.path}{suffix}") for suffix in _BESIDE])
        if self._path.is_dir():
            return
        source = clean(os.fspath(self._path.resolve()))
        fresh = Position(source, 0, fingerprint(self._path), self._ledger.by)
        try:
            noted = msgspec.json.decode(store.meta.get(POSITION, ""), type=Position)
        except msgspec.DecodeError:
            noted = fresh
        again = self._again or msgspec.structs.replace(noted, given=0) != fresh
        self._position = fresh if again else noted

    def __iter__(self) -> Iterator[Sample | None]:
        if self._follow:
            return self._grown()
        return self._once() if self._path.is_dir() else self._archive()

    @property
    def known(self) -> int:  # type: ignore[override]  # a number all the same
        """Files that were decided before, and are not decided again."""
        return self._met + (self._growing.known if self._growing else 0)

    @property
    def stayed(self) -> int:  # type: ignore[override]
        """Files that were to be removed or moved, and stay all the same."""
        return self._stayed

    @property
    def restless(self) -> Sequence[str]:  # type: ignore[override]
        """Files that were not read because they go on changing."""
        return self._growing.restless if self._growing else []

    # Giving -------------------------------------------------------------------------------------

    def _once(self) -> Iterator[Sample]:
        if self._tree.list("") is None:
            raise DataError(f"{self._path}: is gone")
        for found in self._tree.walk(oldest=self._times != "read"):
            self._files += 1
            if self._stop():
                return
            state = self._ledger.state([self._ledger.of_status(found.status)])
            if state and (self._processed.keeps or state >= STAYS):
                self._met += 1
            else:
                yield from self._given(found, count_known=True)

    def _grown(self) -> Iterator[Sample | None]:
        self._growing = growing = Growing(
            self._tree, self._ledger, self._settle, self._clock, self._steady
        )
        growing.leaves = not self._processed.keeps
        while not self._stop():
            for found in growing.files():
                if self._stop():
                    return
                yield from self._given(found, count_known=False)
            self._files = growing.total
            if not growing.more:
                yield from self._pause()

    def _archive(self) -> Iterator[Sample]:
        position = self._position
        begin = position.given if position else 0
        self._met = begin
        for index, file in enumerate(iter_files(self._path, self._limit), 1):
            if index <= begin:
                continue
            if self._stop():
                return
            content = Sample(file.payload).id if not file.problem else file.problem
            marks = self._ledger.of_content(file.name, content.encode(), None)
            if position:
                self._position = msgspec.structs.replace(position, given=index)
            if self._ledger.state(marks):
                self._met += 1
            else:
                under_way = _UnderWay(None, marks, marks[0], file.name)
                taken = taken_at(self._times, file.payload, file.time, self._clock)
                if not self._begun:
                    yield from samples(file.payload, file.problem, file.name, self._spec, taken)
                    continue
                yield from self._parts(under_way, file.payload, file.problem, taken)

    def _pause(self) -> Iterator[None]:
        """Until the folder is looked at again."""
        left = self._poll
        while left > 0 and not self._stop():
            yield None
            left -= TICK / 10 if self._wait(min(left, TICK)) else TICK

    def _given(self, found: Found, *, count_known: bool) -> Iterator[Sample]:
        """The samples of a file, unless its bytes are known."""
        file = read(found, self._limit)
        if file is None:
            return
        marks = self._ledger.of_content(found.name, file.content, file.status)
        under_way = _UnderWay(file, marks, marks[0], found.source)
        state = self._ledger.state([self._status(file), *marks])
        taken = taken_at(self._times, file.payload, file.status.st_mtime, self._clock)
        if state:
            self._met += count_known
            self._met_again(under_way, state, taken)
        elif not self._begun:  # nobody decides: given is all that can be known
            self._ledger.note([self._status(file), marks[1]], STAYS)
            yield from samples(file.payload, file.problem, found.source, self._spec, taken)
        else:
            self._ledger.hold(self._status(file))
            yield from self._parts(under_way, file.payload, file.problem, taken)

    def _parts(
        self, under_way: _UnderWay, payload: bytes, problem: str, taken: float | None
    ) -> Iterator[Sample]:
        """Samples that are not decided yet. The last is known to be it before it is given."""
        ahead: tuple[Sample, int] | None = None
        for sample in samples(payload, problem, under_way.source, self._spec, taken):
            part = self._ledger.of_part(under_way.name, under_way.given)
            under_way.given += 1
            if state := self._ledger.state([part]):
                under_way.note(state, sample.id)
                continue
            if ahead is not None:
                self._queue.append((under_way, ahead[1]))
                yield ahead[0]
            ahead = sample, part
        under_way.whole = True
        if ahead is not None:
            self._queue.append((under_way, ahead[1]))
            yield ahead[0]

    def _status(self, file: Read) -> int:
        return self._ledger.of_status(file.status)

    # What was decided ---------------------------------------------------------------------------

    def notes(self) -> Mapping[str, str]:
        """How far an archive was given."""
        if self._position is None:
            return {}
        return {POSITION: msgspec.json.encode(self._position).decode()}

    def decided(self, pairs: Sequence[tuple[Sample, Verdict]]) -> Decided | None:
        """What is to be noted with these verdicts."""
        leaving: list[tuple[int, int]] = []
        for sample, verdict in pairs:
            under_way, part = self._queue.popleft()
            under_way.note(state := _state(verdict), sample.id)
            if not under_way.complete:
                self._staying.append((part, state))
                continue
            marks = self._noted(under_way)
            if under_way.file:
                self._newest = max(self._newest, self._changed(under_way.file))
                self._ledger.release(self._status(under_way.file))
                self._finished.append(under_way)
            if not self._goes(under_way):
                self._staying += marks
            elif under_way.state != STAYS:  # else it is to be met again, and moved, after a crash
                leaving += marks
        block = self._ledger.block(
            packed(self._staying), packed(leaving), self._newest,
            crowded=self._files > self._capacity,
        )  # fmt: skip
        self._staying = []
        return block

    def done(self, samples: Sequence[Sample]) -> None:
        """Move or remove the files whose samples are all decided now."""
        finished, self._finished = self._finished, []
        for under_way in finished:
            if self._goes(under_way):
                self._staying += self._leave(under_way)

    def _leave(self, under_way: _UnderWay) -> list[tuple[int, int]]:
        """Remove or move a file; returns what is to be remembered of it. Says why it stays."""
        file = under_way.file
        assert file is not None  # noqa: S101 - archives keep their members
        cause = ""
        if not all(map(self._held, under_way.stored)):
            cause = "found no room in the store, or was evicted from it"
        unreadable = under_way.state == STAYS
        cause = cause or (self._apart if unreadable else self._processed)(file)
        marks = self._noted(under_way)
        if not cause and file.status.st_nlink == 1 and not file.found.link:
            self._ledger.forget(mark for mark, _ in marks)
            return []
        if cause:
            self._stayed += 1
            self._ledger.note((mark for mark, _ in marks), STAYS)  # no more tries in this run
            folder = Path(file.found.path).parent
            self._tree.once(f"stays {folder} {cause}", (
                f"{one_line(file.found.path)}: decided, but stays: {cause} (other files of its "
                "folder are not named)"
            ))  # fmt: skip
        return marks

    def _met_again(self, under_way: _UnderWay, state: int, taken: float | None) -> None:
        """A file whose bytes are known: know it by all its marks, and let it go if it may."""
        file = under_way.file
        assert file is not None  # noqa: S101 - archives keep their members
        if state == GIVEN:
            return
        under_way.state = state
        if state == STORED:
            parts = samples(file.payload, file.problem, under_way.source, self._spec, taken)
            under_way.stored = [sample.id for sample in parts]
        known = self._ledger.states(self._marks(under_way))
        marks = [one for one, told in zip(self._noted(under_way), known, strict=True) if not told]
        if self._goes(under_way) and state != STAYS and not self._leave(under_way):
            return
        self._staying += marks

    def _noted(self, under_way: _UnderWay) -> list[tuple[int, int]]:
        """A file's marks with what became of it; known from now on."""
        marks = self._marks(under_way)
        self._ledger.note(marks, under_way.state)
        return [(mark, under_way.state) for mark in marks]

    def _goes(self, under_way: _UnderWay) -> bool:
        """Whether a file is to be removed or moved."""
        if under_way.file is None:
            return False
        leaving = self._apart if under_way.state == STAYS else self._processed
        return not leaving.keeps

    def _marks(self, under_way: _UnderWay) -> list[int]:
        """Marks of a file. Not by its status where another file might get the same by and by."""
        file = under_way.file
        if file is None or abs(self._clock() - file.status.st_ctime) < _FRESH:
            return under_way.marks
        return [self._status(file), *under_way.marks]

    def _changed(self, file: Read) -> int:
        """Time of change in ns; a file of the future is as new as any."""
        return min(file.status.st_ctime_ns, int(self._clock() * 1e9))


def _state(verdict: Verdict) -> int:
    if verdict.reason is Reason.UNREADABLE:
        return STAYS
    return STORED if verdict.stored else DROPPED
