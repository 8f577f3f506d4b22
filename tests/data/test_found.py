"""Nothing of a data set is passed over in silence: what was found, what is not used, and why."""

import io
import os
import tarfile
import zipfile

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dripgate.cli import describe
from dripgate.data import Found, load, open_source, shadowed
from dripgate.data.summary import FEW
from dripgate.errors import DataError
from dripgate.types import AudioInput, ImageInput

SPEC = ImageInput(height=5, width=6, channels=3)


@pytest.fixture
def pets(picture) -> dict[str, bytes]:
    return {
        f"{label}/{i:02d}.png": picture(100 * c + i, size=(6, 5))
        for c, label in enumerate(["cat", "dog"])
        for i in range(20)
    }


def unused(found: Found) -> dict[str, int]:
    return {reason: pile.count for reason, pile in found.unused.items()}


def classes(found: Found) -> dict[str, int]:
    return {row.name: row.train + row.test for row in found.classes}


def test_the_summary_counts_classes_and_splits_and_is_data(tree, pets):
    files = {f"train/{name}": payload for name, payload in pets.items()}
    files |= {f"test/{name}": payload + b"\n" for name, payload in list(pets.items())[::5]}
    for data in (load(tree(files)), load(tree(files))):  # decoded, and from the cache
        found = data.found
        assert [(r.name, r.train, r.test) for r in found.classes] == [
            ("cat", 20, 4), ("dog", 20, 4),
        ]  # fmt: skip
        assert {folder: s.files for folder, s in found.splits.items()} == {"train": 40, "test": 8}
        assert (found.unused, found.notes, found.samples) == ({}, (), 48)
        assert msgspec.convert(msgspec.to_builtins(found), Found) == found


def test_everything_that_is_not_used_is_counted_by_reason_with_examples(tree, pets, tmp_path):
    odd = {"README": b"x", "cat/.DS_Store": b"x", "cat/more.zip": b"PK", "dog/empty.png": b"",
           "dog/text.jpg": b"not a picture", "extra.png": b"x",
           "cat/00.heic": b"\0\0\0\x1cftypheic"}  # fmt: skip
    folder = tree(pets | odd)
    (folder / "cat/nowhere").symlink_to(tmp_path / "none")
    (folder / "dog/again").symlink_to(folder / "cat")
    os.mkfifo(folder / "dog/pipe")
    found = load(folder, SPEC).found
    assert unused(found) == {
        "beside the class folders": 2,
        "hidden, or left by a system": 1,
        "an archive inside; unpack it, or give it by itself": 1,
        "a link to nowhere": 1,
        "a link to a folder that is read already": 1,
        "no regular file": 1,
        "empty file": 1,
        "a HEIC or AVIF picture; convert it to JPEG": 1,
        "not an image: begins with b'not a pi', expected PNG, JPEG, BMP, GIF, WEBP, TIFF, PPM": 1,
    }
    assert found.unused["beside the class folders"].examples == ["README", "extra.png"]
    lines = describe.data(found)
    assert lines[0].endswith("in 2 classes, 10 files skipped")
    assert "  skipped 1: dog/empty.png: empty file" in lines
    assert "  skipped 2: README, extra.png: beside the class folders" in lines


def test_files_in_a_split_but_in_no_class_are_counted(tree, pets):
    files = {f"train/{name}": payload for name, payload in pets.items()}
    files |= {"test/1.png": b"x", "test/2.png": b"x", "train/3.png": b"x", "unlabeled/4.png": b"x"}
    files |= {"test/cat/9.png": pets["cat/00.png"] + b"\n"}
    assert unused(load(tree(files)).found) == {
        "in test/, but in no class folder": 2,
        "in train/, but in no class folder": 1,
        "in unlabeled/, which is no split beside the others": 1,
    }


NAMES = ["train", "Test Set", "val", "cat", "dog", "valid", "invalid", ".hid", "a\nb", "é",
         "e\u0301", "..", "", "x" * 200, "eval", "site1"]  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.lists(st.sampled_from(NAMES), max_size=4), st.integers(0, 9)),
                min_size=1, max_size=30))  # fmt: skip
def test_every_file_is_used_or_counted_or_the_data_set_is_refused(pack, picture, places):
    files = {"/".join([*folders, f"{i}.png"]): picture(content) if content else b"text"
             for i, (folders, content) in enumerate(places)}  # fmt: skip
    try:
        found = load(pack(files, "set.zip"), SPEC, cache=False).found
    except DataError as error:
        assert len(str(error)) < 1000
    else:
        assert sum(classes(found).values()) + sum(unused(found).values()) == len(files)
        assert all(line.isprintable() for line in describe.data(found))


def test_many_reasons_do_not_fill_memory(tree, pets):
    files = {
        f"dog/{i}.jpg": f"{chr(97 + i // 26)}{chr(97 + i % 26)} text".encode() for i in range(39)
    }
    files |= {f"cat/{i}.bin": f"{chr(65 + i)} text".encode() for i in range(6)}
    more = {f"{n[:3]}/more{n[4:]}": p + b"\n" for n, p in pets.items()}
    found = load(tree(pets | more | files), SPEC).found
    assert sum(unused(found).values()) == 45
    assert unused(found)["other reasons"] == 5
    assert all(len(pile.examples) <= 3 for pile in found.unused.values())


# Links, hard links, names ------------------------------------------------------------------------


def test_a_class_that_is_a_link_is_a_class(tree, pets, tmp_path, picture):
    """Case 01: linked folders are read, each real one once."""
    outside = tree({f"{i}.png": picture(900 + i) for i in range(12)}, "elsewhere")
    folder = tree(pets)
    (folder / "eel").symlink_to(outside)
    (folder / "fox").symlink_to(outside)
    (outside / "back").symlink_to(folder)
    found = load(folder, SPEC).found
    assert classes(found) == {"cat": 20, "dog": 20, "eel": 12}
    assert unused(found) == {"a link to a folder that is read already": 2}


def test_a_link_that_changes_is_seen_by_the_cache(tree, pets, picture):
    outside = tree({f"{i}.png": picture(900 + i) for i in range(12)}, "elsewhere")
    folder = tree(pets)
    (folder / "eel").symlink_to(outside)
    assert len(load(folder, SPEC).found.classes) == 3
    (outside / "new.png").write_bytes(picture(999))
    assert classes(load(folder, SPEC).found)["eel"] == 13


@pytest.mark.parametrize("kind", ["set.tar", "set.tar.gz"])
def test_hard_links_in_a_tar_are_their_files(tmp_path, pets, kind):
    """Case 04: deduplicating tools write them."""
    path = tmp_path / kind
    with tarfile.open(path, "w:gz" if kind.endswith("gz") else "w") as archive:
        for i, (name, payload) in enumerate(pets.items()):
            member = tarfile.TarInfo(f".dvc/{i}" if i % 2 else name)
            member.size = len(payload)
            archive.addfile(member, io.BytesIO(payload))
            if i % 2:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.LNKTYPE, f".dvc/{i}"
                archive.addfile(link)
        for name, kind_of, target in [("cat/soft.png", tarfile.SYMTYPE, "00.png"),
                                      ("cat/lost.png", tarfile.LNKTYPE, "none")]:  # fmt: skip
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind_of, target
            archive.addfile(link)
    data = load(path, SPEC)
    assert classes(data.found) == {"cat": 20, "dog": 20}
    expected = {f.name: f.payload for f in open_source(path).labelled()}
    assert expected == pets
    assert unused(data.found) == {
        "hidden, or left by a system": 20,
        "a symbolic link within an archive": 1,
        "a hard link to nothing in the archive": 1,
    }


def zipped(path, files, encoding, flag=0):
    """A zip whose names have no UTF-8 flag, as macOS and older tools write them."""
    with zipfile.ZipFile(path, "w") as archive:
        for index, payload in enumerate(files.values()):
            archive.writestr(f"{index:04d}", payload)
    data = path.read_bytes()
    for index, name in enumerate(files):
        raw = name.encode(encoding)
        data = data.replace(f"{index:04d}".encode(), raw)
        assert len(raw) == 4
    path.write_bytes(data)
    return path


def test_names_in_a_zip_without_the_utf8_flag_are_utf8_where_they_are(tmp_path, picture):
    """Case 11."""
    files = {f"{label}/{i}": picture(99 * c + ord(i)) for c, label in enumerate(["ä", "b"])
             for i in "abcdefghijklmnopqrst"}  # fmt: skip
    files = {name if name[0] == "ä" else "bb" + name[1:]: p for name, p in files.items()}
    found = load(zipped(tmp_path / "set.zip", files, "utf-8"), SPEC).found
    assert set(classes(found)) == {"ä", "bb"}
    assert found.notes == ()


def test_names_in_a_zip_of_unknown_encoding_are_said(tmp_path, picture):
    files = {f"{label}/{i}": picture(99 * c + ord(i)) for c, label in enumerate(["bä", "bb"])
             for i in "abcdefghijklmnopqrst"}  # fmt: skip
    found = load(zipped(tmp_path / "set.zip", files, "cp1252"), SPEC).found
    assert set(classes(found)) == {"bΣ", "bb"}
    (note,) = found.notes
    assert note.startswith("20 files have a name in no known encoding, read as code page 437")
    assert "bΣ/a" in note


def test_classes_whose_names_are_not_utf8_stay_apart(tree, picture):
    """Case 13: caf\\xe9 and caf\\xe8 are two classes."""
    folder = tree({})
    for c, byte in enumerate([b"\xe8", b"\xe9"]):
        label = folder / os.fsdecode(b"caf" + byte)
        label.mkdir()
        for i in range(9):
            (label / f"{i}.png").write_bytes(picture(10 * c + i))
    found = load(folder, SPEC).found
    assert set(classes(found)) == {"caf\\xe8", "caf\\xe9"}


def test_names_with_newlines_and_escapes_are_one_line(tree, pets):
    folder = tree(pets)
    (folder / "cat/a\nb\x1b[31m.png").write_bytes(b"text")
    lines = describe.data(load(folder, SPEC).found)
    assert any("cat/a\\nb\\x1b[31m.png" in line for line in lines)
    assert all(line.isprintable() for line in lines)


# Labels and classes ------------------------------------------------------------------------------


def test_a_class_of_unreadable_files_is_named(tree, pets):
    """Case 10."""
    heic = {f"eel/IMG_{i:04d}.HEIC": b"\0\0\0\x1cftypheic" + bytes(30) for i in range(8)}
    found = load(tree(pets | heic), SPEC).found
    assert found.classes[-1].name == "eel"
    assert found.classes[-1].unreadable == 8
    assert "class eel: none of its 8 files can be read, so no model will know it" in found.notes
    assert unused(found) == {"a HEIC or AVIF picture; convert it to JPEG": 8}


def test_one_content_in_two_classes_is_said(tree, pets):
    """Case 14."""
    copies = {f"dog/copy{i}.png": pets[f"cat/{i:02d}.png"] for i in range(8)}
    notes = load(tree(pets | copies), SPEC).found.notes
    (said,) = [note for note in notes if "in two classes" in note]
    assert said.startswith("8 contents are in two classes")
    assert "cat/00.png = dog/copy0.png" in said
    assert said.endswith("and 5 more")


def test_one_content_on_both_sides_of_a_split_is_said(tree, pets):
    files = {f"train/{name}": payload for name, payload in pets.items()}
    files |= {f"test/{name}": payload for name, payload in list(pets.items())[::10]}
    (said,) = load(tree(files), SPEC).found.notes
    assert said.startswith("4 contents are in train and in test, so the accuracy is too good: ")
    assert "train/cat/00.png = test/cat/00.png" in said


def test_classes_too_rare_to_be_learned_are_named_and_never_held_out_as_a_whole(tree, picture):
    """Case 15."""
    files = {f"big/{i}.png": picture(i) for i in range(50)}
    files |= {f"rare{i}/0.png": picture(1000 + i) for i in range(20)}
    data = load(tree(files), SPEC)
    held, learned = data.train.hold_out(0.5, "calibration")
    assert set(learned.y.tolist()) == set(range(21))
    assert len(held) > 5
    assert set(held.ids) <= set(data.train.by_hash(0.5, "calibration")[0].ids)
    (note,) = data.found.notes
    assert note.startswith(f"fewer than {FEW} samples to learn from: rare0 (1)")


# Remarks -----------------------------------------------------------------------------------------


def test_rotations_are_counted_and_not_applied(tree, pets):
    """Case 49."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 6, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(3):
        buffer = io.BytesIO()
        image.point(lambda v, i=i: v + i).save(buffer, "JPEG", exif=exif)
        pets[f"cat/phone{i}.jpg"] = buffer.getvalue()
    (note,) = load(tree(pets), SPEC).found.notes
    assert note == (
        "3 files have an EXIF rotation, which is not applied: "
        "cat/phone0.jpg, cat/phone1.jpg, cat/phone2.jpg"
    )


def test_long_recordings_are_heard_to_their_end_and_stay_on_one_side(tree, recording):
    """Case 25: ten seconds are windows of one second, not the first of them."""
    files = {f"{c}/{i}.wav": recording(10 * k + i) for k, c in enumerate("ab") for i in range(20)}
    files |= {f"a/long{i}.wav": recording(100 + i, frames=8000) for i in range(6)}
    data = load(tree(files), AudioInput(rate=8000, length=800))
    assert classes(data.found) == {"a": 20 + 6 * 19, "b": 20}
    names = {name for part in (data.train, data.test) for name in part.names}
    assert {f"a/long0.wav@{0.05 * i:.3f}s" for i in range(19)} <= names
    assert any(
        note.startswith("6 recordings are longer than 0.1 s and became 114 windows")
        for note in data.found.notes
    )
    for train, test in [(data.train, data.test), data.train.by_hash(0.3)]:
        assert not set(train.origins) & set(test.origins)


def test_a_recording_that_is_damaged_at_its_end_gives_what_is_before(tree, recording):
    files = {f"{c}/{i}.wav": recording(10 * k + i) for k, c in enumerate("ab") for i in range(20)}
    samples = np.zeros(200_000)
    samples[-1] = np.nan
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 8000, format="WAV", subtype="FLOAT")
    files["a/long.wav"] = buffer.getvalue()
    data = load(tree(files), AudioInput(rate=8000, length=800))
    assert classes(data.found)["a"] > 100
    assert unused(data.found) == {"NaN or infinite audio samples": 1}


def test_a_folder_that_is_called_like_a_data_set_is_mentioned(tmp_path, monkeypatch):
    """Case 43."""
    monkeypatch.chdir(tmp_path)
    assert shadowed("digits") == ""
    (tmp_path / "digits").mkdir()
    assert shadowed("digits") == (
        "digits is the data set of that name; write ./digits for the folder here"
    )
    assert shadowed("./digits") == shadowed("other") == ""


@pytest.mark.parametrize("form", ["folder", "set.tar", "set.zip"])
def test_a_class_without_files_is_counted(tree, pets, tmp_path, form):
    folder = tree(pets)
    (folder / "eel").mkdir()
    (folder / "fox/deep").mkdir(parents=True)
    path = folder
    if form == "set.tar":
        path = tmp_path / form
        with tarfile.open(path, "w") as archive:
            archive.add(folder, ".")
    elif form == "set.zip":
        path = tmp_path / form
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder))
    pile = load(path, SPEC).found.unused["an empty folder"]
    assert sorted(pile.examples) == ["eel", "fox/deep"]


def test_classes_that_differ_in_case_only_are_said(tree, pets, picture):
    files = pets | {f"Cat/{i}.png": picture(700 + i, size=(6, 5)) for i in range(20)}
    (note,) = load(tree(files), SPEC).found.notes
    assert note == "classes that differ in upper and lower case or spaces only: 'Cat' and 'cat'"


def test_classes_that_are_not_tested_are_said(tree, pets):
    files = {f"train/{name}": payload for name, payload in pets.items()}
    files |= {"test/cat/1.png": pets["cat/00.png"] + b"\n"}
    (note,) = load(tree(files), SPEC).found.notes
    assert note == "not in test, so nothing says how well they are known: dog"


@pytest.mark.needs("no root")
def test_a_folder_that_cannot_be_listed_is_counted(tree, pets):
    folder = tree(pets)
    (folder / "eel").mkdir(mode=0)
    reason = "a folder that cannot be listed: Permission denied"
    assert unused(load(folder, SPEC).found) == {reason: 1}
