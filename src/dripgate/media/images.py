"""Pictures → uint8 pixels through Pillow; limits before decoding, in bytes of memory too."""

import io
import warnings
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from dripgate.errors import UnreadableError
from dripgate.media.jpeg import endless, lost
from dripgate.media.limits import DEFAULT_LIMITS, Limits, guard
from dripgate.types import Array, ImageInput

# Pillow warns of what is found here, or refused with a cause. Said once for the process:
# warnings.catch_warnings is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

_IMAGES = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
_ORIENTATION, _SUBFILE, _DNG_VERSION = 0x0112, 254, 50706
#: Bytes per pixel that decoding holds at its peak: the picture, what it is converted to, and what
#: a decoder keeps beside it. Measured with Pillow 13; ``_PROGRESSIVE`` is of the whole JPEG.
_WEBP, _WEBP_ALPHA, _ALPHA, _PROGRESSIVE, _OTHER = 17, 24, 16, 6, 8
_PLAIN = {"1": 5, "L": 5, "P": 5, "RGB": 5}


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


def levels(payload: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[int, int] | None:
    """The values between which all but a thousandth at either end of a 16-bit grey picture's
    pixels lie; None for anything else. Raises UnreadableError.
    """
    if not payload.startswith((b"\x89PNG", b"II", b"MM", b"P5")):
        return None  # formats that have 16 bits
    with guard(payload, limits), open_image(payload, limits) as image:
        if not image.mode.startswith("I"):
            return None
        _check_memory(image, limits)
        low, high = np.percentile(_wide(image), (0.1, 99.9))
        return int(low), int(high)


def remarks(payload: bytes, spec: ImageInput) -> list[str]:
    """What a readable picture says that decoding leaves out: a rotation, half of its bits."""
    found = []
    if payload.startswith(b"\x89PNG") and payload[24:26] in (b"\x10\x02", b"\x10\x06"):
        found.append("colour of 16 bits per channel, of which the upper 8 are used")
    # Cheap for what has neither: looked for in the bytes where they are, before any parsing.
    wide = spec.range is None and _may_be_wide(payload)
    if not (wide or _may_have_exif(payload)):
        return found
    try:
        with Image.open(io.BytesIO(payload), formats=_IMAGES) as image:
            if wide and image.mode.startswith("I"):
                found.append("16 bits per pixel, of which the upper 8 are used (see --levels)")
            if image.getexif().get(_ORIENTATION, 1) != 1:
                found.append("an EXIF rotation, which is not applied")
    except Exception:  # noqa: S110 - what cannot be read has no remark
        pass
    return found


def _may_be_wide(payload: bytes) -> bool:
    png = payload.startswith(b"\x89PNG")
    return payload[24:26] == b"\x10\0" if png else payload.startswith((b"II", b"MM", b"P5"))


def _may_have_exif(payload: bytes) -> bool:
    if payload.startswith((b"II*\0", b"MM\0*")):
        return True
    if payload.startswith(b"RIFF"):
        return payload[12:16] == b"VP8X" and bool(payload[20] & 8)
    return b"Exif\0\0" in payload[:4096] or b"eXIf" in payload[:4096]


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
        if payload[4:8] == b"ftyp" and payload[8:12] in _HEIF:
            raise UnreadableError("a HEIC or AVIF picture; convert it to JPEG") from None
        expected = ", ".join(_IMAGES)
        raise UnreadableError(
            f"not an image: begins with {payload[:8]!r}, expected {expected}"
        ) from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"far too many pixels, {limit}") from None
    width, height = image.size
    if width * height > limits.pixels:
        raise UnreadableError(f"{width:,} × {height:,} pixels, {limit}")
    if image.format == "TIFF" and _is_raw(payload, image):
        raise UnreadableError(
            "a raw photograph, of which only a thumbnail could be read; give its JPEG or TIFF"
        )
    return image


def _is_raw(payload: bytes, image: Image.Image) -> bool:
    """Whether this is DNG, NEF, CR2, … : a TIFF that begins with a small copy of the picture."""
    tags = cast(Any, image).tag_v2
    reduced = int(tags.get(_SUBFILE, 0)) & 1
    return bool(reduced) or _DNG_VERSION in tags or payload[8:10] == b"CR"


def _check_memory(image: Image.Image, limits: Limits, whole: int = 0) -> None:
    """Raises UnreadableError where decoding would take too much. whole: pixels before the draft."""
    pixels, alpha = image.width * image.height, image.has_transparency_data
    if image.format == "WEBP":
        each = _WEBP_ALPHA if alpha else _WEBP
    else:
        each = _ALPHA if alpha else _PLAIN.get(image.mode, _OTHER)
    needed = pixels * each + (whole * _PROGRESSIVE if image.info.get("progressive") else 0)
    if needed > limits.decoded_bytes:
        raise UnreadableError(
            f"{needed:,} bytes to decode {image.width:,} × {image.height:,} pixels of "
            f"{image.format}, more than the limit of {limits.decoded_bytes:,}"
        )


def decode_image(payload: bytes, spec: ImageInput, limits: Limits) -> Array:
    """uint8 of ``spec.shape``. Raises UnreadableError."""
    with open_image(payload, limits) as image:
        whole = image.width * image.height
        # JPEG can be decoded at 1/2, 1/4 or 1/8: never below twice the size that is wanted.
        enough = (2 * spec.width, 2 * spec.height)
        image.draft(None, enough)
        _check_memory(image, limits, whole)
        if image.format == "JPEG" and (why := endless(payload)):
            raise UnreadableError(why)
        image.load()
        if image.format == "JPEG" and (why := lost(payload, image, enough)):
            raise UnreadableError(why)
        plain = _in_mode(_opaque(image, spec), "L" if spec.channels == 1 else "RGB")
    if plain.size != (spec.width, spec.height):
        plain = plain.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    return np.array(plain, np.uint8).reshape(spec.shape)


def _opaque(image: Image.Image, spec: ImageInput) -> Image.Image:
    """The image in a mode that converts to L and RGB without clipping or hidden colours."""
    if image.mode == "F":
        raise UnreadableError("floating-point pixels, expected integers of 8 or 16 bits")
    if image.mode.startswith("I"):
        return Image.fromarray(_narrowed(_wide(image), spec.range))
    if image.has_transparency_data:
        # Premultiplied by alpha is composited on black.
        premultiplied = _in_mode(image, "RGBA").convert("RGBa")
        return Image.merge("RGB", premultiplied.split()[:3])
    return image


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image itself where it is in that mode: convert would copy it."""
    return image if image.mode == mode else image.convert(mode)


def _wide(image: Image.Image) -> Array:
    """The values of a 16-bit picture. Raises UnreadableError for one that has more bits."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UnreadableError("32-bit pixels, expected integers of 8 or 16 bits")
    return values


def _narrowed(values: Array, used: tuple[int, int] | None) -> Array:
    """uint8 of 16-bit values: what lies in the range spread over 0 … 255, or the upper 8 bits."""
    if used is None:
        return (values >> 8).astype(np.uint8)
    low, high = used
    out = np.empty(values.shape, np.uint8)
    for row, part in enumerate(values):  # row by row: a copy as float would be eight times as large
        out[row] = np.rint((part.clip(low, high) - float(low)) * (255 / max(1, high - low)))
    return out
