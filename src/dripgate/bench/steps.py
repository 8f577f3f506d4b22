"""How many steps are enough: until a quarter more of them gives less than 0.3 points."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from dripgate.bench.plan import Cell, Plan
from dripgate.bench.protocol import Job
from dripgate.bench.rows import Row, append, key_of, mend
from dripgate.bench.run import Log, described, made

FILE = "steps.jsonl"
MORE, WORTH = 1.25, 0.003
_FULL = Cell("clean", "retrain", "full", 1.0)


def enough(
    name: str, plan: Plan, out: Path, *, seeds: Sequence[int], most: int,
    workers: int | None = None, log: Log | None = None,
) -> int | None:  # fmt: skip
    """The fewest steps, of the plan's times 1.25, 1.25² …, that a quarter more hardly betters.

    Everything is kept. Better is the mean over ``seeds``. Rows are appended to ``out``/steps.jsonl;
    those that are there are not made again. None where ``most`` steps are not enough.
    """
    log = log or (lambda _: None)
    steps, before = plan.steps, None
    while steps <= most:
        longer = msgspec.structs.replace(plan, steps=steps)
        accuracy = _accuracy(name, longer, out, seeds, workers, log)
        if before is not None:
            gain = accuracy - before[1]
            log(f"{name}: {steps} steps in place of {before[0]} give {100 * gain:+.2f} points")
            if gain < WORTH:
                return before[0]
        before = steps, accuracy
        steps = round(MORE * steps)
    return None


def _accuracy(
    name: str, plan: Plan, out: Path, seeds: Sequence[int], workers: int | None, log: Log
) -> float:  # fmt: skip
    path = out / FILE
    keys = [key_of(name, plan.id, seed, *_FULL) for seed in seeds]
    found = {row.key: row.accuracy for row in mend(path, Row)}
    todo = [
        Job(name, plan, seed, [_FULL]) for seed, key in zip(seeds, keys, strict=True)
        if key not in found
    ]  # fmt: skip
    for row in made(todo, workers if len(todo) > 1 else 1):
        append(path, row)
        found[row.key] = row.accuracy
        log(described(row))
    return float(np.mean([found[key] for key in keys]))
