"""Arithmetic of the limit: what fits, and who has to go. No database here.

The limit covers the database and its rollback journal. The journal gets a fixed part, the rest
is pages; SQLite itself refuses to grow over them (max_page_count), and a transaction ends before
its journal can leave its part.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

import msgspec

from dripgate.types import StrEnum

PAGE = 4096
#: Smallest limit: the journal's part, the empty database, and room for a few samples.
SMALLEST = 512_000
#: Pages kept free when samples are admitted: for splits of B-tree pages, labels and counters.
SLACK = 16
#: Pages that must be free before a label or a counter is written.
SPARE = 8
#: Part of the limit where quarantined samples live, and part that audit samples are sure of.
QUARANTINE_SHARE = 0.1
AUDIT_SHARE = 0.1

#: Most bytes of marks of decided files, whatever the limit: those of a million files.
LEDGER = 24_000_000
#: Most events of the log, whatever the limit.
LOG = 10_000

_OVERFLOW = PAGE - 4  # payload bytes of an overflow page
_LEAF = PAGE - 12  # bytes of a leaf page for cells
_ROW = 256  # metadata row and its two index entries, index pages two thirds full


def journal_bound(limit: int) -> int:
    """Bytes of the limit that belong to the journal."""
    return 256 * 1024 + limit // 128


def ledger_bound(limit: int | None) -> int:
    """Bytes of marks of decided files that are remembered: a sixteenth of the limit, at most."""
    return LEDGER if limit is None else min(LEDGER, max_pages(limit) * PAGE // 16)


def log_bound(limit: int | None) -> int:
    """Events that the log remembers: a kilobyte each at most, and a sixty-fourth of the limit."""
    return LOG if limit is None else max(8, min(LOG, limit // 65_536))


def row_journal_bound(limit: int) -> int:
    """Largest journal of one row, in bytes.

    Writing or deleting a row changes at most some leaves, their siblings and parents in six
    B-trees. Payload pages come from the free list without being journaled, but its trunks (one
    in 1016 pages) and the pointer maps (one in 820) are: 1/452 of the limit at worst.
    """
    return 48 * (PAGE + 8) + limit // 400


def max_pages(limit: int) -> int:
    """Pages that the database may have."""
    return (limit - journal_bound(limit)) // PAGE


def footprint(payload: int, text: int, embedding: int = 0) -> int:
    """Bytes on disk of one sample, from the lengths of its payload, texts and embedding.

    Follows https://www.sqlite.org/fileformat2.html#b_tree_pages: a row up to 4061 bytes stays in
    its leaf, of a longer one 489 bytes or a little more do, and the rest fills overflow pages.
    """
    return _row_bytes(payload) + (_row_bytes(embedding) if embedding else 0) + _ROW + 2 * text


def _row_bytes(content: int) -> int:
    size = content + 8
    local = size if size <= PAGE - 35 else 489 + (size - 489) % _OVERFLOW
    if local > PAGE - 35:
        local = 489
    overflow = -(-(size - local) // _OVERFLOW)
    in_leaf = PAGE // (_LEAF // (local + 12))
    body = overflow * PAGE + in_leaf
    return body + body // 256


class Pool(StrEnum):
    """Samples that compete for the same room."""

    QUARANTINE = "quarantine"
    AUDIT = "audit"  # kept by chance: propensity below 1
    KEEP = "keep"


#: What eviction orders by: whether the sample is only here, then its worth within its pool.
Rank = tuple[bool, Any]


class Victim(NamedTuple):
    """A stored sample that may have to go."""

    key: int
    pool: Pool
    uploaded: int
    worth: float | bytes
    footprint: Annotated[int, msgspec.Meta(ge=0)]

    @property
    def rank(self) -> Rank:
        """The lowest goes first."""
        return not self.uploaded, self.worth


class _Ranked(Protocol):
    @property
    def rank(self) -> Rank: ...
    @property
    def footprint(self) -> int: ...


T = TypeVar("T", bound=_Ranked)


def plan(
    newcomers: Sequence[T], victims: Iterable[Victim], room: float
) -> tuple[list[T], list[Victim]]:
    """Who is admitted and who is evicted, so that the most valuable of both remain.

    newcomers in any order; victims by rising rank, read only as far as needed; room in bytes.
    A sample is worth its rank, whatever its size. Of equals the one that is there already
    stays: nothing is rewritten without a gain.
    """
    queue = deque(sorted(newcomers, key=lambda one: one.rank))
    waiting = iter(victims)
    victim = next(waiting, None)
    evicted: list[Victim] = []
    deficit = sum(one.footprint for one in queue) - room
    while deficit > 0 and queue:
        if victim is None or queue[0].rank <= victim.rank:
            deficit -= queue.popleft().footprint
        else:
            deficit -= victim.footprint
            evicted.append(victim)
            victim = next(waiting, None)
    # Refusing a large newcomer may have left more room than is needed: spare the best again.
    while evicted and deficit + evicted[-1].footprint <= 0:
        deficit += evicted.pop().footprint
    return list(queue), evicted
