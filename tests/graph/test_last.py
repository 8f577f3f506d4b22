"""A gate whose head was replaced is the gate of the classifier that has that head."""

from needs import need

need("torch")

import numpy as np
import onnx
import pytest
import support
import torch
from onnx import numpy_helper
from test_heads import BY_DYNAMO, CLASSES, HEADS, _classifier, _gate, _model

from dripgate.gate_info import HEAD_BIAS, HEAD_WEIGHT

#: Heads that do not end in a linear layer: a ReLU and a mean come behind it.
WITHOUT = {"conv-1x1"}


def _learned(graph: bytes, weight: np.ndarray, bias: np.ndarray) -> bytes:
    model = onnx.load_model_from_string(graph)
    for tensor in model.graph.initializer:
        for name, values in ((HEAD_WEIGHT, weight), (HEAD_BIAS, bias)):
            if tensor.name == name:
                turned = name == HEAD_WEIGHT and tensor.dims[0] != CLASSES
                values = (values.T if turned else values).reshape(tensor.dims)
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return model.SerializeToString()


@pytest.mark.parametrize("score", ["loss_mean", "evidence_max"])
@pytest.mark.parametrize("name", HEADS)
def test_another_head_is_read_forward_and_backward(name, score):
    torch.manual_seed(3)
    model = _model(HEADS[name]())
    samples = np.random.default_rng(0).integers(0, 255, (9, 8, 8, 1), np.uint8)
    graph = _gate(_classifier(model, name not in BY_DYNAMO), score)
    names = {tensor.name for tensor in onnx.load_model_from_string(graph).graph.initializer}
    assert (HEAD_WEIGHT in names) == (HEAD_BIAS in names) == (name not in WITHOUT)
    if name in WITHOUT:
        return
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.copy_(torch.randn_like(last.weight) / 3)
        last.bias.copy_(torch.randn_like(last.bias))
    wanted = support.run(_gate(_classifier(model, name not in BY_DYNAMO), score), samples)
    weight, bias = last.weight.detach().numpy(), last.bias.detach().numpy()
    found = support.run(_learned(graph, weight, bias), samples)
    assert np.abs(wanted["alpha"]).max() > 0
    for output in ("logits", "score", "heatmap", "alpha"):
        np.testing.assert_allclose(
            found[output], wanted[output], rtol=1e-4, atol=1e-5 * np.abs(wanted[output]).max()
        )
    features = found.get("features", found["embedding"])
    np.testing.assert_allclose(features @ weight.T + bias, found["logits"], rtol=1e-3, atol=1e-4)
