"""The other end of the uplink: what devices kept, into one store, each sample once.

A batch is committed, then receipts go to the devices, then the broker may forget the messages.
Whatever dies in between, the messages come again, and a sample that is there already is only
confirmed again.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from dripgate.errors import StoreError
from dripgate.files import sync_folder, write_whole
from dripgate.store import Event, Put, Store
from dripgate.stream.broker import Address, Security, is_name
from dripgate.stream.buffer import Buffer
from dripgate.stream.message import LARGEST, Message, RefusedError, decode, encode_receipt
from dripgate.stream.mqtt import Link, Received
from dripgate.stream.report import MARK, Report, decode_report
from dripgate.text import plain_json

if TYPE_CHECKING:
    from typing import Self

#: Messages committed together, and bytes of messages in memory.
BATCH, ROOM = 64, 64 << 20
#: The file of metadata may take so many times less than the store.
METADATA_PART = 9
_LONGEST_LINE = 1 << 17
#: Seconds that the broker keeps messages while we are away.
SESSION = 7 * 86400

OnRefused = Callable[[str, str], None]
OnEvent = Callable[[Event], None]


class Tally(msgspec.Struct):
    """What came. present: again, or from two devices. metadata: without its payload."""

    messages: int = 0
    bytes: int = 0
    stored: int = 0
    present: int = 0
    refused: int = 0
    metadata: int = 0
    invalid: int = 0


class Receiver:
    """Puts what arrives into a store. Close it before the store.

    on_refused: is given the topic and the cause of each message that is not what it should be.
    on_event: each event of a device's log, once it is in the store. reported: by device, the last
    report that came.
    """

    def __init__(
        self,
        store: Store,
        address: Address,
        security: Security,
        name: str,
        *,
        on_refused: OnRefused = lambda _topic, _cause: None,
        on_event: OnEvent = lambda _: None,
    ) -> None:
        self.tally = Tally()
        self.reported: dict[str, Report] = {}
        self._store, self._on_refused, self._on_event = store, on_refused, on_event
        self._prefix = f"{address.topic}/samples/"
        self._receipts = f"{address.topic}/receipts/"
        bound = None if store.limit is None else store.limit // METADATA_PART
        # Behind the whole name: north.db and north.sqlite have a file each.
        self._metadata = Metadata(Path(f"{store.path}.metadata.jsonl"), bound)
        self._arrived = Buffer[Received](ROOM, lambda one: len(one.payload) + 1000)
        self.link = Link(
            address,
            f"dripgate-receive-{name}",
            security,
            subscribe=f"{self._prefix}+",
            session=SESSION,
            largest=LARGEST,
            on_message=self._arrived.put,
        )

    def turn(self, wait: float) -> None:
        """Store what has arrived; where nothing has, wait so many seconds for it.

        Raises StoreError where it cannot be stored: nothing of it is confirmed then.
        """
        batch = self._arrived.take(BATCH, wait)
        if not batch:
            return
        batch_reports = self._take_reports(batch)
        whole: list[tuple[str, Message]] = []
        bare: list[tuple[str, Message]] = []
        for received in batch:
            if received.payload.startswith(MARK):
                continue
            if (one := self._read(received)) is not None:
                (bare if one[1].payload is None else whole).append(one)
        self._put(batch, whole)
        if gone := self._metadata.add(bare):
            self._store.count(evicted_metadata=gone)
        self.tally.metadata += len(bare)
        for device in {device for device, _ in whole + bare} | set(batch_reports):
            ids = [message.id.hex() for name, message in whole + bare if name == device]
            ids += batch_reports.get(device, [])
            self.link.publish(self._receipts + device, encode_receipt(ids))
        for received in batch:
            self.link.acknowledge(received)

    def _take_reports(self, batch: list[Received]) -> dict[str, list[str]]:
        """Note what devices say of themselves; returns the ids to be confirmed, by device."""
        reports: dict[str, Report] = {}
        ids: dict[str, list[str]] = {}
        events: list[Event] = []
        for received in batch:
            if not received.payload.startswith(MARK):
                continue
            device = received.topic.removeprefix(self._prefix)
            try:
                if not is_name(device):
                    raise RefusedError("its topic names no device")
                report = decode_report(received.payload[len(MARK) :])
            except RefusedError as error:
                self.tally.invalid += 1
                self._on_refused(received.topic, str(error))
                continue
            events += [msgspec.structs.replace(one, device=device) for one in report.events]
            reports[device] = msgspec.structs.replace(report, events=())
            ids.setdefault(device, []).append(hashlib.sha256(received.payload).hexdigest())
        if reports:
            texts = {name: msgspec.json.encode(one).decode() for name, one in reports.items()}
            for event in self._store.note_reports(texts, events):
                self._on_event(event)
            self.reported |= reports
        return ids

    def close(self) -> None:
        """End the connection; what is not stored stays with the broker."""
        self._arrived.end()
        self.link.close()
        self._metadata.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, received: Received) -> tuple[str, Message] | None:
        """The device and its message; None, counted, for what is none."""
        device = received.topic.removeprefix(self._prefix)
        try:
            if not is_name(device):
                raise RefusedError("its topic names no device")
            return device, decode(received.payload)
        except RefusedError as error:
            self.tally.invalid += 1
            self._on_refused(received.topic, str(error))
            return None

    def _put(self, batch: list[Received], whole: list[tuple[str, Message]]) -> None:
        counters = Counter(
            received=len(batch), bytes_received=sum(len(one.payload) for one in batch)
        )
        fates = self._store.put_many(
            [(message.sample(device), message.verdict) for device, message in whole],
            labels={m.id.hex(): m.label for _, m in whole if m.label is not None},
            gates={m.id.hex(): m.gate for _, m in whole if m.gate},
            embeddings={m.id.hex(): m.numbers for _, m in whole if m.numbers is not None},
            counters=counters,
        )
        self.tally.messages += len(batch)
        self.tally.bytes += counters["bytes_received"]
        self.tally.stored += fates.count(Put.STORED)
        self.tally.present += fates.count(Put.PRESENT)
        self.tally.refused += fates.count(Put.REFUSED)


class Metadata:
    """A file of JSON lines for samples that come without payload; made when the first one does.

    An id is written once. Ids are held in memory, about 100 bytes each. limit: bytes that the file
    may take, None is no limit; beyond it the older half goes. Raises StoreError.
    """

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self._path, self._limit = path, limit
        self._known: set[bytes] = set()
        self._file: FileIO | None = None
        if path.exists():
            self._open()

    def add(self, messages: list[tuple[str, Message]]) -> int:
        """Write what is new; on the disk when this returns. Returns how many older ones went."""
        lines: dict[bytes, bytes] = {}
        for device, message in messages:
            if message.id not in self._known:
                record = msgspec.structs.asdict(message) | {"id": message.id.hex()}
                del record["payload"], record["embedding"]
                line = msgspec.json.encode({"device": device} | record).decode()
                lines[message.id] = plain_json(line).encode() + b"\n"
        gone = 0
        while self._limit is not None and sum(map(len, lines.values())) > self._limit // 2:
            del lines[next(iter(lines))]
            gone += 1
        if not lines:
            return gone
        data = b"".join(lines.values())
        file = self._file or self._open()
        try:
            gone += self._make_room(file, len(data))
            _write(self._file or self._open(), data)
        except OSError as error:
            raise StoreError(
                f"{self._path}: cannot be written ({error.strerror}); free some space, then retry"
            ) from None
        self._known.update(lines)
        return gone

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
            self._file = None

    def _make_room(self, file: FileIO, size: int) -> int:
        """Leave the younger half of the lines where the limit asks for it; returns how many went.

        A copy takes the file's place, so a quarter of the limit is the most that stays.
        """
        there = os.fstat(file.fileno()).st_size
        if self._limit is None or there + size <= self._limit * 3 // 4:
            return 0
        lines = self._path.read_bytes().splitlines(keepends=True)
        kept, room = len(lines), max(0, self._limit // 4 - size)
        while kept and len(lines[kept - 1]) <= room:
            kept -= 1
            room -= len(lines[kept])
        self.close()
        write_whole(self._path, b"".join(lines[kept:]))
        self._known.clear()
        self._open()
        return kept

    def _open(self) -> FileIO:
        """Read the ids that are there, and cut off a line that a crash left half."""
        whole = 0
        try:
            if self._path.is_symlink() or (self._path.exists() and not self._path.is_file()):
                raise ValueError("a link or no plain file")
            self._file = FileIO(self._path, "a+")
            with self._path.open("rb") as lines:
                while line := lines.readline(_LONGEST_LINE):
                    if line.endswith(b"\n"):
                        whole += len(line)
                        self._known.add(bytes.fromhex(msgspec.json.decode(line, type=_Line).id))
                    elif len(line) == _LONGEST_LINE:
                        raise ValueError("a line too long for a record")
            self._file.truncate(whole)
            sync_folder(self._path.parent)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            raise StoreError(f"{self._path}: no metadata of ours ({error}); move it away") from None
        return self._file


def _write(file: FileIO, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]
    os.fsync(file.fileno())


class _Line(msgspec.Struct, frozen=True):
    """What is read back of a line."""

    id: str
