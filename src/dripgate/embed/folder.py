"""A gate as a folder of C that a firmware engineer drops into a project."""

import secrets
import shutil
from collections.abc import Callable
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dripgate import __version__
from dripgate.embed import golden, readme, tables
from dripgate.embed.figures import Figures, figures
from dripgate.embed.head import Head, read_head
from dripgate.embed.lower import PLAIN, WITH_SCORE, lower
from dripgate.embed.net import Net, generate
from dripgate.errors import UserError
from dripgate.gate import Gate

#: A folder that holds this was made here, and may be made again in its place.
_OURS = Path("src") / "dripgate_config.h"


class Embedded(NamedTuple):
    """What was made: bytes of arena and constants; what the cross compiler says, if there is one.

    bound: bytes that are alive at the net's busiest step; no arena can be smaller. head: the one
    that learns, and its memory.
    """

    out: Path
    arena: int
    bound: int
    weights: int
    figures: Figures | None
    head: Head | None = None


def embed(
    gate: Gate, out: str | Path, *, score: bool = True, adapt: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> Embedded:  # fmt: skip
    """Write the C folder of a gate, whole or not at all; an earlier one is replaced.

    score: False leaves out everything but the classifier, to see what the score costs. adapt: the
    head can learn on the device; the gate's memory goes into flash.

    Raises:
        UserError: ``out`` holds something else, or cannot be written.
        GateError: the net has an operator or a shape that cannot be put into C, or the head cannot
            learn.
    """
    out = Path(out)
    _refuse_foreign(out)
    log("folding the graph for one sample")
    outputs = WITH_SCORE if score else PLAIN
    lowered = lower(gate.data, outputs, head=read_head(gate) if adapt else None)
    log(f"generating C for {len(lowered.model.graph.node)} operators")
    net = generate(lowered)
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    try:
        _write_sources(gate, net, lowered.head, part)
        if lowered.spectrum is not None:
            _write(part / "src" / "dripgate_spectrum.h", tables.spectrum(lowered.spectrum))
        else:
            (part / "src" / "dripgate_spectrum.c").unlink()
        log("compiling for a Cortex-M4, to measure")
        weights = net.weights + (0 if lowered.head is None else lowered.head.nbytes)
        made = Embedded(out, net.arena, net.bound, weights, figures(part), lowered.head)
        _write(part / "README.md", readme.text(gate, made))
        if out.exists():
            shutil.rmtree(out)
        part.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return made


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not (out.is_dir() and ((out / _OURS).exists() or not any(out.iterdir()))):
        raise UserError(
            f"{out}: exists and was not made by 'dripgate embed'; give another folder, or remove it"
        )
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out}: its folder does not exist; make it first")


def _write_sources(gate: Gate, net: Net, head: Head | None, part: Path) -> None:
    own = files("dripgate.embed") / "c"
    if head is not None:
        for source in (own / "adapt").iterdir():
            _copy(source, part / "src")
        _write(part / "src" / "dripgate_head.c", tables.deployed(head))
    for source in own.iterdir():
        if source.is_file() and source.name.endswith((".c", ".h")):
            _copy(source, part / "src")
    _copy(own / "CMakeLists.txt", part)
    for source in (own / "bare").iterdir():
        _copy(source, part / "examples" / "bare")
    _copy(own / "arduino" / "library.properties", part)
    _copy(own / "arduino" / "decide.ino", part / "examples" / "decide")
    _write(part / "src" / "dripgate_net.c", net.code)
    _write(part / "src" / "dripgate_net_data.c", net.data)
    _write(part / "src" / "dripgate_config.h", tables.config(gate, net, __version__, head))
    samples = golden.samples(gate)
    outputs = gate(samples)
    close = golden.close(gate, outputs, 10 * golden.TOLERANCE)
    _write(part / "src" / "dripgate_golden.h", tables.golden(gate, outputs, np.asarray(close)))


def _copy(source: Traversable, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with as_file(source) as path:
        shutil.copy(path, folder)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
