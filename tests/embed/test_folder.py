"""The C folder: it decides as onnxruntime does, needs no heap, and says what it takes."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from dripgate.embed import embed, golden
from dripgate.embed.emulate import available, compare, emulate
from dripgate.errors import UserError
from dripgate.gate import Gate
from dripgate.models import fit
from needs import need


@pytest.fixture(scope="module")
def samples(gate, loop):
    from dripgate.data import load, open_source

    return load(open_source(str(loop / "stream.zip")), gate.info.input).train.x[:200]


def test_every_verdict_is_onnxruntimes(gate, host, samples):
    assert len(samples) == 200
    expected = gate(samples)
    logits, score, quality, predicted, verdict = host.decide(samples, len(gate.info.classes))
    close = golden.close(gate, expected, golden.TOLERANCE)
    same = (verdict == expected.verdict) & (predicted == expected.logits.argmax(axis=1))
    assert (same | close).all()
    assert close.mean() < 0.05
    assert len(np.unique(verdict)) >= 2
    np.testing.assert_allclose(logits, expected.logits, atol=1e-5 * np.abs(expected.logits).max())
    scale = golden.score_scale(gate)
    np.testing.assert_allclose(score, expected.score, rtol=1e-4, atol=1e-6 * scale)
    np.testing.assert_allclose(quality, expected.quality, rtol=1e-4, atol=1e-5)


def test_the_self_test_passes_and_notices_one_wrong_weight(
    folder, host, host_of, library, tmp_path
):
    assert host.selftest() == 0
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    data = broken / "src" / "dripgate_net_data.c"
    text = data.read_text()
    start = re.search(r"float \w+\[[\d\]\[]+ = \{", text).end()
    number = re.compile(r"-?\d[\w.+-]*f").search(text, start)
    data.write_text(text[: number.start()] + "5.0f" + text[number.end() :])
    assert host_of(library, broken, tmp_path / "broken.so").selftest() > 0


def test_nothing_is_allocated_and_weights_are_constant(host, folder):
    done = subprocess.run(
        ["nm", host.library._name], capture_output=True, text=True, check=True
    ).stdout
    assert "dripgate_decide" in done
    assert not re.search(r"U (malloc|calloc|realloc|free|alloca)\b", done)
    data = (folder / "src" / "dripgate_net_data.c").read_text()
    declared = re.findall(r"^(.+) \w+\[[\d\]\[]+ = \{", data, re.MULTILINE)
    assert declared
    assert all(kind.startswith("const") for kind in declared)


def test_verdicts_do_not_depend_on_what_was_decided_before(gate, host, samples):
    classes = len(gate.info.classes)
    alone = [host.decide(samples[i : i + 1], classes)[1][0] for i in (5, 9, 5)]
    in_a_row = host.decide(samples[:10], classes)[1]
    assert alone[0] == alone[2] == in_a_row[5]
    assert alone[1] == in_a_row[9]


def test_the_golden_samples_are_those_of_the_c_code(gate):
    made = golden.samples(gate)
    assert made.shape == (golden.COUNT, *gate.info.input.shape)
    state = (1 * 1664525 + 1013904223) % 2**32  # the first step from seed 1, by hand
    assert made[0].ravel()[0] == state >> 24
    assert made[0].ravel()[: golden.hold(gate)].tolist() == [state >> 24] * golden.hold(gate)


def test_an_earlier_folder_is_replaced_and_a_foreign_one_is_not(gate, tmp_path):
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not made by 'dripgate embed'"):
        embed(gate, foreign)
    assert (foreign / "thesis.txt").read_text() == "years of work"
    with pytest.raises(UserError, match="does not exist"):
        embed(gate, tmp_path / "no" / "where")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_without_the_score_only_the_classifier_is_left(gate, folder, host_of, library, tmp_path,
                                                       samples):  # fmt: skip
    plain = tmp_path / "plain"
    plain.mkdir()
    embed(gate, plain, score=False)  # an empty folder may be filled
    made = host_of(library, plain, tmp_path / "plain.so")
    assert made.selftest() == 0
    logits, score, _, predicted, _ = made.decide(samples[:20], len(gate.info.classes))
    np.testing.assert_allclose(logits, gate(samples[:20]).logits, rtol=1e-3, atol=1e-4)
    assert score.tolist() == [0] * 20
    assert predicted.tolist() == gate(samples[:20]).logits.argmax(axis=1).tolist()
    embed(gate, plain, score=False)  # and replaced
    size = sum(path.stat().st_size for path in (folder / "src").glob("dripgate_net*.c"))
    assert sum(path.stat().st_size for path in (plain / "src").glob("dripgate_net*.c")) < size


@pytest.mark.needs("the Arm compiler")
def test_the_readme_gives_the_figures_and_the_arduino_sketch_compiles(folder, tmp_path):
    readme = (folder / "README.md").read_text()
    assert re.search(r"\| flash: .* \| [\d,]{5,} \|", readme)
    assert re.search(r"\| RAM: .* \| [\d,]{4,} \|", readme)
    assert re.search(r"\| stack \| [\d,]{3,5} \|", readme)
    # The part of Arduino's API that the sketch uses; no Arduino core for Arm is packaged in Debian.
    (tmp_path / "Arduino.h").write_text(
        "struct Port { void begin(long); void println(const char *); };\n"
        "extern Port Serial; unsigned long millis();\n"
    )
    command = ["arm-none-eabi-g++", "-mcpu=cortex-m4", "-mthumb", "-std=gnu++11", "-Wall",
               "-Werror", "-include", str(tmp_path / "Arduino.h"), f"-I{folder / 'src'}",
               "-x", "c++", "-c", str(folder / "examples" / "decide" / "decide.ino"),
               "-o", str(tmp_path / "sketch.o")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """A gate for coloured photos of the size of CIFAR-10's, of a net with no training."""
    need("torch")
    import torch

    from dripgate.training.nets import resnet8

    folder, rng = tmp_path_factory.mktemp("colour"), np.random.default_rng(5)
    for label, tint in (("red", (60, 0, 0)), ("blue", (0, 0, 60))):
        (folder / label).mkdir()
        for i in range(40):
            pixels = rng.integers(0, 190, (32, 32, 3)) + tint
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{i}.png")
    torch.manual_seed(0)
    return fit(resnet8((3, 32, 32), 2), folder, keep=0.5, force=True)


@pytest.mark.needs("the Arm compiler", "QEMU for Arm")
def test_a_cortex_m4_decides_as_onnxruntime_does(gate, folder, samples):
    found = emulate(folder, "cortex-m4", samples[:24])
    agreed = compare(gate, gate(samples[:24]), found, golden.TOLERANCE)
    assert (agreed.samples, agreed.wrong) == (24, 0)
    assert agreed.logits < 1e-5
    assert agreed.score < 1e-4
    assert 100 < found.stack < 4096


@pytest.mark.needs("the Arm compiler", "QEMU for Arm")
@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m7"])
def test_no_compiler_drops_a_layer(colour, core, tmp_path):
    """GCC 12 took the cast to float for a function without effect once it knew all addresses."""
    embed(colour, tmp_path / "c")
    samples = np.random.default_rng(6).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    found = emulate(tmp_path / "c", core, samples)
    assert compare(colour, colour(samples), found, golden.TOLERANCE).logits < 1e-5


def test_a_wrong_device_is_noticed(gate, samples):
    """``compare`` itself: a verdict that is another one far from any threshold is wrong."""
    from dripgate.embed.emulate import Emulated

    out = gate(samples)
    far = np.flatnonzero(~golden.close(gate, out, 1e-2))[0]
    verdict = out.verdict.astype(int)
    verdict[far] = 1 - min(verdict[far], 1)
    found = Emulated(
        out.logits, out.score, out.quality, out.logits.argmax(axis=1), verdict, out.score, 500
    )
    agreed = compare(gate, out, found, golden.TOLERANCE)
    assert (agreed.differ, agreed.wrong, agreed.score, agreed.logits) == (1, 1, 0, 0)


def test_the_command_writes_the_folder_and_its_json(loop, tmp_path, capsys, monkeypatch):
    import json

    from dripgate.cli import main

    arguments = ["dripgate", "embed", str(loop / "gate.onnx"), "--out", str(tmp_path / "c"),
                 "--json", str(tmp_path / "c.json")]  # fmt: skip
    checked = not available()
    arguments += ["--check", str(loop / "stream.zip"), "--samples", "12"] if checked else []
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    out = capsys.readouterr().out
    assert "kB of arena" in out
    assert not checked or "12 of 12 verdicts as onnxruntime's" in out
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["bound"] <= found["arena"] < 10**6
    gate = Gate.load(loop / "gate.onnx")
    assert f'"{gate.id}"' in (tmp_path / "c" / "src" / "dripgate_config.h").read_text()
