"""What dropping a part of the stream is expected to cost in accuracy, with its uncertainty.

A model's error falls with its samples as a power law, e · (n / n₁)^-b (Hestness et al., "Deep
Learning Scaling is Predictable, Empirically", 2017). Here e is measured: the share of held-out
samples that the model gets wrong. So is b: the probe's, on nested parts of them, times 2, since
a whole net learns its features too. How long the stream will be nobody knows beforehand; the
loss has a largest value over all lengths, and that is taken.

docs/method.md says what was compared, and which numbers come from the benchmark.
"""

import numpy as np

from dripgate.types import Array

#: A net's exponent over the probe's; docs/results/auto.md has both on four data sets.
NET = 2.0
#: No net is taken to learn slower: a probe on few samples looks flat because they are few.
LEAST = 0.2
#: What counts of a band's lead on random in learning signal: see the same table.
COUNTED = 0.5
#: Lengths of the stream, in sizes of what the model was trained on.
_LENGTHS = np.geomspace(0.25, 100, 30)
_DRAWS, _QUANTILE = 200, 0.95


def loss(
    wrong: int, n: int, keep: Array, signal: Array, effective: float, exponents: Array, seed: int
) -> tuple[Array, Array]:
    """(expected, upper end) of the accuracy lost at kept fractions ``keep`` (k,), each (k,).

    wrong: of n held-out samples. signal (k,): share of the learning signal that is kept, as
    measured on ``effective`` samples. exponents: the probe's, one per split. The upper end is that
    of a one-sided 95 % interval over all that was measured.
    """
    rng = np.random.default_rng([seed, 5])
    error = rng.beta(wrong + 0.5, n - wrong + 0.5, _DRAWS)
    noise = np.sqrt(signal * np.maximum(1 - signal, 0) / effective)
    held = np.clip(signal + noise * rng.normal(size=(_DRAWS, 1)), keep, 1)
    share = keep + COUNTED * (held - keep)
    exponent = np.maximum(NET * rng.choice(exponents, _DRAWS), LEAST)
    worst = np.zeros_like(share)
    for length in _LENGTHS:
        power = -exponent[:, None]
        worst = np.maximum(worst, (1 + length * share) ** power - (1 + length) ** power)
    drawn = error[:, None] * worst
    return drawn.mean(axis=0), np.quantile(drawn, _QUANTILE, axis=0)
