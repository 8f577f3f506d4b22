"""The command line: one file per command, thin. Errors are one line; exit codes 0, 1 and 2."""

import os
import sys
import warnings
from importlib import import_module

import click

from dripgate import __version__
from dripgate.cli.common import quiet_option
from dripgate.errors import DripgateError, UserError
from dripgate.text import one_line

_COMMANDS = (
    "demo", "train", "fit", "run", "send", "receive", "review", "label", "adapt", "export",
    "retrain", "sift", "inspect", "report", "purge", "embed", "bench", "release", "activate",
    "rollback", "completion",
)  # fmt: skip


class _Lazy(click.Group):
    """Imports a command's file when it is used, so that `run` never waits for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"dripgate.cli.{name}").command
        for one in (command, *getattr(command, "commands", {}).values()):
            if all(option.name != "quiet" for option in one.params):
                quiet_option(one)
        return command


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dripgate")
def cli() -> None:
    """Decide on the device, sample by sample, what is worth keeping for retraining."""


def program() -> None:
    """``main`` as the whole of a process: it ends at once where it failed within Daft.

    Threads of Daft's that are still at a query which failed crash when Python is taken down under
    them, and the exit code would be theirs.
    """
    try:
        main()
    except SystemExit as end:
        if end.code and "daft" in sys.modules:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        raise


def main() -> None:
    """Run the command line and exit: 0 done, 2 usage or bad input, 1 anything else."""
    warnings.formatwarning = lambda message, *_, **__: f"  note: {one_line(str(message))}\n"
    try:
        # Not as click's own program: that prints what was given as it is, on several lines.
        sys.exit(cli(prog_name="dripgate", standalone_mode=False))
    except Exception as error:
        if os.environ.get(_SHOW):
            raise
        code, text = _told(error)
        click.echo(f"dripgate: {one_line(text[:_LONGEST])}", err=True)
        sys.exit(code)


def _told(error: Exception) -> tuple[int, str]:
    """Exit code and line of an error."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return 2, "which command? See above"
    if isinstance(error, click.ClickException):
        where = getattr(error, "ctx", None)
        hint = f"; see '{where.command_path} --help'" if where else ""
        if where and isinstance(getattr(error, "param", None), click.Argument):
            usage = " ".join([where.command_path, *where.command.collect_usage_pieces(where)])
            hint = f"; expected '{usage}'{hint}"
        return error.exit_code, error.format_message().rstrip(".") + hint
    if isinstance(error, click.Abort):
        return 1, "stopped"
    if isinstance(error, DripgateError):
        return 2 if isinstance(error, UserError) else 1, str(error)
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        if extra := _EXTRAS.get(missing):
            return 2, (
                f"this command needs the '{extra}' extra ({error.name} is not installed); "
                f"run: pip install 'dripgate[{extra}]'"
            )
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or "reading or writing"
        return 2, f"{where}: {error.strerror}; check the path, its rights and the free space"
    if isinstance(error, MemoryError):
        return 1, f"not enough memory ({error or 'none is left'})"
    return 1, (
        f"a mistake of the program itself, {type(error).__name__}: {error!s:.300}; please report "
        f"it; {_SHOW}=1 in the environment shows where"
    )


#: Characters of an error; a crafted file may have names of millions.
_LONGEST = 4000
#: Environment variable: errors as Python shows them, for who looks for their cause.
_SHOW = "DRIPGATE_TRACEBACK"
#: What each third-party package that may be missing belongs to.
_EXTRAS = {
    "torch": "train",
    "onnx": "fit",
    "onnx_ir": "fit",
    "onnxscript": "train",
    "safetensors": "train",
    "sklearn": "bench",
    "jinja2": "report",
    "matplotlib": "report",
    "scipy": "bench",
    "skactiveml": "bench",
    "paho": "mqtt",
    "cv2": "camera",
    "sounddevice": "mic",
    "emx_onnx_cgen": "embed",
    "cryptography": "release",
    "pkcs11": "pkcs11",
    "starlette": "review",
    "uvicorn": "review",
    "daft": "archive",
    "pyarrow": "archive",
    "usearch": "fleet",
}
