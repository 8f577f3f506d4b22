"""Every form of MODEL: taken, or refused with what to do."""

from needs import need

need("torch")

import sys

import numpy as np
import onnx
import pytest
import support
import torch
from torch import nn

import dripgate
from dripgate.data import open_source
from dripgate.errors import MissingExtra, ModelError
from dripgate.models import open_model

torch.set_num_threads(1)


@pytest.fixture
def bright():
    """An untrained net of which nothing is asked but that it opens."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).eval()


@pytest.fixture
def file(tmp_path):
    """An .onnx file that tells dark from light."""
    model = support.onnx_model(
        """(float[N, 1, 8, 8] x) => (float[N, 2] y) { c = Conv (x, w) r = Relu (c)
        p = GlobalAveragePool (r) f = Flatten (p) y = Gemm (f, m, b) }""",
        w=np.ones((1, 1, 1, 1), "f"), m=np.array([[-9, 9]], "f"),
        b=np.array([4.5, -4.5], "f"),
    )  # fmt: skip
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return path


def test_a_path_bytes_and_a_message_are_the_same_gate(file, photos):
    made = [
        dripgate.fit(model, photos, keep=0.5)
        for model in (file, str(file), file.read_bytes(), onnx.load(file))
    ]
    assert all(gate.info.thresholds == made[0].info.thresholds for gate in made)
    assert made[0].info.calibration.accuracy == 1
    assert any("'0-1'" in note for note in made[0].info.notes)


def test_modules_and_trusted_archives_open(bright, photos, tmp_path):
    source = open_source(photos)
    torch.jit.save(torch.jit.trace(bright, torch.zeros(2, 1, 8, 8)), tmp_path / "net.pt")
    for model, trust in ((bright, False), (tmp_path / "net.pt", True)):
        opened = open_model(model, source, trust=trust).open()
        assert opened.head.kind == "softmax"
        assert opened.cuts
    with pytest.raises(ModelError, match=r"net.pt: a TorchScript archive holds code.*--trust"):
        open_model(tmp_path / "net.pt", source)


@pytest.fixture
def knowing(bright):
    """A net that tells dark from light."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1), *bright[1:4], nn.Linear(1, 2)).eval()
    state = [[[[[1.0]]]], [0.0], [[-9.0], [9.0]], [4.5, -4.5]]
    names = ("0.weight", "0.bias", "4.weight", "4.bias")
    net.load_state_dict(dict(zip(names, map(torch.tensor, state), strict=True)))
    return net


@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize("saved", [True, False])
def test_an_exported_program_becomes_a_gate(knowing, photos, tmp_path, batch, saved):
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    example = torch.zeros(batch or 2, 1, 8, 8)
    model = torch.export.export(knowing, (example,), dynamic_shapes=shapes)
    if saved:
        torch.export.save(model, tmp_path / "net.pt2")
        model = tmp_path / "net.pt2"
    gate = dripgate.fit(model, photos, trust=saved, keep=0.5)
    assert gate.info.calibration.accuracy == 1
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    inputs = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / np.float32(255))
    np.testing.assert_allclose(gate(pixels).logits, knowing(inputs).detach().numpy(), atol=1e-4)


def test_an_archive_of_torch_export_is_opened_where_it_is_trusted(knowing, photos, tmp_path, capfd):
    """torch unpickles what is in it without a question."""
    program = torch.export.export(knowing, (torch.zeros(2, 1, 8, 8),))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(ModelError, match=r"net\.pt2: an archive of torch\.export.*--trust"):
        open_model(tmp_path / "net.pt2", open_source(photos))
    torch.save(knowing.state_dict(), tmp_path / "state.pt2")
    (tmp_path / "none.pt2").write_bytes(b"nothing")
    for name in ("state.pt2", "none.pt2"):
        with pytest.raises(ModelError, match=r"cannot be read as an archive of torch\.export"):
            open_model(tmp_path / name, open_source(photos), trust=True)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("kind", ["pth", "bin", "pkl", "ckpt", "keras", "h5"])
def test_pickles_are_never_opened(kind, photos, tmp_path):
    (tmp_path / f"net.{kind}").write_bytes(b"cos\nsystem\n(S'touch sprung'\ntR.")
    with pytest.raises(ModelError, match=r"opened by running what is in it.*export"):
        open_model(tmp_path / f"net.{kind}", open_source(photos))


def test_a_pickle_that_calls_itself_pt_is_refused(photos, tmp_path, bright):
    torch.save(bright.state_dict(), tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"no TorchScript archive.*never opened"):
        open_model(tmp_path / "net.pt", open_source(photos), trust=True)


def test_without_torch_the_extra_is_named(photos, bright, monkeypatch):
    from importlib.util import find_spec

    monkeypatch.setattr(
        "dripgate.errors.find_spec", lambda name: None if name == "torch" else find_spec(name)
    )
    for model in ("ournet:make", "timm:resnet18", bright):
        with pytest.raises(MissingExtra, match=r"dripgate\[train\]"):
            open_model(model, open_source(photos))


def test_what_is_nothing(photos, tmp_path):
    source = open_source(photos)
    (tmp_path / "x.onnx").write_bytes(b"no model")
    (tmp_path / "x.txt").write_text("no model")
    for name, words in (("x.onnx", "no ONNX model"), ("none.onnx", "no such file"),
                        ("x.txt", "no MODEL")):  # fmt: skip
        with pytest.raises(ModelError, match=words) as caught:
            open_model(tmp_path / name, source)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"--weights FILE\.safetensors|needs timm"):
        open_model("timm:resnet18", source)


def test_an_onnx_file_is_fitted_without_torch(file, photos):
    import subprocess

    code = """
import sys
from dripgate.cli import main
sys.argv = ["dripgate", "fit", sys.argv[1], "--model", sys.argv[2], "--keep", "0.5",
            "--out", sys.argv[3]]
try:
    main()
except SystemExit as stopped:
    assert not stopped.code, stopped.code
print("loaded", *(name for name in ("torch", "onnxscript", "safetensors") if name in sys.modules))
"""
    out = file.with_name("gate.onnx")
    done = subprocess.run(
        [sys.executable, "-c", code, photos, file, out], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded"
    assert out.stat().st_size > 5_000
