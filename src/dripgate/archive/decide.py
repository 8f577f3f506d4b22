"""A block of addresses → rows: fetched, decoded and decided in one place, by one gate.

A block is decided the same wherever and whenever it is: its samples meet the gate in their order,
so many at a time. The gate rounds differently in batches of another size or order.
"""

import hashlib
import time as clock
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from dripgate import media
from dripgate.archive.fetch import Fetcher
from dripgate.archive.rows import lists, schema, sketched
from dripgate.errors import UnreadableError
from dripgate.gate import Gate, Outputs
from dripgate.stream.reading import taken_at
from dripgate.types import Array, Decision

#: Samples that the gate decides together.
BATCH = 64
_NAMES = np.array([one.value for one in sorted(Decision, key=lambda one: one.code)])
_REASONS = np.array(["band", "band", "quality"])


class Block(NamedTuple):
    """Neighbours of the listing. number: of its first row; rows: of each. sizes: -1 is unknown;
    times: in seconds since the epoch or None.
    """

    number: int
    addresses: list[str]
    sizes: list[int]
    times: list[float | None]

    @property
    def rows(self) -> range:
        """Numbers in the listing."""
        return range(self.number, self.number + len(self.addresses))


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """times: mtime or exif, as of ``stream.reading``. overlap: of windows of long recordings."""

    times: str = "mtime"
    overlap: float = media.OVERLAP
    embeddings: bool = False


class Decided(NamedTuple):
    """Rows of a block, and the seconds of CPU that they took here."""

    rows: pa.RecordBatch
    cpu: float


class _Part(NamedTuple):
    """What becomes a row."""

    row: int
    address: str
    at: float | None
    time: float | None
    payload: bytes
    problem: str


class Decider:
    """Decides blocks; to be kept by a worker, since opening a gate takes a while."""

    def __init__(self, gate: Gate, asked: Asked, transport: Any) -> None:
        self._gate, self._asked = gate, asked
        self._fetch = Fetcher(transport)
        self._classes = pa.array(gate.info.classes, pa.string())
        self._spent = clock.process_time()

    def __call__(self, block: Block) -> Decided:
        """The rows of a block, in its order."""
        kept, arrays, found = [], [], []
        for part in self._parts(block):
            problem = part.problem
            if not problem:
                try:
                    arrays.append(media.decode(part.payload, self._gate.info.input))
                except UnreadableError as error:
                    problem = str(error)
            id = hashlib.sha256(part.payload).hexdigest() if part.payload else None
            kept.append(
                (part.row, part.address, part.at, part.time, id, len(part.payload), problem or None)
            )
            if len(arrays) == BATCH:
                found.append(self._seen(arrays))
                arrays = []
        if arrays:
            found.append(self._seen(arrays))
        rows = self._table(kept, found)
        spent, self._spent = self._spent, clock.process_time()
        return Decided(rows, self._spent - spent)

    def _parts(self, block: Block) -> Iterator[_Part]:
        spec, asked = self._gate.info.input, self._asked
        fetched = self._fetch(block.addresses, block.sizes)
        for row, address, time, (payload, problem) in zip(
            block.rows, block.addresses, block.times, fetched, strict=True
        ):
            taken = taken_at(asked.times, payload, time)
            if problem:
                yield _Part(row, address, None, taken, b"", problem)
                continue
            try:
                for window in media.windows(payload, spec, overlap=asked.overlap):
                    at = None if window.whole else window.at
                    when = taken if taken is None else taken + window.at
                    yield _Part(row, address, at, when, window.payload, "")
            except UnreadableError as error:
                yield _Part(row, address, None, taken, b"", str(error))

    def _seen(self, arrays: list[Array]) -> Outputs:
        outputs = self._gate(np.stack(arrays))
        return outputs._replace(heatmap=outputs.heatmap[:0])

    def _table(self, kept: list[tuple[Any, ...]], found: list[Outputs]) -> pa.RecordBatch:
        names = ("row", "address", "at", "time", "id", "bytes", "cause")
        columns: dict[str, Any] = dict(zip(names, zip(*kept, strict=True), strict=True))
        readable = np.array([cause is None for cause in columns["cause"]], bool)
        micros = [None if t is None else round(t * 1e6) for t in columns["time"]]
        columns["time"] = pa.array(micros, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
        code = np.zeros(len(kept), np.int64)
        columns |= dict.fromkeys(("probability", "score", "quality"), [None] * len(kept))
        columns |= {"predicted": [None] * len(kept), "sketch": [None] * len(kept)}
        embedding = np.zeros((0, 0), np.float32)
        if found:
            logits, score, verdict, quality, embedding = (
                np.concatenate(column) for column in list(zip(*found, strict=True))[:5]
            )
            place = np.cumsum(readable) - 1
            predicted = logits.argmax(axis=1)
            code[readable] = verdict
            columns["predicted"] = self._classes.take(_spread(predicted, place, readable))
            for name, values in (
                ("score", score), ("quality", quality),
                ("probability", _probability(logits, predicted, self._gate.info.head)),
            ):  # fmt: skip
                columns[name] = _spread(values, place, readable)
            columns["sketch"] = pa.array(sketched(embedding), pa.binary()).take(
                pa.array(place, mask=~readable)
            )
        columns["verdict"] = _NAMES[code]
        columns["reason"] = np.where(readable, _REASONS[code], "unreadable")
        shape = schema(embeddings=self._asked.embeddings)
        if self._asked.embeddings:
            columns["embedding"] = lists(embedding, readable)
        return pa.record_batch([pa.array(columns[f.name], f.type) for f in shape], schema=shape)


def _spread(values: Array, place: Array, readable: Array) -> pa.Array:
    """Values of the readable rows as a column of all rows."""
    return pa.array(values[np.maximum(place, 0)], mask=~readable)


def _probability(logits: Array, predicted: Array, head: str) -> Array:
    """Of the predicted class: a softmax of the logits, or a sigmoid of its own."""
    top = logits[np.arange(len(logits)), predicted].astype(np.float64)
    if head == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-top)), np.float32)
    return np.asarray(1 / np.exp(logits - top[:, None]).sum(axis=1), np.float32)
