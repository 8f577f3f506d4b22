"""Every command and every line of Python in the README, run as a reader would run them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest

from dripgate.gate import Gate

README = Path(__file__).parents[1] / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def gate(trained):
    return Gate.load(trained / "gate.onnx")


@pytest.fixture
def desk(trained, tmp_path, monkeypatch):
    """A working directory with what the README's readers have."""
    for name in ("gate.onnx", "labelled.zip", "stream.zip", "model.safetensors"):
        shutil.copy(trained / name, tmp_path)
    with zipfile.ZipFile(trained / "stream.zip") as archive:
        archive.extractall(tmp_path / "incoming")
        sample = archive.namelist()[0]
        (tmp_path / "sample.png").write_bytes(archive.read(sample))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shape(output):
    """What is said, without the numbers and reasons, which are not the same on every machine."""
    lines = {re.sub(r"[\d.,]+", "#", line).split(" #")[0].strip() for line in output.splitlines()}
    return {
        line for line in lines if ": " not in line and not line.startswith(("DRIFT", "outside"))
    }


def looked_at(command, folder, env):
    """The command prints an address, and there is the page."""
    process = subprocess.Popen(
        [*command, "--port", "0"], cwd=folder, env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        with urllib.request.urlopen(process.stdout.readline().strip(), timeout=60) as page:
            assert b"dripgate review" in page.read()
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 0


@pytest.mark.needs("torch")
def test_commands(tmp_path):
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("dripgate")]
    assert len(commands) >= 7
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in commands:
        if command[1] == "review":  # it answers until it is told to end
            looked_at(command, tmp_path, env)
            continue
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        if command[1:] == ["inspect", "budget.db"]:
            shown = done.stdout
    assert shape(blocks("text")[0]) <= shape(shown)
    for reason in ("keep: band", "keep: audit", "drop: band"):
        assert f"  {reason} " in blocks("text")[0]
        assert f"  {reason} " in shown
    made = {path.name for path in tmp_path.iterdir()}
    assert {"demo.json", "gate.onnx", "tradeoff.svg", "kept.db", "to-label"} <= made
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000


def test_make_targets_exist():
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    targets = {line.split()[1] for block in blocks("bash") for line in block.splitlines()
               if line.startswith("make ")}  # fmt: skip
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_python_on_the_device_and_on_the_workstation(desk):
    from dripgate.data import load
    from dripgate.store import Store
    from dripgate.training.classifier import load_classifier

    device, workstation = blocks("python")[:2]
    scope = {}
    exec(device, scope)
    with Store("kept.db", read_only=True) as store:
        kept = len(store)
    assert 0 < kept < len(list((desk / "incoming").rglob("*.png")))
    classifier = load_classifier("model.safetensors")
    assert load("labelled.zip").input == classifier.info.input
    Path("net.onnx").write_bytes(classifier.exported().file())
    exec(workstation, scope)
    assert Path("gate.onnx").stat().st_size > 10_000


def test_ten_lines_of_plain_onnxruntime_give_the_same_verdict(desk, gate):
    code = blocks("python")[2]
    assert "dripgate" not in code
    assert len(code.strip().splitlines()) == 10
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=desk
    )
    from dripgate.types import Sample

    verdict = gate.decide(Sample((desk / "sample.png").read_bytes()))
    assert done.stdout.split()[:2] == [verdict.decision, str(verdict.predicted)], done.stderr


def test_the_field_cases_of_the_documents_are_one_table_and_each_has_its_test():
    tests = README.parent / "tests"
    text = (README.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d) [^|]", text, re.MULTILINE)
    assert len(rows) == len(set(rows)) == 36
    for row in re.findall(r"^\| \d\d [^|].*$", text, re.MULTILINE):
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (tests / file).read_text(encoding="utf-8"), test
