"""Templates, filled: what every page of ours keeps to.

Requirements met: nothing is fetched and no script runs (a policy in the page forbids both, should
an escape ever fail); every name is untrusted and escaped; the same numbers give the same bytes;
every picture has a text, and every colour a second sign.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dripgate.errors import MissingExtra, UserError
from dripgate.files import write_whole
from dripgate.report import colours, words

_FILTERS = (
    words.clean, words.duration, words.interval, words.count, words.share, words.accuracy,
    words.points, words.number, words.size,
)  # fmt: skip


def template(name: str) -> Callable[[dict[str, Any]], str]:
    """What makes one HTML document of what a template asks for. Raises MissingExtra."""
    try:
        import jinja2
    except ImportError:
        raise MissingExtra("the HTML report", "report") from None

    def printable(value: Any) -> Any:
        return words.clean(value) if type(value) is str else value

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dripgate", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=printable,
    )
    environment.filters |= {function.__name__: function for function in _FILTERS}
    style = {"light": colours.LIGHT, "dark": colours.DARK, "chart_css": colours.chart_css()}
    found = environment.get_template(name)
    return lambda context: found.render(style | context)


def write_page(text: str, path: Path) -> None:
    """Write a page whole, or leave what was there. Missing folders are made. Raises UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise UserError(
            f"report {path}: cannot be written ({error.strerror or error}); "
            "expected a path to a file in a folder you may write to; give another one"
        ) from None
