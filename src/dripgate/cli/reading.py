"""Reading DATA for a command: with progress, and with what was found, and not used, in it."""

from collections.abc import Callable
from typing import Any

import click
import msgspec

from dripgate.cli import describe
from dripgate.cli.common import note, progress
from dripgate.data import READINGS, Dataset, Reading, Source, infer, load, open_source, shadowed
from dripgate.data.named import REMOTES
from dripgate.errors import UserError
from dripgate.types import ImageInput, InputSpec

folders_option = click.option(
    "--folders", "reading", type=click.Choice(READINGS), default="auto", show_default=True,
    help="Whether DATA's top folders are splits (train, test, …) or classes.",
)  # fmt: skip


def levels_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--levels, for 16-bit pictures."""
    return click.option(
        "--levels", default="auto", show_default=True, metavar="LOW,HIGH|auto",
        help="Of 16-bit pictures: the values that become black and white; auto: those they use.",
    )(command)  # fmt: skip


def open_data(data: str, reading: Reading = "auto") -> Source:
    """The source of a path or a name, downloaded with a bar where need be. Raises DataError."""
    if data not in REMOTES:
        return open_source(data, reading=reading)
    with progress(None, f"downloading {data}", "B") as done:
        return open_source(data, progress=done, reading=reading)


def read(
    data: str,
    size: int | None = None,
    spec: InputSpec | None = None,
    *,
    reading: Reading = "auto",
    levels: str = "auto",
) -> Dataset:
    """The decoded data set; says what was found in it and what is not used (``Dataset.found``).

    size: the side that images are resized to. levels: what part of 16-bit pictures is used, as
    --levels says. spec: what the model takes; it goes before size.
    """
    if said := shadowed(data):
        note(f"  note: {said}")
    source, notes = open_data(data, reading), list[str]()
    used = parse_levels(levels)
    if spec is None:
        spec, notes = infer(source)
        if isinstance(spec, ImageInput):
            spec = msgspec.structs.replace(
                spec, height=size or spec.height, width=size or spec.width
            )
    if used and isinstance(spec, ImageInput):
        spec = msgspec.structs.replace(spec, range=used)
    with progress(None, f"reading {data}") as seen:
        dataset = load(source, spec, progress=seen)
    found = msgspec.structs.replace(dataset.found, notes=(*notes, *dataset.found.notes))
    for line in describe.data(found):
        note(line)
    return Dataset(
        dataset.name, dataset.classes, spec, dataset.train, dataset.test, dataset.skipped, found
    )


def parse_levels(text: str) -> tuple[int, int] | None:
    """LOW,HIGH; None for auto. Raises UserError."""
    if text == "auto":
        return None
    parts = text.replace(":", ",").split(",")
    if len(parts) == 2 and all(part.strip().isdigit() for part in parts):
        low, high = map(int, parts)
        if low < high <= 0xFFFF:
            return low, high
    raise UserError(
        f"--levels is '{text}', expected auto or two values of 16 bits such as 29300,29520"
    )
