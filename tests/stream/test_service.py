"""What a run that lasts reports, and what it forgets."""

import json
from contextlib import closing
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dripgate.errors import UserError
from dripgate.store import Store
from dripgate.store.age import Clocks
from dripgate.stream.loop import Summary, run
from dripgate.stream.metrics import Listen, Page, parse_listen, render
from dripgate.stream.service import Service
from dripgate.types import Sample


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def metrics(text):
    """Name and labels → value, as Prometheus' own parser reads them; each has help and type."""
    values = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type in ("counter", "gauge"), family.name
        for name, labels, value, *_ in family.samples:
            key = name + "".join(f"{{{key}={value!r}}}" for key, value in labels.items())
            assert key not in values
            values[key] = value
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
    found = metrics(file.read_text())
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
        assert metrics((tmp_path / "m.prom").read_text())["dripgate_seen_total"] == total


def test_evictions_are_counted_by_reason():
    values = {"seen": 5, "evicted_limit": 3, "evicted_age": 2, "refused": 1, "refused_audit": 4}
    assert metrics(render(values).decode()) == {
        "dripgate_seen_total": 5,
        "dripgate_evicted_total{reason='limit'}": 3,
        "dripgate_evicted_total{reason='age'}": 2,
        "dripgate_refused_total{reason='limit'}": 1,
        "dripgate_refused_total{reason='audit'}": 4,
    }


def test_prometheus_is_answered_with_what_was_last_looked_up(gate, stream, tmp_path):
    clock = Clock()
    with Store(tmp_path / "k.db") as store, closing(Page(parse_listen("0"))) as page:
        service = Service(store, page=page, interval=60, log=lambda _: None, clock=clock)
        assert page.address.startswith("http://127.0.0.1:")
        assert metrics(urlopen(page.address).read().decode()) == {}
        for passed, seen in ((0, 40), (4, 40), (2, 120), (60, 160)):
            clock.now += passed
            run(gate, [Sample(p, n) for n, p in stream[:40]], store, on_turn=service.turn)
            answer = urlopen(page.address)
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            assert metrics(answer.read().decode())["dripgate_seen_total"] == seen
        busy = int(page.address.rsplit(":", 1)[1].split("/")[0])
        with pytest.raises(UserError, match=r"nothing can listen there \(Address already in use\)"):
            Page(Listen("127.0.0.1", busy))
    with pytest.raises(OSError, match="refused"):
        urlopen(page.address)


@pytest.mark.parametrize(
    ("text", "where"),
    [("9101", ("127.0.0.1", 9101)), ("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:80", ("::1", 80)),
     (":9101", None), ("host:", None), ("70000", None), ("-1", None), ("host:http", None)],
)  # fmt: skip
def test_where_metrics_listen(text, where):
    if where:
        assert parse_listen(text) == where
    else:
        with pytest.raises(UserError, match=r"--metrics-listen is '.*', expected a port"):
            parse_listen(text)


class Device:
    """A machine whose clock may be wrong, and is set now and then; time passes all the same."""

    def __init__(self, wall):
        self.ahead, self.now = wall, 0.0

    def wall(self):
        return self.ahead + self.now

    def steady(self):
        return self.now

    @property
    def clocks(self):
        return Clocks(self.wall, self.steady)

    def service(self, store, **options):
        self.lines = []
        return Service(store, log=self.lines.append, clock=self.steady, wall=self.wall, **options)


TODAY = 1.79e9


def test_what_is_too_old_goes_and_is_looked_for_every_hour(gate, stream, tmp_path):
    device = Device(TODAY)
    with Store(tmp_path / "k.db", clocks=device.clocks) as store:
        service = device.service(store, max_age=86400)
        kept = [0]
        for part in range(3):
            some = stream[100 * part : 100 * part + 100]
            run(gate, [Sample(p, n, device.wall()) for n, p in some], store)
            kept.append(len(store))
            device.now += 3000
            service.turn(Summary())
        assert len(store) == kept[-1] > kept[-2] > kept[1] > 0
        device.now += 86400 - 8000
        service.turn(Summary())
        assert (len(store), store.counters["evicted_age"]) == (kept[3] - kept[1], kept[1])
        device.now += 3500
        service.turn(Summary())
        assert len(store) == kept[3] - kept[1], "the next look is an hour later"
        device.now += 200
        service.turn(Summary())
        assert len(store) == kept[3] - kept[2]


def test_a_clock_that_is_set_forward_deletes_nothing_and_times_are_put_right(
    gate, stream, tmp_path
):
    device = Device(100.0)  # 1970
    with Store(tmp_path / "k.db", clocks=device.clocks) as store:
        service = device.service(store, max_age=90 * 86400.0)
        run(gate, [Sample(p, n, device.wall()) for n, p in stream[:100]], store)
        device.now += 600
        read = [Sample(p, n, device.wall()) for n, p in stream[100:200]]
        before = len(store)
        device.ahead = TODAY  # the network is there
        service.turn(Summary())
        assert device.lines == [
            "the clock was set forward by 1,789,999,900 s",
            f"{before:,} samples were read by a wrong clock; their times are put right",
        ]
        run(gate, read, store)  # was being decided meanwhile
        service.turn(Summary())
        assert {one.time for one in store} == {TODAY, TODAY + 600}
        device.now += 7200
        service.turn(Summary())
        assert "evicted_age" not in store.counters


@pytest.mark.parametrize("then", [50.0, 1.7e9])  # never set, and as it was at the last shutdown
def test_the_next_start_with_a_right_clock_deletes_nothing_that_is_minutes_old(
    gate, stream, tmp_path, then
):
    device = Device(then)
    with Store(tmp_path / "k.db", clocks=device.clocks) as store:
        device.service(store)
        run(gate, [Sample(p, n, device.wall()) for n, p in stream[:200]], store)
        store.mark_uploaded([one.id for one in store][:3])
        before = len(store)
    device.now, device.ahead = device.now + 60, TODAY
    with Store(tmp_path / "k.db", clocks=device.clocks) as store:
        device.service(store, max_age=90 * 86400.0).turn(Summary())
        assert len(store) == before > 5
        assert "evicted_age" not in store.counters
        if then < 1e9:
            assert all(abs(one.time - TODAY) < 120 for one in store)
            assert len(device.lines) == 1


def test_times_that_a_file_gave_stay_as_they_are(gate, stream, tmp_path):
    device = Device(TODAY)
    with Store(tmp_path / "k.db", clocks=device.clocks) as store:
        service = device.service(store, by_reading=False)
        run(gate, [Sample(p, n, 1.3e9) for n, p in stream[:100]], store)
        device.ahead += 5000
        service.turn(Summary())
        assert {one.time for one in store} == {1.3e9}


def test_metrics_that_cannot_be_written_are_named_once_and_stop_nothing(tmp_path):
    device, folder = Device(TODAY), tmp_path / "later"
    with Store(tmp_path / "k.db") as store:
        service = device.service(store, metrics=folder / "m.prom")
        for _ in range(2):
            service.report(Summary())
        assert [line for line in device.lines if "cannot be written" in line] == [
            f"{folder}/m.prom: metrics cannot be written (No such file or directory); "
            "check folder and rights"
        ]
        folder.mkdir()
        service.report(Summary())
        assert (folder / "m.prom").exists()


def test_what_cannot_be_decoded_is_named_when_it_happens(gate, stream, tmp_path):
    device = Device(TODAY)
    broken = [Sample(b"broken %d" % i, f"bad{i}\n\x1b[2J.png") for i in range(30)]
    with Store(tmp_path / "k.db") as store:
        service = device.service(store)
        run(gate, [Sample(p, n) for n, p in stream[:5]] + broken, store, batch=8,
            on_verdicts=service.verdicts)  # fmt: skip
        named = device.lines[:]
        service.report(Summary())
    assert len(named) == 20
    assert named[0].startswith("unreadable bad0\\n\\x1b[2J.png: not an image")
    assert "unreadable: 10 more within a minute are not named" in device.lines
