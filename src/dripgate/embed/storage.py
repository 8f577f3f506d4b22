"""Which tensors share storage, and from when to when each storage is needed.

A reshaped tensor is the same bytes; an element-wise result may overwrite an input that nobody
reads again, because the generated loops read each element before they write it.
"""

from typing import NamedTuple

import onnx

from dripgate.embed.arena import Block
from dripgate.embed.graphs import Kind, shapes
from dripgate.embed.lower import Lowered

#: The same bytes under another shape.
_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"}
#: Output element i depends on input element i alone, as far as the input has the output's shape.
_ELEMENTWISE = {
    "Abs", "Add", "Clip", "Div", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "LeakyRelu",
    "Log", "Mul", "Neg", "Pow", "Reciprocal", "Relu", "Sigmoid", "Sqrt", "Sub", "Tanh", "Where",
}  # fmt: skip
#: Channels up to which a 1 x 1 convolution works in place: it keeps four columns on the stack.
_MOST_CHANNELS = 128


class Storage(NamedTuple):
    """blocks: what is needed when. of: the block's number, for every tensor in the arena."""

    blocks: list[Block]
    of: dict[str, int]


#: What is in ``Storage.of`` for the front end's working memory; no tensor has an empty name.
SCRATCH = ""


def storage(lowered: Lowered) -> Storage:
    """The storage of every computed tensor; step 0 is the front end, outputs live to the end."""
    graph, front = lowered.model.graph, lowered.spectrum
    known, last = shapes(graph), _last_use(graph)
    members: list[list[str]] = []
    first: list[int] = []
    of: dict[str, int] = {}

    def add(name: str, step: int, shared: int | None) -> None:
        if shared is None:
            shared = len(members)
            members.append([])
            first.append(step)
        members[shared].append(name)
        of[name] = shared

    if front is not None:
        add(front.name, 0, None)
    for step, node in enumerate(graph.node, 1):
        inside = [name for name in node.input if name in of]
        for name in filter(None, node.output):
            shared = None
            if name == node.output[0]:
                free = [x for x in inside if max(last[m] for m in members[of[x]]) <= step]
                source = _source(node, name, inside, free, known)
                shared = None if source is None else of[source]
            add(name, step, shared)
    blocks = [
        Block(max(_bytes(known[x]) for x in names), begin, max(last[x] for x in names))
        for names, begin in zip(members, first, strict=True)
    ]
    if front is not None:
        of[SCRATCH] = len(blocks)
        blocks.append(Block(front.scratch, 0, 0))
    return Storage(blocks, of)


def _last_use(graph: onnx.GraphProto) -> dict[str, int]:
    last = {value.name: 0 for value in graph.input}
    for step, node in enumerate(graph.node, 1):
        last |= dict.fromkeys((*node.output, *node.input), step)
    return last | {value.name: len(graph.node) + 1 for value in graph.output}


def _source(
    node: onnx.NodeProto, name: str, inside: list[str], free: list[str], known: dict[str, Kind]
) -> str | None:
    """The input whose storage the result can take over; free: those nobody reads again."""
    if node.op_type in _VIEWS:
        return inside[0] if inside and inside[0] == node.input[0] else None
    if node.op_type in _ELEMENTWISE or _convolves_in_place(node, known, name):
        return next((x for x in free if known[x] == known[name]), None)
    return None


def _convolves_in_place(node: onnx.NodeProto, known: dict[str, Kind], name: str) -> bool:
    """1 x 1 and depthwise convolutions of equal shapes: our loops copy what they overwrite.

    The same conditions as in templates/conv_op.c.j2; weights are constants, so only the map is
    among what the node reads.
    """
    if node.op_type != "Conv" or len(known[name][0]) != 4:
        return False
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    kernel, group = attributes.get("kernel_shape", [2]), attributes.get("group", 1)
    if max(attributes.get("strides", [1])) > 1 or max(attributes.get("dilations", [1])) > 1:
        return False
    channels = known[name][0][1]
    return group == channels > 1 or (max(kernel) == 1 and group == 1 and channels <= _MOST_CHANNELS)


def _bytes(value: Kind) -> int:
    shape, dtype = value
    size = dtype.itemsize
    for side in shape:
        size *= side
    return size
