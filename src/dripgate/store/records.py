"""What goes into a store and what comes out of it."""

import math
import time as clock
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from dripgate.errors import StoreError
from dripgate.store.space import Pool, Rank, footprint
from dripgate.types import Array, Decision, Reason, Sample, StrEnum, Verdict

T = TypeVar("T")

#: Longest texts kept, in characters: the end of a source (4096 is Linux' longest path), the
#: beginning of a detail, and a label, which is refused rather than cut.
LONGEST_SOURCE, LONGEST_DETAIL, LONGEST_LABEL = 4096, 1024, 256
#: Characters of a gate's id, of what an event is, and of the line that says it.
LONGEST_GATE, LONGEST_WHAT, LONGEST_SAID = 64, 32, 1024
_LARGEST_HALF = 65504.0  # of float16


class Put(StrEnum):
    """What became of a sample given to ``put``. Only STORED is true."""

    STORED = "stored"  # it is on the disk
    PRESENT = "present"  # the same bytes were there already; nothing was changed
    REFUSED = "refused"  # the store is full of samples that are worth as much or more

    def __bool__(self) -> bool:
        return self is Put.STORED


class StoredSample(msgspec.Struct, frozen=True, kw_only=True):
    """A sample with its verdict and label, as read from a store.

    id: SHA-256 of the payload, 64 hex digits. time: seconds since the epoch. score, quality and
    propensity are NaN where they were NaN. predicted is a class index, -1 where there is none.
    label: None until the sample is labelled. uploaded: whether ``mark_uploaded`` was told so.
    gate: id of the gate that decided, "" where it was not noted.
    """

    id: str
    payload: bytes
    source: str
    time: float
    decision: Decision
    reason: Reason
    score: float
    quality: float
    predicted: int
    propensity: float
    detail: str
    label: str | None
    uploaded: bool
    gate: str = ""

    @property
    def sample(self) -> Sample:
        """The sample as it was put; its problem, if it had one, is in ``detail`` if anywhere."""
        return Sample(payload=self.payload, source=self.source, time=self.time)

    @property
    def intact(self) -> bool:
        """Whether the payload has the hash that is its id: it is the one that was put."""
        return self.sample.id == self.id

    @property
    def verdict(self) -> Verdict:
        """The verdict as it was put."""
        return msgspec.convert(self, Verdict, from_attributes=True)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A store at one moment.

    payload_bytes: sum over the samples. disk_bytes: all files of the store together. limit: bytes,
    None is no limit. predicted: samples per predicted class index. gate: the name or id under
    which the gate was noted with ``set_meta("gate_id", …)``, empty where it was not.
    """

    samples: int
    decisions: dict[str, int]
    reasons: dict[str, int]
    predicted: dict[int, int]
    labelled: int
    uploaded: int
    payload_bytes: int
    disk_bytes: int
    limit: int | None
    counters: dict[str, int]
    gate: str


class Wanted(NamedTuple):
    """Which samples: those for which all that is given here holds.

    age: they are older than so many seconds, by this machine's clock; a sample without a time is
    not.
    """

    uploaded: bool | None = None
    labelled: bool | None = None
    decision: Decision | None = None
    age: float | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What one act of labelling did, or the taking back of one.

    change: its number, rising. time: seconds since the epoch. who: as given. undone: it was taken
    back, or is itself the taking back of another. labels: (before, after) by sample id, None is
    no label.
    """

    change: int
    time: float
    who: str
    undone: bool
    labels: dict[str, tuple[str | None, str | None]]


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step in the life of a device's gates, as the store's log has it.

    what: one word, such as "switched". gate: id of the gate it is about. said: a line for people.
    time: seconds since the epoch. number: rising, given by the store. device: "" is this one.
    """

    what: Annotated[str, msgspec.Meta(max_length=LONGEST_WHAT)]
    gate: Annotated[str, msgspec.Meta(max_length=LONGEST_GATE)] = ""
    said: Annotated[str, msgspec.Meta(max_length=LONGEST_SAID)] = ""
    time: float = msgspec.field(default_factory=clock.time)
    number: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] = 0
    device: str = ""


class Decided(NamedTuple):
    """What to note in the ledger of decided files.

    marks: little-endian uint64 (n,), as the caller makes them. leaving: those of files that are
    about to leave; the next note forgets them. newest: time of change in ns of the newest of the
    files. crowded: more files stay than can be remembered, so where the oldest marks go, files up
    to their time count as decided (``floor``).
    """

    marks: bytes = b""
    leaving: bytes = b""
    newest: int = 0
    crowded: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.marks) + len(self.leaving)


class Ledger(NamedTuple):
    """The ledger as it is: all marks, those of files about to leave, and the floor, in ns."""

    marks: bytes
    leaving: bytes
    floor: int


class Candidate(NamedTuple):
    """A sample that asks to be stored. ``position`` is its place among those that do."""

    position: int
    id: str
    pool: Pool
    worth: float | bytes
    footprint: int
    row: dict[str, Any]

    @property
    def rank(self) -> Rank:
        """As a victim's: it is nowhere else yet."""
        return True, self.worth


def clean(text: str) -> str:
    """Text that UTF-8 can hold: names of files need not be valid, and must not stop a stream."""
    return text.encode("utf-8", "backslashreplace").decode()


def clean_label(label: str | None) -> str | None:
    """A label that fits.

    Raises:
        StoreError: it is too long, and cutting it would make another label of it.
    """
    if label is not None and len(label) > LONGEST_LABEL:
        raise StoreError(
            f"the label {label[:40]!r}… has {len(label)} characters; at most {LONGEST_LABEL} fit"
        )
    return None if label is None else clean(label)


def value_of(score: float) -> float:
    """What eviction orders by: the score, with NaN below everything."""
    return -math.inf if math.isnan(score) else score


def packed(embedding: Array | None) -> bytes | None:
    """An embedding (D,) as it is stored: half precision, which moves a distance by 0.05 %.

    None for none, and for one with a value that is not finite.
    """
    if embedding is None or not len(embedding) or not np.isfinite(embedding).all():
        return None
    return np.clip(embedding, -_LARGEST_HALF, _LARGEST_HALF).astype("<f2").tobytes()


def candidate(
    position: int,
    sample: Sample,
    verdict: Verdict,
    label: str | None,
    numbers: bytes | None,
    gate: str | None = None,
) -> Candidate:
    """The row of a sample. NaN becomes NULL, as always in SQLite.

    Pool and worth are as the generated columns have them.
    """
    source = clean(sample.source)[-LONGEST_SOURCE:]
    detail = clean(verdict.detail)[:LONGEST_DETAIL]
    score = float(verdict.score)
    value = value_of(score)
    text = len((source + detail + (label or "")).encode())
    size = footprint(len(sample.payload), text, len(numbers or b""))
    row = {
        "id": bytes.fromhex(sample.id),
        "source": source,
        "time": float(sample.time),
        "decision": verdict.decision.value,
        "reason": verdict.reason.value,
        "score": score,
        "quality": float(verdict.quality),
        "predicted": int(verdict.predicted),
        "propensity": float(verdict.propensity),
        "detail": detail,
        "label": label,
        "gate": gate and clean(gate)[:LONGEST_GATE],
        "bytes": len(sample.payload),
        "value": value,
        "footprint": size,
        "payload": sample.payload,
        "numbers": numbers,
    }
    if verdict.propensity < 1:
        return Candidate(position, sample.id, Pool.AUDIT, bytes.fromhex(sample.id), size, row)
    return Candidate(position, sample.id, Pool(verdict.decision.value), value, size, row)


def typed(found: Any, kind: type[T]) -> T:
    """What SQLite read, once it is what a dripgate could have written.

    Raises msgspec.ValidationError: a strict table is no proof, the file may come from anybody.
    """
    return msgspec.convert(found, kind, builtin_types=(bytes,))  # else texts are taken for base64


class _Row(NamedTuple):
    """The columns of ``schema.COLUMNS``, in their order, as a dripgate writes them."""

    id: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    source: str
    time: float | None
    decision: Decision
    reason: Reason
    score: float | None
    quality: float | None
    predicted: int
    propensity: float | None
    detail: str
    label: str | None
    uploaded: int
    gate: str | None
    payload: bytes


def stored_sample(columns: Sequence[Any]) -> StoredSample:
    """From the columns of ``schema.COLUMNS``, in their order.

    Raises msgspec.ValidationError where they are not what a dripgate writes.
    """
    row = typed(columns, _Row)
    return StoredSample(
        id=row.id.hex(),
        payload=row.payload,
        source=row.source,
        time=_real(row.time),
        decision=row.decision,
        reason=row.reason,
        score=_real(row.score),
        quality=_real(row.quality),
        predicted=row.predicted,
        propensity=_real(row.propensity),
        detail=row.detail,
        label=row.label,
        uploaded=bool(row.uploaded),
        gate=row.gate or "",
    )


def _real(value: float | None) -> float:
    return math.nan if value is None else float(value)
