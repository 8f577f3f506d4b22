"""The page of a loop: a report's numbers, words and pictures put into its template."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dripgate.heatmap import EMPTY
from dripgate.report import charts, pictures, words
from dripgate.report.model import ClassShare, Example, Outcome, Report
from dripgate.report.templates import template, write_page
from dripgate.types import Decision, Reason, Thresholds

EXAMPLES = 12  # shown per decision
UNREADABLE = 20  # shown in all

_RULES = {
    "initial": "initial samples only",
    "full": "training on everything",
    "dripgate": "dripgate",
    "random": "random, same count",
    "nth": "every n-th, same count",
    "margin": "softmax margin, same count",
}
_PHASES = {
    "train": "train the first model",
    "fit": "fit the gate",
    "run": "run over the stream",
    "retrain": "retrain",
    "make the days": "make the streams",
    "compare": "compare, all streams",
}
_WHY = {
    (Decision.KEEP, Reason.BAND): "score inside the band",
    (Decision.KEEP, Reason.FLOOR): "its class would dry up otherwise",
    (Decision.KEEP, Reason.AUDIT): "at random, so that what is dropped stays measurable",
    (Decision.DROP, Reason.BAND): "score outside the band",
    (Decision.DROP, Reason.BUDGET): "worth keeping, but not within the budget",
    (Decision.DROP, Reason.DUPLICATE): "the same scene as one kept recently",
    (Decision.DROP, Reason.QUALITY): "unlike the calibration samples, and quarantine was full",
    (Decision.DROP, Reason.UNREADABLE): "could not be decoded",
    (Decision.QUARANTINE, Reason.QUALITY): "unlike the calibration samples",
    (Decision.QUARANTINE, Reason.AUDIT): "unlike the calibration samples, at random",
    (Decision.QUARANTINE, Reason.UNREADABLE): "could not be decoded",
}
_GROUPS = {
    Decision.KEEP: ("Kept", "Stored, to be labelled and used for retraining."),
    Decision.DROP: ("Dropped", "Judged to add little to what the model knows, and not stored."),
    Decision.QUARANTINE: ("Quarantined", "Stored apart: broken, or unlike anything seen before."),
}


def render(report: Report) -> str:
    """The report as one HTML document. Raises MissingExtra without jinja2 or matplotlib."""
    filled = template("report.html")  # before anything is drawn
    return filled(_context(report))


def write(report: Report, path: Path) -> None:
    """Render to ``path``, which then holds either the whole new report or what it held before.

    Missing folders are made. Raises UserError where the file cannot be written, and MissingExtra.
    """
    write_page(render(report), path)


def _context(report: Report) -> dict[str, Any]:
    outcome, gate = report.outcome, report.gate
    return {
        "report": report,
        "outcome": outcome,
        "gate": gate,
        "nan": math.nan,
        "headline": words.headline(outcome),
        "chance": words.chance(outcome),
        "comparisons": words.comparisons(outcome),
        "band": words.band(gate.thresholds.low, gate.thresholds.high),
        "split": _split(outcome),
        "rules": _rules(outcome),
        "phases": _phases(outcome),
        "histograms": [_histogram(report, width) for width in (charts.WIDE, charts.NARROW)],
        "tradeoffs": [_tradeoff(report, width) for width in (charts.WIDE, charts.NARROW)],
        "classes": _classes(report),
        "groups": list(_groups(report)),
        "reasons": _reasons(report.reasons),
        "unreadable": report.unreadable[:UNREADABLE],
        "unreadable_count": max(len(report.unreadable), _unreadable(report)),
    }


def _histogram(report: Report, width: int) -> str:
    gate = report.gate
    return charts.histogram_svg(
        report.scores, gate.calibration.score, gate.thresholds, width=width, standalone=False
    )


def _tradeoff(report: Report, width: int) -> str:
    seen = report.gate.calibration
    error = words.standard_error(seen.full, seen.samples)
    return charts.tradeoff_svg(
        seen.curve, seen.full, report.gate.keep, error=error, width=width, standalone=False
    )


def _bar(parts: Sequence[tuple[str, float]], name: str) -> dict[str, Any]:
    """A bar of a table: (class, share of the whole) from the left, and the same in words."""
    said = ", ".join(f"{kind} {words.share(value)}" for kind, value in parts)
    return {"said": f"{name}: {said}", "parts": [(k, 100 * v) for k, v in parts if v > 0]}


def dot(value: float, low: float, high: float, error: float, name: str) -> dict[str, Any]:
    """One row of a dot plot: per cent of an axis low … high, a little in from both its ends."""
    places = [3 + 94 * (at - low) / (high - low) for at in (value - error, value, value + error)]
    return {
        "said": f"{name}: {words.accuracy(value)}",
        "places": [min(max(at, 3), 97) for at in places] if math.isfinite(value) else None,
    }


def _unreadable(report: Report) -> int:
    return sum(n for (_, reason), n in report.reasons.items() if reason is Reason.UNREADABLE)


def _split(outcome: Outcome) -> dict[str, Any]:
    """The stream as one bar, and its parts."""
    whole = outcome.stream or 1
    parts = [
        (Decision.KEEP, "kept", outcome.kept),
        (Decision.QUARANTINE, "quarantined", outcome.quarantined),
        (Decision.DROP, "dropped", outcome.dropped),
    ]
    bar = _bar([(kind, n / whole) for kind, _, n in parts], "stream")
    return {"bar": bar, "parts": [(kind, name, n, n / whole) for kind, name, n in parts]}


def _rules(outcome: Outcome) -> list[dict[str, Any]]:
    """Rows of the accuracy table, in the order of _RULES, other names after them."""
    names = [n for n in _RULES if n in outcome.accuracy]
    names += [n for n in outcome.accuracy if n not in _RULES]
    values = np.array([outcome.accuracy[name] for name in names], np.float64)
    errors = np.array(
        [
            outcome.intervals.get(name, words.standard_error(value, outcome.tested))
            for name, value in zip(names, values, strict=True)
        ]
    )
    finite = np.isfinite(values)
    low = float((values - errors)[finite].min(initial=1))
    high = float((values + errors)[finite].max(initial=0))
    low, high = (low - 0.002, high + 0.002) if low <= high else (0.0, 1.0)
    full = outcome.accuracy.get("full", math.nan)
    return [
        {
            "name": _RULES.get(name, name),
            "ours": name == "dripgate",
            "accuracy": value,
            "points": 100 * (value - full) if name != "full" else math.nan,
            "dot": dot(value, low, high, error, name),
        }
        for name, value, error in zip(names, values.tolist(), errors.tolist(), strict=True)
    ]


def _phases(outcome: Outcome) -> list[dict[str, Any]]:
    longest = max(outcome.seconds.values(), default=0) or 1
    return [
        {
            "name": _PHASES.get(name, name),
            "seconds": seconds,
            "bar": _bar([("drop", seconds / longest)], name),
        }
        for name, seconds in outcome.seconds.items()
    ]


def _classes(report: Report) -> list[dict[str, Any]]:
    """Rows of the class table, the most kept first, with each class's band if they differ."""
    thresholds = report.gate.thresholds
    same = len(set(zip(thresholds.low, thresholds.high, strict=False))) <= 1
    bands = {} if same else dict(zip(report.gate.classes, _bands(thresholds), strict=False))
    found = report.estimates.classes if report.estimates else ()
    mix = dict(zip(report.gate.classes, found, strict=False))
    rows = sorted(report.classes, key=lambda row: -_kept(row))
    return [
        {
            "row": row,
            "share": _kept(row) if row.seen else math.nan,
            "band": bands.get(row.name, words.DASH) if bands else None,
            "mix": mix.get(row.name),
            "bar": _bar(
                [("keep", _kept(row)), ("quarantine", row.quarantined / (row.seen or 1))], row.name
            ),
        }
        for row in rows
    ]


def _kept(row: ClassShare) -> float:
    return row.kept / row.seen if row.seen else 0.0


def _bands(thresholds: Thresholds) -> list[str]:
    texts = []
    for low, high in zip(thresholds.low, thresholds.high, strict=False):
        sides = (("≥", low), ("≤", high))
        bounds = [f"{sign} {words.number(bound)}" for sign, bound in sides if bound is not None]
        texts.append(", ".join(bounds) or "any")
    return texts


def _reasons(reasons: Any) -> list[tuple[Decision, str, int]]:
    ordered = sorted(
        reasons.items(), key=lambda item: (list(_GROUPS).index(item[0][0]), item[0][1])
    )
    return [(decision, _why(decision, reason), n) for (decision, reason), n in ordered]


def _why(decision: Decision, reason: Reason) -> str:
    return _WHY.get((decision, reason), reason.value)


def _groups(report: Report) -> Iterator[dict[str, Any]]:
    """Examples by decision, each decision with its heading even where it has none."""
    given = Counter(example.verdict.decision for example in report.examples)
    for decision, (heading, meaning) in _GROUPS.items():
        chosen = [e for e in report.examples if e.verdict.decision is decision][:EXAMPLES]
        yield {
            "decision": decision,
            "heading": heading,
            "meaning": meaning,
            "left_out": given[decision] - len(chosen),
            "examples": [_card(example, report.gate.classes) for example in chosen],
        }


def _card(example: Example, classes: tuple[str, ...]) -> dict[str, Any]:
    """One sample: its pictures, and what was found."""
    verdict, heat = example.verdict, example.heatmap
    known = 0 <= verdict.predicted < len(classes)
    predicted = classes[verdict.predicted] if known else None
    rgb = None if example.array is None else pictures.as_rgb(example.array)
    wave = (
        example.array
        if rgb is None and example.array is not None and example.array.ndim == 1
        else None
    )
    top = pictures.peak(heat)
    return {
        "source": example.source,
        "verdict": verdict,
        "why": _why(verdict.decision, verdict.reason),
        "predicted": predicted,
        "label": example.label,
        "right": None if example.label is None or predicted is None else example.label == predicted,
        "peak": top,
        "plain": None if rgb is None else pictures.plain_uri(rgb),
        "overlay": pictures.overlay_uri(rgb, heat)
        if rgb is not None and heat is not None
        else None,
        "wave": None if wave is None else charts.waveform_svg(wave),
        "heat": pictures.heat_uri(heat) if rgb is None and heat is not None and heat.size else None,
        "empty": heat is not None and (top is None or top <= EMPTY),
    }
