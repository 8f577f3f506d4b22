"""Does a sample look like those the gate was calibrated on? Four statistics of the model's input.

Mean, contrast, and roughness in both directions: a covered lens has no contrast, noise is rough,
a blurred picture smooth, a saturated one bright, a cut recording half empty. Their Mahalanobis
distance to the calibration samples is one number per sample, for images and spectrograms alike.
What the heatmap itself shows of this was measured and is little: docs/method.md.
"""

import numpy as np

from dripgate.types import Array, FloatArray, Typical

#: Added before a logarithm, in units of the model's input: less than this is nothing.
FLOOR = 1e-3
#: Keeps the distance finite along a direction in which calibration samples do not differ.
RIDGE = 1e-6


def statistics(x: Array) -> FloatArray:
    """(N, 4) of inputs as the model takes them, (N, C, h, w), (N, K, T) or (N, F).

    Mean, log standard deviation, log mean absolute difference of neighbours along the last axis,
    and the same along the one before it.
    """
    x = as_planes(x)
    across, down = np.abs(np.diff(x, axis=3)), np.abs(np.diff(x, axis=2))
    spread = [_mean((x - _mean(x)[:, None, None, None]) ** 2) ** 0.5, _mean(across), _mean(down)]
    return np.stack([_mean(x), *(np.log(value + FLOOR) for value in spread)], axis=1)


def as_planes(x: Array) -> Array:
    """(N, C, h, w) as it is, (N, K, T) as (N, 1, K, T), (N, F) as (N, 1, 1, F)."""
    return x.reshape(len(x), *(1,) * (4 - x.ndim), *x.shape[1:])


def _mean(values: Array) -> FloatArray:
    """Of each sample, (N,); 0 where there is nothing, as between the rows of a single one."""
    size = values[0].size
    return np.asarray(values.sum(axis=(1, 2, 3)) / max(size, 1), np.float32)


def learn(values: Array) -> Typical:
    """The centre of statistics (n, 4) and the matrix that makes them uncorrelated."""
    covariance = np.cov(values.T.astype(np.float64)) + RIDGE * np.eye(values.shape[1])
    whitening = np.linalg.cholesky(np.linalg.inv(covariance)).T
    return Typical(
        centre=tuple(values.mean(axis=0, dtype=np.float64).tolist()),
        whitening=tuple(tuple(row) for row in whitening.tolist()),
    )


def quality(values: Array, typical: Typical) -> FloatArray:
    """(N,) in 0 … 1 from statistics (N, 4): 1 / (1 + d² / 4), d the Mahalanobis distance.

    d² is 4 on average for samples like those that ``typical`` was learned from: quality 0.5.
    """
    away = (values - np.array(typical.centre)) @ np.array(typical.whitening).T
    return np.asarray(1 / (1 + (away**2).mean(axis=1)), np.float32)
