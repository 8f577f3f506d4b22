"""The tensors of a gate file that may be others: the head's, the thresholds, the memory.

Read and replaced without ``onnx``: everything else of the file stays what it is, to the byte.
"""

from typing import Any, NamedTuple

import numpy as np

from dripgate import onnx_wire
from dripgate.errors import GateError
from dripgate.gate_info import (
    HEAD_BIAS,
    HEAD_WEIGHT,
    MEMORY_CLASSES,
    MEMORY_FEATURES,
    MEMORY_SPREAD,
    METADATA_KEY,
    GateInfo,
)
from dripgate.types import Array, Thresholds

#: The thresholds' name in the graph: float32 (2 + classes, 4), see threshold_matrix.
THRESHOLDS = "thresholds"
#: "No bound" in the graph: every finite float32 is inside, infinities and NaN are not.
UNBOUNDED = float(np.finfo(np.float32).max)
#: Rules in the order in which they are asked: quality low, score low, score high, none broken.
RULES = 4
#: ONNX's numbers of the types that these tensors have.
_DTYPES: dict[int, str] = {1: "<f4", 6: "<i4", 10: "<f2"}


class Linear(NamedTuple):
    """The head's last layer: weight float32 (C, D), bias float32 (C,)."""

    weight: Array
    bias: Array


class Remembered(NamedTuple):
    """features float16 (M, D) of classes int32 (M,).

    spread: of each class's mean, its standard deviations, float16 (M, D); None where the features
    are single ones.
    """

    features: Array
    classes: Array
    spread: Array | None = None

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return sum(part.nbytes for part in self if part is not None)


def threshold_matrix(thresholds: Thresholds) -> Array:
    """float32 (2 + C, 4), by which (quality, score, onehot of ŷ) gives each rule's margin.

    A margin is value - low or high - value. But for those two all terms are 0, and a difference
    of two float32 is never rounded across 0: the sign is exact. What is not finite meets no rule.
    """
    low, high = (
        np.array([missing if b is None else b for b in bounds], np.float32)
        for bounds, missing in ((thresholds.low, -UNBOUNDED), (thresholds.high, UNBOUNDED))
    )
    least = thresholds.quality_low
    matrix = np.zeros((2 + len(low), RULES), np.float32)
    matrix[0, 0], matrix[1, 1:3] = 1, (1, -1)
    matrix[2:, 0] = UNBOUNDED if least is None else -least
    matrix[2:, 1], matrix[2:, 2], matrix[2:, 3] = -low, high, -1
    return matrix


def read_linear(data: bytes, info: GateInfo, name: str) -> Linear:
    """The head's last layer of a checked gate file. Raises GateError where it has none."""
    if info.last is None:
        raise GateError(
            f"{name}: its head does not end in a linear layer of its own, so it cannot learn on "
            "the device; retrain the classifier ('dripgate retrain') and fit it again"
        )
    model, last = onnx_wire.parse(data, name), info.last
    shape = (last.rows, last.width) if last.turned else (last.width, last.rows)
    weight = _tensor(model, HEAD_WEIGHT, shape, name)
    bias = _tensor(model, HEAD_BIAS, (last.rows,), name)
    return Linear(weight if last.turned else weight.T.copy(), bias)


def read_memory(data: bytes, info: GateInfo, name: str) -> Remembered | None:
    """The memory of a checked gate file; None where it has none. Raises GateError."""
    if info.memory is None or info.last is None:
        return None
    model, width = onnx_wire.parse(data, name), info.last.width
    features = _tensor(model, MEMORY_FEATURES, (-1, width), name)
    classes = _tensor(model, MEMORY_CLASSES, (len(features),), name)
    spread = None
    if info.memory.form == "stats":
        spread = _tensor(model, MEMORY_SPREAD, features.shape, name)
    if len(classes) and not 0 <= classes.min() <= classes.max() < len(info.classes):
        raise _damaged(name, MEMORY_CLASSES)
    return Remembered(features, classes, spread)


def changed(
    data: bytes, info: GateInfo, *, linear: Linear | None = None, memory: Remembered | None = None
) -> bytes:
    """The file with another head, memory, thresholds and metadata, as ``info`` says.

    linear, memory: what is new; None leaves what is there. A head of more classes makes the logits
    wider.
    """
    model = onnx_wire.parse(data, "the gate")
    if linear is not None and info.last is not None:
        weight = linear.weight if info.last.turned else linear.weight.T
        _replace(model, HEAD_WEIGHT, weight.astype(np.float32))
        _replace(model, HEAD_BIAS, linear.bias.astype(np.float32))
    if memory is not None:
        _replace(model, MEMORY_FEATURES, memory.features.astype(np.float16))
        _replace(model, MEMORY_CLASSES, memory.classes.astype(np.int32))
        if memory.spread is not None:
            _replace(model, MEMORY_SPREAD, memory.spread.astype(np.float16))
    _replace(model, THRESHOLDS, threshold_matrix(info.thresholds))
    for value in model.graph.output:
        if value.name == "logits":
            value.type.tensor_type.shape.dim[1].dim_value = len(info.classes)
    entries = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    entry = entries[0] if entries else model.metadata_props.add(key=METADATA_KEY)
    entry.value = info.to_json()
    return bytes(model.SerializeToString())


def _tensor(model: Any, label: str, shape: tuple[int, ...], name: str) -> Array:
    """An initializer of as many numbers as the shape says. Raises GateError."""
    found = next((tensor for tensor in model.graph.initializer if tensor.name == label), None)
    if found is None or found.data_type not in _DTYPES:
        raise _damaged(name, label)
    dtype = np.dtype(_DTYPES[found.data_type])
    if len(found.raw_data) % dtype.itemsize:
        raise _damaged(name, label)
    values = np.frombuffer(found.raw_data, dtype)
    try:
        values = values.reshape(shape)
    except ValueError:
        raise _damaged(name, label) from None
    if not np.isfinite(values).all():
        raise _damaged(name, label)
    return values


def _damaged(name: str, label: str) -> GateError:
    return GateError(
        f"{name}: its tensor '{label}' is not what its metadata say; fit the gate again"
    )


def _replace(model: Any, label: str, values: Array) -> None:
    """An initializer with other values; added where there is none. Axes of one cell stay."""
    found = next((tensor for tensor in model.graph.initializer if tensor.name == label), None)
    if found is None:
        found = model.graph.initializer.add(name=label)
    cells = [1] * (len(found.dims) - values.ndim)  # of a convolution's weight
    del found.dims[:]
    found.dims.extend([*values.shape, *cells])
    found.data_type = next(n for n, kind in _DTYPES.items() if np.dtype(kind) == values.dtype)
    found.raw_data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
