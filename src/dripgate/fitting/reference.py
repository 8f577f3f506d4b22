"""Reference statistics of the quality: what samples of this stream look like as they should.

Learned from the held-out samples as they are, and as they would be with less or more light or
gain: a cloud is no broken sensor. Without that, half of MNIST at half its brightness was
quarantined; with it, broken frames are found as well as before (docs/method.md).
"""

from collections.abc import Iterator

import numpy as np

from dripgate import quality
from dripgate.data import Split
from dripgate.gate_info import INPUT_NAME
from dripgate.graph.measure import run, session
from dripgate.graph.prepare import preparation_model
from dripgate.types import Array, ArrayInput, InputSpec, Preprocessing, Thresholds

#: Exposures and gains that are nothing to worry about, relative to the calibration samples.
GAINS = (0.5, 1.5)
#: Share of these samples that may be taken for broken.
ALIEN = 0.01
_BATCH = 256


def learn_quality_range(
    samples: Split, preprocessing: Preprocessing, spec: InputSpec, classes: int, seed: int
) -> Thresholds:
    """Thresholds that keep every sample of ordinary quality: the quality range alone."""
    prepare = session(preparation_model(preprocessing, spec))
    rng = np.random.default_rng([seed, 3])
    values = []
    for batch in _batches(samples):
        for version in (batch, *(() if isinstance(spec, ArrayInput) else (exposed(batch, rng),))):
            (planes,) = run(prepare, {INPUT_NAME: version}, ["planes"])
            values.append(quality.statistics(planes))
    found = np.concatenate(values)
    typical = quality.learn(found)
    least = float(np.quantile(quality.quality(found, typical), ALIEN))
    none = (None,) * classes
    return Thresholds(low=none, high=none, quality_low=least, typical=typical)


def _batches(samples: Split) -> Iterator[Array]:
    for start in range(0, len(samples), _BATCH):
        yield samples.batch(np.arange(start, min(start + _BATCH, len(samples))))


def exposed(batch: Array, rng: np.random.Generator) -> Array:
    """Integer samples (N, …), each at a random gain of GAINS, clipped as a device clips them."""
    low, high = np.log(GAINS)
    gains = np.exp(rng.uniform(low, high, (len(batch), *(1,) * (batch.ndim - 1))))
    limits = np.iinfo(batch.dtype)
    return np.clip(np.round(batch * gains), limits.min, limits.max).astype(batch.dtype)
