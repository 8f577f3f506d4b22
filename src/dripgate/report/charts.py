"""The charts: score histogram, trade-off curve, waveform, and the small bars of the tables.

Each returns one SVG document as text. ``standalone`` adds style and background, for a file of its
own; on the page the style is given once.
"""

import math
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree as ET

import numpy as np

from dripgate.gate_info import CurvePoint, Histogram
from dripgate.report import words
from dripgate.report.model import StreamHistogram
from dripgate.report.svg import (
    Axis,
    add,
    bottom_axis,
    canvas,
    left_axis,
    legend,
    striped,
    text_of,
)
from dripgate.types import Array, Thresholds

WIDE, NARROW = 860, 350
_LEFT, _RIGHT = 56.0, 24.0  # margins of a plot, for the axis labels


def histogram_svg(
    stream: StreamHistogram | None,
    calibration: Histogram | None,
    thresholds: Thresholds,
    *,
    width: int = WIDE,
    standalone: bool = True,
) -> str:
    """Scores of the stream by decision, the kept band, and the calibration scores as an outline.

    The outline is scaled to the stream's size and put into its bins, so that equal distributions
    coincide. With stream None, the calibration scores alone.
    """
    title = "Score histogram"
    source = stream or calibration
    if source is None:
        return _nothing(title, "no scores were recorded", width, standalone=standalone)
    edges = np.asarray(source.edges, np.float64)
    if not edges[-1] > edges[0]:
        why = f"every score is {words.number(edges[0])}"
        return _nothing(title, why, width, standalone=standalone)
    parts = _parts(stream) if stream else []
    total = float(sum(sum(counts) for _, _, counts in parts))
    outline = _outline(calibration, edges, total) if calibration else None
    counted = [f"{words.count(sum(counts))} {name}" for _, name, counts in parts]
    band = f"Scores kept: {words.band(thresholds.low, thresholds.high)}."
    root = canvas(
        width, 312, title, f"{', '.join(counted)}. {band}".lstrip(". "), styled=standalone
    )

    left, right, bottom = _LEFT, width - _RIGHT, 262.0
    items = [(kind, name) for kind, name, _ in parts] + [("band", "kept band")]
    items += [("outline", "calibration, scaled to the stream" if parts else "calibration")]
    top = legend(root, items if outline is not None else items[:-1], left, right) + 20

    x = Axis(edges[0], edges[-1], left, right, log=_geometric(edges))
    pixels = np.array([x(edge) for edge in edges])
    drawn = np.diff(pixels)
    per_width = drawn.mean() / np.maximum(drawn, 1e-9)  # 1 where all bins are equally wide
    columns = [np.asarray(counts) * per_width for _, _, counts in parts]
    lined = outline * per_width if outline is not None else np.zeros(len(drawn))
    y = Axis(
        0, max(1.0, 1.04 * float(max(sum(columns, np.zeros(1)).max(), lined.max()))), bottom, top
    )

    _band(root, x, thresholds, top, bottom)
    left_axis(root, y, left, right)
    base = np.zeros(len(drawn))
    for (kind, _, _), column in zip(parts, columns, strict=True):
        _bars(root, kind, pixels, y, base, base + column)
        base = base + column
    if outline is not None:
        steps = zip(np.repeat(pixels, 2)[1:-1], np.repeat(lined, 2), strict=True)
        add(root, "polyline", class_="outline", points=_points((at, y(v)) for at, v in steps))
    _threshold_lines(root, x, thresholds, top, bottom)
    bottom_axis(root, x, bottom, "DRIP score" + (", logarithmic" if x.log else ""))
    return text_of(root)


def _parts(stream: StreamHistogram) -> list[tuple[str, str, tuple[int, ...]]]:
    """(class, name, counts) from the bottom of the stack to its top."""
    parts = [("keep", "kept", stream.kept), ("drop", "dropped", stream.dropped)]
    if any(stream.quarantined):
        parts.append(("quarantine", "quarantined", stream.quarantined))
    return parts


def _geometric(edges: Array) -> bool:
    """Whether the edges are equally spaced in the logarithm."""
    if len(edges) < 3 or edges[0] <= 0:
        return False
    steps = np.diff(np.log(edges))
    return bool(np.allclose(steps, steps.mean(), rtol=1e-3, atol=0))


def _outline(calibration: Histogram, edges: Array, total: float) -> Array | None:
    """Calibration counts in the bins given, scaled to ``total``; the end bins hold the rest."""
    cumulative = np.concatenate([[0.0], np.cumsum(calibration.counts)])
    if cumulative[-1] == 0:
        return None
    at = np.interp(edges, calibration.edges, cumulative)
    at[0], at[-1] = 0, cumulative[-1]
    return np.asarray(np.diff(at) * ((total or cumulative[-1]) / cumulative[-1]))


def _bars(root: ET.Element, kind: str, x: Array, y: Axis, base: Array, top: Array) -> None:
    """One layer of the stack: a bar for every bin that holds something."""
    for left, right, low, high in zip(x[:-1], x[1:], base, top, strict=True):
        if high > low:
            gap = 1.0 if right - left > 4 else 0.0
            box = (left, y(high), right - left - gap, y(low) - y(high))
            if kind == "quarantine":
                striped(root, *box)
            else:
                names = ("x", "y", "width", "height")
                add(root, "rect", class_=kind, **dict(zip(names, box, strict=True)))


def _band(root: ET.Element, x: Axis, thresholds: Thresholds, top: float, bottom: float) -> None:
    """Shade what some class keeps, and once more what every class keeps."""
    low = [-math.inf if bound is None else bound for bound in thresholds.low] or [-math.inf]
    high = [math.inf if bound is None else bound for bound in thresholds.high] or [math.inf]
    for start, end in ((min(low), max(high)), (max(low), min(high))):
        if x(end) > x(start):
            add(
                root, "rect", class_="band",
                x=x(start), y=top, width=x(end) - x(start), height=bottom - top,
            )  # fmt: skip


def _threshold_lines(
    root: ET.Element, x: Axis, thresholds: Thresholds, top: float, bottom: float
) -> None:
    """A line at each bound, dashed at both ends of a range over classes, labelled above."""
    for name, bounds in (("low", thresholds.low), ("high", thresholds.high)):
        given = [bound for bound in bounds if bound is not None]
        if not given:
            continue
        ends = list(dict.fromkeys((min(given), max(given))))
        for end in ends:
            dash = "none" if len(ends) == 1 else "5 3"
            add(
                root, "line", class_="threshold", stroke_dasharray=dash,
                x1=x(end), x2=x(end), y1=top, y2=bottom,
            )  # fmt: skip
        # low's label is left of its line and high's right of it, so that a narrow band is legible
        text = f"{name} {words.span(bounds)}"
        at, leftwards = (x(min(given)), True) if name == "low" else (x(max(given)), False)
        if leftwards and at - 6.5 * len(text) < 0:
            leftwards = False
        elif not leftwards and at + 6.5 * len(text) > x.end + _RIGHT:
            leftwards = True
        anchor = "end" if leftwards else "start"
        add(root, "text", text, class_="keep", x=at, y=top - 7, text_anchor=anchor)


def tradeoff_svg(
    curve: Sequence[CurvePoint],
    full: float,
    keep: float,
    *,
    error: float = 0.0,
    width: int = WIDE,
    standalone: bool = True,
) -> str:
    """Expected accuracy by kept share, with random's, everything's, and the share chosen.

    error: one standard error of ``full``, shaded on both sides of it where it is given.
    """
    title = "Trade-off"
    numbers = sorted((p.keep, p.expected, p.random) for p in curve)
    points = [point for point in numbers if all(map(math.isfinite, point))]
    if not points:
        return _nothing(title, "no trade-off curve was recorded", width, standalone=standalone)
    kept, expected, random = (np.array(column) for column in zip(*points, strict=True))
    chosen = float(np.interp(keep, kept, expected)) if math.isfinite(keep) else math.nan
    said = (
        f"Keeping {words.share(keep)} is expected to give {words.accuracy(chosen)}; "
        f"everything gives {words.accuracy(full)}."
    )
    root = canvas(width, 332, title, said, styled=standalone)

    left, right, bottom = _LEFT, width - _RIGHT, 282.0
    everything = "everything ± 1 standard error" if error > 0 else "everything"
    items = [("ours", "dripgate"), ("random", "random"), ("full", everything)]
    top = legend(root, items, left, right) + 20
    ends = [full - error, full + error] if math.isfinite(full) else []
    values = np.concatenate([expected, random, ends])
    pad = 0.08 * float(np.ptp(values)) or 0.01
    x = Axis(0, 1, left, right)
    y = Axis(float(values.min()) - pad, float(values.max()) + pad, bottom, top)

    left_axis(root, y, left, right)
    if ends:
        add(
            root, "rect", class_="error",
            x=left, y=y(ends[1]), width=right - left, height=y(ends[0]) - y(ends[1]),
        )  # fmt: skip
        add(root, "line", class_="full", x1=left, x2=right, y1=y(full), y2=y(full))
    for name, line in (("random", random), ("ours", expected)):
        track = _points((x(a), y(b)) for a, b in zip(kept, line, strict=True))
        add(root, "polyline", class_=name, points=track)
    for share, ours, other in points:
        dot = add(root, "circle", class_="dot", cx=x(share), cy=y(ours), r=3.5)
        tip = f"{words.share(share)} kept: {words.accuracy(ours)}, random {words.accuracy(other)}"
        add(dot, "title", tip)
    if math.isfinite(chosen):
        label = f"chosen: {words.share(keep)} kept, {words.accuracy(chosen)}"
        _chosen(root, x(keep), y(chosen), top, bottom, label)
    bottom_axis(root, x, bottom, "share of the stream kept", words.share)
    return text_of(root)


def _chosen(
    root: ET.Element, at: float, level: float, top: float, bottom: float, text: str
) -> None:
    """A line and a ring where the gate stands."""
    add(root, "line", class_="threshold", x1=at, x2=at, y1=top, y2=bottom)
    add(root, "circle", class_="chosen", cx=at, cy=level, r=6)
    leftwards = at > 200
    anchor = "end" if leftwards else "start"
    add(root, "text", text, class_="keep", x=at, y=top - 7, text_anchor=anchor)


def waveform_svg(samples: Array, *, columns: int = 160, height: int = 56) -> str:
    """A waveform (T,) as its extremes per column, scaled to its own peak."""
    wave = np.nan_to_num(np.asarray(samples, np.float64).reshape(-1))
    root = canvas(columns, height, "Waveform", f"{words.count(len(wave))} samples", styled=False)
    root.set("preserveAspectRatio", "none")
    peak = float(np.abs(wave).max(initial=0)) or 1.0
    pieces = [piece for piece in np.array_split(wave / peak, columns) if len(piece)]
    half, reach = height / 2, height / 2 - 2
    upper = [(i, half - reach * piece.max() - 0.5) for i, piece in enumerate(pieces)]
    lower = [(i, half - reach * piece.min() + 0.5) for i, piece in enumerate(pieces)]
    if pieces:
        add(root, "polygon", class_="wave", points=_points([*upper, *reversed(lower)]))
    return text_of(root)


def share_svg(parts: Sequence[tuple[str, float]], name: str, height: int = 12) -> str:
    """A horizontal bar across the width it is given: (class, share of the whole) from the left."""
    said = ", ".join(f"{kind} {words.share(value)}" for kind, value in parts)
    root = _row(f"{name}: {said}", height)
    add(root, "rect", class_="track", width="100%", height=height)
    start = 0.0
    for kind, value in parts:
        if value > 0:
            add(
                root, "rect", class_=kind, height=height,
                x=f"{100 * start:.2f}%", width=f"{100 * value:.2f}%",
            )  # fmt: skip
            start += value
    return text_of(root)


def dot_svg(value: float, low: float, high: float, error: float, name: str, kind: str) -> str:
    """One row of a dot plot: a dot at ``value`` ± ``error`` on an axis low … high."""
    x = Axis(low, high, 3, 97)
    root = _row(f"{name}: {words.accuracy(value)}", 20)
    add(root, "line", class_="grid", x1=f"{x.start}%", x2=f"{x.end}%", y1=10, y2=10)
    if math.isfinite(value):
        ends = {"x1": f"{x(value - error):.2f}%", "x2": f"{x(value + error):.2f}%"}
        add(root, "line", class_="whisker", y1=10, y2=10, **ends)
        add(root, "circle", class_=kind, cx=f"{x(value):.2f}%", cy=10, r=5.5)
    return text_of(root)


def _row(label: str, height: int) -> ET.Element:
    """A picture as wide as its cell, drawn in per cent."""
    root = canvas(100, height, label, "", styled=False)
    del root.attrib["viewBox"]
    root.set("width", "100%")
    root.set("height", str(height))
    return root


def _points(pairs: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{a:.2f},{b:.2f}" for a, b in pairs)


def _nothing(title: str, why: str, width: int, *, standalone: bool) -> str:
    root = canvas(width, 80, title, why, styled=standalone)
    add(root, "text", f"{title}: {why}", x=width / 2, y=44, text_anchor="middle")
    return text_of(root)
