"""Which memory lets a head forget least, and what a class without labels loses.

Run it by `make bench-memory`: rows in docs/results/memory.jsonl, and the tables of docs/adapt.md on
standard output. First models, streams and sizes are those of `dripgate bench adapt`. What is
there already is not made again. DATA and SEEDS narrow it down, OUT is another file.

*forms*: the head learns from LABELS random labels of the stream and from a memory, DRAWS times.
*absent*: from MANY random labels without any of one class, each class once; its recall.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

import msgspec
import numpy as np

from dripgate.adapting.check import DRAWN, PULLS, examples_of
from dripgate.adapting.memory import Form, draw, remember, weights
from dripgate.adapting.solve import Examples, Problem, logits, solve
from dripgate.bench.adapting import learned, other_sensor, plan_of
from dripgate.bench.conditions import Scene, arrange
from dripgate.bench.protocol import Bench, First, alone
from dripgate.bench.rows import append, mend
from dripgate.bench.tables import Mean
from dripgate.gate_tensors import Linear, read_linear
from dripgate.types import Array

OUT = Path(__file__).parents[1] / "docs" / "results" / "memory.jsonl"
DATA, SEEDS = "cifar10 speechcommands mnist", 3
STREAMS = ("clean", "drift", "sensor")
LABELS, DRAWS, MANY = 60, 6, 600
#: The weakest pull that ``adapt`` tries: there a memory has most to do.
WEAK = PULLS[0]
#: What ``fit`` puts into a gate, and the head learns from.
MEANS = "class means"


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A form of memory. part: forms or absent. size: bytes. before, weak, chosen: accuracy on the
    test part (of absent: recall of the class without labels) by the deployed head, and by one that
    learned with the pull WEAK, or with the one that ``adapt`` chooses: means over draws or classes.
    """

    data: str
    stream: str
    seed: int
    part: str
    form: str
    size: int
    before: float
    weak: float
    chosen: float


def main() -> None:
    """Make what is missing, print the tables."""
    out = Path(os.environ.get("OUT", OUT))
    rows = mend(out, Row)
    done = {(row.data, row.seed) for row in rows}
    with alone():
        for seed in range(int(os.environ.get("SEEDS", SEEDS))):
            for data in os.environ.get("DATA", DATA).split():
                if (data, seed) not in done:
                    for row in list(_rows(data, seed)):  # all of a seed, or none
                        append(out, row)
                        rows.append(row)
    print("\n".join(tables(rows)))


def _rows(data: str, seed: int) -> Iterator[Row]:
    bench = Bench(data, plan_of(data), seed)
    scene = arrange("clean", *bench.parts, seed)
    first = First(bench, scene.initial)
    for stream in STREAMS:
        if stream == "sensor":
            seen = other_sensor(scene, seed)
        else:
            seen = scene if stream == "clean" else arrange("drift", *bench.parts, seed)
        world = _World(first, seen)
        yield from world.rows(data, stream)


class _World:
    """A deployed head, a stream, and what is remembered of the beginning."""

    def __init__(self, first: First, scene: Scene) -> None:
        gate, self.seed = first.gate, first.bench.seed
        self.start = read_linear(gate.data, gate.info, gate.name)
        self.scale2 = gate.info.last.scale2 if gate.info.last else 1.0
        self.calibration = _features(first, first.calibration.x)
        self.truth = first.initial.y[first.held_out]
        self.came = Examples(_features(first, scene.stream.x), scene.returned, np.ones(0))
        self.test, self.tested = _features(first, scene.test.x), scene.test.y

    def rows(self, data: str, stream: str) -> Iterator[Row]:
        """Of both parts."""
        chosen = [self._random(LABELS, turn) for turn in range(DRAWS)]
        before = self._right(self.start).mean()
        for form, (size, beside) in self._forms().items():
            found = [self._learned(rows, beside) for rows in chosen]
            yield self._row(data, stream, "forms", form, size, before, [
                tuple(self._right(head).mean() for head in heads) for heads in found
            ])  # fmt: skip
        rows, classes = self._random(MANY, DRAWS), range(len(self.start.bias))
        recalls = [self._recall(self.start, c) for c in classes]
        for form, (size, beside) in self._absent().items():
            yield self._row(data, stream, "absent", form, size, fmean(recalls), [
                tuple(self._recall(head, c) for head in self._learned(
                    rows[self.came.classes[rows] != c], beside
                )) for c in classes
            ])  # fmt: skip

    def _row(
        self, data: str, stream: str, part: str, form: str, size: int, before: float,
        found: list[tuple[float, ...]],
    ) -> Row:  # fmt: skip
        weak, chosen = (round(fmean(values), 4) for values in zip(*found, strict=True))
        return Row(
            data=data, stream=stream, seed=self.seed, part=part, form=form, size=int(size),
            before=round(float(before), 4), weak=weak, chosen=chosen,
        )  # fmt: skip

    def _random(self, n: int, turn: int) -> Array:
        rng = np.random.default_rng([self.seed, 31, turn])
        return rng.permutation(len(self.came.classes))[:n]

    def _right(self, head: Linear) -> Array:
        return np.asarray(logits(head, self.test).argmax(axis=1) == self.tested)

    def _recall(self, head: Linear, of: int) -> float:
        return float(self._right(head)[self.tested == of].mean())

    def _learned(self, rows: Array, beside: "_Beside") -> tuple[Linear, Linear]:
        """With the pull WEAK, and with the one that ``adapt`` chooses."""
        labels = Examples(self.came.features[rows], self.came.classes[rows], np.ones(len(rows)))
        more = beside(labels.classes)
        problem = Problem(self.start, "softmax", self.scale2, WEAK, len(self.start.bias))
        return (
            solve(problem, labels.and_(more)), learned(self.start, labels, more, self.scale2)[0]
        )  # fmt: skip

    # Forms of memory ----------------------------------------------------------------------------

    def _forms(self) -> dict[str, tuple[int, "_Beside"]]:
        """Bytes, and what is learned from beside labels, of everything that was thought of."""
        counts = np.bincount(self.truth, minlength=len(self.start.bias))
        groups = {c: self.calibration[self.truth == c] for c in np.flatnonzero(counts)}
        width, known = self.calibration.shape[1], len(groups)
        common = sum(np.cov(g.T, bias=True) * len(g) for g in groups.values()) / len(self.truth)
        made: dict[str, tuple[int, _Beside]] = {
            "none": (0, self._gated("none")),
            MEANS: (2 * known * width, self._gated("stats")),
            "means and standard deviations, 50 drawn a class": (
                4 * known * width, _always(self._drawn(counts))
            ),
            "means and one common covariance, 50 drawn a class": (
                2 * known * width + width * (width + 1), _always(self._normal(groups, common))
            ),
            "means and a covariance each, 50 drawn a class": (
                known * (2 * width + width * (width + 1)), _always(self._normal(groups, None))
            ),
        }  # fmt: skip
        for each in (10, 50):
            kept = sum(min(each, n) for n in counts)
            made[f"{each} vectors a class"] = (2 * kept * width, self._gated(each))
            made[f"{each} vectors a class, that count for all"] = (
                2 * kept * width,
                _always(self._for_all(each, counts)),
            )
        everything = Examples(self.calibration, self.truth, np.ones(len(self.truth)))
        made["all feature vectors, float32"] = (self.calibration.nbytes, _always(everything))
        return made

    def _absent(self) -> dict[str, tuple[int, "_Beside"]]:
        """Without a memory, with class means as they are, and counted more for who has no label."""
        about, memory = remember(
            self.calibration, self.truth, len(self.start.bias), "stats", self.seed
        ) or (None, None)
        assert about is not None  # noqa: S101 - there is a calibration
        assert memory is not None  # noqa: S101
        plain = Examples(
            memory.features.astype(np.float32), memory.classes.astype(int), weights(about, memory)
        )
        size = memory.features.nbytes
        return {
            "none": (0, self._gated("none")), "plain": (size, _always(plain)),
            "as it is": (size, self._gated("stats")),
        }  # fmt: skip

    def _gated(self, form: Form) -> "_Beside":
        """As ``adapt`` learns from what ``fit --memory`` puts into a gate."""
        classes = len(self.start.bias)
        made = remember(self.calibration, self.truth, classes, form, self.seed) or (None, None)
        return lambda labelled: examples_of(*made, self.calibration.shape[1], labelled)

    def _drawn(self, counts: Array) -> Examples:
        _, memory = remember(
            self.calibration, self.truth, len(self.start.bias), "stats", self.seed
        ) or (None, None)
        assert memory is not None  # noqa: S101 - there is a calibration
        features, classes = draw(memory, DRAWN, self.seed)
        return Examples(features, classes.astype(int), counts[classes] / DRAWN)

    def _normal(self, groups: dict[int, Array], common: Array | None) -> Examples:
        rng, parts = np.random.default_rng([self.seed, 32]), []
        for c, group in groups.items():
            spread = np.cov(group.T, bias=True) if common is None else common
            drawn = rng.multivariate_normal(group.mean(axis=0), spread, DRAWN, method="eigh")
            positive = np.maximum(drawn, 0) if (self.calibration >= 0).all() else drawn
            parts.append(Examples(
                positive.astype(np.float32), np.full(DRAWN, c), np.full(DRAWN, len(group) / DRAWN)
            ))  # fmt: skip
        return _joined(parts)

    def _for_all(self, each: int, counts: Array) -> Examples:
        """So few vectors, each of which stands for its share of its class."""
        _, memory = remember(
            self.calibration, self.truth, len(self.start.bias), each, self.seed
        ) or (None, None)
        assert memory is not None  # noqa: S101 - there is a calibration
        classes = memory.classes.astype(int)
        there = np.bincount(classes, minlength=len(counts))
        return Examples(memory.features.astype(np.float32), classes, (counts / there)[classes])


_Beside = Callable[[Array], Examples]


def _always(examples: Examples) -> _Beside:
    return lambda _: examples


def _joined(parts: list[Examples]) -> Examples:
    found = parts[0]
    for part in parts[1:]:
        found = found.and_(part)
    return found


def _features(first: First, x: Array) -> Array:
    return np.concatenate([first.gate(x[i : i + 256]).features for i in range(0, len(x), 256)])


# Tables -----------------------------------------------------------------------------------------


def tables(rows: list[Row]) -> Iterator[str]:
    """The tables of docs/adapt.md: gains over the deployed head by form, recalls without labels."""
    yield "| memory | kB | clean | changed | all, less class means | pull chosen, all |"
    yield "|---|---|---|---|---|---|"
    forms = [row for row in rows if row.part == "forms"]
    for form in dict.fromkeys(row.form for row in forms):
        mine = [row for row in forms if row.form == form]
        size = fmean(row.size for row in mine if row.data == mine[0].data) / 1e3
        clean = [row for row in mine if row.stream == "clean"]
        changed = [row for row in mine if row.stream != "clean"]
        cells = [_gain(clean, "weak"), _gain(changed, "weak")]
        cells += [_gain(mine, "weak", MEANS, rows), _gain(mine, "chosen")]
        yield f"| {form} | {size:.1f} | {' | '.join(cells)} |"
    yield ""
    yield "| stream | before | without a memory | plain | as it is |"
    yield "|---|---|---|---|---|"
    for data, stream in dict.fromkeys((row.data, row.stream) for row in rows):
        of = [r for r in rows if (r.part, r.data, r.stream) == ("absent", data, stream)]
        values = [[row.before for row in of if row.form == "none"]]
        values += [[row.chosen for row in of if row.form == form]
                   for form in ("none", "plain", "as it is")]  # fmt: skip
        yield f"| {data}, {stream} | {' | '.join(Mean.of(v).points() for v in values)} |"


def _gain(mine: list[Row], pull: str, less: str = "", rows: Sequence[Row] = ()) -> str:
    """Points over the deployed head, or over another form, paired: a mean for each seed."""
    other = {(r.data, r.stream, r.seed): getattr(r, pull) for r in rows
             if (r.part, r.form) == ("forms", less)}  # fmt: skip
    gains: dict[int, list[float]] = {}
    for row in mine:
        base = other[row.data, row.stream, row.seed] if less else row.before
        gains.setdefault(row.seed, []).append(getattr(row, pull) - base)
    if less == mine[0].form:
        return ""
    return Mean.of(fmean(found) for found in gains.values()).points("+")


if __name__ == "__main__":
    main()
