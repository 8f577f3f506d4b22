"""timm:NAME and hf:FOLDER with the real timm and transformers: $DRIPGATE_ZOO is their interpreter.

It saves a small net of each library, whose last layer was learned on the pictures, and what that
gives for some of them; then the command of the recipe makes a gate, which must give the same.
"""

import os
import subprocess
from pathlib import Path

import made
import numpy as np
import pytest

from dripgate.data import load
from dripgate.gate import Gate
from dripgate.types import ImageInput
from needs import need

SIDE = 160
NETS = {
    "timm": """
import timm
net = timm.create_model("test_resnet", num_classes=3).eval()
features = lambda x: net.forward_head(net.forward_features(x), pre_logits=True)
last = net.get_classifier()
mean, std = net.pretrained_cfg["mean"], net.pretrained_cfg["std"]
save = lambda: save_file(net.state_dict(), "weights.safetensors")
logits = net
""",
    "hf": f"""
from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification
config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
                      id2label=dict(enumerate({made.CLASSES})))
net = ResNetForImageClassification(config).eval()
features = lambda x: net.resnet(x).pooler_output.flatten(1)
last = net.classifier[1]
mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]

def save():
    net.save_pretrained("hf-net")
    ConvNextImageProcessor(size={{"shortest_edge": {SIDE}}}, crop_pct=1.0, image_mean=mean,
                           image_std=std).save_pretrained("hf-net")

logits = lambda x: net(x).logits
""",
}
LEARN = """
import numpy as np, torch
from safetensors.torch import save_file
torch.manual_seed(0)
torch.set_num_threads(1)
{net}
x, y = np.load("x.npy"), np.load("y.npy")
x = torch.from_numpy((x / np.float32(255) - np.float32(mean)) / np.float32(std)).float()
x = x.permute(0, 3, 1, 2)
with torch.no_grad():
    f = features(x)
    f1 = torch.cat([f, torch.ones(len(f), 1)], 1)
    gram = f1.T @ f1 + 1e-3 * torch.eye(f1.shape[1])
    w = torch.linalg.solve(gram, f1.T @ torch.eye(3)[y])
    last.weight.copy_(8 * w[:-1].T)
    last.bias.copy_(8 * w[-1])
    np.save("logits.npy", logits(x[:8]).numpy())
save()
"""
MODELS = {
    "timm": ("timm:test_resnet", "--weights", "weights.safetensors"),
    "hf": ("hf:hf-net",),
}


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """Runs the interpreter that has both libraries, in an empty folder."""
    need("timm and transformers")
    monkeypatch.chdir(tmp_path)
    source = str(Path(__file__).parents[2] / "src")
    environment = os.environ | {"PYTHONPATH": source, "HF_HUB_OFFLINE": "1"}

    def run(*words):
        done = subprocess.run(
            [os.environ["DRIPGATE_ZOO"], *words],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    return run


@pytest.mark.parametrize("library", NETS)
def test_a_net_of_timm_or_hugging_face_becomes_a_gate_that_says_the_same(zoo, library):
    made.pictures("labelled", made.CLASSES, each=25, side=SIDE)
    data = load("labelled", ImageInput(height=SIDE, width=SIDE, channels=3))
    np.save("x.npy", data.train.x)
    np.save("y.npy", data.train.y)
    zoo("-c", LEARN.format(net=NETS[library]))
    model, *weights = MODELS[library]
    said = zoo("-m", "dripgate", "fit", "labelled", "--model", model, *weights, "--keep", "0.5")
    gate = Gate.load("gate.onnx")
    expected = np.load("logits.npy")
    np.testing.assert_allclose(gate(data.train.x[:8]).logits, expected, atol=2e-3)
    assert gate.info.classes == made.CLASSES
    assert gate.info.input.shape == (SIDE, SIDE, 3)
    assert gate.info.calibration.accuracy > 0.8
    assert "preprocessing: " + ("timm's for" if library == "timm" else "hf-net/") in said
