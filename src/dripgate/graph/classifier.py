"""A classifier as it is brought: an ONNX model, and what is known of it beside the file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import onnx

from dripgate.graph.opened import Opened, open_classifier
from dripgate.types import InputSpec, Preprocessing


@dataclass(frozen=True)
class OnnxClassifier:
    """model: the ONNX message. None stands for what nobody has said.

    classes: names in the order of the outputs. input, preprocessing: what a sample is and what is
    done to it. holdout: share of the data, chosen by content, that it was not trained on (0: the
    data given to ``fit`` are all new to it). shape: of a sample at the model's own input.
    output: the name of the output with the classes. others: makes the same classifier as other
    exporters write it, one after the other, for where this one has no usable cut. notes: to be
    said.
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

    def open(self) -> Opened:
        """Its graph, read anew: what is opened is used up by a gate. Raises ModelError."""
        return open_classifier(self.model, self.name, shape=self.shape, output=self.output)

    def with_(self, **changes: Any) -> Self:
        """The same with other facts."""
        return replace(self, **changes)
