"""Messages and receipts from outside: what is not exactly one is refused, and breaks nothing."""

import hashlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dripgate.store import StoredSample
from dripgate.stream.message import (
    WIDEST,
    Message,
    RefusedError,
    decode,
    decode_receipt,
    encode,
    encode_receipt,
)
from dripgate.types import Decision, Reason

floats = st.floats(width=64)
stored_samples = st.builds(
    lambda payload, **values: StoredSample(
        id=hashlib.sha256(payload).hexdigest(), payload=payload, uploaded=False, **values
    ),
    payload=st.binary(max_size=200),
    source=st.text(max_size=40),
    time=floats,
    decision=st.sampled_from([Decision.KEEP, Decision.QUARANTINE]),
    reason=st.sampled_from(Reason),
    score=floats,
    quality=floats,
    predicted=st.integers(-1, 1000),
    propensity=st.floats(0, 1) | st.just(float("nan")),
    detail=st.text(max_size=40),
    label=st.none() | st.text(max_size=20),
)


@given(stored_samples)
def test_a_stored_sample_is_the_same_at_the_other_end(stored):
    message = decode(encode(stored))
    assert message.id.hex() == stored.id
    assert message.sample("d").payload == stored.payload
    assert message.sample("d").source == f"d/{stored.source}"
    assert repr(message.sample("d").time) == repr(stored.time)
    assert repr(message.verdict) == repr(stored.verdict)  # NaN is NaN
    assert message.numbers is None
    bare = decode(encode(stored, metadata_only=True, embedding=b"\0\0"))
    assert bare.payload is None
    assert (bare.id, bare.size) == (message.id, len(stored.payload))


@given(stored_samples, st.lists(st.floats(-60_000, 60_000), min_size=1, max_size=40))
def test_an_embedding_goes_as_it_is_stored_and_costs_nothing_where_there_is_none(stored, numbers):
    embedding = np.array(numbers, "<f2")
    alone, beside = encode(stored), encode(stored, embedding=embedding.tobytes())
    assert (decode(beside).numbers == embedding).all()
    assert len(beside) - len(alone) <= embedding.nbytes + len("embedding") + 4
    assert b"embedding" not in alone
    assert encode(stored, embedding=b"\0\0" * (WIDEST + 1)) == alone


@given(stored_samples, st.data())
def test_a_damaged_message_is_refused_or_says_the_same_id_of_the_same_bytes(stored, data):
    whole = bytearray(encode(stored))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        try:
            message = decode(damaged)
        except RefusedError as error:
            assert str(error)
            continue
        payload = message.payload
        assert payload is None or hashlib.sha256(payload).digest() == message.id


@given(st.binary(max_size=300))
def test_noise_is_refused(noise):
    for read in (decode, decode_receipt):
        with pytest.raises(RefusedError):
            read(noise)


@pytest.mark.parametrize(
    "changes",
    [
        {"decision": "drop"}, {"version": 2}, {"id": b"short"}, {"extra": 1}, {"propensity": 1.5},
        {"source": "x" * 5000}, {"label": "x" * 300}, {"predicted": -2}, {"size": 3},
        {"payload": b"other bytes"}, {"reason": "because"}, {"detail": "x" * 2000},
        {"embedding": b"odd"}, {"embedding": b"\x00\x7e"}, {"embedding": b"\x00\xfc"},
        {"embedding": b"\0\0" * (WIDEST + 1)}, {"embedding": [1.0]},
        {"embedding": b"\0\0", "payload": None},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_what_no_store_could_have_sent_is_refused(changes):
    values = {
        "version": 1, "id": hashlib.sha256(b"bytes").digest(), "size": 5, "source": "a",
        "time": 1.0, "decision": "keep", "reason": "band", "score": 1.0, "quality": 1.0,
        "predicted": 1, "propensity": 1.0, "payload": b"bytes",
    }  # fmt: skip
    assert isinstance(decode(msgspec.msgpack.encode(values)), Message)
    with pytest.raises(RefusedError):
        decode(msgspec.msgpack.encode(values | changes))


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=20))
def test_receipts_name_what_they_name(digests):
    ids = [digest.hex() for digest in digests]
    assert decode_receipt(encode_receipt(ids)) == ids


def test_a_receipt_is_bounded():
    with pytest.raises(RefusedError):
        decode_receipt(encode_receipt(["00" * 32] * 5000))
