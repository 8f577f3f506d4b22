"""dripgate demo: the whole loop, small."""

import sys
from functools import partial
from pathlib import Path

import click

from dripgate.cli import describe
from dripgate.cli.common import (
    STEPS,
    a_file,
    json_option,
    log,
    percent,
    progress,
    seed_option,
    show,
)
from dripgate.demo import PLANS, ROWS, Result, demo
from dripgate.store.size import format_size

_LABELS = {
    "initial": "initial samples only",
    "full": "everything",
    "dripgate": "what dripgate kept",
    "random": "random, same count",
    "margin": "softmax margin, same count",
}


@click.command("demo")
@click.option(
    "--data", default="digits", show_default=True, shell_complete=a_file,
    help=f"Folder, archive or name; sized for {', '.join(PLANS)}.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder; default demo/DATA."
)
@click.option("--steps", type=STEPS, help="Training steps of every row; default by data set.")
@seed_option
@json_option
def command(
    data: str, out: Path | None, steps: int | None, seed: int, json_path: Path | None
) -> None:
    """Split DATA, train, fit, run, retrain, and compare with everything, random and margin."""
    out = out or Path("demo", Path(data).name.split(".")[0])
    line = " ".join(["dripgate", *sys.argv[1:]])
    bar = partial(progress, unit="steps")
    result = demo(data, out, seed=seed, steps=steps, log=log, bar=bar, command=line)
    show(described(result, out), result, json_path)


def described(result: Result, out: Path) -> list[str]:
    """The one table, in lines for people."""
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items())
    return [
        "",
        f"{result.data}, seed {result.seed}: {result.stream:,} samples streamed in, "
        f"{result.kept:,} kept, {result.quarantined:,} quarantined",
        "",
        f"  {'trained on initial +':<28} accuracy on {result.tested:,} test samples",
        *(f"  {_LABELS[name]:<28} {result.accuracy[name]:.4f}" for name in ROWS),
        "",
        f"  storage saved  {percent(result.storage_saved)} of the bytes "
        f"({format_size(result.bytes_kept)} of {format_size(result.bytes_seen)} stored), "
        f"{percent(1 - (result.kept + result.quarantined) / max(result.stream, 1))} of the samples",
        f"  steps          {result.steps} onward from the first model, the same for every row",
        f"  time           {spent}",
        "",
        *describe.estimates(result.account),
        "",
        f"Look at {result.report}. The phases by hand:",
        f"  dripgate fit {out}/labelled.zip --model {out}/model.safetensors --out gate.onnx",
        f"  dripgate run gate.onnx {out}/stream.zip --store kept.db "
        f"--audit {result.account.rules.audit} --duplicates 0",
        f"  dripgate retrain kept.db --data {out}/labelled.zip --model {out}/model.safetensors "
        "--out model2.safetensors",
    ]
