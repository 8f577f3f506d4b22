"""Every format goes out and comes back, read by the real tool where one can be installed."""

import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dripgate.errors import DataError
from dripgate.export import FORMATS, parse_labels, read_labels
from dripgate.store import BROKEN, Labels, Store
from dripgate.types import Decision, Reason, Sample, Verdict

LABELS = ("cat", "a dog", None, "Ünïcode/slash", "=1+1", BROKEN, "../up", "CON", "a,b\"c'")


def verdict(n):
    return Verdict(
        decision=Decision.QUARANTINE if n == 12 else Decision.KEEP, reason=Reason.BAND,
        score=float("nan") if n == 4 else n / 10, quality=0.5, predicted=n % 3 - 1,
        propensity=0.25 if n % 5 == 0 else 1.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, gate):
    """27 pictures; every label three times."""
    path = tmp_path_factory.mktemp("made") / "kept.db"
    with Store(path) as store:
        store.set_meta("gate", gate.info.to_json())
        for n in range(27):
            pixels = np.random.default_rng(n).integers(0, 256, (8, 8), np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            sample = Sample(file.getvalue(), source=f"in/<{n}>.png", time=1000.0 + n)
            store.put(sample, verdict(n), label=LABELS[n % len(LABELS)])
    return path


@pytest.fixture
def kept(made, tmp_path):
    return shutil.copy(made, tmp_path / "kept.db")


def labels(path):
    with Store(path, read_only=True) as store:
        return {one.id: one.label for one in store}


def samples(path):
    with Store(path, read_only=True) as store:
        return list(store)


def export(path, kind, out):
    with Store(path, read_only=True) as store:
        return FORMATS[kind](store, out)


def cli(*arguments):
    command = [sys.executable, "-m", "dripgate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_goes_out_comes_back(kind, kept, tmp_path):
    done = cli("export", kept, "--format", kind, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    before = labels(kept)
    with Labels(kept) as desk:
        desk.relabel(dict.fromkeys(before))
    back = tmp_path / "out" / "samples.csv" if kind == "csv" else tmp_path / "out"
    dry = cli("label", kept, back, "--dry-run")
    assert "would be labelled" in dry.stdout
    assert set(labels(kept).values()) == {None}
    done = cli("label", kept, back)
    assert done.returncode == 0, done.stderr
    assert labels(kept) == before
    assert cli("label", kept, "--undo").returncode == 0
    assert set(labels(kept).values()) == {None}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_store_gives_the_same_bytes(kind, made, tmp_path):
    hashes = []
    for name in ("one", "two"):
        export(made, kind, tmp_path / name / "out")
        hashes.append({
            file.relative_to(tmp_path / name): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in (tmp_path / name).rglob("*") if file.is_file()
        })  # fmt: skip
    assert hashes[0] == hashes[1]


def test_label_studio_tasks_have_predictions_annotations_and_an_interface(made, tmp_path):
    export(made, "labelstudio", tmp_path / "out")
    tasks = json.loads((tmp_path / "out" / "tasks-00000.json").read_text())
    by_id = {one.id: one for one in samples(made)}
    choices = [c.get("value") for c in ET.parse(tmp_path / "out" / "config.xml").iter("Choice")]
    for task in tasks:
        stored = by_id[task["data"]["dripgate_id"]]
        file = tmp_path / task["data"]["image"].partition("?d=")[2]
        assert file.read_bytes() == stored.payload
        assert task["data"]["propensity"] == stored.propensity
        if stored.predicted >= 0:
            (result,) = task["predictions"][0]["result"]
            assert (result["from_name"], result["to_name"]) == ("label", "sample")
            assert result["value"]["choices"] == [str(stored.predicted)]
        if stored.label is not None:
            (given,) = task["annotations"][0]["result"][0]["value"]["choices"]
            assert given == stored.label
            assert given in choices
        assert ("annotations" in task) == (stored.label is not None)


def exported_by_label_studio(tasks, kind):
    """As Label Studio 1.23 writes what it was given: its own numbers in ``id``."""
    if kind == "JSON":
        cancelled = {"was_cancelled": True, "result": [choice("wrong")]}
        given = [{"result": [choice(f"class {n % 2}")]} for n in range(len(tasks))]
        return json.dumps([{"id": n, "data": task["data"], "annotations": [cancelled, given[n]]}
                           for n, task in enumerate(tasks)])  # fmt: skip
    rows = [task["data"] | {"id": n, "label": f"class {n % 2}", "annotator": 1}
            for n, task in enumerate(tasks)]  # fmt: skip
    if kind == "JSON_MIN":
        return json.dumps(rows)
    file = io.StringIO()
    table = csv.DictWriter(file, rows[0])
    table.writeheader()
    table.writerows(rows)
    return file.getvalue()


def choice(label):
    return {"type": "choices", "value": {"choices": [label]}}


@pytest.mark.parametrize("kind", ["JSON", "JSON_MIN", "CSV"])
def test_label_studios_exports_come_back(kind, kept, tmp_path):
    export(kept, "labelstudio", tmp_path / "out")
    tasks = json.loads((tmp_path / "out" / "tasks-00000.json").read_text())
    file = tmp_path / ("back.csv" if kind == "CSV" else "back.json")
    file.write_text(exported_by_label_studio(tasks, kind))
    done = cli("label", kept, file)
    assert done.returncode == 0, done.stderr
    expected = {task["data"]["dripgate_id"]: f"class {n % 2}" for n, task in enumerate(tasks)}
    assert labels(kept) == expected


def test_hugging_face_metadata_names_each_file(made, tmp_path):
    export(made, "hf", tmp_path / "out")
    lines = (tmp_path / "out" / "train" / "metadata.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["id"]: row["label"] for row in rows} == labels(made)
    for row in rows:
        data = (tmp_path / "out" / "train" / row["file_name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["id"]
    assert any(row["score"] is None for row in rows)


def test_webdataset_reads_the_shards(made, tmp_path):
    import webdataset

    with Store(made, read_only=True) as store:
        FORMATS["webdataset"](store, tmp_path / "out", samples=10)
    shards = sorted(str(path) for path in (tmp_path / "out").iterdir())
    assert [re.sub(r".*/", "", shard) for shard in shards] == [
        "shard-000000.tar", "shard-000001.tar", "shard-000002.tar"
    ]  # fmt: skip
    found = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert {one["__key__"]: one["json"]["label"] for one in found} == labels(made)
    assert all(one["png"].size == (8, 8) for one in found)


def test_fiftyone_format(made, tmp_path):
    export(made, "fiftyone", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert set(found) == {"classes", "labels"}
    given = {id: None if n is None else found["classes"][n] for id, n in found["labels"].items()}
    assert given == labels(made)
    files = {path.stem for path in (tmp_path / "out" / "data").iterdir()}
    assert files == set(given)
    guesses = json.loads((tmp_path / "out" / "predictions.json").read_text())["labels"]
    for stored in samples(made):
        guess = guesses[stored.id]
        assert guess["attributes"]["propensity"] == stored.propensity
        assert guess["label"] == (str(stored.predicted) if stored.predicted >= 0 else None)


def test_edge_impulse_format(made, tmp_path):
    export(made, "edgeimpulse", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "info.labels").read_text())
    assert found["version"] == 1
    for entry in found["files"]:
        assert set(entry) == {"path", "name", "category", "label", "metadata"}
        assert entry["category"] == "training"
        assert (tmp_path / "out" / entry["path"]).is_file()
        assert entry["label"]["type"] in ("label", "unlabeled")
        assert ("label" in entry["label"]) == (entry["label"]["type"] == "label")
        assert all(isinstance(value, str) for value in entry["metadata"].values())


def test_a_moved_about_folder_is_known_by_its_bytes(kept, tmp_path):
    export(kept, "imagefolder", tmp_path / "out")
    files = sorted(path for path in (tmp_path / "out").rglob("*.png"))
    new = tmp_path / "sorted" / "zebra" / "deeper"
    new.mkdir(parents=True)
    for number, file in enumerate(files):
        shutil.copy(file, new / f"renamed {number}.png")
    (new / "stranger.png").write_bytes(b"not of this store")
    done = cli("label", kept, tmp_path / "sorted", "--json", tmp_path / "done.json")
    assert done.returncode == 0, done.stderr
    assert set(labels(kept).values()) == {"zebra"}
    stranger = hashlib.sha256(b"not of this store").hexdigest()
    assert json.loads((tmp_path / "done.json").read_text())["missing"] == [stranger]
    assert stranger in done.stdout
    assert "→ 'zebra'" in done.stdout


def test_what_is_said_of_unknown_double_and_nameless_entries(kept, tmp_path):
    one, two = list(labels(kept))[:2]
    file = tmp_path / "labels.csv"
    file.write_text(f"id,label\n{one},x\n{one},y\n{two},\n{'ab' * 32},z\nnobody,z\n")
    done = cli("label", kept, file)
    assert done.returncode == 0
    assert labels(kept)[one] == "y"
    assert labels(kept)[two] == "a dog"
    for said in ("1 entries without a label", "1 ids are not in the store", "ab" * 32,
                 "1 entries name no sample", "--format csv' writes a table with the ids",
                 f"take this back: dripgate label {kept} --undo",
                 "1 samples have two labels"):  # fmt: skip
        assert said in done.stdout, said


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", "{", "damaged"),
        ("x.json", "[1, 2]", "damaged"),
        ("x.csv", "a,b\n1,2\n", "no column 'label'"),
        ("x.jsonl", "{}\nnot json\n", "damaged"),
        ("x.tar", "not a tar", "damaged"),
        ("x.txt", "?", "cannot be read from it"),
        ("info.labels", '{"files": 3}', "damaged"),
        ("labels.json", '{"labels": []}', "damaged"),
        ("x.json", '[{"label": {"choices": {"a": 1}}}]', "damaged"),
        ("x.json", '{"a":' * 100_000, "damaged"),
        ("x.json", '[{"label": ' + "9" * 5000 + "}]", "damaged"),
    ],
)
def test_what_is_no_table_of_labels_is_refused(name, text, message, tmp_path, made):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / name)
    done = cli("label", made, tmp_path / name)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_message_may_say_what_a_file_may():
    one, two = "ab" * 32, "cd" * 32
    for text in (
        f"id,label\n{one},x\n{two},y\n",
        f'[{{"id": "{one}", "label": "x"}}, {{"id": "{two}", "label": "y"}}]',
        f'{{"id": "{one}", "label": "x"}}\n{{"id": "{two}", "label": "y"}}\n',
        f'{{"labels": {{\n"{one}": {{"label": "x"}},\n"{two}": {{"label": "y"}}}}}}',
    ):
        assert parse_labels(text.encode()).labels == {one: "x", two: "y"}, text


@given(st.binary(max_size=200) | st.sampled_from([b"[[]]", b'{"files":[{}]}', b"[1]", b'"label"']))
def test_a_message_of_anything_is_labels_or_refused(data):
    try:
        assert all(len(id) == 64 for id in parse_labels(data).labels)
    except DataError as error:
        assert "\n" not in str(error)


def test_a_large_store_is_exported_in_little_memory(tmp_path):
    path = tmp_path / "kept.db"
    block = np.random.default_rng(0).bytes(1_000_000)
    with Store(path) as store:
        for n in range(120):
            store.put(Sample(block + n.to_bytes(2, "big")), verdict(n))
    code = """
import resource, sys
from pathlib import Path
from dripgate.export import FORMATS
from dripgate.store import Store
with Store(sys.argv[1], read_only=True) as store:
    FORMATS["csv"](store, Path(sys.argv[2], "csv"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind in FORMATS:
        if kind != "csv":
            FORMATS[kind](store, Path(sys.argv[2], kind))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path)], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert int(done.stdout) < 40_000  # kB, of 120 MB
    with tarfile.open(tmp_path / "webdataset" / "shard-000000.tar") as shard:
        assert len(shard.getnames()) == 240
