"""What ``keep="auto"`` chooses, and what that costs: docs/results/auto.jsonl and auto.md.

For each of the benchmark's data sets and seeds the first model and its gate are made again, by the
small table's plan and with four times the steps. The loss at the share that each candidate chooses
is interpolated between the committed rows of the same seed (docs/results/bench.jsonl, longer/), so
nothing is retrained. What is finished is not made again. Run it by ``make bench-auto``.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from torch import nn

from dripgate.bench.plan import plan_for
from dripgate.bench.protocol import Bench, alone
from dripgate.bench.rows import Row, append, mend, read
from dripgate.bench.rules import DEFAULT
from dripgate.bench.tables import Mean, head, line
from dripgate.files import write_whole
from dripgate.fitting import scarcity, thresholds
from dripgate.fitting.probe import exponents
from dripgate.fitting.thresholds import ALLOWED, GRID, NEARLY_ALL, Observed
from dripgate.training.classifier import ChannelsFirst
from dripgate.training.train import logits_of

RESULTS = Path(__file__).parents[1] / "docs" / "results"
DATA = ("mnist", "cifar10", "plantvillage", "speechcommands")
#: Committed rows by training: the table's own, and four times the steps.
TRAININGS = {"short": RESULTS / "bench.jsonl", "long": RESULTS / "longer" / "bench.jsonl"}
#: Candidates: how the exponent is had (None: fixed), and what counts of the lead on random.
CANDIDATES = {"probe": 0.5, "probe, whole lead": 1.0, "fixed": 0.5}
FIXED = 0.5


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One first model. error: of n held-out samples. test_error: of the test part.

    probe, net: exponents b of error ∝ samples^-b; the net's from the first model's test error and
    that of a net trained on everything. keeps: share that each candidate chooses. losses: accuracy
    at that share minus everything's.
    """

    data: str
    training: str
    seed: int
    n: int
    error: float
    test_error: float
    probe: float
    net: float
    keeps: dict[str, float]
    losses: dict[str, float]


def committed(training: str, data: str, seed: int) -> tuple[list[Row], Row]:
    """Rows of the default rule, and that of everything."""
    rows = [
        row for row in read(TRAININGS[training], Row)
        if (row.data, row.seed, row.condition, row.protocol) == (data, seed, "clean", "retrain")
    ]  # fmt: skip
    (full,) = (row for row in rows if row.rule == "full")
    return [row for row in rows if row.rule == DEFAULT], full


def loss_at(keep: float, rows: list[Row], full: Row) -> float:
    """Accuracy minus everything's, along straight lines between the rows."""
    points = sorted([(row.kept, row.accuracy - full.accuracy) for row in rows] + [(1.0, 0.0)])
    return float(np.interp(keep, *zip(*points, strict=True)))


def chosen(seen: Observed, candidate: str, seed: int) -> float:
    """What a candidate keeps."""
    signal = np.max([band.shares(seen) for band in thresholds._bands()], axis=0)
    wrong, n = int((seen.predicted != seen.labels).sum()), len(seen.labels)
    falls = exponents(seen.features, seen.labels, seed)
    if candidate == "fixed":
        falls = np.full(1, FIXED / scarcity.NET)
    counted, scarcity.COUNTED = scarcity.COUNTED, CANDIDATES[candidate]
    effective = 1 / float((seen.signal**2).sum())
    _, upper = scarcity.loss(wrong, n, GRID, signal, effective, falls, seed)
    scarcity.COUNTED = counted
    dear = np.flatnonzero(upper > ALLOWED)
    keep = float(GRID[dear[-1] + 1]) if len(dear) else float(GRID[0])
    return 1.0 if keep > NEARLY_ALL else max(keep, thresholds._break_even(signal, n))


def choice(
    data: str, training: str, seed: int, seen: Observed, learned: int, test_error: float
) -> Choice:  # fmt: skip
    """What the candidates make of a first model that ``learned`` so many samples."""
    rows, full = committed(training, data, seed)
    (before,) = (row.kept for row in rows if row.keep_target == "auto")
    keeps = {"break-even": before} | {name: chosen(seen, name, seed) for name in CANDIDATES}
    samples = full.stream + learned * 3 / 2
    return Choice(
        data=data, training=training, seed=seed, n=len(seen.labels), test_error=test_error,
        error=float((seen.predicted != seen.labels).mean()),
        probe=float(exponents(seen.features, seen.labels, seed).mean()),
        net=float(np.log(test_error / (1 - full.accuracy)) / np.log(samples / learned)),
        keeps=keeps, losses={name: loss_at(keep, rows, full) for name, keep in keeps.items()},
    )  # fmt: skip


def made(training: str, data: str, seed: int) -> Choice:
    """Train a first model, fit its gate, ask the candidates."""
    (steps,) = {row.steps for row in read(TRAININGS[training], Row) if row.data == data}
    with alone():
        bench = Bench(data, plan_for(data, "quick", steps), seed)
        trial = bench.under("clean")
        first = trial.first
        seen = first.calibration.observed("loss_mean", first.initial.y[first.held_out])
        net = nn.Sequential(ChannelsFirst(), first.classifier.model)
        right = logits_of(net, trial._test).argmax(axis=1) == trial.scene.test.y
    return choice(data, training, seed, seen, len(first.learned), 1 - float(right.mean()))


def page(rows: list[Choice]) -> Iterator[str]:
    """The table."""
    names = ("break-even", *CANDIDATES)
    yield "# What `auto` chooses, and what that costs\n"
    yield (
        "Means over seeds: kept, and accuracy minus everything's in points with its 95 % interval, "
        "interpolated between the benchmark's rows of the same seed. `probe` is the default.\n"
    )
    yield from head("data", "training", "seeds", "error", "b, probe × 2", "b, net", *names)
    for training in TRAININGS:
        for data in DATA:
            found = [row for row in rows if (row.data, row.training) == (data, training)]
            if found:
                told = [
                    f"{Mean.of(row.keeps[name] for row in found).value:.0%}: "
                    + Mean.of(row.losses[name] for row in found).points("+")
                    for name in names
                ]
                error, probe, net = (
                    Mean.of(getattr(row, field) for row in found).value
                    for field in ("error", "probe", "net")
                )
                yield line(data, training, f"{len(found)}", f"{error:.0%}",
                           f"{scarcity.NET * probe:.2f}", f"{net:.2f}", *told)  # fmt: skip


def main() -> None:
    """Make the rows that are not there, then the page."""
    path = RESULTS / "auto.jsonl"
    rows = mend(path, Choice)
    done = {(row.training, row.data, row.seed) for row in rows}
    for training in TRAININGS:
        for seed in range(3):
            for data in DATA:
                if (training, data, seed) not in done:
                    row = made(training, data, seed)
                    append(path, row)
                    rows.append(row)
                    print(row, flush=True)
    write_whole(RESULTS / "auto.md", ("\n".join(page(rows)) + "\n").encode())


if __name__ == "__main__":
    main()
