"""Archives of a few hundred small files, and what decides about them."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
    from dripgate.archive.sift import How, sift  # not where Daft is not: the tests skip

    out = tmp_path_factory.mktemp("sifted") / "scores.parquet"
    sift(str(archive), gate, out, How(workers=1, embeddings=True))
    return out


@pytest.fixture
def sifting(gate: Gate, tmp_path: Path) -> Callable[..., tuple[Any, Any, list[str]]]:
    """Sifts a source; gives the result, the rows, and what was told."""
    from pyarrow import parquet

    from dripgate.archive.sift import How, sift

    def run(source, out=None, gate=gate, **how):
        told: list[str] = []
        out = out or tmp_path / "scores.parquet"
        found = sift(str(source), gate, out, How(**({"workers": 1} | how)), told=told.append)
        return found, parquet.read_table(out), told

    return run


@pytest.fixture
def served(archive: Path) -> Iterator[str]:
    """The archive behind a web server's listings, on loopback."""
    with _server(partial(_Quiet, directory=str(archive))) as address:
        yield address


class Held:
    """A server that is asked for ``last.png`` and does not answer until it is told to; asked for
    ``poison.png`` it does something first.
    """

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()
        self.address = ""
        self.poison: Callable[[], object] = lambda: None


@pytest.fixture
def held(archive: Path) -> Iterator[Held]:
    """Holds whoever decides about the archive, so that it can be killed for certain."""
    found = Held()

    class Holding(_Quiet):
        def do_GET(self) -> None:
            if self.path == "/last.png":
                found.asked.set()
                found.go.wait()
            if self.path == "/poison.png":
                found.poison()
            super().do_GET()

        do_HEAD = do_GET  # noqa: N815

    with _server(partial(Holding, directory=str(archive))) as found.address:
        yield found
        found.go.set()


@contextmanager
def _server(handler: Any) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def copyfile(self, *files: Any) -> None:
        with suppress(BrokenPipeError):  # who asked was killed
            super().copyfile(*files)


@pytest.fixture(scope="session")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """A gate for half a second of sound."""
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
        for i in range(150):
            wave = np.sin(2 * np.pi * pitch * np.arange(4000) / 8000 + rng.uniform(0, 6))
            sound = 9000 * wave + rng.normal(0, 500, 4000)
            (folder / label / f"{i}.wav").write_bytes(encode_wav(sound.astype(np.int16), 8000))
    dataset = load(open_source(str(folder)), AudioInput(rate=8000, length=4000))
    trained = train_first(dataset, "lenet", Recipe(steps=40, batch=16, lr=0.05, seed=0))
    return fit(trained.classifier, dataset, keep=0.5, seed=0, log=None, force=True)
