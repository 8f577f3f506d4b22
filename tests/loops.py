"""What a finished loop's folder holds; and the loop, gate and stream of a classifier trained here.

The fixtures are for the conftest.py of a folder that needs something to retrain or to forget, and
go together: a gate of the suite's own that used this loop would be kept for other folders' tests.
"""

import zipfile
from pathlib import Path

import pytest

from dripgate.gate import Gate

Stream = list[tuple[str, bytes]]


def read_stream(folder: Path) -> Stream:
    """(name, payload) of every sample of stream.zip, in order."""
    with zipfile.ZipFile(folder / "stream.zip") as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


@pytest.fixture(scope="session")
def loop(trained: Path) -> Path:
    """The folder of a finished demo with training."""
    return trained


@pytest.fixture(scope="session")
def gate(trained: Path) -> Gate:
    """Its gate."""
    return Gate.load(trained / "gate.onnx")


@pytest.fixture(scope="session")
def stream(trained: Path) -> Stream:
    """Its stream."""
    return read_stream(trained)
