"""The protocol ``day``: what rules store of a device's day, and what it is worth to a new net.

As in ``protocol``: a first model learned from two thirds of the labelled beginning, the gate is
fitted on the other third, every row of a seed is retrained from scratch in as many steps. Storage
is bytes: kept frames and those in quarantine. Labelling is samples: kept frames. What is kept comes
back with the label of its scene, broken frames too, which is what makes keeping them harmful.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from dripgate.bench.conditions import Part
from dripgate.bench.day import Day, day
from dripgate.bench.day_rules import FULL, MAIN, RULES, Stored, Task
from dripgate.bench.observe import Seen
from dripgate.bench.plan import Plan, plan_for
from dripgate.bench.protocol import Bench, First, alone, rounded
from dripgate.bench.rows import append, mend
from dripgate.errors import UserError
from dripgate.types import Array

FILE = "day.jsonl"
#: Shares of the day's bytes; the first with every rule.
SHARES = (0.1, 0.05, 0.02, 0.2)
FRAMES = 6000
#: Changes when the day or the protocol does, so that old rows are not taken for new ones.
_VERSION = 1
_OF_PLAN = (
    "net", "initial", "stream", "test", "steps", "batch", "lr", "flip", "shift", "size",
)  # fmt: skip


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one rule stored of a day, and what a net trained on it is worth.

    share: of the day's bytes that was asked for. bytes_stored: quarantine included. labels: kept
    frames, which somebody has to label. quarantined: frames. broken: kept ones that are, and
    broken_stored with those in quarantine. repeats: kept sound frames whose scene had been kept
    before. scenes_kept, classes_kept: with a sound frame kept, of ``scenes`` and all classes.
    worst_class_accuracy: the smallest recall of a class; new_class_accuracy: of that which came at
    noon. plan: changes with everything that a row depends on beside what is named here.
    """

    data: str
    rule: str
    share: float
    seed: int
    steps: int
    accuracy: float
    worst_class_accuracy: float
    new_class_accuracy: float
    bytes_day: int
    bytes_stored: int
    frames: int
    labels: int
    quarantined: int
    broken: int
    broken_stored: int
    repeats: int
    scenes: int
    scenes_kept: int
    classes_kept: int
    tested: int
    seconds: float
    plan: str

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it this row."""
        return (self.data, self.plan, self.seed, self.rule, self.share)


class Cell(NamedTuple):
    """One row to be made, but for data and seed."""

    rule: str
    share: float


def cells(rules: Sequence[str] = (), shares: Sequence[float] = ()) -> list[Cell]:
    """Every rule at every share, everything once; without any named, the rows of the table."""
    if rules or shares:
        rules = rules or (FULL, *MAIN)
        found = [Cell(rule, share) for share in shares or SHARES[:1] for rule in rules]
    else:
        found = [Cell(rule, SHARES[0]) for rule in RULES]
        found += [Cell(rule, share) for share in SHARES[1:] for rule in MAIN]
    return list(dict.fromkeys(c._replace(share=1.0) if c.rule == FULL else c for c in found))


def plan_of(data: str) -> Plan:
    """The benchmark's plan of a data set, with a day in the place of its stream."""
    plan = plan_for(data)
    # From three initialisations LeNet ends 3.0 points apart at a rate of 0.05, 0.4 at 0.015.
    lr = 0.015 if data == "mnist" else plan.lr
    return plan if data == "digits" else msgspec.structs.replace(plan, stream=FRAMES, lr=lr)


def plan_id(plan: Plan) -> str:
    """Eight hex digits that change with what a row depends on of the plan, and the protocol."""
    asked = {name: getattr(plan, name) for name in _OF_PLAN}
    return hashlib.sha256(msgspec.json.encode((_VERSION, asked))).hexdigest()[:8]


def bench(
    names: Sequence[str], out: Path, *, seeds: Sequence[int], wanted: Sequence[Cell],
    log: Callable[[str], object],
) -> list[Row]:  # fmt: skip
    """Make the rows that ``out``/day.jsonl does not hold; returns all that were asked for.

    Raises DataError for data that cannot be used, and UserError for rows of another plan.
    """
    path = out / FILE
    rows = mend(path, Row)
    plans = {name: plan_id(plan_of(name)) for name in names}
    if strange := [row.data for row in rows if plans.get(row.data, row.plan) != row.plan]:
        raise UserError(
            f"{path} holds rows of {strange[0]} by another plan (that of another dripgate); choose "
            "another folder for --out"
        )
    asked = [(name, plans[name], seed, *c) for name in names for seed in seeds for c in wanted]
    for seed in seeds:
        for name in names:
            done = {row.key for row in rows}
            left = [c for c in wanted if (name, plans[name], seed, *c) not in done]
            log(f"{name}, seed {seed}: {len(left)} rows to make")
            if left:
                with alone():
                    for number, row in enumerate(_rows(name, seed, left), 1):
                        append(path, row)
                        rows.append(row)
                        log(f"[{number}/{len(left)}] {_described(row)}")
    return [row for row in rows if row.key in asked]


def _rows(name: str, seed: int, wanted: Sequence[Cell]) -> Iterator[Row]:
    trial = Trial(name, seed)
    return (trial.row(cell) for cell in wanted)


class Trial:
    """A day and the model that meets it: rules decide, nets are retrained and tested."""

    def __init__(self, data: str, seed: int) -> None:
        self.bench = Bench(data, plan_of(data), seed)
        plan, tested = self.bench.plan, self.bench.parts[2]
        self.day: Day = day(
            self.bench.dataset, Part(tested.x, tested.y), plan.initial, plan.stream, seed
        )
        self.first = First(self.bench, self.day.initial)
        self.stream = Seen(self.first, self.day.x)

    @cached_property
    def _inputs(self) -> torch.Tensor:
        return self.first.prepared(self.day.x)

    @cached_property
    def _test(self) -> torch.Tensor:
        return self.first.prepared(self.day.test.x)

    def task(self, share: float) -> Task:
        """What a rule is given."""
        found = self.day
        return Task(
            calibration=self.first.calibration, stream=self.stream, payloads=found.payloads,
            sizes=found.sizes, times=found.times, frames=len(found.sizes), share=share,
            budget=int(share * found.sizes.sum()), seed=self.bench.seed,
        )  # fmt: skip

    def row(self, cell: Cell) -> Row:
        """Decide, retrain from scratch, test."""
        started = time.perf_counter()
        stored = RULES[cell.rule](self.task(cell.share))
        recall = self._recall(stored.kept)
        support = np.bincount(self.day.test.y, minlength=len(recall))
        return Row(
            data=self.bench.data, rule=cell.rule, share=cell.share, seed=self.bench.seed,
            steps=self.bench.plan.steps, accuracy=rounded(recall @ support / support.sum()),
            worst_class_accuracy=rounded(recall[support > 0].min()),
            new_class_accuracy=rounded(recall[self.day.new]),
            **_counts(self.day, stored), frames=len(self.day.sizes), tested=len(self.day.test.y),
            bytes_day=int(self.day.sizes.sum()), seconds=round(time.perf_counter() - started, 1),
            plan=plan_id(self.bench.plan),
        )  # fmt: skip

    def _recall(self, kept: Array) -> Array:
        """Share of each class's test samples that a net knows after the beginning and these."""
        x = torch.cat([self.first.inputs, self._inputs[np.flatnonzero(kept)]])
        y = np.concatenate([self.day.initial.y, self.day.y[kept]])
        return self.first.recall(x, y, self._test, self.day.test.y)


def _counts(day: Day, stored: Stored) -> dict[str, int]:
    kept, both = stored.kept, stored.kept | stored.quarantined
    sound = kept & ~day.broken
    scenes = len(np.unique(day.scene[sound]))
    return {
        "bytes_stored": int(day.sizes[both].sum()), "labels": int(kept.sum()),
        "quarantined": int(stored.quarantined.sum()), "broken": int(day.broken[kept].sum()),
        "broken_stored": int(day.broken[both].sum()), "repeats": int(sound.sum()) - scenes,
        "scenes": len(np.unique(day.scene[~day.broken])), "scenes_kept": scenes,
        "classes_kept": len(np.unique(day.y[sound])),
    }  # fmt: skip


def _described(row: Row) -> str:
    return (
        f"{row.data} seed {row.seed} {row.rule} {row.share:.0%}: stored "
        f"{row.bytes_stored / row.bytes_day:.1%} of the bytes, {row.labels} to label, "
        f"{row.broken} broken, {row.scenes_kept} of {row.scenes} scenes, accuracy "
        f"{row.accuracy:.1%} (worst class {row.worst_class_accuracy:.1%}), {row.seconds:.0f} s"
    )
