"""dripgate embed: a gate becomes a folder of C for a microcontroller."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from dripgate.cli.common import json_option, log, show
from dripgate.errors import UserError
from dripgate.gate import Gate

if TYPE_CHECKING:
    from dripgate.embed.figures import Figures
    from dripgate.embed.head import Head

#: Samples that --check lets the head learn from.
_LEARNED = 24
_CORES = ["cortex-m3", "cortex-m4", "cortex-m7", "cortex-m55"]


@click.command("embed")
@click.argument("gate_file", metavar="GATE", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--adapt", is_flag=True,
    help="Weights of the head in RAM, so that it learns from labels that come on the device.",
)  # fmt: skip
@click.option("--check", metavar="DATA", help="Run test samples of DATA on an emulated core.")
@click.option(
    "--core", default="cortex-m4", show_default=True, type=click.Choice(_CORES),
    help="The core that --check emulates.",
)  # fmt: skip
@click.option(
    "--samples", default=200, show_default=True, type=click.IntRange(1), help="Samples to check."
)
@json_option
def command(
    gate_file: Path, out: Path, adapt: bool, check: str | None, core: str, samples: int,
    json_path: Path | None,
) -> None:  # fmt: skip
    """Write GATE as C99: no operating system, no malloc, one static arena."""
    from dripgate.embed import embed
    from dripgate.embed.emulate import require_tools

    if check:
        require_tools()
    made = embed(Gate.load(gate_file), out, adapt=adapt, log=log)
    head = made.head
    result: dict[str, Any] = made._asdict() | {
        "out": str(out), "figures": made.figures and made.figures._asdict(),
        "head": head and {"rows": head.bias.size, "width": head.width, "memory": len(head.vectors),
                          "bytes": head.nbytes},
    }  # fmt: skip
    lines = [
        f"{out}: {made.weights / 1e3:,.1f} kB of constants, {made.arena / 1e3:,.1f} kB of arena "
        f"({made.bound / 1e3:,.1f} kB are alive at the busiest step)"
    ]
    if made.figures is None:
        lines.append("flash and stack were not measured: arm-none-eabi-gcc is not installed")
    else:
        found = made.figures
        lines.append(
            f"{found.core}, -Os: {found.flash / 1e3:,.1f} kB flash, {found.ram / 1e3:,.1f} kB RAM, "
            f"{found.stack:,} bytes of stack; a policy adds {found.policy_flash / 1e3:,.1f} kB "
            f"flash and {found.policy_ram / 1e3:,.1f} kB RAM"
        )
    if head is not None:
        lines += _learning(head, made.figures)
    if check:
        result["check"], checked = _check(gate_file, out, check, core, samples, head is not None)
        lines += checked
    show(lines, result, json_path)
    if check and not result["check"]["good"]:
        raise UserError(f"{out}: does not work as {gate_file} does on a {core}; see above")


def _learning(head: "Head", found: "Figures | None") -> list[str]:
    forgets = "no memory of the initial data, so it may forget what no label names; fit the gate " \
        "with --memory"  # fmt: skip
    memory = f"{len(head.vectors)} vectors of the initial data" if len(head.vectors) else forgets
    lines = [f"the head learns: {head.bias.size} rows of {head.width} features; {memory}"]
    if found is not None:
        lines.append(
            f"learning adds {found.learner_flash / 1e3:,.1f} kB flash and "
            f"{found.learner_ram / 1e3:,.1f} kB RAM, with a ring of 128 samples in RAM"
        )
    return lines


def _check(
    gate_file: Path, out: Path, data: str, core: str, count: int, adapt: bool
) -> tuple[dict[str, Any], list[str]]:
    from dripgate.cli.reading import read
    from dripgate.embed.emulate import compare, emulate
    from dripgate.embed.golden import TOLERANCE

    gate = Gate.load(gate_file)
    dataset = read(data, spec=gate.info.input)
    samples = dataset.test if len(dataset.test) else dataset.train
    chosen = np.asarray(samples.x[:count])
    log(f"emulating {len(chosen)} decisions on a {core}")
    agreed = compare(gate, gate(chosen), emulate(out, core, chosen), TOLERANCE)
    found = agreed._asdict() | {"core": core, "good": agreed.wrong == 0}
    lines = [
        f"{core}, emulated: {agreed.samples - agreed.differ} of {agreed.samples} verdicts as "
        f"onnxruntime's, {agreed.close} within {TOLERANCE:g} of a threshold, {agreed.wrong} wrong; "
        f"logits differ by {agreed.logits:.1e}, scores by {agreed.score:.1e}"
    ]
    if adapt:
        from dripgate.embed import mirror

        log(f"learning from {len(chosen[:_LEARNED])} of them")
        found["learning"] = mirror.learning_differs(gate, out, core, chosen[:_LEARNED])
        found["good"] &= found["learning"] <= mirror.TOLERANCE
        lines.append(
            f"{core}, emulated: what it learns differs from NumPy's by {found['learning']:.1e}, "
            f"at most {mirror.TOLERANCE:g} is right"
        )
    return found, lines
