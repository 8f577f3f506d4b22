"""The command line: one file per command, thin. Errors are one line; exit codes 0, 1 and 2."""

import sys
from importlib import import_module

import click

from dripgate import __version__
from dripgate.errors import DripgateError, UserError
from dripgate.text import one_line

_COMMANDS = (
    "demo", "train", "fit", "run", "send", "receive", "retrain", "export", "inspect", "purge",
    "embed", "bench",
)  # fmt: skip


class _Lazy(click.Group):
    """Imports a command's file when it is used, so that `run` never waits for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"dripgate.cli.{name}").command
        return command


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dripgate")
def cli() -> None:
    """Decide on the device, sample by sample, what is worth keeping for retraining."""


def main() -> None:
    """Run the command line and exit: 0 done, 2 usage or bad input, 1 anything else."""
    try:
        cli(prog_name="dripgate")
    except UserError as error:
        click.echo(f"dripgate: {one_line(str(error))}", err=True)
        sys.exit(2)
    except DripgateError as error:
        click.echo(f"dripgate: {one_line(str(error))}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        click.echo(
            f"dripgate: this command needs the '{extra}' extra ({error.name} is not installed); "
            f"run: pip install 'dripgate[{extra}]'",
            err=True,
        )
        sys.exit(2)


#: What each third-party package that may be missing belongs to.
_EXTRAS = {
    "torch": "train",
    "onnx": "train",
    "onnxscript": "train",
    "safetensors": "train",
    "sklearn": "train",
    "jinja2": "report",
    "matplotlib": "report",
    "scipy": "bench",
    "skactiveml": "bench",
    "paho": "mqtt",
    "cv2": "camera",
    "emx_onnx_cgen": "embed",
}
