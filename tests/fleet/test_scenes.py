"""Scenes that several devices saw: as many as there are, and only where embeddings compare."""

import msgspec
import numpy as np
import pytest

from dripgate.fleet import fleet_account
from dripgate.fleet.scenes import SHARE, scenes
from dripgate.policy.duplicates import Duplicates, distances, radius
from dripgate.store import Store
from dripgate.stream.report import Report
from dripgate.types import Decision, Reason, Sample, Verdict
from needs import need

need("usearch")

KEPT = Verdict(
    decision=Decision.KEEP, reason=Reason.BAND, score=0.5, quality=1.0, predicted=0, propensity=1.0
)
RNG = np.random.default_rng(0)
FAR = RNG.standard_normal((600, 24)).astype(np.float32)
MEASURED = distances(RNG.standard_normal((3000, 24)).astype(np.float32))


def add(store, device, embeddings, gate="a" * 12):
    pairs, gates, known = [], {}, {}
    for values in embeddings:
        sample = Sample(f"{device} {gate} {values!r}".encode(), f"{device}/x.png", 0.0)
        pairs.append((sample, KEPT))
        gates[sample.id], known[sample.id] = gate, values
    store.put_many(pairs, gates=gates, embeddings=known)


def again(points):
    """The same scenes, a little later."""
    return points + 0.02 * RNG.standard_normal(points.shape).astype(np.float32)


def say(store, device, gate="a" * 12, lineage=(), distances=MEASURED):
    report = Report(gate=gate, lineage=lineage, distances=distances)
    store.note_reports({device: msgspec.json.encode(report).decode()})
    return report


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "fleet.db") as store:
        yield store


def test_scenes_of_several_devices_are_counted_once_and_the_pairs_named(store):
    add(store, "north", FAR[:200])
    add(store, "south", np.concatenate([again(FAR[150:200]), FAR[200:350]]))
    add(store, "south", again(FAR[150:160]))  # which it saw twice
    add(store, "east", np.concatenate([again(FAR[190:200]), FAR[350:400]]))
    reports = {name: say(store, name) for name in ("north", "south", "east")}
    found = scenes(store, reports)
    assert (found.compared, found.strangers, found.older) == (470, 0, 0)
    # Of 400 distinct ones about SHARE are taken for another.
    assert 400 * (1 - 3 * SHARE) <= found.scenes <= 400
    assert 50 <= found.shared <= 50 + 400 * 3 * SHARE
    assert found.pairs[0][:2] == ("north", "south")
    assert {pair[:2] for pair in found.pairs} == {
        ("north", "south"), ("east", "north"), ("east", "south")
    }  # fmt: skip
    assert found.devices["east"][1] >= 10


def test_it_is_what_comparing_all_with_all_gives(store):
    """Approximate neighbours beside the definition."""
    points = np.concatenate([FAR, again(FAR[::3]), again(FAR[::5])])
    devices = [f"d{i % 4}" for i in range(len(points))]
    for device, values in zip(devices, points, strict=True):
        add(store, device, [values])
    nearness = radius(MEASURED, SHARE, len(points))
    fold = Duplicates(0.0)
    known, seen = [], []
    for device, values in zip(devices, points, strict=True):
        point, squared = fold.points(values.astype(np.float16).astype(np.float32)[None])[0]
        gaps = [((point - p) ** 2).sum() - nearness**2 * (squared + s) / 2 for p, s in known]
        near = [i for i, gap in enumerate(gaps) if gap <= 0]
        if near:
            nearest = min(near, key=lambda i: ((point - known[i][0]) ** 2).sum())
            seen[nearest].add(device)
        else:
            known.append((point, squared))
            seen.append({device})
    found = scenes(store, {"d0": say(store, "d0")})
    assert abs(found.scenes - len(seen)) <= 2
    assert abs(found.shared - sum(len(one) > 1 for one in seen)) <= 2


def test_embeddings_of_other_classifiers_are_not_compared_and_counted(store):
    add(store, "north", FAR[:50])
    add(store, "south", again(FAR[:50]), gate="b" * 12)
    add(store, "west", FAR[:7, :3], gate="c" * 12)
    south = say(store, "south", gate="b" * 12)
    found = scenes(store, {"north": say(store, "north"), "south": south})
    assert (found.shared, found.compared, found.strangers) == (0, 100, 7)
    learned = say(store, "south", gate="b" * 12, lineage=("a" * 12,))
    found = scenes(store, {"north": say(store, "north"), "south": learned})
    assert found.shared >= 49  # its head learned from north's: the same trunk
    silent = say(store, "north", distances=())
    assert scenes(store, {"north": silent}).strangers == 107


def test_only_the_newest_are_compared_and_the_rest_is_said(store):
    add(store, "north", FAR[:40])
    add(store, "south", again(FAR[:40]))
    found = scenes(store, {"north": say(store, "north")}, most=50)
    assert (found.compared, found.older) == (50, 30)


def test_embeddings_of_a_width_that_no_gate_of_that_name_has_harm_nothing(store):
    add(store, "north", FAR[:20])
    add(store, "evil", FAR[:20, :5])
    found = scenes(store, {"north": say(store, "north")})
    assert (found.compared, found.shared) == (40, 0)


def test_inspect_says_what_is_shared_or_why_it_does_not_know(store, dripgate, monkeypatch):
    add(store, "north", FAR[:30])
    say(store, "north")
    code, out, err = dripgate("inspect", store.path)
    assert code == 0, err
    assert "scenes       0 of 30 were seen by several devices" in out
    monkeypatch.setitem(__import__("sys").modules, "usearch.index", None)
    code, out, err = dripgate("inspect", store.path)
    assert code == 0, err
    assert "scenes       not compared: looking for near-duplicates needs the 'fleet' extra" in out
    monkeypatch.undo()
    with Store(store.path.with_name("bare.db")) as bare:
        say(bare, "north")
        assert "send with --send-embeddings" in fleet_account(bare).apart
