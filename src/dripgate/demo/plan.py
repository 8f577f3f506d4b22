"""How much of a data set the demo uses, and its archives: what is labelled, and what streams in.

The payloads of the chosen samples are held in memory while the archives are written; the plans
bound them.
"""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np

from dripgate.data import Dataset, LabelledFile, infer_input, load, open_source
from dripgate.errors import DataError
from dripgate.policy import Rules
from dripgate.types import ImageInput


@dataclass(frozen=True)
class Plan:
    """How much of a data set the demo uses, sized for a few minutes on two cores.

    steps: for the first model; onward: for every row, from the first model on. initial: share of
    the train samples that are labelled at the start. most: train samples used, test: test samples
    used. size: side that images are resized to, None leaves them. audit: share of the stream that
    is kept at random; more of a small stream, where a hundredth is a handful.
    """

    arch: str = "resnet8"
    steps: int = 500
    onward: int = 300
    lr: float = 0.1
    flip: bool = False
    size: int | None = None
    initial: float = 0.15
    most: int = 30_000
    test: int = 5_000
    audit: float = 0.01

    def rules(self, seed: int) -> Rules:
        """Of the policy. Samples of a data set are distinct scenes: none is a duplicate."""
        return Rules(audit=self.audit, duplicates=0.0, seed=seed)


PLANS = {
    "digits": Plan(steps=200, onward=150, initial=0.25, audit=0.05),
    "mnist": Plan("lenet", steps=1500, onward=1500, most=60_000, initial=0.05, test=10_000),
    "cifar10": Plan(flip=True, test=10_000),
    "plantvillage": Plan(flip=True, size=32),
    "speechcommands": Plan(steps=400, onward=200),
}


def split(data: str, plan: Plan, seed: int, out: Path) -> tuple[Path, Path]:
    """Write labelled.zip (initial samples as train/, and test/) and stream.zip, in random order."""
    rng = np.random.default_rng(seed)
    files = [file for file in open_source(data).labelled() if not file.problem]
    order = [files[i] for i in rng.permutation(len(files))]
    test = [file for file in order if file.split == "test"]
    train = [file for file in order if file.split != "test"]
    if not test:
        share = len(train) // 5
        test, train = train[:share], train[share:]
    train, test = train[: plan.most], test[: plan.test]
    initial = round(plan.initial * len(train))
    classes = {file.label for file in train[:initial]}
    if initial < 2 or len(classes) < 2:
        raise DataError(
            f"{data}: {len(train)} train samples are too few for a demo; give at least a hundred"
        )
    # A class the first model has never seen is another story than this one.
    test = [file for file in test if file.label in classes]
    stream = [file for file in train[initial:] if file.label in classes]
    labelled_zip, stream_zip = out / "labelled.zip", out / "stream.zip"
    _write_zip(labelled_zip, [("train", train[:initial]), ("test", test)])
    _write_zip(stream_zip, [("", stream)])
    return labelled_zip, stream_zip


def _write_zip(path: Path, parts: list[tuple[str, list[LabelledFile]]]) -> None:
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w") as archive:
        for top, files in parts:
            for index, file in enumerate(files):
                name = f"{index:06d}_{PurePosixPath(file.name).name}"
                archive.writestr(str(PurePosixPath(top, file.label, name)), file.payload)
    part.replace(path)


def load_labelled(data: str, labelled: Path, plan: Plan) -> Dataset:
    """The archive decoded as the plan says, under the data's own name."""
    source = open_source(labelled)
    spec = infer_input(source)
    if plan.size and isinstance(spec, ImageInput):
        spec = msgspec.structs.replace(spec, height=plan.size, width=plan.size)
    return replace(load(source, spec, cache=False), name=data)
