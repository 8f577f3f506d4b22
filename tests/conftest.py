"""One small loop on digits, shared by the tests that need a trained model, a gate or a store."""

import ctypes
import io
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dripgate.cli import main
from dripgate.gate import Gate
from dripgate.types import ImageInput


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the developer's cache, and see no data sets of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRIPGATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("DRIPGATE_DATA", raising=False)
        yield


@pytest.fixture(scope="session")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished demo on digits; read only, copy what is to be changed."""
    from dripgate.demo import demo

    out = tmp_path_factory.mktemp("loop")
    demo("digits", out, steps=120)
    return out


@pytest.fixture(scope="session")
def gate(loop: Path) -> Gate:
    """The gate of the loop."""
    return Gate.load(loop / "gate.onnx")


@pytest.fixture(scope="session")
def stream(loop: Path) -> list[tuple[str, bytes]]:
    """(name, payload) of every streamed sample, in order."""
    with zipfile.ZipFile(loop / "stream.zip") as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


@pytest.fixture
def dripgate(capsys, monkeypatch):
    """Runs a command; gives (exit code, standard output, standard error)."""

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["dripgate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return command


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Makes the bytes of a PNG of one value, or of noise by seed."""

    def make(value: int = 0, side: int = 8, seed: int | None = None) -> bytes:
        pixels = np.full((side, side), value, np.uint8)
        if seed is not None:
            pixels = np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return make


@pytest.fixture
def photos(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    """A folder of two classes with 40 small images each, and nothing wrong with it."""
    folder = tmp_path / "photos"
    for label, value in (("dark", 40), ("light", 200)):
        (folder / label).mkdir(parents=True)
        for i in range(40):
            (folder / label / f"{i:03d}.png").write_bytes(png(value + i))
    return folder


@pytest.fixture
def spec(gate: Gate) -> ImageInput:
    """What the loop's gate takes in."""
    assert isinstance(gate.info.input, ImageInput)
    return gate.info.input


@pytest.fixture
def copied(loop: Path, tmp_path: Path) -> Path:
    """A copy of the loop's folder that a test may change."""
    return Path(shutil.copytree(loop, tmp_path / "loop"))


@pytest.fixture(scope="session")
def library() -> Callable[..., ctypes.CDLL]:
    """Makes a shared library of C sources, without a warning, with this machine's compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")

    def made(sources: list[Path], out: Path, *options: str) -> ctypes.CDLL:
        if compiler is None:
            pytest.skip("no C compiler on this machine")
        command = [compiler, "-std=c99", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter",
                   "-Werror", "-fno-strict-aliasing", "-ffp-contract=off", "-shared", "-fPIC",
                   *options, *map(str, sources), "-lm", "-o", str(out)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(out))

    return made


@pytest.fixture
def commands(dripgate, monkeypatch):
    """Runs the commands of a page of the documentation (tests/docs/pages.py)."""
    from pages import Shell

    return Shell(dripgate)
