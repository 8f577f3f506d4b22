"""What a device whose head learns must do, in NumPy, event by event: adapting.step with the
ring of features that the C has.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dripgate.adapting.step import UNLABELLED, Ring, learn
from dripgate.adapting.step import Head as Learner
from dripgate.embed.head import Head, read_head
from dripgate.embed.rehearse import PAGE, RING, Event, Kind, rehearse
from dripgate.gate import Gate
from dripgate.types import Array, FloatArray

#: A sample that is not kept.
_PASSED = Kind.KEEP
#: How far a learned weight may be from NumPy's, relative to the largest.
TOLERANCE = 1e-5
_LARGEST = float(np.finfo(np.float16).max)


class Mirrored(NamedTuple):
    """What must come of the events; the fields as in rehearse.Rehearsed."""

    logits: FloatArray
    status: Array
    judged: Array
    heads: FloatArray


def mirror(
    head: Head,
    kind: str,
    features: FloatArray,
    events: Sequence[Event],
    *,
    kept: Array | None = None,
    slots: int = RING,
    page: int = PAGE,
) -> Mirrored:
    """Go through the events.

    kind: the gate's ``head``, "softmax" or "sigmoid". features (decisions, D): what the last layer
    takes of each sample that is decided, in their order. kept (N,), by event: which KEEP events met
    a verdict that is not drop. slots: of the ring; page: those that are erased together.
    """
    device, coming = _Device(head, kind, slots, page), iter(features.astype(np.float32))
    heads, rows = [], []
    for i, event in enumerate(events):
        if event.kind == Kind.KEEP:
            event = event._replace(kind=Kind.REMEMBER if kept is not None and kept[i] else _PASSED)
        if event.kind == Kind.SHOW:
            heads.append(device.shown())
        returned = device.act(event, coming)
        rows.append((device.logits(), returned, device.judged.copy()))
    logits, status, judged = zip(*rows, strict=True)
    return Mirrored(np.array(logits), np.array(status), np.array(judged), np.array(heads))


def learning_differs(gate: Gate, folder: Path, core: str, samples: Array) -> float:
    """How far what an emulated core learns is from NumPy, relative to the largest weight.

    Every sample is decided, remembered and labelled, by turns with each class; the head learns
    after each. Infinity where a call returns something else. Raises as ``rehearse`` does.
    """
    events = []
    for i, sample in enumerate(samples):
        events += [Event(Kind.DECIDE, sample), Event(Kind.REMEMBER, id=i)]
        events += [Event(Kind.LABEL, id=i, label=i % len(gate.info.classes)), Event(Kind.LEARN)]
    events.append(Event(Kind.SHOW))
    found = rehearse(folder, core, events)
    expected = mirror(read_head(gate), gate.info.head, gate(samples).features, events)
    if (found.status != expected.status).any():
        return float("inf")
    return float(np.abs(found.heads - expected.heads).max() / np.abs(expected.heads).max())


class _Device:
    def __init__(self, head: Head, kind: str, slots: int, page: int) -> None:
        self.slots, self.page = slots, page
        rows = head.bias.size
        weight = head.weight.reshape(rows, -1) if head.turned else head.weight.reshape(-1, rows).T
        self.turned = head.turned
        self.learner = Learner.of(weight, head.bias, kind, head.square)
        self.memory = (head.vectors.astype(np.float32), head.classes)
        self.classes, self.weights = [UNLABELLED] * slots, [1.0] * slots
        self.ring = Ring(np.zeros((slots, head.width), np.float32), self.classes, self.weights)
        self.ids: list[int | None] = [None] * slots
        self.slot = 0
        self.last = np.zeros(head.width, np.float32)
        self.z = np.zeros(rows, np.float32)
        self.judged = np.zeros(3, int)

    def act(self, event: Event, coming: Iterator[Array]) -> int:
        """What the C function returns, 0 where it returns nothing."""
        if event.kind == Kind.DECIDE:
            self.last = next(coming)
            self.z = self.learner.weight @ self.last + self.learner.bias
        elif event.kind == Kind.REMEMBER:
            self._remember(event)
        elif event.kind == Kind.LABEL:
            return self._label(event)
        elif event.kind == Kind.LEARN:
            return learn(self.learner, self.ring, self.memory)
        elif event.kind == Kind.UNLEARN:
            one = self.learner
            one.weight, one.bias = one.first_weight.copy(), one.first_bias.copy()
            self.judged[:] = 0
        return int(event.kind == _PASSED)

    def logits(self) -> FloatArray:
        """(C,) of the sample decided last, by the head as it was then."""
        return np.array([0, self.z[0]], np.float32) if len(self.z) == 1 else self.z

    def shown(self) -> FloatArray:
        """Weights in the graph's order, then biases."""
        weight = self.learner.weight if self.turned else self.learner.weight.T
        return np.concatenate([weight.ravel(), self.learner.bias])

    def _remember(self, event: Event) -> None:
        slot = self.slot
        if slot % self.page == 0:
            self.ids[slot : slot + self.page] = [None] * self.page
            self.classes[slot : slot + self.page] = [UNLABELLED] * self.page
        self.ids[slot], self.classes[slot] = event.id, UNLABELLED
        self.ring.features[slot] = np.clip(self.last, -_LARGEST, _LARGEST).astype(np.float16)
        self.weights[slot] = 1 / event.propensity
        self.slot = (slot + 1) % self.slots

    def _label(self, event: Event) -> int:
        order = [(self.slot - back) % self.slots for back in range(1, self.slots + 1)]
        slot = next((slot for slot in order if self.ids[slot] == event.id), None)
        if slot is None:
            return -1
        if self.classes[slot] == UNLABELLED:
            h, one = self.ring.features[slot], self.learner
            now = one.weight @ h + one.bias, one.first_weight @ h + one.first_bias
            self.judged += [1, *(_best(z) == event.label for z in now)]
        self.classes[slot] = event.label
        return 0


def _best(z: FloatArray) -> int:
    return int(z[0] > 0) if len(z) == 1 else int(z.argmax())
