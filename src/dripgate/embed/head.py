"""The head's last linear layer as inputs of the graph: its weights can then lie in RAM, and learn.

Forward and backward pass read the same initializer in a gate, so they read the same input here.
"""

from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dripgate.errors import GateError
from dripgate.gate_info import HEAD_BIAS, HEAD_WEIGHT, GateInfo
from dripgate.types import Array, FloatArray


class Head(NamedTuple):
    """What the last layer is, as deployed.

    weight: flat float32, rows · width numbers in the graph's order: row by row where ``turned``,
    else feature by feature. bias (rows,). features: the graph's output that it multiplies.
    square: the mean square of a feature.
    """

    weight: FloatArray
    bias: FloatArray
    turned: bool
    features: str
    square: float

    @property
    def width(self) -> int:
        """Features per sample."""
        return self.weight.size // self.bias.size


def open_head(graph: onnx.GraphProto, info: GateInfo) -> Head:
    """Make weight and bias of the last layer inputs of the graph, behind the sample.

    Raises GateError where the gate has no last layer that could learn.
    """
    last = info.last
    if last is None:
        raise GateError(
            "this gate's head cannot learn: it does not end in one linear layer, see the notes "
            "that 'dripgate inspect' shows; embed it without --adapt"
        )
    weight, bias = (_open(graph, name) for name in (HEAD_WEIGHT, HEAD_BIAS))
    return Head(weight.ravel(), bias.ravel(), last.turned, last.features, last.scale2)


def _open(graph: onnx.GraphProto, name: str) -> Array:
    tensor = next((tensor for tensor in graph.initializer if tensor.name == name), None)
    if tensor is None:
        raise GateError(f"the gate has no '{name}', which its metadata names; fit the gate again")
    graph.initializer.remove(tensor)
    graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    return np.asarray(numpy_helper.to_array(tensor), np.float32)
