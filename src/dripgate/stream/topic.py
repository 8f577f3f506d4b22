"""Messages of an MQTT topic as a feed: each payload is a sample. Needs the mqtt extra.

A message is acknowledged when what was decided about it is durable, so one that was sent with
QoS 1 is decided about whatever happens to us; while we are away the broker keeps it.
"""

from collections.abc import Iterator, Sequence

from dripgate.media import DEFAULT_LIMITS, too_many_bytes
from dripgate.stream.broker import Address, Security
from dripgate.stream.buffer import Buffer
from dripgate.stream.feed import ROOM, TICK, Feed, Stop
from dripgate.stream.mqtt import Link, Received
from dripgate.types import Sample

#: Seconds that the broker keeps messages while we are away.
SESSION = 7 * 86400


class Topic(Feed):
    """What is published to a topic, until ``stop()``."""

    def __init__(
        self,
        address: Address,
        security: Security,
        name: str,
        stop: Stop,
        *,
        room: int = ROOM,
        drop_oldest: bool = False,
        limit: int = DEFAULT_LIMITS.payload_bytes,
    ) -> None:
        self._stop, self._limit = stop, limit
        self._given: list[Received] = []
        self._buffer = Buffer[Received](
            room,
            lambda one: len(one.payload) + 1000,
            drop_oldest=drop_oldest,
            on_lost=self._forget,
        )
        self.link = Link(
            address,
            f"dripgate-in-{name}",
            security,
            subscribe=address.topic,
            session=SESSION,
            largest=min(room, limit) + (1 << 16),
            on_message=self._buffer.put,
        )

    @property
    def lost(self) -> int:  # type: ignore[override]  # a number all the same
        """Samples that found no room in the queue."""
        return self._buffer.lost

    def __iter__(self) -> Iterator[Sample | None]:
        self.link.connect(self._stop)
        while not self._stop():
            for received in self._buffer.take(1, TICK):
                self._given.append(received)
                size = len(received.payload)
                problem = too_many_bytes(size, self._limit) if size > self._limit else ""
                yield Sample(b"" if problem else received.payload, received.topic, problem=problem)
            if not self._buffer:
                yield None

    def done(self, samples: Sequence[Sample]) -> None:
        """The broker may forget these."""
        for received in self._given[: len(samples)]:
            self.link.acknowledge(received)
        del self._given[: len(samples)]

    def _forget(self, received: Received) -> None:
        self.link.acknowledge(received)

    def close(self) -> None:
        """End the connection; what was not decided stays with the broker."""
        self._buffer.end()
        self.link.close()
