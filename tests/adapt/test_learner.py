"""``run --adapt``: the head learns while the loop runs, and nothing is lost or decided twice."""

import json

import pytest

from dripgate.gate import Gate
from dripgate.release.manifest import Limits, Manifest
from dripgate.release.state import Releases, Trial
from dripgate.release.trial import Trials
from dripgate.store import Labels, Store
from dripgate.stream.force import InForce
from dripgate.stream.learner import Learner
from dripgate.stream.loop import run
from dripgate.types import Sample


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Stream:
    """Samples in batches of 64; ``between`` is called after each batch."""

    def __init__(self, samples, between):
        self.samples, self.between = samples, between

    def __iter__(self):
        for i, sample in enumerate(self.samples):
            yield sample
            if i % 64 == 63:
                yield None
                self.between(i + 1)


def _open(gate: Gate) -> Gate:
    """Keeps everything."""
    import msgspec

    from dripgate.gate_tensors import changed

    none = (None,) * len(gate.info.classes)
    thresholds = msgspec.structs.replace(
        gate.info.thresholds, low=none, high=none, quality_low=None
    )
    return Gate(changed(gate.data, msgspec.structs.replace(gate.info, thresholds=thresholds)))


@pytest.fixture
def world(tmp_path, gate, stream, dark):
    """(store path, samples of a changed camera, their classes by id, a gate that keeps all)."""
    samples = [Sample(payload=dark(data), source=f"{i}.png") for i, (_, data) in enumerate(stream)]
    truth = {s.id: name.split("/")[-2] for s, (name, _) in zip(samples, stream, strict=True)}
    return tmp_path / "kept.db", samples[:512], truth, _open(gate)


def _label(path, truth):
    with Store(path, read_only=True) as store:
        ids = [row.id for row in store]
    with Labels(path) as labels:
        labels.relabel({id: truth[id] for id in ids}, who="somebody")


def test_labels_arrive_and_another_head_decides_what_comes_then(world):
    path, samples, truth, gate = world
    clock, told = Clock(), []

    def between(n):
        if n == 256:
            _label(path, truth)
            clock.now += 100

    with Store(path) as store:
        force = InForce(store, gate)
        learner = Learner(store, force, 60, told=told.append, clock=clock)
        summary = run(force, Stream(samples, between), store, observers=[learner])
        assert [event.what for event in store.events()] == ["adapted"]
        assert (summary.seen, summary.stored + summary.present) == (512, 512)
        decided = [one.gate for one in store]
    assert len(decided) == len({s.id for s in samples})
    assert set(decided) == {gate.id, force.gate.id}
    assert force.gate.id != gate.id
    assert decided.index(force.gate.id) >= 200
    with Store(path) as store:  # the next run goes on with it
        assert InForce(store, gate).gate.id == force.gate.id


def test_the_same_labels_are_not_learned_twice(world):
    path, samples, truth, gate = world
    clock = Clock()

    def between(n):
        if n == 128:
            _label(path, truth)
        clock.now += 100

    with Store(path) as store:
        force = InForce(store, gate)
        run(
            force,
            Stream(samples, between),
            store,
            observers=[Learner(store, force, 60, clock=clock)],
        )
        assert [event.what for event in store.events()] == ["adapted"]


@pytest.mark.parametrize(("ended", "events"), [(True, ["adapted"]), (False, [])])
def test_the_head_stays_while_another_gate_is_on_trial_and_no_longer(world, ended, events):
    path, samples, truth, gate = world
    limits = Limits(psi=1e9, watch=10**6)  # nothing ends it
    manifest = Manifest(version=1, gate=gate.id, sha256=gate.sha256, limits=limits)
    trial = Trial(manifest=manifest, phase="watch", before="0" * 12, since=0.0)
    clock = Clock()

    def between(n):
        if n == 256:
            _label(path, truth)
            clock.now += 100

    with Store(path) as store:
        store.put_many([], meta=Releases(trial=None if ended else trial, last="x").note())
        force = InForce(store, gate)
        trials = Trials(store, force, clock=lambda: 0.0)
        learner = Learner(store, force, 60, busy=lambda: trials.busy, clock=clock)
        run(force, Stream(samples, between), store, observers=[trials, learner])
        assert [event.what for event in store.events()] == events


def test_a_head_that_does_worse_gives_its_place_back(world, gate, stream):
    """Wrong labels in a gate without memory: what it decides then is labelled rightly."""
    import msgspec

    from dripgate.gate_tensors import changed

    path, _, _, all_ = world
    bare = Gate(changed(all_.data, msgspec.structs.replace(all_.info, memory=None)))
    samples = [Sample(payload=data, source=f"{i}.png") for i, (_, data) in enumerate(stream[:640])]
    truth = {s.id: name.split("/")[-2] for s, (name, _) in zip(samples, stream[:640], strict=True)}
    wrong = {id: str((int(label) + 1) % 10) for id, label in truth.items()}
    clock = Clock()

    def between(n):
        if n in (192, 448):
            with Store(path, read_only=True) as opened:
                ids = [one.id for one in opened if n == 192 or one.gate != bare.id]
            with Labels(path) as labels:
                labels.relabel({id: (wrong if n == 192 else truth)[id] for id in ids}, who="x")
            clock.now += 100

    with Store(path) as store:
        force = InForce(store, bare)
        learner = Learner(store, force, 60, clock=clock)
        run(force, Stream(samples, between), store, observers=[learner])
        assert [event.what for event in store.events()] == ["adapted", "rolled back"]
        assert force.gate.id == bare.id


def test_trouble_is_told_and_the_stream_goes_on(world):
    path, samples, truth, gate = world
    clock, told = Clock(), []

    def between(n):
        with Store(path, read_only=True) as opened:
            some = [one.id for one in opened][: 5 + n // 64]
        with Labels(path) as labels:
            labels.relabel({id: truth[id] for id in some}, who="x")
        clock.now += 100

    with Store(path) as store:
        force = InForce(store, gate)
        learner = Learner(store, force, 60, told=told.append, clock=clock)
        summary = run(force, Stream(samples[:192], between), store, observers=[learner])
    assert summary.seen == 192
    assert "at least 20 are needed" in told[0]
    assert force.gate.id == gate.id


def test_the_command_learns_from_a_watched_file(world, tmp_path, dripgate):
    path, samples, truth, gate = world
    gate.save(tmp_path / "gate.onnx")
    folder = tmp_path / "in"
    folder.mkdir()
    for i, sample in enumerate(samples[:256]):
        (folder / f"{i:04d}.png").write_bytes(sample.payload)
    rows = "".join(f"{id},{label}\n" for id, label in truth.items())
    (tmp_path / "labels.csv").write_text("id,label\n" + rows)
    code, _, err = dripgate(
        "run", tmp_path / "gate.onnx", folder, "--store", path, "--adapt", "0.001s",
        "--labels", tmp_path / "labels.csv", "--json", tmp_path / "said.json",
    )  # fmt: skip
    assert code == 0, err
    assert "adapted: " in err
    assert json.loads((tmp_path / "said.json").read_text())["summary"]["seen"] == 256
    with Store(path, read_only=True) as store:
        assert len({one.gate for one in store}) >= 2, err
    assert dripgate("run", tmp_path / "gate.onnx", folder, "--store", path, "--adapt", "0h")[0] == 2
    assert dripgate("run", tmp_path / "gate.onnx", folder, "--store", path, "--labels", "x")[0] == 2
