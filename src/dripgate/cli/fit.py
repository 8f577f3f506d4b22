"""dripgate fit: a model and labelled data become gate.onnx."""

import time
from pathlib import Path
from typing import Literal

import click

from dripgate.cli import describe
from dripgate.cli.common import json_option, parent_of, say, seed_option, show
from dripgate.cli.models import model_options, open_model
from dripgate.errors import UserError
from dripgate.heatmap import DEFAULT_SCORE, SCORES


@click.command("fit")
@click.argument("data")
@model_options
@click.option("--layer", help="Target layer; by default the last that everything passes through.")
@click.option("--keep", default="auto", show_default=True, help="auto, or a fraction such as 0.3.")
@click.option(
    "--score", default=DEFAULT_SCORE, show_default=True, type=click.Choice(list(SCORES)),
    help="What is computed from the heatmap.",
)  # fmt: skip
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
    data: str, model: str, weights: Path | None, size: int | None, mean: str | None,
    std: str | None, layer: str | None, keep: str, score: str, out: Path, curve: Path | None,
    seed: int, json_path: Path | None,
) -> None:  # fmt: skip
    """Learn the thresholds on labelled DATA that MODEL has not seen, and write the gate."""
    from dripgate.report.charts import tradeoff_svg
    from dripgate.training.fit import fit

    parent_of(out)
    wanted = parse_keep(keep)
    classifier, dataset = open_model(data, model, weights, size, mean, std)
    started = time.perf_counter()
    gate = fit(classifier, dataset, layer=layer, keep=wanted, score=score, seed=seed, say=say)
    seconds = time.perf_counter() - started
    gate.save(out)
    if curve:
        seen = gate.info.calibration
        curve.write_text(tradeoff_svg(seen.curve, seen.full, gate.info.keep), encoding="utf-8")
    lines = describe.gate(gate.info)
    lines.append(f"{out}: {len(gate.data) / 1e3:.0f} kB, fitted in {seconds:.1f} s")
    show(lines, {"gate": str(out), "seconds": seconds, "info": gate.info}, json_path)


def parse_keep(text: str) -> float | Literal["auto"]:
    """'auto' or a fraction. Raises UserError."""
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--keep is '{text}', expected auto or a fraction such as 0.3") from None
