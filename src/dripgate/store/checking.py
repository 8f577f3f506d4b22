"""What is wrong with a store, found in short steps, so that whoever writes to it can go on.

Each step reads some rows at one moment and lets go. Together they read every row, every payload
and every entry of the indexes that a row needs. SQLite's own check looks at more, the free pages
and what no row points to, but in one go that keeps a writer waiting for as long as it takes to
read the whole file: it is made where nobody is writing.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from dripgate.progress import Progress
from dripgate.store.codes import is_busy

Query = Callable[..., list[Any]]

#: Rows in a step that does not read payloads.
STEP = 20_000
_BOUNDS = """
SELECT min(low), max(high) FROM (
  SELECT min(key) AS low, max(key) AS high FROM samples
  UNION ALL SELECT min(key), max(key) FROM payloads
  UNION ALL SELECT min(key), max(key) FROM embeddings)"""
_STRAYS = {
    "samples without a payload": """
SELECT count(*) FROM samples WHERE key BETWEEN :low AND :high
  AND NOT EXISTS (SELECT 1 FROM payloads WHERE payloads.key = samples.key)""",
    "payloads without a sample": """
SELECT count(*) FROM payloads WHERE key BETWEEN :low AND :high
  AND NOT EXISTS (SELECT 1 FROM samples WHERE samples.key = payloads.key)""",
    "embeddings without a sample": """
SELECT count(*) FROM embeddings WHERE key BETWEEN :low AND :high
  AND NOT EXISTS (SELECT 1 FROM samples WHERE samples.key = embeddings.key)""",
    "samples that the order of eviction does not know": """
SELECT count(*) FROM samples AS one NOT INDEXED WHERE key BETWEEN :low AND :high
  AND NOT EXISTS (SELECT 1 FROM samples AS other INDEXED BY samples_by_worth
    WHERE other.pool = one.pool AND other.uploaded = one.uploaded AND other.worth IS one.worth
      AND other.key = one.key)""",
    "samples that are not found by their id": """
SELECT count(*) FROM samples AS one NOT INDEXED WHERE key BETWEEN :low AND :high
  AND NOT EXISTS (SELECT 1 FROM samples AS other WHERE other.id = one.id AND other.key = one.key)
""",
}
_SHARES = """
SELECT coalesce(sum(footprint) FILTER (WHERE pool = 'audit'), 0),
       coalesce(sum(footprint) FILTER (WHERE pool = 'quarantine'), 0)
FROM samples WHERE key BETWEEN :low AND :high"""
_TAKEN = """
SELECT coalesce(sum(value) FILTER (WHERE name = 'audited'), 0),
       coalesce(sum(value) FILTER (WHERE name = 'quarantined'), 0) FROM settings"""


def problems(
    query: Query, samples: Iterator[Any], path: Path, told: Progress = lambda _: None
) -> Iterator[str]:
    """One line for each. samples: all of the store, as its reader gives them. told: is given the
    number of those whose payloads were read.
    """
    if not has_writer(path):
        found = [row for (row,) in query("PRAGMA integrity_check") if row != "ok"]
        yield from found
        if found:
            return
    for what, statement in _STRAYS.items():
        count = sum(query(statement, step)[0][0] for step in steps(query))
        if count:
            yield f"{what}: {count:,}"
    yield from _wrong_shares(query)
    for number, stored in enumerate(samples, 1):
        told(number)
        if not stored.intact:
            yield f"sample {stored.id}: its payload has another hash"


def steps(query: Query) -> Iterator[dict[str, int]]:
    """Ranges of keys that hold all rows, about ``STEP`` in each where none is missing."""
    low, high = query(_BOUNDS)[0]
    if low is None:
        return
    size = max(STEP, (high - low) // 1000)
    for begin in range(low, high + 1, size):
        yield {"low": begin, "high": begin + size - 1}


def has_writer(path: Path) -> bool:
    """Whether a process holds the lock of the one who writes."""
    try:
        uri = f"{Path(f'{path}-lock').as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=0)) as db:
            db.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError as error:
        return is_busy(error)
    return False


def _wrong_shares(query: Query) -> Iterator[str]:
    """Whether what is remembered about sizes is right; told where nobody wrote meanwhile."""
    for _ in range(3):
        before = query("PRAGMA data_version")
        found = [query(_SHARES, step)[0] for step in steps(query)]
        taken = query(_TAKEN)[0]
        if query("PRAGMA data_version") == before:
            wrong = sum(abs(sum(row[i] for row in found) - taken[i]) for i in (0, 1))
            if wrong:
                yield f"bytes that the shares are wrong by: {wrong:,}"
            return
