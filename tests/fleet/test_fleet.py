"""A fleet's intervals cover, devices are told apart, and who is worst is named first."""

import msgspec
import numpy as np

from dripgate.fleet import fleet_account, together
from dripgate.policy.estimate import wilson
from dripgate.store import Event, Store
from dripgate.stream.figures import Figures
from dripgate.stream.report import Report
from dripgate.types import Decision, Reason, Sample, Verdict


def test_the_interval_covers_the_fleet_from_which_the_devices_come():
    """Devices of accuracy Beta(18, 2), 100 labels each: 95 % asked for; pooling covers far less."""
    rng, hits, pooled, rounds = np.random.default_rng(0), 0, 0, 1000
    for _ in range(rounds):
        accuracies = rng.beta(18, 2, 12)
        labels = [rng.random(100) < a for a in accuracies]
        parts = [(1000, wilson(right, np.full(100, 10.0), 1000)) for right in labels]
        found = together(parts)
        hits += found.low <= 0.9 <= found.high
        one = wilson(np.concatenate(labels), np.full(1200, 10.0), 12_000)
        pooled += one.low <= 0.9 <= one.high
    assert 0.93 < hits / rounds < 0.985
    assert pooled / rounds < 0.75


def fleet(path):
    """Three devices; the third is wrong half of the time."""
    rng = np.random.default_rng(1)
    with Store(path) as store:
        for device, accuracy in (("a", 0.95), ("b", 0.9), ("c", 0.5)):
            pairs, labels, gates = [], {}, {}
            for i in range(200):
                sample = Sample(f"{device} {i}".encode(), f"{device}/{i}.png", float(i))
                right = rng.random() < accuracy
                pairs.append((sample, Verdict(
                    decision=Decision.KEEP, reason=Reason.AUDIT, score=0.5, quality=1.0,
                    predicted=0, propensity=0.1)))  # fmt: skip
                labels[sample.id] = "yes" if right else "no"
                gates[sample.id] = "f" * 12
            store.put_many(pairs, labels=labels, gates=gates)
            figures = Figures(seen=2000, keep=200, drop=1800, chance=2000)
            report = Report(gate="f" * 12, classes=("yes", "no"), figures={"f" * 12: figures},
                            versions={"f" * 12: 17})  # fmt: skip
            event = Event(what="switched", gate="f" * 12, said="x", number=1, device=device)
            text = msgspec.json.encode(report).decode()
            for _ in range(2):  # a report that comes again changes nothing
                store.note_reports({device: text}, [event])


def test_devices_one_by_one_and_together(tmp_path):
    fleet(tmp_path / "fleet.db")
    with Store(tmp_path / "fleet.db", read_only=True) as store:
        found = fleet_account(store)
        assert len(store.events()) == 3
    assert found.devices[0].name == "c"
    for one, accuracy in zip(found.devices, (0.5, 0.9, 0.95), strict=True):
        assert one.estimates.accuracy.low < accuracy < one.estimates.accuracy.high
    assert found.accuracy.high - found.accuracy.low > 0.4  # three devices that differ say little
    assert set(found.classes) == {"yes", "no"}


def test_inspect_shows_the_fleet(tmp_path, dripgate):
    fleet(tmp_path / "fleet.db")
    code, out, err = dripgate("inspect", tmp_path / "fleet.db")
    assert code == 0, err
    lines = [line for line in out.splitlines() if "release 17" in line]
    assert [line.split()[0] for line in lines] == ["c", "a", "b"] or lines[0].split()[0] == "c"
    assert "fleet        3 devices" in out
