"""A classifier as it is brought: an ONNX model, and what is known of it beside the file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec
import onnx

from dripgate.graph.opened import Opened, open_classifier
from dripgate.types import InputSpec, Preprocessing

if TYPE_CHECKING:
    from typing import Self

#: Under this key of a file's metadata stands what dripgate knows of the classifier in it.
CARD_KEY = "dripgate.classifier"


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an ONNX file of ``dripgate train`` says of itself; see OnnxClassifier."""

    classes: tuple[str, ...]
    input: InputSpec
    preprocessing: Preprocessing
    holdout: float = 0.0


@dataclass(frozen=True)
class OnnxClassifier:
    """model: the ONNX message. None stands for what nobody has said.

    classes: names in the order of the outputs. input, preprocessing: what a sample is and what is
    done to it. holdout: share of the data, chosen by content, that it was not trained on (0: the
    data given to ``fit`` are all new to it). shape: of a sample at the model's own input.
    output: the name of the output with the classes. others: makes the same classifier as other
    exporters write it, one after the other, for where this one has no usable cut. notes: to be
    said. beside: the file that the classes were found in, which may be another model's.
    """

    model: onnx.ModelProto
    name: str = "the model"
    classes: tuple[str, ...] | None = None
    input: InputSpec | None = None
    preprocessing: Preprocessing | None = None
    holdout: float = 0.0
    shape: tuple[int, ...] | None = None
    output: str | None = None
    others: Callable[[], Iterable[onnx.ModelProto]] = tuple
    notes: tuple[str, ...] = field(default=())
    beside: str = ""

    def open(self) -> Opened:
        """Its graph, read anew: what is opened is used up by a gate. Raises ModelError."""
        return open_classifier(self.model, self.name, shape=self.shape, output=self.output)

    def file(self) -> bytes:
        """The file, with what is known of the classifier in its metadata."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        if self.classes is not None and self.input is not None and self.preprocessing is not None:
            card = Card(
                classes=self.classes, input=self.input, preprocessing=self.preprocessing,
                holdout=self.holdout,
            )  # fmt: skip
            onnx.helper.set_model_props(model, {CARD_KEY: msgspec.json.encode(card).decode()})
        return bytes(model.SerializeToString())

    def with_real_input(self) -> "Self":
        """The same, taking real numbers where the file takes quantised ones and says their scale.

        For features and arrays: of pixels the integers themselves are known.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        given = graph.input[0]
        kind = given.type.tensor_type.elem_type
        scale = _scale_of(graph, given.name)
        if kind not in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) or scale is None:
            return self
        inner = f"{given.name}.quantised"
        for node in graph.node:
            node.input[:] = [inner if name == given.name else name for name in node.input]
        quantize = onnx.helper.make_node("QuantizeLinear", [given.name, *scale], [inner])
        graph.node.insert(0, quantize)
        given.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        return self.with_(model=model)

    def with_(self, **changes: Any) -> "Self":
        """The same with other facts."""
        return replace(self, **changes)


def _scale_of(graph: onnx.GraphProto, name: str) -> list[str] | None:
    """Names of scale and zero point of the DequantizeLinear that reads an input, past moves."""
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if name not in node.input:
            continue
        if node.op_type == "DequantizeLinear" and set(node.input[1:]) <= constants:
            return list(node.input[1:])
        if node.op_type in ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity"):
            return _scale_of(graph, node.output[0])
    return None
