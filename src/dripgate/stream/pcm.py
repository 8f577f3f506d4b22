"""PCM on a pipe, as ``arecord -f S16_LE`` writes it, cut into windows that overlap.

A window is as long as the gate's input. It becomes a WAV payload of one channel, so that what is
stored says its rate and can be listened to. The last one may be shorter: the decoder fills it with
silence. A stream that begins as a WAV file says its rate and its channels itself; of raw PCM they
are what the user says. Several channels are averaged.
"""

import struct
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from dripgate.errors import DataError
from dripgate.media import encode_wav
from dripgate.stream.feed import ROOM, Live, Stop
from dripgate.types import Array, AudioInput, Sample

_RATES = (1_000, 768_000)
_MOST_CHANNELS = 64
_RAW = "write 16-bit PCM, as arecord -f S16_LE does"
#: Sizes of a WAV's data from here on say that it was not known; 0 does too.
_STREAMED = 0x7FFF_0000
_OTHERS = {b"fLaC": "FLAC", b"OggS": "Ogg", b".snd": "AU", b"FORM": "AIFF", b"caff": "CAF"}
_PCM, _EXTENSIBLE = 1, 0xFFFE
#: Bytes of a WAV's header before its data, at most.
_HEADER = 1 << 16


class _Form(NamedTuple):
    """What a stream holds. told: whether it says so itself."""

    rate: int
    channels: int
    told: bool = False


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def microphone(
    spec: AudioInput,
    rate: int | None,
    overlap: float,
    stop: Stop,
    *,
    channels: int | None = None,
    room: int = ROOM,
    drop_oldest: bool = True,
    pipe: BinaryIO | None = None,
) -> Live:
    """Windows of what comes through a pipe, standard input if none is given.

    rate, channels: of raw PCM, the gate's rate and one channel if they are not given; a WAV's
    header must say the same. overlap: part of a window that is also in the next, 0 … 0.95.
    Raises DataError for what cannot be; while it is read, for a WAV that is not 16-bit PCM, and
    for two equal channels that nobody said were two.
    """
    check_form(rate, channels, overlap)
    source = pipe or sys.stdin.buffer

    def produce(put: Callable[[Sample], bool]) -> None:
        form, stream = _begun(source, _Form(rate or spec.rate, channels or 1), rate, channels)
        window, hop = span(spec, form.rate, overlap)
        for at, frames in windows(stream, window, hop, form.channels):
            if at == 0 and channels is None and not form.told:
                _check_mono(frames)
            payload = encode_wav(frames, form.rate)
            if not put(Sample(payload, f"pcm@{at / form.rate:.3f}s")):
                return

    return Live(produce, stop, room=room, drop_oldest=drop_oldest)


def check_form(rate: int | None, channels: int | None, overlap: float) -> None:
    """Raises DataError for a form of sound, or an overlap of windows, that cannot be."""
    if rate is not None and not _RATES[0] <= rate <= _RATES[1]:
        raise DataError(f"a rate of {rate} Hz; expected {_RATES[0]} to {_RATES[1]}")
    if channels is not None and not 1 <= channels <= _MOST_CHANNELS:
        raise DataError(f"{channels} channels; expected 1 to {_MOST_CHANNELS}")
    if not 0 <= overlap <= 0.95:
        raise DataError(f"an overlap of {overlap}; expected 0 to 0.95 of a window")


def span(spec: AudioInput, rate: int, overlap: float) -> tuple[int, int]:
    """Frames of a window as long as the gate's input, and from one to the next."""
    window = ceil(spec.length * Fraction(rate, spec.rate))
    return window, max(1, round(window * (1 - overlap)))


def windows(
    pipe: _Readable, window: int, hop: int, channels: int = 1
) -> Iterator[tuple[int, Array]]:
    """Where a window begins, in frames, and its frames int16, the channels averaged.

    All frames are in a window, the last ones in a shorter one; half a frame at the end is none.
    """
    size = 2 * channels
    held, begin = b"", 0
    while True:
        wanted = size * min(window - len(held) // size, hop) - len(held) % size
        if not (part := pipe.read(wanted)):
            break
        held += part
        if len(held) == size * window:
            yield begin, _mono(held, channels)
            held, begin = held[size * hop :], begin + hop
    if len(held) // size > (window - hop if begin else 0):
        yield begin, _mono(held[: len(held) // size * size], channels)


def _mono(held: bytes, channels: int) -> Array:
    frames = np.frombuffer(held, "<i2")
    if channels == 1:
        return frames
    return np.asarray(np.rint(frames.reshape(-1, channels).mean(axis=1)), np.int16)


def _check_mono(frames: Array) -> None:
    """Raises DataError where every two samples are equal: two channels that nobody told of."""
    pairs = frames[: len(frames) // 2 * 2].reshape(-1, 2)
    if len(pairs) > 1 and (pairs[:, 0] == pairs[:, 1]).all() and np.ptp(frames):
        raise DataError(
            "pcm:-: every two samples are equal, as of a microphone that gives its sound on two "
            "channels; say --channels 2, or --channels 1 if it is one"
        )


class _Pipe:
    """A pipe of which the beginning was read already, and that ends after ``left`` bytes."""

    def __init__(self, begin: bytes, pipe: BinaryIO, left: int | None = None) -> None:
        self._begin, self._pipe, self._left = begin, pipe, left

    def read(self, size: int) -> bytes:
        """As a file's; less than ``size`` where the beginning ends."""
        size = size if self._left is None else min(size, self._left)
        if self._begin:
            part, self._begin = self._begin[:size], self._begin[size:]
        else:
            part = self._pipe.read(size) if size else b""
        if self._left is not None:
            self._left -= len(part)
        return part

    def exactly(self, size: int) -> bytes:
        """Fewer bytes at the end alone."""
        found = b""
        while len(found) < size and (part := self.read(size - len(found))):
            found += part
        return found


# soundfile opens a pipe only from its first byte on, and whether this one is raw PCM or a WAV shows
# in that byte; and libsndfile would believe the sizes that arecord writes. So it is read here.
def _begun(
    source: BinaryIO, raw: _Form, rate: int | None, channels: int | None
) -> tuple[_Form, _Pipe]:
    """What the stream holds, and the stream from its first sample on. Raises DataError."""
    begin = _Pipe(b"", source).exactly(12)
    if begin[:4] in _OTHERS:
        raise DataError(f"pcm:-: begins as {_OTHERS[begin[:4]]}; {_RAW}")
    if begin[:4] not in (b"RIFF", b"RIFX", b"RF64") or begin[8:12] != b"WAVE":
        return raw, _Pipe(begin, source)
    if begin[:4] != b"RIFF":
        raise DataError(f"pcm:-: a WAV of kind {begin[:4].decode()}; {_RAW}")
    form, left = _wav_header(_Pipe(b"", source))
    for what, said, found in (("rate", rate, form.rate), ("channels", channels, form.channels)):
        if said is not None and said != found:
            raise DataError(f"pcm:-: --{what} is {said}, but the WAV on it says {found}; leave it "
                            "out")  # fmt: skip
    return form, _Pipe(b"", source, left)


def _wav_header(pipe: _Pipe) -> tuple[_Form, int | None]:
    """Form, and bytes of data where they are told, from the chunks before the data."""
    form, done = None, 0
    while len(head := pipe.exactly(8)) == 8:
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"data":
            if form is None:
                break
            left = None if size == 0 or size >= _STREAMED else size
            return form, left
        done += 8 + size + size % 2
        if done > _HEADER:
            break
        chunk = pipe.exactly(size + size % 2)
        if head[:4] == b"fmt " and len(chunk) >= 16:
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
            if kind not in (_PCM, _EXTENSIBLE) or bits != 16:
                raise DataError(f"pcm:-: a WAV of format {kind} with {bits} bits; {_RAW}")
            if not (_RATES[0] <= rate <= _RATES[1] and 1 <= channels <= _MOST_CHANNELS):
                raise DataError(f"pcm:-: a WAV of {rate} Hz and {channels} channels; {_RAW}")
            form = _Form(rate, channels, told=True)
    raise DataError(f"pcm:-: a WAV without samples in its first {_HEADER:,} bytes; {_RAW}")
