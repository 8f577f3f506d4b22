"""Bytes → arrays: the same code for training and for the device, with every limit before decoding.

What cannot be decoded raises UnreadableError and nothing else, whatever the decoders below do.

Images: PNG, JPEG, BMP, GIF and TIFF (first frame), WEBP, PPM/PGM, through Pillow. 16-bit grey is
scaled to 8 bits, transparency is composited on black, palettes and CMYK become RGB, and another
size is resized (bilinear, antialiased, aspect not kept). Pixels are taken as stored: orientation
tags are ignored. Truncated images are unreadable, not half grey.

Audio: WAV, FLAC, Ogg (Opus, Vorbis), AIFF, AU, CAF, W64 and MP3, through soundfile. Channels are
averaged, another rate is resampled, a shorter recording is padded with zeros at its end, and of a
longer one the beginning is taken. Truncated WAV, AIFF, FLAC and Ogg files are unreadable; the
other formats do not say how long they should be.

Anything else: NumPy's .npy, of the exact shape, real and finite.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from dripgate.errors import UnreadableError
from dripgate.types import Array, ArrayInput, AudioInput, FloatArray, ImageInput, InputSpec

# Pillow and NumPy warn of damage that is counted here anyway, in ever new words. For the whole
# process and once: warnings.catch_warnings() changes what other threads see.
for _module in (r"PIL\.", r"numpy\.lib\b", "<unknown>"):
    warnings.filterwarnings("ignore", module=_module)

_IMAGES = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_AUDIO = re.compile(
    rb"RIF[FX].{4}WAVE|RF64|riff|fLaC|OggS|FORM.{4}AIF|\.snd|caff|ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]",
    re.S,
)
_NPY = b"\x93NUMPY"
_RATES = (1_000, 768_000)
_ZERO_CROSSINGS = 10
_KAISER_BETA = 5.0


class Limits(NamedTuple):
    """What one payload may ask for; checked on its size and header before anything is decoded."""

    payload_bytes: int = 64 << 20
    pixels: int = 50_000_000
    seconds: float = 600.0


DEFAULT_LIMITS = Limits()


class ImageHeader(NamedTuple):
    """Size in pixels; grey is whether one channel holds it all."""

    width: int
    height: int
    grey: bool


class AudioHeader(NamedTuple):
    """Rate in Hz; frames are samples per channel."""

    rate: int
    frames: int
    channels: int


class ArrayHeader(NamedTuple):
    """Shape and dtype of a .npy payload."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def decode(payload: bytes, spec: InputSpec, limits: Limits = DEFAULT_LIMITS) -> Array:
    """The sample as an array of exactly ``spec.shape`` and ``spec.dtype``.

    Raises UnreadableError, whose text is the cause, for everything that cannot be decoded.
    """
    with _guard(payload, limits):
        if isinstance(spec, ImageInput):
            return _decode_image(payload, spec, limits)
        if isinstance(spec, AudioInput):
            return _decode_audio(payload, spec, limits)
        return _decode_array(payload, spec)


def probe(
    payload: bytes, limits: Limits = DEFAULT_LIMITS
) -> ImageHeader | AudioHeader | ArrayHeader:
    """What the payload's header says it is, without decoding it; else UnreadableError."""
    with _guard(payload, limits):
        if payload.startswith(_NPY):
            return _array_header(io.BytesIO(payload))
        if _AUDIO.match(payload):
            with _open_audio(payload, limits) as file:
                return AudioHeader(file.samplerate, file.frames, file.channels)
        with _open_image(payload, limits) as image:
            grey = image.mode in ("1", "L", "LA", "I") or image.mode.startswith("I;16")
            return ImageHeader(*image.size, grey)


def encode_png(pixels: Array) -> bytes:
    """PNG of uint8 (H, W), (H, W, 1) or (H, W, 3), for data sets that are not files.

    Uncompressed, so that the bytes, and with them a sample's id, do not depend on which zlib
    this machine has.
    """
    squeezed = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    buffer = io.BytesIO()
    Image.fromarray(squeezed).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@contextmanager
def _guard(payload: bytes, limits: Limits) -> Iterator[None]:
    """Check the payload's size, and let nothing out but UnreadableError."""
    if not payload:
        raise UnreadableError("empty file")
    if len(payload) > limits.payload_bytes:
        raise UnreadableError(too_many_bytes(len(payload), limits.payload_bytes))
    try:
        yield
    except UnreadableError:
        raise
    except Exception as error:  # decoders raise whatever they like on hostile bytes
        text = re.sub(r"<\S+ object at [^>]*>", "payload", str(error)).strip() or "no reason given"
        cause = f"cannot be decoded: {type(error).__name__}: {text.splitlines()[0]:.120}"
        raise UnreadableError(cause) from error


def too_many_bytes(found: int, limit: int) -> str:
    """The cause that says that a payload is over the limit."""
    return f"{found:,} bytes, more than the limit of {limit:,}"


# Images -----------------------------------------------------------------------------------------


def _open_image(payload: bytes, limits: Limits) -> Image.Image:
    limit = f"more than the limit of {limits.pixels / 1e6:g} million"
    try:
        image = Image.open(io.BytesIO(payload), formats=_IMAGES)
    except UnidentifiedImageError:
        expected = ", ".join(_IMAGES)
        raise UnreadableError(
            f"not an image: begins with {payload[:8]!r}, expected {expected}"
        ) from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"far too many pixels, {limit}") from None
    width, height = image.size
    if width * height > limits.pixels:
        raise UnreadableError(f"{width:,} × {height:,} pixels, {limit}")
    return image


def _decode_image(payload: bytes, spec: ImageInput, limits: Limits) -> Array:
    with _open_image(payload, limits) as image:
        # JPEG can be decoded at 1/2, 1/4 or 1/8: never below twice the size that is wanted.
        image.draft(None, (2 * spec.width, 2 * spec.height))
        image.load()
        plain = _opaque(image).convert("L" if spec.channels == 1 else "RGB")
    if plain.size != (spec.width, spec.height):
        plain = plain.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    return np.array(plain, np.uint8).reshape(spec.shape)


def _opaque(image: Image.Image) -> Image.Image:
    """The image in a mode that converts to L and RGB without clipping or hidden colours."""
    if image.mode == "F":
        raise UnreadableError("floating-point pixels, expected integers of 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise UnreadableError("32-bit pixels, expected integers of 8 or 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.has_transparency_data:
        # Premultiplied by alpha is composited on black.
        return Image.merge("RGB", image.convert("RGBA").convert("RGBa").split()[:3])
    return image


# Audio ------------------------------------------------------------------------------------------


def _open_audio(payload: bytes, limits: Limits) -> Any:
    """A soundfile.SoundFile whose header is within the limits."""
    import soundfile  # only devices that hear need libsndfile

    if not _AUDIO.match(payload):
        raise UnreadableError(f"not audio: begins with {payload[:8]!r}, expected WAV, FLAC, OGG …")
    if _is_cut_off(payload):
        raise UnreadableError("truncated audio: the file ends before its own end mark")
    file = soundfile.SoundFile(_Payload(payload))
    if file.frames <= 0:
        raise UnreadableError("no audio in the file")
    if not _RATES[0] <= file.samplerate <= _RATES[1]:
        raise UnreadableError(f"{file.samplerate:,} Hz, expected {_RATES[0]:,} to {_RATES[1]:,}")
    if file.frames > limits.seconds * file.samplerate:
        seconds = file.frames / file.samplerate
        raise UnreadableError(
            f"{seconds:,.0f} s of audio, more than the limit of {limits.seconds:g}"
        )
    return file


class _Payload(io.BytesIO):
    """Damaged files make libsndfile seek before the start; an exception there would be printed."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _is_cut_off(payload: bytes) -> bool:
    """Whether a WAV, AIFF or Ogg file ends early: libsndfile takes it for a shorter recording."""
    if payload.startswith((b"RIFF", b"RIFX", b"FORM")):
        size = int.from_bytes(payload[4:8], "little" if payload[3:4] == b"F" else "big")
        streamed = size >= 0x7FFF_0000  # written to a pipe: the length was not known
        return not streamed and size + 8 > len(payload) + 1  # + 1: a missing pad byte is common
    if payload.startswith(b"OggS"):
        last = payload[payload.rfind(b"OggS") :]
        lengths = last[27 : 27 + last[26]] if len(last) > 26 else b""
        end_of_stream = len(last) > 26 and bool(last[5] & 4)
        return not end_of_stream or len(last) < 27 + last[26] + sum(lengths)
    return False


def _decode_audio(payload: bytes, spec: AudioInput, limits: Limits) -> Array:
    with _open_audio(payload, limits) as file:
        ratio = Fraction(file.samplerate, spec.rate)
        margin = _half_width(ratio) if ratio != 1 else 0
        frames = min(file.frames, ceil(spec.length * ratio) + margin)
        blocks = file.blocks(65_536, frames=frames, dtype="float32", always_2d=True)
        mono = np.concatenate([block.mean(axis=1, dtype=np.float64) for block in blocks])
    if not np.isfinite(mono).all():
        raise UnreadableError("NaN or infinite audio samples")
    if ratio != 1:
        mono = resample(mono, ratio)
    pcm = np.zeros(spec.length, np.int16)
    taken = np.rint(mono[: spec.length] * 32768).clip(-32768, 32767)
    pcm[: len(taken)] = taken
    return pcm


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


# Arrays -----------------------------------------------------------------------------------------


def _array_header(file: io.BytesIO) -> ArrayHeader:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise UnreadableError(f"NPY version {version}, expected 1.0 or 2.0")
    shape, _, dtype = read(file)
    return ArrayHeader(shape, dtype)


def _decode_array(payload: bytes, spec: ArrayInput) -> Array:
    if not payload.startswith(_NPY):
        raise UnreadableError(f"not a NumPy array: begins with {payload[:8]!r}, expected NPY")
    shape, dtype = _array_header(io.BytesIO(payload))
    if shape != spec.shape:
        raise UnreadableError(f"shape {shape}, expected {spec.shape}")
    if dtype.kind not in "buif":
        raise UnreadableError(f"dtype {dtype}, expected real numbers")
    values = np.lib.format.read_array(io.BytesIO(payload), allow_pickle=False)
    with np.errstate(all="ignore"):
        array = np.ascontiguousarray(values, np.float32).reshape(spec.shape)
    if not np.isfinite(array).all():
        raise UnreadableError("NaN or infinite values")
    return array
