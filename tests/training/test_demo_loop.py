"""The demo with training: files, JSON, and that its numbers are those of its store and gate."""

import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from dripgate.store import Store
from dripgate.stream.account import account
from dripgate.types import Decision, Reason
from needs import need

KEYS = {"data", "seed", "stream", "kept", "quarantined", "storage_saved", "bytes_seen",
        "bytes_kept", "accuracy", "seconds", "gate", "store", "report"}  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    need("torch")
    out = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "dripgate", "demo", "--data", "digits", "--steps", "60",
         "--seed", "3", "--out", str(out / "files"), "--json", str(out / "demo.json")],
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


def test_report_and_terminal_show_what_the_policy_did(result):
    """Reasons, estimates with intervals, and per-class shares are those of the store."""
    html = Path(result["report"]).read_text(encoding="utf-8")
    with Store(result["store"], read_only=True) as store:
        found = account(store)
        audited = sum(s.reason is Reason.AUDIT for s in store)
    assert result["account"]["reasons"] == found.reasons
    assert found.reasons["keep: audit"] == audited > 5
    for words in ("at random, so that what is dropped stays measurable", "score inside the band"):
        assert words in html
    estimates = found.estimates
    for one in (estimates.accuracy, estimates.dropped_accuracy, estimates.dropped_mistakes):
        assert f"{100 * one.value:.1f} % ({100 * one.low:.1f} to {100 * one.high:.1f})" in html
    assert f"{estimates.accuracy.value:.1%} ({estimates.accuracy.low:.1%}" in result["terminal"]
    for one in found.classes:
        assert f'<th scope="row">{one.name}</th>' in html
    mix = estimates.classes[3]
    assert f"{100 * mix.value:.1f} % ({100 * mix.low:.1f} to {100 * mix.high:.1f})" in html


def test_the_audit_is_right_about_the_stream(result):
    """The stream's labels are its folders: at least eight in ten intervals hold the truth."""
    with zipfile.ZipFile(Path(result["store"]).with_name("stream.zip")) as archive:
        truth = Counter(name.split("/")[0] for name in archive.namelist())
    found = result["account"]["estimates"]["classes"]
    held = sum(
        one["low"] <= truth[row["name"]] / truth.total() <= one["high"]
        for row, one in zip(result["account"]["classes"], found, strict=True)
    )
    assert held >= 8


def test_rows_are_compared_at_equal_counts(result):
    """What random and margin may choose is what was trained on: audited samples count as kept."""
    with Store(result["store"], read_only=True) as store:
        kept = list(store.samples(decision=Decision.KEEP))
    assert any(s.reason is Reason.AUDIT for s in kept)
    assert (
        len(kept)
        == result["kept"]
        == sum(n for why, n in result["account"]["reasons"].items() if why.startswith("keep"))
    )


def test_same_seed_same_verdicts(result, tmp_path):
    from dripgate.demo.plan import PLANS, split

    split("digits", PLANS["digits"], 3, tmp_path)
    for name in ("labelled.zip", "stream.zip"):
        assert (tmp_path / name).stat().st_size == Path(result["gate"]).with_name(
            name
        ).stat().st_size
