"""A fleet's intervals cover, devices are told apart, and who is worst is named first."""

import msgspec
import numpy as np
import pytest
from tests.report.test_page import Page

from dripgate.fleet import fleet_account, together
from dripgate.policy.estimate import wilson
from dripgate.report.words import interval
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


# The page -----------------------------------------------------------------------------------------


def page(path, dripgate):
    out = path.with_suffix(".html")
    code, said, err = dripgate("report", path, "--out", out)
    assert code == 0, err
    return out.read_text(), said


def test_the_report_shows_devices_gates_and_whom_to_look_at(tmp_path, dripgate):
    fleet(tmp_path / "fleet.db")
    html, said = page(tmp_path / "fleet.db", dripgate)
    assert "look at c first" in said
    shown = Page(html)
    assert "Look at c first: its accuracy is surely at most" in shown.text
    rows = shown.tables["devices"][1:]
    assert rows[0][0] == "c"
    assert {row[0] for row in rows} == {"a", "b", "c"}
    with Store(tmp_path / "fleet.db", read_only=True) as store:
        found = fleet_account(store)
    for row, one in zip(rows, found.devices, strict=True):
        assert row[2:5] == ["2,000", "10 %", "0 %"]
        assert row[5] == interval(one.estimates.accuracy)
    assert shown.tables["gates"][1:] == [
        ["ffffffffffffrelease 17", "3 of 3", "6,000", "10 %", "0", "0"]
    ]
    assert [row[0] for row in shown.tables["by-gate"][1:]] == [row[0] for row in rows]
    assert [row[0] for row in shown.tables["mix"][1:]] == ["no", "yes"]
    assert shown.tables["mix"][0][2:] == [one.name for one in found.devices]
    assert shown.tables["mix"][2][2] == interval(found.devices[0].mix["yes"])
    estimates = {row[0]: row[1:3] for row in shown.tables["estimates"][1:]}
    assert estimates["all together"] == [interval(found.accuracy), interval(found.dropped_accuracy)]
    assert estimates["c"][1] == interval(found.devices[0].estimates.dropped_accuracy)
    assert "send with --send-embeddings" in shown.text
    assert html == page(tmp_path / "fleet.db", dripgate)[0]  # the same numbers, the same bytes
    assert not {"script", "iframe", "object"} & {tag for tag, _ in shown.elements}


HOSTILE = [
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "a\nb\x1b[2Jc\x07",
    "evil\u202egnp.exe", "'; DROP TABLE devices; --", "{{ 7*7 }}", "\ufeff\x00\x9b31m", "x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_from_devices_are_data_in_report_and_terminal(tmp_path, dripgate, name):
    """A device's topic names it in letters and digits; its classes, gates and texts are its own,
    and a store may be anybody's.
    """
    path = tmp_path / "fleet.db"
    with Store(path) as store:
        figures = Figures(seen=5, keep=1)
        report = Report(gate=name[:64], classes=(name,), figures={name: figures},
                        versions={name: 3})  # fmt: skip
        event = Event(what=name[:32], gate=name[:64], said=name[:1024], number=1, device=name)
        text = msgspec.json.encode(report).decode()
        store.note_reports({name: text, "plain": text}, [event])
        verdict = Verdict(decision=Decision.KEEP, reason=Reason.AUDIT, score=0.5, quality=1.0,
                          predicted=0, propensity=0.5)  # fmt: skip
        sample = Sample(b"x", f"silent {name}/a.png", 0.0)
        store.put_many([(sample, verdict)], labels={sample.id: name[:256]})
    html, said = page(path, dripgate)
    shown = Page(html)  # refuses what is nested wrongly
    assert not {"script", "iframe", "object"} & {tag for tag, _ in shown.elements}
    assert not any(key.startswith("on") for _, given in shown.elements for key in given)
    assert "49" not in shown.text.split("Look at")[1][:40]
    assert not set(html) & set("\x00\x07\x1b\x9b\u202e")
    for command in (("inspect", path), ("inspect", path, "--releases")):
        code, out, err = dripgate(*command)
        assert code == 0, err
        assert all(line.isprintable() for line in (out + said).splitlines())


def test_a_report_needs_a_fleet(tmp_path, dripgate):
    with Store(tmp_path / "kept.db"):
        pass
    code, _, err = dripgate("report", tmp_path / "kept.db", "--out", tmp_path / "r.html")
    assert code == 2
    assert "no device reported to it" in err
    code, _, err = dripgate("report", tmp_path / "gone.db", "--out", tmp_path / "r.html")
    assert code == 2
    assert "no such file" in err
    assert not (tmp_path / "r.html").exists()


def test_two_receivers_cannot_write_into_one_store(tmp_path, dripgate):
    """The second is refused at once and the first goes on; both at once would tear the account."""
    fleet(tmp_path / "fleet.db")
    with Store(tmp_path / "fleet.db"):
        code, _, err = dripgate(
            "receive", "mqtt://127.0.0.1:1/farm", "--store", tmp_path / "fleet.db"
        )
        assert code == 1 or code == 2
        assert "already has a writer" in err
        assert len(err.strip().splitlines()) == 1
    with Store(tmp_path / "fleet.db", read_only=True) as store:
        assert store.check() == []
