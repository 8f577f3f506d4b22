"""Samples with their labels, and splits of them that depend on content alone."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dripgate.types import Array

#: Under this salt the same content is held out of training wherever it turns up.
HOLDOUT_SALT = "calibration"


@dataclass(frozen=True, eq=False)
class Split:
    """N samples: y int64 (N,) class indices, ids (N,) content hashes as Sample.id, names, and
    sizes int64 (N,) in bytes of the payload. origins (N,): content hash of the file that each came
    from, its id where it is the whole file. Their arrays are ``stock[rows]``; see ``x``.
    """

    stock: Array
    rows: Array
    y: Array
    ids: Array
    names: list[str]
    sizes: Array
    origins: Array

    @classmethod
    def of(
        cls, x: Array, y: Array, ids: Array, names: list[str], sizes: Array,
        origins: Array | None = None,
    ) -> "Split":  # fmt: skip
        """Of arrays in memory, one row per sample."""
        return cls(x, np.arange(len(x)), y, ids, names, sizes, ids if origins is None else origins)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def x(self) -> Array:
        """(N, *shape), gathered when first asked for; no copy where the rows are contiguous."""
        if len(self) and (np.diff(self.rows) == 1).all():
            return self.stock[self.rows[0] : self.rows[-1] + 1]
        return self.stock[self.rows]

    def batch(self, indices: Array) -> Array:
        """x[indices] without gathering the rest, for data that memory does not hold."""
        return self.stock[self.rows[indices]]

    def take(self, indices: Array) -> "Split":
        """The samples at ``indices`` (integers, in that order, or a mask); copies no sample."""
        chosen = np.arange(len(self))[indices]
        return Split(
            self.stock, self.rows[chosen], self.y[chosen], self.ids[chosen],
            [self.names[i] for i in chosen], self.sizes[chosen], self.origins[chosen],
        )  # fmt: skip

    def by_hash(self, share: float, salt: str = "") -> tuple["Split", "Split"]:
        """(inside, outside): about ``share`` of all contents are inside.

        A sample's side depends on the content of its file and the salt alone: never on the order
        or on the other samples; duplicates, and the windows of a recording, stay together. Other
        salts give independent splits.
        """
        inside = uniform(self.origins, salt) < share
        return self.take(inside), self.take(~inside)

    def hold_out(self, share: float, salt: str) -> tuple["Split", "Split"]:
        """(held out, learned from): as ``by_hash``, but no class is held out as a whole: one of so
        few samples that all of them were chosen is to be learned.
        """
        inside = set_aside(self.origins, self.y, share, salt)
        return self.take(inside), self.take(~inside)

    @staticmethod
    def concat(*splits: "Split") -> "Split":
        """All samples, one split after the other; copies them unless they share their stock."""
        first = splits[0]
        shared = all(split.stock is first.stock for split in splits)
        x = first.stock if shared else np.concatenate([split.x for split in splits])
        rows = np.concatenate([split.rows for split in splits]) if shared else np.arange(len(x))
        y, ids, sizes, origins = (
            np.concatenate([getattr(split, name) for split in splits])
            for name in ("y", "ids", "sizes", "origins")
        )
        names = [name for split in splits for name in split.names]
        return Split(x, rows, y, ids, names, sizes, origins)


def uniform(ids: Array, salt: str) -> Array:
    """(N,) in [0, 1): a hash of the salt and each id."""
    digests = [hashlib.sha256(f"{salt}\0{id_}".encode()).digest() for id_ in ids]
    return np.array([int.from_bytes(digest[:6], "big") for digest in digests]) / 2**48


def set_aside(origins: Array, y: Array, share: float, salt: str) -> Array:
    """(N,) mask: about ``share`` of all contents, and never a whole class."""
    inside = uniform(origins, salt) < share
    return inside & np.isin(y, y[~inside])
