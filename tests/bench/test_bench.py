"""The harness, end to end on digits: rows, resuming, determinism, the command line."""

from needs import need

need("torch", "scikit-activeml")

import json
import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from dripgate.bench.conditions import Condition
from dripgate.bench.plan import PAPER_RULES, crossed, paper_table, plan_for
from dripgate.bench.protocol import open_data
from dripgate.bench.rows import Row, read
from dripgate.bench.rules import RULES
from dripgate.bench.run import bench
from dripgate.cli import cli
from dripgate.errors import DataError
from dripgate.training.train import fastest

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def plain(rows):
    """Rows without the time they took."""
    return [msgspec.structs.replace(row, seconds=0) for row in rows]


def test_every_rule_and_every_condition_gives_rows(rows):
    assert {row.rule for row in rows} == set(RULES)
    assert {row.condition for row in rows} == set(get_args(Condition))
    assert {row.protocol for row in rows} == {"retrain", "alone"}
    assert {row.steps for row in rows} == {25}
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        assert 0.1 < row.accuracy <= 1
        assert 0 <= row.worst_class_accuracy <= row.accuracy
        assert row.needs_labels == (row.rule in ("el2n", "coverage"))
        assert row.bytes_kept <= row.bytes_seen
        assert (row.broken_kept is None) == (not row.condition.startswith("broken"))


def test_rules_keep_what_they_are_asked_for(rows):
    for row in rows:
        held = row.rule not in ("full", "novelty", "vessal") and not row.rule.endswith("_band")
        if row.keep_target == 0.3 and row.condition == "clean" and held:
            assert row.kept == pytest.approx(0.3, abs=0.03), row.rule
    assert all(row.kept == 1 for row in rows if row.rule == "full")


def test_auto_is_the_same_share_for_every_rule(rows):
    shares = [row.kept for row in rows if row.keep_target == "auto" and row.condition == "clean"]
    assert len(shares) == 3
    assert max(shares) - min(shares) < 0.03


def test_broken_frames_are_hardly_kept_by_ours(rows):
    (ours,) = (
        r
        for r in rows
        if r.condition == "broken30" and (r.rule, r.keep_target) == ("dripgate", 0.3)
    )
    (chance,) = (
        r for r in rows if r.condition == "broken30" and (r.rule, r.keep_target) == ("random", 0.3)
    )
    assert chance.broken_kept > 0.2
    assert ours.broken_kept < 0.05
    assert ours.quarantined > 0.2


def test_two_runs_give_the_same_rows_on_any_number_of_processes(tmp_path, rows):
    cells = crossed(["clean"], ["full", "margin", "dripgate"], [0.3])
    again = bench(["digits"], tmp_path, seeds=[0, 1], cells=lambda _: cells, workers=2)
    before = {row.key: row for row in rows}
    first = [row for row in again if row.seed == 0]
    assert len(first) == 3
    assert plain(first) == plain([before[row.key] for row in first])
    by_seed = {row.seed: row.accuracy for row in again if row.rule == "full"}
    assert by_seed[0] != by_seed[1]


def test_what_is_finished_is_not_made_again(tmp_path, small):
    said = []
    bench(["digits"], tmp_path, seeds=[0], cells=lambda _: small[:1], workers=1)
    path = tmp_path / "bench.jsonl"
    finished = path.read_bytes()
    # As a crash in the middle of a write would leave it.
    path.write_bytes(finished + b'{"data": "digits", "condi')
    rows = bench(["digits"], tmp_path, seeds=[0], cells=lambda _: small, workers=1, log=said.append)
    assert path.read_bytes().startswith(finished)
    assert [row.rule for row in read(path, Row)] == ["full", "random", "random"]
    assert len(rows) == 3
    assert sum("full" in line for line in said) == 0


def test_a_killed_run_goes_on(tmp_path, small):
    command = [
        sys.executable, "-m", "dripgate", "bench", "digits", "--out", str(tmp_path),
        "--rules", "full,random", "--keep", "0.3,0.1", "--seeds", "1", "--workers", "2",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stderr:
        if line.startswith("[1/3]"):
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait()
    process.stderr.close()
    kept = read(tmp_path / "bench.jsonl", Row)
    assert 1 <= len(kept) < 3
    rows = bench(["digits"], tmp_path, seeds=[0], cells=lambda _: small, workers=1)
    assert len(rows) == 3
    assert read(tmp_path / "bench.jsonl", Row)[: len(kept)] == kept


def run(*arguments: str):
    return CliRunner().invoke(cli, ["bench", *arguments])


def test_the_command_makes_rows_and_a_report(tmp_path, folder):
    (tmp_path / "bench.jsonl").write_bytes((folder / "bench.jsonl").read_bytes())
    out = tmp_path / "rows.json"
    result = run(
        "digits", "--out", str(tmp_path), "--rules", "random,dripgate", "--seeds", "1",
        "--json", str(out), "--workers", "1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "0 rows to make" in result.stderr
    assert [row["rule"] for row in json.loads(out.read_text())] == ["random", "dripgate"]
    page = (tmp_path / "bench.md").read_text()
    for rule in ("random", "dripgate", "loss_max_band", "coverage (needs labels)"):
        assert rule in page
    for picture in ("accuracy", "worst_class", "storage", "conditions"):
        assert (tmp_path / f"bench_{picture}.svg").read_text().rstrip().endswith("</svg>")


def test_any_kept_share_is_in_the_report(tmp_path):
    asked = ("--rules", "full,random", "--keep", "0.5,0.2", "--steps", "3", "--seeds", "1")
    assert run("digits", "--out", str(tmp_path), *asked, "--workers", "1").exit_code == 0
    page = (tmp_path / "bench.md").read_text()
    assert "**Asked for 50 %**" in page
    assert "**Asked for 20 %**" in page
    assert re.search(r"^\| random \| \d+ % \|$", page, re.MULTILINE)
    assert ">random<" in (tmp_path / "bench_accuracy.svg").read_text()
    assert "digits, 50 % kept" in (tmp_path / "bench_conditions.svg").read_text()


def test_more_steps_are_other_rows_and_are_not_mixed_with_these(tmp_path, folder):
    asked = ("--rules", "full", "--seeds", "1", "--workers", "1", "--steps", "3")
    assert run("digits", "--out", str(tmp_path / "three"), *asked).exit_code == 0
    (row,) = read(tmp_path / "three" / "bench.jsonl", Row)
    assert row.steps == 3
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "bench.jsonl").write_bytes((folder / "bench.jsonl").read_bytes())
    told = str(run("digits", "--out", str(mixed), *asked).exception)
    assert "rows of digits by another plan" in told
    assert "another folder" in told
    assert (mixed / "bench.jsonl").read_bytes() == (folder / "bench.jsonl").read_bytes()


def test_each_row_names_the_type_that_nets_were_trained_in(tmp_path):
    asked = ("--rules", "full", "--seeds", "1", "--workers", "1", "--steps", "3")
    rows = {}
    for name, more in {
        "quick": (), "half": ("--dtype", "bfloat16"), "paper": ("--preset", "paper"),
    }.items():  # fmt: skip
        assert run("digits", "--out", str(tmp_path / name), *asked, *more).exit_code == 0
        (rows[name],) = read(tmp_path / name / "bench.jsonl", Row)
    assert {name: row.dtype for name, row in rows.items()} == {
        "quick": "float32", "half": "bfloat16", "paper": fastest(),
    }  # fmt: skip
    told = str(run("digits", "--out", str(tmp_path / "half"), *asked).exception)
    assert "another plan (--preset, --steps, --dtype" in told


def test_rows_from_before_there_was_a_choice_are_float32_and_are_not_made_again():
    rows = read(RESULTS / "bench.jsonl", Row)
    assert {row.dtype for row in rows} == {"float32"}
    assert {row.plan for row in rows} == {plan_for(row.data).id for row in rows}


def test_at_the_paper_s_scale_everything_is_used_a_tenth_of_it_first(tmp_path):
    asked = ("--preset", "paper", "--rules", "full", "--seeds", "1", "--steps", "3")
    assert run("digits", "--out", str(tmp_path), *asked).exit_code == 0
    (row,) = read(tmp_path / "bench.jsonl", Row)
    digits = open_data("digits", plan_for("digits", "paper"))
    assert row.stream == round(0.9 * len(digits.train))
    assert row.tested == len(digits.test)
    cells = paper_table()
    assert {cell.rule for cell in cells} == {"full", *PAPER_RULES}
    assert [cell.rule for cell in cells[:4]] == ["full", "random", "dripgate", "margin"]


def test_steps_grow_until_a_quarter_more_gives_little_and_go_on_where_they_stopped(tmp_path):
    out, asked = tmp_path / "found.json", ("steps", "digits", "--out", str(tmp_path))
    result = run(*asked, "--steps", "4", "--seeds", "2", "--most", "200", "--json", str(out))
    assert result.exit_code == 0, result.output
    rows = read(tmp_path / "steps.jsonl", Row)
    counts = sorted({row.steps for row in rows})
    mean = {n: np.mean([row.accuracy for row in rows if row.steps == n]) for n in counts}
    gains = [mean[more] - mean[few] for few, more in pairwise(counts)]
    assert [gain < 0.003 for gain in gains] == [False] * (len(gains) - 1) + [True]
    assert json.loads(out.read_text()) == {"digits": counts[-2]}
    before = (tmp_path / "steps.jsonl").read_bytes()
    again = run(*asked, "--steps", "4", "--seeds", "2", "--most", "200")
    assert f"digits: {counts[-2]} steps" in again.stdout
    assert (tmp_path / "steps.jsonl").read_bytes() == before
    few = run(*asked, "--steps", "4", "--seeds", "2", "--most", "4")
    assert "digits: more than 4 steps" in few.stdout


def test_the_report_is_the_same_every_time(tmp_path, folder):
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bench.jsonl").write_bytes((folder / "bench.jsonl").read_bytes())
        assert run("report", str(tmp_path / name)).exit_code == 0
        texts.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["digits", "--rules", "luck"], "--rules has 'luck', expected some of full, random"),
        (["digits", "--conditions", "rain"], "--conditions has 'rain'"),
        (["digits", "--keep", "30%"], "--keep has '30%', expected numbers above 0"),
        (["nowhere.zip"], "nowhere.zip"),
    ],
)
def test_mistakes_are_told(tmp_path, arguments, told):
    result = run(*arguments, "--out", str(tmp_path))
    assert told in str(result.exception)
    assert result.exit_code != 0


def test_a_report_of_nothing_says_what_to_do(tmp_path):
    assert "'dripgate bench' writes it" in str(run("report", str(tmp_path)).exception)


def test_a_file_of_something_else_is_not_overwritten(tmp_path):
    path = Path(tmp_path, "bench.jsonl")
    path.write_text('{"my": "notes"}\n')
    with pytest.raises(DataError, match="line 1 is no benchmark row"):
        bench(["digits"], tmp_path, seeds=[0], workers=1)
    assert path.read_text() == '{"my": "notes"}\n'
