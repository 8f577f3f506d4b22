"""Samples and heatmaps as small PNG data URIs."""

import base64
import io

import numpy as np
from PIL import Image

from dripgate.heatmap import EMPTY
from dripgate.types import Array, FloatArray

SIDE = 96  # longest side of a picture, in pixels: 36 pairs then stay under about 1 MB
_COLOURS = 96  # of an overlay: a palette halves its size and is not seen at this scale

#: From nothing to the peak: violet, red, amber. Lightness rises all the way, as in magma, but
#: stops short of white, so that a peak shows on a white ground.
_STOPS = np.array([[80, 18, 123], [182, 54, 121], [251, 136, 97], [255, 214, 130]], np.float64)
_OPACITY = 0.8  # at the peak; 0 where the heatmap is 0, so that the sample stays visible


def as_rgb(array: Array) -> Array | None:
    """uint8 (H, W, 3) from an image (H, W) or (H, W, C); None where it is not an image.

    Of other than three or four channels the first is shown as grey.
    """
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or not array.size:
        return None
    array = array[..., None] if array.ndim == 2 else array
    return array[..., :3] if array.shape[2] in (3, 4) else array[..., :1].repeat(3, axis=2)


def peak(heatmap: FloatArray | None) -> float | None:
    """The largest value of a heatmap; None where there is no cell or none that is finite."""
    if heatmap is None:
        return None
    finite = np.asarray(heatmap)[np.isfinite(heatmap)]
    return float(finite.max()) if finite.size else None


def plain_uri(rgb: Array) -> str:
    """The image at its own size, or reduced to SIDE."""
    image = Image.fromarray(np.ascontiguousarray(rgb))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _uri(image)


def overlay_uri(rgb: Array, heatmap: FloatArray) -> str:
    """The image with its heatmap over it, each scaled to the heatmap's own peak."""
    size = _size(rgb.shape[1], rgb.shape[0])
    small = max(rgb.shape[:2]) < SIDE
    method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    ground = np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize(size, method), np.float64)
    heat = smooth(heatmap, size)
    opacity = (_OPACITY * heat**0.75)[..., None]
    return _uri(_image(ground * (1 - opacity) + colours(heat) * opacity))


def heat_uri(heatmap: FloatArray, width: int = 160, height: int = 40) -> str:
    """A heatmap by itself, on black: rows (time) to the right, columns (frequency) upwards."""
    heat = smooth(np.asarray(heatmap).T[::-1], (width, height))
    return _uri(_image(colours(heat) * (heat**0.5)[..., None]))


def _size(width: int, height: int) -> tuple[int, int]:
    scale = SIDE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def smooth(heatmap: FloatArray, size: tuple[int, int]) -> Array:
    """Values 0 … 1 of the peak, enlarged to (width, height); all 0 where the heatmap is empty."""
    top = peak(heatmap)
    if top is None or top <= EMPTY or np.ndim(heatmap) != 2:
        return np.zeros(size[::-1])
    scaled = np.clip(np.nan_to_num(np.asarray(heatmap, np.float64) / top), 0, 1)
    image = Image.fromarray(scaled.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(image, np.float64), 0, 1)


def colours(heat: Array) -> Array:
    """Colours (…, 3) of 0 to 255 for values 0 … 1."""
    at = np.linspace(0, 1, len(_STOPS))
    return np.stack([np.interp(heat, at, stop) for stop in _STOPS.T], axis=-1)


def _image(rgb: Array) -> Image.Image:
    image = Image.fromarray(rgb.round().clip(0, 255).astype(np.uint8))
    return image.quantize(_COLOURS, dither=Image.Dither.NONE)


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
