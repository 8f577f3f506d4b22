"""What is chosen of an archive, and what of it arrives in a store."""

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest

from needs import need

need("Daft")
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from dripgate.archive.choose import Wish, choose
from dripgate.archive.rows import SCHEMA, sketched, unsketched
from dripgate.errors import UserError
from dripgate.policy.duplicates import SIZE, radius
from dripgate.store import Store
from dripgate.stream.account import account
from dripgate.twins import Twins

DAY = 86_400_000_000


def partition(path, info, scores, classes, *, days=None, verdicts=None, points=None, ids=None):
    """A partition of rows as sift writes them."""
    n = len(scores)
    points = np.random.default_rng(0).standard_normal((n, 16)) if points is None else points
    values = {
        "address": [f"/a/{i}.png" for i in range(n)],
        "id": [f"{i:064x}" for i in (range(n) if ids is None else ids)],
        "time": [d * DAY for d in (days or [0] * n)],
        "predicted": [info.classes[c] for c in classes],
        "probability": [0.9] * n, "score": scores, "quality": [1.0] * n,
        "verdict": verdicts or ["drop"] * n, "reason": ["band"] * n, "bytes": [9] * n,
        "row": list(range(n)), "sketch": sketched(np.asarray(points, np.float32)),
    }  # fmt: skip
    columns = [pa.array(values.get(f.name, [None] * n)).cast(f.type) for f in SCHEMA]
    parquet.write_table(pa.table(columns, schema=SCHEMA), path)
    return path


def chosen(tmp_path, info, wish, *arguments, **more):
    part = partition(tmp_path / "part-000000.parquet", info, *arguments, **more)
    return choose([part], info, wish, tmp_path / "scratch.db")


@pytest.mark.parametrize(("keep", "audit"), [(0.05, 0.01), (0.3, 0.0), (1.0, 0.01)])
def test_the_share_is_kept_to_exactly(tmp_path, gate, keep, audit):
    scores = np.random.default_rng(1).permutation(1000) / 1000
    wish = Wish(keep=keep, audit=audit, floor=0.0, duplicates=0.0)
    choice, picks = chosen(tmp_path, gate.info, wish, scores, [0] * 1000)
    assert len(picks) == 1000 * keep
    drawn = round(min(audit, keep / 4) * 1000)
    best = set(np.argsort(-scores)[: len(picks) - drawn].tolist())
    assert {one.at for one in picks if one.propensity == 1 and one.reason == "band"} >= best
    by_chance = [one for one in picks if one.reason == "audit"]
    assert len(by_chance) == choice.audited == min(drawn, 1000 - choice.chosen)
    left = 1000 - choice.chosen
    assert {one.propensity for one in by_chance} <= {drawn / max(left, 1)}
    assert not (tmp_path / "scratch.db").exists()


def test_each_class_has_its_floor(tmp_path, gate):
    classes = [0] * 900 + [1] * 90 + [2] * 10
    scores = np.concatenate([np.full(900, 2.0), np.full(90, 1.0), np.zeros(10)])
    scores += np.arange(1000) / 10_000
    wish = Wish(keep=0.2, audit=0.0, floor=0.5, duplicates=0.0)
    choice, picks = chosen(tmp_path, gate.info, wish, scores, classes)
    got = Counter(classes[one.at] for one in picks)
    assert got == {0: 190, 1: 9, 2: 1}
    assert Counter(one.reason.value for one in picks) == {"band": 190, "class floor": 10}
    assert choice.classes[gate.info.classes[2]] == (10, 1)


def test_no_day_has_more_than_its_part(tmp_path, gate):
    days = [i % 4 for i in range(400)]
    wish = Wish(keep=0.5, audit=0.0, duplicates=0.0, per_day=20)
    scores = np.arange(400) / 400
    choice, picks = chosen(tmp_path, gate.info, wish, scores, [0] * 400, days=days)
    assert Counter(days[one.at] for one in picks) == dict.fromkeys(range(4), 20)
    assert choice.wanted == 200
    assert choice.full_days > 0


def test_the_same_scene_and_the_same_bytes_are_chosen_once(tmp_path, gate):
    rng = np.random.default_rng(2)
    scenes = rng.standard_normal((50, 16)).astype(np.float32) * 4
    points = np.repeat(scenes, 8, axis=0) * (1 + 1e-4 * rng.standard_normal((400, 16)))
    ids = [i if i % 8 else 10_000 for i in range(400)]  # fifty have the same bytes
    info = msgspec.structs.replace(
        gate.info, calibration=msgspec.structs.replace(
            gate.info.calibration, distances=tuple(0.3 + i / 100 for i in range(101))
        )
    )  # fmt: skip
    wish = Wish(keep=1.0, audit=0.0, floor=0.0)
    scores = rng.permutation(400) / 400
    choice, picks = chosen(tmp_path, info, wish, scores, [0] * 400, points=points, ids=ids)
    assert choice.repeats == 49
    assert {one.at // 8 for one in picks} == set(range(50))
    assert len(picks) == 50
    for one in picks:  # the best of each scene
        others = [at for at in range(one.at // 8 * 8, one.at // 8 * 8 + 8) if at % 8]
        assert scores[one.at] >= max(scores[at] for at in others)


def test_broken_input_is_never_chosen_but_may_be_drawn(tmp_path, gate):
    verdicts = ["quarantine"] * 100 + ["keep"] * 100
    wish = Wish(keep=0.5, audit=0.1, duplicates=0.0, floor=0.0)
    scores = np.arange(200)[::-1] / 200
    _, picks = chosen(tmp_path, gate.info, wish, scores, [0] * 200, verdicts=verdicts)
    aside = [one for one in picks if one.at < 100]
    assert aside
    assert {(one.decision.value, one.reason.value) for one in aside} == {("quarantine", "audit")}


def test_without_a_share_the_band_is_chosen(tmp_path, gate):
    verdicts = ["keep" if i % 10 == 0 else "drop" for i in range(500)]
    wish = Wish(audit=0.02, duplicates=0.0, floor=0.0)
    scores = np.arange(500) / 500
    choice, picks = chosen(tmp_path, gate.info, wish, scores, [0] * 500, verdicts=verdicts)
    assert {one.at for one in picks if one.reason == "band"} == set(range(0, 500, 10))
    assert choice.wanted is None
    assert choice.audited == 10


def test_chance_is_fair_and_repeats_by_seed(tmp_path, gate):
    scores = np.arange(2000) / 2000
    drawn = []
    for seed in (0, 0, 1):
        wish = Wish(keep=0.5, audit=0.1, duplicates=0.0, floor=0.0, seed=seed)
        _, picks = chosen(tmp_path, gate.info, wish, scores, [0] * 2000)
        drawn.append({one.at for one in picks if one.reason == "audit"})
    assert drawn[0] == drawn[1] != drawn[2]
    assert 400 < np.mean(list(drawn[0])) < 800  # of 0 … 1199


def test_wishes_out_of_range_are_refused():
    for wrong in ({"keep": 0.0}, {"floor": 2.0}, {"audit": -0.1}, {"per_day": 0}):
        with pytest.raises(UserError):
            Wish(**wrong)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 48), st.integers(0, 2**32 - 1))
def test_sketches_hold_what_is_compared(width, seed):
    points = np.random.default_rng(seed).standard_normal((9, width)).astype(np.float32)
    found = unsketched(sketched(points))
    assert found.shape == (9, min(width, 32))
    assert sketched(found) == sketched(points) or width > 32


def test_twins_finds_what_comparing_all_finds():
    rng = np.random.default_rng(3)
    points = rng.standard_normal((1500, 24)).astype(np.float32)
    far = rng.uniform(0.02, 0.2, (1500, 1))
    near = points + (far * rng.standard_normal(points.shape)).astype(np.float32)
    known = Twins(0.1)
    for point in unsketched(sketched(points)):
        known.add(point)
    gaps = ((unsketched(sketched(points)) - unsketched(sketched(near))) ** 2).sum(axis=1)
    squares = (unsketched(sketched(points)) ** 2).sum(1) + (unsketched(sketched(near)) ** 2).sum(1)
    same = gaps <= 0.1**2 * squares / 2
    found = np.array([known.find(one) is not None for one in unsketched(sketched(near))])
    assert 100 < same.sum() < 1400
    assert (found == same).mean() > 0.995
    assert all(Twins(0.0).find(one) is None for one in unsketched(sketched(near)))


def test_so_many_distinct_scenes_are_lost_and_no_more():
    """Points without twins, among as many others as are chosen: the share that was asked for."""
    from dripgate.policy.duplicates import distances

    rng = np.random.default_rng(4)
    measured = distances(rng.standard_normal((2000, 8)).astype(np.float32))
    points = rng.standard_normal((8000, 8)).astype(np.float32)
    known, lost = Twins(radius(measured, 0.05, len(points))), 0
    for point in unsketched(sketched(points)):
        if known.find(point) is not None:
            lost += 1
        else:
            known.add(point)
    assert 0.005 < lost / len(points) < 0.1
    assert radius(measured, 0.05) == radius(measured, 0.05, SIZE) > radius(measured, 0.05, 10**6)


# Into a store ------------------------------------------------------------------------------------


def test_a_store_of_the_chosen_estimates_and_goes_on(dripgate, archive, loop, tmp_path):
    asked = ("sift", archive, "--gate", loop / "gate.onnx", "--out", tmp_path / "s.parquet",
             "--workers", 1, "--keep", 0.3, "--audit", 0.05, "--duplicates", 0,
             "--copy-to", tmp_path / "kept.db")  # fmt: skip
    code, out, err = dripgate(*asked, "--json", tmp_path / "s.json")
    assert code == 0, err
    value = msgspec.json.decode((tmp_path / "s.json").read_bytes())
    total = value["choice"]["chosen"] + value["choice"]["audited"]
    assert total == round(0.3 * value["choice"]["samples"]) == value["copied"]["stored"]
    table = parquet.read_table(tmp_path / "s.chosen.parquet").to_pylist()
    with Store(tmp_path / "kept.db", read_only=True) as store:
        assert len(store) == total
        for row in table:
            stored = store.get(row["id"])
            assert stored.intact
            assert archive.joinpath(stored.source).read_bytes() == stored.payload
            assert (stored.propensity, stored.reason) == (row["propensity"], row["reason"])
        found = account(store)
        assert found.estimates.by_chance == value["choice"]["audited"]  # labels are class folders
        assert found.estimates.covered == 1
        assert len(store.embeddings().keys) == total
    code, out, _ = dripgate(*asked)
    assert code == 0
    assert f"0 stored, {total} there already" in out
    assert "all was decided before" in out
    with Store(tmp_path / "kept.db", read_only=True) as store:
        assert store.counters["seen"] == value["sift"]["tally"]["samples"]
    code, _, err = dripgate(*asked, "--seed", 7)
    assert code == 2
    assert "another choice" in err


def test_what_changed_since_is_named_and_not_stored(dripgate, archive, loop, tmp_path):
    import shutil

    mine = shutil.copytree(archive, tmp_path / "mine")
    asked = ("sift", mine, "--gate", loop / "gate.onnx", "--out", tmp_path / "s.parquet",
             "--workers", 1, "--keep", 1, "--audit", 0, "--duplicates", 0)  # fmt: skip
    assert dripgate(*asked)[0] == 0
    rows = parquet.read_table(tmp_path / "s.parquet").to_pylist()
    sound = sorted(row["address"] for row in rows if row["verdict"] in ("keep", "drop")
                   and row["cause"] is None)  # fmt: skip
    first, second = map(Path, sound[:2])
    first.unlink()
    second.write_bytes(b"another")
    code, out, _ = dripgate(*asked, "--copy-to", tmp_path / "kept.db")
    assert code == 0
    assert "2 gone or changed since" in out
    assert f"gone {first}: cannot be read" in out
    assert f"gone {second}: its bytes are not those that were decided" in out
