"""Here the loop is the one with training, and so are the gate and the stream."""

import zipfile
from pathlib import Path

import pytest

from dripgate.gate import Gate


@pytest.fixture(scope="session")
def loop(trained: Path) -> Path:
    """The folder of a finished demo with training."""
    return trained


@pytest.fixture(scope="session")
def gate(trained: Path) -> Gate:
    """Its gate."""
    return Gate.load(trained / "gate.onnx")


@pytest.fixture(scope="session")
def stream(trained: Path) -> list[tuple[str, bytes]]:
    """(name, payload) of every streamed sample, in order."""
    with zipfile.ZipFile(trained / "stream.zip") as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]
