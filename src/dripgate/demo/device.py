"""A device's days: gate and policy over what a camera sees, beside other ways to choose.

Through the same functions and files that a user has, and without torch. Each way stores as many
frames as dripgate did, all of one size. What is not broken of it is labelled (of dripgate's: what
it kept, not what it set aside), and the classifier's last layer is learned anew from the initial
samples and that. And as on a device, without the initial samples: ``adapt`` lets the head learn
from a day's store and what the gate remembers.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import numpy as np

from dripgate.adapting.learning import adapt
from dripgate.adapting.solve import Examples, Problem, logits, solve
from dripgate.data import class_of, load
from dripgate.demo import scenes, shipped
from dripgate.demo.mean import MOST, Mean
from dripgate.demo.result import Noted, Streamed, ready, report_of
from dripgate.errors import UserError
from dripgate.fitting.fit import run_all
from dripgate.gate import Gate, Outputs
from dripgate.gate_tensors import Linear, read_linear
from dripgate.policy import Rules
from dripgate.report import Outcome, write
from dripgate.store import Store
from dripgate.stream.account import Account, account
from dripgate.stream.loop import run
from dripgate.stream.sources import watch
from dripgate.types import Array, Decision, Sample

Log = Callable[[str], None]
#: Ways to choose what is stored, in the table's order; the first stores nothing.
WAYS = ("initial", "full", "dripgate", "random", "nth", "margin")
#: Compared where nothing else is said; more make the errors smaller.
DAYS = 8
#: What of the policy is not as ``run`` has it: more at random, for a stream this short.
AUDIT = 0.02
#: Weight decay of a last layer that is learned anew, per sample.
DECAY = 1e-3


class Row(msgspec.Struct, kw_only=True):
    """One way to choose, over all days. Shares are from 0 to 1.

    stored: share of the frames. broken: share of broken frames in what is to be labelled.
    accuracy: on the test frames, of the last layer learned anew. ahead: dripgate's accuracy minus
    this one's, by day; None for dripgate itself.
    """

    way: str
    stored: Mean
    broken: Mean
    accuracy: Mean
    ahead: Mean | None


class Adapting(msgspec.Struct, kw_only=True):
    """``adapt`` on each day's own store: from so many labels of all days; on how many days the new
    head was better, and taken; accuracy on the test frames after it, and what that is more.
    """

    labels: int
    taken: int
    accuracy: Mean
    gain: Mean


class Result(msgspec.Struct, kw_only=True):
    """What the days gave. deployed: accuracy of the classifier as it ships, on the same frames.

    adapted: what the device alone made of it. frames, broken: of all days. quarantined: frames set
    aside, of all days, ``quarantined_broken`` of them broken. account: what the policy did on the
    first day. seconds: by phase.
    """

    days: int
    seed: int
    frames: int
    broken: int
    quarantined: int
    quarantined_broken: int
    tested: int
    deployed: float
    rows: list[Row]
    adapted: Adapting
    seconds: dict[str, float]
    folder: str
    gate: str
    store: str
    report: str
    account: Account


class _Tested(NamedTuple):
    """Embeddings (N, D) and class indices (N,) of what is learned from and tested on; of the latter
    also what the gate's own last layer takes.
    """

    initial: Array
    initial_y: Array
    test: Array
    test_y: Array
    features: Array


class _Day(NamedTuple):
    """What came of one day. labels: class indices (N,), -1 of broken frames."""

    streamed: Streamed
    labels: Array
    decisions: Array
    outputs: Outputs


def device(
    out: Path, *, days: int = DAYS, seed: int = 0, log: Log | None = None, command: str = ""
) -> Result:
    """Fit the shipped classifier's gate, run it through ``days`` days, compare, write a report.

    Days are made from the seeds ``seed``, ``seed`` + 1 and so on. The folder ``out`` has
    labelled.zip, classifier.onnx, gate.onnx, report.html, and of each day day-SEED.zip and
    day-SEED.db. Raises UserError where the folder cannot be used.
    """
    if not 1 <= days <= MOST:
        raise UserError(f"days is {days}, expected a number from 1 to {MOST}")
    log = log or (lambda _: None)
    ready(out)
    clock = _Clock()

    log("[1/3] fitting the gate of the classifier that ships, at noon")
    labelled = shipped.write_labelled(out)
    (out / "classifier.onnx").write_bytes(shipped.FILE.read_bytes())
    gate = shipped.fitted_gate(labelled, lambda text: log(f"      {text}"))
    gate.save(out / "gate.onnx")
    gate = Gate.load(out / "gate.onnx")
    tested, deployed = _tested(gate, labelled)
    clock("fit")

    seen, found, after = [], [], []
    for number in range(days):
        day_seed = seed + number
        log(f"[2/3] day {number + 1} of {days}: {scenes.DAY:,} frames through gate and policy")
        stream = shipped.write_day(out, day_seed)
        clock("make the days")
        seen.append(_run(gate, stream, out / f"day-{day_seed}.db", day_seed))
        clock("run")
        log(f"[2/3] day {number + 1} of {days}: {', '.join(WAYS)}")
        found.append(_compare(seen[-1], tested, day_seed))
        clock("compare")
        after.append(_adapted(gate, out / f"day-{day_seed}.db", tested))
        clock("adapt")

    log("[3/3] writing the report")
    rows = [_row(way, found) for way in WAYS]
    outcome = _outcome(rows, seen[0], clock.seconds, tested, days)
    page = report_of("device", seed, command or "dripgate demo", outcome, gate, seen[0].streamed)
    write(page, out / "report.html")
    clock("report")
    return Result(
        days=days, seed=seed, frames=sum(len(day.labels) for day in seen),
        broken=sum(int((day.labels < 0).sum()) for day in seen),
        quarantined=sum(int(_aside(day).sum()) for day in seen),
        quarantined_broken=sum(int((_aside(day) & (day.labels < 0)).sum()) for day in seen),
        tested=len(tested.test_y), deployed=deployed, rows=rows, adapted=_adapting(after, deployed),
        seconds=clock.seconds,
        folder=str(out), gate=str(out / "gate.onnx"), store=str(out / f"day-{seed}.db"),
        report=str(out / "report.html"), account=seen[0].streamed.account,
    )  # fmt: skip


class _Clock:
    """Seconds by phase: a call ends the one that it names."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def __call__(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._began
        self._began = now


def _tested(gate: Gate, labelled: Path) -> tuple[_Tested, float]:
    """And the accuracy of the classifier as it is."""
    initial = [Sample(frame.payload, frame.label) for frame in shipped.learned()]
    data = load(labelled, gate.info.input, cache=False)
    named = np.array([gate.info.classes.index(name) for name in data.classes])
    outputs = run_all(gate, data.test)
    test_y = named[data.test.y]
    labels = np.array([gate.info.classes.index(sample.source) for sample in initial])
    deployed = float((outputs.logits.argmax(1) == test_y).mean())
    known = _outputs(gate, initial).embedding
    return _Tested(known, labels, outputs.embedding, test_y, outputs.features), deployed


def _run(gate: Gate, stream: Path, path: Path, seed: int) -> _Day:
    path.unlink(missing_ok=True)
    samples = list(watch(stream))
    noted = Noted()
    with Store(path) as store:
        rules = Rules(audit=AUDIT, seed=seed)
        summary = run(gate, samples, store, rules=rules, on_verdicts=noted.note)
        known = cast(Account, account(store))  # there was a policy
    classes = gate.info.classes
    shown = [class_of(sample.source, classes) for sample in samples]
    labels = np.array([-1 if name is None else classes.index(name) for name in shown])
    streamed = Streamed(summary, known, noted)
    return _Day(streamed, labels, np.array(noted.decisions), _outputs(gate, samples))


def _outputs(gate: Gate, samples: list[Sample]) -> Outputs:
    arrays = np.stack([gate.decode(sample) for sample in samples])
    parts = [gate(arrays[i : i + 256]) for i in range(0, len(arrays), 256)]
    return Outputs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class _Found(NamedTuple):
    stored: float
    broken: float
    accuracy: float


def _compare(day: _Day, tested: _Tested, seed: int) -> dict[str, _Found]:
    """Each way's day: margin and random may look at the whole day before they choose."""
    frames = np.arange(len(day.labels))
    stored = frames[day.decisions != Decision.DROP]
    logits = np.sort(day.outputs.logits, axis=1)
    chosen = {
        "initial": frames[:0],
        "full": frames,
        "dripgate": frames[day.decisions == Decision.KEEP],
        "random": np.random.default_rng([seed, 3]).permutation(frames)[: len(stored)],
        "nth": np.linspace(0, len(frames) - 1, len(stored)).astype(int),
        "margin": np.argsort(logits[:, -1] - logits[:, -2], kind="stable")[: len(stored)],
    }
    found = {}
    for way, rows in chosen.items():
        whole = rows[day.labels[rows] >= 0]
        accuracy = _anew(
            np.concatenate([tested.initial, day.outputs.embedding[whole]]),
            np.concatenate([tested.initial_y, day.labels[whole]]), day.outputs.logits.shape[1],
            tested,
        )  # fmt: skip
        count = len(stored) if way == "dripgate" else len(rows)
        broken = 1 - len(whole) / len(rows) if len(rows) else 0.0
        found[way] = _Found(count / len(frames), broken, accuracy)
    return found


def _anew(embeddings: Array, labels: Array, classes: int, tested: _Tested) -> float:
    """Accuracy of a last layer that is learned from nothing but these."""
    mean, scale = embeddings.mean(0, dtype=np.float64), embeddings.std(0, dtype=np.float64) + 1e-6
    nothing = Linear(np.zeros((classes, len(mean)), np.float32), np.zeros(classes, np.float32))
    problem = Problem(nothing, "softmax", 1.0, DECAY * len(labels), classes)
    head = solve(problem, Examples((embeddings - mean) / scale, labels, np.ones(len(labels))))
    return _right(head, (tested.test - mean) / scale, tested)


def _right(head: Linear, features: Array, tested: _Tested) -> float:
    return float((logits(head, features).argmax(1) == tested.test_y).mean())


class _After(NamedTuple):
    labels: int
    taken: bool
    accuracy: float


def _adapted(gate: Gate, path: Path, tested: _Tested) -> _After:
    """The head after it learned from what a day kept, if it is better by the device's own word."""
    with Store(path, read_only=True) as store:
        kept = [one for one in store if one.decision is Decision.KEEP]
        shown = {one.id: class_of(one.source, gate.info.classes) for one in kept}
        labels = {sample: name for sample, name in shown.items() if name is not None}
        found = adapt(gate, store, labels=labels).gate
    now = found or gate
    head = read_linear(now.data, now.info, now.name)
    return _After(len(labels), found is not None, _right(head, tested.features, tested))


def _adapting(days: list[_After], deployed: float) -> Adapting:
    after = np.array([day.accuracy for day in days])
    return Adapting(
        labels=sum(day.labels for day in days), taken=sum(day.taken for day in days),
        accuracy=Mean.of(after), gain=Mean.of(after - deployed),
    )  # fmt: skip


def _row(way: str, days: list[dict[str, _Found]]) -> Row:
    stored, broken, accuracy = (
        np.array(column) for column in zip(*(day[way] for day in days), strict=True)
    )
    ours = np.array([day["dripgate"].accuracy for day in days])
    return Row(
        way=way, stored=Mean.of(stored), broken=Mean.of(broken), accuracy=Mean.of(accuracy),
        ahead=None if way == "dripgate" else Mean.of(ours - accuracy),
    )  # fmt: skip


def _aside(day: _Day) -> Array:
    aside: Array = day.decisions == Decision.QUARANTINE
    return aside


def _outcome(
    rows: list[Row], first: _Day, seconds: dict[str, float], tested: _Tested, days: int
) -> Outcome:
    summary = first.streamed.summary
    return Outcome(
        accuracy={row.way: row.accuracy.value for row in rows},
        intervals={row.way: row.accuracy.half or 0.0 for row in rows},
        ahead={row.way: row.ahead.half or 0.0 for row in rows if row.ahead},
        runs=days, steps=0, stream=summary.seen, kept=summary.kept,
        quarantined=summary.quarantined, bytes_seen=summary.bytes_seen,
        bytes_kept=summary.bytes_stored, seconds=dict(seconds), tested=len(tested.test_y),
    )  # fmt: skip
