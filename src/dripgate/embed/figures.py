"""What the folder takes on a device, by compiling it: flash, RAM and stack."""

import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from dripgate.errors import DripgateError

COMPILER = "arm-none-eabi-gcc"
#: Compiler flags by core; the cores that QEMU has boards for.
CORES = {
    "cortex-m3": [],
    "cortex-m4": ["-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"],
    "cortex-m7": ["-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"],
    "cortex-m55": ["-mfloat-abi=hard"],
}
_COMMON = ["-mthumb", "-std=c99", "-Os", "-ffunction-sections", "-fdata-sections",
           "-fno-strict-aliasing"]  # fmt: skip
_USE = """\
#include "dripgate.h"
volatile dripgate_sample *sample;
int main(void) {
    dripgate_verdict verdict;
    dripgate_decide((const dripgate_sample *)sample, &verdict);
    return verdict.decision;
}
"""
_POLICY = """
    static dripgate_policy p; static dripgate_rules r;
    dripgate_init(&p, &r);
"""
_LEARN = """
    static dripgate_features ring[DRIPGATE_RING]; static dripgate_learner learner;
    const dripgate_storage storage = dripgate_ram(ring);
    dripgate_adapt(&learner, &storage);
    dripgate_remember(1, 1); dripgate_label(1, 0); dripgate_learn();
"""
_ADDED = ("policy", "learn")
#: expf, logf and the soft-float routines, which come without stack information.
_LIBRARY_STACK = 128


class Figures(NamedTuple):
    """Bytes, without the policy (a struct of the user's, linked where it is used).

    flash: code, constants and the C library's part. ram: static memory, the arena included. stack:
    the deepest chain of calls as compiled, and 128 bytes for the C library. learner: what a head
    that learns adds, its ring in RAM; 0 where the head was not embedded to learn.
    """

    core: str
    flash: int
    ram: int
    stack: int
    policy_ram: int
    policy_flash: int
    learner_ram: int = 0
    learner_flash: int = 0


def figures(folder: Path, core: str = "cortex-m4") -> Figures | None:
    """Measured with the cross compiler; None where there is none."""
    if shutil.which(COMPILER) is None:
        return None
    with TemporaryDirectory() as scratch:
        build = Path(scratch)
        objects = compile_sources(folder, core, build)
        mains = {
            "empty": "int main(void) { return 0; }\n", "use": _USE,
            "policy": _USE.replace("verdict;", f"verdict;{_POLICY}", 1),
        }  # fmt: skip
        if (folder / "src" / "dripgate_adapt.c").exists():
            mains["learn"] = _USE.replace("verdict;", f"verdict;{_LEARN}", 1)
        sizes = {}
        for name, text in mains.items():
            main = build / f"{name}.c"
            main.write_text(text, encoding="utf-8")
            sizes[name] = np.array(_size(folder, core, main, objects, build))
        flash, ram = (sizes["use"] - sizes["empty"]).tolist()
        more = [(sizes.get(name, sizes["use"]) - sizes["use"]).tolist() for name in _ADDED]
        (policy_flash, policy_ram), (learner_flash, learner_ram) = more
        return Figures(
            core, flash, ram, _stack(build), policy_ram, policy_flash, learner_ram, learner_flash
        )


def compile_sources(folder: Path, core: str, build: Path) -> list[Path]:
    """Object files of the folder's C, with stack usage beside them."""
    objects = []
    for source in sorted((folder / "src").glob("*.c")):
        contract = "off" if source.name == "dripgate_policy.c" else "fast"
        to = build / f"{source.stem}.o"
        run([COMPILER, f"-mcpu={core}", *CORES[core], *_COMMON, f"-ffp-contract={contract}",
             "-fstack-usage",
             "-c", str(source), "-o", str(to)])  # fmt: skip
        objects.append(to)
    return objects


def run(command: list[str]) -> str:
    """Its output. Raises DripgateError with what the program said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise DripgateError(f"{command[0]} failed with status {done.returncode}: {said[:2000]}")
    return done.stdout


def linked(
    folder: Path, core: str, mains: list[Path], objects: list[Path], elf: Path, options: list[str]
) -> None:
    """Link main programs with the folder's objects; what nothing uses is left out."""
    run([COMPILER, f"-mcpu={core}", *CORES[core], *_COMMON, f"-I{folder / 'src'}", *options,
         *map(str, mains), *map(str, objects), "-nostartfiles", "--specs=nosys.specs",
         "-Wl,--gc-sections", "-lm", "-o", str(elf)])  # fmt: skip


def _size(folder: Path, core: str, main: Path, objects: list[Path], build: Path) -> tuple[int, int]:
    """Bytes of flash and of RAM."""
    elf = build / f"{main.stem}.elf"
    linked(folder, core, [main], objects, elf, ["-Wl,-e,main"])
    text, data, bss = run(["arm-none-eabi-size", str(elf)]).splitlines()[1].split()[:3]
    return int(text) + int(data), int(data) + int(bss)


def _stack(build: Path) -> int:
    frames: dict[str, dict[str, int]] = {}
    for path in build.glob("*.su"):
        lines = re.findall(r":(\w+)(?:\.\S+)?\t(\d+)\t", path.read_text(encoding="utf-8"))
        frames[path.stem] = {name: int(size) for name, size in lines}
    net = frames["dripgate_net"]
    fixed = {"dripgate_net", "dripgate_net_layers"}
    deepest = max((size for name, size in net.items() if name not in fixed), default=0)
    front = sum(frames.get("dripgate_spectrum", {}).values())
    ours = ("dripgate_gate", "dripgate_decide")
    calls = sum(size for name, size in frames["dripgate"].items() if name in ours)
    layers = net.get("dripgate_net_layers", 0) + deepest
    return calls + net["dripgate_net"] + max(layers, front) + _LIBRARY_STACK
