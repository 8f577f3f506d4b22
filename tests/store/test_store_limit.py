"""The store never exceeds its limit on disk, journal included, and keeps what is worth most."""

import math
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dripgate.errors import StoreError
from dripgate.store import Put, Store
from dripgate.store.space import SMALLEST, Victim, plan
from dripgate.types import Decision
from needs import need

#: Around every boundary of SQLite's page layout: leaf cells, local part, overflow pages.
SIZES = [0, 1, 100, 300, 1000, 1353, 1354, 2030, 2031, 4050, 4053, 4054, 4061, 4581, 8170, 20_000]


def disk(folder):
    total = 0
    for file in folder.iterdir():
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # the journal, removed since
            continue
    return total


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(bytes): a file system with exactly so much room, or a skip."""
    mounted = []

    def make(size):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size // 4096 * 4096}", "none", str(folder)]
        need("mounts")
        subprocess.run(command, check=True)
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def churn(store, sample, verdict, rounds, batch, sizes=SIZES):
    """Put batches of rising value, so that a full store evicts for each of them."""
    for n in range(rounds):
        seeds = range(n * batch, (n + 1) * batch)
        quarantine = Decision.QUARANTINE
        store.put_many(
            [
                (
                    sample(seed, sizes[seed % len(sizes)]),
                    verdict(float(seed), quarantine if seed % 5 == 0 else Decision.KEEP),
                )
                for seed in seeds
            ],
            counters={"seen": batch},
        )


@pytest.mark.parametrize(
    ("limit", "rounds", "batch", "sizes"),
    [
        (SMALLEST, 600, 1, SIZES),
        (SMALLEST, 15, 40, SIZES),
        (1_500_000, 10, 64, SIZES),
        # Thousands of rows in one call change more pages than the journal's part can hold.
        (2_000_000, 4, 2000, [30]),
        # Small rows between large ones get a page each: no estimate of one row can know that.
        (1_000_000, 8, 200, [100, 4056]),
    ],
)
def test_the_store_never_exceeds_its_limit(
    small_disk, sample, verdict, limit, rounds, batch, sizes
):
    # The disk has room for the limit and not a page more: had any instant of any transaction
    # needed more, a write would have failed.
    folder = small_disk(limit)
    with Store(folder / "kept.db", limit) as store:
        churn(store, sample, verdict, rounds, batch, sizes)
        store.set_labels({stored.id: "a label of usual length" for stored in store})
        store.set_meta("gate", "x" * 60_000)
        store.set_meta("gate", "y" * 60_000)
        counters = store.counters
        assert counters["seen"] == rounds * batch
        assert counters["evicted_limit"] > 50
        assert counters["evicted_quarantine"] > 5
        assert store.check() == []
        assert disk(folder) <= limit
    with Store(folder / "kept.db") as store:
        churn(store, sample, verdict, 3, 7)
        assert store.limit == limit


def test_the_limit_holds_at_every_look(folder, sample, verdict):
    looks, stop = [], threading.Event()

    def watch():
        while not stop.is_set():
            looks.append(disk(folder))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with Store(folder / "kept.db", "600kB") as store:
            churn(store, sample, verdict, 10, 50)
    finally:
        stop.set()
        watcher.join()
    assert len(set(looks)) > 3  # it looked while the store grew
    assert max(looks) <= 600_000


def test_a_payload_far_larger_than_the_journal_fits(small_disk, sample, verdict):
    limit = 8_000_000
    folder = small_disk(limit)
    with Store(folder / "kept.db", limit, quarantine_share=0) as store:
        for seed in range(12):
            assert store.put(sample(seed, 3_000_000), verdict(seed))
        assert [stored.score for stored in store] == [10, 11]
        assert store.counters == {"evicted_limit": 10}
        assert store.put(sample(99, 9_000_000), verdict(99)) is Put.REFUSED
        assert len(store) == 2


def test_the_most_valuable_stay(folder, sample, verdict):
    scores = [(seed * 7919) % 1000 / 7 for seed in range(400)]
    samples = [sample(seed, 5000) for seed in range(400)]
    with Store(folder / "kept.db", "1MB") as store:
        puts = []
        for start in range(0, 400, 25):
            part = slice(start, start + 25)
            pairs = zip(samples[part], map(verdict, scores[part]), strict=True)
            puts += store.put_many(list(pairs))
        kept = {stored.score for stored in store}
        counters = store.counters
    assert len(kept) > 60
    assert kept == set(sorted(scores)[-len(kept) :])
    assert counters["refused"] == puts.count(Put.REFUSED)
    assert counters["evicted_limit"] == puts.count(Put.STORED) - len(kept)


def test_of_equals_those_that_are_there_stay(folder, sample, verdict):
    with Store(folder / "kept.db", SMALLEST) as store:
        while store.put(first := sample(len(store), 9000), verdict(math.nan)):
            pass
        before = [stored.id for stored in store]
        assert store.put(first, verdict(math.nan)) is Put.REFUSED
        assert [stored.id for stored in store] == before
        assert store.put(first, verdict(-math.inf)) is Put.REFUSED
        assert store.put(first, verdict(-1e300))
        assert store.counters["refused"] == 3
        assert store.counters["evicted_limit"] <= 2  # rows share pages: one may free too little


def test_duplicates_in_a_batch_share_the_fate_of_the_first(folder, sample, verdict):
    with Store(folder / "kept.db", SMALLEST) as store:
        store.put_many([(sample(seed, 9000), verdict(1)) for seed in range(99)])
        low, high = (sample(200, 9000), verdict(0)), (sample(201, 9000), verdict(2))
        assert store.put_many([low, high, high, low]) == [
            Put.REFUSED, Put.STORED, Put.PRESENT, Put.REFUSED
        ]  # fmt: skip


def test_quarantined_samples_never_push_out_kept_ones(folder, sample, verdict):
    with Store(folder / "kept.db", "1MB") as store:
        store.put_many([(sample(seed, 5000), verdict(0)) for seed in range(300)])
        kept = len(store)
        store.put_many(
            [(sample(1000 + s, 5000), verdict(s, Decision.QUARANTINE)) for s in range(300)]
        )
        decisions = store.summary().decisions
        best = {s.score for s in store.samples(decision=Decision.QUARANTINE)}
    assert decisions["keep"] == kept
    # Their share is theirs even though the store was full of kept samples before.
    assert 0.08 < decisions["quarantine"] / sum(decisions.values()) < 0.12
    assert best == set(range(300 - len(best), 300))


def test_kept_samples_never_push_out_quarantined_ones(folder, sample, verdict):
    with Store(folder / "kept.db", "1MB", quarantine_share=0.3) as store:
        store.put_many([(sample(s, 5000), verdict(-9, Decision.QUARANTINE)) for s in range(300)])
        quarantined = len(store)
    with Store(folder / "kept.db") as store:
        store.put_many([(sample(1000 + s, 5000), verdict(9)) for s in range(300)])
        decisions = store.summary().decisions
    assert decisions["quarantine"] == quarantined
    assert 0.25 < quarantined / sum(decisions.values()) < 0.37  # empty tables take some of it


def test_a_lowered_limit_shrinks_the_file(folder, sample, verdict):
    path = folder / "kept.db"
    with Store(path, "3MB") as store:
        churn(store, sample, verdict, 20, 64)
        most = len(store)
    assert path.stat().st_size > 2_000_000
    with Store(path, "1MB") as store:
        assert disk(folder) <= 1_000_000
        assert 50 < len(store) < most
        assert store.counters["evicted_resize"] == most - len(store)
        assert max(stored.score for stored in store) == 20 * 64 - 1
        assert store.check() == []
        churn(store, sample, verdict, 2, 64)
    with Store(path, "2MB") as store:
        churn(store, sample, verdict, 15, 64)
        assert store.limit == 2_000_000
    assert 1_000_000 < path.stat().st_size <= 2_000_000


def test_a_store_without_a_limit_can_get_one(folder, sample, verdict):
    with Store(folder / "kept.db") as store:
        churn(store, sample, verdict, 10, 64)
        assert store.limit is None
        assert store.counters == {"seen": 640}
        assert disk(folder) > 1_000_000
    with Store(folder / "kept.db", "600kB") as store:
        assert store.limit == 600_000
        assert disk(folder) <= 600_000


def test_a_text_too_large_for_the_limit_is_refused(folder):
    with Store(folder / "kept.db", SMALLEST) as store:
        with pytest.raises(StoreError, match="raise the limit"):
            store.set_meta("gate", "x" * 100_000)
        assert store.meta == {}


def test_labels_on_a_full_store_push_out_the_least_valuable(small_disk, sample, verdict):
    folder = small_disk(SMALLEST)
    with Store(folder / "kept.db", SMALLEST) as store:
        churn(store, sample, verdict, 2, 1000, [30])
        before = {stored.id: stored.score for stored in store}
        labelled = store.set_labels(dict.fromkeys(before, "x" * 250))
        after = {stored.id: stored.score for stored in store.samples(decision=Decision.KEEP)}
        assert 50 < len(after) < labelled <= len(before)
        assert min(after.values()) > max(
            score for id, score in before.items() if id not in after and score % 5
        )
        assert store.check() == []


def test_a_full_disk_is_an_error_and_loses_nothing(small_disk, sample, verdict):
    folder = small_disk(1_200_000)
    acknowledged = []
    with Store(folder / "kept.db", "50MB") as store:
        with pytest.raises(StoreError, match="the disk is full") as caught:
            for one in (sample(seed, 9000) for seed in range(1000)):
                store.put(one, verdict())
                acknowledged.append(one)
        assert "\n" not in str(caught.value)
        assert len(acknowledged) > 50
        assert [stored.payload for stored in store] == [one.payload for one in acknowledged]
        assert store.put(acknowledged[0], verdict()) is Put.PRESENT
    with Store(folder / "kept.db") as store:
        assert [stored.payload for stored in store] == [one.payload for one in acknowledged]
        assert store.check() == []
        subprocess.run(["mount", "-o", "remount,size=2m", str(folder)], check=True)
        assert store.put(sample(5000, 9000), verdict())


# The plan, without a database -------------------------------------------------------------------

values = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0, math.inf])
sizes = st.integers(1, 50)
people = st.lists(st.tuples(values, sizes), max_size=12)
stored_people = st.lists(st.tuples(st.booleans(), values, sizes), max_size=12)


@given(newcomers=people, stored=stored_people, room=st.integers(-20, 200))
def test_the_plan_frees_enough_and_no_more(newcomers, stored, room):
    asking = [Victim(100 + n, "keep", False, *one) for n, one in enumerate(newcomers)]
    there = sorted((Victim(n, "keep", *one) for n, one in enumerate(stored)), key=lambda v: v.rank)
    admitted, evicted = plan(asking, there, room)
    need = sum(one.footprint for one in admitted)
    freed = sum(one.footprint for one in evicted)
    assert set(admitted) <= set(asking)
    assert evicted == there[: len(evicted)]
    assert need <= room + freed or not admitted
    if evicted:
        assert need > room + freed - evicted[-1].footprint
        assert evicted[-1].rank < max(one.rank for one in asking)
    if need + max((one.footprint for one in asking), default=0) <= room:
        assert len(admitted) == len(asking)


def test_a_large_newcomer_that_must_go_costs_nobody_a_place():
    small = [Victim(n, "keep", False, 1.0, 10) for n in range(5)]
    best = Victim(9, "keep", False, 9.0, 10)
    assert plan([Victim(100, "keep", False, 5.0, 60)], [*small, best], 0) == ([], [])


def test_limits_hold_for_paths_through_a_link(folder, sample, verdict):
    # SQLite puts the journal beside the file itself; looking beside the link would miss it.
    (folder / "real").mkdir()
    link = folder / "link.db"
    link.symlink_to(folder / "real" / "kept.db")
    with Store(link, SMALLEST) as store:
        churn(store, sample, verdict, 3, 64)
        assert store.path == Path(folder / "real" / "kept.db")
        with pytest.raises(StoreError, match="has a writer"):
            Store(folder / "real" / "kept.db")
