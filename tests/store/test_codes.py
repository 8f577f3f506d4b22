"""What SQLite said is known by its text too: Python 3.10 hands no code on."""

import sqlite3
from contextlib import closing

import pytest

from dripgate.store import codes


def busy(path):
    with (
        closing(sqlite3.connect(path)) as first,
        closing(sqlite3.connect(path, timeout=0)) as second,
    ):
        first.execute("BEGIN EXCLUSIVE")
        second.execute("BEGIN EXCLUSIVE")


def readonly(path):
    sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close()
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        db.execute("INSERT INTO t VALUES (1)")


def no_database(path):
    path.write_bytes(b"no database at all" * 100)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA schema_version")


def cannot_open(path):
    with closing(sqlite3.connect(path / "none" / "here.db")) as db:
        db.execute("PRAGMA schema_version")


def full(path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (x)")
        db.execute("PRAGMA max_page_count = 3")
        db.execute("INSERT INTO t VALUES (zeroblob(100000))")


def damaged(path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (x)")
        db.execute("INSERT INTO t VALUES (zeroblob(100000))")
        db.commit()
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    path.write_bytes(content)
    with closing(sqlite3.connect(path)) as db:
        db.execute("SELECT * FROM t").fetchall()


@pytest.mark.parametrize(
    ("fails", "code"),
    [(busy, codes.BUSY), (readonly, codes.READONLY), (no_database, codes.NOTADB),
     (cannot_open, codes.CANTOPEN), (full, codes.FULL), (damaged, codes.CORRUPT)],
)  # fmt: skip
def test_the_code_is_known_with_and_without_python_s_help(fails, code, tmp_path):
    with pytest.raises(sqlite3.Error) as caught:
        fails(tmp_path / "a.db")
    assert codes.code_of(caught.value) & 0xFF == code
    assert codes.code_of(type(caught.value)(str(caught.value))) == code  # as Python 3.10 gives it
    assert codes.is_busy(caught.value) == (code == codes.BUSY)
