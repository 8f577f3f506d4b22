"""The tables of a store, and opening a file that must be one.

Payloads have their own table, so that labels and statistics never touch them. The schema found
must be exactly the one written here: a file with triggers or views of somebody else is refused.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from dripgate.errors import StoreError
from dripgate.store import codes
from dripgate.store.beside import check_beside
from dripgate.store.codes import code_of, is_busy
from dripgate.store.space import PAGE

APPLICATION_ID = 0x44524950  # "DRIP"
VERSION = 6
WITH_EMBEDDINGS = 5
_INCREMENTAL = 2  # of PRAGMA auto_vacuum
#: Seconds to wait for readers in the middle of a read, or for a writer in the middle of a commit.
PATIENCE = 30.0
_TURN = 0.0002

#: The first schema, as it was. What came later is in _STEPS: a new store and one that was brought
#: up to date are the same to the letter.
_FIRST = (
    """CREATE TABLE samples (
  key INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of insertion, never used twice
  id BLOB NOT NULL UNIQUE,                -- SHA-256 of the payload
  source TEXT NOT NULL,
  time REAL,                              -- seconds since the epoch
  decision TEXT NOT NULL,                 -- keep, quarantine
  reason TEXT NOT NULL,
  score REAL,                             -- NULL is NaN, here and below
  quality REAL,
  predicted INTEGER NOT NULL,             -- class index, -1 is none
  propensity REAL,
  detail TEXT NOT NULL,
  label TEXT,
  bytes INTEGER NOT NULL,                 -- of the payload
  value REAL NOT NULL,                    -- the lowest is evicted first
  footprint INTEGER NOT NULL              -- estimated bytes on disk
) STRICT""",
    "CREATE INDEX samples_by_value ON samples (decision, value, footprint)",
    "CREATE TABLE payloads (key INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID",
)
#: From version 1 to 2, and so on, a transaction each. None rewrites rows: the journal stays small.
#: An audit sample is one that chance kept. Of those a random one goes first, so that the rest
#: remains an audit: ids are hashes, their order is chance.
_STEPS = (
    (
        "ALTER TABLE samples ADD COLUMN uploaded INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE samples ADD COLUMN pool TEXT AS"
        " (CASE WHEN propensity < 1 THEN 'audit' ELSE decision END)",
        "ALTER TABLE samples ADD COLUMN worth ANY AS"
        " (CASE WHEN propensity < 1 THEN id ELSE value END)",
        "DROP INDEX samples_by_value",
        "INSERT OR REPLACE INTO settings SELECT 'quarantined', coalesce(sum(footprint), 0)"
        " FROM samples WHERE pool = 'quarantine'",
        "INSERT OR REPLACE INTO settings SELECT 'audited', coalesce(sum(footprint), 0)"
        " FROM samples WHERE pool = 'audit'",
    ),
    (
        "CREATE INDEX samples_by_worth ON samples (pool, uploaded DESC, worth)",
        "CREATE INDEX samples_pending ON samples (key) WHERE uploaded = 0",
    ),
    (
        # A log: appended to in order, so that noting a file touches no other page.
        """CREATE TABLE decided (
  upto INTEGER PRIMARY KEY,               -- bytes of marks ever noted, up to this row's end
  open INTEGER NOT NULL,                  -- 1: of files about to leave; the next commit clears it
  newest INTEGER NOT NULL,                -- time of change of the newest of these files, in ns
  marks BLOB NOT NULL                     -- little-endian uint64 (n,)
) STRICT""",
        "ALTER TABLE samples ADD COLUMN ran REAL",  # when it was stored, by the store's own clock
    ),
    (
        # Three columns, so that a salvage never takes one for a payload.
        """CREATE TABLE embeddings (
  key INTEGER PRIMARY KEY,                -- of the sample
  width INTEGER NOT NULL,
  numbers BLOB NOT NULL                   -- little-endian float16 (width,)
) STRICT""",
        """CREATE TABLE changes (
  change INTEGER PRIMARY KEY AUTOINCREMENT,
  time REAL NOT NULL,                     -- seconds since the epoch
  who TEXT NOT NULL,
  undone INTEGER NOT NULL                 -- 1: taken back, or itself the taking back of one
) STRICT""",
        """CREATE TABLE labels (
  change INTEGER NOT NULL,
  id BLOB NOT NULL,
  before TEXT,                            -- NULL is no label, here and below
  after TEXT,
  PRIMARY KEY (change, id)
) STRICT, WITHOUT ROWID""",
    ),
    (
        "ALTER TABLE samples ADD COLUMN gate TEXT",  # id of the one that decided; NULL: not noted
        """CREATE TABLE events (
  event INTEGER PRIMARY KEY AUTOINCREMENT,
  device TEXT NOT NULL,                   -- '' is this one
  number INTEGER NOT NULL,                -- of the event on its device, rising
  time REAL NOT NULL,                     -- seconds since the epoch
  what TEXT NOT NULL,
  gate TEXT NOT NULL,                     -- id of the gate it is about
  said TEXT NOT NULL,                     -- a line for people
  uploaded INTEGER NOT NULL
) STRICT""",
        """CREATE TABLE devices (
  name TEXT PRIMARY KEY,
  time REAL NOT NULL,                     -- seconds since the epoch
  said TEXT NOT NULL                      -- JSON: its last report
) STRICT, WITHOUT ROWID""",
    ),
)
COLUMNS = (
    "id, source, time, decision, reason, score, quality, predicted, propensity, detail, label,"
    " uploaded, gate, payload"
)
#: Bytes that a step, by the version it begins at, may need for each sample: the entries of new
#: indexes.
STEP_BYTES = {2: 128}

#: Longest value that a writer takes, and a reader at least: a crafted row may claim a gigabyte.
_LONGEST_VALUE = 256 << 20

_CAUSES = {
    codes.READONLY_ROLLBACK: "was interrupted in a write that has to be undone, and cannot"
    " be written here: copy it together with its -journal to where it can be written, or write what"
    " is whole into a new store: dripgate inspect STORE --salvage OUT",
    codes.BUSY: "is in use by another process that does not let go; close it, then retry",
    codes.FULL: "cannot grow: the disk is full; free some space, then retry (all that was"
    " acknowledged is safe)",
    codes.NOTADB: "is not a dripgate store; give another path",
    codes.CORRUPT: "is damaged; write what is whole into a new store:"
    " dripgate inspect STORE --salvage OUT",
    codes.READONLY: "cannot be written; check the permissions of the file and its folder",
    codes.CANTOPEN: "cannot be opened; check the permissions of the file and its folder",
    codes.IOERR: "cannot be read or written: the disk reports an error; check the disk",
}


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises about a file into a StoreError that names it."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):  # not the file's fault
        raise
    except sqlite3.Error as error:
        code = code_of(error)
        cause = _CAUSES.get(code) or _CAUSES.get(
            code & 0xFF, "cannot be used; check the file with check()"
        )
        text = str(error).partition("\n")[0]
        raise StoreError(f"{path} {cause} (SQLite: {text})") from error
    except msgspec.ValidationError as error:
        raise StoreError(
            f"{path} holds what no dripgate wrote ({error}); write what is whole into a new "
            f"store: dripgate inspect {path} --salvage OUT"
        ) from error
    except OSError as error:
        where = error.filename2 or error.filename or path
        raise StoreError(
            f"{path} cannot be used ({where}: {error.strerror or error}); check the path, its "
            "rights and the free space"
        ) from error


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Let all reads inside see one moment, after waiting for the writer.

    A busy writer lets readers in only between two commits. SQLite's own wait sleeps up to 0.1 s
    between attempts and rarely meets that moment; a reader could wait for seconds.
    """
    if db.in_transaction:
        yield
        return
    db.execute("BEGIN")
    try:
        deadline = time.monotonic() + PATIENCE
        while not _admitted(db, last=time.monotonic() > deadline):
            time.sleep(_TURN)
        yield
    finally:
        db.rollback()  # nothing was written, or what was must not stay


def _admitted(db: sqlite3.Connection, *, last: bool) -> bool:
    try:
        db.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError as error:
        if last or not is_busy(error):
            raise
        return False
    return True


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """A connection to a store, or to an empty file where ``create`` allows one.

    SQLite reads the header, never this process: closing a second descriptor of the file would
    release SQLite's locks on it (https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks).

    Raises:
        StoreError: for everything that is not a store, before anything is written to it, or to any
            other file that it or its journal names.
    """
    _check_path(path, create)
    if path.exists():
        _check_header(path, create)
    check_beside(path)
    uri = f"{path.as_uri()}?mode={'rwc' if create else 'rw'}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=PATIENCE if create else 0)
    try:
        if hasattr(db, "setlimit"):  # since Python 3.11; before, SQLite's own gigabyte holds
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(_LONGEST_VALUE, file_size(path)))
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA cell_size_check = ON")
        db.execute("PRAGMA temp_store = MEMORY")  # no file but those that the limit covers
        with snapshot(db):
            if not (create and is_empty(db)):
                _check_schema(db, path, oldest=1 if create else VERSION)
    except BaseException:
        db.close()
        raise
    return db


def _check_header(path: Path, create: bool) -> None:
    """Whether the file may be opened: another program's journal must not be played back by us.

    As a file that never changes SQLite reads it without a lock, a journal or a write.
    """
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as db:
        db.execute("PRAGMA writable_schema = ON")  # else a file cut in a write is "malformed"
        if pragma(db, "application_id") != APPLICATION_ID and not (create and is_empty(db)):
            raise _not_ours(db, path)


def is_empty(db: sqlite3.Connection) -> bool:
    """Whether the file is a store to be: without a page, or with the one that configuring writes,
    because it is new or because a crash came before its first commit.
    """
    if pragma(db, "page_count") == 0:
        return True
    unclaimed = pragma(db, "application_id") == 0 and _layout(db) == (PAGE, _INCREMENTAL)
    return unclaimed and not _schema(db)


def configure(db: sqlite3.Connection) -> None:
    """What a writer needs; docs/store.md gives the reasons. Takes effect before the first table."""
    db.execute(f"PRAGMA page_size = {PAGE}")
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # lets a lowered limit shrink the file; a write
    make_durable(db)


def make_durable(db: sqlite3.Connection) -> None:
    """How a connection that writes has to commit. Takes no lock."""
    db.execute("PRAGMA journal_mode = TRUNCATE")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = OFF")  # else freed pages are journaled and overwritten


def create_tables(db: sqlite3.Connection) -> None:
    """Make an empty file a store; inside the caller's transaction."""
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statement in _FIRST:
        db.execute(statement)
    for version in range(1, VERSION):
        step(db, version)


def step(db: sqlite3.Connection, version: int) -> None:
    """Bring the tables from a version to the next; inside the caller's transaction."""
    for statement in _STEPS[version - 1]:
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {version + 1}")


def patiently(db: sqlite3.Connection, statement: str, told: Callable[[str], object]) -> None:
    """Execute; where another process is in the way for longer than SQLite waits, say so and wait
    on. A reader on a slow disk must not end the one who writes; what is begun stays begun.
    """
    while True:
        try:
            db.execute(statement)
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
            told("another process reads it for so long that nothing can be written; waiting")
        else:
            return


def promptly(db: sqlite3.Connection, statement: str) -> None:
    """Execute, trying again every 0.2 ms while another process is in the middle of a commit, for
    ``PATIENCE`` at most: whoever pressed a key waits for it.

    SQLite's own wait grows to 0.1 s between two attempts: far too long behind a key press.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            db.execute(statement)
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(_TURN)
        else:
            return


def file_size(path: Path) -> int:
    """Bytes; 0 where there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def pragma(db: sqlite3.Connection, name: str) -> int:
    """The value of an integer pragma; ``name`` is ours, never a user's."""
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def lock(path: Path) -> sqlite3.Connection:
    """Become the one writer until the connection is closed or the process dies.

    The lock is SQLite's exclusive lock on an empty file beside the store: portable, gone with
    its process, and none of the readers' business. The empty file stays; removing it would let
    two writers lock two files of one name.
    """
    # Not at once: whoever checks the store looks for a moment whether there is a writer.
    db = sqlite3.connect(f"{path}-lock", isolation_level=None, timeout=0.2)
    try:
        db.execute("PRAGMA journal_mode = MEMORY")  # no journal beside a file that stays empty
        db.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        db.close()
        if not is_busy(error):
            raise
        raise StoreError(
            f"{path} already has a writer, and a store has only one; close the other, or open "
            f"this one with read_only=True"
        ) from error
    return db


def _check_path(path: Path, create: bool) -> None:
    if path.is_dir():
        raise StoreError(f"{path} is a folder, not a store; give the path of a file in it")
    if path.exists() and not path.is_file():
        raise StoreError(f"{path} is not a regular file, so it is no store; give another path")
    if not path.parent.is_dir():
        raise StoreError(f"{path} cannot be made: there is no folder {path.parent}; make it first")
    if not create and not path.exists():
        raise StoreError(f"{path} does not exist; give the path of a store")


def _check_schema(db: sqlite3.Connection, path: Path, oldest: int) -> None:
    if pragma(db, "application_id") != APPLICATION_ID:
        raise _not_ours(db, path)
    version = pragma(db, "user_version")
    if not oldest <= version <= VERSION:
        remedy = "update dripgate"
        if 1 <= version < VERSION:
            remedy = f"'dripgate purge {path}' deletes nothing and brings it up to date"
        raise StoreError(
            f"{path} has schema version {version}, this dripgate reads {VERSION}; {remedy}"
        )
    if _schema(db) != _expected(version) or _layout(db) != (PAGE, _INCREMENTAL):
        raise StoreError(
            f"{path} has other tables than a store of schema version {version}: something "
            f"else changed it; give another path"
        )


def _not_ours(db: sqlite3.Connection, path: Path) -> StoreError:
    found = "an empty file" if is_empty(db) else "another SQLite database"
    return StoreError(f"{path} is not a dripgate store but {found}; give another path")


def _expected(version: int) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:")) as model:
        for statement in _FIRST:
            model.execute(statement)
        for older in range(1, version):
            step(model, older)
        return _schema(model)


def _layout(db: sqlite3.Connection) -> tuple[int, int]:
    return pragma(db, "page_size"), pragma(db, "auto_vacuum")


def _schema(db: sqlite3.Connection) -> list[tuple[str, ...]]:
    return db.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name"
    ).fetchall()
