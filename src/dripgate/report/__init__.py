"""Numbers → pictures → one HTML file that needs nothing but itself.

``render``, ``write`` and the charts need the ``report`` extra (jinja2, matplotlib),
loaded when called.
"""

from dripgate.report.charts import histogram_svg, tradeoff_svg
from dripgate.report.model import (
    ClassShare,
    Example,
    Outcome,
    Report,
    StreamHistogram,
    Unreadable,
)
from dripgate.report.page import render, write
from dripgate.report.words import verdict

__all__ = [
    "ClassShare", "Example", "Outcome", "Report", "StreamHistogram", "Unreadable",
    "histogram_svg", "render", "tradeoff_svg", "verdict", "write",
]  # fmt: skip
