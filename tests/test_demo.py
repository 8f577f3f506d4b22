"""The demo of a device's days: what it writes and says is what is in its stores, without torch."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from dripgate import adapt
from dripgate.demo import scenes, shipped
from dripgate.demo.mean import Mean
from dripgate.gate import Gate
from dripgate.store import Store
from dripgate.types import Decision

#: A machine with the extras of `make demo` and nothing else, whatever is installed here.
NOTHING_ELSE = """
import sys
extras = "torch onnxscript safetensors sklearn scipy skactiveml cv2 paho starlette".split()

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in extras:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from dripgate.cli import main
main()
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_ELSE, "demo", "--days", "2", "--seed", "7",
         "--out", str(out / "files"), "--json", str(out / "demo.json")],
        env=os.environ | {"PATH": "/nowhere"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((out / "demo.json").read_text()) | {"terminal": done.stdout}


@pytest.fixture(scope="module")
def rows(result):
    return {row["way"]: row for row in result["rows"]}


def test_the_table_has_every_way_at_the_same_storage(result, rows):
    assert list(rows) == ["initial", "full", "dripgate", "random", "nth", "margin"]
    for way in ("random", "nth", "margin"):
        assert rows[way]["stored"] == rows["dripgate"]["stored"]
    assert (rows["initial"]["stored"]["value"], rows["full"]["stored"]["value"]) == (0, 1)
    for way, row in rows.items():
        shown = f"{100 * row['accuracy']['value']:.1f} ± {100 * row['accuracy']['half']:.1f}"
        assert shown in result["terminal"]
        if way != "dripgate":
            apart = rows["dripgate"]["accuracy"]["value"] - row["accuracy"]["value"]
            assert row["ahead"]["value"] == pytest.approx(apart)


def test_numbers_are_those_of_the_stores(result, rows):
    shares, broken = [], []
    for seed in (7, 8):
        with Store(Path(result["folder"], f"day-{seed}.db"), read_only=True) as store:
            seen, stored = store.counters["seen"], list(store)
        assert seen == scenes.DAY
        shares.append(len(stored) / seen)
        kept = [one.source for one in stored if one.decision is Decision.KEEP]
        broken.append(np.mean([source.startswith("broken/") for source in kept]))
    # A frame that comes twice, such as a black one, is stored once and counted twice.
    assert rows["dripgate"]["stored"]["value"] == pytest.approx(np.mean(shares), abs=0.01)
    assert rows["dripgate"]["broken"]["value"] == pytest.approx(np.mean(broken), abs=0.005)
    assert result["frames"] == 2 * scenes.DAY


def test_it_is_worth_its_place(rows):
    """Little storage, and much of what everything would have taught."""
    assert rows["dripgate"]["stored"]["value"] < 0.2
    assert rows["initial"]["ahead"]["value"] > 0.05
    assert rows["full"]["ahead"]["value"] > -0.03
    assert rows["dripgate"]["broken"]["value"] < rows["random"]["broken"]["value"]


def test_the_device_s_head_learns_from_its_stores(result):
    """As 'dripgate adapt' would, from the true classes of what was kept."""
    adapted, names = result["adapted"], tuple("0123456789")
    labels, taken = 0, 0
    for seed in (7, 8):
        path = Path(result["folder"], f"day-{seed}.db")
        with Store(path, read_only=True) as store:
            kept = [one for one in store if one.decision is Decision.KEEP]
        shown = {one.id: one.source.partition("/")[0] for one in kept}
        shown = {sample: name for sample, name in shown.items() if name in names}
        labels += len(shown)
        taken += adapt(result["gate"], path, labels=shown).gate is not None
    assert (adapted["labels"], adapted["taken"]) == (labels, taken)
    gain = adapted["accuracy"]["value"] - result["deployed"]
    assert adapted["gain"]["value"] == pytest.approx(gain)
    assert gain > 0.05
    after = f"{100 * adapted['accuracy']['value']:.1f} ± {100 * adapted['accuracy']['half']:.1f}"
    assert f"{100 * result['deployed']:.1f} % → {after} %" in result["terminal"]


def test_the_report_shows_the_means_and_their_errors(result):
    html = Path(result["report"]).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "last layer was learned anew" in html
    assert "the mean of 2 streams, whiskers show its 95 % interval" in html
    assert "every n-th, same count" in html
    for row in result["rows"]:
        assert f"{row['accuracy']['value']:.3f}" in html


def test_the_commands_it_prints_are_right(result, tmp_path):
    lines = [line.split() for line in result["terminal"].splitlines() if line[:4] == "  dr"]
    commands = [words for words in lines if words[0] == "dripgate" and words[1:2] != ["kept"]]
    assert [words[1] for words in commands[-3:]] == ["fit", "run", "review"]
    for words in commands[-3:-1]:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    made = Gate.load(tmp_path / "gate.onnx").info
    assert made.thresholds == Gate.load(result["gate"]).info.thresholds
    with (
        Store(tmp_path / "kept.db", read_only=True) as again,
        Store(result["store"], read_only=True) as before,
    ):
        assert {one.id for one in again} == {one.id for one in before}


# What ships ---------------------------------------------------------------------------------------


def test_the_classifier_is_small_plain_and_says_what_it_is():
    assert shipped.FILE.stat().st_size < 150_000
    model = onnx.load(shipped.FILE)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    found = shipped.classifier()
    assert found.classes == tuple("0123456789")
    assert found.input.shape == (scenes.SIDE, scenes.SIDE, 1)


def test_no_digit_is_learned_fitted_tested_and_streamed_at_once():
    parts = [scenes.digits(part) for part in ("learned", "fitted", "tested", "streamed")]
    assert sum(len(part.labels) for part in parts) == 1797
    seen = [{image.tobytes() for image in part.images} for part in parts]
    assert not any(seen[i] & seen[k] for i in range(4) for k in range(i))


# The stream ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def day():
    return list(scenes.day(3))


def pixels(frame):
    return np.asarray(Image.open(io.BytesIO(frame.payload)), np.float64)


def test_a_day_is_the_same_again_and_another_day_is_another(day):
    assert list(scenes.day(3)) == day
    assert list(scenes.day(4)) != day
    assert len(day) == scenes.DAY
    assert len({len(frame.payload) for frame in day}) == 1  # as many frames are as many bytes


def test_scenes_stay_light_follows_the_day_and_some_digits_are_rare(day):
    labels = np.array([frame.label for frame in day])
    assert (labels[1:] == labels[:-1]).mean() > 0.85
    counts = {digit: (labels == digit).sum() for digit in "0123456789"}
    assert counts["0"] > 5 * counts["9"] > 0
    assert 0.01 < (labels == scenes.BROKEN).mean() < 0.06
    light = np.array([pixels(frame).max() for frame in day if frame.label != scenes.BROKEN])
    for dim in (light[:150], light[-150:]):
        assert light[1300:1600].mean() > 1.7 * dim.mean()


def test_frames_of_a_scene_differ_little(day):
    def differences(step):
        pairs = zip(day[1200:1500], day[1200 + step : 1500 + step], strict=True)
        return [np.abs(pixels(a) - pixels(b)).mean() for a, b in pairs
                if scenes.BROKEN not in (a.label, b.label)]  # fmt: skip

    assert 0 < np.median(differences(1)) < 0.7 * np.median(differences(100))


def test_the_zip_of_a_day_is_in_the_order_of_its_frames(tmp_path, day):
    with zipfile.ZipFile(shipped.write_day(tmp_path, 3)) as archive:
        assert [archive.read(name) for name in archive.namelist()] == [one.payload for one in day]


# The mean -----------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_students():
    found = Mean.of(np.array([1.0, 2.0, 3.0]))
    assert (found.value, found.half) == (2.0, pytest.approx(4.303 / 3**0.5, abs=1e-3))
    assert Mean.of(np.array([0.5])).half is None
    assert found.points("+") == "+200.0 ± 248.4"
