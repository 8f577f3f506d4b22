"""Every command and every line of Python of the how-to and explanation pages."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import made
import onnx
import pages
import pytest

import dripgate
from dripgate.store import Store
from dripgate.types import Decision
from needs import need


@pytest.fixture
def desk(loop, tmp_path, monkeypatch, commands):
    """A folder with a gate, a stream and a store; gives what runs a page's commands there."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(loop / "gate.onnx", ".")
    with zipfile.ZipFile(loop / "stream.zip") as archive:
        archive.extractall("incoming")
    with Store("kept.db") as store:
        dripgate.run(dripgate.Gate.load("gate.onnx"), dripgate.watch("incoming"), store)
        store.set_labels({sample.id: "3" for sample in list(store.samples())[:5]})

    def run(name):
        for block in pages.blocks(pages.DOCS / name, "bash"):
            commands(block)

    return run


def python(name):
    return pages.blocks(pages.DOCS / name, "python")


def test_review(desk):
    desk("review.md")
    assert any(Path("to-label").iterdir())


def test_models(desk):
    made.pictures("labelled", made.CLASSES, each=20)
    onnx.save(made.colours(64), "net.onnx")
    desk("models.md")


def test_the_store(desk):
    desk("store.md")
    sample = dripgate.Sample(b"bytes as they came")
    with Store("kept.db", read_only=True) as store:
        verdict = next(store.samples()).verdict
    exec(python("store.md")[0], {"dripgate": dripgate, "Decision": Decision,
                                 "sample": sample, "verdict": verdict})  # fmt: skip
    with Store("new.db", read_only=True) as salvaged:
        assert len(salvaged) > 5


def test_the_policy(desk):
    Path("kept.db").unlink()
    desk("policy.md")
    gate = dripgate.Gate.load("gate.onnx")
    samples = list(dripgate.watch("incoming"))
    with Store("again.db") as store:
        scope = {"gate": gate, "samples": samples, "store": store, "batch": samples[:8]}
        exec(python("policy.md")[0], scope)
    assert [verdict.propensity for verdict in scope["verdicts"]]


def test_a_release(desk, loop, commands, tmp_path, monkeypatch):
    need("openssl", "SoftHSM")
    other = dripgate.fit(loop / "classifier.onnx", loop / "labelled.zip", keep=0.3)
    other.save("gate.onnx")
    make_keys, *_ = pages.blocks(pages.DOCS / "release.md", "bash")[0].splitlines()
    subprocess.run(make_keys, shell=True, check=True, capture_output=True)
    Path("tokens").mkdir()
    Path("softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    for line in (
        "openssl ecparam -name prime256v1 -genkey -noout -out ec.key",
        "openssl pkcs8 -topk8 -nocrypt -in ec.key -out token.p8",
        "softhsm2-util --init-token --free --label fleet --pin 1234 --so-pin 8765",
        "softhsm2-util --import token.p8 --token fleet --label release --id 01 --pin 1234",
    ):
        subprocess.run(line.split(), check=True, capture_output=True)
    back = 'dripgate rollback --store kept.db --why "it looks odd"'
    commands.instead[back] = lambda: None  # tests/release runs it; here nothing was taken up
    files, token = pages.blocks(pages.DOCS / "release.md", "bash")
    commands(files)
    monkeypatch.setenv("DRIPGATE_KEY_PASSWORD", "1234")
    commands(token)
    assert Path("gate-17.release").exists()
    assert Path("gate-18.release").exists()


def test_embed(desk):
    need("emx-onnx-cgen")
    desk("embed.md")
    assert Path("firmware-dripgate/src/dripgate.h").exists()


def test_the_gate_file(desk):
    """Ten lines of plain onnxruntime give the same verdict."""
    (code,) = python("reference/gate.md")
    assert "dripgate" not in code
    picture = next(Path("incoming").rglob("*.png"))
    shutil.copy(picture, "sample.png")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    verdict = dripgate.Gate.load("gate.onnx").decide(dripgate.Sample(picture.read_bytes()))
    assert done.stdout.split()[:2] == [verdict.decision, str(verdict.predicted)], done.stderr


def test_commands_that_take_hours_are_parsed_and_the_rest_is_listed(commands):
    for name in ("benchmark.md", "index.md"):
        for block in pages.blocks(pages.DOCS / name, "bash"):
            commands(block)
    with pytest.raises(click.UsageError):
        pages.parsed(["bench", "digits", "--outt", "x"])
