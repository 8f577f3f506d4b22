"""A folder or an archive as a feed: read once, or followed as it grows.

A growing folder is read in the order of the files' times of change (the kernel's ctime, which no
copy or move can set back), and all that is remembered of the files already given is the last
one's time and name: memory does not grow with the stream. A file is left alone until it has not
changed for ``settle`` seconds, so that one being written is not taken half. Hence

* each file is given once, and once more whenever it is written or renamed again;
* where the machine's clock is set back, files of the time lived twice are given twice: the same
  bytes are the same sample, so a store holds them once.

The disk is the queue: a slow scorer makes files wait, not memory grow. How far the loop came is
noted in the store with each batch, so a run that was interrupted goes on after its last commit.
"""

import heapq
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from dripgate.data.files import check, fingerprint, iter_files, listing, read_file
from dripgate.errors import DataError
from dripgate.media import DEFAULT_LIMITS
from dripgate.stream.feed import TICK, Feed, Stop
from dripgate.types import Sample

#: Names held at once; a folder with more new files is listed again for the rest.
BATCH = 50_000
#: Where the store notes how far the loop came.
POSITION = "position"
_SAME = ("st_ino", "st_ctime_ns", "st_size")


class Position(msgspec.Struct, frozen=True):
    """How far a folder or archive was read. after: time of change in ns and name of the last file
    of a folder that is followed. given: files of one that is not; fingerprint: while it was this.
    """

    source: str
    after: tuple[int, str] = (0, "")
    given: int = 0
    fingerprint: str = ""


class Processed:
    """What becomes of a file once the verdict about it is durable: "keep", "remove", "move:DIR".

    A file that could not be read, or was written to since, is left alone. Raises DataError where
    DIR is no other folder of the same file system.
    """

    def __init__(self, what: str, source: Path) -> None:
        self._what, _, folder = what.partition(":")
        self._to = Path(folder)
        if what not in ("keep", "remove") and not (self._what == "move" and folder):
            raise DataError(f"{what!r}: files can be processed by keep, remove or move:FOLDER")
        if what != "keep" and not source.is_dir():
            raise DataError(f"{source}: its files cannot be moved or removed one by one; leave out "
                            "--processed")  # fmt: skip
        if self._what == "move":
            self._check(source)

    @property
    def keeps(self) -> bool:
        """Whether files stay where they are."""
        return self._what == "keep"

    def __call__(self, path: Path, name: str, sample: Sample) -> None:
        """Raises DataError where the file can be neither moved nor removed."""
        try:
            if self._what == "remove":
                path.unlink(missing_ok=True)
            elif self._what == "move":
                target = self._to / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.exists():  # of the same name, not the same
                    target = target.with_stem(f"{target.stem}-{sample.id[:12]}")
                path.replace(target)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise DataError(
                f"{path}: decided, but cannot be {self._what}d ({error.strerror}); "
                "check who may write to its folder"
            ) from None

    def _check(self, source: Path) -> None:
        try:
            self._to.mkdir(parents=True, exist_ok=True)
            same = self._to.stat().st_dev == source.stat().st_dev
        except OSError as error:
            raise DataError(f"{self._to}: cannot be made ({error.strerror})") from None
        if not same or self._to.resolve().is_relative_to(source.resolve()):
            raise DataError(f"{self._to}: files are moved to a folder of the same file system that "
                            f"is not inside {source}")  # fmt: skip


class Folder(Feed):
    """The files of a folder or archive; with ``follow`` those of a folder, until ``stop()``.

    limit: bytes; what has more, or cannot be read, comes without payload and with its problem.
    position: as ``notes`` gave it. poll, settle: seconds. clock, wait: tell the time and pass
    it; wait may say that it ended early because the loop has something to do.
    Raises DataError at once for what is no folder or archive; later for a damaged archive.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        follow: bool = False,
        processed: str = "keep",
        position: str = "",
        poll: float = 1.0,
        settle: float = 2.0,
        stop: Stop = lambda: False,
        limit: int = DEFAULT_LIMITS.payload_bytes,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._path = Path(path).expanduser()
        check(self._path)
        if follow and not self._path.is_dir():
            raise DataError(f"{path}: an archive does not grow; leave out follow, or give a folder")
        self._processed = Processed(processed, self._path)
        self._follow, self._stop, self._limit = follow, stop, limit
        self._poll, self._settle, self._clock, self._wait = poll, settle, clock, wait
        self._position = self._found(position)
        self._given: dict[str, os.stat_result] = {}  # not done yet, where done means something

    def __iter__(self) -> Iterator[Sample | None]:
        return self._grown() if self._follow else self._once()

    def notes(self) -> Mapping[str, str]:
        """How far the files were given."""
        return {POSITION: msgspec.json.encode(self._position).decode()}

    def done(self, samples: Sequence[Sample]) -> None:
        """Move or remove the files of these samples."""
        for sample in samples:
            path, read = self._path / sample.source, self._given.pop(sample.source, None)
            if read and not sample.problem and _unchanged(path, read):
                self._processed(path, sample.source, sample)

    def _found(self, position: str) -> Position:
        """The position to go on from: the one noted, if it is one in the same files."""
        source = str(self._path.resolve())
        mark = "" if self._follow or not self._processed.keeps else fingerprint(self._path)
        fresh = Position(source, fingerprint=mark)
        try:
            noted = msgspec.json.decode(position, type=Position) if position else fresh
        except msgspec.DecodeError:
            return fresh
        return noted if (noted.source, noted.fingerprint) == (source, mark) else fresh

    def _once(self) -> Iterator[Sample]:
        position, begin = self._position, self._position.given
        for index, (name, payload, problem) in enumerate(iter_files(self._path, self._limit), 1):
            if index <= begin:
                continue
            if self._stop():
                return
            self._read(name, self._path / name)
            if position.fingerprint:
                self._position = msgspec.structs.replace(position, given=index)
            yield Sample(payload, name, problem=problem)
        self._position = msgspec.structs.replace(position, given=0)  # to the end: the next is anew

    def _grown(self) -> Iterator[Sample | None]:
        given = self._position.after
        while not self._stop():
            horizon = int((self._clock() - self._settle) * 1e9)
            if given[0] > horizon:  # the clock was set back: what is written now must not be missed
                given = (horizon, "")
            settled = (
                (status.st_ctime_ns, name, path)
                for name, path, status in listing(self._path)
                if given < (status.st_ctime_ns, name) and status.st_ctime_ns <= horizon
            )
            batch = heapq.nsmallest(BATCH, settled)
            for changed, name, path in batch:
                if self._stop():
                    return
                self._read(name, path)
                given = (changed, name)
                self._position = msgspec.structs.replace(self._position, after=given)
                if read := read_file(path, self._limit):
                    yield Sample(read[0], name, problem=read[1])
            if len(batch) < BATCH:
                yield from self._pause()

    def _pause(self) -> Iterator[None]:
        """Until the folder is looked at again."""
        left = self._poll
        while left > 0 and not self._stop():
            yield None
            left -= TICK / 10 if self._wait(min(left, TICK)) else TICK

    def _read(self, name: str, path: Path) -> None:
        """Note what a file is before it is read, to know it again when it is done."""
        if not self._processed.keeps:
            try:
                self._given[name] = path.stat()
            except OSError:
                self._given.pop(name, None)


def _unchanged(path: Path, read: os.stat_result) -> bool:
    try:
        now = path.stat()
    except OSError:
        return False
    return (now.st_ino, now.st_ctime_ns, now.st_size) == (
        read.st_ino,
        read.st_ctime_ns,
        read.st_size,
    )
