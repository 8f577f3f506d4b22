"""What choosing looks at, of every readable sample, sorted on disk by SQLite."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pyarrow import compute, parquet

_TABLES = """
CREATE TABLE samples (
  key INTEGER PRIMARY KEY, id BLOB NOT NULL, part INTEGER NOT NULL, at INTEGER NOT NULL,
  predicted INTEGER NOT NULL, score REAL, day INTEGER, verdict TEXT NOT NULL, sketch BLOB NOT NULL
)"""
_COLUMNS = "key, id, part, at, predicted, score, day, verdict != 'quarantine'"
_READ = ["id", "predicted", "score", "time", "verdict", "cause", "sketch"]
_MICROS_OF_DAY = 86_400_000_000
_CACHE_KIB = 65_536
#: The day of what has no time.
UNDATED = -(2**40)


class Row(NamedTuple):
    """A distinct readable sample. id: 32 bytes. day: days since the epoch (UTC). sound: its
    quality is in range. key: its number here.
    """

    key: int
    id: bytes
    part: int
    at: int
    predicted: int
    score: float
    day: int
    sound: bool
    sketch: bytes


class Scratch:
    """A database that nobody needs afterwards: no journal, nothing is waited for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.repeats = 0

    def __enter__(self) -> "Scratch":
        self._path.unlink(missing_ok=True)
        self._db = sqlite3.connect(self._path, isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF", "temp_store = FILE",
                        f"cache_size = -{_CACHE_KIB}"):  # fmt: skip
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute(_TABLES)
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        with suppress(OSError):
            self._path.unlink()

    def load(
        self, parts: Sequence[Path], classes: Sequence[str], told: Callable[[int], object]
    ) -> None:
        """Take in what is readable; of samples with the same bytes only the first."""
        index = {name: i for i, name in enumerate(classes)}
        for number, part in enumerate(parts):
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT INTO samples (id, part, at, predicted, score, day, verdict, sketch)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                _rows(part, number, index),
            )
            self._db.execute("COMMIT")
            told(number + 1)
        self._db.execute("CREATE INDEX same ON samples (id, key)")
        self.repeats = self._db.execute(
            "DELETE FROM samples WHERE key IN (SELECT key FROM (SELECT key, row_number() OVER"
            " (PARTITION BY id ORDER BY key) AS n FROM samples) WHERE n > 1)"
        ).rowcount
        self._db.execute("DROP INDEX same")
        self._db.execute("CREATE INDEX of_class ON samples (predicted, score DESC, id)")
        self._db.execute("CREATE INDEX ranked ON samples (score DESC, id)")

    def by_class(self) -> dict[int, int]:
        """Samples by predicted class."""
        return self._counts("1")

    def sound_by_class(self) -> dict[int, int]:
        """Those that may be chosen, by predicted class."""
        return self._counts("verdict != 'quarantine' AND score IS NOT NULL")

    def kept(self) -> int:
        """Those in the gate's band."""
        return int(
            self._db.execute("SELECT count(*) FROM samples WHERE verdict = 'keep'").fetchone()[0]
        )

    def ranked(self, predicted: int | None, *, band: bool = False) -> Iterator[Row]:
        """What may be chosen, the highest score first: of a class, or of all."""
        where = "verdict = 'keep'" if band else "verdict != 'quarantine' AND score IS NOT NULL"
        where += "" if predicted is None else " AND predicted = ?"
        return self._select(
            f"WHERE {where} ORDER BY score DESC, id", () if predicted is None else (predicted,)
        )

    def all(self) -> Iterator[Row]:
        """Every sample without its sketch, in the order of the archive."""
        return self._select("ORDER BY key", (), "x''")

    def _select(self, tail: str, asked: tuple[int, ...], sketch: str = "sketch") -> Iterator[Row]:
        statement = f"SELECT {_COLUMNS}, {sketch} FROM samples {tail}"  # noqa: S608
        return map(Row._make, self._db.execute(statement, asked))

    def _counts(self, where: str) -> dict[int, int]:
        return dict(
            self._db.execute(
                f"SELECT predicted, count(*) FROM samples WHERE {where} GROUP BY predicted"  # noqa: S608
            )
        )


def _rows(part: Path, number: int, index: dict[str, int]) -> Iterator[tuple[object, ...]]:
    table = parquet.read_table(part, columns=_READ, partitioning=None)
    micros = compute.cast(table["time"], "int64").to_pylist()
    rest = (table[name].to_pylist() for name in _READ if name != "time")
    for at, (id, predicted, score, verdict, cause, sketch, when) in enumerate(
        zip(*rest, micros, strict=True)
    ):
        if cause is None and predicted in index:
            day = UNDATED if when is None else when // _MICROS_OF_DAY
            number_of = index[predicted]
            yield bytes.fromhex(id), number, at, number_of, score, day, verdict, sketch
