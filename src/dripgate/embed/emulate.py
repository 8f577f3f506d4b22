"""The C folder on a Cortex-M that QEMU emulates, fed with samples: the same numbers as here?"""

import shutil
import subprocess
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from dripgate.embed import golden
from dripgate.embed.figures import COMPILER, compile_sources, linked
from dripgate.errors import DripgateError, UserError
from dripgate.gate import Gate, Outputs
from dripgate.types import Array, FloatArray


class Board(NamedTuple):
    """A QEMU machine with at least 2 MB of memory for code and for data, and where they are."""

    machine: str
    flash: int = 0x00000000
    ram: int = 0x20000000
    hertz: int = 25_000_000


#: 4 MB at 0 and 4 MB at 0x20000000 on the first three. The last has 512 kB for code and 4 MB of
#: RAM, at the addresses of the secure world, in which it starts.
BOARDS = {
    "cortex-m3": Board("mps2-an385"),
    "cortex-m4": Board("mps2-an386"),
    "cortex-m7": Board("mps2-an500"),
    "cortex-m55": Board("mps3-an547", 0x10000000, 0x31000000, 32_000_000),
}
_STATUS = {2: "files cannot be opened", 3: "the self-test failed", 4: "results cannot be written",
           5: "the head cannot learn", 99: "a processor fault"}  # fmt: skip


class Emulated(NamedTuple):
    """Per sample, (N,) or (N, classes). instructions: per decision, in steps of about 40, NaN
    where they were not counted. stack: bytes, the deepest of all."""

    logits: FloatArray
    score: FloatArray
    quality: FloatArray
    predicted: Array
    verdict: Array
    instructions: Array
    stack: int


class Agreement(NamedTuple):
    """How far a device is from onnxruntime on N samples.

    logits and score: largest differences, relative to the largest logit of the sample and to the
    score (or, where larger, a thousandth of the largest in calibration). close: verdicts that may
    differ, as a number lies within ``tolerance`` of a threshold. differ: those that do; wrong:
    those that do and may not.
    """

    samples: int
    logits: float
    score: float
    close: int
    differ: int
    wrong: int
    tolerance: float


def available() -> str:
    """What is missing to emulate, or nothing."""
    missing = [name for name in (COMPILER, "qemu-system-arm") if shutil.which(name) is None]
    return ", ".join(missing)


def require_tools() -> None:
    """Raises UserError where the compiler or the emulator is not installed."""
    if missing := available():
        raise UserError(
            f"{missing}: not installed; on Debian run: apt-get install gcc-arm-none-eabi "
            "libnewlib-arm-none-eabi qemu-system-arm"
        )


def emulate(folder: Path, core: str, samples: Array, *, count: bool = False) -> Emulated:
    """Run decoded samples (N, …) through the folder's C on an emulated core.

    count: also count instructions, which is slower.

    Raises:
        UserError: the compiler or the emulator is not installed.
        DripgateError: the firmware failed, its self-test included.
    """
    inputs = {"samples.bin": np.ascontiguousarray(samples).tobytes()}
    (results,) = execute(folder, core, "runner", inputs, ["results.bin"], count=count)
    return _read(results, len(samples), folder, BOARDS[core], count)


def execute(
    folder: Path, core: str, program: str, inputs: dict[str, bytes], outputs: list[str], *,
    count: bool,
) -> list[bytes]:  # fmt: skip
    """Run c/emulate/``program``.c with the folder's C: files in, the bytes of files out.

    count: a nanosecond of SysTick is then an instruction. Raises as ``emulate`` does.
    """
    require_tools()
    board = BOARDS[core]
    with TemporaryDirectory() as scratch:
        build = Path(scratch)
        elf = _built(folder, core, program, build)
        for name, data in inputs.items():
            (build / name).write_bytes(data)
        command = ["qemu-system-arm", "-M", board.machine, "-display", "none", "-serial", "null",
                   "-monitor", "none", "-semihosting-config", "enable=on,target=native",
                   "-kernel", str(elf), *(["-icount", "shift=0"] if count else [])]  # fmt: skip
        done = subprocess.run(  # noqa: S603 - our command, our paths
            command, cwd=build, capture_output=True, text=True, check=False
        )
        if done.returncode:
            cause = _STATUS.get(done.returncode, f"status {done.returncode}")
            raise DripgateError(f"{core}: {cause} {done.stderr.strip()}")
        return [(build / name).read_bytes() for name in outputs]


def compare(gate: Gate, expected: Outputs, found: Emulated, tolerance: float) -> Agreement:
    """Hold an emulated run against onnxruntime's outputs for the same samples."""
    close = golden.close(gate, expected, tolerance)
    differ = (found.verdict != expected.verdict) | (
        found.predicted != expected.logits.argmax(axis=1)
    )
    least = golden.score_scale(gate) * 1e-3
    logits = np.abs(found.logits - expected.logits).max(axis=1)
    score = np.abs(found.score - expected.score) / np.maximum(np.abs(expected.score), least)
    return Agreement(
        samples=len(close),
        logits=float((logits / np.abs(expected.logits).max(axis=1)).max()),
        score=float(score.max()),
        close=int(close.sum()),
        differ=int(differ.sum()),
        wrong=int((differ & ~close).sum()),
        tolerance=tolerance,
    )


def _built(folder: Path, core: str, program: str, build: Path) -> Path:
    board = BOARDS[core]
    objects = compile_sources(folder, core, build)
    bare = folder / "examples" / "bare"
    elf = build / f"{program}.elf"
    with as_file(files("dripgate.embed") / "c" / "emulate") as own:
        linked(folder, core, [own / f"{program}.c", bare / "startup.c"], objects, elf, [
            f"-I{bare}", f"-I{own}", "-T", str(bare / "firmware.ld"),
            f"-Wl,--defsym=flash_at={board.flash:#x},--defsym=ram_at={board.ram:#x}",
        ])  # fmt: skip
    return elf


def _read(data: bytes, count: int, folder: Path, board: Board, counted: bool) -> Emulated:
    size, rest = divmod(len(data), count)
    classes = (size - 8 * 4) // 4
    if rest:
        raise DripgateError(f"{folder}: the firmware stopped early, after {len(data)} bytes")
    kinds = [("logits", "<f4", classes), ("score", "<f4"), ("quality", "<f4"),
             ("predicted", "<i4"), ("verdict", "<i4"), ("reason", "<i4"), ("ticks", "<u8"),
             ("stack", "<u4")]  # fmt: skip
    rows = np.frombuffer(data, np.dtype(kinds))
    nanoseconds = rows["ticks"] * (1e9 / board.hertz)
    return Emulated(
        logits=rows["logits"], score=rows["score"], quality=rows["quality"],
        predicted=rows["predicted"], verdict=rows["verdict"],
        instructions=nanoseconds if counted else np.full(count, np.nan),
        stack=int(rows["stack"].max()),
    )  # fmt: skip
