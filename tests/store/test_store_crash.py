"""Processes that die, and processes that meet: nothing acknowledged is lost."""

import os
import random
import signal
import subprocess
import sys

import pytest

from dripgate.errors import StoreError
from dripgate.store import Store
from dripgate.types import Sample

KILLS = int(os.environ.get("DRIPGATE_KILLS", "20"))
LIMIT = 1_000_000

PRELUDE = """
import random, sys
from dripgate.store import Store
from dripgate.types import Decision, Reason, Sample, Verdict

def sample(seed):
    rng = random.Random(seed)
    return Sample(payload=b"%d " % seed + rng.randbytes(rng.choice([10, 900, 4050, 9000, 40000])))

def verdict(score):
    return Verdict(decision=Decision.KEEP, reason=Reason.BAND, score=score, quality=1.0,
                   predicted=0, propensity=1.0)
"""

# Puts rising seeds for ever, in batches of changing size, and tells after each which are safe.
WRITER = (
    PRELUDE
    + """
path, seed, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Store(path, limit or None) as store:
    print("open", flush=True)
    while True:
        batch = range(seed, seed + 1 + seed % 7)
        pairs = [(sample(n), verdict(n)) for n in batch]
        puts = store.put_many(pairs, counters={"seen": len(batch)})
        print(*(n for n, put in zip(batch, puts) if put), flush=True)
        seed = batch.stop
"""
)

scope = {}
exec(PRELUDE, scope)  # the same samples on both sides
expected, verdict_of = scope["sample"], scope["verdict"]


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def acknowledged_until_killed(process, lines, spins):
    """What a writer told until it was killed, ``spins`` turns of a loop after so many lines.

    A torn last line tells nothing.
    """
    assert process.stdout.readline() == "open\n"
    told = "".join(process.stdout.readline() for _ in range(lines))
    for _ in range(spins):
        pass
    process.send_signal(signal.SIGKILL)
    told += process.communicate()[0]
    return [
        int(n) for line in told.splitlines(keepends=True) if line[-1] == "\n" for n in line.split()
    ]


@pytest.mark.parametrize("limit", [0, LIMIT])
def test_a_sample_whose_put_returned_survives_sigkill(folder, limit):
    path, rng = folder / "kept.db", random.Random(limit)
    acknowledged, seed = [], 0
    for _ in range(-(-KILLS // 2)):
        process = start(WRITER, path, seed, limit)
        acknowledged += acknowledged_until_killed(
            process, rng.randint(0, 20), rng.randint(0, 10**6)
        )
        files = sum(f.stat().st_size for f in folder.iterdir())
        with Store(path) as store:  # opens at once, and nobody is in the way
            assert store.check() == []
            stored = {int(one.payload.split(b" ", 1)[0]): one for one in store}
            counters = store.counters
        for n, one in stored.items():  # none is half there
            assert one.payload == expected(n).payload
            assert one.score == n
        kept = [n for n in acknowledged if n in stored]
        # The value rises, so what a limit evicted is the beginning.
        assert acknowledged[len(acknowledged) - len(kept) :] == kept
        assert len(acknowledged) - len(kept) <= counters.get("evicted_limit", 0)
        if limit:
            assert files <= limit
        else:
            assert kept == acknowledged
        # Counters never run ahead of the samples.
        assert counters.get("seen", 0) <= len(stored) + counters.get("evicted_limit", 0)
        seed = max([*stored, *acknowledged, -1]) + 1
    assert len(acknowledged) > KILLS


def test_a_crash_in_mid_transaction_leaves_a_journal_that_anybody_undoes(folder):
    # Killed inside a transaction, after SQLite has already spilled some of it into the file.
    script = (
        PRELUDE
        + """
import os, signal
class Stop(dict):
    def items(self):
        os.kill(os.getpid(), signal.SIGKILL)
with Store(sys.argv[1], 20_000_000) as store:
    store.put_many([(sample(n), verdict(n)) for n in range(20)])
    store.label(sample(3).id, "three")
    store._db.execute("PRAGMA cache_size = 5")
    store._db.execute("BEGIN IMMEDIATE")
    store._db.execute("UPDATE samples SET label = 'torn', detail = ?", ("x" * 3000,))
    store._db.execute("UPDATE payloads SET payload = zeroblob(5000)")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    process = start(script, folder / "kept.db")
    process.communicate()
    assert (folder / "kept.db-journal").stat().st_size > 0
    with Store(folder / "kept.db", read_only=True) as store:
        assert [one.payload for one in store] == [expected(n).payload for n in range(20)]
        assert [one.label for one in store.samples(labelled=True)] == ["three"]
        assert store.check() == []


def test_a_crash_before_the_first_commit_leaves_a_file_that_opens(folder):
    script = (
        PRELUDE
        + """
import os, signal
import dripgate.store.schema as schema
schema.create_tables = lambda db: os.kill(os.getpid(), signal.SIGKILL)
Store(sys.argv[1], 1_000_000)
"""
    )
    start(script, folder / "kept.db").communicate()
    assert (folder / "kept.db").exists()
    with Store(folder / "kept.db", LIMIT) as store:
        assert store.put(expected(1), verdict_of(1.0))
    with Store(folder / "kept.db") as store:
        assert (len(store), store.limit) == (1, LIMIT)


def test_a_second_writer_gets_a_clear_error(folder):
    path = folder / "kept.db"
    process = start(WRITER, path, 0, LIMIT)
    try:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=r"already has a writer.*read_only=True") as caught:
            Store(path)
        assert "\n" not in str(caught.value)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    with Store(path) as first:  # the lock died with its process
        with pytest.raises(StoreError, match="already has a writer"):
            Store(path)
        assert first.put(Sample(payload=b"still the writer"), verdict_of(1e9))


def test_a_reader_sees_whole_samples_while_another_process_writes(folder):
    path = folder / "kept.db"
    process = start(WRITER, path, 0, LIMIT)
    try:
        assert process.stdout.readline() == "open\n"
        told = [process.stdout.readline() for _ in range(100)]  # far enough for evictions
        for _ in range(5):
            told.append(process.stdout.readline())
            last = int(told[-1].split()[-1])
            with Store(path, read_only=True) as reader:
                numbers = []
                for one in reader:
                    numbers.append(int(one.payload.split(b" ", 1)[0]))
                    assert one.payload == expected(numbers[-1]).payload
                assert numbers == sorted(numbers)
                assert numbers[0] > 0
                assert last in numbers or numbers[0] > last
                assert last < reader.summary().counters["seen"]
    finally:
        process.kill()
        process.communicate()
    # While somebody writes, samples and counters are of two moments; now there is one.
    with Store(path, read_only=True) as reader:
        summary = reader.summary()
        assert summary.counters["seen"] == summary.samples + summary.counters["evicted_limit"]


def test_a_reader_that_stands_still_does_not_stop_the_writer(folder):
    path = folder / "kept.db"
    with Store(path, LIMIT) as writer:
        writer.put_many([(expected(n), verdict_of(n)) for n in range(5)])
        with Store(path, read_only=True) as reader:
            reading = iter(reader)
            assert next(reading).score == 0
            for n in range(5, 200):
                assert writer.put(expected(n), verdict_of(n))
            assert [one.score for one in reading][-1] == 199


@pytest.mark.needs("strace")
def test_everything_is_synced_before_put_returns(tmp_path):
    # What survives a power loss is what was synced: contents and, for files that come or go, the
    # folder. With journal_mode=DELETE this fails: the journal could come back and undo a commit.
    script = (
        PRELUDE
        + """
import os
with Store(sys.argv[1], 1_000_000) as store:
    os.write(1, b"ack")
    for n in range(12):
        store.put_many([(sample(m), verdict(m)) for m in range(20 * n, 20 * n + 20)])
        os.write(1, b"ack")
    store.label(sample(239).id, "new")
    os.write(1, b"ack")
"""
    )
    calls = "openat,write,pwrite64,ftruncate,fsync,fdatasync,unlink"
    command = ["strace", "-f", "-y", "-o", tmp_path / "trace", "-e", f"trace={calls}"]
    path = tmp_path / "kept.db"
    subprocess.run(
        [*command, sys.executable, "-c", script, path], check=True, stdout=subprocess.DEVNULL
    )
    unsynced, acknowledged, synced = set(), 0, 0
    for line in (tmp_path / "trace").read_text().splitlines():
        name, _, rest = line.split(maxsplit=1)[1].partition("(")
        file = rest.partition("<")[2].partition(">")[0]
        if name == "write" and '"ack"' in rest:
            assert not unsynced
            acknowledged += 1
        elif "kept.db-lock" in rest:
            continue
        elif name == "unlink" or (name == "openat" and "O_CREAT" in rest and "kept.db" in rest):
            unsynced.add(str(tmp_path))
        elif name in {"fsync", "fdatasync"}:
            synced += file == str(path)
            unsynced.discard(file)
        elif "kept.db" in file:
            unsynced.add(file)
    assert acknowledged == 14
    assert synced > 12
