"""The nearest kept samples by embedding, so that twenty of a kind are labelled at once."""

import numpy as np

from dripgate.store import Browsing
from dripgate.types import Array

#: Embeddings in memory: the newest. 512 numbers each are 51 MB.
MOST = 50_000
_PART = 4096


class Neighbours:
    """Embeddings of the newest samples, float16, read from the store as they come."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._last = 0
        self._keys = np.zeros(0, np.int64)
        self._values = np.zeros((0, 0), np.float16)

    def __len__(self) -> int:
        return len(self._keys)

    def refresh(self, store: Browsing) -> None:
        """Read what was stored since; of another width than before, the old ones are forgotten."""
        keys, values = [self._keys], [self._values]
        while len((part := store.embeddings(after=self._last, most=_PART)).keys):
            if values[-1].shape[1] != part.values.shape[1]:
                keys, values = [], []
            keys.append(part.keys)
            values.append(part.values)
            self._last = part.last
            if sum(map(len, keys)) > 2 * self._most:
                keys, values = self._newest(keys, values)
        if len(keys) > 1 or keys[0] is not self._keys:
            (self._keys,), (self._values,) = self._newest(keys, values)

    def nearest(self, key: int, embedding: Array, count: int) -> list[tuple[int, float]]:
        """Keys and distances ‖a - b‖ / sqrt((‖a‖² + ‖b‖²) / 2) of the nearest others, near first.

        As for duplicates: 0 is the same, about 1.4 has nothing in common. embedding: (D,).
        """
        if self._values.shape[1] != len(embedding):
            return []
        wanted = embedding.astype(np.float32)
        length = float(wanted @ wanted)
        distance = np.empty(len(self._keys), np.float32)
        for start in range(0, len(self._keys), _PART):
            part = self._values[start : start + _PART].astype(np.float32)
            lengths = np.einsum("nd,nd->n", part, part)
            gaps = lengths + length - 2 * part @ wanted
            distance[start : start + _PART] = gaps / np.maximum((lengths + length) / 2, 1e-12)
        distance[self._keys == key] = np.inf
        count = min(count, len(distance))
        near = np.argpartition(distance, count - 1)[:count] if count else np.zeros(0, np.int64)
        near = near[np.argsort(distance[near], kind="stable")]
        return [
            (int(self._keys[i]), float(np.sqrt(max(distance[i], 0.0))))
            for i in near
            if np.isfinite(distance[i])
        ]

    def _newest(self, keys: list[Array], values: list[Array]) -> tuple[list[Array], list[Array]]:
        return (
            [np.concatenate(keys)[-self._most :]],
            [np.concatenate(values)[-self._most :]],
        )
