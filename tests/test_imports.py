"""A device has no torch: what is imported, seen from a fresh interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dripgate
from dripgate.types import Sample

#: Put before a script: an interpreter in which what only the extras bring is not installed.
BASE_ONLY = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        extras = "torch onnx onnxscript safetensors sklearn scipy jinja2 paho cv2 emx_onnx_cgen"
        extras += " matplotlib skactiveml starlette uvicorn cryptography"
        if name.partition(".")[0] in extras.split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""

#: The same with one package away.
ONE_ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "{}":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""

LOOP = """
import dripgate

gate = dripgate.Gate.load(sys.argv[1])
verdicts = []
with dripgate.Store(sys.argv[3], limit="5MB") as store:
    for sample in dripgate.watch(sys.argv[2]):
        verdict = gate.decide(sample)
        verdicts.append(verdict.decision)
        if verdict.stored:
            store.put(sample, verdict)
    ids = sorted(stored.id for stored in store)
print(json.dumps({"verdicts": verdicts, "ids": ids}))
"""


def fresh(code, *arguments):
    """Run code in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_dripgate_loads_neither_torch_nor_onnxruntime():
    done = fresh("import sys, dripgate; print(*sys.modules)")
    assert "dripgate" in done.stdout.split()
    assert not {"torch", "onnxruntime", "numpy"} & set(done.stdout.split())


def test_onnxruntime_is_told_to_send_nothing_before_it_is_loaded():
    """It would tell its maker of every session; tests/archive/test_gs.py saw it through a proxy."""
    code = """
import os, sys
import dripgate
assert "onnxruntime" not in sys.modules
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    for given, expected in ((env, "1"), (env | {"ORT_DISABLE_TELEMETRY": "0"}, "0")):
        done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True,
                              text=True, check=True)  # fmt: skip
        assert done.stdout.strip() == expected


def test_a_gate_that_is_given_arrays_loads_no_decoder(loop):
    code = """
import sys, dripgate, numpy
gate = dripgate.Gate.load(sys.argv[1])
print(gate.decide(numpy.zeros(gate.info.input.shape, numpy.uint8)).decision, *sys.modules)
"""
    decision, *modules = fresh(code, loop / "gate.onnx").stdout.split()
    assert decision in {"keep", "drop", "quarantine"}
    assert "onnxruntime" in modules
    assert not {"torch", "PIL", "soundfile", "onnx"} & set(modules)


def test_a_base_install_loads_decides_and_fills_a_store(loop, tmp_path, gate, stream):
    done = fresh(BASE_ONLY + LOOP, loop / "gate.onnx", loop / "stream.zip", tmp_path / "kept.db")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    samples = [Sample(payload, name) for name, payload in stream]
    worth = zip(samples, gate.decide_batch(samples), strict=True)
    assert found["ids"] == sorted(sample.id for sample, verdict in worth if verdict.stored)
    assert {"keep", "drop"} <= set(found["verdicts"])


def test_the_device_s_commands_do_not_need_the_extras(loop, tmp_path):
    def command(*arguments):
        return fresh(BASE_ONLY + "from dripgate.cli import main; main()", *arguments)

    ran = command("run", loop / "gate.onnx", loop / "stream.zip", "--store", tmp_path / "k.db")
    assert ran.returncode == 0, ran.stderr
    assert "storage saved" in ran.stdout
    assert command("inspect", tmp_path / "k.db").returncode == 0
    assert command("export", tmp_path / "k.db", "--out", tmp_path / "out").returncode == 0
    train = command("train", loop / "labelled.zip", "--out", tmp_path / "m.safetensors")
    assert train.returncode == 2
    assert train.stderr.endswith("run: pip install 'dripgate[train]'\n")
    send = command("send", tmp_path / "k.db", "--to", "mqtt://localhost/farm")
    assert send.returncode == 2
    assert send.stderr.endswith("run: pip install 'dripgate[mqtt]'\n")
    activate = command("activate", loop / "gate.onnx", "--trust", "x", "--store", tmp_path / "k.db")
    assert activate.returncode == 2
    assert activate.stderr.endswith("run: pip install 'dripgate[release]'\n")
    film = command("run", loop / "gate.onnx", "camera:0", "--store", tmp_path / "k.db")
    assert film.returncode == 2
    assert film.stderr.endswith("run: pip install 'dripgate[camera]'\n")


def test_an_extra_that_is_needed_at_the_end_is_asked_for_before_the_work(loop, tmp_path):
    """Only the named packages are away; the work would need others too, and read data first."""
    model, data = loop / "model.safetensors", loop / "labelled.zip"
    cases = (
        ("matplotlib", "report", ["fit", data, "--model", model, "--curve", "c.svg"]),
        ("onnxscript", "train", ["train", data, "--out", "m.safetensors", "--onnx", "m.onnx"]),
        ("onnxscript", "train", ["retrain", "k.db", "--data", data, "--model", model,
                                 "--out", "m2.safetensors", "--gate", "g.onnx"]),
        ("matplotlib", "bench", ["bench", "digits", "--out", "rows"]),
        ("cv2", "camera", ["run", loop / "gate.onnx", "camera:0", "--store", "k.db"]),
        ("cv2", "camera", ["run", loop / "gate.onnx", "rtsp://host/a", "--store", "k.db"]),
        ("sounddevice", "mic", ["run", loop / "gate.onnx", "mic:", "--store", "k.db"]),
        ("paho", "mqtt", ["run", loop / "gate.onnx", data, "--store", "k.db",
                          "--uplink", "mqtt://localhost/farm"]),
        ("paho", "mqtt", ["run", loop / "gate.onnx", "mqtt://localhost/x", "--store", "k.db"]),
    )  # fmt: skip
    for package, extra, command in cases:
        code = ONE_ABSENT.format(package) + "from dripgate.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, command)],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 2, (command, done.stderr)
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.endswith(f"run: pip install 'dripgate[{extra}]'\n"), done.stderr
        assert list(tmp_path.iterdir()) == [], command


def test_no_public_name_is_hidden_by_a_part_of_the_same_name():
    """Importing a submodule binds its name here, in place of the function's."""
    parts = {path.stem for path in Path(dripgate.__file__).parent.iterdir()}
    assert not parts & set(dripgate.__all__)


def test_what_a_device_imports_loads_neither_onnx_nor_torch():
    modules = "gate policy store stream.loop stream.sources data media cli report.words"
    names = ", ".join(f"dripgate.{name}" for name in modules.split())
    loaded = set(fresh(f"import sys, {names}; print(*sys.modules)").stdout.split())
    assert "dripgate.store" in loaded
    assert not {"torch", "onnx", "onnx_ir", "onnxscript", "safetensors"} & loaded


ADAPT = """
import dripgate
from dripgate.cli import main

gate, store, out = sys.argv[1:]
adapted = dripgate.adapt(gate, store)
sys.argv = ["dripgate", "adapt", gate, store, "--out", out]
try:
    main()
except SystemExit as stopped:
    code = stopped.code or 0
loaded = [name for name in ("torch", "onnx", "onnx_ir", "scipy") if name in sys.modules]
print(json.dumps({"better": adapted.outcome.better, "code": code, "loaded": loaded}))
"""


def test_the_head_learns_with_the_base_install(loop, tmp_path):
    done = fresh(BASE_ONLY + ADAPT, loop / "gate.onnx", loop / "kept.db", tmp_path / "gate2.onnx")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["code"], said["loaded"]) == (0, [])
    assert said["better"] == (tmp_path / "gate2.onnx").is_file()
