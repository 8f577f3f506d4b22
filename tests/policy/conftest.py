"""Gates that are nothing but calibration, and streams of scores, without a model."""

from collections.abc import Callable

import imagined
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
