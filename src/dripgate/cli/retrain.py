"""dripgate retrain: what was kept and labelled goes into a better model."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dripgate.cli import describe
from dripgate.cli.common import (
    STEPS,
    a_file,
    json_option,
    log,
    parent_of,
    percent,
    progress,
    seed_option,
    show,
)
from dripgate.cli.models import Described, model_options
from dripgate.cli.reading import folders_option
from dripgate.errors import require

if TYPE_CHECKING:
    from dripgate.data import Dataset, Reading
    from dripgate.training.classifier import Classifier, ModelInfo
    from dripgate.training.retrain import Weigh


@click.command("retrain")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--data", required=True, shell_complete=a_file, help="What the model was first trained on."
)
@model_options
@folders_option
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New model file.")
@click.option("--gate", "gate_out", type=click.Path(path_type=Path), help="New gate file.")
@click.option("--labels", type=click.Path(path_type=Path), help="CSV with the columns id,label.")
@click.option("--from-scratch", is_flag=True, help="Begin with new weights, not the old ones.")
@click.option("--steps", type=STEPS, help="Training steps; by default as the model was trained.")
@click.option(
    "--weigh",
    type=click.Choice(["equal", "stream"]),
    default="equal",
    show_default=True,
    help="stream: a kept sample counts as all those it stands for (1/propensity).",
)
@click.option("--keep", default="auto", show_default=True, help="For the new gate.")
@seed_option
@json_option
def command(
    store: Path, data: str, described: Described, out: Path, gate_out: Path | None,
    labels: Path | None, from_scratch: bool, steps: int | None, weigh: "Weigh", reading: "Reading",
    keep: str, seed: int, json_path: Path | None,
) -> None:  # fmt: skip
    """Train on the initial data and STORE's labelled samples; keep the new model if not worse."""
    if gate_out:
        require("--gate", "train", "onnx", "onnx_ir", "onnxscript")
    import msgspec

    from dripgate.cli.fit import parse_keep
    from dripgate.fitting.fit import fit
    from dripgate.training.retrain import onward, read_labels, retrain

    for path in filter(None, (out, gate_out)):
        parent_of(path)
    given = read_labels(labels) if labels else {}
    wanted = parse_keep(keep)
    classifier, dataset = _trainable(described, data, reading)
    recipe = classifier.info.recipe if from_scratch else onward(classifier.info.recipe)
    recipe = msgspec.structs.replace(recipe, seed=seed, steps=steps or recipe.steps)
    with progress(recipe.steps, "retraining", "steps") as step:
        result = retrain(
            store, dataset, classifier,
            labels=given, from_scratch=from_scratch, weigh=weigh, recipe=recipe, progress=step,
        )  # fmt: skip
    lines = [
        f"{result.used:,} kept samples used, {result.unlabelled:,} without a label, "
        f"{result.unknown:,} with a label the model does not know",
        f"accuracy on {result.tested:,} held-out samples: old {percent(result.old_accuracy)}, "
        f"new {percent(result.new_accuracy)}",
    ]
    if result.quarantined:
        lines.append(f"  not used: {result.quarantined:,} samples in quarantine")
    if result.strangers:
        examples = ", ".join(result.strangers[:3]) + (", …" if len(result.strangers) > 3 else "")
        lines.append(
            f"  not used: {len(result.strangers):,} labels of samples that the store does not "
            f"hold: {examples}"
        )
    if weigh == "stream":
        lines.append(f"weighed by 1/propensity: they count as {result.effective:,.0f} samples")
    if result.better:
        result.classifier.save(out)
        lines.append(f"{out}: written, the new model is not worse")
    else:
        lines.append("the new model is worse: nothing was written, the old one stays")
    if result.better and gate_out:
        better = result.classifier.exported()
        gate = fit(better, dataset, keep=wanted, seed=seed, log=log, bar=progress)
        gate.save(gate_out)
        lines += [f"{gate_out}: written", *describe.gate(gate.info)]
    show(lines, {
        "old_accuracy": result.old_accuracy, "new_accuracy": result.new_accuracy,
        "tested": result.tested, "used": result.used, "unlabelled": result.unlabelled,
        "unknown": result.unknown, "quarantined": result.quarantined,
        "strangers": result.strangers, "weigh": weigh, "effective": result.effective,
        "written": result.better,
        "model": str(out) if result.better else None,
        "gate": str(gate_out) if result.better and gate_out else None,
    }, json_path)  # fmt: skip


def _trainable(described: Described, data: str, reading: "Reading") -> "tuple[Classifier, Dataset]":
    """A torch classifier with its data; for weights that say nothing, what the data and options do.

    Raises ModelError or UserError.
    """
    from dripgate.cli.reading import open_data, read
    from dripgate.data import infer_input
    from dripgate.fitting.conventions import Layout, Pixels
    from dripgate.training.classifier import ModelInfo, default_preprocessing, load_classifier
    from dripgate.types import ImageInput

    source = open_data(data, reading)

    def describe(arch: str) -> "ModelInfo":
        spec = infer_input(source)
        preprocessing = default_preprocessing(spec)
        if isinstance(spec, ImageInput):
            height, width = described.size or (spec.height, spec.width)
            layout = Layout(height, width, spec.channels, "channels_first", "float32")
            said = described.said if isinstance(described.said, Pixels) else Pixels()
            spec, preprocessing = layout.input, said.on(layout)
        classes = described.classes or tuple(sorted({file.label for file in source.labelled()}))
        return ModelInfo(arch=arch, classes=classes, input=spec, preprocessing=preprocessing)

    classifier = load_classifier(described.model, described.weights, describe)
    return classifier, read(data, spec=classifier.info.input, reading=reading)
