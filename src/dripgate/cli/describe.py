"""Gates, stores and runs in lines for people."""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import groupby
from typing import TYPE_CHECKING

from dripgate.cli.common import percent
from dripgate.store.size import format_size
from dripgate.text import one_line

if TYPE_CHECKING:  # what is described need not be imported to describe something else
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dripgate.data import Found, Pile
    from dripgate.gate_info import GateInfo
    from dripgate.graph.target import Candidate
    from dripgate.policy import Alarm, Interval
    from dripgate.release.state import Releases
    from dripgate.store.records import Event
    from dripgate.store.records import Summary as StoreSummary
    from dripgate.stream.account import Account
    from dripgate.stream.force import Force
    from dripgate.stream.labels import LabelTally
    from dripgate.stream.loop import Summary as RunSummary
    from dripgate.stream.receive import Tally
    from dripgate.stream.uplink import State

_ROWS = 50


#: Kinds of operators shown of a head.
_SHOWN = 8


def gate(info: GateInfo) -> list[str]:
    """What a gate says about itself, in lines for people."""
    seen = info.calibration
    lines = [
        f"target     {info.layer.name} {'×'.join(map(str, info.layer.shape))}: {info.layer.why}",
        f"head       {_counted(info.layer.behind)}, then {_ENDS[info.head]}; "
        f"{info.layer.added} operators added for the gate",
        f"score      {info.score}, on {seen.samples:,} held-out samples "
        f"(model accuracy {percent(seen.accuracy)})",
        f"keep       {percent(info.keep)} expected: {seen.why}",
        f"parity     logits {info.parity.logits:.1e} from the model's own, heatmap "
        f"{info.parity.heatmap:.1e} from finite differences, on {info.parity.samples} samples",
        f"learning   {_learning(info)}",
        "trade-off  kept → expected accuracy of the probe (random's)",
    ]
    lines += [
        f"           {point.keep:4.0%} → {point.expected:.3f} ({point.random:.3f})"
        for point in seen.curve[1::4]
    ]
    return lines


def _learning(info: GateInfo) -> str:
    """What 'adapt' can do with the gate."""
    if info.last is None:
        return "cannot on the device: the head does not end in a linear layer of its own"
    layer = f"the last layer, {info.last.rows} × {info.last.width}, can on the device"
    if info.memory is None:
        return f"{layer}; without a memory (fit --memory), so it may forget"
    of = "class means" if info.memory.form == "stats" else f"{info.memory.each} features a class"
    size = format_size(info.memory.size(info.last.width))
    return f"{layer}; {size} of memory: {of} of {info.memory.samples:,} samples"


def data(found: Found) -> list[str]:
    """A data set's summary, in lines for people: classes, splits, what is not used, and notes."""
    train, test = (sum(getattr(row, side) for row in found.classes) for side in ("train", "test"))
    lines = [
        f"{one_line(found.name)}: {train:,} train and {test:,} test samples in "
        f"{sum(row.train + row.test > 0 for row in found.classes)} classes, "
        f"{found.not_used:,} files skipped"
    ]
    for row in found.classes[:_ROWS]:
        gone = f", {row.unreadable:,} cannot be read" if row.unreadable else ""
        counts = f"{row.train:>7,} train {row.test:>6,} test{gone}"
        lines.append(f"  class {one_line(row.name):<16} {counts}")
    if len(found.classes) > _ROWS:
        lines.append(f"  … and {len(found.classes) - _ROWS:,} more classes; all are in --json")
    lines += [
        f"  split {one_line(folder) + '/':<16} {split.files:>7,} files, for {split.side}"
        for folder, split in found.splits.items()
    ]
    lines += unused(found.unused)
    return lines + [f"  note: {one_line(note)}" for note in found.notes]


def unused(piles: Mapping[str, Pile]) -> list[str]:
    """What was not used, in lines for people: by reason, the largest first, with examples."""
    lines = []
    for reason, pile in sorted(piles.items(), key=lambda item: -item[1].count):
        more = ", …" if pile.count > len(pile.examples) else ""
        # Causes that differ in their numbers are with the examples.
        text = f"{', '.join(pile.examples)}{more}" + ("" if "…" in reason else f": {reason}")
        lines.append(f"  skipped {pile.count:,}: {one_line(text)}")
    return lines


_ENDS = {"softmax": "softmax", "sigmoid": "a sigmoid per class (multi-label)"}


def _counted(operators: tuple[str, ...]) -> str:
    """Operators in order, neighbours of a kind counted: 'Relu, 2 Gemm'."""
    runs = [(name, len(list(group))) for name, group in groupby(operators)]
    shown = [name if n == 1 else f"{n} {name}" for name, n in runs]
    if len(shown) > _SHOWN:
        shown = [*shown[: _SHOWN - 1], f"… {shown[-1]} ({len(operators)} in all)"]
    return ", ".join(shown) or "nothing"


def cuts(looked_at: list[Candidate]) -> list[str]:
    """Cuts that could be the target, last first, in lines for people."""
    return [
        f"{found.cut.name}  {'×'.join(map(str, found.cut.sizes))}  "
        + (found.problem or f"the gradient reaches {found.cells} cells")
        for found in looked_at
    ] or ["no tensor with spatial cells carries everything"]


def cuts_as_data(looked_at: list[Candidate]) -> list[dict[str, object]]:
    """The same for --json."""
    return [
        {"name": found.cut.name, "shape": found.cut.sizes, "cells": found.cells,
         "problem": found.problem or None}
        for found in looked_at
    ]  # fmt: skip


def store(summary: StoreSummary, gate: GateInfo | None) -> list[str]:
    """What a store holds, in lines for people."""
    limit = "no limit" if summary.limit is None else f"limit {format_size(summary.limit)}"
    counters = summary.counters
    lines = [
        f"samples      {summary.samples:,}  {format_size(summary.payload_bytes)} of payload, "
        f"{format_size(summary.disk_bytes)} on disk, {limit}",
        f"labelled     {summary.labelled:,}",
        f"uploaded     {summary.uploaded:,}",
        *(f"{name:<12} {count:,}" for name, count in sorted(summary.decisions.items())),
        "reasons      " + ", ".join(f"{k} {n:,}" for k, n in sorted(summary.reasons.items())),
    ]
    if counters.get("seen"):
        stored = summary.payload_bytes / max(counters.get("bytes_seen", 0), 1)
        lines.append(
            f"stream       {counters['seen']:,} seen, {counters.get('unreadable', 0):,} "
            f"unreadable, {percent(1 - stored)} of its bytes not stored"
        )
    lines += [
        f"{name:<12} {n:,}"
        for name, n in sorted(counters.items())
        if "evicted" in name or "purged" in name
    ]
    names = gate.classes if gate else ()
    predicted = (
        f"{names[index] if 0 <= index < len(names) else index} {count:,}"
        for index, count in sorted(summary.predicted.items())
    )
    if summary.predicted:
        lines.append("predicted    " + ", ".join(predicted))
    return lines


def run(summary: RunSummary, path: Path, on_disk: int) -> list[str]:
    """A run's summary, in lines for people."""
    saved = 1 - summary.bytes_stored / summary.bytes_seen if summary.bytes_seen else 0.0
    lines = [
        f"seen         {summary.seen:>9,}  {format_size(summary.bytes_seen)}, "
        f"{summary.seconds:.1f} s",
        f"kept         {summary.kept:>9,}",
        f"quarantined  {summary.quarantined:>9,}",
        f"dropped      {summary.dropped:>9,}  of which unreadable {summary.unreadable:,}",
        f"stored       {summary.stored:>9,}  {summary.present:,} were there already, "
        f"{summary.refused:,} found no room",
        f"storage saved {percent(saved):>8}  {path} takes {format_size(on_disk)}",
    ]
    if summary.lost:
        lines.append(f"lost         {summary.lost:>9,}  before a verdict: slower than the source")
    if summary.gaps:
        lines.append(f"gaps         {summary.gaps:>9,}  the device was away, or lost something")
    if summary.known:
        lines.append(
            f"known        {summary.known:>9,}  files decided before by this gate and these "
            "options; --again decides them again"
        )
    if summary.stayed:
        lines.append(f"stayed       {summary.stayed:>9,}  files that were to go; named above")
    lines += _reasons(summary.reasons)
    lines += [
        f"  unreadable {one_line(entry.source)}: {one_line(entry.cause)}"
        for entry in summary.unreadable_named
    ]
    if more := summary.unreadable - len(summary.unreadable_named):
        lines.append(f"  … and {more:,} more that are unreadable")
    lines += [
        f"  not read {one_line(name)}: it went on changing; write beside and rename, or give "
        "--settle" for name in summary.restless
    ]  # fmt: skip
    return lines


def account(policy: Account) -> list[str]:
    """What a policy did with the stream and what it knows about it, in lines for people."""
    lines = ["policy       all runs into this store:", *_reasons(policy.reasons)]
    lines += [*_classes(policy), *estimates(policy)]
    if policy.outside:
        share = percent(policy.outside / max(sum(c.seen for c in policy.classes), 1))
        lines.append(
            f"outside      {policy.outside:,} samples ({share}) beyond the calibrated quality: "
            "broken, or something new; 'dripgate export' puts those kept, unless labelled, "
            "into quarantine/"
        )
    if policy.strange:
        named = ", ".join(f"{label} {count:,}" for label, count in policy.strange.items())
        lines.append(f"NEW CLASS    {named}: labels of which the gate has no class")
    lines += [_alarm(alarm) for alarm in policy.alarms]
    return lines


def estimates(policy: Account) -> list[str]:
    """What the audit says of the stream, in lines for people."""
    if (found := policy.estimates) is None:
        return [f"estimates    none: {policy.why}"]
    dropped = sum(count for key, count in policy.reasons.items() if key.startswith("drop:"))
    return [
        f"estimates    from {found.labelled:,} labelled samples, {found.by_chance:,} of them "
        f"kept by chance, for {percent(found.covered)} of the stream (95 %):",
        f"  accuracy   {interval(found.accuracy)} of the deployed model",
        f"  dropped    {interval(found.dropped_accuracy)} of it was right already; "
        f"{interval(found.dropped_mistakes)} of all mistakes were in it, "
        f"by chance it would be {percent(dropped / max(sum(policy.reasons.values()), 1))}",
    ]


def releases(force: Force | None, found: Releases, events: Sequence[Event]) -> list[str]:
    """Which gate is in force, how far a release is, and the log, in lines for people."""
    if force is None:
        return ["in force     no gate: nothing was run into this store"]
    version = found.versions.get(force.id)
    of = f"release {version}" if version else "as it was given to run"
    lines = [f"in force     {force.id}, {of}"]
    if force.previous:
        lines.append(f"before       {force.previous}")
    if trial := found.trial:
        limits, number = trial.manifest.limits, trial.manifest.version
        if trial.phase == "shadow":
            done = f"{trial.shadow.samples:,} of {limits.shadow:,} samples"
        else:
            done = f"{trial.samples:,} of {limits.watch:,} samples"
        lines.append(f"under way    release {number} in its {trial.phase}: {done}")
    elif found.last:
        lines.append(f"last         {found.last}")
    return lines + [f"  {when(one.time)}  {one.what:<12} {one.said}" for one in events]


def when(seconds: float) -> str:
    """A time in UTC, to the second."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):  # a device's clock may say anything
        return str(seconds)


def _classes(policy: Account) -> list[str]:
    """What was kept of each class as it was predicted, and its true share of the stream."""
    found = policy.estimates
    mix = found.classes if found else [None] * len(policy.classes)
    lines = ["class           predicted      kept   share" + "  by label" * bool(found)]
    for one, share in zip(policy.classes, mix, strict=True):
        part = one.kept / max(one.seen, 1)
        kept = f"  {one.name:<12} {one.seen:>10,} {one.kept:>9,} {part:>7.1%}"
        lines.append(f"{kept}  {interval(share)} of the stream" if share else kept)
    return lines


def _reasons(reasons: Mapping[str, int]) -> list[str]:
    return [f"  {why:<22} {count:>9,}" for why, count in sorted(reasons.items())]


def interval(found: Interval) -> str:
    """A share with its interval."""
    return f"{found.value:.1%} ({found.low:.1%} … {found.high:.1%})"


def _alarm(alarm: Alarm) -> str:
    since = when(alarm.since)
    return (
        f"DRIFT        {alarm.what} since {since}, {'over' if alarm.over else 'going on'}: "
        f"{alarm.statistic:.1f} standard deviations, stability index {alarm.psi:.2f}, "
        f"{alarm.windows} windows"
    )


def uplink(state: State, left: int) -> list[str]:
    """What an uplink did, in lines for people."""
    lines = [
        f"sent         {state.confirmed:>9,}  confirmed, in {state.messages:,} messages of "
        f"{format_size(state.bytes)}",
        f"pending      {left:>9,}  of which {state.skipped:,} too large for the broker",
    ]
    return lines + ([f"uplink       {state.trouble}"] if state.trouble else [])


def labels(tally: LabelTally) -> list[str]:
    """What came by MQTT, in lines for people."""
    unused = tally.missing + tally.without
    return [
        f"labels       {tally.labelled:>9,}  came in {tally.messages:,} messages; {tally.same:,} "
        f"were there already, {unused:,} of no use, {tally.strange:,} of other classes, "
        f"{tally.refused:,} messages refused"
    ]


def received(tally: Tally) -> list[str]:
    """What came to a receiver, in lines for people."""
    return [
        f"received {tally.messages:,} messages, {format_size(tally.bytes)}: "
        f"{tally.stored:,} stored, {tally.present:,} were there already, "
        f"{tally.refused:,} found no room, "
        f"{tally.metadata:,} without payload, {tally.invalid:,} invalid"
    ]
