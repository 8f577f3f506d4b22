"""The head's last linear layer as inputs of the graph: its weights can then lie in RAM, and learn.

Forward and backward pass read the same initializer in a gate, so they read the same input here.
"""

from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dripgate.errors import GateError
from dripgate.gate_info import (
    HEAD_BIAS,
    HEAD_WEIGHT,
    MEMORY_CLASSES,
    MEMORY_FEATURES,
    GateInfo,
)
from dripgate.types import Array, FloatArray


class Head(NamedTuple):
    """The last layer as deployed, and the memory that keeps it from forgetting.

    weight: flat float32, rows · width numbers in the graph's order: row by row where ``turned``,
    else feature by feature. bias (rows,). features: the graph's output that it multiplies.
    square: the mean square of a feature. vectors float16 (M, width), classes (M,): the memory.
    """

    weight: FloatArray
    bias: FloatArray
    turned: bool
    features: str
    square: float
    vectors: Array
    classes: Array

    @property
    def width(self) -> int:
        """Features per sample."""
        return self.weight.size // self.bias.size

    @property
    def nbytes(self) -> int:
        """Bytes of flash: weights, biases, vectors, and two for each vector's class."""
        head = self.weight.nbytes + self.bias.nbytes
        return head + self.vectors.nbytes + 2 * len(self.classes)


def open_head(graph: onnx.GraphProto, info: GateInfo) -> Head:
    """Make weight and bias of the last layer inputs of the graph, behind the sample.

    Raises GateError where the gate has no last layer that could learn.
    """
    last = info.last
    if last is None:
        raise GateError(
            "this gate's head cannot learn: it does not end in one linear layer whose weights the "
            "score reads; embed it without --adapt"
        )
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weight, bias = (_opened(graph, name) for name in (HEAD_WEIGHT, HEAD_BIAS))
    vectors, classes = np.zeros((0, last.width), np.float16), np.zeros(0, np.int32)
    if info.memory is not None:
        vectors, classes = found[MEMORY_FEATURES].astype(np.float16), found[MEMORY_CLASSES]
    return Head(
        weight.ravel(), bias.ravel(), last.turned, last.features, last.scale2, vectors, classes
    )


def _opened(graph: onnx.GraphProto, name: str) -> Array:
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    graph.initializer.remove(tensor)
    graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    return np.asarray(numpy_helper.to_array(tensor), np.float32)
