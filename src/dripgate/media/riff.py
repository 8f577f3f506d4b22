"""The sizes in the headers of recordings: those that a recorder never wrote, and files cut off.

A recorder that lost power, or wrote to a pipe, leaves sizes of 0 or of all ones before whole
samples. libsndfile believes a size of 0, and takes a file that was cut off for a shorter one: that
is all that is read here, everything else of a recording is read and written by soundfile.
"""

from typing import Literal, NamedTuple

_STREAMED = 0x7FFF_0000


class _Chunk(NamedTuple):
    """Where the content of a chunk begins, and how many bytes it says to have."""

    begin: int
    size: int


def finished(payload: bytes) -> bytes:
    """A WAV file whose sizes were never written, with sizes; anything else as it is."""
    if payload[:4] == b"RF64" and payload[12:16] == b"ds64":
        return _finished_64(payload)
    if payload[:4] not in (b"RIFF", b"RIFX") or (data := _data_of(payload)) is None:
        return payload
    left, riff = len(payload) - data.begin, _size(payload, 4)
    streamed = data.size >= _STREAMED
    never = data.size == 0 and left > 0 and riff != len(payload) - 8
    if not (streamed or never):
        return payload
    whole = bytearray(payload)
    whole[4:8] = (len(payload) - 8).to_bytes(4, _order(payload))
    whole[data.begin - 4 : data.begin] = left.to_bytes(4, _order(payload))
    return bytes(whole)


def _finished_64(payload: bytes) -> bytes:
    """The same of the WAV for more than 4 GB, whose sizes are in a chunk of their own."""
    data = _data_of(payload)
    told = int.from_bytes(payload[28:36], "little")
    if data is None or 0 < told < 1 << 62:
        return payload
    whole = bytearray(payload)
    whole[20:28] = (len(payload) - 8).to_bytes(8, "little")
    whole[28:36] = (len(payload) - data.begin).to_bytes(8, "little")
    return bytes(whole)


def is_cut_off(payload: bytes) -> bool:
    """Whether a WAV, AIFF or Ogg file ends early: libsndfile takes it for a shorter recording."""
    if payload.startswith((b"RIFF", b"RIFX", b"FORM")):
        size = _size(payload, 4)
        short = size < _STREAMED and size + 8 > len(payload) + 1  # + 1: no pad byte is common
        if not short or payload.startswith(b"FORM"):
            return short
        # Some writers count the header's own 8 bytes: what matters is that all samples are there.
        data = _data_of(payload)
        return data is None or data.begin + data.size > len(payload)
    if payload.startswith(b"OggS"):
        last = payload[payload.rfind(b"OggS") :]
        lengths = last[27 : 27 + last[26]] if len(last) > 26 else b""
        end_of_stream = len(last) > 26 and bool(last[5] & 4)
        return not end_of_stream or len(last) < 27 + last[26] + sum(lengths)
    return False


def _data_of(payload: bytes) -> _Chunk | None:
    """The chunk that holds the samples."""
    at = 12
    while at + 8 <= len(payload):
        size = _size(payload, at + 4)
        if payload[at : at + 4] == b"data":
            return _Chunk(at + 8, size)
        at += 8 + size + size % 2
    return None


def _order(payload: bytes) -> Literal["little", "big"]:
    return "little" if payload[:4] in (b"RIFF", b"RF64") else "big"


def _size(payload: bytes, at: int) -> int:
    return int.from_bytes(payload[at : at + 4], _order(payload))
