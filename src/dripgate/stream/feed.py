"""What the loop reads from: samples as they come, and what happens to them afterwards."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from dripgate.store import Store
from dripgate.store.records import Decided
from dripgate.stream.buffer import Buffer
from dripgate.types import Sample, Verdict

#: Longest time that a feed with nothing to give leaves the loop alone, in seconds.
TICK = 0.25
#: Bytes that a queue of samples may take.
ROOM = 64 << 20

Stop = Callable[[], bool]


class Feed:
    """Samples in order. None among them says that nothing more is there just now: the loop decides
    about what it has, and does what else there is to do.
    """

    #: Samples that came and were thrown away because the loop was too slow.
    lost = 0
    #: Places where something is missing since a device was away or too fast.
    gaps = 0
    #: Files that were decided before; that stay although they were to go; that never rested.
    known = stayed = 0
    restless: Sequence[str] = ()

    def __init__(self, samples: Iterable[Sample | None]) -> None:
        self._samples = samples

    def __iter__(self) -> Iterator[Sample | None]:
        return iter(self._samples)

    def begin(self, store: Store, by: str) -> None:
        """Told before the first sample into which store it goes, and what decides."""

    def decided(self, pairs: Sequence[tuple[Sample, Verdict]]) -> Decided | None:
        """What is noted in the ledger, in one commit with these verdicts."""

    def notes(self) -> Mapping[str, str]:
        """What is noted in the store, in one commit with all samples given so far."""
        return {}

    def done(self, samples: Sequence[Sample]) -> None:
        """Told which samples were decided and are durable, in the order they were given."""

    def close(self) -> None:
        """Let go of the source."""


class Live(Feed):
    """A source that does not wait for anybody, read by a thread of its own through a queue.

    produce: gives samples to the function it is called with until that says False, or the source
    ends. drop_oldest: what goes where the queue has no room; otherwise the source has to wait.
    """

    def __init__(
        self,
        produce: Callable[[Callable[[Sample], bool]], None],
        stop: Stop,
        *,
        room: int = ROOM,
        drop_oldest: bool = True,
    ) -> None:
        self._stop, self._produce = stop, produce
        self._buffer = Buffer[Sample](room, size_of, drop_oldest=drop_oldest)
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def lost(self) -> int:  # type: ignore[override]  # a number all the same
        """Samples that found no room in the queue."""
        return self._buffer.lost

    def __iter__(self) -> Iterator[Sample | None]:
        self._thread.start()
        while not self._stop() and not self._buffer.over:
            yield from self._buffer.take(1, TICK)
            if not self._buffer:
                yield None

    def close(self) -> None:
        """Take nothing more; the thread ends when its source gives it something."""
        self._buffer.end()

    def _run(self) -> None:
        try:
            self._produce(self._buffer.put)
        except Exception as error:  # told by the thread that reads
            self._buffer.end(error)
        self._buffer.end()


def size_of(sample: Sample) -> int:
    """Bytes that a sample takes in memory, about."""
    return len(sample.payload) + len(sample.source) + 500
