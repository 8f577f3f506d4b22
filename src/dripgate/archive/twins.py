"""Near-duplicates among what is chosen, by an index of approximate neighbours (usearch)."""

from typing import Any

import numpy as np

from dripgate.archive.rows import unsketched
from dripgate.errors import MissingExtra

#: Neighbours that are looked at; the nearest need not be the one within its own allowance.
_LOOKED_AT = 8
#: Of the index: links of a sample, and how widely is looked. One in a thousand twins is missed.
_LINKS, _WIDTH_ADD, _WIDTH_SEARCH = 16, 64, 64


class Twins:
    """Remembers sketches; about 200 bytes for each.

    nearness: largest ‖a - b‖ / sqrt((‖a‖² + ‖b‖²) / 2) of two that count as the same, as in
    ``policy.duplicates``; 0 is off.
    """

    def __init__(self, nearness: float) -> None:
        self._half = nearness**2 / 2
        self._index: Any = None
        self._squares = np.zeros(0, np.float32)
        self._known = 0

    def has(self, sketch: bytes) -> bool:
        """Whether one that is near enough was added."""
        if not (self._half and self._known):
            return False
        point = unsketched([sketch])[0]
        found = self._index.search(point, _LOOKED_AT, threads=1)
        squared = float(point @ point)
        allowed = self._half * (self._squares[found.keys.astype(np.int64)] + squared)
        return bool((found.distances <= allowed).any())

    def add(self, sketch: bytes) -> None:
        """Remember one."""
        if not self._half:
            return
        point = unsketched([sketch])[0]
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
        raise MissingExtra("looking for near-duplicates", "archive") from error
    return Index(
        ndim=width, metric="l2sq", dtype="bf16", connectivity=_LINKS,
        expansion_add=_WIDTH_ADD, expansion_search=_WIDTH_SEARCH,
    )  # fmt: skip
