"""The demo: its files, its JSON, and that its numbers are those of its own store and gate."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dripgate.store import Store
from dripgate.types import Decision

KEYS = {"data", "seed", "stream", "kept", "quarantined", "storage_saved", "bytes_seen",
        "bytes_kept", "accuracy", "seconds", "gate", "store", "report"}  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "dripgate", "demo", "--steps", "60", "--seed", "3",
         "--out", str(out / "files"), "--json", str(out / "demo.json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((out / "demo.json").read_text()) | {"terminal": done.stdout}


def test_json_has_what_the_terminal_shows(result):
    assert set(result) >= KEYS
    assert set(result["accuracy"]) == {"initial", "full", "dripgate", "random", "margin"}
    assert set(result["seconds"]) == {"train", "fit", "run", "retrain"}
    for accuracy in result["accuracy"].values():
        assert f"{accuracy:.4f}" in result["terminal"]
    assert result["seed"] == 3


def test_numbers_are_those_of_the_store(result):
    with Store(result["store"], read_only=True) as store:
        kept = list(store.samples(decision=Decision.KEEP))
        everything = list(store)
        seen = store.counters["seen"]
    assert len(kept) == result["kept"] > 0
    assert len(everything) - len(kept) == result["quarantined"]
    assert sum(len(s.payload) for s in everything) == result["bytes_kept"]
    assert seen == result["stream"]
    assert result["storage_saved"] == pytest.approx(1 - result["bytes_kept"] / result["bytes_seen"])


def test_report_shows_the_same_numbers(result):
    html = Path(result["report"]).read_text(encoding="utf-8")
    assert "<script" not in html
    assert f"{result['stream']:,}" in html.replace("\u202f", ",").replace("&#8239;", ",")


def test_same_seed_same_verdicts(result, tmp_path):
    from dripgate.demo import PLANS, split

    split("digits", PLANS["digits"], 3, tmp_path)
    for name in ("labelled.zip", "stream.zip"):
        assert (tmp_path / name).stat().st_size == Path(result["gate"]).with_name(
            name
        ).stat().st_size
