"""SQLite's result codes (https://www.sqlite.org/rescode.html), which Python names since 3.11."""

import sqlite3

BUSY, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB = 5, 8, 10, 11, 13, 14, 26
READONLY_ROLLBACK = READONLY | 3 << 8

#: What SQLite says for a code, where Python 3.10 does not hand the code on.
_TEXTS = {
    "database is locked": BUSY,
    "attempt to write a readonly database": READONLY,
    "disk I/O error": IOERR,
    "database disk image is malformed": CORRUPT,
    "malformed database schema": CORRUPT,
    "database or disk is full": FULL,
    "unable to open database file": CANTOPEN,
    "file is not a database": NOTADB,
}


def code_of(error: sqlite3.Error) -> int:
    """The extended result code, by its text where there is none; CORRUPT for text that is no UTF-8,
    of which sqlite3 says neither.
    """
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return code
    said = str(error)
    return next((code for text, code in _TEXTS.items() if said.startswith(text)), CORRUPT)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process or connection is in the way."""
    return code_of(error) & 0xFF == BUSY
