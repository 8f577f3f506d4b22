"""The protocol ``adapt``: what the head learns on the device, beside before and a full retraining.

A first model meets a stream; a rule keeps a part, all of which is labelled; then the head learns
from that as ``dripgate.adapt`` does, or a net is retrained from scratch on the initial part and
what was kept, in as many steps as the first. All are tested on the same part, which has met what
the stream met. The cost is processor time on one thread, and the peak memory of a process that
does nothing else.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import torch
from torch import nn

from dripgate.adapting.check import PULLS, examples_of, judge
from dripgate.adapting.solve import PULL_ALONE, Examples, Problem, logits, solve
from dripgate.bench.conditions import OTHER_BEGINNING, Condition, Scene, arrange
from dripgate.bench.observe import Seen
from dripgate.bench.plan import QUICK, Plan
from dripgate.bench.protocol import Bench, First, Trial, alone
from dripgate.bench.rows import append, mend
from dripgate.bench.rules import RULES
from dripgate.errors import DripgateError
from dripgate.gate_tensors import Linear, read_linear, read_memory
from dripgate.training.classifier import ChannelsFirst
from dripgate.training.train import logits_of
from dripgate.types import Array

Stream = Literal["clean", "drift", "sensor", "new_class"]
Method = Literal["before", "head", "head_alone", "retrain"]
STREAMS: tuple[Stream, ...] = ("clean", "drift", "sensor", "new_class")
KEEPS = (0.05, 0.2)
WHO = ("random", "margin", "dripgate")
#: What a net is retrained on, too: most of the time goes there.
RETRAINED = (("random", 0.2), ("dripgate", 0.2), ("all", 1.0))
#: A random fifth, without any label of one class.
WITHOUT = ("random_but_one_class", 0.2)
FILE = "adapt.jsonl"


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One head or net. rule: who kept; "all" is everything. method: before, head (with the gate's
    memory), head_alone (without), retrain (torch, from scratch). worst: the smallest recall of a
    class. absent: recall of the class that the rule random_but_one_class keeps nothing of. seconds:
    of processor time for learning. peak_mb: of a process that learns this and nothing else, where
    it was measured.
    """

    data: str
    stream: str
    rule: str
    keep: float
    method: str
    seed: int
    labels: int
    accuracy: float
    worst: float
    absent: float
    seconds: float
    tested: int
    pull: float | None = None
    peak_mb: float | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it this row."""
        return (self.data, self.stream, self.rule, self.keep, self.method, self.seed)


class Cell(NamedTuple):
    """A row to be made, but for data and seed."""

    stream: Stream
    rule: str
    keep: float
    method: Method


def cells() -> Iterator[Cell]:
    """All rows of a data set and a seed."""
    for stream in STREAMS:
        yield Cell(stream, "none", 0.0, "before")
        kept = [(rule, keep) for keep in KEEPS for rule in WHO] + [("all", 1.0)]
        for rule, keep in [*kept, WITHOUT]:
            yield Cell(stream, rule, keep, "head")
            yield Cell(stream, rule, keep, "head_alone")
            if (rule, keep) in RETRAINED:
                yield Cell(stream, rule, keep, "retrain")


def plan_of(data: str) -> Plan:
    """The benchmark's plan of a data set, made small: 1,200 initial samples and 2,000 that come."""
    plan = QUICK.get(data) or msgspec.structs.replace(QUICK["cifar10"], flip=False)
    steps = {"mnist": 250, "digits": 60}.get(data, 160)
    return msgspec.structs.replace(plan, initial=1200, stream=2000, test=1500, steps=steps)


def bench(
    names: Sequence[str], out: Path, *, seeds: Sequence[int], log: Callable[[str], object]
) -> list[Row]:
    """Make the rows that ``out``/adapt.jsonl does not hold; returns all that were asked for.

    Raises DataError for data that cannot be used, and for a file that holds something else.
    """
    path = out / FILE
    rows = mend(path, Row)
    done = {row.key for row in rows}
    for seed in seeds:
        for name in names:
            left = [c for c in cells() if (name, *c, seed) not in done]
            if not left:
                continue
            log(f"{name}, seed {seed}: {len(left)} rows")
            with alone():
                for row in _Job(name, seed).rows(left):
                    append(path, row)
                    rows.append(row)
    return [row for row in rows if row.data in names and row.seed in seeds]


class _Job:
    """A data set and a seed."""

    def __init__(self, data: str, seed: int) -> None:
        self.bench = Bench(data, plan_of(data), seed)

    def rows(self, wanted: Sequence[Cell]) -> Iterator[Row]:
        """In the order that is asked for."""
        for stream in STREAMS:
            mine = [cell for cell in wanted if cell.stream == stream]
            if mine:
                world = _World(self.bench, stream)
                yield from (world.row(cell) for cell in mine)


class _World:
    """A stream, the gate that meets it, and what is learned from it."""

    def __init__(self, bench: Bench, stream: Stream) -> None:
        self.bench, self.stream = bench, stream
        condition: Condition = "clean" if stream == "sensor" else stream
        scene = arrange(condition, *bench.parts, bench.seed)
        if stream == "sensor":
            scene = other_sensor(scene, bench.seed)
        if condition in OTHER_BEGINNING:
            self.trial = Trial(bench, scene, First(bench, scene.initial))
        else:
            self.trial = Trial(bench, scene, bench.under("clean").first)
        self.gate = self.trial.first.gate

    @cached_property
    def _features(self) -> tuple[Array, Array]:
        return tuple(_features(seen) for seen in (self.trial.stream, self._tested))  # type: ignore[return-value]

    @cached_property
    def _tested(self) -> Seen:
        return Seen(self.trial.first, self.trial.scene.test.x)

    @property
    def _absent(self) -> int:
        return self.bench.seed % len(self.bench.dataset.classes)

    def kept(self, cell: Cell) -> Array:
        """Rows of the stream."""
        n = len(self.trial.scene.stream.y)
        if cell.rule in ("all", "none"):
            return np.arange(n if cell.rule == "all" else 0)
        if cell.rule == WITHOUT[0]:
            rows = self.kept(cell._replace(rule="random"))
            return np.asarray(rows[self.trial.scene.stream.y[rows] != self._absent])
        return np.asarray(np.flatnonzero(RULES[cell.rule].choose(self.trial.task(cell.keep))))

    def row(self, cell: Cell) -> Row:
        """Learn and test."""
        rows, truth = self.kept(cell), self.trial.scene.test.y
        pull: float | None = None
        started = time.process_time()
        if cell.method == "retrain":
            said, seconds = self._retrained(rows)
        else:
            head, pull = self._head(cell, rows)
            seconds = time.process_time() - started
            said = logits(head, self._features[1])
        right = said.argmax(axis=1) == truth
        recall = {c: float(right[truth == c].mean()) for c in np.unique(truth).tolist()}
        return Row(
            data=self.bench.data, stream=cell.stream, rule=cell.rule, keep=cell.keep,
            method=cell.method, seed=self.bench.seed, labels=len(rows),
            accuracy=round(float(right.mean()), 4), worst=round(min(recall.values()), 4),
            absent=round(recall.get(self._absent, 0.0), 4),
            seconds=round(seconds, 3), tested=len(truth), pull=pull,
            peak_mb=self._peak(cell, rows),
        )  # fmt: skip

    def _head(self, cell: Cell, rows: Array) -> tuple[Linear, float | None]:
        gate, info = self.gate, self.gate.info
        start = read_linear(gate.data, info, gate.name)
        if cell.method == "before":
            return start, None
        memory = read_memory(gate.data, info, gate.name) if cell.method == "head" else None
        examples = self._examples(rows)
        beside = examples_of(info.memory, memory, start.weight.shape[1], examples.classes)
        return learned(start, examples, beside, info.last.scale2 if info.last else 1.0)

    def _examples(self, rows: Array) -> Examples:
        return Examples(
            self._features[0][rows], self.trial.scene.returned[rows], np.ones(len(rows))
        )

    def _retrained(self, rows: Array) -> tuple[Array, float]:
        first, scene = self.trial.first, self.trial.scene
        x = torch.cat([first.inputs, first.prepared(scene.stream.x[rows])])
        y = np.concatenate([first.initial.y, scene.returned[rows]])
        started = time.process_time()
        net = nn.Sequential(ChannelsFirst(), first.trained(x, y))
        seconds = time.process_time() - started
        return logits_of(net, first.prepared(scene.test.x)), seconds

    def _peak(self, cell: Cell, rows: Array) -> float | None:
        """Measured once for a data set: of other seeds and streams it is the same."""
        if (cell.stream, cell.rule, cell.keep, self.bench.seed) != ("drift", "random", 0.2, 0):
            return None
        if cell.method == "head":
            start = read_linear(self.gate.data, self.gate.info, self.gate.name)
            given = {"x": self._features[0][rows], "y": self.trial.scene.returned[rows],
                     "weight": start.weight, "bias": start.bias}  # fmt: skip
            return _peak_of(_HEAD, given, self.bench)
        if cell.method == "retrain":
            first = self.trial.first
            x = torch.cat([first.inputs, first.prepared(self.trial.scene.stream.x[rows])])
            y = np.concatenate([first.initial.y, self.trial.scene.returned[rows]])
            return _peak_of(_NET, {"x": x.numpy(), "y": y}, self.bench)
        return None


def learned(
    start: Linear, examples: Examples, beside: Examples, scale2: float
) -> tuple[Linear, float]:
    """The head as ``dripgate.adapt`` makes it, folds by turns, and its pull."""
    problem = Problem(start, "softmax", scale2, PULL_ALONE, len(start.bias))
    pulls = PULLS if len(beside.classes) else tuple(p for p in PULLS if p >= PULL_ALONE)
    folds = np.arange(len(examples.classes)) % 5
    pull = judge(problem, examples, folds, beside, pulls).pull
    return solve(problem._replace(pull=pull), examples.and_(beside)), pull


def _features(seen: Seen) -> Array:
    starts = range(0, len(seen.x), 256)
    return np.concatenate([seen.gate(seen.x[i : i + 256]).features for i in starts])


def other_sensor(scene: Scene, seed: int) -> Scene:
    """Another camera or microphone: darker, colder and noisy; or dull, quiet and noisy."""
    rng = np.random.default_rng([seed, 23])
    return replace(
        scene, stream=replace(scene.stream, x=_sensed(scene.stream.x, rng)),
        test=replace(scene.test, x=_sensed(scene.test.x, rng)),
    )  # fmt: skip


def _sensed(x: Array, rng: np.random.Generator) -> Array:
    made = np.empty_like(x)
    for i, one in enumerate(x):
        if one.ndim == 1:
            dull = np.convolve(one, np.ones(4) / 4, "same")
            noise = rng.normal(0, 0.15 * max(float(dull.std()), 1.0), one.shape)
            made[i] = np.clip(np.round(0.5 * (dull + noise)), -32768, 32767)
        else:
            cast = np.array([0.55, 0.65, 0.8])[: one.shape[-1]] if one.shape[-1] == 3 else 0.6
            made[i] = np.clip(np.round(one * cast + 10 + rng.normal(0, 12, one.shape)), 0, 255)
    return made


# Peak memory, in a process of its own -----------------------------------------------------------

_END = """
from pathlib import Path
status = Path("/proc/self/status").read_text()  # getrusage would give the parent's peak
print(json.dumps(int(status.split("VmHWM:")[1].split()[0]) / 1024))
"""
_HEAD = """
import json, sys
import numpy as np
from dripgate.adapting.check import PULLS, judge
from dripgate.adapting.solve import Examples, Problem, solve
from dripgate.gate_tensors import Linear
given = np.load(sys.argv[1])
n, start = len(given["y"]), Linear(given["weight"], given["bias"])
examples = Examples(given["x"], given["y"], np.ones(n))
none = examples.take(np.arange(0))
problem = Problem(start, "softmax", float(np.mean(given["x"] ** 2)), 10.0, len(start.bias))
solve(problem._replace(pull=judge(problem, examples, np.arange(n) % 5, none, PULLS).pull), examples)
"""
_NET = """
import json, sys
import numpy as np, torch
from torch import nn
from dripgate.bench.nets import NETS
from dripgate.training.classifier import ChannelsFirst
from dripgate.training.train import Recipe, train
torch.set_num_threads(1)
given = np.load(sys.argv[1])
x = torch.from_numpy(given["x"])
net = NETS[sys.argv[2]]((x.shape[3], x.shape[1], x.shape[2]), int(given["y"].max()) + 1)
train(nn.Sequential(ChannelsFirst(), net), x, given["y"], Recipe(steps=30, batch=int(sys.argv[3])))
"""


def _peak_of(code: str, given: dict[str, Array], bench: Bench) -> float:
    """Megabytes that a fresh process has at most, interpreter and libraries included."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "given.npz"
        np.savez(path, **given)  # type: ignore[arg-type]
        done = subprocess.run(  # noqa: S603 - our own code
            [sys.executable, "-c", code + _END, str(path), bench.plan.net, str(bench.plan.batch)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise DripgateError(f"measuring memory failed: {done.stderr.strip().splitlines()[-1]}")
    return round(float(json.loads(done.stdout)), 1)
