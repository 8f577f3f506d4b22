"""Devices that send here, in lines for people: a fleet, and what comes in just now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dripgate.cli.common import percent
from dripgate.cli.describe import interval, when

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dripgate.fleet import DeviceAccount, FleetAccount, GateAccount, Scenes
    from dripgate.store import Event
    from dripgate.stream.figures import Figures
    from dripgate.stream.report import Report

#: Devices that are shown, those to be looked at first; classes, gates, and pairs of devices.
_DEVICES, _CLASSES, _GATES, _PAIRS = 20, 6, 5, 5


def fleet(found: FleetAccount) -> list[str]:
    """Devices together and one by one."""
    lines = [f"fleet        {len(found.devices):,} devices, the one to look at first comes first"]
    if found.accuracy and found.dropped_accuracy:
        lines += [
            f"  accuracy   {interval(found.accuracy)} of all, as devices differ (95 %)",
            f"  dropped    {interval(found.dropped_accuracy)} of it was right already",
        ]
    lines += [
        f"  {name:<10} {interval(share)} of the streams" for name, share in found.classes.items()
    ]
    for one in found.devices[:_DEVICES]:
        accuracy = interval(one.estimates.accuracy) if one.estimates else "no labels by chance"
        lines.append(
            f"  {one.name:<16} {_gate(one.gate, one.release)}: {one.seen:,} seen, "
            f"{percent(one.strange)} strange, accuracy {accuracy}"
        )
        lines += _estimates(one)
        lines += _by_gate(one.figures) if len(one.figures) > 1 else []
    if more := len(found.devices) - _DEVICES:
        lines += [f"  … and {more:,} more"] if more > 0 else []
    lines += [
        f"  {_gate(one.gate, one.release)}: in force on {one.running:,} devices; "
        f"{_figures(one)} on {one.devices:,}"
        for one in found.gates[:_GATES]
    ]
    if found.silent:
        lines.append(
            f"  silent     samples and no report from {', '.join(found.silent[:_DEVICES])}"
        )
    return lines + (
        _scenes(found.scenes) if found.scenes else [f"scenes       not compared: {found.apart}"]
    )


def reported(name: str, report: Report) -> list[str]:
    """What a device said of itself: its gate, and figures by gate, the one in force last."""
    seen = sum(one.seen for one in report.figures.values())
    of = _gate(report.gate, report.versions.get(report.gate, 0))
    return [f"{name}: {of}; {seen:,} seen", *_by_gate(report.figures)]


def event(one: Event) -> str:
    """A step of a device's log."""
    return f"{one.device}: {one.what} at {when(one.time)}: {one.said}"


def _estimates(one: DeviceAccount) -> list[str]:
    if one.estimates is None:
        return []
    mix = [f"{name} {interval(share)}" for name, share in list(one.mix.items())[:_CLASSES]]
    more = ", …" if len(one.mix) > _CLASSES else ""
    return [
        f"    dropped, and right already: {interval(one.estimates.dropped_accuracy)}",
        f"    classes: {', '.join(mix)}{more}",
    ]


def _gate(id: str, release: int) -> str:
    return f"gate {id}, release {release}" if release else f"gate {id}, no release"


def _by_gate(figures: Mapping[str, Figures]) -> list[str]:
    return [f"    by {gate}: {_figures(of)}" for gate, of in figures.items()]


def _figures(of: Figures | GateAccount) -> str:
    return (
        f"{of.seen:,} seen, {percent(of.keep / max(of.seen, 1))} kept, "
        f"{of.quarantine:,} quarantined, {of.unreadable:,} unreadable"
    )


def _scenes(found: Scenes) -> list[str]:
    lines = [
        f"scenes       {found.shared:,} of {found.scenes:,} were seen by several devices, in "
        f"{found.compared:,} samples; about {percent(found.expected)} of distinct ones count too"
    ]
    lines += [f"  {n:,} by {a} and {b}" for a, b, n in found.pairs[:_PAIRS]]
    if found.strangers:
        lines.append(
            f"  not compared: {found.strangers:,} samples of a gate that no device runs, or whose "
            "embeddings it cannot compare"
        )
    if found.older:
        lines.append(f"  not compared: {found.older:,} samples older than those")
    return lines
