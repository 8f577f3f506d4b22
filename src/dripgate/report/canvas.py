"""matplotlib's drawing as a small SVG that a page can hold: text as text, no id but those used."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from dripgate.errors import MissingExtra
from dripgate.report import words
from dripgate.report.colours import LIGHT, chart_css

if TYPE_CHECKING:
    from typing import Self

    from matplotlib.axes import Axes

LEFT, RIGHT, BOTTOM = 56.0, 24.0, 50.0  # margins of a plot, for the labels of its axes
_ROW = 18.0  # height of one row of the legend
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"


class Canvas:
    """A figure of width × height user units, to be used in a ``with``.

    An artist's gid ``.name`` becomes the class ``name``; other ids go, unless something refers to
    them. ``standalone`` adds style and ground, for a file of its own; on a page the style is given
    once. Raises MissingExtra without matplotlib.
    """

    def __init__(
        self, width: float, height: float, title: str, description: str, *, standalone: bool
    ) -> None:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise MissingExtra("a chart", "report") from None
        self.width, self.height = width, height
        self.title, self.description = words.clean(title), words.clean(description)
        self.standalone = standalone
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # one point is one unit
        self._settings = ExitStack()

    def __enter__(self) -> "Self":
        import matplotlib as mpl

        salt = f"{self.title} {self.width}"  # two charts on one page share no id
        settings: Any = {
            "svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 12, "text.usetex": False,
            "text.color": LIGHT["muted"], "axes.labelcolor": LIGHT["muted"],
            "axes.labelsize": 12, "xtick.labelsize": 12, "ytick.labelsize": 12,
            "legend.fontsize": 12, "axes.formatter.useoffset": False, "text.parse_math": False,
        }  # fmt: skip
        self._settings.enter_context(mpl.rc_context(settings))
        return self

    def __exit__(self, *_: object) -> None:
        self._settings.close()

    def axes(self, rows: int) -> "Axes":
        """A plot with a line below it and a grid across, under a legend of so many rows."""
        top = 36 + _ROW * rows
        box = (LEFT, BOTTOM, self.width - LEFT - RIGHT, self.height - BOTTOM - top)
        w, h = self.width, self.height
        axes = self.figure.add_axes((box[0] / w, box[1] / h, box[2] / w, box[3] / h))
        axes.patch.set_visible(False)
        axes.spines[["left", "top", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(LIGHT["muted"])
        axes.tick_params(length=0, pad=6, colors=LIGHT["muted"])
        axes.tick_params(axis="x", bottom=True, length=4, pad=4)
        axes.grid(axis="y", color=LIGHT["line"], linewidth=1)
        axes.set_axisbelow(True)
        return axes

    def legend(self, axes: "Axes", columns: int) -> None:
        """What is labelled in the plot, in columns from the top left."""
        self.figure.legend(
            *axes.get_legend_handles_labels(), ncols=columns, loc="upper left", frameon=False,
            bbox_to_anchor=(LEFT / self.width, 1 - 8 / self.height), borderpad=0, borderaxespad=0,
            handlelength=1.7, columnspacing=1.5,
        )  # fmt: skip

    def note(self, axes: "Axes", at: float, text: str, *, leftwards: bool) -> None:
        """A label above the plot at a value, to the other side where it would leave the chart."""
        pixel, extent = axes.transData.transform((at, 0))[0], 6.5 * len(text)
        if pixel - extent < 0:
            leftwards = False
        elif pixel + extent > self.width:
            leftwards = True
        axes.annotate(
            text, (at, 1), (0, 7), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="right" if leftwards else "left", color=LIGHT["keep"], weight="bold", gid=".note",
        )  # fmt: skip

    def svg(self, tips: Mapping[str, Sequence[str]] | None = None) -> str:
        """The document. tips: by class, a text for each of its marks in turn."""
        self.figure.patch.set(visible=self.standalone, facecolor=LIGHT["surface"])
        buffer = io.StringIO()
        self.figure.savefig(
            buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
        root = ET.fromstring(buffer.getvalue())  # noqa: S314 - matplotlib wrote it
        self._head(root)
        for element in root.iter():
            element.tag = element.tag.removeprefix(_SVG)
            _tidy(element)
        for path in root.iterfind(".//defs/path"):  # each <use> says it, and knows dark from light
            path.attrib.pop("style", None)
        _name(root)
        for kind, texts in (tips or {}).items():
            marks = (m for g in root.iterfind(f".//g[@class='{kind}']") for m in g.iter("use"))
            for mark, text in zip(marks, texts, strict=True):
                ET.SubElement(mark, "title").text = words.clean(text)
        root.set("xmlns", "http://www.w3.org/2000/svg")
        return ET.tostring(root, encoding="unicode")

    def _head(self, root: ET.Element) -> None:
        """Name and description in place of matplotlib's own metadata and style."""
        for child in root.findall(f"{_SVG}metadata") + root.findall(f"{_SVG}defs"):
            if child.find(f"{_SVG}pattern") is None:
                root.remove(child)
        size = {"width": f"{self.width:g}", "height": f"{self.height:g}"}
        root.attrib.clear()
        root.attrib.update({"class": "chart", "viewBox": f"0 0 {size['width']} {size['height']}"})
        root.attrib.update(
            {"role": "img", "aria-label": f"{self.title}. {self.description}"}
            | (size if self.standalone else {})
        )
        texts = [("title", self.title), ("desc", self.description)]
        texts += [("style", chart_css())] if self.standalone else []
        for place, (tag, text) in enumerate(texts):
            child = ET.Element(tag)
            child.text = text
            root.insert(place, child)


def _tidy(element: ET.Element) -> None:
    """Drop the space between elements, fonts, idle rotations, and digits that nobody sees."""
    element.tail = None
    element.attrib.pop("clip-path", None)  # nothing is drawn beyond its axes
    if element.tag not in ("text", "tspan", "title", "desc", "style"):
        element.text = None
    if element.tag == "text":
        del element.attrib["transform"]  # nothing is drawn aslant
        element.set(
            "style", re.sub(r"font-(size|family): [^;]*(; |$)", "", element.get("style", ""))
        )
    if _HREF in element.attrib:
        element.set("href", element.attrib.pop(_HREF))
    if fill := element.attrib.pop("fill", ""):  # of a pattern: where the style sheet looks for it
        element.set("style", f"fill: {fill}")
    for name in {"d", "x", "y", "style"} & set(element.attrib):
        short = re.sub(r"\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."),
                       element.attrib[name])  # fmt: skip
        element.set(name, re.sub(r" *([A-Za-z]) *", r"\1", short) if name == "d" else short)


def _name(root: ET.Element) -> None:
    """Classes for what the charts named, ids for what something refers to, else nothing."""
    text = ET.tostring(root, encoding="unicode")
    used = set(re.findall(r"url\(#(\w+)\)|href=\"#(\w+)\"", text))
    kept = {name for pair in used for name in pair if name}
    for element in root.iter():
        name = element.get("id", "")
        if name and name not in kept:
            del element.attrib["id"]
        if name.startswith("."):
            element.set("class", name[1:])
        elif tick := re.match(r"[xy]tick(?=_)", name):
            element.set("class", tick[0])


def rows(items: int, columns: int) -> int:
    """Rows of a legend."""
    return math.ceil(items / columns)
