"""The options by which a user says which model, and opening it with the data it goes with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dripgate.cli.reading import read
from dripgate.data import Dataset, Reading, infer_input, open_source
from dripgate.errors import UserError
from dripgate.training.classifier import (
    Classifier,
    ModelInfo,
    default_preprocessing,
    load_classifier,
)
from dripgate.types import ImageInput, InputSpec, Normalize, Preprocessing


def open_model(
    data: str, model: str, weights: Path | None, size: int | None, mean: str | None,
    std: str | None, reading: Reading = "auto",
) -> tuple[Classifier, Dataset]:  # fmt: skip
    """The classifier and the data decoded for it.

    For weights that do not say what they take, the input is inferred from the data, the classes
    are the data's, in sorted order, and images are normalised with mean and std.
    """
    source = open_source(data, reading=reading)

    def describe(arch: str) -> ModelInfo:
        spec = infer_input(source)
        if size and isinstance(spec, ImageInput):
            spec = ImageInput(height=size, width=size, channels=spec.channels)
        classes = tuple(sorted({file.label for file in source.labelled()}))
        return ModelInfo(
            arch=arch, classes=classes, input=spec, preprocessing=_preprocessing(spec, mean, std)
        )

    classifier = load_classifier(model, weights, describe)
    return classifier, read(data, spec=classifier.info.input, reading=reading)


def _preprocessing(spec: InputSpec, mean: str | None, std: str | None) -> Preprocessing:
    if isinstance(spec, ImageInput) and (mean or std):
        return Normalize(
            mean=_numbers(mean or "0", spec.channels, "--mean"),
            std=_numbers(std or "1", spec.channels, "--std"),
        )
    return default_preprocessing(spec)


def _numbers(text: str, channels: int, option: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        raise UserError(f"{option} is '{text}', expected one number, or {channels} with commas")
    return values


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--model, --weights and, for weights that say nothing of themselves, --size, --mean, --std."""
    for option in reversed([
        click.option("--model", required=True, help="Model file, or package.module:factory."),
        click.option(
            "--weights", type=click.Path(path_type=Path), help="The factory's weights, safetensors."
        ),
        click.option("--size", type=int, help="A factory's model: side of its square images."),
        click.option("--mean", help="A factory's model: mean of 0…1 pixels, one or per channel."),
        click.option("--std", help="A factory's model: deviation of 0…1 pixels."),
    ]):  # fmt: skip
        command = option(command)
    return command
