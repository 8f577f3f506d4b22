"""NumPy's .npy → arrays; nothing in a file is ever unpickled."""

import io
from math import prod
from typing import Any, NamedTuple

import numpy as np

from dripgate.errors import UnreadableError
from dripgate.types import Array, ArrayInput

MAGIC = b"\x93NUMPY"


class ArrayHeader(NamedTuple):
    """Shape and dtype of a .npy payload."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def array_header(payload: bytes) -> ArrayHeader:
    """Shape and dtype, checked against the bytes that are there. Raises UnreadableError."""
    if not payload.startswith(MAGIC):
        raise UnreadableError(f"not a NumPy array: begins with {payload[:8]!r}, expected NPY")
    file = io.BytesIO(payload)
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise UnreadableError(f"NPY version {version}, expected 1.0 or 2.0")
    shape, _, dtype = read(file)
    if dtype.kind not in "buif":
        raise UnreadableError(f"dtype {dtype}, expected real numbers")
    needed, left = prod(shape) * dtype.itemsize, len(payload) - file.tell()
    if any(side < 0 for side in shape) or needed > left:
        raise UnreadableError(
            f"cannot be decoded: shape {shape} of {dtype} takes {needed:,} bytes, {left:,} follow"
        )
    return ArrayHeader(shape, dtype)


def decode_array(payload: bytes, spec: ArrayInput) -> Array:
    """float32 of exactly ``spec.shape``, finite. Raises UnreadableError."""
    shape, _ = array_header(payload)
    if shape != spec.shape:
        raise UnreadableError(f"shape {shape}, expected {spec.shape}")
    values = np.lib.format.read_array(io.BytesIO(payload), allow_pickle=False)
    with np.errstate(all="ignore"):
        array = np.ascontiguousarray(values, np.float32).reshape(spec.shape)
    if not np.isfinite(array).all():
        raise UnreadableError("NaN or infinite values")
    return array
