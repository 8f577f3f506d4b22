"""Numbers in the report, against arithmetic by hand."""

from needs import need

need("torch", "scikit-activeml")

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from dripgate.bench.bars import lines, paper, small
from dripgate.bench.plan import plan_for
from dripgate.bench.rows import Row
from dripgate.bench.tables import Mean, Table, markdown, saved


def row(rule="random", keep=0.3, accuracy=0.8, seed=0, **fields):
    share = 0.4 if keep == "auto" else keep
    kept = fields.pop("kept", 1.0 if rule == "full" else share)
    return Row(**{
        "data": "d", "condition": "clean", "protocol": "retrain", "rule": rule,
        "needs_labels": False, "keep_target": 1.0 if rule == "full" else keep, "kept": kept,
        "seed": seed, "steps": 10, "accuracy": accuracy, "worst_class_accuracy": accuracy / 2,
        "bytes_seen": 1000, "bytes_kept": int(1000 * kept), "quarantined": 0.0,
        "broken_kept": None, "scenes_kept": kept, "stream": 100, "tested": 100, "seconds": 1.0,
        "plan": "p", **fields,
    })  # fmt: skip


def test_interval_is_students():
    values = [0.71, 0.74, 0.78, 0.70]
    mean = Mean.of(values)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean.value == pytest.approx(np.mean(values))
    assert (mean.value - mean.half, mean.value + mean.half) == pytest.approx((low, high))


def test_one_seed_has_no_interval():
    assert Mean.of([0.5]).points() == "50.0"


def test_differences_are_paired_by_seed():
    ours = [row("dripgate", accuracy=a, seed=s) for s, a in enumerate((0.6, 0.7, 0.8))]
    theirs = [row("full", accuracy=a, seed=s) for s, a in ((0, 0.5), (2, 0.7), (9, 0.1))]
    gap = Table([]).difference(ours, theirs)
    assert (gap.n, gap.value, gap.half) == (2, pytest.approx(0.1), pytest.approx(0, abs=1e-9))
    assert Table([]).difference(ours, []) is None


def test_all_data_sets_together_are_paired_by_data_set_and_seed():
    rows = [
        row(rule, accuracy=accuracy + seed / 10, seed=seed, data=data)
        for data, accuracies in (("a", (0.5, 0.6, 0.9)), ("b", (0.7, 0.75, 0.8)))
        for rule, accuracy in zip(("random", "margin", "full"), accuracies, strict=True)
        for seed in (0, 1)
    ]
    rows.append(row("entropy", data="a"))  # b has none: not in the comparison
    page = markdown(rows)
    together = page[page.index("## All data sets together") : page.index("## a")]
    gains = [0.1, 0.1, 0.05, 0.05]
    half = Mean.of(gains).half
    assert f"| margin | 30.0 | +7.5 ± {100 * half:.1f} | -17.5" in together
    assert "entropy" not in together
    assert "All data sets" not in markdown([one for one in rows if one.data == "a"])


def curve(rule, accuracies):
    return [row(rule, keep, a) for keep, a in zip((0.61, 0.3, 0.1), accuracies, strict=True)]


def test_storage_saved_is_where_the_curve_crosses_full():
    full = [row("full", accuracy=0.9)]
    table = Table([
        *full, *curve("good", (0.91, 0.9, 0.9)), *curve("half", (0.9, 0.8, 0.7)),
        *curve("bad", (0.8, 0.95, 0.99)),
    ])  # fmt: skip
    assert saved(table, "d", "good") == pytest.approx(0.9)  # to the smallest share, no further
    assert saved(table, "d", "half") == pytest.approx(0.39)
    assert saved(table, "d", "bad") == pytest.approx(0.0)  # better again below: not followed
    # Two seeds of full differ: a standard error of 0.05 below their mean is still equal.
    spread = Table([row("full", accuracy=a, seed=s) for s, a in ((0, 0.85), (1, 0.95))]
                   + curve("half", (0.9, 0.8, 0.7)))  # fmt: skip
    assert saved(spread, "d", "half") == pytest.approx(1 - (0.61 - 0.5 * 0.31))
    assert saved(Table(full), "d", "good") is None


def test_bars_are_missed_and_met():
    rows = [row("full", accuracy=0.9 + s / 1000, seed=s) for s in range(3)]
    for keep, ours, chance in ((0.61, 0.91, 0.85), (0.3, 0.8, 0.84), (0.1, 0.8, 0.7)):
        for s in range(3):
            rows += [row("dripgate", keep, ours + s / 1000, s), row("random", keep, chance, s)]
            rows += [row("class_random", keep, chance, s)]
    found = {bar.asked: bar.met for bar in small(Table(rows))}
    assert found["61 %: not below full"]
    assert found["61 %: above random"]
    assert not found["30 %: not below class-balanced random"]
    assert found["10 %: not below class-balanced random"]
    assert found["saved at equal accuracy: more than 39 %"]


def test_one_seed_decides_nothing():
    rows = [row("full", accuracy=0.9), row("dripgate", 0.61, 0.8)]
    assert small(Table(rows))[0].met is None
    assert "one seed cannot say" in "\n".join(lines(rows))


def whole(rule, keep, accuracy, seed, data="mnist"):
    plan = plan_for(data, "paper", 10, "bfloat16").id
    return row(rule, keep, accuracy, seed, data=data, plan=plan, dtype="bfloat16")


def test_whole_data_sets_have_bars_of_their_own_and_the_missed_come_first():
    rows = []
    for s in range(3):
        rows += [whole("full", 1.0, 0.9 + s / 1000, s)]
        for keep, ours in ((0.61, 0.91), (0.3, 0.9), (0.1, 0.8), ("auto", 0.88)):
            rows += [whole("dripgate", keep, ours + s / 1000, s)]
            rows += [whole("random", keep, 0.85, s), whole("margin", keep, 0.905 + s / 1000, s)]
    met = {bar.asked: bar.met for bar in paper(Table(rows))}
    assert met == {
        "61 %: not below full": True, "61 %: not below margin": True, "61 %: above random": True,
        "30 %: not below full": True, "30 %: not below margin": False, "30 %: above random": True,
        "auto: at most 0.5 points below full": False,
        "saved at equal accuracy: more than 70 %": True,
    }  # fmt: skip
    told = lines(rows)
    assert told[0] == "2 of 8 missed."
    assert [text.endswith("**no** |") for text in told[4:]] == [True] * 2 + [False] * 6


def test_the_page_has_every_row(rows):
    page = markdown(rows)
    assert page.count("\n| ") > len({r.key for r in rows}) / 2
    for r in rows:
        assert f"{100 * r.accuracy:.1f}" in page
