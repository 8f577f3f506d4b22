"""A first model for those who have none."""

import time
from typing import NamedTuple

import msgspec

from dripgate.data import Dataset
from dripgate.errors import DataError
from dripgate.progress import Progress
from dripgate.training.classifier import Classifier, new_classifier
from dripgate.training.train import Recipe
from dripgate.types import AudioInput


class First(NamedTuple):
    """A trained classifier, its test accuracy, the samples it learned from and the time taken."""

    classifier: Classifier
    accuracy: float
    samples: int
    seconds: float


def train_first(
    dataset: Dataset,
    arch: str,
    recipe: Recipe,
    *,
    holdout: float = 0.2,
    progress: Progress | None = None,
) -> First:
    """Train a reference net on the data's train part, but for ``holdout`` of it.

    Audio is shifted in time only. Raises ModelError for an unknown net or inputs it cannot take,
    DataError where nothing is left to learn from.
    """
    if isinstance(dataset.input, AudioInput):
        recipe = _in_time_only(recipe)
    untrained = new_classifier(
        arch, dataset.classes, dataset.input, dataset.train.x, recipe=recipe, holdout=holdout
    )
    part, _ = untrained.parts(dataset)
    if not len(part):
        raise DataError(
            f"{dataset.name}: no samples left to train on; give more, or less --holdout"
        )
    started = time.perf_counter()
    classifier = untrained.trained(part.x, part.y, progress=progress)
    seconds = time.perf_counter() - started
    accuracy = classifier.accuracy(dataset.test.x, dataset.test.y)
    return First(classifier, accuracy, len(part), seconds)


def _in_time_only(recipe: Recipe) -> Recipe:
    """Frames are the features' rows; their columns are frequencies, which mean something."""

    return msgspec.structs.replace(recipe, shift=(recipe.shift[0], 0.0), flip=False)
