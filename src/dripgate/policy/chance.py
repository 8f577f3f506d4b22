"""Chance that can be repeated: two numbers per sample, from the seed and the sample's number."""

from typing import Any

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_UNIT = 2.0**-32


def uniforms(seed: int, first: int, count: int) -> tuple[list[float], list[float]]:
    """Two independent numbers in [0, 1) for each of ``count`` samples, numbered from ``first``.

    The same for the same (seed, number) on any machine and in any batch. A counter, not a stream
    of random numbers: a restart needs to remember nothing but the number. The mixer is
    splitmix64 (Steele et al., OOPSLA 2014).
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        start = _mix(np.uint64(seed % 2**64) * _GOLDEN + _GOLDEN)
        numbers = np.arange(first, first + count, dtype=np.uint64)
        mixed = _mix(start + numbers * _GOLDEN)
    return ((mixed >> np.uint64(32)) * _UNIT).tolist(), ((mixed & 0xFFFFFFFF) * _UNIT).tolist()


def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
