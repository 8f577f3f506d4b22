import os
import random
import tempfile
from pathlib import Path

import pytest

from dripgate.types import Decision, Reason, Sample, Verdict


def _sample(seed, size=300, source=None):
    payload = random.Random(seed).randbytes(size)
    return Sample(payload=payload, source=source or f"folder/{seed}.png", time=1000.0 + size)


def _verdict(score=0.5, decision=Decision.KEEP, **fields):
    usual = {
        "reason": Reason.BAND if decision is Decision.KEEP else Reason.QUALITY,
        "quality": 0.25,
        "predicted": 3,
        "propensity": 1.0,
    }
    return Verdict(decision=decision, score=score, **(usual | fields))


@pytest.fixture(scope="session")
def sample():
    """sample(seed, size, source): a sample with random bytes."""
    return _sample


@pytest.fixture(scope="session")
def verdict():
    """verdict(score, decision, …): a verdict that stores."""
    return _verdict


@pytest.fixture
def folder(tmp_path):
    """A folder where fsync costs nothing, if there is one: a killed process leaves the same."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="dripgate-", dir="/dev/shm") as name:
        yield Path(name)
