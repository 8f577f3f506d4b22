"""What is kept, as files: named after what they are, and whole or not there."""

import csv
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dripgate.errors import UserError
from dripgate.export import imagefolder
from dripgate.export.names import Folders
from dripgate.store import Store
from dripgate.text import cell, from_cell, one_line, plain_json
from dripgate.types import Decision, Reason, Sample, Verdict

KEEP = Verdict(decision=Decision.KEEP, reason=Reason.BAND, score=1, quality=1, predicted=0,
               propensity=1)  # fmt: skip
ASIDE = Verdict(decision=Decision.QUARANTINE, reason=Reason.QUALITY, score=1, quality=1,
                predicted=0, propensity=1)  # fmt: skip


def command(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "dripgate", *map(str, arguments)],
                          capture_output=True, text=True, check=False, **options)  # fmt: skip


def exported(path, out):
    with Store(path, read_only=True) as store:
        return imagefolder(store, out)


def table(out):
    with (out / "samples.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def filled(path, labels):
    """A store with a sample for each label; None is none."""
    with Store(path) as store:
        for n, label in enumerate(labels):
            store.put(Sample(b"\x89PNG\r\n\x1a\n %d" % n, f"{n}.png"), KEEP, label=label)
    return path


@pytest.mark.parametrize(
    ("payload", "suffix"),
    [
        (b"\xff\xd8\xff\xe0 jpeg", ".jpg"), (b"\x89PNG\r\n\x1a\n", ".png"), (b"GIF89a", ".gif"),
        (b"BM....", ".bmp"), (b"RIFF\0\0\0\0WEBPVP8 ", ".webp"), (b"II*\0", ".tif"),
        (b"P6 1 1", ".ppm"), (b"RIFF\0\0\0\0WAVEfmt ", ".wav"), (b"fLaC", ".flac"),
        (b"OggS", ".ogg"), (b"FORM\0\0\0\0AIFF", ".aiff"), (b"ID3", ".mp3"),
        (b"\x93NUMPY", ".npy"), (b"\0\0\0\x18ftypheic", ".heic"), (b"anything", ".bin"),
    ],
)  # fmt: skip
def test_the_ending_is_that_of_the_bytes_whatever_the_source_is_called(tmp_path, payload, suffix):
    with Store(tmp_path / "k.db") as store:
        store.put(Sample(payload, "camera:film.avi@1.000s"), KEEP)
        store.put(Sample(payload + b"2", "x.exe"), ASIDE)
    assert exported(tmp_path / "k.db", tmp_path / "out").samples == 2
    assert [path.suffix for path in (tmp_path / "out").rglob("*/*")] == [suffix, suffix]


LABELS = [
    "ripe?", "ripe!", "ripe:", "Cat", "cat", "CAT", "CON", "con.txt", "nul", "a.", "a", "a ", " a",
    "quarantine", "Quarantine", "unlabelled", "samples.csv", "SAMPLES.CSV", "x" * 256, "x" * 255,
    "ü" * 200, "u\u0308", "ü", "..", ".", "/", "\\", "../../up", "/etc/passwd", "a/b", "a\\b",
    "-rf",
    "~", "new\nline", "new_line", "\x1b[2J", "\u202eexe", "=1+1", "ﬁ", "fi", "ß", "ss",
    "~root", "$x",
    "_", "__", "*", "日本", ".git", "git",
]  # fmt: skip


def test_labels_that_differ_are_different_folders_on_every_disk(tmp_path):
    filled(tmp_path / "k.db", [*LABELS, None])
    with Store(tmp_path / "k.db") as store:
        store.put(Sample(b"\x89PNG\r\n\x1a\n aside"), ASIDE, label="Cat")
    done = exported(tmp_path / "k.db", tmp_path / "out")
    rows = table(tmp_path / "out")
    by_label = {}
    for row in rows:
        folder, _, name = row["file"].removeprefix("'").partition("/")
        assert (tmp_path / "out" / folder / name).is_file()
        if row["decision"] == "keep":
            by_label[row["label"]] = folder
    assert len(rows) == len(LABELS) + 2
    assert len(set(by_label.values())) == len(LABELS) + 1
    same = {unicodedata.normalize("NFKC", f.casefold()).rstrip(". ") for f in by_label.values()}
    assert len(same) == len(LABELS) + 1
    assert by_label[""] == "unlabelled"
    assert (by_label["Cat"], by_label["日本"], by_label["ripe!"]) == ("Cat", "日本", "ripe!")
    assert all(len(folder.encode()) <= 143 and folder.isprintable() for folder in by_label.values())
    assert not any(f.lower() in ("con", "nul", "con.txt") for f in by_label.values())
    assert done.renamed["quarantine"] == by_label["quarantine"] != "quarantine"
    assert {p.name for p in tmp_path.iterdir()} == {"k.db", "k.db-lock", "out"}


@given(st.lists(st.text(max_size=300), unique=True, max_size=30))
def test_no_two_labels_share_a_folder(labels):
    folders = Folders("quarantine", "unlabelled", "samples.csv")
    names = [folders.of(label) for label in labels]
    assert len({name.casefold() for name in names}) == len(labels)
    assert [folders.of(label) for label in labels] == names
    for name in names:
        assert name.isprintable()
        assert "/" not in name
        assert name not in ("", ".", "..", "quarantine", "unlabelled", "samples.csv")


def test_a_person_s_label_goes_before_the_gate_s_doubt(tmp_path):
    with Store(tmp_path / "k.db") as store:
        for n, (verdict, label) in enumerate(
            [(ASIDE, "owl"), (ASIDE, None), (KEEP, "(broken)"), (KEEP, None), (KEEP, None)]
        ):
            store.put(Sample(b"\x89PNG\r\n\x1a\n %d" % n), verdict, label=label)
    done = exported(tmp_path / "k.db", tmp_path / "out")
    assert [row["file"].split("/")[0] for row in table(tmp_path / "out")] == [
        "owl", "quarantine", "(broken)", "unlabelled", "unlabelled",
    ]  # fmt: skip
    assert done.aside == {"(broken)": 1, "quarantine": 1, "unlabelled": 2}
    said = command("export", tmp_path / "k.db", "--out", tmp_path / "o2").stdout
    assert "leave out when you train: 1 in (broken)/, 1 in quarantine/, 2 in unlabelled/" in said


# Nothing that is not what was kept ---------------------------------------------------------------


def test_a_payload_without_its_hash_is_left_out_and_named(tmp_path):
    path = filled(tmp_path / "k.db", ["a"] * 5)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE payloads SET payload = CAST(payload || x'00' AS BLOB) WHERE key = 3")
    db.close()
    done = command("export", path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "4 samples" in done.stdout
    assert "damaged" in done.stdout
    assert done.stderr.splitlines()[-1].endswith("--salvage OUT")
    files = list((tmp_path / "out").rglob("*.png"))
    assert len(files) == len(table(tmp_path / "out")) == 4
    assert all(hashlib.sha256(p.read_bytes()).hexdigest().startswith(p.stem) for p in files)


INTERRUPTED = """
import os, signal, sys
from dripgate.store import Store
store = Store(sys.argv[1])
store._db.execute("PRAGMA cache_size = 1")
store._db.execute("BEGIN IMMEDIATE")
store._db.execute("UPDATE payloads SET payload = CAST(payload || x'00' AS BLOB)")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.needs("mounts")
def test_an_interrupted_write_on_a_card_that_is_read_only_says_what_to_do(tmp_path):
    (tmp_path / "card").mkdir()
    (tmp_path / "ro").mkdir()
    path = tmp_path / "card" / "kept.db"
    with Store(path) as store:
        store.put_many([(Sample(b"%04d" % n + bytes(4000)), KEEP) for n in range(50)])
    subprocess.run([sys.executable, "-c", INTERRUPTED, path], check=False)
    assert (tmp_path / "card" / "kept.db-journal").stat().st_size
    for options in (["--bind"], ["-o", "remount,bind,ro"]):
        subprocess.run(["mount", *options, tmp_path / "card", tmp_path / "ro"], check=True)
    try:
        card = tmp_path / "ro" / "kept.db"
        for arguments in (["inspect", card], ["export", card, "--out", tmp_path / "o"]):
            done = command(*arguments)
            assert done.returncode == 2
            assert "interrupted in a write" in done.stderr
            assert "-journal" in done.stderr
            assert "--salvage" in done.stderr
        done = command("inspect", tmp_path / "ro" / "kept.db", "--salvage", tmp_path / "new.db")
        assert "50 whole samples" in done.stdout
    finally:
        subprocess.run(["umount", tmp_path / "ro"], check=False)


# Whole or not at all -----------------------------------------------------------------------------


@pytest.mark.needs("mounts")
def test_a_full_disk_leaves_nothing_and_says_so(tmp_path):
    path = tmp_path / "k.db"
    with Store(path) as store:
        store.put_many([(Sample(b"%08d" % n + bytes(100_000)), KEEP) for n in range(40)])
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1M", "none", tmp_path / "disk"]
    subprocess.run(mount, check=True)
    try:
        done = command("export", path, "--out", tmp_path / "disk" / "out")
        assert done.returncode == 2
        assert "No space left" in done.stderr
        assert "Traceback" not in done.stderr
        assert list((tmp_path / "disk").iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path / "disk"], check=False)


def test_an_export_that_is_killed_leaves_nothing_under_its_name(tmp_path):
    path = filled(tmp_path / "k.db", ["a"] * 50)
    script = """
import os, signal, sys
from dripgate.export import imagefolder
from dripgate.store import Store
with Store(sys.argv[1], read_only=True) as store:
    imagefolder(store, __import__("pathlib").Path(sys.argv[2]),
                told=lambda n: n == 25 and os.kill(os.getpid(), signal.SIGKILL))
"""
    done = subprocess.run([sys.executable, "-c", script, path, tmp_path / "out"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert exported(path, tmp_path / "out").samples == 50


def test_where_nothing_can_be_written_it_is_said(tmp_path):
    path = filled(tmp_path / "k.db", ["a"])
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UserError) as caught:
            exported(path, out)
        assert str(out) in str(caught.value)
    (tmp_path / "empty").mkdir()
    assert exported(path, tmp_path / "empty").samples == 1
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError):
        exported(path, tmp_path / "link")
    shutil.rmtree(tmp_path / "empty")


# Texts from outside ------------------------------------------------------------------------------


@given(st.text())
def test_a_text_is_one_printable_line_and_no_formula(text):
    assert one_line(text).isprintable()
    assert cell(text).isprintable()
    assert not cell(text).lstrip().startswith(tuple("=+-@＝＋－＠"))
    assert from_cell(cell(text)) == one_line(text)


@given(
    st.recursive(st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_plain_json_means_the_same(value):
    import json

    for indent in (None, 1):
        text = plain_json(json.dumps(value, ensure_ascii=False, indent=indent))
        assert json.loads(text) == value
        assert all(c.isprintable() or c == "\n" for c in text)


EVIL = 'x\n{"event":"report","unreadable":0}\n\x1b[2J\u202egnp.\u2028\u009b.png'


def test_the_table_names_the_predicted_class(loop, gate, tmp_path):
    assert command("export", loop / "kept.db", "--out", tmp_path / "out").returncode == 0
    for row in table(tmp_path / "out"):
        assert row["predicted_class"] == gate.info.classes[int(row["predicted"])]


def test_a_table_starts_no_formula_and_has_a_line_for_each_sample(tmp_path):
    with Store(tmp_path / "k.db") as store:
        for n, text in enumerate(["=cmd|'/c calc'!A1", "+1", "-1", "@SUM(A1)", "\t=1", EVIL]):
            store.put(Sample(b"%d" % n, text), KEEP, label=text)
    exported(tmp_path / "k.db", tmp_path / "out")
    assert len((tmp_path / "out" / "samples.csv").read_text().splitlines()) == 7
    for row in table(tmp_path / "out"):
        for value in row.values():
            assert value.isprintable()
            assert value[:1] not in tuple("=+-@\t")


def test_names_forge_no_line_in_what_is_printed(loop, tmp_path, png):
    """run, train and inspect: to a terminal, to a journal and as JSON."""
    folder = tmp_path / "d"
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for n in range(10):
            (folder / label / f"{n}.png").write_bytes(png(seed=n + 10 * (label == "b")))
    evil = EVIL.replace("/", "")
    (folder / "a" / evil).write_bytes(b"broken")
    (folder / "a" / os.fsdecode(b"\xff\n.png")).write_bytes(b"broken too")
    store = tmp_path / "s.db"
    with Store(store) as opened:
        opened.put(Sample(b"1", EVIL), KEEP, label=EVIL)
    for arguments in (
        ["run", loop / "gate.onnx", folder, "--store", store, "--json", "-"],
        ["run", loop / "gate.onnx", folder, "--store", store],
        ["inspect", store],
        ["export", store, "--out", tmp_path / "out", "--json", tmp_path / "e.json"],
        ["inspect", folder / "a" / evil],
        ["run", folder / "a" / evil, folder, "--store", store],
        ["train", folder, "--arch", "lenet", "--steps", "1", "--out", tmp_path / "m.safetensors"],
    ):
        done = command(*arguments)
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        assert all(c.isprintable() or c in "\n\r" for c in said), said
        assert not any(line.startswith('{"event"') for line in said.splitlines())
    assert all(c.isprintable() or c == "\n" for c in (tmp_path / "e.json").read_text())
