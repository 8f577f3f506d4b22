"""Where samples come from on the device: a folder, an archive, or a folder that grows.

A growing folder is read in the order of the files' times of change (the kernel's ctime, which no
copy or move can set back), and all that is remembered of the files already given is the last
one's time and name: memory does not grow with the stream. A file is left alone until it has not
changed for ``settle`` seconds, so that one being written is not taken half. Hence

* each file is given once, and once more whenever it is written or renamed again;
* where the machine's clock is set back, files of the time lived twice are given twice: the same
  bytes are the same sample, so a store holds them once;
* a restart gives all files again that are still there.
"""

import heapq
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dripgate.data.files import check, iter_files, listing, read_file
from dripgate.errors import DataError
from dripgate.media import DEFAULT_LIMITS
from dripgate.types import Sample

#: Names held at once; a folder with more new files is listed again for the rest.
BATCH = 50_000


def watch(
    path: str | Path,
    *,
    follow: bool = False,
    poll: float = 1.0,
    settle: float = 2.0,
    stop: Callable[[], bool] | None = None,
    limit: int = DEFAULT_LIMITS.payload_bytes,
    clock: Callable[[], float] = time.time,
    wait: Callable[[float], object] = time.sleep,
) -> Iterator[Sample]:
    """Samples from a folder or an archive; with ``follow`` from a folder, until ``stop()``.

    A file that cannot be read, or has more than ``limit`` bytes, comes as a sample without
    payload whose ``problem`` says why: decoding it raises UnreadableError, so it is counted as
    any other broken one. poll, settle: seconds. clock, wait: what tells the time and passes it.
    Raises DataError at once for what is no folder or archive; later for a damaged archive.
    """
    path = Path(path).expanduser()
    check(path)
    if follow and not path.is_dir():
        raise DataError(f"{path}: an archive does not grow; leave out follow, or give a folder")
    stopped = stop or (lambda: False)
    if not follow:
        return _once(path, limit, stopped)
    return _follow(path, limit, stopped, poll, settle, clock, wait)


def _once(path: Path, limit: int, stopped: Callable[[], bool]) -> Iterator[Sample]:
    for name, payload, problem in iter_files(path, limit):
        if stopped():
            return
        yield Sample(payload, name, problem=problem)


def _follow(
    folder: Path,
    limit: int,
    stopped: Callable[[], bool],
    poll: float,
    settle: float,
    clock: Callable[[], float],
    wait: Callable[[float], object],
) -> Iterator[Sample]:
    given = (0, "")  # time of change in ns, and name, of the last file given
    while not stopped():
        horizon = int((clock() - settle) * 1e9)
        if given[0] > horizon:  # the clock was set back: what is written now must not be missed
            given = (horizon, "")
        settled = (
            (status.st_ctime_ns, name, path)
            for name, path, status in listing(folder)
            if given < (status.st_ctime_ns, name) and status.st_ctime_ns <= horizon
        )
        batch = heapq.nsmallest(BATCH, settled)
        for changed, name, path in batch:
            if stopped():
                return
            if read := read_file(path, limit):
                yield Sample(read[0], name, problem=read[1])
            given = (changed, name)
        if len(batch) < BATCH:
            wait(poll)
