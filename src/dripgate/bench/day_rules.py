"""Who decides what of a day is stored, within a budget of bytes.

A rule is a function of a Task. It is given no labels, decides on each frame before it sees the next
(tests hold both), and stores at most the budget. Rules with one number per frame hold their share
of the bytes by one tracker, so that they store equally much and differ in which; the product has
its own ways, those of ``dripgate run --budget``.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np

from dripgate.bench.day import DAY
from dripgate.bench.hold import Hold
from dripgate.bench.observe import Seen
from dripgate.bench.rules import DEFAULT, margin
from dripgate.gate_info import GateInfo, Histogram
from dripgate.policy import Allowance, Policy, Rules
from dripgate.policy.duplicates import memory
from dripgate.types import Array, Decision, Reason, Sample, Verdict


class Task(NamedTuple):
    """A day to be decided. budget: bytes that may be stored, ``share`` of the day's.

    calibration: held-out samples of the beginning. stream: the frames as the deployed model sees
    them. payloads, sizes, times: as in ``Day``. frames: how many a day has, known from its clock.
    """

    calibration: Seen
    stream: Seen
    payloads: list[bytes]
    sizes: Array
    times: Array
    frames: int
    share: float
    budget: int
    seed: int

    @property
    def rng(self) -> np.random.Generator:
        """Chance, the same for every rule that needs some."""
        return np.random.default_rng([self.seed, 31])


class Stored(NamedTuple):
    """kept: to be labelled and learned from, bool (n,). quarantined: stored beside, for people."""

    kept: Array
    quarantined: Array


Choose = Callable[[Task], Stored]


class Spending:
    """Keeps a share of the bytes, whatever the scores: ``Hold`` with what a frame costs."""

    def __init__(self, task: Task, calibration: Array | None = None) -> None:
        self._hold = Hold(task.share, np.zeros(0) if calibration is None else calibration)
        self._mean = task.budget / (task.share * task.frames)
        self._coins = task.rng.spawn(1)[0]
        self._left = task.budget

    def __call__(self, score: float, size: int, *, allowed: bool = True) -> bool:
        """Whether to keep a frame of so many bytes; never where it is not ``allowed``."""
        coin = self._coins.random()
        if not allowed or size > self._left:
            coin = 1.0
        kept = self._hold(float(np.float32(score)), coin, size / self._mean)
        self._left -= size * kept
        return kept


def _only(kept: Array) -> Stored:
    return Stored(kept, np.zeros(len(kept), bool))


def _scalar(score: Callable[[Seen], Array], once: bool, task: Task) -> Stored:
    """The highest scores; once: not what the product's memory of kept scenes recognises."""
    info = task.stream.gate.info
    recent = memory(info, Rules().duplicates if once else 0.0)
    spending = Spending(task, score(task.calibration))
    kept = []
    for value, size, point in zip(
        score(task.stream), task.sizes, recent.points(task.stream.embedding), strict=True
    ):
        same = recent.find(*point)
        kept.append(spending(value, size, allowed=same is None))
        if same is not None:
            recent.renew(same)
        elif kept[-1]:
            recent.add(*point)
    return _only(np.array(kept))


def heat(seen: Seen) -> Array:
    """The gate's own score, (n,)."""
    return seen.score(seen.gate.info.score)


# What needs no model ----------------------------------------------------------------------------


def _everything(task: Task) -> Stored:
    return _only(np.ones(len(task.sizes), bool))


def _random(task: Task) -> Stored:
    known, values = _by_chance(task)
    spending = Spending(task, known)
    return _only(np.array([spending(v, s) for v, s in zip(values, task.sizes, strict=True)]))


def _every_nth(task: Task) -> Stored:
    """A time lapse: the next frame as soon as the budget so far pays for it."""
    saved, kept = 0.0, []
    for size in task.sizes:
        saved += task.budget / task.frames
        kept.append(saved >= size)
        saved -= size * kept[-1]
    return _only(np.array(kept))


def _on_change(last: str, task: Task) -> Stored:
    """Largest difference to the frame before, or to the one kept last; the threshold adapts.

    What motion triggers do: small pictures are compared, so that noise and a shake count less.
    """
    small = thumbnails(task.stream.x)
    spending, kept, reference = Spending(task), [], small[0]
    for picture, size in zip(small, task.sizes, strict=True):
        kept.append(spending(np.abs(picture - reference).mean(), size))
        if kept[-1] or last == "seen":
            reference = picture
    return _only(np.array(kept))


def thumbnails(x: Array, side: int = 8) -> Array:
    """(n, d) float32: images in about side × side cells; recordings as levels of 2 · side bands at
    as many times.
    """
    if x.ndim == 2:
        pieces = x[:, : x.shape[1] // (2 * side) * 2 * side].reshape(len(x), 2 * side, -1)
        power = np.abs(np.fft.rfft(pieces.astype(np.float32), axis=2))[..., 1:] ** 2
        power = power[..., : power.shape[2] // (2 * side) * 2 * side]
        bands = power.reshape(len(x), 2 * side, 2 * side, -1).mean(axis=3)
        return np.asarray(np.log(bands + 1).reshape(len(x), -1), np.float32)
    n, height, width, channels = x.shape
    rows, cols = min(side, height), min(side, width)
    cut = x[:, : height // rows * rows, : width // cols * cols].astype(np.float32)
    cells = cut.reshape(n, rows, height // rows, cols, width // cols, channels).mean(axis=(2, 4))
    return np.asarray(cells.reshape(n, -1), np.float32)


# What others do ---------------------------------------------------------------------------------


def _unit(embedding: Array) -> Array:
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    return np.asarray(embedding / np.maximum(length, 1e-9), np.float32)


def _novelty(task: Task) -> Stored:
    """What is farthest from everything kept so far, with a target ratio: LightlyEdge's "adaptive
    diversity" by its documentation, here with the classifier's embedding in place of its own.
    """
    points = _unit(task.stream.embedding)
    memory = np.zeros((len(points), points.shape[1]), np.float32)
    spending, kept, held = Spending(task), [], 0
    for point, size in zip(points, task.sizes, strict=True):
        near = float((memory[:held] @ point).max(initial=-1.0))
        kept.append(spending(-near, size))
        if kept[-1]:
            memory[held] = point
            held += 1
    return _only(np.array(kept))


#: Frames in a batch that TActiLE's user labels at once.
_LABELLED_AT_ONCE = 32


def _tactile(task: Task) -> Stored:
    """Our reading of TActiLE (Pavan et al., arXiv 2505.01160), of which no code is published.

    Known: informativeness is the model's uncertainty, alone or with diversity in the batch that
    waits for the user ("hybrid"); it is compared with a reference value; a batch that is full is
    handed over. Ours: uncertainty is 1 - the largest probability, diversity half the cosine
    distance to the nearest in the batch, both count alike; the reference value follows the budget
    by the tracker that all rules share, so that batches fill as fast as they are paid for.
    """

    def unsure(seen: Seen) -> Array:
        return np.asarray(1 - seen.p.max(axis=1))

    points = _unit(task.stream.embedding)
    spending, kept, batch = Spending(task, unsure(task.calibration) + 0.5), [], points[:0]
    for point, doubt, size in zip(points, unsure(task.stream), task.sizes, strict=True):
        apart = (1 - float((batch @ point).max(initial=-1.0))) / 2
        kept.append(spending(float(doubt) + apart, size))
        if kept[-1]:
            batch = np.vstack([batch, point])[:_LABELLED_AT_ONCE]
        if len(batch) == _LABELLED_AT_ONCE:
            batch = points[:0]
    return _only(np.array(kept))


# Ours -------------------------------------------------------------------------------------------

Changed = Callable[[Task], tuple[GateInfo, list[Verdict]]]


def _as_fitted(task: Task) -> tuple[GateInfo, list[Verdict]]:
    return task.stream.gate.info, task.stream.verdicts


def _product(rules: Rules, changed: Changed, task: Task) -> Stored:
    """``dripgate run --budget BYTES/day``, with these other rules, by what the gate says."""
    budget = Allowance(float(task.budget), DAY, bytes=True)
    info, verdicts = changed(task)
    policy = Policy(msgspec.structs.replace(rules, budgets=(budget,), seed=task.seed), info)
    samples = [Sample(p, time=float(t)) for p, t in zip(task.payloads, task.times, strict=True)]
    decided = policy(samples, verdicts, task.stream.embedding)
    return Stored(
        np.array([one.decision is Decision.KEEP for one in decided]),
        np.array([one.decision is Decision.QUARANTINE for one in decided]),
    )


def _without_quality(task: Task) -> tuple[GateInfo, list[Verdict]]:
    """Nothing is too broken: every frame competes by its score."""
    found = task.stream.verdicts
    return task.stream.gate.info, [
        msgspec.structs.replace(v, decision=Decision.DROP, reason=Reason.BAND) for v in found
    ]


def _fixed_range(task: Task) -> tuple[GateInfo, list[Verdict]]:
    """What the gate found broken stays out, as what has no score does, whatever drifts."""
    return task.stream.gate.info, [
        msgspec.structs.replace(v, score=float("nan")) if v.decision is Decision.QUARANTINE else v
        for v in task.stream.verdicts
    ]


def _scored_by(
    score: Callable[[Task], tuple[Array, Array]], task: Task
) -> tuple[GateInfo, list[Verdict]]:
    """Another number in the score's place: (of the calibration, of the stream)."""
    info, verdicts = _as_fitted(task)
    known, values = score(task)
    calibration = msgspec.structs.replace(info.calibration, score=Histogram.of(known))
    found = [
        msgspec.structs.replace(verdict, score=float(np.float32(value)))
        for verdict, value in zip(verdicts, values, strict=True)
    ]
    return msgspec.structs.replace(info, calibration=calibration), found


def _by_chance(task: Task) -> tuple[Array, Array]:
    return np.linspace(0, 1, 257), task.rng.random(task.frames)[: len(task.sizes)]


def _by_margin(task: Task) -> tuple[Array, Array]:
    return margin(task.calibration), margin(task.stream)


def _ours(changed: Changed = _as_fitted, rules: Rules = Rules()) -> Choose:  # noqa: B008 - frozen
    return partial(_product, rules, changed)


FULL = "full"
RULES: dict[str, Choose] = {
    FULL: _everything,
    "random": _random,
    "every_nth": _every_nth,
    "on_change": partial(_on_change, "seen"),
    "on_change_kept": partial(_on_change, "kept"),
    "margin": partial(_scalar, margin, False),
    "margin_once": partial(_scalar, margin, True),
    "heatmap": partial(_scalar, heat, False),
    "heatmap_once": partial(_scalar, heat, True),
    "novelty": _novelty,
    "tactile": _tactile,
    DEFAULT: _ours(),
    f"{DEFAULT}_no_duplicates": _ours(rules=Rules(duplicates=0)),
    f"{DEFAULT}_no_floors": _ours(rules=Rules(floor=0)),
    f"{DEFAULT}_no_audit": _ours(rules=Rules(audit=0)),
    f"{DEFAULT}_no_quality": _ours(_without_quality),
    f"{DEFAULT}_fixed_range": _ours(_fixed_range),
    f"{DEFAULT}_no_score": _ours(partial(_scored_by, _by_chance)),
    f"{DEFAULT}_margin": _ours(partial(_scored_by, _by_margin)),
}
#: Rules of every budget; all others at a tenth of the bytes.
MAIN = (
    "random", "every_nth", "on_change", "margin", "margin_once", "novelty", "tactile", DEFAULT,
)  # fmt: skip
