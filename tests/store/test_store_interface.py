"""What goes in comes out, and what cannot be used is refused with a remedy."""

import math
import os
import sqlite3

import pytest

from dripgate.errors import StoreError
from dripgate.store import Put, Store, format_size, parse_size
from dripgate.types import Decision, Reason


def test_a_sample_comes_back_with_its_verdict_and_label(tmp_path, sample, verdict):
    one = sample(1, 5000)
    given = verdict(0.75, reason=Reason.BAND, quality=0.5, predicted=7, propensity=0.125)
    with Store(tmp_path / "kept.db") as store:
        assert store.put(one, given, label="cat")
    with Store(tmp_path / "kept.db", read_only=True) as store:
        (stored,) = store
        assert store.get(one.id) == stored
    assert (stored.sample, stored.verdict, stored.label) == (one, given, "cat")
    assert stored.id == one.id
    assert stored.payload == one.payload


def test_numbers_that_are_not_finite_come_back(tmp_path, sample, verdict):
    nan = verdict(
        math.nan,
        Decision.QUARANTINE,
        reason=Reason.UNREADABLE,
        quality=math.nan,
        predicted=-1,
        detail="not an image",
    )
    with Store(tmp_path / "kept.db", "1MB") as store:
        store.put_many([(sample(1), nan), (sample(2), verdict(math.inf))])
        broken, infinite = store
    assert math.isnan(broken.score)
    assert math.isnan(broken.quality)
    assert (broken.reason, broken.detail) == (Reason.UNREADABLE, "not an image")
    assert infinite.score == math.inf


def test_the_same_bytes_are_stored_once(tmp_path, sample, verdict):
    one, two = sample(1), sample(2)
    with Store(tmp_path / "kept.db") as store:
        puts = store.put_many([(one, verdict()), (two, verdict()), (one, verdict(0.9))])
        assert puts == [Put.STORED, Put.STORED, Put.PRESENT]
        assert not store.put(one, verdict(0.1), label="other")
        assert [(s.id, s.score, s.label) for s in store] == [
            (one.id, 0.5, None),
            (two.id, 0.5, None),
        ]
        assert len(store) == 2
        assert one.id in store
        assert sample(3).id not in store
        assert "no id" not in store
        assert store.get(sample(3).id) is None


def test_a_dropped_sample_is_a_programming_error(tmp_path, sample, verdict):
    with Store(tmp_path / "kept.db") as store:
        with pytest.raises(ValueError, match="dropped"):
            store.put_many([(sample(1), verdict()), (sample(2), verdict(0.1, Decision.DROP))])
        assert len(store) == 0


def test_a_call_that_fails_leaves_the_store_as_it_was(tmp_path, sample, verdict):
    with Store(tmp_path / "kept.db") as store:
        store.put(sample(1), verdict())
        with pytest.raises(OverflowError):  # SQLite's integers have 64 bits
            store.put_many(
                [(sample(2), verdict()), (sample(3), verdict(predicted=2**70))],
                counters={"seen": 2},
            )
        assert [stored.id for stored in store] == [sample(1).id]
        assert store.counters == {}
        assert store.put(sample(2), verdict())


def test_samples_are_filtered_by_decision_and_label_in_order_of_insertion(
    tmp_path, sample, verdict
):
    decisions = [Decision.KEEP, Decision.QUARANTINE, Decision.KEEP, Decision.KEEP]
    samples = [sample(i) for i in range(4)]
    with Store(tmp_path / "kept.db") as store:
        store.put_many(
            [(s, verdict(-i, d)) for i, (s, d) in enumerate(zip(samples, decisions, strict=True))]
        )
        assert store.set_labels({samples[2].id: "a", samples[1].id: "b", sample(9).id: "c"}) == 2
        assert store.missing([samples[0].id, sample(9).id]) == [sample(9).id]

        def found(**filters):
            return [samples.index(stored.sample) for stored in store.samples(**filters)]

        assert found() == [0, 1, 2, 3]
        assert found(decision=Decision.KEEP) == [0, 2, 3]
        assert found(decision=Decision.QUARANTINE) == [1]
        assert found(labelled=True) == [1, 2]
        assert found(decision=Decision.KEEP, labelled=False) == [0, 3]
        store.label(samples[2].id, None)
        assert found(labelled=True) == [1]
        with pytest.raises(StoreError, match="no sample"):
            store.label(sample(9).id, "x")


def test_writing_while_iterating_meets_each_sample_once(tmp_path, sample, verdict):
    with Store(tmp_path / "kept.db") as store:
        store.put_many([(sample(i), verdict()) for i in range(5)])
        seen = []
        for stored in store:
            seen.append(stored.id)
            store.label(stored.id, "done")
            if len(seen) < 8:
                store.put(sample(100 + len(seen)), verdict())
        assert len(seen) == len(set(seen)) == len(store) == 12


def test_counters_and_meta_are_kept(tmp_path, sample, verdict):
    with Store(tmp_path / "kept.db") as store:
        store.put_many([(sample(1), verdict())], counters={"seen": 64, "bytes_seen": 2**40})
        store.put_many([], counters={"seen": 1})
        store.count(dropped=3, seen=5)
        store.set_meta("gate", "{}")
        store.set_meta("gate", '{"classes": ["ü"]}')
        store.set_meta("gate_id", "resnet8-1")
    with Store(tmp_path / "kept.db", read_only=True) as store:
        assert store.counters == {"seen": 70, "bytes_seen": 2**40, "dropped": 3}
        assert store.meta == {"gate": '{"classes": ["ü"]}', "gate_id": "resnet8-1"}


def test_the_summary_counts(tmp_path, sample, verdict):
    path = tmp_path / "kept.db"
    with Store(path, "2MB") as store:
        store.put_many(
            [
                (sample(1, 100), verdict(predicted=0)),
                (sample(2, 200), verdict(predicted=3)),
                (sample(3, 300), verdict(0.1, Decision.QUARANTINE, predicted=3)),
            ],
            labels={sample(2, 200).id: "cat"},
            counters={"seen": 9},
        )
        store.set_meta("gate_id", "g1")
        summary = store.summary()
        sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert summary.samples == 3
    assert summary.decisions == {"keep": 2, "quarantine": 1}
    assert summary.reasons == {"band": 2, "quality": 1}
    assert summary.predicted == {0: 1, 3: 2}
    assert summary.labelled == 1
    assert summary.payload_bytes == 600
    assert summary.disk_bytes == sum(sizes)
    assert summary.limit == 2_000_000
    assert summary.counters == {"seen": 9}
    assert summary.gate == "g1"


def test_texts_from_the_field_do_not_stop_the_stream(tmp_path, sample, verdict):
    not_utf8 = os.fsdecode(b"caf\xe9.png")
    with Store(tmp_path / "kept.db") as store:
        assert store.put(sample(1, source=not_utf8), verdict(detail="\ud800" * 5000))
        assert store.put(sample(2, source="x/" * 9000 + "end.png"), verdict())
        first, second = store
    assert first.source == "caf\\udce9.png"
    assert len(first.detail) == 1024
    assert len(second.source) == 4096
    assert second.source.endswith("x/end.png")


def test_a_label_too_long_is_refused_not_cut(tmp_path, sample, verdict):
    with Store(tmp_path / "kept.db") as store:
        with pytest.raises(StoreError, match="257 characters"):
            store.put(sample(1), verdict(), label="x" * 257)
        assert len(store) == 0


def test_a_closed_store_is_one_file_and_its_lock(tmp_path, sample, verdict):
    with Store(tmp_path / "kept.db", "1MB") as store:
        store.put(sample(1), verdict())
    store.close()
    assert {f.name: f.stat().st_size > 0 for f in tmp_path.iterdir()} == {
        "kept.db": True,
        "kept.db-lock": False,
    }


def test_the_check_finds_a_changed_byte(tmp_path, sample, verdict):
    path = tmp_path / "kept.db"
    one = sample(1, 9000)
    with Store(path) as store:
        store.put_many([(one, verdict()), (sample(2), verdict())])
        assert store.check() == []
    content = path.read_bytes()
    path.write_bytes(content.replace(one.payload[6000:6100], bytes(100)))
    with Store(path) as store:
        assert store.check() == [f"sample {one.id}: its payload has another hash"]


# Files that are not a store ---------------------------------------------------------------------


def _other_database(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()


def _edited(statement):
    def make(path):
        Store(path).close()
        with sqlite3.connect(path) as db:
            db.execute(statement)
        db.close()

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("hello, this is text\n" * 100), "not a dripgate store"),
        (lambda path: path.write_bytes(b"\x00" * 8192), "not a dripgate store"),
        (_other_database, "another SQLite database"),
        (lambda path: path.mkdir(), "is a folder"),
        (os.mkfifo, "not a regular file"),
        (
            _edited("PRAGMA user_version = 9"),
            "schema version 9, this dripgate reads [0-9]+; update",
        ),
        (
            _edited("PRAGMA user_version = 0"),
            "schema version 0, this dripgate reads [0-9]+; update",
        ),
        (_edited("PRAGMA user_version = 2"), "other tables|brings it up to date"),
        (
            _edited("CREATE TRIGGER t AFTER INSERT ON samples BEGIN DELETE FROM meta; END"),
            "other tables",
        ),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_not_a_store_is_refused_and_left_alone(tmp_path, make, message, read_only):
    path = tmp_path / "kept.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    names = sorted(f.name for f in tmp_path.iterdir())
    with pytest.raises(StoreError, match=message) as caught:
        Store(path, read_only=read_only)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before
    assert sorted(f.name for f in tmp_path.iterdir()) == names


def test_a_damaged_store_is_a_store_error(tmp_path, sample, verdict):
    path = tmp_path / "kept.db"
    with Store(path) as store:
        store.put_many([(sample(i), verdict()) for i in range(50)])
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    with pytest.raises(StoreError, match=r"kept\.db"), Store(path) as store:
        list(store)


def test_a_missing_folder_or_file_is_named(tmp_path):
    with pytest.raises(StoreError, match="no folder"):
        Store(tmp_path / "nowhere" / "kept.db")
    with pytest.raises(StoreError, match="does not exist"):
        Store(tmp_path / "kept.db", read_only=True)
    with pytest.raises(StoreError, match="check the path"):
        Store(tmp_path / ("x" * 300))
    with pytest.raises(StoreError, match="cannot be opened"):
        Store("/proc/kept.db")


def test_an_empty_file_becomes_a_store_but_is_none_yet(tmp_path, sample, verdict):
    path = tmp_path / "kept.db"
    path.touch()
    with pytest.raises(StoreError, match="an empty file"):
        Store(path, read_only=True)
    with Store(path) as store:
        assert store.put(sample(1), verdict())


def test_reading_only_never_writes(tmp_path, sample, verdict):
    path = tmp_path / "kept.db"
    with Store(path, "1MB") as store:
        store.put(sample(1), verdict())
    before = path.read_bytes()
    with Store(path, read_only=True) as store:
        assert len(list(store)) == 1
        for write in (
            lambda: store.put(sample(2), verdict()),
            lambda: store.label(sample(1).id, "x"),
            lambda: store.count(seen=1),
            lambda: store.set_meta("a", "b"),
        ):
            with pytest.raises(StoreError, match="read_only=True"):
                write()
    assert path.read_bytes() == before


# Sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500MB", 500_000_000),
        ("1.5 GiB", 3 * 2**29),
        ("4096", 4096),
        (" 64kib ", 65536),
        ("2kB", 2000),
        ("1 TB", 10**12),
        ("0.0015kb", 1),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


NONSENSE = "|MB|-5MB|1e3MB|5 XB|500M|1,5GB|nan|٣MB|999999999999999TB|1.MB|5K"


@pytest.mark.parametrize("text", NONSENSE.split("|"))
def test_nonsense_is_no_size(text):
    with pytest.raises(StoreError, match="500MB"):
        parse_size(text)


def test_sizes_are_written():
    sizes = [0, 999, 1000, 9_994, 99_940, 512_000, 999_499, 999_500, 1_234_567, 5 * 10**14]
    assert [format_size(size) for size in sizes] == [
        "0 B", "999 B", "1.00 kB", "9.99 kB", "99.9 kB", "512 kB", "999 kB", "1.00 MB", "1.23 MB",
        "500 TB",
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [0, -1, 511_999, "500kB"])
def test_an_impossible_limit_names_the_smallest_possible(tmp_path, limit):
    with pytest.raises(StoreError, match="smallest possible is 512 kB"):
        Store(tmp_path / "kept.db", limit)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_an_impossible_share_is_refused(tmp_path, share):
    with pytest.raises(StoreError, match="between 0 and 1"):
        Store(tmp_path / "kept.db", "1MB", quarantine_share=share)


def test_texts_are_noted_with_the_samples_or_not_at_all(tmp_path, sample, verdict):
    with Store(tmp_path / "kept.db") as store:
        store.put_many([(sample(1), verdict())], counters={"seen": 1}, meta={"policy": "one"})
        store.put_many([], meta={"policy": "two"})
        assert store.meta["policy"] == "two"
        with pytest.raises(StoreError):  # what is no number cannot be counted
            store.put_many([(sample(2), verdict())], counters={"seen": "x"}, meta={"policy": "x"})
        assert store.meta["policy"] == "two"
        assert store.counters["seen"] == len(store) == 1


def test_texts_noted_with_samples_stay_within_the_limit(tmp_path, sample, verdict):
    limit, size = 600_000, 12_000
    with Store(tmp_path / "kept.db", limit) as store:
        for i in range(120):
            pairs = [(sample(100 * i + j, 3000), verdict(i + j / 10)) for j in range(4)]
            store.put_many(pairs, counters={"seen": 4}, meta={"policy": f"{i:03}" * (size // 3)})
            assert store.disk_bytes <= limit
            assert store.meta["policy"] == f"{i:03}" * (size // 3)
        assert store.counters["seen"] == 480
        assert len(store) > 30
        assert store.check() == []
        with pytest.raises(StoreError, match=r"cannot hold .* under the key 'policy'"):
            store.put_many([], meta={"policy": "x" * limit})
