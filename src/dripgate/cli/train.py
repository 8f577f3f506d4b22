"""dripgate train: a first model, for those who have none."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dripgate.cli.common import (
    LARGEST_SIDE,
    STEPS,
    Finite,
    a_file,
    json_option,
    parent_of,
    percent,
    progress,
    seed_option,
    show,
)
from dripgate.cli.reading import folders_option, levels_option, read
from dripgate.errors import require
from dripgate.files import write_whole

if TYPE_CHECKING:
    from dripgate.data import Reading


@click.command("train")
@click.argument("data", shell_complete=a_file)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Model file to write.")
@click.option("--arch", default="resnet8", show_default=True, help="resnet8, lenet or dscnn.")
@click.option("--steps", default=800, show_default=True, type=STEPS, help="Training steps.")
@click.option(
    "--batch", default=128, show_default=True, type=click.IntRange(1), help="Samples per step."
)
@click.option(
    "--lr", default=0.1, show_default=True, type=Finite(0, 10, min_open=True),
    help="Highest learning rate.",
)  # fmt: skip
@click.option("--flip", is_flag=True, help="Also mirror images (not for digits or text).")
@click.option(
    "--size", type=click.IntRange(1, LARGEST_SIDE),
    help="Side of the square that images are resized to.",
)  # fmt: skip
@levels_option
@folders_option
@click.option(
    "--holdout", default=0.2, show_default=True, type=Finite(0, 0.9),
    help="Share kept from training, for 'fit' to learn thresholds on.",
)  # fmt: skip
@click.option("--onnx", type=click.Path(path_type=Path), help="Also write it as an ONNX file.")
@seed_option
@json_option
def command(
    data: str, out: Path, arch: str, steps: int, batch: int, lr: float, flip: bool,
    size: int | None, levels: str, reading: "Reading", holdout: float, onnx: Path | None, seed: int,
    json_path: Path | None,
) -> None:  # fmt: skip
    """Train a reference net on DATA: a folder, an archive, or a name such as mnist or digits."""
    if onnx:
        require("--onnx", "train", "onnx", "onnxscript")
    from dripgate.training.first import train_first
    from dripgate.training.train import Recipe

    for path in filter(None, (out, onnx)):
        parent_of(path)
    dataset = read(data, size, reading=reading, levels=levels)
    recipe = Recipe(steps=steps, batch=batch, lr=lr, flip=flip, seed=seed)
    with progress(steps, "training", "steps") as step:
        trained = train_first(dataset, arch, recipe, holdout=holdout, progress=step)
    trained.classifier.save(out)
    if onnx:
        write_whole(onnx, trained.classifier.exported().file())
    line = (
        f"{out}: {arch}, {len(dataset.classes)} classes, accuracy {percent(trained.accuracy)} on "
        f"{len(dataset.test):,} test samples, {trained.seconds:.1f} s"
    )
    show([line], {
        "model": str(out), "data": data, "arch": arch, "steps": steps, "seed": seed,
        "classes": dataset.classes, "trained_on": trained.samples, "tested": len(dataset.test),
        "accuracy": trained.accuracy, "seconds": trained.seconds,
        "found": dataset.found, "skipped": [entry._asdict() for entry in dataset.skipped],
    }, json_path)  # fmt: skip
