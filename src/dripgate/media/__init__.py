"""Bytes → arrays: the same code for training and for the device, with every limit before decoding.

What cannot be decoded raises UnreadableError and nothing else, whatever the decoders below do.

Images: PNG, JPEG, BMP, GIF and TIFF (first frame), WEBP, PPM/PGM, through Pillow. 16-bit grey is
scaled to 8 bits (from the input's range, else the upper 8), transparency is composited on black,
palettes and CMYK become RGB, and another size is resized (bilinear, antialiased, aspect not
kept). Pixels are taken as stored: orientation tags are ignored, and named by ``remarks``.
Truncated images are unreadable, not half grey, also where a JPEG has an end mark all the same; raw
photographs are, of which only the thumbnail is an image.

Audio: WAV, FLAC, Ogg (Opus, Vorbis), AIFF, AU, CAF, W64 and MP3, through soundfile. Channels are
averaged, another rate is resampled, and a shorter recording is padded with zeros at its end. A
longer one is cut by ``windows``; ``decode`` alone takes its beginning. Truncated WAV, AIFF, FLAC
and Ogg files are unreadable; the other formats do not say how long they should be. A WAV whose
sizes were never written is read to its end.

Anything else: NumPy's .npy, of the exact shape, real and finite.
"""

from dripgate.media.arrays import MAGIC, ArrayHeader, array_header, decode_array
from dripgate.media.audio import (
    OVERLAP,
    SIGNATURES,
    AudioHeader,
    Window,
    audio_header,
    decode_audio,
    encode_wav,
    resample,
    windows,
)  # fmt: skip
from dripgate.media.images import (
    ImageHeader,
    decode_image,
    encode_png,
    image_header,
    levels,
    remarks,
)  # fmt: skip
from dripgate.media.limits import DEFAULT_LIMITS, Limits, guard, too_many_bytes
from dripgate.types import Array, AudioInput, ImageInput, InputSpec

__all__ = [
    "DEFAULT_LIMITS", "OVERLAP", "ArrayHeader", "AudioHeader", "ImageHeader", "Limits", "Window",
    "decode", "encode_png", "encode_wav", "levels", "probe", "remarks", "resample",
    "too_many_bytes", "windows",
]  # fmt: skip


def decode(payload: bytes, spec: InputSpec, limits: Limits = DEFAULT_LIMITS) -> Array:
    """The sample as an array of exactly ``spec.shape`` and ``spec.dtype``.

    Raises UnreadableError, whose text is the cause, for everything that cannot be decoded.
    """
    with guard(payload, limits):
        if isinstance(spec, ImageInput):
            return decode_image(payload, spec, limits)
        if isinstance(spec, AudioInput):
            return decode_audio(payload, spec, limits)
        return decode_array(payload, spec)


def probe(
    payload: bytes, limits: Limits = DEFAULT_LIMITS
) -> ImageHeader | AudioHeader | ArrayHeader:
    """What the payload's header says it is, without decoding it; else UnreadableError."""
    with guard(payload, limits):
        if payload.startswith(MAGIC):
            return array_header(payload)
        if SIGNATURES.match(payload):
            return audio_header(payload, limits)
        return image_header(payload, limits)
