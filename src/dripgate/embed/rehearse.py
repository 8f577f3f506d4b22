"""The whole loop on an emulated Cortex-M: samples are decided and kept, labels come late, the head
learns. ``mirror`` does the same in NumPy.
"""

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dripgate.embed.emulate import BOARDS, execute
from dripgate.errors import DripgateError
from dripgate.types import Array, FloatArray

#: Slots of the ring and of a page of flash, as c/emulate/learner.c has them.
RING, PAGE = 128, 8


class Kind(IntEnum):
    """What can happen on a device whose head learns."""

    DECIDE = 0
    REMEMBER = 1
    LABEL = 2
    LEARN = 3
    SHOW = 4  # the learned numbers
    UNLEARN = 5
    RESUME = 6
    KEEP = 7  # REMEMBER unless the verdict was drop: 1 then


class Event(NamedTuple):
    """sample: of DECIDE. id: of REMEMBER, KEEP and LABEL. label, propensity: of one of them."""

    kind: Kind
    sample: Array | None = None
    id: int = 0
    label: int = -1
    propensity: float = 1.0


def labelled_late(
    samples: Sequence[Array], labels: Sequence[int] | Array, *, delay: int, every: int = 1,
    keeping: Kind = Kind.KEEP, propensities: Sequence[float] = (1.0,),
    then: Sequence[Kind] = (Kind.LEARN,),
) -> list[Event]:  # fmt: skip
    """Each sample is decided about and kept, its label comes ``delay`` samples later.

    keeping: KEEP or REMEMBER. propensities: by turns. then: what happens at every ``every``-th
    sample, once labels come.
    """
    events = []
    for i, sample in enumerate(samples):
        propensity = propensities[i % len(propensities)]
        events += [Event(Kind.DECIDE, sample), Event(keeping, id=i, propensity=propensity)]
        if i >= delay:
            events.append(Event(Kind.LABEL, id=i - delay, label=int(labels[i - delay])))
            events += [Event(kind) for kind in then if i % every == every - 1]
    return events


class Rehearsed(NamedTuple):
    """Per event, (N,) or (N, classes): of the last sample decided, and what the call returned.

    judged (N, 3): labels so far of what was not learned from, and how many of them the learned and
    the deployed head had right. heads (shown, numbers): weights in the graph's order, then biases.
    instructions: per event, NaN
    where not counted. stack: bytes, per event.
    """

    logits: FloatArray
    score: FloatArray
    predicted: Array
    decision: Array
    status: Array
    judged: Array
    heads: FloatArray
    instructions: Array
    stack: Array


def rehearse(folder: Path, core: str, events: Sequence[Event], *, count: bool = False) -> Rehearsed:
    """Let the folder's C, embedded with ``adapt``, go through the events on an emulated core.

    Features wait in flash, in pages of PAGE slots; the ring has RING slots.

    Raises:
        UserError: the compiler or the emulator is not installed.
        DripgateError: the firmware failed; its self-test runs before and after.
    """
    inputs = {"events.bin": b"".join(map(_bytes, events))}
    outputs = ["results.bin", "heads.bin"]
    results, heads = execute(folder, core, "learner", inputs, outputs, count=count)
    size, rest = divmod(len(results), len(events))
    classes = (size - 10 * 4) // 4
    if rest:
        raise DripgateError(f"{folder}: the firmware stopped early, after {len(results)} bytes")
    kinds = [("logits", "<f4", classes), ("score", "<f4"), ("predicted", "<i4"),
             ("decision", "<i4"), ("status", "<i4"), ("judged", "<u4", 3), ("ticks", "<u8"),
             ("stack", "<u4")]  # fmt: skip
    rows = np.frombuffer(results, np.dtype(kinds))
    shown = sum(event.kind == Kind.SHOW for event in events)
    numbers = np.frombuffer(heads, "<f4")
    nanoseconds = rows["ticks"] * (1e9 / BOARDS[core].hertz)
    return Rehearsed(
        rows["logits"], rows["score"], rows["predicted"], rows["decision"], rows["status"],
        rows["judged"], numbers.reshape(shown, numbers.size // max(shown, 1)),
        nanoseconds if count else np.full(len(rows), np.nan), rows["stack"],
    )  # fmt: skip


def _bytes(event: Event) -> bytes:
    head = np.array([event.kind, event.id], "<u4").tobytes() + np.int32(event.label).tobytes()
    sample = b"" if event.sample is None else np.ascontiguousarray(event.sample).tobytes()
    return head + np.float32(event.propensity).tobytes() + sample
