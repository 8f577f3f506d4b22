"""Recordings → int16 PCM, whole or in windows, through soundfile; limits before decoding."""

import io
import re
from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from dripgate.errors import UnreadableError
from dripgate.media.limits import DEFAULT_LIMITS, Limits, guard
from dripgate.media.riff import finished, is_cut_off
from dripgate.types import Array, AudioInput, FloatArray, InputSpec

SIGNATURES = re.compile(
    rb"RIF[FX].{4}WAVE|RF64|riff|fLaC|OggS|FORM.{4}AIF|\.snd|caff|ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]",
    re.S,
)
OVERLAP = 0.5
_RATES = (1_000, 768_000)
_BLOCK = 65_536
_WIDEST = 8
#: More frames than any file has: libsndfile's way to say that the header does not tell.
_UNTOLD = 1 << 60
_ZERO_CROSSINGS = 10
_KAISER_BETA = 5.0


class AudioHeader(NamedTuple):
    """Rate in Hz; frames are samples per channel, 0 where the header does not tell."""

    rate: int
    frames: int
    channels: int


class Window(NamedTuple):
    """A part of a recording as a payload of its own. at: seconds from the recording's beginning;
    whole: this is the recording itself, byte for byte.
    """

    at: float
    payload: bytes
    whole: bool

    def name(self, source: str) -> str:
        """What the sample is called: ``owl.wav@4.500s``, and a whole recording as its file."""
        return source if self.whole else f"{source}@{self.at:.3f}s"


def windows(
    payload: bytes,
    spec: InputSpec,
    limits: Limits = DEFAULT_LIMITS,
    *,
    overlap: float = OVERLAP,
) -> Iterator[Window]:
    """Cut a recording that is longer than ``spec`` into windows of its length that overlap.

    Each becomes a 16-bit WAV of one channel at the recording's own rate. The last one ends where
    the recording ends. What is not longer, and what is no audio, is one window: the payload
    itself. Memory is a few windows, however long the recording. overlap: part of a window that
    is also in the next, 0 … 0.95. Raises UnreadableError as ``decode`` does, at the window where
    the damage is; those before it are sound.
    """
    if not isinstance(spec, AudioInput):
        yield Window(0.0, payload, whole=True)
        return
    with guard(payload, limits):
        file = open_audio(payload, limits)
    with file:
        rate = file.samplerate
        length = ceil(spec.length * Fraction(rate, spec.rate))
        hop = max(1, round(length * (1 - overlap)))
        held, before, begin = np.zeros(0, np.int16), np.zeros(0, np.int16), 0
        while True:
            with guard(payload, limits):
                block = _read(file, begin + len(held), limits)
            held = np.concatenate([held, block])
            while len(held) > length:
                yield Window(begin / rate, encode_wav(held[:length], rate), whole=False)
                before, held, begin = held[:hop], held[hop:], begin + hop
            if not len(block):
                break
    if not begin:
        yield Window(0.0, payload, whole=True)
        return
    last = np.concatenate([before, held])[-length:]
    at = (begin + len(held) - length) / rate
    yield Window(at, encode_wav(last, rate), whole=False)


def encode_wav(frames: Array, rate: int) -> bytes:
    """A WAV file of int16 (N,), one channel."""
    import soundfile  # only devices that hear need libsndfile

    file = io.BytesIO()
    soundfile.write(file, np.asarray(frames, np.int16), rate, "PCM_16", format="WAV")
    return file.getvalue()


def open_audio(payload: bytes, limits: Limits) -> Any:
    """A soundfile.SoundFile whose header is within the limits."""
    import soundfile  # only devices that hear need libsndfile

    if not SIGNATURES.match(payload):
        raise UnreadableError(f"not audio: begins with {payload[:8]!r}, expected WAV, FLAC, OGG …")
    payload = finished(payload)
    if is_cut_off(payload):
        raise UnreadableError("truncated audio: the file ends before its own end mark")
    file = soundfile.SoundFile(_Payload(payload))
    if file.frames <= 0:
        raise UnreadableError("no audio in the file")
    if not _RATES[0] <= file.samplerate <= _RATES[1]:
        raise UnreadableError(f"{file.samplerate:,} Hz, expected {_RATES[0]:,} to {_RATES[1]:,}")
    if file.frames < _UNTOLD:
        _check_seconds(file.frames, file.samplerate, limits)
    else:
        file.seekable = lambda: False  # else soundfile seeks after each read, which fails here
    return file


def audio_header(payload: bytes, limits: Limits) -> AudioHeader:
    """What the header says. Raises UnreadableError."""
    with open_audio(payload, limits) as file:
        frames = 0 if file.frames >= _UNTOLD else file.frames
        return AudioHeader(file.samplerate, frames, file.channels)


def decode_audio(payload: bytes, spec: AudioInput, limits: Limits) -> Array:
    """int16 (spec.length,): the beginning of a longer recording, a shorter one and silence."""
    with open_audio(payload, limits) as file:
        ratio = Fraction(file.samplerate, spec.rate)
        margin = _half_width(ratio) if ratio != 1 else 0
        wanted, parts, done = ceil(spec.length * ratio) + margin, [], 0
        while done < wanted and len(block := _read_mono(file, wanted - done)):
            parts.append(block)
            done += len(block)
    if not parts:
        raise UnreadableError("no audio in the file")
    mono = np.concatenate(parts)
    if ratio != 1:
        mono = resample(mono, ratio)
    pcm = np.zeros(spec.length, np.int16)
    taken = _to_int16(mono[: spec.length])
    pcm[: len(taken)] = taken
    return pcm


def _read(file: Any, done: int, limits: Limits) -> Array:
    """The next block as int16; empty at the end."""
    block = _to_int16(_read_mono(file, _BLOCK))
    _check_seconds(done + len(block), file.samplerate, limits)
    return block


def _read_mono(file: Any, most: int) -> Array:
    """Up to ``most`` frames, the channels averaged, float64; empty at the end."""
    frames = min(most, _BLOCK if file.channels <= _WIDEST else _BLOCK * _WIDEST // file.channels)
    mono = file.read(frames, dtype="float32", always_2d=True).mean(axis=1, dtype=np.float64)
    if not np.isfinite(mono).all():
        raise UnreadableError("NaN or infinite audio samples")
    return np.asarray(mono)


def _to_int16(mono: Array) -> Array:
    return np.asarray(np.rint(mono * 32768).clip(-32768, 32767), np.int16)


def _check_seconds(frames: int, rate: int, limits: Limits) -> None:
    if frames > limits.seconds * rate:
        raise UnreadableError(
            f"{frames / rate:,.0f} s of audio, more than the limit of {limits.seconds:g}"
        )


class _Payload(io.BytesIO):
    """Damaged files make libsndfile seek before the start; an exception there would be printed."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _half_width(ratio: Fraction) -> int:
    """Input samples on each side of an output sample that its filter reads."""
    return ceil(_ZERO_CROSSINGS * max(Fraction(1), ratio))


def resample(signal: Array, ratio: Fraction) -> FloatArray:
    """Signal (N,) at input rate / output rate = ``ratio``, with an anti-alias filter.

    Polyphase, Kaiser-windowed sinc, the filter of scipy.signal.resample_poly (which the tests
    compare it with): ceil(N / ratio) samples, zeros assumed beyond both ends.
    """
    half, cutoff = _half_width(ratio), float(min(Fraction(1), 1 / ratio))
    taps = np.arange(-half, half + 1)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(signal, half), len(taps))
    out = np.zeros(ceil(len(signal) / ratio))
    block = max(1, (1 << 20) // len(taps))
    for n in np.split(np.arange(len(out)), range(block, len(out), block)):
        # Output sample n lies at n · ratio in the input: a whole part, and one of few fractions.
        start, fraction = np.divmod(n * ratio.numerator, ratio.denominator)
        fractions, which = np.unique(fraction, return_inverse=True)
        distance = taps - fractions[:, None] / ratio.denominator
        inside = np.clip(1 - (distance * cutoff / _ZERO_CROSSINGS) ** 2, 0, None)
        kernels = np.sinc(distance * cutoff) * np.i0(_KAISER_BETA * np.sqrt(inside)) * (inside > 0)
        kernels /= kernels.sum(axis=1, keepdims=True)
        out[n] = np.einsum("nt,nt->n", windows[start], kernels[which])
    return np.asarray(out, np.float32)
