"""Damaged files: what is whole comes out whole, and nothing else comes out."""

import hashlib
import math
import random
import sqlite3
from pathlib import Path

import pytest

from dripgate.errors import StoreError
from dripgate.store import Store, Wanted, parse_duration, salvage
from dripgate.store.age import Clocks
from dripgate.types import Decision

SIZES = [0, 300, 4000, 4054, 9000, 60_000]
EVER: set[str] = set()  # what was stored at any time: what was deleted may come back


@pytest.fixture
def filled(folder, sample, verdict):
    """A store with 120 samples, some deleted again; its path and what is in it."""
    path = folder / "kept.db"
    with Store(path, "8MB") as store:
        for start in range(0, 120, 10):
            store.put_many(
                [
                    (sample(n, SIZES[n % 6]), verdict(n / 8, propensity=0.5 if n % 9 == 0 else 1.0))
                    for n in range(start, start + 10)
                ],
                counters={"seen": 100},
            )
        store.set_labels({one.id: "cat" for one in store if one.score < 3})
        store.mark_uploaded([one.id for one in store if one.score > 12])
        store.purge(Wanted(uploaded=True, decision=Decision.KEEP, labelled=False))
        store.put(sample(500, 9000), verdict(math.nan, Decision.QUARANTINE))
        store.mark_uploaded([sample(500, 9000).id])
        store.set_meta("gate_id", "g1")
        EVER.update(sample(n, SIZES[n % 6]).id for n in range(120))
        EVER.add(sample(500, 9000).id)
        return path, {one.id: repr(one) for one in store}


def test_nothing_is_lost_from_a_sound_store(filled, folder):
    path, expected = filled
    found = salvage(path, folder / "out.db")
    with Store(folder / "out.db") as out:
        assert {one.id: repr(one) for one in out} == expected
        assert (out.limit, out.meta) == (None, {"gate_id": "g1"})
        assert out.counters["seen"] == 1200
        assert out.check() == []
    assert (found.whole, found.without_verdict, found.damaged) == (len(expected), 0, 0)
    assert found.limit == 8_000_000
    assert sorted(f.name for f in folder.iterdir()) == [
        "kept.db", "kept.db-lock", "out.db", "out.db-lock"
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_what_a_damaged_store_still_has_comes_out_whole(filled, folder, seed):
    path, expected = filled
    rng = random.Random(seed)
    content = bytearray(path.read_bytes())
    match seed % 4:
        case 0:  # pages overwritten
            for _ in range(8):
                at = rng.randrange(len(content) // 4096) * 4096
                content[at : at + 4096] = rng.randbytes(4096)
        case 1:  # cut
            del content[rng.randrange(len(content)) :]
        case 2:  # bits
            for _ in range(40):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        case 3:  # the beginning is gone: no header, no tables
            content[: 4096 * rng.randint(1, 5)] = bytes(4096 * 5)[: 4096 * rng.randint(1, 5)]
    path.write_bytes(content)
    found = salvage(path, folder / "out.db")
    with Store(folder / "out.db") as out:
        assert out.check() == []
        assert len(out) == found.whole
        for one in out:
            assert one.id in EVER  # nothing half, nothing made up
            assert hashlib.sha256(one.payload).hexdigest() == one.id
    # Whatever SQLite itself can still read is there too.
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    readable = set()
    for id in expected:
        try:
            rows = db.execute(
                "SELECT payload FROM payloads JOIN samples USING (key) WHERE id = ?",
                (bytes.fromhex(id),),
            ).fetchall()
        except sqlite3.Error:
            continue
        readable |= {id for (p,) in rows if hashlib.sha256(p).hexdigest() == id}
    db.close()
    with Store(folder / "out.db") as out:
        assert all(id in out for id in readable)
    if seed % 4 != 1:
        assert found.whole > len(expected) // 2


def test_payloads_whose_verdicts_are_lost_are_quarantined(filled, folder, sample):
    path, expected = filled
    content = bytearray(path.read_bytes())
    db = sqlite3.connect(path)
    root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'samples'").fetchone()[0]
    db.close()
    pages = [root - 1]
    pages += [  # and the leaves, which begin with the sources
        n for n in range(len(content) // 4096)
        if content[4096 * n] == 13 and b"folder/" in content[4096 * n : 4096 * (n + 1)]
    ]  # fmt: skip
    for page in pages:
        content[4096 * page : 4096 * (page + 1)] = bytes(4096)
    path.write_bytes(content)
    found = salvage(path, folder / "out.db")
    assert found.whole == found.without_verdict > 0.9 * len(expected)
    with Store(folder / "out.db") as out:
        assert {one.id for one in out} <= EVER
        assert {one.decision for one in out} == {Decision.QUARANTINE}
        assert {one.detail for one in out} == {"salvaged: its verdict was lost"}


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", bytes(5000), b"\x0d" * 8192])
def test_a_file_with_nothing_in_it_gives_nothing(folder, content):
    (folder / "kept.db").write_bytes(content)
    assert salvage(folder / "kept.db", folder / "out.db").whole == 0


def test_a_salvage_overwrites_nothing(filled, folder):
    path, _ = filled
    with pytest.raises(StoreError, match=r"kept\.db exists; give the path of a new store"):
        salvage(path, path)
    with pytest.raises(StoreError, match=r"none\.db"):
        salvage(folder / "none.db", folder / "out.db")


def test_the_check_finds_what_sqlite_cannot(filled):
    path, _ = filled
    db = sqlite3.connect(path)
    db.execute("DELETE FROM payloads WHERE key = (SELECT max(key) FROM payloads)")
    db.execute("INSERT INTO payloads VALUES (9999, x'00')")
    db.execute("UPDATE settings SET value = value + 7 WHERE name = 'audited'")
    db.commit()
    db.close()
    with Store(path, read_only=True) as store:
        assert store.check() == [
            "samples without a payload: 1",
            "payloads without a sample: 1",
            "bytes that the shares are wrong by: 7",
        ]


def test_the_check_of_a_destroyed_store_is_an_answer(filled):
    path, _ = filled
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    with Store(path, read_only=True) as store:
        assert store.check()


# Age and purge ----------------------------------------------------------------------------------


def test_old_samples_expire_and_are_counted(folder, sample, verdict):
    passed = [0.0]
    with Store(folder / "kept.db", clocks=Clocks(steady=lambda: passed[0])) as store:
        store.put_many([(sample(n, n), verdict(n)) for n in range(100)])  # time is 1000 + n
        passed[0] += 51
        store.mark_uploaded([sample(7, 7).id])
        assert store.expire(50, now=1100) == 50
        assert [one.time for one in store] == [1000.0 + n for n in range(50, 100)]
        assert store.expire(50, now=1100) == 0
        assert store.counters == {"evicted_age": 49, "evicted_age_uploaded": 1}
        # A clock set back a day makes nothing older.
        assert store.expire(50, now=1100 - 86_400) == 0
        assert store.check() == []


def test_a_purged_store_gives_its_room_back(folder, sample, verdict):
    path = folder / "kept.db"
    with Store(path, "3MB") as store:
        store.put_many([(sample(n, 20_000), verdict(n)) for n in range(60)])
        store.mark_uploaded([sample(n, 20_000).id for n in range(50)])
        before = path.stat().st_size
        assert store.purge(Wanted(uploaded=True)) == 50
        store.shrink()
        assert path.stat().st_size < before / 4
        assert [one.score for one in store] == list(range(50, 60))
        assert store.check() == []
        assert store.counters["purged_uploaded"] == 50


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2_592_000), (" 1.5 H ", 5400), ("90min", 5400), ("0s", 0)]
)
def test_times_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1y", "nan d", "1e9s"])
def test_nonsense_is_no_time(text):
    with pytest.raises(StoreError, match="30d or 12h"):
        parse_duration(text)


def test_paths_may_be_relative(filled, folder, monkeypatch):
    path, expected = filled
    monkeypatch.chdir(folder)
    assert salvage(path.relative_to(folder), Path("out.db")).whole == len(expected)
