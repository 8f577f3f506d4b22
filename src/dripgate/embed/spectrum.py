"""Log-mel on a microcontroller: the graph's DFT matrix found again and replaced by an FFT.

In the graph the DFT is a convolution with windowed cosines and sines, which suits onnxruntime.
On a microcontroller its matrix is most of the flash and most of the work. What it is is read from
its numbers, not from the metadata; a convolution that is no DFT stays one.
"""

from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dripgate.embed.graphs import initializers, replace, users
from dripgate.gate_info import INPUT_NAME
from dripgate.types import Array

#: The largest relative error of a weight that is still taken for a windowed cosine or sine.
_TOLERANCE = 1e-5
_LARGEST_FACTOR = 13
_ON_THE_WAY = {"Cast", "Unsqueeze", "Reshape"}


class Spectrum(NamedTuple):
    """What the C code needs: mel (bands, window / 2 + 1) of DFT powers, window (window,)."""

    window: Array
    mel: Array
    hop: int
    frames: int
    name: str  # of the tensor that it computes, (1, bands, frames)

    @property
    def scratch(self) -> int:
        """Bytes of memory that it needs while it runs: two buffers of half a frame, complex."""
        return 2 * 8 * (len(self.window) // 2 + 1)


def take_spectrum(graph: onnx.GraphProto) -> Spectrum | None:
    """Cut log-mel's DFT and filters out of the graph: their result becomes its input.

    None, and the graph as it was, where there is none or its window suits no FFT.
    """
    constants, read_by = initializers(graph), users(graph)
    transform = _first_convolution(graph)
    square = _only_user(read_by, transform)
    mix = _only_user(read_by, square)
    if transform is None or square is None or mix is None or mix.op_type != "Conv":
        return None
    if not _squares(square, constants) or len(transform.input) > 2:
        return None
    waves, mel = constants[transform.input[1]], constants[mix.input[1]]
    if waves.ndim != 3 or mel.shape[1:] != (len(waves), 1) or any(_pads(transform)):
        return None
    found = _recognised(waves[:, 0])
    half = len(waves) // 2
    if found is None or not np.array_equal(mel[:, :half], mel[:, half:]):
        return None
    window, bins = found
    full = np.zeros((len(mel), len(window) // 2 + 1), np.float32)
    full[:, bins] = mel[:, :half, 0]
    hop = _integers(transform, "strides", [1])[0]
    frames = 1 + (_length(graph) - len(window)) // hop
    name = f"{mix.output[0]}.mel"
    replace(graph, mix, [_shift(graph, name, mix)])
    graph.input[0].CopyFrom(helper.make_tensor_value_info(name, 1, [1, len(mel), frames]))
    return Spectrum(window, full, hop, frames, name)


def _shift(graph: onnx.GraphProto, name: str, mix: onnx.NodeProto) -> onnx.NodeProto:
    """What is left of the filters: their bias, the floor below which all is silence."""
    if len(mix.input) < 3:
        return helper.make_node("Identity", [name], list(mix.output))
    column = initializers(graph)[mix.input[2]].reshape(1, -1, 1)
    graph.initializer.append(numpy_helper.from_array(column, f"{name}.floor"))
    return helper.make_node("Add", [name, f"{name}.floor"], list(mix.output))


def factors(half: int) -> list[int]:
    """The radices of an FFT of ``half`` complex numbers, fours first."""
    found = []
    for radix in (4, 2, 3, 5, 7, 11, 13):
        while half % radix == 0:
            found.append(radix)
            half //= radix
    return found if half == 1 else []


def _first_convolution(graph: onnx.GraphProto) -> onnx.NodeProto | None:
    name = INPUT_NAME
    for node in graph.node:
        if name in node.input and node.op_type in _ON_THE_WAY:
            name = node.output[0]
        elif name in node.input:
            return node if node.op_type == "Conv" else None
    return None


def _only_user(
    read_by: dict[str, list[onnx.NodeProto | None]], node: onnx.NodeProto | None
) -> onnx.NodeProto | None:
    found = read_by.get(node.output[0], []) if node is not None else []
    return found[0] if len({id(one) for one in found}) == 1 else None


def _squares(node: onnx.NodeProto, constants: dict[str, Array]) -> bool:
    if node.op_type == "Mul":
        return bool(node.input[0] == node.input[1])
    exponent = constants.get(node.input[1]) if node.op_type == "Pow" else None
    return exponent is not None and exponent.size == 1 and float(exponent.item()) == 2


def _recognised(waves: Array) -> tuple[Array, list[int]] | None:
    """The window (window,) and the DFT bins of rows that are its cosines, then its sines."""
    half, size = len(waves) // 2, waves.shape[1]
    if size % 2 or max(factors(size // 2), default=_LARGEST_FACTOR + 1) > _LARGEST_FACTOR:
        return None
    wide = waves.astype(np.float64)
    turning = wide[:half] + 1j * wide[half:]
    window = np.sqrt((np.abs(turning) ** 2).mean(axis=0))
    top = int(window[:-1].argmax())
    turned = np.angle(turning[:, top + 1] * turning[:, top].conj())
    bins = np.rint(np.abs(turned) * size / (2 * np.pi)).astype(int)
    phase = 2 * np.pi * np.outer(bins, np.arange(size)) / size
    again = np.concatenate([np.cos(phase), np.sin(phase)]) * window
    if np.abs(again - wide).max() > _TOLERANCE * np.abs(wide).max():
        return None
    return window.astype(np.float32), bins.tolist()


def _pads(node: onnx.NodeProto) -> list[int]:
    return _integers(node, "pads", [0])


def _integers(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    return next((list(one.ints) for one in node.attribute if one.name == name), default)


def _length(graph: onnx.GraphProto) -> int:
    return int(graph.input[0].type.tensor_type.shape.dim[1].dim_value)
