"""One job: a data set, a seed and a condition. First model, stream, decisions, retraining, rows.

Everything random is drawn from the seed, and all rules of a seed share the initial part, the
stream, the first model, and the initialisation and batch order of the retrained net: rows are
paired. Each job runs on one thread, so that its rows do not depend on how many run beside it.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from dripgate.bench.conditions import Condition, Scene, arrange
from dripgate.bench.nets import NETS
from dripgate.bench.observe import Seen
from dripgate.bench.plan import Cell, Plan
from dripgate.bench.rows import Row
from dripgate.bench.rules import DEFAULT, RULES, Task
from dripgate.data import Dataset, Split, infer_input, load, open_source
from dripgate.errors import DataError
from dripgate.gate import Gate
from dripgate.training.classifier import ChannelsFirst, Classifier, ModelInfo, standardising
from dripgate.training.fit import fit
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
    condition: Condition
    cells: Sequence[Cell]


def run_job(job: Job) -> Iterator[Row]:
    """The job's rows, each as soon as it is there. Raises DataError for unusable data."""
    bench = Bench(job.data, job.plan, job.seed, job.condition)
    for cell in job.cells:
        yield bench.row(cell)


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


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What the net is trained and tested on, (n, h, w, C) float32, made once for all rows."""

    initial: Tensor
    stream: Tensor
    test: Tensor


class Bench:
    """A data set, a seed and a condition, ready to try rules on."""

    def __init__(self, data: str, plan: Plan, seed: int, condition: Condition) -> None:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        dataset = open_data(data, plan)
        self.plan, self.seed = plan, seed
        self.data, self.classes, self.spec = data, dataset.classes, dataset.input
        self.scene: Scene = arrange(condition, *parts(dataset, plan, seed), seed)
        preprocessing = standardising(self.spec, self.scene.initial.x)
        self._prepare = build(preprocessing, self.spec)
        self.inputs = _Inputs(*(
            self._inputs(part.x)
            for part in (self.scene.initial, self.scene.stream, self.scene.test)
        ))  # fmt: skip
        _, rows, cols, channels = self.inputs.test.shape
        self._make = partial(NETS[plan.net], (channels, rows, cols), len(self.classes))
        self._info = ModelInfo(
            arch=f"dripgate.bench.nets:{plan.net}", classes=self.classes, input=self.spec,
            preprocessing=preprocessing,
        )  # fmt: skip
        held_out = np.random.default_rng([seed, 2]).random(len(self.scene.initial.y)) < HOLDOUT
        self.learned, self.held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def _inputs(self, x: Array) -> Tensor:
        with torch.inference_mode():
            made = [
                self._prepare(torch.from_numpy(np.ascontiguousarray(x[i : i + 512])))
                for i in range(0, len(x), 512)
            ]
        return torch.cat(made).clone().permute(0, 2, 3, 1).contiguous()

    # The first model, and what it sees -----------------------------------------------------------

    @cached_property
    def first(self) -> Classifier:
        """Trained on two thirds of the initial part."""
        initial = self.scene.initial
        model = self.trained(self.inputs.initial[self.learned], initial.y[self.learned])
        return Classifier(model, self._info, self._make)

    @cached_property
    def gate(self) -> Gate:
        """Fitted on the other third, as a user does: with ``keep="auto"``."""
        initial, rows = self.scene.initial, self.held_out
        split = Split.of(
            initial.x[rows], initial.y[rows], rows.astype(str), [""] * len(rows), np.ones_like(rows)
        )
        dataset = Dataset(self.data, self.classes, self.spec, split, split, ())
        return fit(self.first, dataset, seed=self.seed)

    @cached_property
    def calibration(self) -> Seen:
        """The held-out third of the initial part."""
        return Seen(self.first, self.gate, self.scene.initial.x[self.held_out])

    @cached_property
    def stream(self) -> Seen:
        """The stream, in its order."""
        return Seen(self.first, self.gate, self.scene.stream.x)

    def task(self, keep: float, labels: Array | None = None) -> Task:
        """What a rule is given; labels for those that need them."""
        scene = self.scene
        return Task(
            calibration=self.calibration, truth=scene.initial.y[self.held_out], stream=self.stream,
            keep=keep, seed=self.seed,
            labels=np.full(len(scene.stream.y), -1) if labels is None else labels,
        )  # fmt: skip

    # Rows ----------------------------------------------------------------------------------------

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
        kept = self.chosen(cell)
        scene, rows = self.scene, np.flatnonzero(kept)
        x, y = self.inputs.stream[rows], scene.returned[rows]
        if cell.protocol == "retrain":
            x = torch.cat([self.inputs.initial, x])
            y = np.concatenate([scene.initial.y, y])
        recall = self.recall(self.trained(x, y)) if len(y) else np.zeros(len(self.classes))
        aside = self._quarantined(cell)
        support = np.bincount(scene.test.y, minlength=len(self.classes))
        return Row(
            data=self.data, condition=cell.condition, protocol=cell.protocol, rule=cell.rule,
            needs_labels=RULES[cell.rule].needs_labels, keep_target=cell.keep,
            kept=_share(kept), seed=self.seed, steps=self.plan.steps,
            accuracy=_rounded(recall @ support / support.sum()),
            worst_class_accuracy=_rounded(recall[support > 0].min()),
            bytes_seen=int(scene.sizes.sum()), bytes_kept=int(scene.sizes[kept].sum()),
            quarantined=aside,
            broken_kept=_share(kept[scene.broken]) if scene.broken.any() else None,
            scenes_kept=_rounded(len(np.unique(scene.scene[kept])) / len(np.unique(scene.scene))),
            stream=len(kept), tested=len(scene.test.y),
            seconds=round(time.perf_counter() - started, 1), plan=self.plan.id,
        )  # fmt: skip

    def _quarantined(self, cell: Cell) -> float:
        if cell.rule == DEFAULT or cell.rule.endswith("_band"):
            aside = [one.reason is Reason.QUALITY for one in self.stream.verdicts]
            return _share(np.array(aside))  # the quality range is the same at every share
        return 0.0

    def trained(self, x: Tensor, y: Array) -> nn.Module:
        """A new net, trained by the plan on inputs (n, h, w, C) and classes (n,)."""
        plan = self.plan
        recipe = Recipe(
            steps=plan.steps, batch=plan.batch, lr=plan.lr, shift=plan.shift, flip=plan.flip,
            seed=self.seed,
        )  # fmt: skip
        torch.manual_seed(self.seed)
        model = self._make().to(device())
        train(nn.Sequential(ChannelsFirst(), model), x, y, recipe)
        return model.cpu()

    def recall(self, model: nn.Module) -> Array:
        """Share of each class's test samples that is recognised, (C,); 0 for a class with none."""
        net = nn.Sequential(ChannelsFirst(), model).to(device())
        right = logits_of(net, self.inputs.test).argmax(axis=1) == self.scene.test.y
        model.cpu()
        counts = np.bincount(self.scene.test.y, minlength=len(self.classes))
        hits = np.bincount(self.scene.test.y[right], minlength=len(self.classes))
        return np.asarray(hits / np.maximum(counts, 1))


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _share(mask: Array) -> float:
    return _rounded(mask.mean())


def _rounded(value: float) -> float:
    return round(float(value), 4)
