"""One job: a data set, a seed and a condition. First model, stream, decisions, retraining, rows.

Everything random is drawn from the seed, and all rules of a seed share the initial part, the
stream, the first model, and the initialisation and batch order of the retrained net: rows are
paired. Each job runs on one thread, so that its rows do not depend on how many run beside it.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from dripgate.bench.conditions import OTHER_BEGINNING, Condition, Part, Scene, arrange
from dripgate.bench.nets import NETS
from dripgate.bench.observe import Seen
from dripgate.bench.plan import Cell, Plan
from dripgate.bench.rows import Row
from dripgate.bench.rules import DEFAULT, RULES, Task
from dripgate.data import Dataset, Split, infer_input, load, open_source
from dripgate.errors import DataError
from dripgate.fitting.fit import fit
from dripgate.gate import Gate
from dripgate.training.classifier import ChannelsFirst, Classifier, ModelInfo, standardising
from dripgate.training.preprocess import build
from dripgate.training.train import Recipe, logits_of, train
from dripgate.types import Array, Decision, ImageInput, Reason

#: Share of the initial part that the first model does not learn from: thresholds do.
HOLDOUT = 1 / 3


class Job(NamedTuple):
    """Rows that share a first model. data: a name or a path."""

    data: str
    plan: Plan
    seed: int
    cells: Sequence[Cell]


def run_job(job: Job) -> Iterator[Row]:
    """The job's rows, each as soon as it is there. Raises DataError for unusable data."""
    with alone():
        bench = Bench(job.data, job.plan, job.seed)
        for condition in dict.fromkeys(cell.condition for cell in job.cells):
            trial = bench.under(condition)
            for cell in job.cells:
                if cell.condition == condition:
                    yield trial.row(cell)


@contextmanager
def alone() -> Iterator[None]:
    """One thread, and no time for numbers too small to matter; afterwards as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


def open_data(data: str, plan: Plan) -> Dataset:
    """The decoded data set, from the cache where it is."""
    source = open_source(data)
    spec = infer_input(source)
    if plan.size and isinstance(spec, ImageInput):
        spec = msgspec.structs.replace(spec, height=plan.size, width=plan.size)
    return load(source, spec)


def parts(dataset: Dataset, plan: Plan, seed: int) -> tuple[Split, Split, Split]:
    """(initial, stream, test): drawn from train by the seed; test is the same for all seeds."""
    wanted = plan.initial + plan.stream
    order = np.random.default_rng([seed, 1]).permutation(len(dataset.train))[:wanted]
    initial = round(plan.initial / wanted * len(order))
    tested = np.random.default_rng(0).permutation(len(dataset.test))[: plan.test]
    if initial * HOLDOUT < 2 * len(dataset.classes):
        raise DataError(
            f"{dataset.name}: {initial} initial samples for {len(dataset.classes)} classes are too "
            "few for a benchmark; give more data"
        )
    train_part, test_part = dataset.train, dataset.test
    return (
        train_part.take(order[:initial]), train_part.take(order[initial:]), test_part.take(tested)
    )  # fmt: skip


class Bench:
    """A data set and a seed; under most conditions the first model is the same."""

    def __init__(self, data: str, plan: Plan, seed: int) -> None:
        self.data, self.plan, self.seed = data, plan, seed
        self.dataset = open_data(data, plan)
        self.parts = parts(self.dataset, plan, seed)
        self._first: First | None = None

    def under(self, condition: Condition) -> "Trial":
        """The stream under a condition, and the model that meets it."""
        scene = arrange(condition, *self.parts, self.seed)
        if condition in OTHER_BEGINNING:
            return Trial(self, scene, First(self, scene.initial))
        if self._first is None:
            self._first = First(self, scene.initial)
        return Trial(self, scene, self._first)


class First:
    """What is deployed: a model trained on two thirds of the initial part, and its gate.

    Both are made when they are first asked for.
    """

    def __init__(self, bench: Bench, initial: Part) -> None:
        self.bench, self.initial = bench, initial
        dataset, plan, seed = bench.dataset, bench.plan, bench.seed
        preprocessing = standardising(dataset.input, initial.x)
        self._prepare = build(preprocessing, dataset.input)
        self.inputs = self.prepared(initial.x)
        _, rows, cols, channels = self.inputs.shape
        self._make = partial(NETS[plan.net], (channels, rows, cols), len(dataset.classes))
        self._info = ModelInfo(
            arch=f"dripgate.bench.nets:{plan.net}", classes=dataset.classes, input=dataset.input,
            preprocessing=preprocessing,
        )  # fmt: skip
        held_out = np.random.default_rng([seed, 2]).random(len(initial.y)) < HOLDOUT
        self.learned, self.held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def prepared(self, x: Array) -> Tensor:
        """What the net takes of raw samples, (n, h, w, C) float32."""
        with torch.inference_mode():
            made = [
                self._prepare(torch.from_numpy(np.ascontiguousarray(x[i : i + 512])))
                for i in range(0, len(x), 512)
            ]
        return torch.cat(made).clone().permute(0, 2, 3, 1).contiguous()

    @cached_property
    def classifier(self) -> Classifier:
        """The first model."""
        model = self.trained(self.inputs[self.learned], self.initial.y[self.learned])
        return Classifier(model, self._info, self._make)

    @cached_property
    def gate(self) -> Gate:
        """Fitted on the other third, as a user does: with ``keep="auto"``."""
        rows = self.held_out
        split = Split.of(
            self.initial.x[rows], self.initial.y[rows], rows.astype(str), [""] * len(rows),
            np.ones_like(rows),
        )  # fmt: skip
        data = self.bench.dataset
        dataset = Dataset(data.name, data.classes, data.input, split, split, ())
        return fit(self.classifier.exported(), dataset, seed=self.bench.seed, force=True)

    @cached_property
    def calibration(self) -> Seen:
        """The held-out third of the initial part."""
        return Seen(self, self.initial.x[self.held_out])

    def trained(self, x: Tensor, y: Array) -> nn.Module:
        """A new net, trained by the plan on inputs (n, h, w, C) and classes (n,)."""
        plan, seed = self.bench.plan, self.bench.seed
        recipe = Recipe(
            steps=plan.steps, batch=plan.batch, lr=plan.lr, shift=plan.shift, flip=plan.flip,
            seed=seed, dtype=plan.dtype,
        )  # fmt: skip
        torch.manual_seed(seed)
        model = self._make().to(device())
        train(nn.Sequential(ChannelsFirst(), model), x, y, recipe)
        return model.cpu()

    def recall(self, x: Tensor, y: Array, tested: Tensor, truth: Array) -> Array:
        """Share of each class's test samples that a net trained on x and y knows, (classes,).

        tested (n, h, w, C) and their classes, truth (n,); 0 for a class that is not among them.
        """
        net = nn.Sequential(ChannelsFirst(), self.trained(x, y)).to(device())
        right = logits_of(net, tested).argmax(axis=1) == truth
        classes = len(self.bench.dataset.classes)
        counts = np.bincount(truth, minlength=classes)
        return np.asarray(np.bincount(truth[right], minlength=classes) / np.maximum(counts, 1))


class Trial:
    """A first model and a stream: rules decide, nets are retrained and tested."""

    def __init__(self, bench: Bench, scene: Scene, first: First) -> None:
        self.bench, self.scene, self.first = bench, scene, first
        self.stream = Seen(first, scene.stream.x)
        self._inputs, self._test = (first.prepared(p.x) for p in (scene.stream, scene.test))

    def task(self, keep: float, labels: Array | None = None) -> Task:
        """What a rule is given; labels for those that need them."""
        first = self.first
        return Task(
            calibration=first.calibration, truth=first.initial.y[first.held_out],
            stream=self.stream, keep=keep, seed=self.bench.seed,
            labels=np.full(len(self.stream.x), -1) if labels is None else labels,
        )  # fmt: skip

    @cached_property
    def auto(self) -> Array:
        """What the gate keeps as it is, with the share that it chose itself, bool (n,)."""
        return np.array([one.decision is Decision.KEEP for one in self.stream.verdicts])

    def chosen(self, cell: Cell) -> Array:
        """Which samples of the stream a rule keeps, bool (n,)."""
        rule = RULES[cell.rule]
        if cell.keep == "auto" and cell.rule == DEFAULT:
            return self.auto
        keep = float(self.auto.mean()) if cell.keep == "auto" else cell.keep
        return rule.choose(self.task(keep, self.scene.stream.y if rule.needs_labels else None))

    def row(self, cell: Cell) -> Row:
        """Decide, retrain from scratch, test."""
        started = time.perf_counter()
        kept, scene, plan = self.chosen(cell), self.scene, self.bench.plan
        recall = self._recall(cell, kept)
        support = np.bincount(scene.test.y, minlength=len(recall))
        return Row(
            data=self.bench.data, condition=cell.condition, protocol=cell.protocol,
            rule=cell.rule, needs_labels=RULES[cell.rule].needs_labels, keep_target=cell.keep,
            kept=_share(kept), seed=self.bench.seed, steps=plan.steps,
            accuracy=rounded(recall @ support / support.sum()),
            worst_class_accuracy=rounded(recall[support > 0].min()),
            bytes_seen=int(scene.sizes.sum()), bytes_kept=int(scene.sizes[kept].sum()),
            quarantined=self._quarantined(cell),
            broken_kept=_share(kept[scene.broken]) if scene.broken.any() else None,
            scenes_kept=rounded(len(np.unique(scene.scene[kept])) / len(np.unique(scene.scene))),
            stream=len(kept), tested=len(scene.test.y),
            seconds=round(time.perf_counter() - started, 1), plan=plan.id,
            dtype=plan.dtype,
        )  # fmt: skip

    def _recall(self, cell: Cell, kept: Array) -> Array:
        """Share of each class's test samples that a net trained by the cell's protocol knows."""
        rows = np.flatnonzero(kept)
        x, y = self._inputs[rows], self.scene.returned[rows]
        if cell.protocol == "retrain":
            x = torch.cat([self.first.inputs, x])
            y = np.concatenate([self.first.initial.y, y])
        if not len(y):
            return np.zeros(len(self.bench.dataset.classes))
        return self.first.recall(x, y, self._test, self.scene.test.y)

    def _quarantined(self, cell: Cell) -> float:
        if cell.rule == DEFAULT or cell.rule.endswith("_band"):
            # The quality range is the same at every share.
            return _share(np.array([one.reason is Reason.QUALITY for one in self.stream.verdicts]))
        return 0.0


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _share(mask: Array) -> float:
    return rounded(mask.mean())


def rounded(value: float) -> float:
    """As rows have it, to a hundredth of a percent."""
    return round(float(value), 4)
