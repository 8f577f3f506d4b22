"""What train and run print of data: everything found, and everything not used."""

import io
import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from dripgate.cli.reading import parse_levels
from dripgate.errors import UserError
from needs import need


@pytest.fixture
def train(dripgate, tmp_path):
    """Trains for one step; gives (exit code, JSON, standard error)."""
    need("torch")

    def command(data, *options):
        code, out, err = dripgate(
            "train", data, "--arch", "lenet", "--steps", 1, "--batch", 8,
            "--out", tmp_path / "m.safetensors", "--json", "-", *options,
        )  # fmt: skip
        return code, json.loads(out) if out else None, err

    return command


def test_train_says_what_was_found_and_what_is_not_used(train, photos):
    (photos / "README").write_bytes(b"x")
    (photos / "heic").mkdir()
    (photos / "heic/1.heic").write_bytes(b"\0\0\0\x1cftypheic")
    code, found, err = train(photos)
    assert code == 0
    lines = err.splitlines()
    assert any("photos: " in line and "in 2 classes, 2 files skipped" in line for line in lines)
    assert any(line.split()[:2] == ["class", "dark"] for line in lines)
    assert "  skipped 1: README: beside the class folders" in lines
    assert "  note: class heic: none of its 1 files can be read, so no model will know it" in lines
    assert {row["name"]: row["train"] + row["test"] for row in found["found"]["classes"]} == {
        "dark": 40, "light": 40, "heic": 0,
    }  # fmt: skip
    assert found["found"]["unused"]["beside the class folders"] == {
        "count": 1, "examples": ["README"],
    }  # fmt: skip


def test_how_folders_are_read_can_be_said(train, tmp_path, png):
    for side in ("train", "test"):
        (tmp_path / "set" / side).mkdir(parents=True)
        for i in range(20):
            (tmp_path / "set" / side / f"{i}.png").write_bytes(png(40 if side == "test" else 90))
            (tmp_path / "set" / side / f"{i}.png").write_bytes(png(seed=i + 100 * len(side)))
    code, _, err = train(tmp_path / "set")
    assert code == 2
    assert "--folders classes" in err.splitlines()[-1]
    code, found, _ = train(tmp_path / "set", "--folders", "classes")
    assert (code, found["classes"]) == (0, ["test", "train"])


def test_the_range_of_16_bit_pictures_is_recorded_in_the_model(train, tmp_path):
    """Case 22: the device decodes as training did."""
    rng = np.random.default_rng(0)
    for label in ("cold", "warm"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(20):
            low = 29300 if label == "cold" else 29400
            values = rng.integers(low, low + 120, (12, 12)).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "set" / label / f"{i}.png")
    code, _, err = train(tmp_path / "set")
    assert code == 0
    assert "16-bit pictures with values from 29,300 to 29,51" in err
    from dripgate.training.classifier import load_classifier

    low, high = load_classifier(str(tmp_path / "m.safetensors")).info.input.range
    assert low < 29301 < 29518 < high
    code, _, err = train(tmp_path / "set", "--levels", "29000,30000")
    assert code == 0
    assert load_classifier(str(tmp_path / "m.safetensors")).info.input.range == (29000, 30000)


@pytest.mark.parametrize("text", ["", "1", "2,1", "1,70000", "-1,5", "a,b", "1,2,3"])
def test_a_range_that_cannot_be_is_refused(text):
    with pytest.raises(UserError, match="--levels is"):
        parse_levels(text)
    assert parse_levels("auto") is None
    assert parse_levels("29300:29520") == parse_levels(" 29300, 29520") == (29300, 29520)


def test_long_recordings_are_learned_in_windows(train, tmp_path):
    """Case 25, the half in training."""
    rng = np.random.default_rng(0)
    for k, label in enumerate(["hum", "hiss"]):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(20):
            frames = 40_000 if i == 0 else 8_000
            sound = 0.1 * rng.normal(size=frames) * (1 + k)
            soundfile.write(tmp_path / "set" / label / f"{i}.wav", sound, 8000)
    code, found, err = train(tmp_path / "set", "--arch", "dscnn")
    assert code == 0, err
    assert "2 recordings are longer than 1 s and became 18 windows that overlap by half" in err
    assert found["found"]["samples"] == 38 + 18


def test_run_says_where_samples_came_from_and_what_was_passed_over(dripgate, loop, tmp_path, png):
    folder = tmp_path / "incoming"
    (folder / "3/site").mkdir(parents=True)
    (folder / "elsewhere").mkdir()
    for i in range(4):
        (folder / f"3/site/{i}.png").write_bytes(png(seed=i))
    (folder / "elsewhere/1.png").write_bytes(png(seed=9))
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (8, 8), 90).save(turned, "JPEG", exif=exif)
    (folder / "elsewhere/phone.jpg").write_bytes(turned.getvalue())
    (folder / ".hidden").write_bytes(b"x")
    (folder / "away").symlink_to(tmp_path)
    arguments = ("run", loop / "gate.onnx", folder, "--store", tmp_path / "k.db")
    code, out, _ = dripgate(*arguments)
    assert code == 0
    lines = out.splitlines()
    assert "class folders  3 4, in no class folder 2" in lines
    assert any(
        line.startswith("  note: 1 samples have an EXIF rotation, which is not applied: elsewhere/")
        for line in lines
    )
    assert "  skipped 1: .hidden: hidden, or left by a system" in lines
    assert "  skipped 1: away: a link that leads out of the folder" in lines


def test_the_data_set_of_a_name_is_said_where_a_folder_has_it_too(train, tmp_path, monkeypatch):
    """Case 43."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    code, found, err = train("digits")
    assert (code, len(found["classes"])) == (0, 10)
    assert "  note: digits is the data set of that name; write ./digits for the folder here" in err


def test_the_cache_is_emptied_and_nothing_else(train, dripgate, photos, tmp_path, monkeypatch):
    """Case 44."""
    monkeypatch.setenv("DRIPGATE_CACHE", str(tmp_path / "cache"))
    assert train(photos)[0] == 0
    (tmp_path / "cache/data").mkdir()
    code, out, _ = dripgate("purge", "--cache")
    assert code == 0
    assert out.startswith(f"{tmp_path / 'cache/decoded'}: 1 decoded copies deleted, ")
    assert list((tmp_path / "cache/decoded").iterdir()) == []
    assert (tmp_path / "cache/data").is_dir()
    assert dripgate("purge", "--cache")[0] == 0
    for arguments, cause in [((), "which store?"), ((photos / "dark/000.png", "--cache"), "both")]:
        code, _, err = dripgate("purge", *arguments)
        assert code == 2
        assert cause in err.splitlines()[-1]


def test_arrays_are_read_and_what_cannot_learn_from_them_says_so(train, tmp_path):
    """Issue 12: reading is the same for all commands; a reference net takes images or audio."""
    rng = np.random.default_rng(0)
    for label in ("idle", "shake"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(20):
            np.save(tmp_path / "set" / label / f"{i}.npy", rng.normal(size=(3, 16)))
    np.save(tmp_path / "set/idle/long.npy", np.zeros((3, 17)))
    code, _, err = train(tmp_path / "set")
    assert code == 2
    lines = err.splitlines()
    assert any("in 2 classes, 1 files skipped" in line for line in lines)
    assert any("idle/long.npy: shape (3, 17), expected (3, 16)" in line for line in lines)
    assert "takes images or audio, found samples of shape (3, 16)" in lines[-1]
