"""The head's last linear layer as inputs of the graph: its weights can then lie in RAM, and learn.

Forward and backward pass read the same initializer in a gate, so they read the same input here.
"""

from typing import NamedTuple, cast

import numpy as np
import onnx
from onnx import helper

from dripgate.gate import Gate
from dripgate.gate_info import HEAD_BIAS, HEAD_WEIGHT, LastLayer
from dripgate.gate_tensors import Linear, changed, read_linear, read_memory
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


def read_head(gate: Gate) -> Head:
    """What of the gate can learn. Raises GateError where nothing can."""
    linear = read_linear(gate.data, gate.info, gate.name)
    memory = read_memory(gate.data, gate.info, gate.name)
    last = cast(LastLayer, gate.info.last)  # else there was no linear layer to read
    weight = linear.weight if last.turned else linear.weight.T
    vectors, classes = np.zeros((0, last.width), np.float16), np.zeros(0, np.int32)
    if memory is not None:
        vectors, classes = memory.features, memory.classes
    return Head(
        weight.ravel(), linear.bias, last.turned, last.features, last.scale2, vectors, classes
    )


def with_numbers(gate: Gate, numbers: FloatArray) -> Gate:
    """The gate whose head is what a device has learned: weights in the graph's order, biases."""
    head = read_head(gate)
    weight, bias = numbers[: head.weight.size], numbers[head.weight.size :]
    rows = (len(bias), -1)
    weight = weight.reshape(rows) if head.turned else weight.reshape(rows[::-1]).T
    return Gate(changed(gate.data, gate.info, linear=Linear(weight, bias)))


def open_head(graph: onnx.GraphProto) -> None:
    """Make weight and bias of the last layer inputs of the graph, behind the sample."""
    for name in (HEAD_WEIGHT, HEAD_BIAS):
        tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
        graph.initializer.remove(tensor)
        graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
