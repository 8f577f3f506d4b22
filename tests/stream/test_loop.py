"""The loop: counts that add up, bad input that stops nothing, runs that can be repeated."""

import pytest

from dripgate.errors import StoreError
from dripgate.store import Store
from dripgate.stream.loop import run
from dripgate.stream.sources import watch
from dripgate.types import Decision, Sample


@pytest.fixture
def samples(stream):
    return [Sample(payload, name) for name, payload in stream[:150]]


def broken(n):
    return [Sample(b"no image %d" % i, f"bad{i}.jpg") for i in range(n)]


def test_every_sample_is_counted_once(gate, samples, tmp_path):
    with Store(tmp_path / "kept.db") as store:
        mixed = [*samples, *broken(30), Sample(b"", "gone.png", problem="permission denied")]
        summary = run(gate, mixed, store, batch=16)
        assert summary.seen == len(mixed)
        assert summary.kept + summary.quarantined + summary.dropped == summary.seen
        assert summary.unreadable == 31
        assert len(summary.unreadable_named) == 20
        assert summary.unreadable_named[0].source == "bad0.jpg"
        assert sum(summary.reasons.values()) == summary.seen
        assert sum(c.seen for c in summary.classes) == summary.seen - summary.unreadable
        assert (
            sum(c.kept for c in summary.classes)
            == summary.kept
            == len(list(store.samples(decision=Decision.KEEP)))
        )
        assert summary.stored == len(store)
        assert summary.bytes_seen == sum(len(s.payload) for s in mixed)
        assert summary.bytes_stored == sum(len(s.payload) for s in store)
        assert store.counters["seen"] == summary.seen
        assert store.counters["unreadable"] == 31


def test_bad_input_changes_no_other_verdict(gate, samples, tmp_path):
    with Store(tmp_path / "a.db") as clean, Store(tmp_path / "b.db") as dirty:
        run(gate, samples, clean)
        run(gate, [s for pair in zip(broken(150), samples, strict=True) for s in pair], dirty)
        assert [s.id for s in clean] == [s.id for s in dirty]


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batch_size_changes_no_verdict(gate, samples, tmp_path, batch):
    noted = []
    with Store(tmp_path / "kept.db") as store:
        run(gate, samples, store, batch=batch, on_verdicts=noted.extend)
    assert [sample.id for sample, _ in noted] == [sample.id for sample in samples]
    alone = [gate.decide(sample).decision for sample in samples]
    assert [verdict.decision for _, verdict in noted] == alone


def test_a_second_run_stores_nothing_twice(gate, samples, tmp_path):
    with Store(tmp_path / "kept.db") as store:
        first = run(gate, samples, store)
        again = run(gate, samples, store)
        assert again.stored == 0
        assert again.present == first.stored == len(store)


def test_verdicts_are_durable_when_they_are_reported(gate, samples, tmp_path):
    with Store(tmp_path / "kept.db") as store:
        seen = []

        def look(pairs):
            with Store(tmp_path / "kept.db", read_only=True) as reader:
                seen.extend(s.id in reader for s, v in pairs if v.stored)

        run(gate, samples, store, on_verdicts=look)
    assert len(seen) > 0
    assert all(seen)


def test_the_gate_is_noted_in_the_store(gate, samples, tmp_path):
    with Store(tmp_path / "kept.db") as store:
        run(gate, samples[:5], store)
        assert store.summary().gate == gate.id
        assert store.meta["gate"] == gate.info.to_json()


def test_a_read_only_store_is_refused(gate, samples, tmp_path):
    Store(tmp_path / "kept.db").close()
    with Store(tmp_path / "kept.db", read_only=True) as store, pytest.raises(StoreError):
        run(gate, samples, store)


def test_limit_holds_and_the_most_valuable_stay(gate, stream, tmp_path):
    large = [Sample(payload + bytes([i % 256]) * 8000, name) for i, (name, payload) in
             enumerate(stream)]  # fmt: skip

    def scores(limit):
        with Store(tmp_path / f"{limit}.db", limit=limit) as store:
            run(gate, large, store)
            assert limit is None or store.disk_bytes <= 600_000
            return sorted((s.score for s in store.samples(decision=Decision.KEEP)), reverse=True)

    everything, few = scores(None), scores("600kB")
    assert 0 < len(few) < len(everything)
    assert few == everything[: len(few)]


def test_from_an_archive_and_from_its_folder_alike(gate, loop, tmp_path):
    import zipfile

    with zipfile.ZipFile(loop / "stream.zip") as archive:
        archive.extractall(tmp_path / "incoming")
    with Store(tmp_path / "a.db") as a, Store(tmp_path / "b.db") as b:
        run(gate, watch(loop / "stream.zip"), a)
        run(gate, watch(tmp_path / "incoming"), b)
        assert {s.id for s in a} == {s.id for s in b}
