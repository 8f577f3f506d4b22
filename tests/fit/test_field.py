"""Models that people bring and that used to be taken as they are, without a word."""

import numpy as np
import onnx
import pytest
import support

import dripgate
from dripgate.errors import ModelError

_NET = """(float[N, 1, 8, 8] {x}) => (float[N, 2] {y}) {{ c = Conv ({x}, {w}) r = Relu (c)
p = GlobalAveragePool (r) f = Flatten (p) {z} = Gemm (f, m, b) {end} }}"""


def _model(sign=1, end="", **names):
    """Tells dark from light; with sign -1 the other way round."""
    names = {"x": "x", "y": "y", "w": "w", "z": "z" if end else names.get("y", "y")} | names
    return support.onnx_model(
        _NET.format(end=end.format(**names), **names),
        **{names["w"]: np.ones((1, 1, 1, 1), "f"), "m": sign * np.array([[-9, 9]], "f"),
           "b": sign * np.array([4.5, -4.5], "f")},
    )  # fmt: skip


def test_classes_in_another_order_are_refused(photos, tmp_path):
    with pytest.raises(ModelError, match=r"0\.0% of \d+ samples are right.*in another order") as no:
        dripgate.fit(_model(sign=-1), photos, keep=0.5)
    assert "'light' is predicted for dark" in str(no.value)
    assert "--classes FILE" in str(no.value)
    gate = dripgate.fit(_model(sign=-1), photos, keep=0.5, classes=("light", "dark"))
    assert gate.info.calibration.accuracy == 1
    with pytest.warns(UserWarning, match="in another order"):
        dripgate.fit(_model(sign=-1), photos, keep=0.5, force=True)


@pytest.mark.parametrize("end", ["{y} = Softmax <axis = 1> ({z})",
                                 "s = Softmax <axis = 1> ({z}) {y} = Identity (s)"])  # fmt: skip
def test_a_softmax_inside_is_taken_off_and_said(photos, end):
    plain = dripgate.fit(_model(), photos, keep=0.5, preprocessing="0-1")
    made = dripgate.fit(_model(end=end), photos, keep=0.5, preprocessing="0-1")
    samples = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8)
    for name in ("logits", "score"):
        np.testing.assert_allclose(
            getattr(made(samples), name), getattr(plain(samples), name), rtol=1e-5
        )
    assert any("softmax" in note for note in made.info.notes)


def test_names_in_a_file_may_be_those_of_a_gate_s_own_parts(photos):
    plain = dripgate.fit(_model(), photos, keep=0.5)
    for names in ({"x": "samples"}, {"w": "thresholds"}, {"y": "score"}, {"y": "thresholds"},
                  {"x": "samples", "w": "logits", "y": "verdict"}):  # fmt: skip
        gate = dripgate.fit(_model(**names), photos, keep=0.5)
        assert gate.info.thresholds == plain.info.thresholds


def test_a_gate_is_no_model(photos):
    gate = dripgate.fit(_model(), photos, keep=0.5)
    for model in (gate.data, onnx.load_model_from_string(gate.data)):
        with pytest.raises(ModelError, match="is a gate already"):
            dripgate.fit(model, photos)


def test_what_is_said_of_pixels_is_not_for_arrays(tmp_path):
    for label, value in (("dark", 0.1), ("light", 0.9)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(40):
            array = np.full((1, 8, 8), value + i / 1000, np.float32)
            np.save(tmp_path / "data" / label / f"{i}.npy", array)
    assert dripgate.fit(_model(), tmp_path / "data", keep=0.5).info.calibration.accuracy == 1
    with pytest.raises(ModelError, match=r"for images, and the data are arrays; leave it out"):
        dripgate.fit(_model(), tmp_path / "data", preprocessing="imagenet")


def test_names_beside_the_file_that_are_another_model_s(photos, tmp_path, dripgate):
    """Said where they are taken; passed over where they cannot be; named where no folder fits."""
    net, names = tmp_path / "net.onnx", tmp_path / "labels.txt"
    onnx.save(_model(), net)

    def fit(*options):
        command = ("fit", photos, "--model", net, "--out", tmp_path / "gate.onnx", *options)
        code, _, err = dripgate(*command)
        return code, err

    names.write_text("dark\nlight\n")
    code, err = fit()
    assert code == 0 and f"classes: {names}\n" in err
    names.write_text("ant\nbee\ncat\n")
    code, err = fit()
    assert code == 0
    assert f"classes: {names} has 3 names for 2 outputs, and is not used" in err
    assert "classes: the folders in sorted order (dark, light, …)" in err
    names.write_text("ant\nbee\n")
    code, err = fit()
    assert code == 2
    assert f"{net} (by {names}) does not know the classes dark, light; it knows ant, bee" in err
    (tmp_path / "right.txt").write_text("dark\nlight\n")
    code, err = fit("--classes", tmp_path / "right.txt")
    assert code == 0 and str(names) not in err
