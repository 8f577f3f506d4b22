"""The classifier that ships with dripgate (tools/demo_classifier.py), its data, and its gate."""

import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from dripgate.data import load
from dripgate.demo import scenes
from dripgate.files import write_whole
from dripgate.fitting.fit import fit
from dripgate.fitting.metadata import facts_of
from dripgate.gate import Gate
from dripgate.graph import read
from dripgate.graph.classifier import OnnxClassifier

FILE = Path(__file__).with_name("classifier.onnx")
#: Of every random number that is not one day's.
SEED = 0


def classifier() -> OnnxClassifier:
    """10 classes, (16, 16, 1) uint8, 27 k weights; learned from 250 digits at noon."""
    model = read.load(FILE)
    facts = facts_of(model, FILE)
    return OnnxClassifier(
        model, FILE.name, facts.classes, facts.input, facts.preprocessing, facts.holdout
    )


def learned() -> list[scenes.Frame]:
    """The initial samples: two looks at each digit that the classifier learned from."""
    return scenes.apart("learned", SEED, copies=2, lit=True)


def write_labelled(folder: Path) -> Path:
    """labelled.zip: train/ is what the gate is fitted on, at noon; test/ is of any time of day.

    Neither shows a digit that the classifier learned from, or that a day shows. In the test part
    all digits are equally frequent.
    """
    fitted = scenes.apart("fitted", SEED, copies=2, lit=True)
    tested = scenes.apart("tested", SEED, copies=2, skewed=False)
    path = folder / "labelled.zip"
    write_zip(path, [*named("train/", fitted), *named("test/", tested)])
    return path


def write_day(folder: Path, seed: int) -> Path:
    """day-SEED.zip: one day's frames in order, in folders by what they show."""
    path = folder / f"day-{seed}.zip"
    write_zip(path, named("", scenes.day(seed)))
    return path


def fitted_gate(labelled: Path, log: Callable[[str], None] | None = None) -> Gate:
    """The gate of the classifier, fitted on labelled.zip."""
    return fit(classifier(), load(labelled, cache=False), seed=SEED, log=log)


def write_zip(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """The archive, whole or not at all."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, payload in files:
            archive.writestr(zipfile.ZipInfo(name, (2025, 6, 21, 0, 0, 0)), payload)
    write_whole(path, buffer.getvalue())


def named(top: str, frames: Iterable[scenes.Frame]) -> Iterable[tuple[str, bytes]]:
    """Names in an archive, and payloads: folders by label under ``top``."""
    return (
        (f"{top}{frame.label}/{number:05d}.png", frame.payload)
        for number, frame in enumerate(frames)
    )
