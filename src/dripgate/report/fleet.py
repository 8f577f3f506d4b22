"""The page of a fleet: devices one by one and together, by gate, and what they have in common."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dripgate import __version__
from dripgate.policy import Interval
from dripgate.report.page import dot
from dripgate.report.templates import template, write_page

if TYPE_CHECKING:
    from dripgate.fleet import DeviceAccount, FleetAccount

#: Devices that have a row, those to be looked at first.
_ROWS = 500
#: Devices whose classes stand beside those of all.
_BESIDE = 5


def render(found: "FleetAccount", name: str) -> str:
    """The page as one HTML document. name: of the store. Raises MissingExtra without jinja2."""
    filled = template("fleet.html")
    return filled(_context(found, name))


def write(found: "FleetAccount", name: str, path: Path) -> None:
    """Render to ``path``, as ``page.write`` does. Raises UserError and MissingExtra."""
    write_page(render(found, name), path)


def _context(found: "FleetAccount", name: str) -> dict[str, Any]:
    shown = found.devices[:_ROWS]
    ends = [one.estimates.accuracy for one in shown if one.estimates]
    low = min([0.9, *(one.low for one in ends)])
    return {
        "fleet": found,
        "store": name,
        "version": __version__,
        "seen": sum(one.seen for one in found.devices),
        "first": shown[0],
        "why_first": _why(shown[0]),
        "devices": [_row(one, low, found) for one in shown],
        "left_out": len(found.devices) - len(shown),
        "by_gate": [
            (gate, one.name, figures) for one in shown for gate, figures in one.figures.items()
        ],
        "known": [one for one in shown if one.estimates],
        "beside": [one for one in shown if one.estimates][:_BESIDE],
        "scenes": found.scenes,
    }


def _row(one: "DeviceAccount", low: float, found: "FleetAccount") -> dict[str, Any]:
    accuracy = one.estimates.accuracy if one.estimates else None
    own, common = found.scenes.devices.get(one.name, (0, 0)) if found.scenes else (0, 0)
    return {
        "account": one,
        "kept": sum(of.keep for of in one.figures.values()) / max(one.seen, 1),
        "accuracy": accuracy,
        "dot": _dot(accuracy, low, one.name) if accuracy else None,
        "common": (common, own) if own else None,
    }


def _dot(found: Interval, low: float, name: str) -> dict[str, Any]:
    error = (found.high - found.low) / 2
    middle = dot(found.value, low, 1.0, error, name)
    ends = dot((found.high + found.low) / 2, low, 1.0, error, name)["places"]
    return middle | {"places": [ends[0], middle["places"][1], ends[2]]}


def _why(one: "DeviceAccount") -> str:
    if one.estimates:
        at_most = f"{100 * one.estimates.accuracy.high:.1f} %"
        return f"its accuracy is surely at most {at_most}, the lowest such bound of all"
    return (
        f"no device has labels that chance drew, and {100 * one.strange:.1f} % of what it saw "
        "was strange"
    )
