"""What the tests of the graph share: a torch module or an ONNX graph becomes a gate's bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from dripgate.gate_info import OUTPUT_NAMES
from dripgate.graph.build import build_graph
from dripgate.graph.classifier import OnnxClassifier
from dripgate.graph.opened import Opened, open_classifier
from dripgate.graph.target import choose_target
from dripgate.types import (
    ArrayInput,
    Identity,
    InputSpec,
    Preprocessing,
    Thresholds,
    Typical,
)
from needs import models_folder, need

#: Quality as if something had been learned, so that its operators count.
TYPICAL = Typical(centre=(0.5, 0.0, 0.1, 0.2), whitening=((1.0, 0.2, 0.0, 0.1),) * 4)


def bounds(classes: int) -> Thresholds:
    """Thresholds without any bound."""
    none = (None,) * classes
    return Thresholds(low=none, high=none, quality_low=None, typical=TYPICAL)


def exported(module: Any, shape: tuple[int, ...]) -> OnnxClassifier:
    """A torch module that takes (N, *shape) as an ONNX classifier, as the product exports it."""
    need("torch")
    from dripgate.training.export import exported as export

    return export(module, shape, type(module).__name__)


def opened(module: Any, shape: tuple[int, ...]) -> Opened:
    """A torch module, or an ONNX model, opened."""
    if isinstance(module, onnx.ModelProto):
        return open_classifier(module, "the model", shape=shape)
    found = module if isinstance(module, OnnxClassifier) else exported(module, shape)
    return found.open()


def gate_of(
    module: Any, shape: tuple[int, ...], layer: str | None = None, *, score: str = "loss_mean",
    preprocessing: Preprocessing | None = None, spec: InputSpec | None = None,
    thresholds: Thresholds | None = None, classes: int | None = None, with_alpha: bool = False,
) -> bytes:  # fmt: skip
    """A torch module that takes (N, *shape), or an ONNX model, as a gate's graph.

    By default the samples are arrays of that shape, with nothing done to them.
    """
    classifier = opened(module, shape)
    target = choose_target(classifier, layer).cut
    classes = classes or classifier.build.shapes[classifier.head.logits][1]
    return build_graph(
        classifier, target, preprocessing or Identity(), spec or ArrayInput(shape=shape), score,
        thresholds or bounds(classes), with_alpha=with_alpha,
    ).model  # fmt: skip


def run(graph: bytes, samples: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs of a gate's graph by name."""
    session = onnxruntime.InferenceSession(graph)
    names = [value.name for value in session.get_outputs()]
    assert tuple(names[: len(OUTPUT_NAMES)]) == OUTPUT_NAMES
    return dict(zip(names, session.run(None, {"samples": samples}), strict=True))


def operators(graph: bytes) -> list[str]:
    """Its operators in order."""
    return [node.op_type for node in onnx.load_model_from_string(graph).graph.node]


def onnx_model(text: str, opset: int = 20, **constants: np.ndarray) -> onnx.ModelProto:
    """A model from ONNX's own text form, with initializers."""
    head = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    model = onnx.parser.parse_model(f"{head} g {text}")
    for name, values in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return model


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Normally distributed float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def small_cnn(
    end: str = "y = Identity (z)", *, opset: int = 20, result: str = "float[N, 4] y",
    given: str = "float[N, 3, 8, 8] x", begin: str = "a = Identity (x)", outputs: int = 4,
) -> onnx.ModelProto:  # fmt: skip
    """Convolution, ReLU, global pool, linear: without torch. ``end`` makes y of the logits z."""
    return onnx_model(
        f"""({given}) => ({result}) {{ {begin}
        c = Conv (a, w) r = Relu (c) p = GlobalAveragePool (r) f = Flatten (p)
        z = Gemm (f, m, b) {end} }}""",
        opset, w=floats(6, 3, 3, 3), m=floats(6, outputs, seed=1) * 3, b=floats(outputs, seed=2),
    )  # fmt: skip


def shared_models() -> Path:
    """The folder with classifiers as people have them; skips the test where there is none."""
    need("public models")
    return models_folder()
