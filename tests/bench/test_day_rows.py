"""The protocol ``day``: no rule looks ahead or spends too much, rows are made once, the report."""

from needs import need

need("torch", "scikit-activeml")

import json
import re

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from dripgate.bench.day_protocol import Row, Trial, bench, cells
from dripgate.bench.day_rules import FULL, MAIN, RULES
from dripgate.bench.day_tables import bars, lines
from dripgate.bench.protocol import alone
from dripgate.bench.rows import append, read
from dripgate.cli import cli
from dripgate.errors import UserError
from prefix import Prefix

OURS = [name for name in RULES if name.startswith("dripgate")]


@pytest.fixture(scope="module")
def trial():
    with alone():
        yield Trial("digits", 0)


@pytest.mark.parametrize("name", [name for name in RULES if name != FULL])
def test_what_comes_later_changes_nothing(trial, name):
    task, n = trial.task(0.1), 500
    first = task._replace(
        stream=Prefix(task.stream, n), payloads=task.payloads[:n], sizes=task.sizes[:n],
        times=task.times[:n],
    )  # fmt: skip
    whole, part = RULES[name](task), RULES[name](first)
    np.testing.assert_array_equal(part.kept, whole.kept[:n])
    np.testing.assert_array_equal(part.quarantined, whole.quarantined[:n])


def test_no_rule_is_told_a_label(trial):
    for part in trial.task(0.1):
        assert part is not trial.day.y
        assert not (isinstance(part, np.ndarray) and np.array_equal(part, trial.day.y))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("name", [name for name in RULES if name != FULL])
def test_the_budget_is_never_exceeded(trial, name, share):
    task = trial.task(share)
    kept, quarantined = RULES[name](task)
    assert not (kept & quarantined).any()
    assert 0 < task.sizes[kept | quarantined].sum() <= task.budget
    assert task.budget <= share * task.sizes.sum()


def test_sizes_matter_not_only_numbers(trial):
    """Frames that are ten times as large are a tenth as many."""
    task = trial.task(0.1)
    sizes = np.where(np.arange(len(task.sizes)) % 2, 1000, 100)
    task = task._replace(sizes=sizes, budget=int(0.1 * sizes.sum()))
    for name in ("random", "every_nth", "margin"):
        kept = RULES[name](task).kept
        assert task.sizes[kept].sum() <= task.budget, name
        assert task.sizes[kept].sum() > 0.7 * task.budget, name


def test_a_part_that_is_off_is_off(trial):
    task, broken = trial.task(0.1), trial.day.broken
    stored = {name: RULES[name](task) for name in OURS}
    kept = {name: one.kept for name, one in stored.items()}
    sound = ~broken

    def repeats(name):
        scenes = trial.day.scene[kept[name] & sound]
        return 1 - len(np.unique(scenes)) / len(scenes)

    assert repeats("dripgate_no_duplicates") > repeats("dripgate")
    assert not stored["dripgate_no_quality"].quarantined.any()
    assert kept["dripgate_no_quality"][broken].sum() > kept["dripgate"][broken].sum()
    assert stored["dripgate"].quarantined.any()
    assert len({one.tobytes() for one in kept.values()}) > len(kept) - 3


def test_a_memory_of_scenes_makes_margin_repeat_less(trial):
    task, day = trial.task(0.1), trial.day

    def seen(name):
        kept = RULES[name](task).kept & ~day.broken
        return len(np.unique(day.scene[kept])) / kept.sum()

    assert seen("margin_once") > seen("margin")
    assert seen("heatmap_once") > seen("heatmap")


def test_the_rows_of_the_table_are_all_rules_at_a_tenth_and_the_main_ones_elsewhere():
    found = cells()
    assert found[0] == (FULL, 1.0)
    assert [c.rule for c in found if c.share == 0.1] == [r for r in RULES if r != FULL]
    assert [c.rule for c in found if c.share == 0.02] == list(MAIN)
    assert cells(["random", FULL], [0.3, 0.2]) == [
        ("random", 0.3), (FULL, 1.0), ("random", 0.2)
    ]  # fmt: skip


# Rows -------------------------------------------------------------------------------------------


def plain(rows):
    return [msgspec.structs.replace(row, seconds=0) for row in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows of five rules and two budgets, by the command line."""
    out = tmp_path_factory.mktemp("day")
    result = CliRunner().invoke(cli, [
        "bench", "day", "digits", "--out", str(out), "--seeds", "2", "--keep", "0.1,0.3",
        "--rules", "full,random,every_nth,margin,dripgate", "--json", str(out / "rows.json"),
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    return out


def test_the_command_makes_rows(folder):
    rows = read(folder / "day.jsonl", Row)
    assert len(rows) == 2 * 9
    assert json.loads((folder / "rows.json").read_text()) == msgspec.to_builtins(rows)
    for row in rows:
        assert row.bytes_stored <= row.share * row.bytes_day
        assert 0 <= row.worst_class_accuracy <= row.accuracy <= 1
        assert row.broken <= row.broken_stored <= row.labels + row.quarantined
        assert row.scenes_kept + row.repeats + row.broken == row.labels
        assert (row.quarantined > 0) == (row.rule == "dripgate")
    (full,) = (row for row in rows if row.rule == FULL and row.seed == 0)
    assert (full.labels, full.bytes_stored, full.broken) == (900, full.bytes_day, 90)


def test_a_run_that_was_cut_off_goes_on_and_makes_the_same_rows(folder, tmp_path):
    written = (folder / "day.jsonl").read_bytes().splitlines(keepends=True)
    path = tmp_path / "day.jsonl"
    path.write_bytes(b"".join(written[:8]) + written[8][:40])  # as a crash leaves it
    said = []
    wanted = cells([FULL, "random", "every_nth", "margin", "dripgate"], [0.1, 0.3])
    rows = bench(["digits"], tmp_path, seeds=[0], wanted=wanted, log=said.append)
    assert said[0] == "digits, seed 0: 1 rows to make"
    assert path.read_bytes().startswith(b"".join(written[:8]))
    assert plain(rows) == plain(msgspec.json.decode(line, type=Row) for line in written[:9])
    bench(["digits"], tmp_path, seeds=[0], wanted=wanted, log=said.append)
    assert said[-1] == "digits, seed 0: 0 rows to make"


def test_rows_of_another_plan_are_not_mixed_with_these(folder, tmp_path):
    row = read(folder / "day.jsonl", Row)[0]
    append(tmp_path / "day.jsonl", msgspec.structs.replace(row, plan="otherone"))
    with pytest.raises(UserError, match="rows of digits by another plan"):
        bench(["digits"], tmp_path, seeds=[0], wanted=cells(["random"]), log=str)


def test_the_report_begins_with_what_is_missed(folder):
    page = (folder / "day.md").read_text()
    assert "](day_accuracy.svg)" in page
    assert (folder / "day_accuracy.svg").read_text().rstrip().endswith("</svg>")
    judged = re.findall(r"^\| digits \|.*\| (\*\*no\*\*|yes) \|$", page, re.MULTILINE)
    assert len(judged) == 7
    assert judged == sorted(judged)  # ** before y
    for share in ("10", "30"):
        assert f"**{share} % of the bytes**" in page
    assert page.index("what is missed first") < page.index("**10 % of the bytes**")
    assert "| **dripgate** |" in page


def test_bars_are_judged_by_paired_differences():
    base = {
        "data": "made", "share": 0.1, "steps": 1, "accuracy": 0.9, "worst_class_accuracy": 0.8,
        "new_class_accuracy": 0.5, "bytes_day": 1000, "bytes_stored": 100, "frames": 100,
        "labels": 10, "quarantined": 0, "broken": 0, "broken_stored": 0, "repeats": 0,
        "scenes": 9, "scenes_kept": 9, "classes_kept": 3, "tested": 10, "seconds": 1.0,
        "plan": "p",
    }  # fmt: skip
    rows = [
        Row(**{**base, "rule": rule, "seed": seed, "accuracy": accuracy + seed / 10, **more})
        for seed in (0, 1)
        for rule, accuracy, more in (
            (FULL, 0.803, {"share": 1.0}), ("random", 0.77, {"worst_class_accuracy": 0.76}),
            ("margin", 0.795, {}), ("dripgate", 0.801, {"quarantined": 1, "broken_stored": 1}),
        )
    ]  # fmt: skip
    found = {bar.asked: bar.met for bar in bars(rows, "made")}
    assert found == {
        "at most 0.5 below everything": True,
        "at least 3 above random": True,
        "at least 1 above margin": False,
        "worst class: at least 5 above random": False,
        "at most 1 % of what is stored is broken, quarantine included": False,
        "at most 1 % of what is kept to be labelled is broken": True,
    }
    assert bars([row for row in rows if row.seed == 0], "made")[0].met is None
    assert "made" in "\n".join(lines(rows))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["digits", "--rules", "luck"], "--rules has 'luck', expected some of full, random"),
        (["digits", "--keep", "10%"], "--keep has '10%', expected numbers above 0 and up to 1"),
        (["digits", "--keep", "auto"], "--keep has 'auto', expected numbers above 0"),
        (["nowhere.zip"], "nowhere.zip"),
    ],
)
def test_mistakes_are_told(tmp_path, arguments, told):
    result = CliRunner().invoke(cli, ["bench", "day", *arguments, "--out", str(tmp_path)])
    assert told in str(result.exception)
    assert result.exit_code != 0
