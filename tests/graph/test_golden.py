"""The numbers of three trained reference nets stay what they were when they were frozen.

golden.npz holds weights, samples and outputs, written by the edition before gates were made from
ONNX files: the benchmark's rows stand as long as this passes.
"""

from needs import need

need("torch")

from pathlib import Path

import msgspec
import numpy as np
import pytest
import support
import torch

from dripgate.gate_info import TargetLayer
from dripgate.heatmap import SCORES
from dripgate.training import nets
from dripgate.types import InputSpec, Preprocessing, Thresholds

GOLDEN = np.load(Path(__file__).with_name("golden.npz"))
SHAPES = {"resnet8": (3, 16, 16), "lenet": (1, 16, 16), "dscnn": (1, 30, 16)}


class About(msgspec.Struct):
    preprocessing: Preprocessing
    input: InputSpec
    thresholds: Thresholds
    classes: int
    layer: TargetLayer


@pytest.fixture(scope="module", params=SHAPES)
def golden(request):
    """(name, what is known of the net, the net as ONNX)."""
    name = request.param
    about = msgspec.json.decode(GOLDEN[f"{name}/about"].tobytes(), type=About)
    model = nets.NETS[name](SHAPES[name], about.classes)
    prefix = f"{name}/weights/"
    state = {
        key.removeprefix(prefix): torch.from_numpy(GOLDEN[key]) for key in GOLDEN
        if key.startswith(prefix)
    }  # fmt: skip
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return name, about, support.exported(model.eval(), SHAPES[name])


def _run(golden, score, thresholds=None):
    name, about, classifier = golden
    graph = support.gate_of(
        classifier, SHAPES[name], score=score, preprocessing=about.preprocessing, spec=about.input,
        thresholds=thresholds or about.thresholds,
    )  # fmt: skip
    return support.run(graph, GOLDEN[f"{name}/samples"])


def _same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_what_they_were(golden, score):
    _same(_run(golden, score)["score"], GOLDEN[f"{golden[0]}/score/{score}"])


def test_all_outputs_and_verdicts_are_what_they_were(golden):
    name, about, _ = golden
    score, quality = GOLDEN[f"{name}/score/loss_mean"], GOLDEN[f"{name}/quality"]
    low, high, least = (
        _between(values, share) for values, share in ((score, 0.4), (score, 0.8), (quality, 0.2))
    )
    narrow = msgspec.structs.replace(
        about.thresholds, low=(low,) * about.classes, high=(high,) * about.classes,
        quality_low=least,
    )  # fmt: skip
    found = _run(golden, "loss_mean", narrow)
    for output in ("logits", "quality", "embedding", "heatmap"):
        _same(found[output], GOLDEN[f"{name}/{output}"])
    inside = ((score >= low) & (score <= high)).astype(int)
    assert found["verdict"].tolist() == np.where(quality < least, 2, inside).tolist()
    assert set(found["verdict"].tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(_run(golden, "loss_mean")["verdict"], GOLDEN[f"{name}/verdict"])


def _between(values, share):
    """A bound between two of the frozen values, so that rounding decides nothing."""
    ordered = np.sort(values.astype(float))
    gaps = np.diff(ordered)[int((share - 0.1) * len(values)) : int((share + 0.1) * len(values))]
    at = int((share - 0.1) * len(values)) + int(gaps.argmax())
    return float(ordered[at] + ordered[at + 1]) / 2
