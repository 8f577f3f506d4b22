"""Looking through a store of any size: orders, filters and counts, never the payloads.

An order is made once and held as the samples' keys, eight bytes each, so that nothing moves under
the hands of whoever labels. The table is read in parts: no lock is held for longer than one takes.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from dripgate.store.checking import steps
from dripgate.store.reading import Embeddings, Reader, digest
from dripgate.types import Array

Order = Literal["newest", "oldest", "strangest", "highest", "lowest", "name", "measure"]
ORDERS: tuple[Order, ...] = (
    "newest", "oldest", "strangest", "highest", "lowest", "name", "measure",
)  # fmt: skip
_ROW = (
    "key, lower(hex(id)), source, time, decision, pool, reason, score, quality, predicted,"
    " propensity, detail, label, bytes, coalesce(gate, '')"
)
_BY_KEYS = f"SELECT {_ROW} FROM samples WHERE key IN (SELECT value FROM json_each(?))"  # noqa: S608
_BY_ID = f"SELECT {_ROW} FROM samples WHERE id = ?"  # noqa: S608 - our own constant
#: What an order sorts by: ascending, and of equals the older first.
_BY: dict[str, str] = {
    "newest": "-key", "oldest": "key", "strangest": "quality", "highest": "-score",
    "lowest": "score", "name": "source", "measure": "id",
}  # fmt: skip
_WANTED = """
WHERE key BETWEEN :low AND :high
  AND (:pool IS NULL OR pool = :pool) AND (:reason IS NULL OR reason = :reason)
  AND (:predicted IS NULL OR predicted = :predicted) AND (:label IS NULL OR label = :label)
  AND (:labelled IS NULL OR (label IS NOT NULL) = :labelled)
  AND (:search = '' OR instr(lower(source), :search))"""
_TALLY = """
SELECT pool, reason, predicted, label, count(*) FROM samples WHERE key BETWEEN :low AND :high
GROUP BY 1, 2, 3, 4"""
_Counted: Any = tuple[str, str, int, str | None, int]
#: The strata of an audit, in the order of the ids: those are hashes, so it is chance.
_CHANCE = """
SELECT id, source, predicted, propensity, label FROM samples
WHERE pool = 'audit' AND uploaded = :uploaded AND worth > :after
  AND (:gate IS NULL OR gate = :gate) ORDER BY worth LIMIT 256"""
_CERTAIN = """
SELECT id, source, predicted, propensity, label FROM samples
WHERE id > :after AND propensity >= 1 AND (:gate IS NULL OR gate = :gate)
ORDER BY id LIMIT 256"""

_EMBEDDED = """
SELECT key, source, coalesce(gate, ''), numbers FROM embeddings JOIN samples USING (key)
WHERE key > ? ORDER BY key LIMIT 1024"""


class Look(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which samples, in which order; None is any.

    strangest: by falling distance from what the gate was fitted on. highest, lowest: by score.
    measure: by chance, the audit's share as large as the stream's. pool: keep, audit or quarantine.
    search: a part of the name, in any case of its letters. first: unlabelled ones before others.
    """

    order: Order = "newest"
    pool: str | None = None
    reason: str | None = None
    predicted: int | None = None
    label: str | None = None
    labelled: bool | None = None
    search: str = ""
    first: bool = False


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A sample without its payload; None is NaN. bytes: of the payload. As in ``StoredSample``."""

    key: int
    id: str
    source: str
    time: float | None
    decision: str
    pool: str
    reason: str
    score: float | None
    quality: float | None
    predicted: int
    propensity: float | None
    detail: str
    label: str | None
    bytes: int
    gate: str


class Tally(msgspec.Struct, kw_only=True):
    """How many samples there are, by what one can look for; labels with their counts."""

    total: int = 0
    labelled: int = 0
    pool: Counter[str] = msgspec.field(default_factory=Counter)
    reason: Counter[str] = msgspec.field(default_factory=Counter)
    predicted: Counter[int] = msgspec.field(default_factory=Counter)
    label: Counter[str] = msgspec.field(default_factory=Counter)


class Drawn(NamedTuple):
    """A sample as an audit needs it."""

    id: bytes
    source: str
    predicted: int
    propensity: float
    label: str | None


class Embedded(NamedTuple):
    """A sample's embedding, little-endian float16, and where it is from; gate: "" is not noted."""

    key: int
    source: str
    gate: str
    numbers: bytes


class Browsing(Reader):
    """Reading for people: by page, by order, by filter."""

    def keys(self, look: Look, *, shares: tuple[float, float] = (1.0, 1.0)) -> Array:
        """Keys int64 (n,) of the samples looked for, in their order.

        shares: for ``measure``, how many samples of the stream those kept by chance and those kept
        for certain stand for.
        """
        asked = msgspec.structs.asdict(look) | {"search": look.search.lower()}
        kind: Any = {"name": str, "measure": bytes}.get(look.order, float | None)
        found: Any = list[tuple[int, int, str, kind]]
        rows: list[tuple[Any, ...]] = []
        for step in steps(self._query):
            part = self._query(
                f"SELECT key, label IS NOT NULL, pool, {_BY[look.order]} FROM samples {_WANTED}",  # noqa: S608
                asked | step,
            )
            rows += self._typed(found, part)
        if not rows:
            return np.zeros(0, np.int64)
        keys = np.array([row[0] for row in rows], np.int64)
        place = _places([row[3] for row in rows])
        labelled = np.array([row[1] for row in rows], bool)
        if look.order == "measure":
            chance = np.array([row[2] == "audit" for row in rows])
            place = _by_turns(place, chance, shares)
        if look.first:
            return keys[np.lexsort((place, labelled))]
        return keys[np.argsort(place, kind="stable")]

    def rows(self, keys: Sequence[int]) -> list[Row | None]:
        """Samples by key, in order; None for one that is gone meanwhile."""
        text = msgspec.json.encode(list(keys)).decode()
        found = {row[0]: self._row(row) for row in self._query(_BY_KEYS, (text,))}
        return [found.get(key) for key in keys]

    def row(self, id: str) -> Row | None:
        """A sample by id; None where there is none."""
        found = self._query(_BY_ID, (digest(id),))
        return self._row(found[0]) if found else None

    def tally(self) -> Tally:
        """Counts over all samples."""
        tally = Tally()
        for step in steps(self._query):
            rows = self._typed(list[_Counted], self._query(_TALLY, step))
            for pool, reason, predicted, label, count in rows:
                tally.total += count
                tally.pool[pool] += count
                tally.reason[reason] += count
                tally.predicted[predicted] += count
                if label is not None:
                    tally.labelled += count
                    tally.label[label] += count
        return tally

    def pools(self) -> dict[str, int]:
        """How many samples are in which pool: keep, audit, quarantine."""
        return dict(self._query("SELECT pool, count(*) FROM samples GROUP BY 1"))

    def version(self) -> tuple[int, int, int]:
        """(newest key, number of samples, newest change): another where anything is another."""
        found: tuple[int, int, int] = self._query(
            "SELECT (SELECT coalesce(max(key), 0) FROM samples), (SELECT count(*) FROM samples),"
            " (SELECT coalesce(max(change), 0) FROM changes)"
        )[0]
        return found

    def drawn(self, *, chance: bool, gate: str | None = None) -> Iterator[Drawn]:
        """Samples kept by chance, or those kept for certain, in the order of their hashes.

        The first so many of them are a random draw from all, whatever they show. gate: only of
        those that this gate decided about, by its id.
        """
        if not chance:
            yield from self._drawn(_CERTAIN, gate=gate)
            return
        parts = [self._drawn(_CHANCE, uploaded=sent, gate=gate) for sent in (0, 1)]
        yield from heapq.merge(*parts, key=lambda one: one.id)

    def embedding(self, key: int) -> Array | None:
        """The embedding float16 (D,) of a sample by key; None where none is stored."""
        part: Embeddings = self.embeddings(after=key - 1, most=1)
        return part.values[0] if len(part.keys) and part.keys[0] == key else None

    def newest_embeddings(self, most: int) -> tuple[int, int]:
        """How many embeddings there are, and the key after which the newest so many lie."""
        (total,) = self._query("SELECT count(*) FROM embeddings")[0]
        found = self._query(
            "SELECT key FROM embeddings ORDER BY key DESC LIMIT 1 OFFSET ?", (most,)
        )
        return total, found[0][0] if found else 0

    def embedded(self, after: int = 0) -> Iterator[Embedded]:
        """Embeddings with what their samples say, in the order those were stored."""
        while rows := self._typed(list[Embedded], self._query(_EMBEDDED, (after,))):
            yield from (one for one in rows if one.numbers and len(one.numbers) % 2 == 0)
            after = rows[-1].key

    def _drawn(self, sql: str, **asked: Any) -> Iterator[Drawn]:
        after = b""
        while rows := self._typed(list[Drawn], self._query(sql, asked | {"after": after})):
            yield from rows
            after = rows[-1].id

    def _row(self, row: tuple[Any, ...]) -> Row:
        return self._typed(Row, dict(zip(Row.__struct_fields__, row, strict=True)))


def _places(values: list[Any]) -> Array:
    """Sortable numbers (n,) of what an order sorts by; NULL, which is NaN, comes last."""
    if isinstance(values[0], str | bytes):
        _, places = np.unique(np.array(values, object), return_inverse=True)
        return np.asarray(places, np.float64)
    return np.array([math.inf if value is None else value for value in values], np.float64)


def _by_turns(place: Array, chance: Array, shares: tuple[float, float]) -> Array:
    """Both strata in their own order, taking turns by how much of the stream each stands for."""
    turns = np.zeros(len(place))
    for of, share in ((chance, shares[0]), (~chance, shares[1])):
        rank = np.empty(int(of.sum()))
        rank[np.argsort(place[of], kind="stable")] = np.arange(len(rank))
        turns[of] = (rank + 0.5) / max(share, 1e-9)
    return turns
