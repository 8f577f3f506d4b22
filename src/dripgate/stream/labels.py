"""Labels of an MQTT topic into a store, for a head that learns where it runs; and onto the topic.

A message is what a file of labels may be, JSON or CSV, of at most LARGEST bytes. It is acknowledged
once its labels are on the disk, so one that was sent with QoS 1 is taken whatever happens to us;
while we are away the broker keeps it. The same labels again change nothing. What is of no use is
counted, and told now and then, so that who floods the topic does not flood the log.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from dripgate.errors import DataError, IncompleteError, UplinkError
from dripgate.store import Store
from dripgate.store.records import LONGEST_LABEL
from dripgate.stream.broker import Address, Security
from dripgate.stream.buffer import Buffer
from dripgate.stream.force import Observer
from dripgate.stream.mqtt import Link, Received
from dripgate.text import one_line

#: Bytes of the largest message that is taken; those that we send are half as large.
LARGEST = 1 << 18
#: Bytes that wait, and seconds that one turn of the loop may take for them, a message more or less.
ROOM, TURN = 4 << 20, 0.2
#: Seconds that the broker keeps labels while we are away.
SESSION = 7 * 86400
#: Seconds between two lines about what came; names in a line.
PAUSE, NAMED = 10.0, 5
#: Seconds without a word of the broker before ``publish`` gives up.
PATIENCE = 30.0
_NOBODY, _FORBIDDEN = 0x10, 0x87
_AROUND = 64  # bytes of a PUBLISH beside topic and payload, at most


class Said(Protocol):
    """What a message says. labels: by sample id. unlabelled, unknown: entries without a label, or
    without an id.
    """

    @property
    def labels(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def unlabelled(self) -> int: ...  # noqa: D102
    @property
    def unknown(self) -> int: ...  # noqa: D102


class LabelTally(msgspec.Struct):
    """What came. labelled: samples that have another label now. same: that had it. missing: ids
    that are not in the store. without: entries without an id or a label, or with one that is too
    long. strange: labels of classes that the head does not have; they are in the store. refused:
    messages that hold no labels, or are too large.
    """

    messages: int = 0
    labelled: int = 0
    same: int = 0
    missing: int = 0
    without: int = 0
    strange: int = 0
    refused: int = 0


class LabelTopic(Observer):
    """Takes labels from a topic into the store, in the loop's turn. Close it before the store.

    read: what a message says; raises DataError. classes: those of the head in force. told: is given
    a line about what came, at most one in PAUSE seconds.
    """

    def __init__(
        self, store: Store, address: Address, security: Security, name: str, *,
        read: Callable[[bytes], Said], classes: Callable[[], Sequence[str]],
        told: Callable[[str], object], clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.tally = LabelTally()
        self._store, self._read, self._classes = store, read, classes
        self._who = f"mqtt {address.topic}"
        self._told, self._clock, self._last = told, clock, clock() - PAUSE
        self._news: Counter[str] = Counter()
        self._names: dict[str, dict[str, None]] = {}
        self._arrived = Buffer[Received](ROOM, lambda one: len(one.payload) + 1000)
        self.link = Link(
            address, f"dripgate-labels-{name}", security, subscribe=address.topic, session=SESSION,
            largest=LARGEST + (1 << 16), on_message=self._arrived.put,
        )  # fmt: skip
        self._trouble = self.link.trouble  # not yet worth a word

    def turn(self) -> None:
        """Take what has arrived; never waits for the network. Raises StoreError."""
        if (trouble := self.link.trouble) != self._trouble:
            self._told(f"labels: {trouble or 'the connection stands'}")
            self._trouble = trouble
        end = self._clock() + TURN
        while self._clock() < end and (arrived := self._arrived.take(1, 0)):
            self._take(arrived[0].payload)
            self.link.acknowledge(arrived[0])
        if self._clock() - self._last >= PAUSE:
            self._tell()

    def close(self) -> None:
        """End the connection; what was not taken stays with the broker."""
        self._arrived.end()
        self.link.close()
        self._tell()

    def _take(self, data: bytes) -> None:
        self._count("messages", 1)
        try:
            if len(data) > LARGEST:
                raise DataError(f"{len(data):,} bytes, more than the limit of {LARGEST:,}")
            said = self._read(data)
        except DataError as error:
            self._count("refused", 1, [str(error)])
            return
        labels = {id: text for id, text in said.labels.items() if len(text) <= LONGEST_LABEL}
        done = self._store.relabel(labels, who=self._who)
        missing, known = set(done.missing), set(self._classes())
        strange = [label for id, label in labels.items()
                   if id not in missing and label not in known]  # fmt: skip
        self._count("labelled", len(done.labels))
        self._count("same", len(done.same))
        self._count("missing", len(done.missing), done.missing)
        self._count("strange", len(strange), strange)
        self._count("without", said.unlabelled + said.unknown + len(said.labels) - len(labels))

    def _count(self, what: str, n: int, names: Sequence[str] = ()) -> None:
        setattr(self.tally, what, getattr(self.tally, what) + n)
        self._news[what] += n
        known = self._names.setdefault(what, {})
        known.update(dict.fromkeys(names[: NAMED - len(known)]))

    def _tell(self) -> None:
        if self._news.total():
            self._told(f"labels: {_line(self._news, self._names)}")
            self._news.clear()
            self._names.clear()
        self._last = self._clock()


_UNUSED = {
    "missing": "of samples that are not here",
    "strange": "of classes that the head does not have",
    "without": "entries without a sample's id or a label that fits",
    "refused": "messages that hold no labels",
}


def _line(news: Mapping[str, int], names: Mapping[str, Mapping[str, None]]) -> str:
    said = [f"{news['labelled']:,} samples labelled, {news['same']:,} as they were"]
    for what, text in _UNUSED.items():
        if news[what]:
            some = ", ".join(one_line(name)[:120] for name in names.get(what, ()))
            said.append(f"{news[what]:,} {text}" + (f" ({some})" if some else ""))
    return "; ".join(said)


# The other end ----------------------------------------------------------------------------------


def publish(
    address: Address, security: Security, name: str, labels: Mapping[str, str],
    stopped: Callable[[], bool], *, told: Callable[[int], object] = lambda _: None,
) -> None:  # fmt: skip
    """Send labels by sample id to a topic, until the broker has them all. told: how many it has.

    Raises UplinkError where the broker or the topic cannot be used, IncompleteError where it has
    not taken all, or has nobody to give them to.
    """
    answers: deque[tuple[int, int]] = deque()
    link = Link(
        address, f"dripgate-label-{name}", security,
        on_published=lambda mid, code: answers.append((mid, code)),
    )  # fmt: skip
    try:
        link.connect(stopped)
        _publish(link, labels, answers, stopped, told)
    finally:
        link.close()


def _publish(
    link: Link, labels: Mapping[str, str], answers: deque[tuple[int, int]],
    stopped: Callable[[], bool], told: Callable[[int], object],
) -> None:  # fmt: skip
    room = min(LARGEST // 2, link.most_bytes - len(link.address.topic.encode()) - _AROUND)
    parts, taken = _parts(labels, room), 0
    flying: dict[int, int] = {}
    part, heard = next(parts, None), time.monotonic()
    while part or flying:
        while part and link.ready and len(flying) < link.most_in_flight:
            flying[link.publish(link.address.topic, msgspec.json.encode(part))] = len(part)
            part = next(parts, None)
        link.wait(0.2)
        while answers:
            mid, code = answers.popleft()
            _check(link, code)
            taken += flying.pop(mid, 0)
            heard = time.monotonic()
            told(taken)
        if stopped() or time.monotonic() - heard > PATIENCE:
            raise IncompleteError(
                f"{len(labels) - taken:,} of {len(labels):,} labels were not taken by "
                f"{link.address.broker}; send them again, what is there already changes nothing"
                + (f"; {link.trouble}" if link.trouble else "")
            )


def _check(link: Link, code: int) -> None:
    broker, topic = link.address.broker, link.address.topic
    if code == _NOBODY:
        raise IncompleteError(
            f"nobody subscribed to {topic} at {broker}; start 'dripgate run … --adapt 1h --labels' "
            "with the same topic on the devices, then send again"
        )
    if code == _FORBIDDEN:
        raise UplinkError(
            f"{broker} does not let us write to {topic}; allow it in the broker's access list, or "
            "give the topic you may write to"
        )
    if code:
        raise UplinkError(f"{broker} refuses labels for {topic} (reason 0x{code:02x}); see its log")


def _parts(labels: Mapping[str, str], room: int) -> Iterator[list[dict[str, str]]]:
    """Messages of at most ``room`` bytes, or with one label."""
    part: list[dict[str, str]] = []
    size = 2
    for id, label in labels.items():
        more = len(msgspec.json.encode({"id": id, "label": label})) + 1
        if part and size + more > room:
            yield part
            part, size = [], 2
        part.append({"id": id, "label": label})
        size += more
    if part:
        yield part
