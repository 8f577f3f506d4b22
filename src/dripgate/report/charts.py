"""The charts: score histogram, trade-off curve and waveform, drawn by matplotlib.

Each returns one SVG document as text. ``standalone`` adds style and background, for a file of its
own; on the page the style is given once. All raise MissingExtra without matplotlib.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dripgate.gate_info import CurvePoint, Histogram
from dripgate.report import words
from dripgate.report.canvas import Canvas, rows
from dripgate.report.colours import LIGHT
from dripgate.report.model import StreamHistogram
from dripgate.types import Array, Thresholds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, NARROW = 860, 350


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
    said = f"{', '.join(counted)}. {band}".lstrip(". ")

    items = len(parts) + 1 + (outline is not None)
    columns = items if width >= WIDE else 1
    height = 294 + 18 * rows(items, columns)
    with Canvas(width, height, title, said, standalone=standalone) as canvas:
        axes = canvas.axes(rows(items, columns))
        drawn = np.diff(edges)
        if _geometric(edges):
            axes.set_xscale("log")
            drawn = np.diff(np.log(edges))
        axes.set_xlim(edges[0], edges[-1])
        _score_axis(axes, edges, width)
        per_width = drawn.mean() / np.maximum(drawn, 1e-300)  # 1 where all bins are equally wide
        base = np.zeros(len(drawn))
        for kind, name, counts in parts:
            top = base + np.asarray(counts) * per_width
            axes.stairs(
                top, edges, baseline=base, fill=True, facecolor=LIGHT[f"{kind}_fill"], linewidth=0,
                hatch="--" if kind == "quarantine" else None, edgecolor=LIGHT["surface"],
                label=name, gid=f".{kind}", clip_on=False,
            )  # fmt: skip
            base = top
        _band(axes, edges, thresholds)
        lined = outline * per_width if outline is not None else np.zeros(len(drawn))
        if outline is not None:
            label = "calibration, scaled to the stream" if parts else "calibration"
            axes.stairs(lined, edges, baseline=None, color=LIGHT["ink"], linewidth=1.5,
                        label=label, gid=".outline", clip_on=False)  # fmt: skip
        axes.set_ylim(0, max(1.0, 1.04 * float(max(base.max(), lined.max()))))
        _bounds(canvas, axes, edges, thresholds)
        canvas.legend(axes, columns)
        return canvas.svg()


def _score_axis(axes: "Axes", edges: Array, width: int) -> None:
    """Round scores below the plot, whole counts beside it."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    wanted = max(3, width // 130)
    logarithmic = axes.get_xscale() == "log"
    if logarithmic:
        decades = math.log10(edges[-1] / edges[0])
        factors = (1, 2, 5) if decades <= 2.5 else (1, 3) if decades < wanted - 1 else (1,)
        axes.xaxis.set_major_locator(LogLocator(subs=factors, numticks=2 * wanted))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: words.number(value))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(wanted, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel("DRIP score" + (", logarithmic" if logarithmic else ""))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: words.count(round(value)))


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


def _band(axes: "Axes", edges: Array, thresholds: Thresholds) -> None:
    """Shade what some class keeps, and once more what every class keeps."""
    low = [-math.inf if bound is None else bound for bound in thresholds.low] or [-math.inf]
    high = [math.inf if bound is None else bound for bound in thresholds.high] or [math.inf]
    label: str | None = "kept band"
    for ends in ((min(low), max(high)), (max(low), min(high))):
        start, end = np.clip(ends, edges[0], edges[-1]).tolist()
        if end > start:
            axes.axvspan(start, end, facecolor=LIGHT["keep_fill"], alpha=0.12, linewidth=0,
                         zorder=0, label=label, gid=".band", clip_on=False)  # fmt: skip
            label = None


def _bounds(canvas: Canvas, axes: "Axes", edges: Array, thresholds: Thresholds) -> None:
    """A line at each bound, dashed at both ends of a range over classes, labelled above."""
    for name, bounds in (("low", thresholds.low), ("high", thresholds.high)):
        given = [bound for bound in bounds if bound is not None]
        if not given:
            continue
        # what lies beyond an end is drawn at that end
        ends = np.clip((min(given), max(given)), edges[0], edges[-1]).tolist()
        ranged = min(given) < max(given)
        for end in dict.fromkeys(ends):
            axes.axvline(end, color=LIGHT["keep"], linewidth=1.5, gid=".threshold", clip_on=False,
                         linestyle="--" if ranged else "-")  # fmt: skip
        # low's label is left of its line and high's right of it, so that a narrow band is legible
        at, leftwards = (ends[0], True) if name == "low" else (ends[1], False)
        canvas.note(axes, at, f"{name} {words.span(bounds)}", leftwards=leftwards)


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
    columns = 3 if width >= WIDE else 1
    height = 314 + 18 * rows(3, columns)
    with Canvas(width, height, title, said, standalone=standalone) as canvas:
        axes = canvas.axes(rows(3, columns))
        ends = [full - error, full + error] if math.isfinite(full) else []
        values = np.concatenate([expected, random, ends])
        pad = 0.08 * float(np.ptp(values)) or 0.01
        axes.set_xlim(0, 1)
        axes.set_ylim(float(values.min()) - pad, float(values.max()) + pad)
        axes.set_xlabel("share of the stream kept")
        axes.xaxis.set_major_formatter(lambda value, _: words.share(value))
        axes.plot(kept, expected, color=LIGHT["keep_fill"], linewidth=2.5, label="dripgate",
                  gid=".ours", clip_on=False, zorder=3)  # fmt: skip
        axes.plot(kept, random, "--", color=LIGHT["drop"], linewidth=2, label="random",
                  gid=".random", clip_on=False)  # fmt: skip
        if ends:
            everything = "everything ± 1 standard error" if error > 0 else "everything"
            axes.axhline(full, color=LIGHT["ink"], linewidth=1.5, linestyle=":", label=everything,
                         gid=".full")  # fmt: skip
            axes.axhspan(*ends, facecolor=LIGHT["ink"], alpha=0.07, linewidth=0, gid=".error",
                         clip_on=False)  # fmt: skip
        axes.plot(kept, expected, "o", color=LIGHT["keep_fill"], markersize=8, gid=".dot",
                  markeredgecolor=LIGHT["surface"], markeredgewidth=2, clip_on=False,
                  zorder=4)  # fmt: skip
        if math.isfinite(chosen):
            _chosen(canvas, axes, keep, chosen)
        canvas.legend(axes, columns)
        tips = [
            f"{words.share(share)} kept: {words.accuracy(ours)}, random {words.accuracy(other)}"
            for share, ours, other in points
        ]
        return canvas.svg({"dot": tips})


def _chosen(canvas: Canvas, axes: "Axes", keep: float, level: float) -> None:
    """A line and a ring where the gate stands."""
    axes.axvline(keep, color=LIGHT["keep"], linewidth=1.5, gid=".threshold")
    axes.plot([keep], [level], "o", color=LIGHT["surface"], markersize=12, gid=".chosen",
              markeredgecolor=LIGHT["keep"], markeredgewidth=3, clip_on=False,
              zorder=5)  # fmt: skip
    text = f"chosen: {words.share(keep)} kept, {words.accuracy(level)}"
    canvas.note(axes, keep, text, leftwards=True)


def waveform_svg(samples: Array, *, columns: int = 160, height: int = 56) -> str:
    """A waveform (T,) as its extremes per column, scaled to its own peak."""
    wave = np.nan_to_num(np.asarray(samples, np.float64).reshape(-1))
    said = f"{words.count(len(wave))} samples"
    peak = float(np.abs(wave).max(initial=0)) or 1.0
    pieces = [piece for piece in np.array_split(wave / peak, columns) if len(piece)]
    thin = 1 / height  # so that silence is a line
    with Canvas(columns, height, "Waveform", said, standalone=False) as canvas:
        axes = canvas.figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, columns), ylim=(-1.1, 1.1))
        upper = [(i, piece.max() + thin) for i, piece in enumerate(pieces)]
        lower = [(i, piece.min() - thin) for i, piece in enumerate(pieces)]
        around = np.array([*upper, *reversed(lower)]).reshape(-1, 2)
        axes.fill(*around.T, color=LIGHT["muted"], linewidth=0, gid=".wave", clip_on=False)
        return canvas.svg().replace("<svg ", '<svg preserveAspectRatio="none" ', 1)


def _nothing(title: str, why: str, width: int, *, standalone: bool) -> str:
    with Canvas(width, 80, title, why, standalone=standalone) as canvas:
        canvas.figure.text(0.5, 0.5, f"{title}: {why}", ha="center", va="center")
        return canvas.svg()
