"""What a run that lasts reports, and what it forgets."""

import json
import re

import pytest

from dripgate.errors import UserError
from dripgate.store import Store
from dripgate.stream.loop import Summary, run
from dripgate.stream.service import Service, render
from dripgate.types import Sample


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def metrics(path):
    """Prometheus' text format: name and labels → value; every metric has its help and type."""
    values, told = {}, set()
    text = path.read_text()
    assert text.endswith("\n")
    for line in text.splitlines():
        if found := re.fullmatch(r"# (HELP|TYPE) ([a-z_]+) (.+)", line):
            told.add((found[1], found[2]))
        else:
            found = re.fullmatch(r"(([a-z_]+)(?:\{reason=\"[a-z_]+\"\})?) ([0-9.e+-]+)", line)
            assert {("HELP", found[2]), ("TYPE", found[2])} <= told, line
            assert found[1] not in values
            values[found[1]] = float(found[3])
    return values


def test_one_line_and_one_whole_file_per_interval(gate, stream, tmp_path):
    clock, lines, file = Clock(), [], tmp_path / "dripgate.prom"
    with Store(tmp_path / "k.db", "5MB") as store:
        service = Service(store, metrics=file, interval=60, log=lines.append, clock=clock)
        for passed in (59, 2, 58, 3):
            clock.now += passed
            summary = run(gate, [Sample(p, n) for n, p in stream[:50]], store, on_turn=service.turn)
        counters = store.counters
        assert [json.loads(line)["seen"] for line in lines] == [100, 200]
        service.report(summary)
        kept = len(store)
    found = metrics(file)
    assert found["dripgate_seen_total"] == counters["seen"] == 200
    assert found["dripgate_bytes_seen_total"] == counters["bytes_seen"]
    assert found["dripgate_keep_total"] + found["dripgate_quarantine_total"] > 0
    assert found["dripgate_store_samples"] == found["dripgate_pending"] == kept > 0
    assert found["dripgate_store_limit_bytes"] == 5_000_000
    assert found["dripgate_memory_bytes"] > 1e6
    assert [path.name for path in tmp_path.glob("*prom*")] == ["dripgate.prom"]


def test_totals_go_on_after_a_restart(gate, stream, tmp_path):
    for total in (40, 80):
        with Store(tmp_path / "k.db") as store:
            summary = run(gate, [Sample(p, n) for n, p in stream[:40]], store)
            Service(store, metrics=tmp_path / "m.prom", log=lambda _: None).report(summary)
        assert metrics(tmp_path / "m.prom")["dripgate_seen_total"] == total


def test_evictions_are_counted_by_reason(tmp_path):
    values = {"seen": 5, "evicted_limit": 3, "evicted_age": 2, "refused": 1, "refused_audit": 4}
    (tmp_path / "m.prom").write_bytes(render(values))
    assert metrics(tmp_path / "m.prom") == {
        "dripgate_seen_total": 5,
        'dripgate_evicted_total{reason="limit"}': 3,
        'dripgate_evicted_total{reason="age"}': 2,
        'dripgate_refused_total{reason="limit"}': 1,
        'dripgate_refused_total{reason="audit"}': 4,
    }


def test_what_is_too_old_goes_at_once_and_then_every_hour(gate, stream, tmp_path):
    clock = Clock()
    old = [Sample(payload, name, 1000.0) for name, payload in stream]
    with Store(tmp_path / "k.db") as store:
        run(gate, old[:300], store)
        before = len(store)
        service = Service(store, max_age=86400, clock=clock)
        service.turn(Summary())
        assert (len(store), store.counters["evicted_age"]) == (0, before)
        run(gate, old[300:600], store)
        clock.now += 3000
        service.turn(Summary())
        assert len(store) > 0
        clock.now += 700
        service.turn(Summary())
        assert len(store) == 0


def test_metrics_that_cannot_be_written_are_named(tmp_path):
    with Store(tmp_path / "k.db") as store:
        service = Service(store, metrics=tmp_path / "none" / "m.prom", log=lambda _: None)
        with pytest.raises(UserError, match=r"m\.prom: metrics cannot be written"):
            service.report(Summary())
