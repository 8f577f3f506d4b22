"""What nobody says of a classifier is guessed on the labelled data, said, and judged."""

import shutil

import numpy as np
import onnx
import pytest
import support
from PIL import Image

import dripgate
from dripgate.errors import ModelError
from dripgate.fitting.conventions import conventions, image_layout
from dripgate.types import Normalize

LAYOUT = image_layout((3, 16, 16), np.dtype("float32"))
CLASSES = ("blue-dark", "blue-light", "red-dark", "red-light")


@pytest.fixture
def lights(tmp_path):
    """Four classes by colour and brightness, of which the brightness is near the middle."""
    rng = np.random.default_rng(0)
    for n in range(120):
        label = CLASSES[n % 4]
        value = 128 + (12 if "light" in label else -12)
        pixels = np.full((16, 16, 3), value) + np.array([20, 0, -20]) * (
            1 if "red" in label else -1
        )
        path = tmp_path / "lights" / label / f"{n:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels + rng.integers(-6, 7, pixels.shape)).astype(np.uint8)).save(path)
    return tmp_path / "lights"


@pytest.fixture
def two(lights, tmp_path):
    """The same samples in two classes, by their brightness."""
    for path in sorted(lights.rglob("*.png")):
        place = tmp_path / "two" / path.parent.name.partition("-")[2] / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    return tmp_path / "two"


def net(spec: Normalize, order=range(4), sharp=40.0):
    """Tells them apart where the pixels come as ``spec`` says, and nowhere else."""
    # pixel = x * std + mean; then the brightness over the middle, and red minus blue
    std, mean = np.array(spec.std), np.array(spec.mean)
    colour = np.array([-1.0, 0, 1] if spec.bgr else [1.0, 0, -1])
    rows = np.stack([np.full(3, 1 / 3), colour])
    shift = rows @ mean - np.array([0.5, 0])
    bright, red = np.array([-1, 1, -1, 1.0]), np.array([-1, -1, 1, 1.0])
    ends = np.stack([bright, -bright, red, -red]) * sharp
    kernel = np.concatenate([rows[:1], -rows[:1], rows[1:], -rows[1:]]) * std
    bias = np.array([shift[0], -shift[0], shift[1], -shift[1]])
    return support.onnx_model(
        f"""(float[N, 3, 16, 16] x) => (float[N, {len(order)}] y) {{ c = Conv (x, w, b) r = Relu (c)
        g = GlobalAveragePool (r) f = Flatten (g) y = MatMul (f, m) }}""",
        w=kernel[:, :, None, None].astype("f"), b=bias.astype("f"),
        m=ends[:, list(order)].astype("f"),
    )  # fmt: skip


@pytest.mark.parametrize("name", conventions(LAYOUT))
def test_the_data_tell_how_the_pixels_go_in(lights, name):
    spec = conventions(LAYOUT)[name]
    gate = dripgate.fit(net(spec), lights, keep=0.5)
    assert gate.info.preprocessing == spec
    assert gate.info.calibration.accuracy > 0.95
    (said,) = (note for note in gate.info.notes if note.startswith("preprocessing"))
    assert said.startswith(f"preprocessing: '{name}' gives the best accuracy (")
    assert said.endswith("; --preprocess says another")


def fitted(dripgate, tmp_path, model, data, *options):
    onnx.save(model, tmp_path / "net.onnx")
    out = tmp_path / "gate.onnx"
    code, _, err = dripgate("fit", data, "--model", tmp_path / "net.onnx", "--out", out, *options)
    return code, err.splitlines()[-1] if code else err, out.exists()


def test_a_preparation_that_is_not_the_model_s_is_named(dripgate, tmp_path, two):
    model = net(conventions(LAYOUT)["imagenet"], order=[0, 1])
    code, err, made = fitted(dripgate, tmp_path, model, two, "--preprocess", "0-255")
    assert (code, made) == (2, False)
    assert "52.1% of 94 samples are right, the commonest class alone would be 52.1%" in err
    assert "it looks like another preprocessing: '--preprocess imagenet' gives 100.0%" in err
    assert err.endswith("--force writes a gate all the same")
    assert fitted(dripgate, tmp_path, model, two, "--preprocess", "imagenet")[::2] == (0, True)


@pytest.mark.parametrize("order", [[1, 0], [1, 2, 3, 0]])
def test_shuffled_classes_are_named_whatever_the_preparation(
    dripgate, tmp_path, lights, two, order
):
    """The convention that tells the classes apart is taken, not the one that guesses best."""
    data, classes = (two, ("dark", "light")) if len(order) == 2 else (lights, CLASSES)
    model = net(conventions(LAYOUT)["imagenet"], order)
    code, err, made = fitted(dripgate, tmp_path, model, data)
    assert (code, made) == (2, False)
    assert "0.0% of 94 samples are right" in err
    assert "the outputs look like the same classes in another order" in err
    assert "put right, 100.0%): give their order with --classes FILE" in err
    with pytest.warns(UserWarning, match="in another order"):
        assert fitted(dripgate, tmp_path, model, data, "--force")[::2] == (0, True)
    (tmp_path / "names.txt").write_text("\n".join(classes[i] for i in order))
    names = ("--classes", tmp_path / "names.txt")
    assert fitted(dripgate, tmp_path, model, data, *names)[::2] == (0, True)


@pytest.mark.parametrize(
    ("sharp", "cause"),
    [(0, "it gives the same for every sample, as if it were not trained or badly converted"),
     (1, "it looks untrained for these classes, or fed with something else than it was trained")],
)  # fmt: skip
def test_a_model_worse_than_the_commonest_class_gets_no_gate(lights, sharp, cause):
    """Two of three samples are of one class, and the model knows two of the four alone."""
    rng = np.random.default_rng(1)
    for n in range(120):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(lights / "blue-dark" / f"noise{n}.png")
    model = net(conventions(LAYOUT)["0-1"], order=[2, 3, 2, 3], sharp=sharp)
    with pytest.raises(ModelError, match=r"the commonest class alone would be 66\.0%") as refused:
        dripgate.fit(model, lights, keep=0.5)
    assert cause in str(refused.value)
    with pytest.warns(UserWarning, match="the commonest class alone"):
        gate = dripgate.fit(model, lights, keep=0.5, force=True)
    assert gate.info.calibration.accuracy <= 0.66
