"""Gates that are nothing but calibration, and streams of scores, without a model."""

from collections.abc import Callable

import imagined
import msgspec
import numpy as np
import pytest

from dripgate.gate_info import Calibration, GateInfo


@pytest.fixture(scope="session")
def make_info() -> Callable[..., GateInfo]:
    def make(found: Calibration | None = None, keep: float = 0.4) -> GateInfo:
        default = imagined.calibrated(*imagined.drawn(np.random.default_rng(99), 2000))
        return imagined.info(found or default, keep)

    return make


@pytest.fixture(scope="session")
def info(make_info) -> GateInfo:
    return make_info()


@pytest.fixture(scope="session")
def stream_of() -> type[imagined.Stream]:
    return imagined.Stream


@pytest.fixture(scope="session")
def calibrated() -> Callable[..., Calibration]:
    return imagined.calibrated


@pytest.fixture(scope="session")
def drifting(info) -> tuple[GateInfo, imagined.Stream]:
    """A gate that sets aside what is below 0.2, a world that drifts there, a tenth broken."""
    thresholds = msgspec.structs.replace(info.thresholds, quality_low=0.2)
    rng = np.random.default_rng(8)
    n = 4000
    quality = 0.5 * np.exp(-1.6 * np.arange(n) / n + rng.normal(0, 0.15, n))
    quality[::10] = 0.02
    return msgspec.structs.replace(info, thresholds=thresholds), imagined.Stream(
        rng.gamma(0.5, size=n), qualities=quality, alien=set(np.flatnonzero(quality < 0.2).tolist())
    )
