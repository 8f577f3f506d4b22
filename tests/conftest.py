"""One small loop on digits, shared by the tests that need a gate, a store or a trained model."""

import ctypes
import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dripgate.cli import main
from dripgate.gate import Gate
from dripgate.types import ImageInput
from loops import read_stream
from needs import need


def pytest_runtest_setup(item: pytest.Item) -> None:
    """``pytest.mark.needs(...)``: see needs.py."""
    for mark in item.iter_markers("needs"):
        need(*mark.args)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was skipped for want of what, and how to have it, as the last word of a session."""
    skipped = {report.nodeid: report for report in terminalreporter.stats.get("skipped", [])}
    wanted: dict[str, int] = {}
    for report in skipped.values():
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for one in why.removeprefix("Skipped: ").removeprefix("needs ").split(", "):
            wanted[one] = wanted.get(one, 0) + 1
    if wanted:
        terminalreporter.section("skipped: tests or files of tests, what they need: how to have it")
        for one, count in sorted(wanted.items()):
            terminalreporter.line(f"{count:5}  {one}")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the developer's cache, and see no data sets of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRIPGATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("DRIPGATE_DATA", raising=False)
        yield


@pytest.fixture(scope="session")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a loop without training; read only, copy what is to be changed.

    classifier.onnx ships with the demo; labelled.zip, gate.onnx; stream.zip has about a thousand
    distinct digits in folders by class; kept.db is what an audited run kept of them.
    """
    from dripgate.demo import scenes, shipped
    from dripgate.policy import Rules
    from dripgate.store import Store
    from dripgate.stream.loop import run
    from dripgate.stream.sources import watch

    out = tmp_path_factory.mktemp("loop")
    shutil.copy(shipped.FILE, out)
    shipped.fitted_gate(shipped.write_labelled(out)).save(out / "gate.onnx")
    frames = scenes.apart("streamed", 0, copies=2, skewed=False)
    shipped.write_zip(out / "stream.zip", shipped.named("", frames))
    with Store(out / "kept.db") as store:
        rules = Rules(audit=0.05, duplicates=0.0)
        run(Gate.load(out / "gate.onnx"), watch(out / "stream.zip"), store, rules=rules)
    return out


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished demo with training, on digits: model.safetensors too. Read only."""
    need("torch")
    from dripgate.demo.loop import demo

    out = tmp_path_factory.mktemp("trained")
    demo("digits", out, steps=120)
    return out


@pytest.fixture(scope="session")
def gate(loop: Path) -> Gate:
    """The gate of the loop."""
    return Gate.load(loop / "gate.onnx")


@pytest.fixture(scope="session")
def stream(loop: Path) -> list[tuple[str, bytes]]:
    """(name, payload) of every streamed sample, in order."""
    return read_stream(loop)


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
        need("a C compiler")
        command = [compiler, "-std=c99", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter",
                   "-Werror", "-fno-strict-aliasing", "-ffp-contract=off", "-shared", "-fPIC",
                   *options, *map(str, sources), "-lm", "-o", str(out)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(out))

    return made


@pytest.fixture
def alsa(tmp_path: Path) -> Callable[[np.ndarray], dict[str, str]]:
    """Makes the environment in which ALSA's only microphone, "tape", gives these samples for ever,
    as fast as they are read.
    """

    def made(samples: np.ndarray) -> dict[str, str]:
        need("PortAudio")
        samples.astype("<i2").tofile(tmp_path / "tape.raw")
        (tmp_path / "alsa.conf").write_text(
            "</usr/share/alsa/alsa.conf>\npcm.tape { type file slave.pcm { type null } "
            f'file /dev/null infile "{tmp_path}/tape.raw" format raw }}\n'
            "pcm.!default { type plug slave.pcm tape }\n"
        )
        return {"ALSA_CONFIG_PATH": str(tmp_path / "alsa.conf")}

    return made


@pytest.fixture
def commands(dripgate, monkeypatch):
    """Runs the commands of a page of the documentation (tests/docs/pages.py)."""
    from pages import Shell

    return Shell(dripgate)
