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
from click.shell_completion import CompletionItem
from tqdm import tqdm

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


class Share(click.types.FloatParamType):
    """A part of all, as a number; whoever writes percent is told how it is written here."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises click.BadParameter."""
        try:
            return float(value)
        except ValueError:
            self.fail(f"'{value}' is no number; write 30 % as 0.3", param, ctx)


#: tqdm's watchdog is a thread, and none may be there when the benchmark forks.
tqdm.monitor_interval = 0
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


_QUIET = "dripgate.quiet"


def _be_quiet(context: click.Context, _: click.Parameter, quiet: bool) -> None:
    context.meta[_QUIET] = context.meta.get(_QUIET) or quiet


#: Every command has it; see ``dripgate.cli``.
quiet_option = click.option(
    "-q", "--quiet", is_flag=True, expose_value=False, callback=_be_quiet,
    help="No progress: neither bars nor steps. Notes, warnings and errors stay.",
)  # fmt: skip


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
    """Tell a step of the work, on one line of standard error; not with --quiet."""
    if not _is_quiet():
        note(text)


def note(text: str) -> None:
    """Tell what must be known whatever was asked for, on one line of standard error."""
    with tqdm.external_write_mode(file=sys.stderr):  # a bar there makes room
        click.echo(one_line(text), err=True)


@contextmanager
def progress(
    length: int | None, label: str, unit: str = "samples"
) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left on standard error, told how far the work is in all.

    Only on a terminal: nothing of it is in a log, nor with --quiet. length: None is not known.
    unit: B is bytes.
    """
    with tqdm(
        total=length, desc=one_line(label), unit=unit if unit == "B" else f" {unit}",
        unit_scale=unit == "B", file=sys.stderr, leave=False, dynamic_ncols=True,
        disable=not shows_progress(),
    ) as bar:  # fmt: skip
        yield lambda done: bar.update(done - bar.n) and None


def shows_progress() -> bool:
    """Whether somebody sees bars; else nothing need be counted for them."""
    return sys.stderr.isatty() and not _is_quiet()


def _is_quiet() -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(_QUIET))


def a_file(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """For an argument that may be a path and something else: the shell completes it as a path."""
    return [CompletionItem(begun, type="file")]


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
