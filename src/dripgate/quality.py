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
#: Blocks along a side, at most twice as many: enough for four statistics, and on large inputs few
#: enough to cost next to nothing beside a classifier.
BLOCKS = 24
#: Keeps the distance finite along a direction in which calibration samples do not differ.
RIDGE = 1e-6


def spacing(side: int) -> int:
    """How far apart blocks of 2 lie along a side: next to each other up to 3 · BLOCKS."""
    return max(min(2, side), side // BLOCKS)


def statistics(x: Array) -> FloatArray:
    """(N, 4) of inputs as the model takes them, (N, C, h, w), (N, K, T) or (N, F).

    Of every block of 2 × 2 three numbers are taken: its first value a, the step to a's neighbour
    in the row, and to that in the column (0 where there is none). The statistics are the mean of
    a, and the logarithms of the mean absolute deviations of a, of row steps and of column steps.
    """
    x = x.reshape(len(x), *(1,) * (4 - x.ndim), *x.shape[1:])
    n, _, height, width = x.shape
    rows, columns = (slice(0, max(side - 1, 1), spacing(side)) for side in (height, width))
    a = x[:, :, rows, columns]
    across = x[:, :, rows, 1 :: columns.step] - a if width > 1 else np.zeros_like(a)
    down = x[:, :, 1 :: rows.step, columns] - a if height > 1 else np.zeros_like(a)
    parts = np.stack([part.reshape(n, -1) for part in (a, across, down)], axis=1)
    mean = parts.mean(axis=2, keepdims=True)
    spread = np.log(np.abs(parts - mean).mean(axis=2) + FLOOR)
    return np.concatenate([mean[:, 0], spread], axis=1).astype(np.float32)


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
