"""The other end of the uplink: what devices kept, into one store, each sample once.

A batch is committed, then receipts go to the devices, then the broker may forget the messages.
Whatever dies in between, the messages come again, and a sample that is there already is only
confirmed again.
"""

import os
from collections import Counter
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from dripgate.errors import StoreError
from dripgate.files import sync_folder
from dripgate.store import Put, Store
from dripgate.stream.broker import Address, Security, is_name
from dripgate.stream.buffer import Buffer
from dripgate.stream.message import LARGEST, Message, RefusedError, decode, encode_receipt
from dripgate.stream.mqtt import Link, Received

#: Messages committed together, and bytes of messages in memory.
BATCH, ROOM = 64, 64 << 20
#: Seconds that the broker keeps messages while we are away.
SESSION = 7 * 86400

OnRefused = Callable[[str, str], None]


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
    """

    def __init__(
        self,
        store: Store,
        address: Address,
        security: Security,
        name: str,
        *,
        on_refused: OnRefused = lambda _topic, _cause: None,
    ) -> None:
        self.tally = Tally()
        self._store, self._on_refused = store, on_refused
        self._prefix = f"{address.topic}/samples/"
        self._receipts = f"{address.topic}/receipts/"
        self._metadata = Metadata(store.path.with_suffix(".metadata.jsonl"))
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
        whole: list[tuple[str, Message]] = []
        bare: list[tuple[str, Message]] = []
        for received in batch:
            if (one := self._read(received)) is not None:
                (bare if one[1].payload is None else whole).append(one)
        self._put(batch, whole)
        self._metadata.add(bare)
        self.tally.metadata += len(bare)
        for device in {device for device, _ in whole + bare}:
            ids = [message.id.hex() for name, message in whole + bare if name == device]
            self.link.publish(self._receipts + device, encode_receipt(ids))
        for received in batch:
            self.link.acknowledge(received)

    def close(self) -> None:
        """End the connection; what is not stored stays with the broker."""
        self._arrived.end()
        self.link.close()
        self._metadata.close()

    def __enter__(self) -> Self:
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
            counters=counters,
        )
        self.tally.messages += len(batch)
        self.tally.bytes += counters["bytes_received"]
        self.tally.stored += fates.count(Put.STORED)
        self.tally.present += fates.count(Put.PRESENT)
        self.tally.refused += fates.count(Put.REFUSED)


class Metadata:
    """A file of JSON lines for samples that come without payload; made when the first one does.

    An id is written once. Ids are held in memory, about 100 bytes each.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: set[bytes] = set()
        self._file: FileIO | None = None
        if path.exists():
            self._open()

    def add(self, messages: list[tuple[str, Message]]) -> None:
        """Write what is new; on the disk when this returns. Raises StoreError."""
        lines = b""
        for device, message in messages:
            if message.id not in self._known:
                self._known.add(message.id)
                record = msgspec.structs.asdict(message) | {"id": message.id.hex()}
                del record["payload"]
                lines += msgspec.json.encode({"device": device} | record) + b"\n"
        if not lines:
            return
        file = self._file or self._open()
        try:
            while lines:
                lines = lines[file.write(lines) :]
            os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(
                f"{self._path}: cannot be written ({error.strerror}); free some space, then retry"
            ) from None

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def _open(self) -> FileIO:
        """Read the ids that are there, and cut off a line that a crash left half."""
        whole = 0
        try:
            self._file = FileIO(self._path, "a+")
            with self._path.open("rb") as lines:
                for line in lines:
                    if line.endswith(b"\n"):
                        whole += len(line)
                        self._known.add(bytes.fromhex(msgspec.json.decode(line, type=_Line).id))
            self._file.truncate(whole)
            sync_folder(self._path.parent)
        except (OSError, ValueError) as error:
            raise StoreError(f"{self._path}: no metadata of ours ({error}); move it away") from None
        return self._file


class _Line(msgspec.Struct, frozen=True):
    """What is read back of a line."""

    id: str
