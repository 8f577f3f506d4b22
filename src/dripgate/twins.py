"""Near-duplicates among many, by an index of approximate neighbours (usearch).

What is compared are points as ``policy.duplicates`` makes them of embeddings.
"""

from typing import Any

import numpy as np

from dripgate.errors import MissingExtra
from dripgate.types import Array

#: Neighbours that are looked at; the nearest need not be the one within its own allowance.
_LOOKED_AT = 8
#: Of the index: links of a point, and how widely is looked. One in a thousand twins is missed.
_LINKS, _WIDTH_ADD, _WIDTH_SEARCH = 16, 64, 64


class Twins:
    """Remembers points float32 (d,) of one width, numbered from 0; about 200 bytes for each.

    nearness: largest ‖a - b‖ / sqrt((‖a‖² + ‖b‖²) / 2) of two that count as the same, as in
    ``policy.duplicates``; 0 is off: then nothing is remembered or found.
    """

    def __init__(self, nearness: float) -> None:
        self._half = nearness**2 / 2
        self._index: Any = None
        self._squares = np.zeros(0, np.float32)
        self._known = 0

    def find(self, point: Array) -> int | None:
        """The number of one that is near enough, the nearest of those; None where there is none."""
        if not (self._half and self._known):
            return None
        found = self._index.search(point, _LOOKED_AT, threads=1)
        numbers = found.keys.astype(np.int64)
        allowed = self._half * (self._squares[numbers] + float(point @ point))
        near = np.flatnonzero(found.distances <= allowed)
        return int(numbers[near[0]]) if len(near) else None

    def add(self, point: Array) -> None:
        """Remember one. Raises MissingExtra without usearch."""
        if not self._half:
            return
        if self._index is None:
            self._index = _index(len(point))
        if self._known == len(self._squares):
            self._squares = np.resize(self._squares, max(1024, 2 * self._known))
        self._index.add(self._known, point, threads=1)
        self._squares[self._known] = point @ point
        self._known += 1


def _index(width: int) -> Any:
    try:
        from usearch.index import Index
    except ImportError as error:
        raise MissingExtra("looking for near-duplicates", "fleet") from error
    return Index(
        ndim=width, metric="l2sq", dtype="bf16", connectivity=_LINKS,
        expansion_add=_WIDTH_ADD, expansion_search=_WIDTH_SEARCH,
    )  # fmt: skip
