"""``dripgate.adapt``: a store with labels and a gate become a gate whose head has learned."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from dripgate.adapting import band
from dripgate.adapting.check import (
    ALLOWED,
    PULLS,
    ClassChange,
    Compared,
    Judged,
    by_class,
    compare,
    doubtful,
    examples_of,
    judge,
    of_memory,
)
from dripgate.adapting.gather import Labelled, Used, gather, rows_of
from dripgate.adapting.memory import Form, remember
from dripgate.adapting.solve import PULL_ALONE, Examples, Problem, solve
from dripgate.errors import GateError, UserError
from dripgate.gate import Gate
from dripgate.gate_info import GateInfo
from dripgate.gate_tensors import Linear, Remembered, changed, read_linear, read_memory
from dripgate.store import Browsing, Store

#: Labels below which nothing can be said; labels that make a new class.
LEAST, LEAST_NEW = 20, 20
#: Gates that a gate remembers to have learned from.
_LINEAGE = 64
_NAMED = 20
Log = Callable[[str], object]


class Outcome(msgspec.Struct, kw_only=True):
    """What became of it. better: the new head may take the old one's place; ``why`` says why.

    labels: both heads on labels that they have not learned from. memory: on what is remembered of
    the first data; None without a memory. classes: by class. grown: new classes. missing: classes
    without a label. pull: how strongly the head was held back, in samples. doubtful: ids of samples
    whose label both heads contradict. notes: what else must be said. seconds: of processor time.
    """

    used: Used
    better: bool = False
    why: str = ""
    labels: Compared
    memory: Compared | None = None
    classes: list[ClassChange] = []
    grown: list[str] = []
    missing: list[str] = []
    pull: float = 0.0
    doubtful: list[str] = []
    doubted: int = 0
    notes: list[str] = []
    seconds: float = 0.0


class Adapted(NamedTuple):
    """gate: the new one, None where it is not better. outcome: what is to be said."""

    gate: Gate | None
    outcome: Outcome


def adapt(
    gate: Gate | str | Path,
    store: Browsing | str | Path,
    *,
    labels: Mapping[str, str] | None = None,
    new_classes: bool = False,
    least: int = LEAST_NEW,
    weigh: bool = True,
    log: Log = lambda _: None,
) -> Adapted:
    """Let the head's last layer learn from a store's labelled samples and the gate's memory.

    labels: class by sample id, before those in the store. new_classes: a class that the gate does
    not have, with ``least`` labels, becomes one. weigh: by 1/propensity, so that what was kept
    stands for the stream. The gate is changed in no place; write the new one with ``save``.

    Raises GateError where the gate's head cannot learn, StoreError or UserError where there is too
    little to learn from.
    """
    started = time.process_time()
    gate = gate if isinstance(gate, Gate) else Gate.load(gate)
    if not isinstance(store, Browsing):
        with Store(store, read_only=True) as opened:
            return adapt(
                gate, opened, labels=labels, new_classes=new_classes, least=least, weigh=weigh,
                log=log,
            )  # fmt: skip
    learning = _Learning(gate, store, log)
    found, used = gather(gate, store, labels or {}, weigh=weigh)
    grown = learning.grow(found, used, least if new_classes else None)
    adapted = learning.adapted(found, used, grown)
    adapted.outcome.seconds = time.process_time() - started
    return adapted


class _Learning:
    """One act of learning."""

    def __init__(self, gate: Gate, store: Browsing, log: Log) -> None:
        self._gate, self._store, self._log = gate, store, log
        self._linear = read_linear(gate.data, gate.info, gate.name)
        self._memory = read_memory(gate.data, gate.info, gate.name)

    def grow(self, found: Labelled, used: Used, least: int | None) -> list[str]:
        """The new classes; names in ``used`` what has a label that is none of the gate's."""
        info = self._gate.info
        other = {n: count for n, count in used.classes.items() if n not in info.classes}
        grown = [n for n, count in other.items() if least is not None and count >= least]
        used.unknown = {n: count for n, count in other.items() if n not in grown}
        for name in used.unknown:
            del used.classes[name]
        if grown and len(self._linear.bias) < len(info.classes):
            raise GateError(
                f"{self._gate.name}: its classifier gives one number for two classes, to which no "
                "third can be added on the device; train one with more classes and fit it"
            )
        return grown

    def adapted(self, found: Labelled, used: Used, grown: list[str]) -> Adapted:
        """Learn, check, and make the new gate."""
        info, old = self._gate.info, self._grown(len(grown))
        names = (*info.classes, *grown)
        rows = [i for i, name in enumerate(found.names) if name in names]
        if len(rows) < LEAST:
            raise UserError(
                f"{self._store.path}: {len(rows)} labels, at least {LEAST} are needed to learn and "
                f"to check it ({_left_out(used)}); label more with 'dripgate review'"
            )
        classes = np.array([names.index(found.names[i]) for i in rows])
        examples = Examples(found.features[rows], classes, found.weights[rows])
        problem = Problem(old, info.head, self._scale2, PULL_ALONE, len(self._linear.bias))
        beside = examples_of(info.memory, self._memory, old.weight.shape[1], classes)
        pulls = PULLS if self._memory else tuple(p for p in PULLS if p >= PULL_ALONE)
        self._log(f"learning from {len(rows):,} labels and {len(beside.classes)} memories")
        judged = judge(problem, examples, found.folds[rows], beside, pulls)
        new = solve(problem._replace(pull=judged.pull), examples.and_(beside))
        outcome = self._judged(judged, examples, old, new)
        outcome.used, outcome.grown, outcome.pull = used, grown, judged.pull
        outcome.classes = by_class(judged, classes, names)
        outcome.missing = [name for name in names if name not in used.classes]
        doubts = doubtful(judged, classes, info.head)
        outcome.doubted = len(doubts)
        outcome.doubtful = [found.ids[rows[i]] for i in doubts[:_NAMED]]
        self._explain(outcome)
        if not outcome.better:
            return Adapted(None, outcome)
        return Adapted(self._made(new, grown, examples, outcome), outcome)

    @property
    def _scale2(self) -> float:
        last = self._gate.info.last
        return last.scale2 if last else 1.0

    def _grown(self, more: int) -> Linear:
        """The deployed head, with rows of zeros for new classes."""
        weight, bias = self._linear
        rows = np.zeros((more, weight.shape[1]), np.float32)
        return Linear(np.concatenate([weight, rows]), np.concatenate([bias, np.zeros(more, "f4")]))

    # Checking -----------------------------------------------------------------------------------

    def _judged(self, judged: Judged, examples: Examples, old: Linear, new: Linear) -> Outcome:
        labels = compare(judged.before, judged.after, examples.classes, examples.weights)
        about, memory = self._gate.info.memory, None
        if about is not None and self._memory is not None:
            about = msgspec.structs.replace(
                about, counts=(*about.counts, *[0] * (len(old.bias) - len(about.counts)))
            )
            memory = of_memory(about, self._memory, self._linear_for(old), new)
        return Outcome(used=Used(), labels=labels, memory=memory)

    def _linear_for(self, old: Linear) -> Linear:
        """The deployed head where new rows can win nothing."""
        known = len(self._linear.bias)
        bias = old.bias.copy()
        bias[known:] = -1e30
        return Linear(old.weight, bias)

    def _explain(self, outcome: Outcome) -> None:
        """Whether it is better, and what must be said beside."""
        labels, memory, used = outcome.labels, outcome.memory, outcome.used
        one = next(iter(used.classes)) if len(used.classes) == 1 else None
        lost = 0.0 if memory is None else -memory.gain
        forgets = memory is not None and lost > ALLOWED + memory.half
        if labels.gain < 0:
            outcome.why = "it is worse on labels that it has not learned from"
        elif one is not None and not forgets:
            outcome.why = f"all labels are '{one}'; label samples of other classes too"
        elif forgets:
            outcome.why = f"it forgets: {lost:.1%} of what is remembered of the first data" + (
                f"; all labels are '{one}'" if one else "; are the labels right?"
            )
        else:
            outcome.better = True
            outcome.why = "not worse on labels, nor on the memory, that it has not learned from"
            if memory is None:
                outcome.why = "not worse on labels that it has not learned from"
        if memory is None:
            outcome.notes.append(
                "the gate has no memory of its first data (fit --memory stats): the head is held "
                "back by a pull alone, and may forget"
                + (f" {', '.join(outcome.missing[:5])}" if outcome.missing else "")
            )
        if labels.enough:
            outcome.notes.append(
                f"the difference is within chance: about {labels.enough:,} labels would tell"
            )
        if outcome.doubted:
            share = outcome.doubted / labels.samples
            outcome.notes.append(
                f"{outcome.doubted:,} labels ({share:.0%}) contradict both heads, the old one "
                "being sure: look at them, a wrong label costs more than none"
            )

    # The new gate -------------------------------------------------------------------------------

    def _made(self, new: Linear, grown: list[str], examples: Examples, outcome: Outcome) -> Gate:
        """The same file with the head, its thresholds and calibration replaced."""
        gate, info = self._gate, self._gate.info
        names = (*info.classes, *grown)
        low, high = info.thresholds.low, info.thresholds.high
        more = len(grown)
        open_ = msgspec.structs.replace(
            info.thresholds, low=(*low, *[None] * more), high=(*high, *[None] * more)
        )
        calibration = info.calibration
        seen = calibration.samples > 0
        wider = msgspec.structs.replace(
            calibration, predicted=(*calibration.predicted, *[0] * more * seen),
            kept=(*calibration.kept, *[0] * more * seen),
        )  # fmt: skip
        last, memory = info.last, self._remembering(grown, examples)
        if last is not None and more:
            last = msgspec.structs.replace(last, rows=len(new.bias))
        about = info.memory
        if about is not None and more:
            counts = np.bincount(examples.classes, minlength=len(names))[len(info.classes) :]
            about = msgspec.structs.replace(about, counts=(*about.counts, *counts.tolist()))
        lineage = (*info.provenance.lineage, gate.id)
        lineage = (lineage[0], *lineage[1:][1 - _LINEAGE :])
        draft = msgspec.structs.replace(
            info, thresholds=open_, classes=names, calibration=wider, last=last, memory=about,
            provenance=msgspec.structs.replace(info.provenance, lineage=lineage),
        )  # fmt: skip
        self._log("learning the thresholds again")
        trial = self._opened(changed(gate.data, draft, linear=new, memory=memory))
        return self._with_band(trial, draft, outcome)

    def _opened(self, data: bytes) -> Gate:
        try:
            return Gate(data, f"{self._gate.name}, adapted")
        except GateError as error:
            raise GateError(
                f"{error}; its graph does not take another head: retrain and fit it instead"
            ) from None

    def _with_band(self, trial: Gate, draft: GateInfo, outcome: Outcome) -> Gate:
        seen = band.look(trial, self._store)
        if seen is None:
            outcome.notes.append("no kept sample could be run: the thresholds are the old ones")
            return trial
        thresholds = band.learn(seen, self._gate.info, len(draft.classes))
        thresholds = msgspec.structs.replace(thresholds, quality_low=self._quality_low(outcome))
        calibration = band.calibrate(
            draft.calibration, seen, thresholds, outcome.labels.after.value, outcome.labels.samples
        )
        if not seen.chance:
            outcome.notes.append(
                "the store holds no audit (run --audit): the thresholds keep as much of what was "
                "kept as before, and say nothing about the share of the stream"
            )
        info = msgspec.structs.replace(draft, thresholds=thresholds, calibration=calibration)
        return self._opened(changed(trial.data, info))

    def _quality_low(self, outcome: Outcome) -> float | None:
        """Lower where people gave classes to what is in quarantine."""
        info = self._gate.info
        found = self._store.tally()
        rows = [
            row.quality for row in rows_of(self._store)
            if row.label in info.classes and row.quality is not None
        ]  # fmt: skip
        least = band.quality_low(info, np.array(rows)) if found.labelled else None
        least = info.thresholds.quality_low if least is None else least
        if least != info.thresholds.quality_low:
            outcome.notes.append("the quality range is wider: labelled samples were outside of it")
        return least

    def _remembering(self, grown: list[str], examples: Examples) -> Remembered | None:
        """The memory with the new classes beside; None where nothing changes."""
        about, memory, known = self._gate.info.memory, self._memory, len(self._gate.info.classes)
        if about is None or memory is None or not grown:
            return None
        rows = examples.classes >= known
        form: Form = "stats" if about.form == "stats" else max(1, about.each)
        made = remember(examples.features[rows], examples.classes[rows], known + len(grown), form)
        if made is None:
            return None
        features, classes, spread = made[1]
        return Remembered(
            np.concatenate([memory.features, features]),
            np.concatenate([memory.classes, classes]),
            None if memory.spread is None else np.concatenate([memory.spread, spread]),
        )


def _left_out(used: Used) -> str:
    unknown = ", ".join(f"'{name}' {count:,}" for name, count in [*used.unknown.items()][:5])
    said = f"{used.unlabelled:,} samples without a label"
    return said + (f", of classes that the gate does not have: {unknown}" if unknown else "")
