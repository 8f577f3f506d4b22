"""Payloads as pictures and sound that a browser shows: PNG and WAV, whatever came in.

Nothing is handed to the browser as it came: what cannot be decoded has no picture, only a reason.
"""

import io
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from dripgate.errors import UnreadableError
from dripgate.heatmap import EMPTY
from dripgate.media import (
    ArrayHeader,
    AudioHeader,
    ImageHeader,
    decode,
    encode_wav,
    probe,
)
from dripgate.report.pictures import colours, peak, smooth
from dripgate.types import Array, ArrayInput, AudioInput, FloatArray, ImageInput

Kind = Literal["image", "audio", "array"]
#: Longest side of a picture in the grid, and of the large one, in pixels.
SMALL, LARGE = 160, 800
_SECONDS = 60.0  # of audio that are shown and played
_WINDOW, _FRAMES, _BINS = 512, 400, 128
_DECIBELS = 80.0
_LINES = ((11, 107, 98), (148, 82, 10), (89, 102, 115), (182, 54, 121), (29, 90, 180))
_SERIES, _POINTS = len(_LINES), 2000


def kind(payload: bytes) -> Kind:
    """What a payload is. Raises UnreadableError."""
    header = probe(payload)
    if isinstance(header, ImageHeader):
        return "image"
    return "audio" if isinstance(header, AudioHeader) else "array"


def picture(payload: bytes, side: int) -> bytes:
    """PNG of an image, of audio as a spectrogram, of an array as lines; ``side`` in pixels.

    Raises UnreadableError where the payload cannot be decoded.
    """
    header = probe(payload)
    if isinstance(header, ImageHeader):
        return _png(Image.fromarray(_pixels(payload, header, side)))
    if isinstance(header, AudioHeader):
        return _png(_spectrogram(payload, header, side))
    return _png(_lines(payload, header, side))


def overlay(heatmap: FloatArray, width: int, height: int) -> bytes:
    """PNG of a heatmap (h, w), to be laid over a picture of that shape: clear where it is 0."""
    heat = smooth(heatmap, (width, height))
    alpha = np.rint(255 * 0.8 * heat**0.75).astype(np.uint8)
    rgba = np.dstack([colours(heat).round().astype(np.uint8), alpha])
    return _png(Image.fromarray(rgba, "RGBA"))


def heat_of(heatmap: FloatArray, payload: bytes) -> bytes:
    """The overlay that fits what ``picture`` makes of this payload.

    Of audio, whose heatmap is (time, frequency), turned as the spectrogram is.
    """
    header = probe(payload)
    if isinstance(header, AudioHeader):
        return overlay(np.asarray(heatmap).T[::-1], _FRAMES, _BINS)
    if isinstance(header, ImageHeader):
        longest = max(header.width, header.height)
        return overlay(heatmap, *(max(1, 320 * side // longest) for side in header[:2]))
    return overlay(heatmap, LARGE, LARGE // 2)


def strength(heatmap: FloatArray) -> float:
    """The peak of a heatmap; 0 where it is empty."""
    top = peak(heatmap)
    return top if top is not None and top > EMPTY else 0.0


def sound(payload: bytes) -> bytes:
    """WAV of the first minute of any audio, one channel of 16 bits. Raises UnreadableError."""
    header = probe(payload)
    if not isinstance(header, AudioHeader):
        raise UnreadableError("not audio")
    return encode_wav(_samples(payload, header), header.rate)


def _size(width: int, height: int, side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(width, height, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _pixels(payload: bytes, header: ImageHeader, side: int) -> Array:
    width, height = _size(header.width, header.height, side)
    return decode(payload, ImageInput(height=height, width=width, channels=3))


def _samples(payload: bytes, header: AudioHeader) -> Array:
    length = min(header.frames, int(_SECONDS * header.rate))
    return decode(payload, AudioInput(rate=header.rate, length=length))


def _spectrogram(payload: bytes, header: AudioHeader, side: int) -> Image.Image:
    """Loudness over time (to the right) and frequency (upwards), 80 dB below the loudest."""
    pcm = _samples(payload, header).astype(np.float32)
    pcm = np.pad(pcm, (0, max(0, _WINDOW - len(pcm))))
    starts = np.linspace(0, len(pcm) - _WINDOW, _FRAMES).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(pcm, _WINDOW)[starts]
    power = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW))[:, : 2 * _BINS]) ** 2
    power = power.reshape(_FRAMES, _BINS, 2).mean(axis=2)
    loud = 10 * np.log10(np.maximum(power, 1e-12))
    level = np.clip(1 + (loud - max(float(loud.max()), 0.0)) / _DECIBELS, 0, 1)
    shown = colours(level) * (level**0.5)[..., None]
    image = Image.fromarray(shown.round().astype(np.uint8).transpose(1, 0, 2)[::-1].copy())
    return image.resize((side, side // 2), Image.Resampling.BILINEAR)


def _lines(payload: bytes, header: ArrayHeader, side: int) -> Image.Image:
    """The array as up to five lines along its longest axis, each from its least to its most."""
    array = decode(payload, ArrayInput(shape=header.shape))
    axis = int(np.argmax(array.shape)) if array.ndim else 0
    series = np.moveaxis(np.atleast_1d(array), axis, -1).reshape(-1, max(array.shape or (1,)))
    image = Image.new("RGB", (2 * side, side), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    for values, colour in zip(series[:_SERIES], _LINES, strict=False):
        values = values[:: max(1, len(values) // _POINTS)]
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
        x = np.linspace(0.02, 0.98, len(values)) * 2 * side
        y = (0.95 - 0.9 * scaled) * side
        draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=colour, width=2)
    return image.resize((side, side // 2), Image.Resampling.LANCZOS)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
