"""From a store to a receiver, through an MQTT broker: nothing is forgotten, nothing applied twice.

The store is the outbox. A sample stays pending in it until it is confirmed, so whatever dies in
between, device, broker, network or receiver, it is sent again; the receiver knows it by its id.

A broker's acknowledgement (QoS 1) is not enough to forget a sample: mosquitto has it in memory
only, drops it where nobody subscribed or a queue is full, and says "done" all the same. So the
receiver sends a receipt once a sample is on its disk, and only that confirms. A receiver that is
silent is asked with one sample at a time, after 30 s and then ever more rarely, so that a week of
silence does not cost a week of sending.

One thread touches the store: that of the loop, which calls ``turn`` often and never waits in it.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec

from dripgate.store import Store, StoredSample
from dripgate.stream.broker import Address, Security
from dripgate.stream.message import RefusedError, decode_receipt, encode
from dripgate.stream.mqtt import Link, Received
from dripgate.stream.report import Reports

#: Samples that wait for their receipts at a time, and bytes on their way to the broker.
WINDOW, FLYING = 256, 8 << 20
#: Seconds that the broker keeps receipts for a device that is away.
SESSION = 3600
#: Longest time between two questions to a receiver that is silent, in seconds.
RAREST = 3600.0
_FLUSH = 10.0  # seconds between two commits of the counters
_PACKET = 12  # bytes of a PUBLISH beside topic and payload
_NOBODY, _TOO_LARGE = 0x10, (0x83, 0x95, 0x99)
_FATAL = 3  # connections lost with the same message unanswered


class Options(NamedTuple):
    """metadata_only: leave the payloads here. rate: bytes per second, None is no limit. confirm:
    whose word is enough, the receiver's or the broker's (for a consumer that is not
    ``dripgate receive``). patience: seconds without a receipt before a sample is sent again.
    embeddings: send those that the store keeps too.
    """

    metadata_only: bool = False
    rate: float | None = None
    confirm: str = "receiver"
    patience: float = 30.0
    embeddings: bool = False


class State(msgspec.Struct, frozen=True):
    """How the uplink stands. waiting: sent, not confirmed. skipped: not taken by the broker, most
    likely too large; tried again after an hour.

    confirmed, messages and bytes are those of this process; repeats count as messages.
    """

    connected: bool
    trouble: str
    waiting: int
    skipped: int
    confirmed: int
    messages: int
    bytes: int


class _Sent(msgspec.Struct):
    """A sample on its way. acked: when the broker took it; None while it has not."""

    size: int
    tries: int = 0
    acked: float | None = None
    refused: bool = False


class Uplink:
    """Sends what is pending in a store. Close it before the store."""

    def __init__(
        self,
        store: Store,
        address: Address,
        security: Security,
        device: str,
        options: Options = Options(),  # noqa: B008 - immutable
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._options, self._clock = store, options, clock
        self._topic = f"{address.topic}/samples/{device}"
        self._waiting: dict[str, _Sent] = {}
        self._numbers: dict[int, str] = {}  # on their way to the broker, by message number
        self._fresh: deque[StoredSample] = deque()
        self._after: str | None = None
        self._skipped: set[str] = set()
        self._reconsider_at = clock() + RAREST
        self._suspect, self._losses = ("", 0), 0
        self._published: deque[tuple[int, int]] = deque()
        self._receipts: deque[Received] = deque(maxlen=1024)
        self._trouble = ""
        self._heard = self._credit = self._ask_at = clock()
        self._pause, self._connection = options.patience, 0
        self._tally: Counter[str] = Counter()
        self._total: Counter[str] = Counter()
        self._flushed = clock()
        self._reports = Reports(store, options.patience, embeddings=options.embeddings)
        confirmed_here = options.confirm == "receiver"
        self.link = Link(
            address,
            f"dripgate-{device}",
            security,
            subscribe=f"{address.topic}/receipts/{device}" if confirmed_here else None,
            session=SESSION if confirmed_here else 0,
            on_message=self._receipts.append,
            on_published=lambda mid, code: self._published.append((mid, code)),
        )

    def turn(self) -> None:
        """Note what was confirmed and send what may be sent; never waits for the network.

        Raises StoreError where the store cannot be read or written.
        """
        now = self._clock()
        self._take_published(now)
        self._take_receipts(now)
        self._look_for_poison()
        if now > self._reconsider_at:
            self._reconsider_at, self._after = now + RAREST, None
            self._skipped.clear()
        if self.link.ready:
            if self.link.epoch != self._connection:  # a new connection is worth a new question
                self._connection, self._ask_at, self._pause = self.link.epoch, now, self._patience
            self._repeat(now)
            self._send_fresh(now)
            self._send_report(now)
        if now - self._flushed > _FLUSH:
            self.flush()

    @property
    def done(self) -> bool:
        """Whether everything is confirmed that can be sent."""
        if self._waiting or self._next():
            return False
        self._reports.hurry()
        return self._reports.done or not self._reporting

    @property
    def state(self) -> State:
        """How it stands."""
        trouble = self.link.trouble or self._trouble or self._silence()
        return State(
            self.link.ready, trouble, len(self._waiting), len(self._skipped),
            self._total["sent"], self._total["sent_messages"], self._total["bytes_sent"],
        )  # fmt: skip

    def flush(self) -> None:
        """Commit the counters; otherwise done every ten seconds."""
        counted = {name: n for name, n in self._tally.items() if n}
        if counted:
            self._store.count(**counted)
        self._tally.clear()
        self._flushed = self._clock()

    def close(self) -> None:
        """End the connection; what is not confirmed stays pending in the store."""
        self.link.close()
        self._take_published(self._clock())
        self._take_receipts(self._clock())
        self.flush()

    # What came back -----------------------------------------------------------------------------

    def _take_published(self, now: float) -> None:
        confirmed = []
        while self._published:
            number, code = self._published.popleft()
            id = self._numbers.pop(number, "")
            if (sent := self._waiting.get(id)) is None:
                continue
            if code == 0:
                sent.acked, sent.refused, self._trouble = now, False, ""
                if self._options.confirm == "broker":
                    confirmed.append(id)
            elif code in _TOO_LARGE:
                del self._waiting[id]
                self._skipped.add(id)
            else:
                sent.acked, sent.refused = now, True
                if not self._trouble:
                    self._ask_at = now + self._pause
                self._trouble = self._refusal(code)
        self._confirm(confirmed)

    def _take_receipts(self, now: float) -> None:
        taken = [self._receipts.popleft() for _ in range(len(self._receipts))]
        ids: list[str] = []
        for message in taken:
            with suppress(RefusedError):
                ids += decode_receipt(message.payload)
        if ids:  # somebody is there
            self._heard, self._pause, self._trouble = now, self._patience, ""
        self._confirm(ids)
        for message in taken:
            self.link.acknowledge(message)

    def _confirm(self, ids: list[str]) -> None:
        if ids:
            self._reports.confirmed(ids)
            self._store.mark_uploaded(ids)
            self._count(sent=sum(self._waiting.pop(id, None) is not None for id in ids))

    def _look_for_poison(self) -> None:
        """Leave out a message that the connection dies of.

        Brokers hang up on what is too large for them, and mosquitto 2.0 says so with a code that
        paho takes for a broken protocol; paho would send it again for ever. A broker answers in
        order, so the culprit is the oldest that has no answer.
        """
        if self.link.losses == self._losses:
            return
        self._losses = self.link.losses
        oldest = next(iter(self._numbers.values()), "")
        before, times = self._suspect
        self._suspect = (oldest, times + 1 if oldest == before else 1)
        if not oldest or self._suspect[1] < _FATAL:
            return
        self._skipped.add(oldest)
        self._waiting.pop(oldest, None)
        for id in self._numbers.values():
            if id in self._waiting:
                self._waiting[id].acked = -math.inf  # overdue
        self.link.renew()
        self._numbers.clear()  # the new connection numbers anew
        self._published.clear()

    # What goes out ------------------------------------------------------------------------------

    def _repeat(self, now: float) -> None:
        """Send again what was not confirmed in time, or ask with the oldest of it."""
        for id, sent in list(self._waiting.items()):
            if sent.acked is None:
                continue
            overdue = now >= sent.acked + self._patience * 2 ** min(sent.tries - 1, 7)
            answered = not self._trouble if sent.refused else overdue and self._heard > sent.acked
            asking = now >= self._ask_at and (overdue or sent.refused)
            if not (answered or asking) or not self._may_send(now):
                continue
            if not answered:
                self._ask_at, self._pause = now + self._pause, min(2 * self._pause, RAREST)
            stored = self._store.get(id)
            if stored is None:  # evicted meanwhile
                del self._waiting[id]
            elif not self._send(stored):  # the broker takes less than before
                del self._waiting[id]
                self._skipped.add(id)

    def _send_fresh(self, now: float) -> None:
        while (
            not (self._trouble and self._waiting)  # then one of those asks whether it is over
            and len(self._waiting) < WINDOW
            and self._may_send(now)
            and (stored := self._next())
        ):
            self._fresh.popleft()
            self._after = stored.id
            if not self._send(stored):
                self._skipped.add(stored.id)

    @property
    def _reporting(self) -> bool:
        """Reports need somebody who confirms them."""
        return self._options.confirm == "receiver"

    def _send_report(self, now: float) -> None:
        if self._reporting and self._may_send(now) and (data := self._reports.due(now)):
            self.link.publish(self._topic, data)
            self._count(bytes_sent=len(data) + len(self._topic.encode()) + _PACKET)

    def _next(self) -> StoredSample | None:
        """The next sample that was not sent yet; it stays at the head of ``_fresh``."""
        while True:
            while self._fresh:
                id = self._fresh[0].id
                if id not in self._waiting and id not in self._skipped:
                    return self._fresh[0]
                self._after = self._fresh.popleft().id
            self._fresh.extend(self._store.pending(32, after=self._after))
            if not self._fresh:
                return None

    def _may_send(self, now: float) -> bool:
        """Whether broker, memory and the limit of the rate allow one more message."""
        flying = sum(self._waiting[id].size for id in self._numbers.values() if id in self._waiting)
        return (
            len(self._numbers) < self.link.most_in_flight
            and flying < FLYING
            and (self._options.rate is None or self._credit <= now)
        )

    def _send(self, stored: StoredSample) -> bool:
        """Hand a message to the connection; False where it is larger than the broker takes."""
        embedding = self._store.embedding_of(stored.id) if self._options.embeddings else b""
        data = encode(stored, metadata_only=self._options.metadata_only, embedding=embedding)
        size = len(data) + len(self._topic.encode()) + _PACKET
        if size > self.link.most_bytes:
            return False
        sent = self._waiting.setdefault(stored.id, _Sent(size))
        sent.tries, sent.acked = sent.tries + 1, None
        self._numbers[self.link.publish(self._topic, data)] = stored.id
        if self._options.rate:  # a second's worth may be sent at once
            self._credit = max(self._credit, self._clock() - 1) + size / self._options.rate
        self._count(sent_messages=1, bytes_sent=size)
        return True

    # Small things -------------------------------------------------------------------------------

    @property
    def _patience(self) -> float:
        return self._options.patience

    def _refusal(self, code: int) -> str:
        broker = self.link.address.broker
        if code == _NOBODY:
            return (
                f"nobody subscribed to {self._topic} at {broker}; start 'dripgate receive' there, "
                "with the same topic (everything stays pending)"
            )
        if code == 0x87:
            return (
                f"{broker} does not let us write to {self._topic}; allow it in the broker's access "
                "list, or give the topic you may write to"
            )
        return f"{broker} refuses what is sent to {self._topic} (reason 0x{code:02x}); see its log"

    def _silence(self) -> str:
        """What to say where samples arrive at the broker and no receipts come back."""
        if not self._waiting or self._pause <= self._patience:
            return ""
        return (
            f"no receipts for what is sent to {self._topic}; see that 'dripgate receive' runs, and "
            f"that it may write, and we may read, the topic with receipts for samples"
        )

    def _count(self, **increments: int) -> None:
        self._tally.update(increments)
        self._total.update(increments)
