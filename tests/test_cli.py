"""The command line as users meet it: what it prints, its exit codes, and one line for mistakes."""

import csv
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

from dripgate.errors import StoreError
from dripgate.store import Store
from dripgate.types import Decision, Sample


def refused(result, *words):
    """Exit code 2, and a last line that names the thing and the remedy."""
    code, _, err = result
    assert code == 2, err
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("dripgate: ")
    for word in words:
        assert word in last, last


# What is right ----------------------------------------------------------------------------------


def test_a_store_is_checked_salvaged_and_purged(dripgate, loop, tmp_path):
    path, out = tmp_path / "kept.db", tmp_path / "saved.db"
    shutil.copy(loop / "kept.db", path)
    samples = json.loads(dripgate("inspect", path, "--json", "-")[1])["info"]["samples"]
    assert dripgate("inspect", path, "--check")[:2] == (0, f"{path}: sound, {samples:,} samples\n")
    content = bytearray(path.read_bytes())
    page = content.rfind(b"\x89PNG") // 4096 * 4096
    content[page : page + 4096] = bytes(4096)
    path.write_bytes(content)
    refused(dripgate("inspect", path, "--check"), "is damaged", f"{path} --salvage OUT")
    code, text, _ = dripgate("inspect", path, "--salvage", out)
    assert (code, "whole samples" in text) == (0, True)
    assert dripgate("inspect", out, "--check")[0] == 0
    saved = json.loads(dripgate("inspect", out, "--json", "-")[1])["info"]["samples"]
    assert 0 < saved < samples
    refused(dripgate("inspect", path, "--salvage", out), "exists", "new store")

    said = json.loads(dripgate("purge", out, "--quarantined", "--json", "-")[1])
    assert said["left"] == saved - said["deleted"] < saved
    assert dripgate("purge", out)[1].startswith(f"{out}: 0 samples deleted, {said['left']:,} left")
    assert json.loads(dripgate("purge", out, "--older-than", "0s", "--json", "-")[1])["left"] == 0
    refused(dripgate("purge", out, "--older-than", "soon"), "'soon'", "30d")
    assert dripgate("purge", tmp_path / "none.db", "--everything")[0] == 2


def test_help_lists_every_command(dripgate):
    code, out, _ = dripgate("--help")
    assert code == 0
    for name in (
        "demo",
        "train",
        "fit",
        "run",
        "send",
        "receive",
        "retrain",
        "export",
        "inspect",
        "purge",
        "embed",
        "bench",
    ):
        assert f"  {name} " in out


def test_run_says_what_it_did_and_writes_the_same_as_json(dripgate, loop, tmp_path):
    code, out, _ = dripgate(
        "run", loop / "gate.onnx", loop / "stream.zip", "--store", tmp_path / "k.db",
        "--limit", "5MB", "--json", tmp_path / "run.json",
    )  # fmt: skip
    said = json.loads((tmp_path / "run.json").read_text())
    assert code == 0
    assert f"{said['summary']['kept']:,}" in out
    with Store(tmp_path / "k.db", read_only=True) as store:
        assert len(store) == said["summary"]["stored"]
        assert store.limit == 5_000_000


def test_a_text_file_among_images_is_counted_and_the_rest_decided(dripgate, loop, tmp_path, stream):
    folder = tmp_path / "incoming"
    folder.mkdir()
    for i, (_, payload) in enumerate(stream[:20]):
        (folder / f"{i}.png").write_bytes(payload)
    (folder / "note.jpg").write_text("dear diary")
    run = ("run", loop / "gate.onnx", folder, "--store", tmp_path / "k.db")
    code, out, _ = dripgate(*run)
    assert code == 0
    assert "unreadable note.jpg: not an image" in out
    summary = json.loads(dripgate(*run, "--json", "-")[1])["summary"]
    assert (summary["seen"], summary["known"], summary["stored"]) == (0, 21, 0)


def test_inspect_shows_gates_and_stores(dripgate, loop, gate):
    code, out, _ = dripgate("inspect", loop / "gate.onnx")
    assert code == 0
    assert gate.info.layer.why in out
    said = json.loads(dripgate("inspect", loop / "gate.onnx", "--json", "-")[1])
    assert said["info"]["layer"]["why"] == gate.info.layer.why
    code, out, _ = dripgate("inspect", loop / "kept.db")
    assert code == 0
    assert "keep" in out
    assert "predicted" in out


def test_run_with_a_policy_and_what_inspect_says_of_it(dripgate, loop, tmp_path):
    store = tmp_path / "k.db"
    run = ("run", loop / "gate.onnx", loop / "stream.zip", "--store", store)
    code, out, _ = dripgate(*run, "--keep", "0.1", "--audit", "0.02", "--json", tmp_path / "r.json")
    assert code == 0
    reasons = json.loads((tmp_path / "r.json").read_text())["summary"]["reasons"]
    assert {"keep: band", "drop: band", "keep: audit"} <= set(reasons)
    assert all(f"  {why} " in out for why in reasons)
    code, out, _ = dripgate("inspect", store)
    assert code == 0
    policy = json.loads(dripgate("inspect", store, "--json", "-")[1])["policy"]
    assert policy["reasons"] == reasons
    assert policy["rules"]["keep"] == 0.1
    assert policy["estimates"]["covered"] == 1
    dropped = sum(count for why, count in reasons.items() if why.startswith("drop"))
    for words in (
        "estimates ",
        "accuracy ",
        "kept by chance",
        f" {policy['classes'][0]['kept']} ",
        f"by chance it would be {100 * dropped / sum(reasons.values()):.1f} %",
    ):
        assert words in out


def test_run_without_a_policy_is_the_gate_alone(dripgate, loop, tmp_path, gate, stream):
    run = ("run", loop / "gate.onnx", loop / "stream.zip", "--store", tmp_path / "k.db")
    said = json.loads(dripgate(*run, "--json", "-")[1])["summary"]
    verdicts = gate.decide_batch([Sample(payload, name) for name, payload in stream])
    assert said["kept"] == sum(v.decision is Decision.KEEP for v in verdicts)
    assert set(said["reasons"]) <= {"keep: band", "drop: band", "quarantine: quality"}
    assert json.loads(dripgate("inspect", tmp_path / "k.db", "--json", "-")[1])["policy"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--budget", "200/year"), ("200/year", "200/h or 500MB/week")),
        (("--keep", "5"), ("keep is 5", "above 0 and up to 1", "0.3 for 30 %")),
        (("--keep", "30%"), ("'--keep'", "'30%' is no number", "0.3")),
        (("--audit", "one"), ("'--audit'", "'one' is no number")),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(dripgate, loop, tmp_path, options, words):
    run = ("run", loop / "gate.onnx", loop / "stream.zip", "--store", tmp_path / "k.db")
    refused(dripgate(*run, *options), *words)
    assert not (tmp_path / "k.db").exists()


def test_export_labels_in_a_table_and_retrain_uses_them(dripgate, trained, tmp_path):
    code, _, _ = dripgate("export", trained / "kept.db", "--out", tmp_path / "files")
    assert code == 0
    table = list(csv.DictReader((tmp_path / "files" / "samples.csv").open()))
    with Store(trained / "kept.db", read_only=True) as store:
        assert [row["id"] for row in table] == [stored.id for stored in store]
        assert all((tmp_path / "files" / row["file"]).read_bytes() == store.get(row["id"]).payload
                   for row in table)  # fmt: skip
    with (tmp_path / "labels.csv").open("w") as file:
        file.writelines(["id,label\n", *(f"{row['id']},{row['source'][0]}\n" for row in table)])
        file.write("feed,3\n")
    code, out, err = dripgate(
        "retrain", trained / "kept.db", "--data", trained / "labelled.zip",
        "--model", trained / "model.safetensors", "--labels", tmp_path / "labels.csv",
        "--out", tmp_path / "m2.safetensors", "--steps", "3", "--from-scratch",
        "--json", tmp_path / "r.json",
    )  # fmt: skip
    said = json.loads((tmp_path / "r.json").read_text())
    assert code == 0, err
    assert said["used"] > 0
    quarantined = sum(row["decision"] == "quarantine" for row in table)
    assert said["used"] + said["unlabelled"] + said["unknown"] + quarantined == len(table)
    assert said["quarantined"] == quarantined
    assert "1 labels of samples that the store does not hold: feed" in out
    # Three steps from scratch are worse: it says so, and writes nothing.
    assert not said["written"]
    assert "the new model is worse: nothing was written" in out
    assert not (tmp_path / "m2.safetensors").exists()


def test_retrain_writes_a_better_model_and_its_gate(dripgate, trained, tmp_path):
    code, out, err = dripgate(
        "retrain", trained / "kept.db", "--data", trained / "labelled.zip",
        "--model", trained / "model.safetensors", "--steps", "1",
        "--out", tmp_path / "m2.safetensors", "--gate", tmp_path / "g2.onnx", "--json", "-",
    )  # fmt: skip
    assert code == 0, err
    said = json.loads(out)
    assert said["written"] == (said["new_accuracy"] >= said["old_accuracy"])
    assert (tmp_path / "m2.safetensors").exists() == said["written"]
    assert (tmp_path / "g2.onnx").exists() == said["written"]


@pytest.mark.needs("torch")
def test_data_that_is_damaged_here_and_there(dripgate, photos, tmp_path):
    (photos / "dark" / "zz.jpg").write_text("not an image at all")
    (photos / "dark" / "zy.png").write_bytes(b"")
    code, _, err = dripgate(
        "train", photos, "--arch", "lenet", "--steps", 3,
        "--out", tmp_path / "m.safetensors", "--json", tmp_path / "t.json",
    )  # fmt: skip
    assert code == 0, err
    assert "2 files skipped" in err
    assert "zz.jpg: not an image" in err
    skipped = json.loads((tmp_path / "t.json").read_text())["skipped"]
    assert {entry["name"].split("/")[-1] for entry in skipped} == {"zz.jpg", "zy.png"}


@pytest.mark.needs("torch")
def test_audio_of_another_rate_is_resampled(dripgate, tmp_path):
    rng = np.random.default_rng(0)
    for c, tone in enumerate((400, 1800)):
        folder = tmp_path / "sounds" / "train" / f"tone{c}"
        folder.mkdir(parents=True)
        for i in range(60):
            rate = 16000 if i % 2 else 44100
            t = np.arange(rate // 2) / rate
            wave = 0.4 * np.sin(2 * np.pi * tone * t + i) + 0.02 * rng.normal(size=len(t))
            soundfile.write(folder / f"{i}.wav", wave, rate)
    code, _, err = dripgate("train", tmp_path / "sounds", "--arch", "lenet", "--steps", 30,
                            "--lr", 0.05, "--holdout", 0.5, "--out", tmp_path / "m.safetensors",
                            "--json", tmp_path / "t.json")  # fmt: skip
    assert code == 0, err
    assert json.loads((tmp_path / "t.json").read_text())["accuracy"] > 0.9
    code, _, err = dripgate("fit", tmp_path / "sounds", "--model", tmp_path / "m.safetensors",
                            "--keep", "0.5", "--out", tmp_path / "g.onnx")  # fmt: skip
    assert code == 0, err
    code, out, err = dripgate("run", tmp_path / "g.onnx", tmp_path / "sounds", "--store",
                              tmp_path / "k.db")  # fmt: skip
    assert code == 0, err
    assert "of which unreadable 0" in out


@pytest.mark.needs("torch")
def test_a_user_s_own_code(dripgate, photos, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from dripgate.training.nets import NETS

    (tmp_path / "ournet.py").write_text(
        "from dripgate.training.nets import NETS\n"
        "def make():\n    return NETS['lenet']((1, 8, 8), 2)\n"
    )
    save_file(NETS["lenet"]((1, 8, 8), 2).state_dict(), tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    code, _, err = dripgate("fit", photos, "--model", "ournet:make", "--weights", "w.safetensors",
                            "--mean", "0.5", "--std", "0.25", "--keep", "0.5",
                            "--force")  # fmt: skip
    assert code == 0, err
    assert (tmp_path / "gate.onnx").stat().st_size > 10_000


def test_a_signal_ends_the_stream_and_what_was_read_is_kept(loop, tmp_path, stream):
    folder = tmp_path / "incoming"
    folder.mkdir()
    for i, (_, payload) in enumerate(stream[:60]):
        (folder / f"{i:03d}.png").write_bytes(payload)
    process = subprocess.Popen(
        [sys.executable, "-m", "dripgate", "run", loop / "gate.onnx", folder, "--follow",
         "--store", tmp_path / "k.db", "--json", "-"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def seen():
        try:
            with Store(tmp_path / "k.db", read_only=True) as store:
                return store.counters.get("seen", 0)
        except StoreError:
            return 0

    while seen() < 60:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 0
    summary = json.loads(out)["summary"]
    assert summary["seen"] == 60
    with Store(tmp_path / "k.db") as store:
        assert len(store) == summary["stored"] > 0


# Files and stores of a run ----------------------------------------------------------------------


@pytest.fixture
def incoming(tmp_path, stream):
    folder = tmp_path / "incoming"
    folder.mkdir()
    for i, (_, payload) in enumerate(stream[:20]):
        (folder / f"{i:02d}.png").write_bytes(payload)
    return folder


def test_what_was_decided_is_said_and_not_decided_again(dripgate, loop, incoming, tmp_path):
    run = ("run", loop / "gate.onnx", incoming, "--store", tmp_path / "k.db")
    (incoming / "notes.txt").write_text("site 4")
    _, out, err = dripgate(*run)
    assert "seen                21" in out
    assert "unreadable notes.txt: not an image" in err
    _, out, err = dripgate(*run)
    assert "seen                 0" in out
    assert "known               21  files decided before by this gate and these options" in out
    assert "notes.txt" not in out + err
    assert "seen                21" in dripgate(*run, "--again")[1]


def test_the_program_s_own_files_are_no_samples(dripgate, loop, incoming):
    """Store, journal, lock, metrics, gate and JSON in the folder that is read, and kept there."""
    shutil.copy(loop / "gate.onnx", incoming)
    own = ["gate.onnx", "k.db", "k.db-lock", "m.prom", "out.json"]
    for seen in (20, 0):
        code, out, err = dripgate(
            "run", incoming / "gate.onnx", incoming, "--store", incoming / "k.db", "--processed",
            "remove", "--metrics", incoming / "m.prom", "--json", incoming / "out.json",
        )  # fmt: skip
        assert code == 0, err
        assert f"seen         {seen:>9}" in out
        assert "unreadable 0" in out
        assert "k.db: belongs to this run and is left out" in err
    assert sorted(path.name for path in incoming.iterdir()) == own


@pytest.mark.parametrize(
    "options",
    [("--batch", "-3"), ("--batch", "0"), ("--every", "-1"), ("--interval", "0"), ("--rate", "0"),
     ("--settle", "-1"), ("--time", "noon"), ("--json", "no/such/folder.json"),
     ("--settle", "nan"), ("--settle", "inf"), ("--interval", "nan"), ("--overlap", "5"),
     ("--channels", "0"), ("--patience", "0"), ("--give-up", "inf"), ("--keep", "nan"),
     ("--max-age", "0d"), ("--keep", "0.5", "--seed", "-1"), ("--keep", "0.5", "--seed", "9" * 25)],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(dripgate, loop, incoming, tmp_path, options):
    code, _, err = dripgate("run", loop / "gate.onnx", incoming, "--store", tmp_path / "k.db",
                            *options)  # fmt: skip
    assert code == 2
    assert len(err.splitlines()) == 1
    assert err.startswith("dripgate: ")
    assert not (tmp_path / "k.db").exists()


def test_options_that_mean_nothing_here_are_named(dripgate, loop, incoming, tmp_path):
    def said(*options):
        code, _, err = dripgate("run", loop / "gate.onnx", incoming, "--store", tmp_path / "k.db",
                                *options)  # fmt: skip
        assert code == 0, err
        return [line for line in err.splitlines() if "not used here" in line]

    assert said("--processed", "keep", "--time", "mtime", "--again") == []
    (line,) = said("--every", "3", "--rate", "8000", "--settle", "1", "--patience", "3", "--seed",
                   "1", "--queue", "1MB", "--device", "hive")  # fmt: skip
    for name in ("--every", "--rate", "--settle", "--patience", "--seed", "--queue", "--device"):
        assert name in line
    assert said("--keep", "0.5", "--seed", "1") == []


def test_metrics_that_cannot_be_written_stop_nothing(dripgate, loop, incoming, tmp_path):
    code, out, err = dripgate("run", loop / "gate.onnx", incoming, "--store", tmp_path / "k.db",
                              "--metrics", tmp_path / "none" / "m.prom")  # fmt: skip
    assert code == 0
    assert "seen                20" in out
    assert "m.prom: metrics cannot be written (No such file or directory)" in err


# What is wrong ----------------------------------------------------------------------------------


def test_metrics_over_http_are_for_this_machine_unless_told(dripgate, loop, tmp_path):
    command = ("run", loop / "gate.onnx", loop / "stream.zip", "--store")
    code, _, err = dripgate(*command, tmp_path / "a.db", "--metrics-listen", "0")
    assert code == 0 and "metrics: http://127.0.0.1:" in err and "warning" not in err
    code, _, err = dripgate(*command, tmp_path / "b.db", "--metrics-listen", "0.0.0.0:0")
    assert code == 0 and "warning: 0.0.0.0 is beyond this machine" in err
    code, _, err = dripgate(*command, tmp_path / "c.db", "--metrics-listen", "192.0.2.1:80")
    assert code == 2 and "nothing can listen there" in err and err.count("\n") == 1
    assert not (tmp_path / "c.db").exists()


@pytest.fixture
def fitted(dripgate, loop):
    """`dripgate fit` of a classifier on some data."""
    return lambda data, *options: dripgate(
        "fit", data, "--model", loop / "classifier.onnx", *options
    )


def test_missing_and_empty_folders_and_one_class(fitted, tmp_path, photos):
    out = ("--out", tmp_path / "m.safetensors")
    refused(fitted(tmp_path / "none", *out), "none", "no such file or folder")
    (tmp_path / "empty").mkdir()
    refused(fitted(tmp_path / "empty", *out), "empty")
    shutil.rmtree(photos / "dark")
    refused(fitted(photos, *out), "photos", "class")
    refused(fitted("no-such-set", *out), "no-such-set", "mnist")


def test_a_named_set_without_network_says_which_file_to_put_where(fitted, tmp_path, monkeypatch):
    monkeypatch.setenv("DRIPGATE_CACHE", str(tmp_path / "cache"))
    refused(fitted("plantvillage", "--out", tmp_path / "m"), "plantvillage.tar.gz",
            str(tmp_path / "cache"))  # fmt: skip


def test_nothing_but_text_files_named_jpg(fitted, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "texts" / label).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "texts" / label / f"{i}.jpg").write_text("hello")
    refused(fitted(tmp_path / "texts", "--out", tmp_path / "m"), "texts")


def test_broken_archives(fitted, tmp_path, photos):
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as archive:
        archive.add(photos, "photos")
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "fake.zip").write_text("no archive")
    for name in ("half.tar.gz", "fake.zip"):
        refused(fitted(tmp_path / name, "--out", tmp_path / "m"), name)


def test_out_where_nothing_can_be_written(fitted, photos, tmp_path):
    refused(fitted(photos, "--out", tmp_path / "no" / "m"), "its folder does not exist")
    refused(fitted(photos, "--out", tmp_path), "is a folder")


def test_models_that_are_none(dripgate, loop, tmp_path):
    data = loop / "labelled.zip"
    refused(dripgate("fit", data, "--model", tmp_path / "none"), "no such file", "dripgate train")
    refused(dripgate("fit", data, "--model", loop / "classifier.onnx", "--keep", "some"),
            "--keep is 'some'")  # fmt: skip
    refused(dripgate("fit", data, "--model", loop / "classifier.onnx", "--layer", "conv9",
                     "--out", tmp_path / "g.onnx"), "conv9")  # fmt: skip
    assert not (tmp_path / "g.onnx").exists()


@pytest.mark.needs("torch")
def test_a_safetensors_file_that_is_none(dripgate, loop, tmp_path):
    (tmp_path / "m.safetensors").write_text("hello")
    fitted = dripgate("fit", loop / "labelled.zip", "--model", tmp_path / "m.safetensors")
    refused(fitted, "not a safetensors file")


@pytest.mark.needs("torch")
def test_a_model_without_a_spatial_layer(dripgate, photos, tmp_path, monkeypatch):
    import torch
    from safetensors.torch import save_file

    (tmp_path / "flatnet.py").write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n"
    )
    save_file(
        {"1.weight": torch.randn(2, 64), "1.bias": torch.zeros(2)}, tmp_path / "w.safetensors"
    )
    monkeypatch.chdir(tmp_path)
    refused(dripgate("fit", photos, "--model", "flatnet:make", "--weights", "w.safetensors"),
            "flatnet:make", "spatial cells")  # fmt: skip


def test_gates_that_are_none(dripgate, loop, gate, tmp_path):
    run = lambda path: dripgate("run", path, loop / "stream.zip", "--store", tmp_path / "k.db")  # noqa: E731
    (tmp_path / "text.onnx").write_text("hello")
    refused(run(tmp_path / "text.onnx"), "text.onnx", "not an ONNX model")
    refused(run(tmp_path / "none.onnx"), "none.onnx", "cannot be read")
    refused(run(tmp_path), "cannot be read")
    (tmp_path / "other.onnx").write_bytes(gate.data.replace(b'{"schema":1,', b'{"schema":7,'))
    refused(run(tmp_path / "other.onnx"), "schema 7")
    classifier = onnx.load(loop / "classifier.onnx")
    classifier.opset_import.add(domain="ai.onnx.ml", version=2)  # as tf2onnx writes them
    onnx.save(classifier, tmp_path / "net.onnx")
    refused(run(tmp_path / "net.onnx"), "net.onnx", "no gate", "dripgate fit DATA --model")
    assert not (tmp_path / "k.db").exists()


def test_stores_that_are_none(dripgate, loop, tmp_path):
    (tmp_path / "text.db").write_text("my diary")
    with sqlite3.connect(tmp_path / "theirs.db") as other:
        other.execute("CREATE TABLE precious (x)")
    for name in ("text.db", "theirs.db"):
        before = (tmp_path / name).read_bytes()
        refused(dripgate("run", loop / "gate.onnx", loop / "stream.zip", "--store",
                         tmp_path / name), name)  # fmt: skip
        assert (tmp_path / name).read_bytes() == before
    refused(dripgate("inspect", tmp_path / "none.db"), "no such file")
    refused(dripgate("inspect", tmp_path), "is a folder", "gate.onnx or a store")
    refused(dripgate("run", loop / "gate.onnx", loop / "stream.zip", "--store",
                     tmp_path / "k.db", "--limit", "lots"), "lots")  # fmt: skip


def test_tables_of_labels_that_are_none(dripgate, trained, tmp_path):
    for content, *words in (
        (b"", "no column called id or label"), (b"id;label\na;b\n", "no column called id or label"),
        (b"id\na\n", "no column called label"), (b"\xff\xfeid", "not a table"),
        (b"id,label\na,1\na,2\n", "a is '1' and '2'"), (b"id,label\na\n", "not a table"),
        (b"id,label\na,1,2,3\n", "not a table"), (None, "Is a directory"),
    ):  # fmt: skip
        path = tmp_path / f"labels{len(list(tmp_path.iterdir()))}.csv"
        path.mkdir() if content is None else path.write_bytes(content)
        result = dripgate(
            "retrain", trained / "kept.db", "--data", trained / "labelled.zip",
            "--model", trained / "model.safetensors", "--out", tmp_path / "m.safetensors",
            "--labels", path,
        )  # fmt: skip
        refused(result, str(path), *words)
        assert len(result[2].splitlines()) == 1


def test_sources_that_are_none(dripgate, loop, tmp_path):
    run = lambda path: dripgate("run", loop / "gate.onnx", path, "--store", tmp_path / "k.db")  # noqa: E731
    refused(run(tmp_path / "none"), "none")
    refused(run(loop / "gate.onnx"), "not a folder or an archive")
    (tmp_path / "empty").mkdir()
    code, _, err = run(tmp_path / "empty")
    assert code == 0
    assert "empty: no file in it to decide about; --follow waits" in err


def test_export_never_overwrites(dripgate, loop, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    refused(dripgate("export", loop / "kept.db", "--out", tmp_path / "full"), "not empty")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_export_stays_in_its_folder_whatever_the_names_are(dripgate, tmp_path, stream):
    from dripgate.types import Decision, Reason, Sample, Verdict

    verdict = Verdict(decision=Decision.KEEP, reason=Reason.BAND, score=1, quality=1, predicted=0,
                      propensity=1)  # fmt: skip
    with Store(tmp_path / "k.db") as store:
        for i, label in enumerate(["../../up", "/etc", "..", "a/b"]):
            store.put(Sample(stream[i][1], f"../../{i}.p/ng"), verdict, label=label)
    code, _, err = dripgate("export", tmp_path / "k.db", "--out", tmp_path / "deep" / "out")
    assert code == 0, err
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p.parent != tmp_path]
    assert len(written) == 5
    assert all(p.is_relative_to(tmp_path / "deep" / "out") for p in written)


def test_usage_mistakes_exit_with_2(dripgate):
    refused(dripgate("run"), "GATE", "dripgate run --help")
    # The gate is what was forgotten, whatever the parser misses.
    refused(dripgate("run", "incoming", "--store", "k.db"), "dripgate run [OPTIONS] GATE SOURCE")
    refused(dripgate("nonsense\n\x1b[2J"), r"nonsense\n\x1b[2J")
    assert dripgate()[0] == 2
    assert dripgate("--help")[0] == dripgate("--version")[0] == 0


@pytest.mark.parametrize(
    "options",
    [("--steps", "-1"), ("--batch", "0"), ("--size", "0"), ("--size", "1000000"), ("--lr", "nan"),
     ("--holdout", "nan"), ("--seed", "-1"), ("--json", "no/such.json")],
)  # fmt: skip
def test_numbers_that_train_cannot_use_are_refused_before_it_reads(dripgate, photos, tmp_path,
                                                                   options):  # fmt: skip
    result = dripgate("train", photos, "--out", tmp_path / "m.safetensors", *options)
    refused(result, options[1])
    assert len(result[2].splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--keep", "7"), "--keep"), (("--keep", "nan"), "--keep"), (("--std", "nan"), "--std"),
     (("--size", "0"), "--size"), (("--size", "64"), "leave --size out"),
     (("--curve", "no/such.svg"), "no/such.svg")],
)  # fmt: skip
def test_what_fit_cannot_use_is_refused_before_it_decodes(dripgate, loop, tmp_path, options,
                                                          words):  # fmt: skip
    result = dripgate("fit", loop / "labelled.zip", "--model", loop / "classifier.onnx",
                      "--out", tmp_path / "g.onnx", *options)  # fmt: skip
    refused(result, words)
    assert len(result[2].splitlines()) == 1
    assert not (tmp_path / "g.onnx").exists()


def test_an_error_that_nobody_thought_of_is_one_line(dripgate, monkeypatch, tmp_path):
    """What names from outside can make of it: no forged lines, no end of it, no traceback."""
    from dripgate.cli import inspect

    def fail(path):
        raise RuntimeError("\x1b[2J\n" + "x" * 10**6)

    (tmp_path / "g.onnx").write_bytes(b"x")
    monkeypatch.setattr(inspect.Gate, "load", fail)
    code, out, err = dripgate("inspect", tmp_path / "g.onnx")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert len(err) < 5000
    assert "DRIPGATE_TRACEBACK=1" in err
    assert "\x1b" not in err


def test_a_result_never_takes_the_place_of_a_device_a_pipe_or_a_link(dripgate, loop, tmp_path):
    """As root a file could be put in the place of /dev/null."""
    pipe, link, real = tmp_path / "pipe", tmp_path / "link.json", tmp_path / "real.json"
    os.mkfifo(pipe)
    link.symlink_to(real)
    show = ("inspect", loop / "gate.onnx", "--json")
    refused(dripgate(*show, pipe), str(pipe))
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert dripgate(*show, pipe)[0] == 0
    assert os.read(reader, 1 << 20).startswith(b"{")
    os.close(reader)
    assert pipe.is_fifo()
    assert dripgate(*show, link)[0] == 0
    assert link.is_symlink()
    assert json.loads(real.read_text())["path"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "pipe", "real.json"]
    assert dripgate(*show, "/dev/null")[0] == 0
    assert Path("/dev/null").is_char_device()


def test_a_gate_is_no_model(dripgate, loop, tmp_path):
    result = dripgate("fit", loop / "labelled.zip", "--model", loop / "gate.onnx",
                      "--out", tmp_path / "g.onnx")  # fmt: skip
    refused(result, "is a gate already")


@pytest.mark.needs("emx-onnx-cgen")
def test_embed_asks_for_the_emulator_before_it_writes(dripgate, loop, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = dripgate(
        "embed", loop / "gate.onnx", "--out", tmp_path / "c", "--check", loop / "labelled.zip"
    )
    assert (code, out) == (2, "")
    assert "qemu-system-arm: not installed" in err and err.count("\n") == 1
    assert not (tmp_path / "c").exists()


@pytest.mark.needs("torch")
def test_the_demo_refuses_what_it_cannot_split(dripgate, tmp_path, png):
    with zipfile.ZipFile(tmp_path / "tiny.zip", "w") as archive:
        for i in range(2):
            archive.writestr(f"c{i}/x.png", png(i))
    refused(dripgate("demo", "--data", tmp_path / "tiny.zip", "--out", tmp_path / "o"), "too few")
    refused(dripgate("demo", "--data", tmp_path / "tiny.zip", "--days", "2"), "--days", "--seed")


def test_the_demo_refuses_what_it_cannot_use(dripgate, tmp_path):
    (tmp_path / "file").write_text("x")
    refused(dripgate("demo", "--out", tmp_path / "file" / "o"), "cannot be made a folder")
    refused(dripgate("demo", "--steps", "3", "--out", tmp_path), "--steps is for --data")
    refused(dripgate("demo", "--days", "11", "--out", tmp_path), "'--days'")
