"""A head that learns on a Cortex-M: what it takes, and the whole loop on a stream that drifts.

Rows and tables for bench_embed. ``row``: a few samples are remembered, labelled and learned from on
an emulated core, and in NumPy. ``loop``: MNIST drifts, the gate decides, labels of what it keeps
come DELAY samples later, the head learns; accuracy on samples that neither head has learned from.
"""

from pathlib import Path
from typing import Any

import numpy as np

from dripgate.data import load, open_source
from dripgate.embed.figures import figures
from dripgate.embed.head import read_head, with_numbers
from dripgate.embed.mirror import Mirrored, mirror
from dripgate.embed.rehearse import RING, Event, Kind, Rehearsed, labelled_late, rehearse
from dripgate.gate import Gate
from dripgate.types import Array

#: Samples that the loop learns from, then those that it is judged on; labels come so many later.
LEARNED, JUDGED, DELAY = 1600, 800, 100
#: How far a learned number may be from NumPy's, relative to the largest.
TOLERANCE = 1e-5
#: Decisions of ``row``.
FEW = 24


def row(gate: Gate, folder: Path, core: str, samples: Array, labels: Array) -> dict[str, Any]:
    """Instructions of each call, and how far the learned numbers are from NumPy's."""
    events = [Event(Kind.SHOW), *labelled_late(
        samples[:FEW], labels, delay=4, keeping=Kind.REMEMBER, propensities=(1, 0.2),
        then=(Kind.LEARN, Kind.SHOW),
    )]  # fmt: skip
    found = rehearse(folder, core, events, count=True)
    expected = _mirrored(gate, samples[:FEW], events)
    kinds, size = np.array([event.kind for event in events]), figures(folder, core)

    def of(values: Array, kind: Kind) -> float:
        return float(np.median(values[kinds == kind]))

    head = read_head(gate)
    return {
        "rows": head.bias.size, "width": head.width, "memory": len(head.vectors),
        "flash": size.learner_flash if size else None, "ram": size.learner_ram if size else None,
        "ring": RING, "ring_bytes": RING * (2 * head.width + 10),
        "numbers": _apart(found, expected), "steps": int((kinds == Kind.LEARN).sum()),
        "same": bool((found.status == expected.status).all()
                     and (found.judged == expected.judged).all()),
        "learn": round(of(found.instructions, Kind.LEARN)),
        "label": round(of(found.instructions, Kind.LABEL)),
        "remember": round(of(found.instructions, Kind.REMEMBER)),
        "decide": round(of(found.instructions, Kind.DECIDE)),
        "stack": int(found.stack[kinds == Kind.LEARN].max()),
    }  # fmt: skip


def loop(gate: Gate, folder: Path, core: str, drift: str) -> dict[str, Any]:
    """A stream that drifts, with labels that come late, on an emulated core and in NumPy."""
    x, y, undrifted = _stream(gate, drift)
    events = labelled_late(x[:LEARNED], y, delay=DELAY, every=10)
    begin = len(events)
    events += [Event(Kind.DECIDE, sample) for sample in x[LEARNED:]]
    events += [Event(Kind.SHOW), Event(Kind.UNLEARN)]
    again = len(events)
    events += [Event(Kind.DECIDE, sample) for sample in x[LEARNED:]]
    found = rehearse(folder, core, events)
    kept = (np.array([event.kind for event in events]) == Kind.KEEP) & (found.status == 0)
    expected = _mirrored(gate, np.concatenate([x, x[LEARNED:]]), events, kept)
    late, spans = y[LEARNED:], (slice(again, None), slice(begin, begin + JUDGED))
    device = with_numbers(gate, found.heads[-1])
    learned = device(x[LEARNED:])
    score = np.abs(learned.score - found.score[spans[1]]).max() / np.abs(learned.score).max()
    return {
        "drift": drift, "stream": LEARNED, "judged": JUDGED, "delay": DELAY,
        "kept": int(kept.sum()), "labels": int(found.judged[begin, 0]),
        "numbers": _apart(found, expected), "score": float(score),
        **{f"undrifted_{name}": float((one(undrifted).logits.argmax(axis=1) == late).mean())
           for name, one in (("before", gate), ("after", device))},
        "verdicts": int((learned.verdict != found.decision[spans[1]]).sum()),
        "prequential": (found.judged[begin, 1:] / found.judged[begin, 0]).tolist(),
        **{f"{name}_{where}": float((logits[span].argmax(axis=1) == late).mean())
           for where, logits in (("device", found.logits), ("numpy", expected.logits))
           for name, span in zip(("before", "after"), spans, strict=True)},
    }  # fmt: skip


def _mirrored(
    gate: Gate, samples: Array, events: list[Event], kept: Array | None = None
) -> Mirrored:
    features = gate(samples).features
    return mirror(read_head(gate), gate.info.head, features, events, kept=kept)


def _apart(found: Rehearsed, expected: Mirrored) -> float:
    """The largest difference of learned numbers, relative to the largest number."""
    return float(np.abs(found.heads - expected.heads).max() / np.abs(expected.heads).max())


# Drift ------------------------------------------------------------------------------------------


def _stream(gate: Gate, drift: str) -> tuple[Array, Array, Array]:
    """MNIST's test part in an order of chance; what drifts is whole at half of LEARNED.

    Also the samples that are judged as they were before they drifted.
    """
    test = load(open_source("mnist"), gate.info.input).test
    chosen = np.random.default_rng(1).permutation(len(test.x))[: LEARNED + JUDGED]
    x, y = np.stack([test.x[i] for i in chosen]), np.asarray(test.y)[chosen]
    degree = np.minimum(np.arange(len(x)) / (LEARNED / 2), 1)
    drifted = np.stack([_DRIFTS[drift](*pair) for pair in zip(x, degree, strict=True)])
    return drifted, y, x[LEARNED:]


def _light(sample: Array, degree: float) -> Array:
    """Down to 40 % of the light, on grey, with noise."""
    noise = np.random.default_rng(int(sample.sum())).normal(0, 20, sample.shape)
    darker = sample * (1 - 0.6 * degree) + degree * (30 + noise)
    return np.clip(darker, 0, 255).astype(np.uint8)


def _skewed(sample: Array, degree: float) -> Array:
    """Rows move sideways, up to 0.8 of their distance from the middle: a camera that tilts."""
    rows = np.arange(len(sample)) - len(sample) // 2
    by = np.rint(0.8 * degree * rows).astype(int)
    return np.stack([np.roll(line, n, axis=0) for line, n in zip(sample, by, strict=True)])


_DRIFTS = {"light": _light, "skewed": _skewed}
DRIFTS = tuple(_DRIFTS)


# Tables -----------------------------------------------------------------------------------------

HEAD = f"""
## The head learns

`dripgate embed --adapt`, memory: class means, as `fit` makes it. Flash and RAM are what learning
adds: the code, the memory; the state with the head in RAM, and a ring of {RING} slots with its
index. One `dripgate_learn` goes through 16 labelled samples and as many vectors of the memory.
Instructions as above. "Numbers": the largest difference of any learned weight from NumPy's over all
steps, relative to the largest weight.

| net | core | head | flash kB | RAM kB | of it ring | stack B | k instr. learn | label | remember \
| decide | steps | numbers |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""
LOOP = f"""
### A stream that drifts

MNIST on an emulated core: {LEARNED:,} samples come in, the drift is whole after half of them; what
the gate does not drop is remembered, its label comes {DELAY} samples later, one `dripgate_learn`
per 10 samples. Accuracy on the {JUDGED} that follow, by the deployed head and by the learned one.
"Undrifted": the same {JUDGED} as they were. "Score": the largest difference of the device's score
from that of `gate.onnx` with the device's learned head in it, relative to the largest; "verdicts"
that differ.

| drift | core | kept | labels | before: device | NumPy | after: device | NumPy \
| undrifted: before | after | numbers | score | verdicts |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def table(rows: dict[str, Any]) -> str:
    """Markdown of the rows whose keys begin with ``learning`` and ``loop``."""
    learning, loops = [], []
    for key, one in sorted(rows.items()):
        kind, net, core = [*key.split(), "", ""][:3]
        core = core.removeprefix("cortex-").upper()
        if kind == "learning":
            learning.append(
                f"| {net} | {core} | {one['rows']} × {one['width']} | {one['flash'] / 1e3:.1f} "
                f"| {one['ram'] / 1e3:.1f} | {one['ring_bytes'] / 1e3:.1f} | {one['stack']} "
                f"| {one['learn'] / 1e3:,.0f} | {one['label'] / 1e3:.1f} "
                f"| {one['remember'] / 1e3:.1f} | {one['decide'] / 1e3:,.0f} | {one['steps']} "
                f"| {one['numbers']:.1e} |"
            )
        elif kind == "loop":
            loops.append(
                f"| {net} | {core} | {one['kept']} | {one['labels']} "
                f"| {one['before_device']:.1%} | {one['before_numpy']:.1%} "
                f"| {one['after_device']:.1%} | {one['after_numpy']:.1%} "
                f"| {one['undrifted_before']:.1%} | {one['undrifted_after']:.1%} "
                f"| {one['numbers']:.1e} | {one['score']:.1e} | {one['verdicts']} |"
            )
    return "".join(
        head + "\n".join(lines) + "\n" for head, lines in ((HEAD, learning), (LOOP, loops)) if lines
    )
