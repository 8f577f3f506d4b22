"""Numbers as people read them, and the verdict on a run in words."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dripgate.policy import Interval
from dripgate.report.model import Outcome

DASH = "–"

# Control characters and lone surrogates cannot stand in HTML, XML or UTF-8, and bidirectional
# overrides make a file name read as another one. Names come from whoever filled the folder.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clean(text: str) -> str:
    """Replace what cannot be printed, or lies about its order, by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def count(value: int) -> str:
    """12345 → 12,345."""
    return f"{value:,}"


def share(value: float) -> str:
    """0.314 → 31 %; with a decimal below 1 % and above 99 %, so that little is not nothing."""
    if not math.isfinite(value):
        return DASH
    percent = 100 * value
    near_an_end = 0 < abs(percent) < 1 or 99 < percent < 100
    return f"{percent:.{1 if near_an_end else 0}f} %"


def accuracy(value: float) -> str:
    """0.9514 → 0.951."""
    return f"{value:.3f}" if math.isfinite(value) else DASH


def points(value: float) -> str:
    """A signed difference in percentage points: +0.2, −1.2, 0.0."""
    if not math.isfinite(value):
        return DASH
    return f"{value:+.1f}".replace("-", "−") if abs(value) >= 0.05 else "0.0"


def interval(found: Interval) -> str:
    """An estimate with its 95 % interval: 93.1 % (88.0 to 96.2)."""
    value, low, high = (100 * end for end in (found.value, found.low, found.high))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def number(value: float | None) -> str:
    """A score or threshold, to three significant digits."""
    if value is None or not math.isfinite(value):
        return DASH
    return re.sub(r"e([-+])0?", lambda m: "e" + m[1].strip("+"), f"{value:.3g}")


def size(value: int) -> str:
    """Bytes in decimal units: 12345678 → 12.3 MB."""
    scaled = float(value)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(scaled) < 999.5 or unit == "TB":
            break
        scaled /= 1000
    return f"{scaled:.{0 if unit == 'B' else 1}f} {unit}"


def duration(value: float) -> str:
    """Seconds: 0.8 s, 42 s, 2 min 05 s."""
    if not math.isfinite(value):
        return DASH
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def span(bounds: Sequence[float | None]) -> str:
    """One bound for all classes, or their range: ``0.012``, ``0.01 to 0.03 by class``."""
    given = [bound for bound in bounds if bound is not None]
    if not given:
        return DASH
    ends = dict.fromkeys((number(min(given)), number(max(given))))
    by_class = " by class" if len(ends) > 1 or len(given) < len(bounds) else ""
    return " to ".join(ends) + by_class


def band(low: Sequence[float | None], high: Sequence[float | None]) -> str:
    """Which scores are kept: ``at least 0.01 and at most 0.3``, or ``any``."""
    sides = [f"{side} {span(b)}" for side, b in (("at least", low), ("at most", high))]
    return _and(text for text in sides if not text.endswith(DASH)) or "any"


class Comparison(NamedTuple):
    """Accuracy of dripgate minus that of a baseline, in percentage points."""

    baseline: str
    points: float

    @property
    def word(self) -> str:
        """``above``, ``below``, or ``level with`` where the difference prints as 0.0."""
        if abs(self.points) < 0.05:
            return "level with"
        return "above" if self.points > 0 else "below"

    def __str__(self) -> str:
        by = "" if self.word == "level with" else f"{abs(self.points):.1f} points "
        return f"{by}{self.word} {self.baseline}"


def comparisons(outcome: Outcome) -> list[Comparison]:
    """Dripgate against training on everything and against random, where both were measured."""
    ours = outcome.accuracy.get("dripgate", math.nan)
    names = {"full": "training on everything", "random": "random at the same count"}
    found = [
        Comparison(words, 100 * (ours - outcome.accuracy.get(name, math.nan)))
        for name, words in names.items()
    ]
    return [comparison for comparison in found if math.isfinite(comparison.points)]


def standard_error(share: float, samples: int) -> float:
    """Of a share measured on that many samples (binomial); 0 where it is unknown."""
    return math.sqrt(share * (1 - share) / samples) if samples and 0 <= share <= 1 else 0.0


def noise(outcome: Outcome) -> float | None:
    """Points that two equal models may differ by chance (95 %), or None where it is unknown.

    From two binomial proportions taken as independent: on one test set they are paired, so this
    is an upper bound. Over several streams, the wider of the paired intervals.
    """
    if outcome.ahead:
        return 100 * max(outcome.ahead.get(name, 0.0) for name in ("full", "random")) or None
    ours = outcome.accuracy.get("dripgate", math.nan)
    return 196 * math.sqrt(2) * standard_error(ours, outcome.tested) or None


def verdict(outcome: Outcome) -> str:
    """What was stored, at which accuracy, and how that stands, for better or worse."""
    standing = _and(str(comparison) for comparison in comparisons(outcome))
    return " ".join(
        filter(None, (headline(outcome), standing and f"That is {standing}.", chance(outcome)))
    )


def headline(outcome: Outcome) -> str:
    """The first sentence of the verdict: the numbers."""
    stored = share(outcome.stored / outcome.stream) if outcome.stored else "nothing"
    text = f"Stored {stored} of the stream"
    ours = outcome.accuracy.get("dripgate", math.nan)
    if not math.isfinite(ours):
        return f"{text}; the accuracy after retraining was not measured."
    others = [f"{accuracy(ours - c.points / 100)} for {c.baseline}" for c in comparisons(outcome)]
    against = f"against {_and(others)}" if others else "with no baseline beside it"
    return f"{text}; accuracy {accuracy(ours)} {against}."


def chance(outcome: Outcome) -> str:
    """The last sentence: which differences are too small to mean anything; empty if none is."""
    limit = noise(outcome)
    if limit is None or all(abs(c.points) >= limit for c in comparisons(outcome)):
        return ""
    basis = (
        f"Over {outcome.runs} streams"
        if outcome.ahead
        else (f"With {count(outcome.tested)} test samples")
    )
    return f"{basis}, differences under about {limit:.1f} points can be chance."


def _and(parts: Iterable[str]) -> str:
    return " and ".join(parts)
