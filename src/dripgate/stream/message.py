"""What goes over the air: a message per sample, and receipts for what the other end has stored.

Both are MessagePack, decoded strictly: unknown fields, texts over the store's limits, and payloads
that do not have the hash they claim are refused before anything is done with them. For a device
called NAME and the topic TOPIC of the address,

    TOPIC/samples/NAME    Message    device → receiver
    TOPIC/receipts/NAME   Receipt    receiver → device, when the samples are on its disk
"""

import hashlib
import math
from typing import Annotated, Literal

import msgspec
import numpy as np

from dripgate.media import DEFAULT_LIMITS
from dripgate.store.records import (
    LONGEST_DETAIL,
    LONGEST_GATE,
    LONGEST_LABEL,
    LONGEST_SOURCE,
    StoredSample,
)
from dripgate.types import Array, Reason, Sample, Verdict

#: Bytes that the largest message may take: a payload, and what is said about it.
LARGEST = DEFAULT_LIMITS.payload_bytes + (1 << 17)
#: Most numbers of an embedding; a wider one stays on the device.
WIDEST = 1 << 15

Id = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stored sample on its way. payload: None where only its metadata is sent. embedding: (D,) as
    the store keeps it, little-endian float16; beside a payload alone, and only where asked for.
    """

    version: Literal[1] = 1
    id: Id
    size: Annotated[int, msgspec.Meta(ge=0, le=DEFAULT_LIMITS.payload_bytes)]
    source: Annotated[str, msgspec.Meta(max_length=LONGEST_SOURCE)]
    time: float
    decision: Literal["keep", "quarantine"]
    reason: Reason
    score: float
    quality: float
    predicted: Annotated[int, msgspec.Meta(ge=-1, le=1 << 31)]
    propensity: float
    detail: Annotated[str, msgspec.Meta(max_length=LONGEST_DETAIL)] = ""
    label: Annotated[str, msgspec.Meta(max_length=LONGEST_LABEL)] | None = None
    gate: Annotated[str, msgspec.Meta(max_length=LONGEST_GATE)] = ""
    payload: bytes | None = None
    embedding: Annotated[bytes, msgspec.Meta(max_length=2 * WIDEST)] | msgspec.UnsetType = (
        msgspec.UNSET  # takes no byte
    )

    def sample(self, device: str) -> Sample:
        """The sample as it was, its source below the name of the device.

        Of a source that is too long with the name its beginning goes, as in a store, never the
        name: nobody speaks for another device.
        """
        room = LONGEST_SOURCE - len(device) - 1
        return Sample(self.payload or b"", f"{device}/{self.source[-room:]}", self.time)

    @property
    def verdict(self) -> Verdict:
        """The verdict as it was."""
        return msgspec.convert(self, Verdict, from_attributes=True)

    @property
    def numbers(self) -> Array | None:
        """The embedding float16 (D,); None where none was sent."""
        return np.frombuffer(self.embedding, "<f2") if self.embedding else None


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ids of samples that the receiver has taken: they survive its crash."""

    ids: Annotated[list[Id], msgspec.Meta(max_length=4096)]
    version: Literal[1] = 1


class RefusedError(ValueError):
    """A message that is not what it should be; ``str(error)`` is the cause."""


def encode(stored: StoredSample, *, metadata_only: bool = False, embedding: bytes = b"") -> bytes:
    """The message that carries a stored sample. embedding: as the store keeps it; b"" is none."""
    beside = embedding and not metadata_only and len(embedding) <= 2 * WIDEST
    message = Message(
        id=bytes.fromhex(stored.id),
        size=len(stored.payload),
        source=stored.source,
        time=stored.time,
        decision=stored.decision.value,  # type: ignore[arg-type]  # nothing dropped is stored
        reason=stored.reason,
        score=stored.score,
        quality=stored.quality,
        predicted=stored.predicted,
        propensity=stored.propensity,
        detail=stored.detail,
        label=stored.label,
        gate=stored.gate,
        payload=None if metadata_only else stored.payload,
        embedding=embedding if beside else msgspec.UNSET,
    )
    return msgspec.msgpack.encode(message)


def decode(data: bytes) -> Message:
    """The message in these bytes, whose payload has the hash and the size that it says.

    Raises RefusedError, whose text is the cause.
    """
    if len(data) > LARGEST:
        raise RefusedError(f"{len(data):,} bytes, more than the limit of {LARGEST:,}")
    try:
        message = msgspec.msgpack.decode(data, type=Message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(f"not a message of this dripgate ({error!s:.160})") from None
    if not (math.isnan(message.propensity) or 0 <= message.propensity <= 1):
        raise RefusedError("its propensity is no probability")
    payload = message.payload
    if payload is not None and (
        len(payload) != message.size or hashlib.sha256(payload).digest() != message.id
    ):
        raise RefusedError("its payload is not the one its id names: damaged or forged")
    if message.embedding is not msgspec.UNSET:
        _check_embedding(message.embedding, payload)
    return message


def _check_embedding(embedding: bytes, payload: bytes | None) -> None:
    if payload is None:
        raise RefusedError("an embedding without the payload that it is of")
    if len(embedding) % 2 or not np.isfinite(np.frombuffer(embedding, "<f2")).all():
        raise RefusedError("its embedding is not made of numbers")


def decode_receipt(data: bytes) -> list[str]:
    """The ids in a receipt, 64 hex digits each. Raises RefusedError."""
    try:
        receipt = msgspec.msgpack.decode(data, type=Receipt)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(f"not a receipt ({error!s:.160})") from None
    return [id.hex() for id in receipt.ids]


def encode_receipt(ids: list[str]) -> bytes:
    """The receipt for these ids."""
    return msgspec.msgpack.encode(Receipt([bytes.fromhex(id) for id in ids]))
