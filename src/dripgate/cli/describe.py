"""Gates, stores and runs in lines for people."""

from pathlib import Path

from dripgate.cli.common import percent
from dripgate.gate_info import GateInfo
from dripgate.store.records import Summary as StoreSummary
from dripgate.store.size import format_size
from dripgate.stream.loop import Summary as RunSummary


def gate(info: GateInfo) -> list[str]:
    """What a gate says about itself, in lines for people."""
    seen = info.calibration
    lines = [
        f"layer      {info.layer.name} {'×'.join(map(str, info.layer.shape))}: {info.layer.why}",
        f"score      {info.score}, on {seen.samples:,} held-out samples "
        f"(model accuracy {percent(seen.accuracy)})",
        f"keep       {percent(info.keep)} expected: {seen.why}",
        f"parity     score {info.parity.score:.1e}, heatmap {info.parity.heatmap:.1e} relative "
        f"to autograd on {info.parity.samples} samples",
        "trade-off  kept → expected accuracy of the probe (random's)",
    ]
    lines += [
        f"           {point.keep:4.0%} → {point.expected:.3f} ({point.random:.3f})"
        for point in seen.curve[1::4]
    ]
    return lines


def store(summary: StoreSummary, gate: GateInfo | None) -> list[str]:
    """What a store holds, in lines for people."""
    limit = "no limit" if summary.limit is None else f"limit {format_size(summary.limit)}"
    counters = summary.counters
    lines = [
        f"samples      {summary.samples:,}  {format_size(summary.payload_bytes)} of payload, "
        f"{format_size(summary.disk_bytes)} on disk, {limit}",
        f"labelled     {summary.labelled:,}",
        *(f"{name:<12} {count:,}" for name, count in sorted(summary.decisions.items())),
        "reasons      " + ", ".join(f"{k} {n:,}" for k, n in sorted(summary.reasons.items())),
    ]
    if counters.get("seen"):
        stored = summary.payload_bytes / max(counters.get("bytes_seen", 0), 1)
        lines.append(
            f"stream       {counters['seen']:,} seen, {counters.get('unreadable', 0):,} "
            f"unreadable, {percent(1 - stored)} of its bytes not stored"
        )
    lines += [f"{name:<12} {n:,}" for name, n in sorted(counters.items()) if "evict" in name]
    if gate:
        names = gate.classes
        lines.append("predicted    " + ", ".join(
            f"{names[index]} {count:,}" for index, count in sorted(summary.predicted.items())
            if 0 <= index < len(names)
        ))  # fmt: skip
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
    lines += [f"  unreadable {entry.source}: {entry.cause}" for entry in summary.unreadable_named]
    return lines
