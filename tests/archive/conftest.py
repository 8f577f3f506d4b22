"""Archives of a few hundred small files, and what decides about them."""

import http.server
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from dripgate.archive.sift import How, Sifted, sift
from dripgate.gate import Gate


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, stream: list[tuple[str, bytes]]) -> Path:
    """A folder of 300 digits in class folders, and one file that is no picture."""
    folder = tmp_path_factory.mktemp("archive")
    for name, payload in stream[:300]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload)
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="session")
def sifted(archive: Path, gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive decided; read only."""
    out = tmp_path_factory.mktemp("sifted") / "scores.parquet"
    sift(str(archive), gate, out, How(workers=1, embeddings=True))
    return out


@pytest.fixture
def sifting(gate: Gate, tmp_path: Path) -> Callable[..., tuple[Sifted, pa.Table, list[str]]]:
    """Sifts a source; gives the result, the rows, and what was told."""

    def run(source, out=None, gate=gate, **how):
        told: list[str] = []
        out = out or tmp_path / "scores.parquet"
        found = sift(str(source), gate, out, How(**({"workers": 1} | how)), told=told.append)
        return found, parquet.read_table(out), told

    return run


@pytest.fixture
def served(archive: Path) -> Iterator[str]:
    """The archive behind a web server's listings, on loopback."""
    handler = partial(_Quiet, directory=str(archive))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """A gate for one second of sound."""
    from dripgate.data import load, open_source
    from dripgate.media import encode_wav
    from dripgate.models import fit
    from dripgate.training.first import train_first
    from dripgate.training.train import Recipe
    from dripgate.types import AudioInput

    folder = tmp_path_factory.mktemp("heard")
    rng = np.random.default_rng(0)
    for label, pitch in (("low", 200), ("high", 1500)):
        (folder / label).mkdir()
        for i in range(40):
            wave = np.sin(2 * np.pi * pitch * np.arange(8000) / 8000 + rng.uniform(0, 6))
            sound = 9000 * wave + rng.normal(0, 500, 8000)
            (folder / label / f"{i}.wav").write_bytes(encode_wav(sound.astype(np.int16), 8000))
    dataset = load(open_source(str(folder)), AudioInput(rate=8000, length=8000))
    trained = train_first(dataset, "lenet", Recipe(steps=20, batch=16, lr=0.05, seed=0))
    return fit(trained.classifier, dataset, keep=0.5, seed=0, log=None)
