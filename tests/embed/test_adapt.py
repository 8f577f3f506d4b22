"""A head that learns on the device: the loop in C, forward and backward by the learned head."""

import ctypes
import json
import re
import subprocess

import msgspec
import numpy as np
import onnx
import pytest
import support
from PIL import Image

from dripgate.data import load, open_source
from dripgate.embed import embed
from dripgate.embed.emulate import available
from dripgate.embed.figures import figures
from dripgate.embed.head import read_head, with_numbers
from dripgate.embed.mirror import mirror
from dripgate.embed.rehearse import Event, Kind, labelled_late, rehearse
from dripgate.errors import GateError
from dripgate.gate import Gate
from dripgate.graph.build import with_info
from dripgate.models import fit

emulated = pytest.mark.needs("the Arm compiler", "QEMU for Arm")


@pytest.fixture(scope="module")
def learning(gate, tmp_path_factory):
    """What `dripgate embed --adapt` makes of the loop's gate; read only."""
    out = tmp_path_factory.mktemp("adapt") / "gate"
    embed(gate, out, adapt=True)
    return out


@pytest.fixture(scope="module")
def labelled(gate, loop):
    """Samples and classes of the loop's stream."""
    found = load(open_source(str(loop / "stream.zip")), gate.info.input).train
    return np.asarray(found.x), np.asarray(found.y)


@pytest.fixture
def device(host_of, library, tmp_path):
    """Makes the host's build of a folder, with a learner whose ring is in RAM."""

    def made(folder):
        host = host_of(library, folder, tmp_path / "adapt.so")
        text = (folder / "src" / "dripgate_config.h").read_text()
        width = int(re.search(r"DRIPGATE_FEATURES (\d+)", text)[1])
        host.numbers = int(re.search(r"DRIPGATE_HEAD (\d+)", text)[1])
        ring, state = (ctypes.c_uint16 * width * 128)(), ctypes.create_string_buffer(100_000)
        host.library.dripgate_ram.restype = Storage
        storage = host.library.dripgate_ram(ring)
        host.kept = ring, state, storage
        assert host.library.dripgate_adapt(state, ctypes.byref(storage)) == 0
        return host

    return made


class Storage(ctypes.Structure):
    _fields_ = (("read", ctypes.c_void_p), ("write", ctypes.c_void_p),
                ("context", ctypes.c_void_p), ("page", ctypes.c_uint32))  # fmt: skip


def learn_from(host, samples, labels, classes):
    """Remembers, labels and learns, one sample after the other; the learned numbers."""
    for i, (sample, label) in enumerate(zip(samples, labels, strict=True)):
        host.decide(sample[None], classes)
        assert host.library.dripgate_remember(i, ctypes.c_double(1)) == 0
        assert host.library.dripgate_label(i, int(label)) == 0
        assert host.library.dripgate_learn() == 16
    head = ctypes.POINTER(ctypes.c_float).in_dll(host.library, "dripgate_head")
    return np.array(head[: host.numbers], np.float32)


def agrees(host, gate, samples):
    """The device's logits, scores and verdicts are the gate's."""
    expected, classes = gate(samples), len(gate.info.classes)
    logits, score, _, predicted, verdict = host.decide(samples, classes)
    scale = np.abs(expected.logits).max()
    np.testing.assert_allclose(logits, expected.logits, atol=1e-5 * scale)
    np.testing.assert_allclose(score, expected.score, atol=1e-4 * np.abs(expected.score).max())
    assert (predicted == expected.logits.argmax(axis=1)).mean() > 0.98
    assert (verdict == expected.verdict).mean() > 0.95


def test_forward_and_backward_pass_read_the_head_that_learned(gate, learning, device, labelled):
    x, y = labelled
    host, classes = device(learning), len(gate.info.classes)
    agrees(host, gate, x[:60])
    wrong = (y[:60] + 1) % classes  # so that much changes
    learned = with_numbers(gate, learn_from(host, x[:60], wrong, classes))
    moved = np.abs(learned(x[:60]).score - gate(x[:60]).score).max()
    assert moved > 0.1 * np.abs(gate(x[:60]).score).max()
    agrees(host, learned, x[60:160])
    host.library.dripgate_unlearn()
    agrees(host, gate, x[60:160])


def test_the_self_test_is_of_the_deployed_head(gate, learning, device, labelled):
    x, y = labelled
    host = device(learning)
    learn_from(host, x[:20], (y[:20] + 1) % 10, len(gate.info.classes))
    changed_by_learning = host.decide(x[:20], 10)[0]
    assert host.selftest() == 0
    assert (host.decide(x[:20], 10)[0] == changed_by_learning).all()  # which learned on


def test_nothing_is_allocated(device, learning):
    host = device(learning)
    done = subprocess.run(["nm", host.library._name], capture_output=True, text=True, check=True)
    assert "dripgate_learn" in done.stdout
    assert not re.search(r"U (malloc|calloc|realloc|free|alloca)\b", done.stdout)


@emulated
def test_who_never_asks_for_it_pays_nothing(folder, learning):
    plain, adapting = figures(folder), figures(learning)
    assert abs(adapting.flash - plain.flash) < 200
    assert adapting.ram - plain.ram <= 64  # the features live to the end, and one pointer
    assert plain.learner_flash == plain.learner_ram == 0
    assert 1000 < adapting.learner_flash < 20_000


@emulated
def test_the_lines_in_the_readme_compile_as_c_and_as_cpp(learning, tmp_path):
    readme = (learning / "README.md").read_text()
    lines = re.findall(r"```c\n(.*?)```", readme, re.DOTALL)[1]
    (tmp_path / "use.c").write_text(
        '#include "dripgate.h"\n'
        "void use(const dripgate_sample *sample, uint32_t id, int label)\n"
        f"{{\n    dripgate_verdict verdict;\n{lines}}}\n"
    )
    for compiler, *options in (("gcc", "-std=c99"), ("g++", "-std=gnu++11", "-x", "c++")):
        command = [f"arm-none-eabi-{compiler}", "-mcpu=cortex-m4", "-mthumb", "-Wall", "-Werror",
                   f"-I{learning / 'src'}", *options, "-c", str(tmp_path / "use.c"),
                   "-o", str(tmp_path / "use.o")]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


# On emulated cores ------------------------------------------------------------------------------


@emulated
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7", "cortex-m55"])
def test_a_core_learns_what_numpy_learns(gate, learning, labelled, core):
    x, y = labelled
    events = [Event(Kind.SHOW), *labelled_late(
        x[:40], y, delay=5, every=3, keeping=Kind.REMEMBER, propensities=(1, 0.1),
        then=(Kind.LEARN, Kind.SHOW, Kind.RESUME),
    )]  # fmt: skip
    found = rehearse(learning, core, events)
    expected = mirror(read_head(gate), gate.info.head, gate(x[:40]).features, events)
    assert found.status.tolist() == expected.status.tolist()
    assert found.judged.tolist() == expected.judged.tolist()
    scale = np.abs(expected.heads).max()
    assert np.abs(expected.heads[-1] - expected.heads[0]).max() > 0.01 * scale
    np.testing.assert_allclose(found.heads, expected.heads, atol=1e-5 * scale)
    logits = expected.logits[1:]  # nothing is decided before
    np.testing.assert_allclose(found.logits[1:], logits, atol=1e-5 * np.abs(logits).max())
    assert found.stack.max() < 2048


@emulated
def test_a_drifting_stream_with_late_labels_is_learned_as_in_numpy(gate, learning, labelled):
    """The light goes; what the gate keeps is labelled 40 samples later."""
    x, y = labelled
    n, judged, delay = 400, 200, 40
    x, y = x[: n + judged].astype(float), y[: n + judged]
    degree = np.minimum(np.arange(len(x)) / (n / 2), 1)[:, None, None, None]
    x = np.clip(x * (1 - 0.6 * degree) + 60 * degree, 0, 255).astype(np.uint8)
    events = labelled_late(x[:n], y, delay=delay, every=5)
    begin = len(events)
    events += [Event(Kind.DECIDE, sample) for sample in x[n:]]
    found = rehearse(learning, "cortex-m4", events)
    kept = (np.array([event.kind for event in events]) == Kind.KEEP) & (found.status == 0)
    expected = mirror(
        read_head(gate), gate.info.head, gate(x).features, [*events, Event(Kind.SHOW)], kept=kept
    )
    before = (gate(x[n:]).logits.argmax(axis=1) == y[n:]).mean()
    after = (found.logits[begin:].argmax(axis=1) == y[n:]).mean()
    in_numpy = (expected.logits[begin:-1].argmax(axis=1) == y[n:]).mean()
    assert after == in_numpy
    assert after > before + 0.1
    assert 50 < found.judged[begin, 0] < n
    learned = with_numbers(gate, expected.heads[-1])(x[n:])
    assert (found.decision[begin:] == learned.verdict).mean() > 0.98


# Other gates ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tinted(tmp_path_factory):
    """Coloured noise of 8 × 8 in four classes, by tint."""
    folder, rng = tmp_path_factory.mktemp("tinted"), np.random.default_rng(5)
    for label, tint in enumerate(((60, 0, 0), (0, 60, 0), (0, 0, 60), (50, 50, 0))):
        (folder / f"class{label}").mkdir()
        for i in range(30):
            pixels = rng.integers(0, 190, (8, 8, 3)) + tint
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"class{label}" / f"{i}.png")
    return folder


def quantised(model, folder):
    """Its convolutions in int8, quantised and back in the graph; the head in float."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": support.floats(8, 3, 8, 8, seed=i)} for i in range(4)]

        def get_next(self):
            return self.left.pop() if self.left else None

    source, to = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(model, source)
    quantize_static(source, to, Reader(), QuantFormat.QDQ, op_types_to_quantize=["Conv"])
    return to


@pytest.mark.parametrize("kind", ["(D, C)", "one row", "sigmoid", "int8"])
def test_heads_and_trunks_of_every_kind(kind, tinted, device, tmp_path):
    two = kind == "one row"
    names = ("class0", "class1") if two else tuple(f"class{i}" for i in range(4))
    data = tmp_path / "data"
    data.mkdir()
    for name in names:
        (data / name).symlink_to(tinted / name)
    end = "y = Sigmoid (z)" if kind in ("one row", "sigmoid") else "y = Identity (z)"
    result = "float[N, 1] y" if two else "float[N, 4] y"
    model = support.small_cnn(end, outputs=1 if two else 4, result=result)
    path = quantised(model, tmp_path) if kind == "int8" else tmp_path / "model.onnx"
    if kind != "int8":
        onnx.save(model, path)
    gate = fit(path, data, keep=0.5, force=True, classes=names)
    out = tmp_path / "c"
    embed(gate, out, adapt=True)
    head = read_head(gate)
    assert head.bias.size == (1 if two else 4)
    assert len(head.vectors) == len(names)
    samples = np.random.default_rng(8).integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    labels = np.random.default_rng(9).integers(0, len(names), 40)
    host = device(out)
    agrees(host, gate, samples)
    numbers = learn_from(host, samples[:40], labels, len(names))
    events = [event for i in range(40) for event in (
        Event(Kind.DECIDE), Event(Kind.REMEMBER, id=i),
        Event(Kind.LABEL, id=i, label=int(labels[i])), Event(Kind.LEARN))]  # fmt: skip
    expected = mirror(
        head, gate.info.head, gate(samples[:40]).features, [*events, Event(Kind.SHOW)], page=1
    )
    scale = np.abs(expected.heads[-1]).max()
    np.testing.assert_allclose(numbers, expected.heads[-1], atol=1e-5 * scale)
    agrees(host, with_numbers(gate, numbers), samples)


def test_a_gate_without_memory_can_learn_and_one_without_a_last_layer_says_why_not(
    gate, device, labelled, tmp_path
):
    x, y = labelled
    forgetful = Gate(with_info(gate.data, msgspec.structs.replace(gate.info, memory=None)))
    embed(forgetful, tmp_path / "c", adapt=True)
    assert "may forget" in (tmp_path / "c" / "README.md").read_text()
    before = read_head(forgetful).weight
    after = learn_from(device(tmp_path / "c"), x[:5], y[:5], len(gate.info.classes))
    assert (after[: before.size] != before).any()
    fixed = Gate(with_info(gate.data, msgspec.structs.replace(gate.info, last=None, memory=None)))
    with pytest.raises(GateError, match="does not end in a linear layer"):
        embed(fixed, tmp_path / "d", adapt=True)
    assert not (tmp_path / "d").exists()
    embed(fixed, tmp_path / "d")


def test_the_command_says_what_learning_takes(loop, dripgate, tmp_path):
    check = [] if available() else ["--check", loop / "stream.zip", "--samples", 12]
    code, out, _ = dripgate("embed", loop / "gate.onnx", "--adapt", "--out", tmp_path / "c",
                            "--json", tmp_path / "c.json", *check)  # fmt: skip
    assert code == 0
    assert "the head learns: 10 rows of" in out
    assert "10 vectors of the initial data" in out
    assert not check or "what it learns differs from NumPy's by" in out
    written = json.loads((tmp_path / "c.json").read_text())
    assert not check or 0 < written["check"]["learning"] < 1e-5
    found = written["head"]
    assert (found["rows"], found["memory"]) == (10, 10)
    assert 0 < found["bytes"] < 20_000
    readme = (tmp_path / "c" / "README.md").read_text()
    assert "dripgate_label(id, label);" in readme
    assert (tmp_path / "c" / "src" / "dripgate_adapt.h").exists()
    assert dripgate("embed", loop / "gate.onnx", "--out", tmp_path / "c")[0] == 0
    assert not (tmp_path / "c" / "src" / "dripgate_adapt.h").exists()
