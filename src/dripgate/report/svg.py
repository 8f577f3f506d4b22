"""SVG by hand: elements, axes, ticks, a legend, and the colours of every picture."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple
from xml.etree import ElementTree as ET

from dripgate.report import words

#: One accent per decision; text on ``surface`` has a contrast of at least 4.5. The ``…_fill``
#: colours also differ in lightness, for print and for those who see no hue.
LIGHT = {
    "page": "#f6f6f3", "surface": "#ffffff", "ink": "#1d2529", "muted": "#5a656c",
    "line": "#dcdfdd", "keep": "#0b6b62", "keep_fill": "#16877b", "drop": "#596673",
    "drop_fill": "#b4bec8", "quarantine": "#94520a", "quarantine_fill": "#d98a1f",
}  # fmt: skip
DARK = {
    "page": "#101416", "surface": "#181d20", "ink": "#e6eae9", "muted": "#9aa6ab",
    "line": "#323a3e", "keep": "#5ed3c3", "keep_fill": "#35ab9b", "drop": "#a9b5c0",
    "drop_fill": "#515d68", "quarantine": "#f0b45c", "quarantine_fill": "#e0a040",
}  # fmt: skip

_STYLE = """
.chart { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.chart text { fill: %(muted)s; font-variant-numeric: tabular-nums; }
.chart text.strong { fill: %(ink)s; font-weight: 600; }
.chart text.keep { fill: %(keep)s; font-weight: 600; }
.chart .surface { fill: %(surface)s; }
.chart .grid { stroke: %(line)s; stroke-width: 1; }
.chart .axis { stroke: %(muted)s; stroke-width: 1; }
.chart rect.keep { fill: %(keep_fill)s; }
.chart rect.drop { fill: %(drop_fill)s; }
.chart rect.quarantine { fill: %(quarantine_fill)s; }
.chart .stripe { stroke: %(surface)s; stroke-dasharray: 1.5 3; }
.chart .band { fill: %(keep_fill)s; fill-opacity: .09; }
.chart .threshold { stroke: %(keep)s; stroke-width: 1.5; }
.chart .outline { fill: none; stroke: %(ink)s; stroke-width: 1.5; stroke-linejoin: round; }
.chart .ours { fill: none; stroke: %(keep_fill)s; stroke-width: 2.5; stroke-linejoin: round; }
.chart .error { fill: %(ink)s; fill-opacity: .07; }
.chart .random { fill: none; stroke: %(drop)s; stroke-width: 2; stroke-dasharray: 6 4; }
.chart .full { fill: none; stroke: %(ink)s; stroke-width: 1.5; stroke-dasharray: 1.5 3; }
.chart .dot { fill: %(keep_fill)s; stroke: %(surface)s; stroke-width: 2; }
.chart .track { fill: %(line)s; fill-opacity: .55; }
.chart .chosen { fill: %(surface)s; stroke: %(keep)s; stroke-width: 3; }
.chart .hollow { fill: %(surface)s; stroke: %(drop)s; stroke-width: 2; }
.chart .whisker { stroke: %(drop)s; stroke-width: 1.5; }
.chart .wave { fill: %(muted)s; }
"""


def chart_css() -> str:
    """Style of all charts, light and dark; printed pages stay light."""
    dark = _STYLE % DARK
    return f"{_STYLE % LIGHT}@media screen and (prefers-color-scheme: dark) {{{dark}}}\n"


def add(parent: ET.Element, tag: str, text: str = "", **attributes: float | str) -> ET.Element:
    """A child element; ``class_`` is class, ``stroke_width`` is stroke-width."""
    child = ET.SubElement(
        parent, tag, {k.strip("_").replace("_", "-"): _value(v) for k, v in attributes.items()}
    )
    child.text = words.clean(text) or None
    return child


def _value(value: float | str) -> str:
    if isinstance(value, str):
        return words.clean(value)
    return f"{value:.2f}".rstrip("0").rstrip(".")


def canvas(
    width: float, height: float, title: str, description: str, *, styled: bool
) -> ET.Element:
    """The root of a chart; ``styled`` brings its own style and ground, to stand alone."""
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "class": "chart"})
    root.set("viewBox", f"0 0 {_value(width)} {_value(height)}")
    root.set("role", "img")
    root.set("aria-label", words.clean(f"{title}. {description}"))
    add(root, "title", title)
    add(root, "desc", description)
    if styled:
        root.set("width", _value(width))
        root.set("height", _value(height))
        add(root, "style", chart_css())
        add(root, "rect", class_="surface", width="100%", height="100%")
    return root


def text_of(root: ET.Element) -> str:
    """The document as text."""
    return ET.tostring(root, encoding="unicode")


class Axis(NamedTuple):
    """Values low … high on pixels start … end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; what lies beyond an end is drawn at that end."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self, wanted: int = 5) -> list[tuple[float, str]]:
        """Round values with their labels."""
        return _decades(self.low, self.high, wanted) if self.log else self._steps(wanted)

    def _steps(self, wanted: int) -> list[tuple[float, str]]:
        rough = (self.high - self.low) / max(wanted, 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough * 0.75)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        decimals = next((d for d in range(7) if abs(step * 10**d - round(step * 10**d)) < 1e-6), 0)
        plain = step >= 1e-6 and abs(self.high) < 1e6
        values = [step * i for i in range(first, last + 1)]
        return [(v, f"{v:,.{decimals}f}" if plain else words.number(v)) for v in values]


def _decades(low: float, high: float, wanted: int) -> list[tuple[float, str]]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 3 else (1, 3) if len(powers) <= wanted else (1,)
    values = [k * 10.0**p for p in powers for k in factors]
    shown = [v for v in values if low <= v <= high]
    return [(v, words.number(v)) for v in shown[:: max(1, math.ceil(len(shown) / (wanted + 2)))]]


def bottom_axis(
    root: ET.Element, x: Axis, y: float, title: str, show: Callable[[float], str] | None = None
) -> None:
    """Line, ticks and title under a plot."""
    add(root, "line", class_="axis", x1=x.start, x2=x.end, y1=y, y2=y)
    for value, label in x.ticks(max(3, int((x.end - x.start) / 110))):
        at = x(value)
        add(root, "line", class_="axis", x1=at, x2=at, y1=y, y2=y + 4)
        add(root, "text", show(value) if show else label, x=at, y=y + 18, text_anchor="middle")
    add(root, "text", title, x=(x.start + x.end) / 2, y=y + 38, text_anchor="middle")


def left_axis(root: ET.Element, y: Axis, left: float, right: float, wanted: int = 4) -> None:
    """Grid lines with their values on the left."""
    for value, label in y.ticks(wanted):
        at = y(value)
        add(root, "line", class_="grid", x1=left, x2=right, y1=at, y2=at)
        add(root, "text", label, x=left - 8, y=at + 4, text_anchor="end")


def striped(root: ET.Element, x: float, y: float, width: float, height: float) -> None:
    """A quarantine bar: stripes tell it from the others without its colour."""
    add(root, "rect", class_="quarantine", x=x, y=y, width=width, height=height)
    at = x + width / 2
    add(root, "line", class_="stripe", x1=at, x2=at, y1=y, y2=y + height, stroke_width=width)


def legend(root: ET.Element, items: Sequence[tuple[str, str]], left: float, right: float) -> float:
    """(class, text) items in rows from the top, each with its swatch; the height they take."""
    x, y = left, 8.0
    for kind, text in items:
        needed = 26 + 6.6 * len(text)
        if x > left and x + needed > right:
            x, y = left, y + 20
        _swatch(root, kind, x, y)
        add(root, "text", text, x=x + 26, y=y + 10)
        x += needed + 18
    return y + 24


def _swatch(root: ET.Element, kind: str, x: float, y: float) -> None:
    if kind == "quarantine":
        striped(root, x, y, 20, 12)
    elif kind in ("keep", "drop", "band"):
        add(root, "rect", class_=kind, x=x, y=y, width=20, height=12)
        if kind == "band":
            add(root, "line", class_="threshold", x1=x, x2=x, y1=y, y2=y + 12)
    else:
        add(root, "line", class_=kind, x1=x, x2=x + 20, y1=y + 6, y2=y + 6)
