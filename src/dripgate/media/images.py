"""Pictures → uint8 pixels through Pillow; limits before decoding."""

import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from dripgate.errors import UnreadableError
from dripgate.media.limits import Limits
from dripgate.types import Array, ImageInput

# Pillow warns of what is found here, or refused with a cause. Said once for the process:
# warnings.catch_warnings is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

_IMAGES = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


class ImageHeader(NamedTuple):
    """Size in pixels; grey is whether one channel holds it all."""

    width: int
    height: int
    grey: bool


def image_header(payload: bytes, limits: Limits) -> ImageHeader:
    """What the header says. Raises UnreadableError."""
    with open_image(payload, limits) as image:
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


def open_image(payload: bytes, limits: Limits) -> Image.Image:
    """A picture whose header is within the limits, not decoded yet. Raises UnreadableError."""
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


def decode_image(payload: bytes, spec: ImageInput, limits: Limits) -> Array:
    """uint8 of ``spec.shape``. Raises UnreadableError."""
    with open_image(payload, limits) as image:
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
