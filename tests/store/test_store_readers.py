"""Readers beside the writer: nobody keeps it from writing for ever, and it never gives up."""

import sqlite3
from collections import Counter

import pytest

from dripgate.errors import StoreError
from dripgate.store import Look, Store, Wanted, checking, schema
from dripgate.store.records import Decided


@pytest.fixture
def small_steps(monkeypatch):
    monkeypatch.setattr(checking, "STEP", 7)


def test_a_writer_waits_for_a_reader_that_does_not_let_go(folder, sample, verdict, monkeypatch):
    """By now it used to have ended with an error. It says so and waits."""
    monkeypatch.setattr(schema, "PATIENCE", 0.02)
    with Store(folder / "kept.db") as store:
        store.put(sample(1), verdict())
        reader = sqlite3.connect(folder / "kept.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM samples").fetchone()
        told = []

        def wait(text):
            told.append(text)
            if len(told) == 3:
                reader.execute("COMMIT")

        store.on_wait = wait
        assert store.put(sample(2), verdict())
        assert len(told) == 3
        assert "another process reads it" in told[0]
        assert store.check() == []
        reader.close()


def test_a_check_beside_a_writer_lets_it_write_between_any_two_steps(
    folder, sample, verdict, small_steps, monkeypatch
):
    """The writer writes at each step, and is never told to wait."""
    monkeypatch.setattr(schema, "PATIENCE", 0.0)
    with Store(folder / "kept.db") as store:
        store.put_many([(sample(n), verdict(n)) for n in range(60)])
        store.on_wait = pytest.fail
        with Store(folder / "kept.db", read_only=True) as reader:
            query, calls = reader._query, []

            def step(*asked):
                calls.append(asked)
                store.put(sample(1000 + len(calls)), verdict())
                return query(*asked)

            monkeypatch.setattr(reader, "_query", step)
            assert reader.check() == []
            assert len(calls) > 30
            assert reader.summary().samples >= 60
            assert reader.tally().total >= 60


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("DELETE FROM payloads WHERE key = 5", "samples without a payload: 1"),
        ("DELETE FROM samples WHERE key IN (5, 50)", "payloads without a sample: 2"),
        ("UPDATE payloads SET payload = x'00' WHERE key = 9", "has another hash"),
        ("UPDATE settings SET value = value + 5 WHERE name = 'audited'", "wrong by: 5"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_a_check_finds_the_same_beside_a_writer(
    folder, sample, verdict, small_steps, damage, found, beside
):
    with Store(folder / "kept.db") as store:
        store.put_many([(sample(n), verdict(n)) for n in range(60)])
    with sqlite3.connect(folder / "kept.db") as db:
        db.execute(damage)
    db.close()
    writer = Store(folder / "kept.db") if beside else None
    with Store(folder / "kept.db", read_only=True) as reader:
        assert checking.has_writer(reader.path) is beside
        assert any(found in line for line in reader.check()), reader.check()
    if writer:
        writer.close()


def test_counts_of_many_steps_are_those_of_all(folder, sample, verdict, small_steps):
    with Store(folder / "kept.db") as store:
        store.put_many([(sample(n), verdict(n, predicted=n % 3)) for n in range(60)])
        store.set_labels({sample(n).id: "ab"[n % 2] for n in range(0, 60, 3)})
        store.mark_uploaded([sample(n).id for n in range(10)])
        store.purge(Wanted(uploaded=True, labelled=True))
        summary = store.summary()
        assert (summary.samples, summary.labelled, summary.uploaded) == (56, 16, 6)
        assert summary.predicted == dict(Counter(one.predicted for one in store))
        assert store.tally().predicted == summary.predicted
        assert len(store.keys(Look())) == 56
        assert store.labels() == {"a": 8, "b": 8}


# The ledger of decided files ---------------------------------------------------------------------


def marks(*numbers):
    return b"".join(n.to_bytes(8, "little") for n in numbers)


def test_what_was_decided_is_noted_with_the_samples_or_not_at_all(folder, sample, verdict):
    with Store(folder / "kept.db") as store:
        store.put_many([(sample(1), verdict())], decided=Decided(marks(4), marks(8)))
        assert store.decided()[:2] == (marks(4), marks(8))
        with pytest.raises(StoreError):
            store.put_many([(sample(2), verdict())], counters={"seen": "x"},
                           decided=Decided(marks(12)))  # fmt: skip
        assert store.decided()[:2] == (marks(4), marks(8))
        store.put_many([], decided=Decided(marks(12)))  # what was about to leave has left
    with Store(folder / "kept.db", read_only=True) as store:
        assert store.decided()[:2] == (marks(4, 12), b"")


@pytest.mark.parametrize("crowded", [False, True])
def test_the_ledger_keeps_to_its_part_of_the_limit(folder, sample, verdict, crowded):
    with Store(folder / "kept.db", 512_000) as store:
        for n in range(1, 300):
            noted = Decided(marks(*range(64 * n, 64 * n + 64)), newest=n, crowded=crowded)
            store.put_many([(sample(n, 5000), verdict(n))], decided=noted)
            assert store.disk_bytes <= 512_000
        found = store.decided()
        assert 8000 < len(found.marks) < 512_000 / 16
        assert found.marks.endswith(marks(64 * 299 + 63))
        first = int.from_bytes(found.marks[:8], "little") // 64
        assert found.floor == (first - 1 if crowded else 0)
        assert store.check() == []
        assert len(store) > 10
