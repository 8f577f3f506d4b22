"""dripgate fit: a model and labelled data become gate.onnx."""

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from dripgate.adapting.memory import DEFAULT
from dripgate.adapting.memory import parse as parse_memory
from dripgate.cli import describe
from dripgate.cli.common import (
    a_file,
    json_option,
    log,
    note,
    parent_of,
    progress,
    seed_option,
    show,
)  # fmt: skip
from dripgate.cli.models import Described, model_options
from dripgate.cli.reading import folders_option, open_data, read
from dripgate.errors import UserError, require
from dripgate.heatmap import DEFAULT_SCORE, SCORES

if TYPE_CHECKING:
    from dripgate.data import Reading


@click.command("fit")
@click.argument("data", shell_complete=a_file)
@model_options
@folders_option
@click.option("--layer", help="The target's name in the graph; by default the last that will do.")
@click.option("--list-cuts", is_flag=True, help="Show all that could be the target, and stop.")
@click.option("--keep", default="auto", show_default=True, help="auto, or a fraction such as 0.3.")
@click.option(
    "--score", default=DEFAULT_SCORE, show_default=True, type=click.Choice(list(SCORES)),
    help="What is computed from the heatmap.",
)  # fmt: skip
@click.option(
    "--memory", default=str(DEFAULT), show_default=True, metavar="none|stats|N",
    help="What 'adapt' has against forgetting: class means, or N feature vectors per class.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Also of a model that is no better than a guess.")
@click.option(
    "--out", default="gate.onnx", show_default=True, type=click.Path(path_type=Path),
    help="Gate file to write.",
)  # fmt: skip
@click.option(
    "--curve", type=click.Path(path_type=Path), help="Also draw the trade-off curve, as SVG."
)
@seed_option
@json_option
def command(
    data: str, described: Described, layer: str | None, list_cuts: bool, keep: str, score: str,
    memory: str, force: bool, reading: "Reading", out: Path, curve: Path | None, seed: int,
    json_path: Path | None,
) -> None:  # fmt: skip
    """Learn the thresholds on labelled DATA that MODEL has not seen, and write the gate."""
    require("making a gate", "fit", "onnx", "onnx_ir")
    if curve:
        require("--curve", "report", "matplotlib")
    from dripgate.fitting.brought import input_spec
    from dripgate.models import fit, open_model

    for path in filter(None, (out, curve)):
        parent_of(path)
    wanted, remembered = parse_keep(keep), parse_memory(memory)
    source = open_data(data, reading)
    classifier = open_model(
        described.model, source, weights=described.weights, trust=described.trust,
        size=described.size,
    )  # fmt: skip
    if list_cuts:
        from dripgate.graph.target import look_at

        opened = classifier.with_(output=described.output or classifier.output).open()
        looked_at = [look_at(opened, cut) for cut in reversed(opened.cuts)]
        show(describe.cuts(looked_at), describe.cuts_as_data(looked_at), json_path)
        return
    classifier = classifier.with_(output=described.output or classifier.output)
    spec = input_spec(classifier, source, described.said)
    described.check(spec)
    dataset = read(data, spec=spec, reading=reading)
    if len(dataset.test):
        note(
            f"  note: the gate is made from train alone; the {len(dataset.test):,} test samples "
            "are not used, and left for a test of your own"
        )
    started = time.perf_counter()
    gate = fit(
        classifier, dataset, layer=layer, keep=wanted, score=score, preprocessing=described.said,
        classes=described.classes, output=described.output, memory=remembered,
        seed=seed, force=force, log=log, bar=progress,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    gate.save(out)
    if curve:
        from dripgate.report.charts import tradeoff_svg

        seen = gate.info.calibration
        curve.write_text(tradeoff_svg(seen.curve, seen.full, gate.info.keep), encoding="utf-8")
    lines = describe.gate(gate.info)
    lines.append(f"{out}: {len(gate.data) / 1e3:.0f} kB, fitted in {seconds:.1f} s")
    show(lines, {
        "gate": str(out), "seconds": seconds, "found": dataset.found, "info": gate.info,
    }, json_path)  # fmt: skip


def parse_keep(text: str) -> float | Literal["auto"]:
    """'auto' or a fraction. Raises UserError."""
    if text == "auto":
        return "auto"
    with suppress(ValueError):
        if 0 < (share := float(text)) <= 1:
            return share
    raise UserError(
        f"--keep is '{text}', expected auto or a fraction above 0 and up to 1, such as 0.3"
    )
