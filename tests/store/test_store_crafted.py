"""Store files and journals that somebody made: no other file changes, and the error is one line."""

import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
from functools import partial

import pytest

from dripgate.errors import StoreError
from dripgate.store import ORDERS, Look, Store, salvage

MAGIC = bytes.fromhex("d9d505f920a163d7")
LOCK_PAGE = 2**30 // 4096 + 1


def journal(pages=1, page_size=4096, victim=None):
    """A hot journal without records; one that names a super-journal lets SQLite delete it."""
    head = MAGIC + struct.pack(">IIIII", 0, 7, pages, 512, page_size)
    body = head.ljust(512, b"\0")
    if victim is not None:
        name = str(victim).encode()
        body += struct.pack(">I", LOCK_PAGE) + name
        body += struct.pack(">II", len(name), sum(name)) + MAGIC
    return body


@pytest.fixture
def kept(tmp_path, sample, verdict):
    """A store of 20 samples that was closed."""
    path = tmp_path / "kept.db"
    with Store(path) as store:
        store.put_many([(sample(n), verdict(n)) for n in range(20)])
        store.set_meta("gate_id", "g1")
    return path


@pytest.fixture
def theirs(tmp_path):
    """A file of the user's that nobody asked us about."""
    path = tmp_path / "thesis.txt"
    path.write_bytes(b"three years of work " * 5000)
    return path


def other_program(path, *, journal_mode="delete"):
    """A database of another program, in the middle of its work when its process was killed."""
    script = f"""
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = {journal_mode}")
db.execute("PRAGMA wal_autocheckpoint = 0")
db.execute("CREATE TABLE accounts (name, balance)")
db.executemany("INSERT INTO accounts VALUES (?, 1)", [(str(i),) for i in range(2000)])
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE accounts SET balance = 2, name = name || 'changed'")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script, path], check=False)
    return path


def contents(folder):
    """All files, by name; those that our refusal may leave are our own."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def opened(path):
    """Every way in which a store is opened, and its outcome: None, or the error's text."""
    ways = (lambda: Store(path).close(), lambda: Store(path, read_only=True).close())
    found = []
    for way in ways:
        try:
            way()
            found.append(None)
        except StoreError as error:
            found.append(str(error))
    return found


def refused(path, *words):
    for text in opened(path):
        assert text is not None
        assert "\n" not in text
        assert all(word in text for word in words), text


def test_a_journal_that_names_another_file_is_not_obeyed(kept, theirs, tmp_path):
    before = theirs.read_bytes()
    (tmp_path / "kept.db-journal").write_bytes(journal(victim=theirs))
    refused(kept, "kept.db-journal", str(theirs), "--salvage")
    found = salvage(kept, tmp_path / "out.db")
    assert theirs.read_bytes() == before
    assert found.whole == 20


def test_a_lock_that_is_a_database_with_such_a_journal_is_not_opened(kept, theirs, tmp_path):
    before = theirs.read_bytes()
    shutil.copy(kept, tmp_path / "kept.db-lock")
    (tmp_path / "kept.db-lock-journal").write_bytes(journal(victim=theirs))
    with pytest.raises(StoreError, match=r"kept\.db-lock"):
        Store(kept)
    assert theirs.read_bytes() == before


@pytest.mark.parametrize("suffix", ["-journal", "-lock", "-wal", "-shm"])
@pytest.mark.parametrize("link", ["symlink", "hard link"])
def test_no_file_of_others_is_written_through_a_link(kept, theirs, tmp_path, suffix, link, sample, verdict):  # noqa: E501  # fmt: skip
    before = theirs.read_bytes()
    beside = tmp_path / f"kept.db{suffix}"
    beside.unlink(missing_ok=True)
    (beside.symlink_to if link == "symlink" else beside.hardlink_to)(theirs)
    with pytest.raises(StoreError, match=suffix) as caught, Store(kept) as store:
        store.put(sample(99), verdict())
    assert "\n" not in str(caught.value)
    assert theirs.read_bytes() == before


@pytest.mark.parametrize("suffix", ["-journal", "-lock", "-wal"])
def test_what_would_be_waited_for_is_refused(kept, tmp_path, suffix):
    beside = tmp_path / f"kept.db{suffix}"
    beside.unlink(missing_ok=True)
    os.mkfifo(beside)
    with pytest.raises(StoreError, match=suffix):
        Store(kept)


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_another_program_s_database_is_left_as_it_is(tmp_path, mode):
    path = other_program(tmp_path / "theirs.db", journal_mode=mode)
    before = contents(tmp_path)
    assert len(before) > 1  # its journal
    refused(path, "not a dripgate store")
    assert contents(tmp_path) == before


def test_a_store_that_somebody_put_into_wal_mode_is_put_back(kept, tmp_path, sample, verdict):
    with sqlite3.connect(kept) as db:
        db.execute("PRAGMA journal_mode = WAL")
    db.close()
    with Store(kept) as store:
        assert store.put(sample(50), verdict())
    assert sorted(contents(tmp_path)) == ["kept.db", "kept.db-lock"]
    assert kept.read_bytes()[18:20] == b"\x01\x01"


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-lock-journal", "-lock-wal"])
def test_files_that_no_store_of_ours_has_are_not_obeyed(kept, tmp_path, suffix):
    (tmp_path / f"kept.db{suffix}").write_bytes(b"x" * 5000)
    before = contents(tmp_path)
    with pytest.raises(StoreError, match=f"kept.db{suffix}"):
        Store(kept)
    assert contents(tmp_path) == before


def test_a_journal_of_other_pages_is_refused(kept, tmp_path):
    (tmp_path / "kept.db-journal").write_bytes(journal(page_size=1024))
    refused(kept, "kept.db-journal", "--salvage")


def test_looking_at_a_header_lets_no_lock_go(kept, sample, verdict):
    """A second store of this process must not release what the first one holds."""
    script = """
import sys
from dripgate.errors import StoreError
from dripgate.store import Store
try:
    Store(sys.argv[1])
except StoreError as error:
    sys.exit(str(error))
"""
    with Store(kept) as writer:
        for _ in range(3):
            Store(kept, read_only=True).close()
            with pytest.raises(StoreError, match="already has a writer"):
                Store(kept)
        done = subprocess.run([sys.executable, "-c", script, kept], capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert "already has a writer" in done.stderr
        assert writer.put(sample(50), verdict())


# Rows that no dripgate wrote, in tables that one could have written ------------------------------


def edited(path, *statements):
    """A store changed behind its back, without the rules of STRICT tables."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA writable_schema = ON")
    was = {name: db.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (name,)).fetchone()[0]
           for name in ("samples", "payloads", "counters", "meta", "settings",
                        "embeddings", "changes", "labels")}  # fmt: skip
    for name in was:
        db.execute("UPDATE sqlite_schema SET sql = replace(sql, ' STRICT', '') WHERE name = ?",
                   (name,))  # fmt: skip
        db.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, ', WITHOUT', 'WITHOUT') WHERE name = ?",
            (name,),
        )
    db.execute("PRAGMA writable_schema = RESET")
    for statement in statements:
        db.executescript(statement)
    db.execute("PRAGMA writable_schema = ON")
    for name, sql in was.items():
        db.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (sql, name))
    db.close()


CRAFTED = [
    "UPDATE samples SET decision = 'obey'",
    "UPDATE samples SET reason = x'00'",
    "UPDATE samples SET source = x'ff'",
    "UPDATE samples SET time = 'yesterday'",
    "UPDATE samples SET predicted = 'first'",
    "UPDATE samples SET score = 'high'",
    "UPDATE samples SET id = x'00' WHERE key = 1",
    "UPDATE samples SET id = 'text' WHERE key = 1",
    "UPDATE samples SET label = 7",
    "UPDATE samples SET label = x'00'",
    "UPDATE samples SET value = 'text'",
    "UPDATE samples SET footprint = 'text'",
    "UPDATE samples SET footprint = -1000000000",
    "UPDATE samples SET bytes = 'text'",
    "UPDATE samples SET uploaded = 'text'",
    "UPDATE payloads SET payload = 'text'",
    "UPDATE payloads SET payload = 7",
    "UPDATE settings SET value = 'text'",
    "UPDATE settings SET value = -5",
    "UPDATE settings SET value = x'00'",
    "UPDATE settings SET value = 1e308",
    "DELETE FROM settings",
    "INSERT OR REPLACE INTO counters VALUES ('seen', 'many')",
    "INSERT OR REPLACE INTO counters VALUES (x'00', 1)",
    "INSERT OR REPLACE INTO counters VALUES ('seen', 9223372036854775807)",
    "INSERT OR REPLACE INTO meta VALUES ('gate', x'00')",
    "INSERT OR REPLACE INTO meta VALUES ('gate', '{}')",
    "INSERT OR REPLACE INTO meta VALUES ('gate', '[[[[[')",
    "INSERT OR REPLACE INTO meta VALUES ('policy', 'QUJD')",
    "INSERT OR REPLACE INTO meta VALUES ('gate_id', 7)",
    "INSERT INTO embeddings VALUES (1, 3, x'00')",
    "INSERT INTO embeddings VALUES (1, -1, 'text')",
    "INSERT INTO embeddings VALUES (1, 'text', 7)",
    "INSERT INTO changes VALUES (1, 'yesterday', 7, 'no')",
    "INSERT INTO changes VALUES (1, 0, 'who', 0); INSERT INTO labels VALUES (1, 'id', 7, x'00')",
    "UPDATE samples SET predicted = 9223372036854775807",
    "UPDATE samples SET time = 1e300, score = -1e300",
]


@pytest.mark.parametrize("statement", CRAFTED)
def test_crafted_rows_give_one_line(kept, sample, verdict, statement, tmp_path):
    edited(kept, statement)
    for use in (
        lambda s: list(s), lambda s: s.summary(), lambda s: s.labels(), lambda s: s.counters,
        lambda s: s.meta, lambda s: s.limit, lambda s: s.pending(5), lambda s: s.backlog,
        lambda s: s.tally(), lambda s: s.rows(range(1, 30)), lambda s: list(s.drawn(chance=False)),
        lambda s: list(s.drawn(chance=True)), lambda s: s.changes(), lambda s: s.embeddings(),
        *(partial(Store.keys, look=Look(order=order)) for order in ORDERS),
    ):  # fmt: skip
        try:
            with Store(kept, read_only=True) as store:
                use(store)
        except StoreError as error:
            assert "\n" not in str(error)
            assert "kept.db" in str(error)
    with Store(kept, read_only=True) as store:
        store.check()
    try:
        with Store(kept, "1MB") as store:
            store.put_many([(sample(n, 90_000), verdict(n)) for n in range(100, 130)])
            store.count(seen=1)
            store.expire(10)
    except StoreError as error:
        assert "\n" not in str(error)
    salvage(kept, tmp_path / "out.db")


@pytest.mark.parametrize("statement", CRAFTED)
def test_commands_say_one_line_about_crafted_rows(kept, statement, loop, tmp_path):
    edited(kept, statement)
    for arguments in (["inspect", kept], ["export", kept, "--out", tmp_path / "out"]):
        done = subprocess.run([sys.executable, "-m", "dripgate", *map(str, arguments)],
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, 2), done.stderr


# A store is one thread's ------------------------------------------------------------------------


def test_a_store_used_from_another_thread_says_so(kept, sample, verdict):
    said = []

    def use(store):
        for act in (
            lambda: len(store), lambda: store.put(sample(70), verdict()), lambda: store.summary(),
            lambda: list(store), store.close,
        ):  # fmt: skip
            try:
                act()
            except StoreError as error:
                said.append(str(error))

    with Store(kept, "1MB") as store:
        thread = threading.Thread(target=use, args=(store,))
        thread.start()
        thread.join()
        assert len(said) == 5
        assert all("another thread" in text and "\n" not in text for text in said)
        assert len(store) == 20  # and it still works where it was opened


def test_a_store_used_after_a_fork_says_so(kept):
    with Store(kept) as store:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            text = "no error"
            try:
                len(store)
            except StoreError as error:
                text = str(error)
            os.write(writing, text.encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert "another process" in os.read(reading, 4000).decode()
        assert len(store) == 20


def test_a_closed_store_says_so(kept):
    store = Store(kept)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        len(store)
