"""dripgate demo: a device's days without torch; with --data, the whole loop with training."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

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
from dripgate.demo.mean import MOST
from dripgate.errors import UserError
from dripgate.store.size import format_size

if TYPE_CHECKING:
    from dripgate.demo.device import Result as Days
    from dripgate.demo.loop import Result

_TRAINED = {
    "initial": "initial samples only",
    "full": "everything",
    "dripgate": "what dripgate kept",
    "random": "random, same count",
    "margin": "softmax margin, same count",
}
_LEARNED = {
    "initial": "nothing",
    "full": "everything",
    "dripgate": "what dripgate kept",
    "random": "random frames, as many",
    "nth": "every n-th, as many",
    "margin": "smallest margin, as many",
}


@click.command("demo")
@click.option(
    "--data",
    shell_complete=a_file,
    help="Folder, archive or name: the whole loop on it, with training (torch), instead.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder; default demo/NAME."
)
@click.option(
    "--days", type=click.IntRange(1, MOST), help="Without --data: how many are compared; 8."
)
@click.option("--steps", type=STEPS, help="With --data: training steps of every row.")
@seed_option
@json_option
def command(
    data: str | None, out: Path | None, days: int | None, steps: int | None, seed: int,
    json_path: Path | None,
) -> None:  # fmt: skip
    """Gate and policy over a device's days, beside everything, random, every n-th and margin.

    The classifier and the days of digits are part of dripgate; nothing is trained but last layers.
    With --data NAME: split it, train, fit, run, retrain, compare.
    """
    line = " ".join(["dripgate", *sys.argv[1:]])
    if data is None:
        if steps is not None:
            raise UserError("--steps is for --data: without it no net is trained")
        from dripgate.demo.device import DAYS, device

        found = device(
            out or Path("demo", "device"), days=days or DAYS, seed=seed, log=log, command=line
        )
        show(days_described(found), found, json_path)
        return
    if days is not None:
        raise UserError("--days is for the demo without --data; try several --seed instead")
    from dripgate.demo.loop import demo

    out = out or Path("demo", Path(data).name.split(".")[0])
    bar = partial(progress, unit="steps")
    result = demo(data, out, seed=seed, steps=steps, log=log, bar=bar, command=line)
    show(described(result, out), result, json_path)


def days_described(found: Days) -> list[str]:
    """The table of the device's days, in lines for people."""
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found.seconds.items())
    ours = next(row for row in found.rows if row.way == "dripgate")
    over = (
        f"mean of {found.days} days ± 95 %" if found.days > 1 else "one day, so without its error"
    )
    lines = [
        "",
        f"{found.frames:,} frames, {over}; {found.broken:,} frames are broken",
        "",
        f"  {'learned from initial +':<26}{'stored':>8}{'broken of it':>14}{'accuracy':>14}"
        f"{'dripgate is ahead by':>23}",
    ]
    for row in found.rows:
        ahead = row.ahead.points("+") if row.ahead else ""
        nothing = row.way == "initial"
        lines.append(
            f"  {_LEARNED[row.way]:<26}{percent(row.stored.value):>8}"
            f"{'' if nothing else percent(row.broken.value):>14}"
            f"{row.accuracy.points():>14}{ahead:>23}"
        )
    return [
        *lines,
        "",
        f"  accuracy       in % of {found.tested:,} test frames of any time of the day, all digits "
        "equally frequent, after the",
        "                 last layer was learned anew (scikit-learn's digits; the rest of the net "
        "stays as it is);",
        f"                 the classifier as it came: {percent(found.deployed)}",
        f"  adapted        {percent(found.deployed)} → {found.adapted.accuracy.points()} % "
        f"({found.adapted.gain.points('+')}) on the device, by 'dripgate adapt': from the "
        f"{found.adapted.labels:,} labels of what it kept",
        f"                 and what the gate remembers; taken on {found.adapted.taken} of "
        f"{found.days} days",
        f"  storage saved  {percent(1 - ours.stored.value)} of the frames and bytes",
        f"  set aside      {found.quarantined:,} frames as unlike the data the gate was fitted on, "
        f"{found.quarantined_broken:,} of them broken; they count as stored",
        f"  time           {spent}",
        "",
        *describe.estimates(found.account),
        "",
        f"Look at {found.report}. By hand:",
        f"  dripgate fit {found.folder}/labelled.zip --model {found.folder}/classifier.onnx "
        "--out gate.onnx",
        f"  dripgate run gate.onnx {found.folder}/day-{found.seed}.zip --store kept.db "
        f"--audit {found.account.rules.audit} --seed {found.seed}",
        "  dripgate review kept.db --gate gate.onnx",
    ]


def described(result: Result, out: Path) -> list[str]:
    """The one table of the loop with training, in lines for people."""
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items())
    return [
        "",
        f"{result.data}, seed {result.seed}: {result.stream:,} samples streamed in, "
        f"{result.kept:,} kept, {result.quarantined:,} quarantined",
        "",
        f"  {'trained on initial +':<28} accuracy on {result.tested:,} test samples",
        *(f"  {_TRAINED[name]:<28} {value:.4f}" for name, value in result.accuracy.items()),
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
