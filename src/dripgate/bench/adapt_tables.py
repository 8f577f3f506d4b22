"""The rows of the protocol ``adapt`` as Markdown: docs/results/adapt.md."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dripgate.bench.adapting import FILE, STREAMS, WITHOUT, Row
from dripgate.bench.rows import read
from dripgate.bench.tables import Mean

_KEPT = (("random", 0.05), ("margin", 0.05), ("dripgate", 0.05), ("random", 0.2), ("margin", 0.2),
         ("dripgate", 0.2), ("all", 1.0))  # fmt: skip
_INTRO = """# What the head learns on the device

Written by `dripgate bench adapt`, from [adapt.jsonl](adapt.jsonl). Accuracy on the test part, which
met what the stream met, in per cent ± the half width of a 95 % interval over seeds; behind it the
smallest recall of a class. *before*: the deployed head. *head*: `dripgate.adapt` with the gate's
memory of class means. *alone*: without a memory. *retrain*: torch, from scratch, on the initial
part and what was kept, in as many steps as the first model. Sizes are small (1,200 initial
samples, 2,000 that come, 160 to 250 steps), so that all of it takes half an hour of one core.
"""


def write(folder: Path) -> list[Path]:
    """Write adapt.md beside the rows; returns what was written."""
    rows = read(folder / FILE, Row)
    path = folder / "adapt.md"
    path.write_text("\n".join(lines(rows)) + "\n", encoding="utf-8")
    return [path]


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """The page."""
    yield _INTRO
    yield from _returned(rows)
    yield from _costs(rows)
    for data in dict.fromkeys(row.data for row in rows):
        seeds = sorted({row.seed for row in rows if row.data == data})
        yield f"\n## {data}, {len(seeds)} seeds\n"
        yield "| stream | kept | before | head | alone | retrain |"
        yield "|---|---|---|---|---|---|"
        for stream in STREAMS:
            mine = [row for row in rows if row.data == data and row.stream == stream]
            before = _cell(mine, "none", 0.0, "before")
            for rule, keep in _KEPT:
                cells = [_cell(mine, rule, keep, m) for m in ("head", "head_alone", "retrain")]
                yield f"| {stream} | {keep:.0%} {rule} | {before} | {' | '.join(cells)} |"
        yield "\nWithout labels of one class (20 % random): recall of that class.\n"
        yield "| stream | before | head | alone |"
        yield "|---|---|---|---|"
        for stream in STREAMS:
            mine = [row for row in rows if row.data == data and row.stream == stream]
            found = [
                _cell(mine, *which, absent=True)
                for which in (("none", 0.0, "before"), (*WITHOUT, "head"), (*WITHOUT, "head_alone"))
            ]
            yield f"| {stream} | {' | '.join(found)} |"


def _cell(rows: Sequence[Row], rule: str, keep: float, method: str, *, absent: bool = False) -> str:
    found = [r for r in rows if (r.rule, r.keep, r.method) == (rule, keep, method)]
    if not found:
        return ""
    if absent:
        return Mean.of([row.absent for row in found]).points()
    worst = Mean.of([row.worst for row in found])
    return f"{Mean.of([row.accuracy for row in found]).points()} ({100 * worst.value:.0f})"


def _returned(rows: Sequence[Row]) -> Iterator[str]:
    """Of what a changed stream costs, which part the head brings back with 20 % kept."""
    yield "## How much of the loss comes back\n"
    yield (
        "Loss: accuracy on the clean stream before, minus that on the changed one before. Of it "
        "the part that learning from 20 % brings back; only where the loss is above 2 points.\n"
    )
    yield "| data | stream | loss, points | head, random | head, dripgate | retrain, random |"
    yield "|---|---|---|---|---|---|"
    for data in dict.fromkeys(row.data for row in rows):
        for stream in ("drift", "sensor"):
            mine = [row for row in rows if row.data == data]
            clean, changed = (_mean(mine, s, "none", 0.0, "before") for s in ("clean", stream))
            if clean is None or changed is None or clean - changed < 0.02:
                continue
            parts = []
            for rule, method in (("random", "head"), ("dripgate", "head"), ("random", "retrain")):
                after = _mean(mine, stream, rule, 0.2, method)
                share = None if after is None else (after - changed) / (clean - changed)
                parts.append("" if share is None else f"{share:.0%}")
            yield f"| {data} | {stream} | {100 * (clean - changed):.1f} | {' | '.join(parts)} |"


def _costs(rows: Sequence[Row]) -> Iterator[str]:
    yield "\n## What it costs\n"
    yield (
        "Seconds of processor time on one thread, and the peak memory of a process that does "
        "nothing else (interpreter and libraries included).\n"
    )
    yield "| data | head, 20 % | head, everything | retrain, 20 % | peak head | peak retrain |"
    yield "|---|---|---|---|---|---|"
    for data in dict.fromkeys(row.data for row in rows):
        mine = [row for row in rows if row.data == data]
        times = [
            [r.seconds for r in mine if (r.rule, r.keep, r.method) == which]
            for which in (("random", 0.2, "head"), ("all", 1.0, "head"), ("random", 0.2, "retrain"))
        ]
        peaks = [
            next((r.peak_mb for r in mine if r.method == m and r.peak_mb), None)
            for m in ("head", "retrain")
        ]
        cells = [f"{sum(t) / len(t):.2f} s" if t else "" for t in times]
        cells += [f"{peak:.0f} MB" if peak else "" for peak in peaks]
        yield f"| {data} | {' | '.join(cells)} |"


def _mean(rows: Sequence[Row], stream: str, rule: str, keep: float, method: str) -> float | None:
    found = [
        r.accuracy for r in rows
        if (r.stream, r.rule, r.keep, r.method) == (stream, rule, keep, method)
    ]  # fmt: skip
    return sum(found) / len(found) if found else None
