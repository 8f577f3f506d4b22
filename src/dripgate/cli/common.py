"""What the commands share: JSON files, progress bars, and options that recur."""

import ipaddress
import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from dripgate.errors import UserError
from dripgate.files import write_whole
from dripgate.text import one_line, plain_json


class Finite(click.FloatRange):
    """A number in a range; click takes nan and inf for numbers as well."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises click.BadParameter."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"'{value}' is not a finite number", param, ctx)
        return number


#: Seconds, of up to a year; no option of that kind needs more.
_YEAR = 366 * 86_400
SECONDS, SECONDS_ABOVE_0 = Finite(0, _YEAR), Finite(0, _YEAR, min_open=True)
#: Of numbers from which chance is drawn.
SEEDS = click.IntRange(0, 2**32 - 1)

#: Of pixels; no classifier of images takes more.
LARGEST_SIDE = 4096
STEPS = click.IntRange(1, 10_000_000)


def _writable(_: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    return path if path is None or str(path) == "-" else parent_of(path)


json_option = click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), callback=_writable,
    help="Also write the result to this file as JSON; '-' prints it instead of the text.",
)  # fmt: skip
seed_option = click.option(
    "--seed", default=0, show_default=True, type=SEEDS, help="Same seed, same result."
)


def show(lines: Iterable[str], value: Any, path: Path | None) -> None:
    """Print a command's result, and write it as JSON where ``path`` says; '-' prints only that."""
    text = plain_json(msgspec.json.format(msgspec.json.encode(value), indent=1).decode()) + "\n"
    if str(path) == "-":
        click.echo(text, nl=False)
        return
    for line in lines:
        click.echo(one_line(line))
    if path is None:
        return
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def parent_of(path: Path) -> Path:
    """``path``, once it is certain that it can be written there. Raises UserError.

    Called before long work, so that an hour of training is not lost to a misspelt folder.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the name of a file")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: its folder does not exist; make it first")
    return path


def log(text: str) -> None:
    """Tell what is being done, on one line; standard output stays for results."""
    click.echo(one_line(text), err=True)


@contextmanager
def progress(length: int | None, label: str) -> Iterator[Callable[[int], None]]:
    """A bar on standard error that is told how far the work is, in absolute numbers."""
    label = one_line(label)
    if length is None:
        yield _counting(label)
        click.echo(err=True)
        return
    with click.progressbar(length=length, label=label, file=sys.stderr, show_pos=True) as bar:
        yield lambda done: bar.update(done - bar.pos)


def _counting(label: str) -> Callable[[int], None]:
    def show(done: int) -> None:
        if done % 500 == 0 and sys.stderr.isatty():
            click.echo(f"\r{label} {done:,}", nl=False, err=True)

    return show


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def percent(share: float) -> str:
    """0.3141 → '31.4 %'."""
    return f"{100 * share:.1f} %"


class Stop:
    """Ctrl-C and SIGTERM ask for an end: what was begun is finished, committed and reported.

    The handler sets a plain attribute: anything with a lock could wait for itself in it.
    """

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def __call__(self) -> bool:
        """Whether an end was asked for."""
        return self.asked

    def wait(self, seconds: float) -> None:
        """Sleep, but not on after a signal."""
        end = time.monotonic() + seconds
        while not self.asked and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _ask(self, *_: object) -> None:
        self.asked = True
