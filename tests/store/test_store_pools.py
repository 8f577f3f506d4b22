"""Who goes first, who is protected: uploads, the audit's share, and counting both."""

import gzip
import random
from pathlib import Path

import pytest

from dripgate.errors import StoreError
from dripgate.store import Put, Store
from dripgate.types import Decision, Reason

V1 = Path(__file__).with_name("kept_v1.db.gz")  # written by dripgate at 11d4619, and full


@pytest.fixture
def audit(verdict):
    """audit(score): the verdict of a sample that chance kept."""
    return lambda score, **fields: verdict(score, reason=Reason.AUDIT, propensity=0.01, **fields)


def put_all(store, sample, make, seeds, size=5000):
    """Put one by one, so that each meets the store the ones before left."""
    return [store.put(sample(seed, size), make(float(seed))) for seed in seeds]


# The outbox -------------------------------------------------------------------------------------


def test_what_is_not_uploaded_is_pending_oldest_first(folder, sample, verdict):
    with Store(folder / "kept.db") as store:
        store.put_many([(sample(n), verdict(-n)) for n in range(6)])
        first = store.pending(4)
        assert [one.score for one in first] == [0, -1, -2, -3]
        assert not any(one.uploaded for one in first)
        assert [one.score for one in store.pending(9, after=first[-1].id)] == [-4, -5]
        assert store.mark_uploaded([first[1].id, first[2].id, "0" * 64, "no id"]) == 2
        assert store.get(first[1].id).uploaded
        assert store.summary().uploaded == 2
    with Store(folder / "kept.db") as store:  # remembered
        assert [one.score for one in store.pending(3)] == [0, -3, -4]
        assert store.mark_uploaded(one.id for one in store) == 6
        assert store.pending(3) == store.pending(0) == []
        store.put(sample(9), verdict(9))
        assert [one.score for one in store.pending(3)] == [9]
        assert store.put(sample(1), verdict()) is Put.PRESENT
        assert len(store.pending(3)) == 1


def test_a_large_backlog_is_given_in_parts(folder, sample, verdict):
    with Store(folder / "kept.db") as store:
        store.put_many([(sample(n, 400_000), verdict(n)) for n in range(7)])
        given = []
        while part := store.pending(100):
            assert 0 < sum(len(one.payload) for one in part) < 2_000_000
            given += [one.score for one in part]
            store.mark_uploaded([one.id for one in part])
        assert given == list(range(7))


def test_uploaded_samples_make_room_first(folder, sample, verdict):
    with Store(folder / "kept.db", "1MB") as store:
        put_all(store, sample, verdict, range(1000, 1300))
        full = len(store)
        best = [one for one in store if one.score >= 1290]
        store.mark_uploaded([one.id for one in best])
        # Worth less than anything here, but these are nowhere else.
        puts = put_all(store, sample, verdict, range(12))
        assert all(puts[:10])
        assert not any(one.id in store for one in best)
        assert puts[11] is Put.STORED  # 11 is worth more than 0
        assert full - 2 <= len(store) <= full + 2
        assert store.counters["evicted_limit_uploaded"] == 10
        assert "refused" not in store.counters


# The audit --------------------------------------------------------------------------------------


def test_kept_samples_never_push_out_audit_samples_within_their_share(
    folder, sample, verdict, audit
):
    with Store(folder / "kept.db", "1MB") as store:
        store.put_many([(sample(n, 5000), audit(-1.0)) for n in range(10)])
        put_all(store, sample, verdict, range(100, 400))
        assert all(sample(n, 5000).id in store for n in range(10))
        assert store.counters["evicted_limit"] > 100
        assert "evicted_audit" not in store.counters


def test_audit_samples_push_out_kept_ones_up_to_their_share(folder, sample, verdict, audit):
    with Store(folder / "kept.db", "1MB", audit_share=0.2) as store:
        put_all(store, sample, verdict, range(1000, 1300))
        put_all(store, sample, lambda n: audit(-n), range(300))
        audits = [one for one in store if one.propensity < 1]
        assert 20 <= len(audits) <= 200_000 // 5000
        left = sorted(one.score for one in store if one.propensity == 1)
        assert left == [float(n) for n in range(1300 - len(left), 1300)]  # the least went
        counters = store.counters
        # Their share is full: a random one goes or is refused.
        assert counters["evicted_audit"] + counters["refused_audit"] == 300 - len(audits)
        assert counters["evicted_limit"] == 300 - len(left)


def test_an_empty_store_is_open_to_audit_samples_until_kept_ones_need_it(
    folder, sample, verdict, audit
):
    with Store(folder / "kept.db", "1MB") as store:
        put_all(store, sample, audit, range(300))
        audits = len(store)
        assert audits > 80
        put_all(store, sample, lambda n: verdict(-n), range(1000, 1300))
        left = sum(one.propensity < 1 for one in store)
        assert 0.08 < left / len(store) < 0.15


def test_what_is_left_of_an_audit_is_an_audit(folder, sample, verdict, audit):
    # Half of them are of one kind, with high scores; and old and new ones fare alike.
    rng = random.Random(1)
    kinds = {seed: rng.random() < 0.5 for seed in range(1500)}
    with Store(folder / "kept.db", "800kB", quarantine_share=0) as store:
        for start in range(0, 1500, 50):
            store.put_many(
                [(sample(n, 600), audit(kinds[n] * 9.0)) for n in range(start, start + 50)]
            )
        left = [one.score > 0 for one in store]
        seeds = [int(Path(one.source).stem) for one in store]
    assert 150 < len(left) < 400
    assert abs(sum(left) / len(left) - 0.5) < 0.1
    assert abs(sum(seeds) / len(seeds) - 750) < 100


def test_an_audited_alien_has_a_place_in_the_audit_not_in_quarantine(
    folder, sample, verdict, audit
):
    with Store(folder / "kept.db", "1MB") as store:
        alien = audit(9.0, decision=Decision.QUARANTINE)
        store.put(sample(0, 5000), alien)
        put_all(store, sample, lambda n: verdict(n, Decision.QUARANTINE), range(100, 200))
        assert sample(0, 5000).id in store
        assert store.counters["evicted_quarantine"] > 50


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_an_impossible_audit_share_is_refused(tmp_path, share):
    with pytest.raises(StoreError, match=r"audit_share is .* between 0 and 1"):
        Store(tmp_path / "kept.db", "1MB", audit_share=share)


# Older schemas ----------------------------------------------------------------------------------


@pytest.fixture
def first_schema(folder):
    path = folder / "kept.db"
    path.write_bytes(gzip.decompress(V1.read_bytes()))
    return path


def test_a_store_of_the_first_schema_is_brought_up_to_date(first_schema, sample, verdict):
    with pytest.raises(
        StoreError, match=r"schema version 1, .* [0-9]+; 'dripgate purge .*up to date"
    ):
        Store(first_schema, read_only=True)
    with Store(first_schema) as store:
        assert store.check() == []
        left = [one.score for one in store]
        counters = store.counters
        assert counters["seen"] == 900
        assert store.limit == 512_000
        assert store.meta == {"gate_id": "g1"}
        assert [one.label for one in store.samples(labelled=True)] == ["last"]
        assert store.disk_bytes <= 512_000  # new indexes need room
        lost = sum(n for name, n in counters.items() if "evicted" in name or "refused" in name)
        assert len(left) + lost == 900
        assert counters["evicted_resize"] > 10
        assert len(store.pending(1000)) == len(left) > 200
        assert store.put(sample(1), verdict(1e9))
        left = [one.score for one in store]
    with Store(first_schema, read_only=True) as store:
        assert [one.score for one in store] == left


def test_an_update_that_is_killed_anywhere_goes_on(first_schema, sample, monkeypatch):
    from dripgate.store import schema

    steps, step = [], schema.step

    def killed(db, version):
        steps.append(version)
        if len(steps) in {1, 3}:
            raise KeyboardInterrupt
        step(db, version)

    monkeypatch.setattr(schema, "step", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            Store(first_schema)
    with Store(first_schema) as store:
        assert store.check() == []
    assert len(steps) > 3
