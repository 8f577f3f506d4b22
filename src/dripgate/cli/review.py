"""dripgate review: look at what was kept and label it, in the browser."""

import signal
import webbrowser
from contextlib import suppress
from pathlib import Path

import click

from dripgate.cli.common import is_loopback, log, note
from dripgate.errors import UserError
from dripgate.gate import Gate

_DEMO = "review-demo"


@click.command("review")
@click.argument("store", required=False, type=click.Path(path_type=Path))
@click.option("--gate", type=click.Path(path_type=Path), help="Shows heatmaps, and its classes.")
@click.option("--port", default=8765, show_default=True, help="0 is any that is free.")
@click.option(
    "--listen", default="127.0.0.1", show_default=True, metavar="ADDRESS",
    help="0.0.0.0 for other machines: whoever sees the address printed then can label.",
)  # fmt: skip
@click.option("--open/--no-open", "opens", default=False, help="Open it in this machine's browser.")
@click.option("--demo", is_flag=True, help="A day of digits, for a first look.")
def command(
    store: Path | None, gate: Path | None, port: int, listen: str, opens: bool, demo: bool
) -> None:
    """Look at what STORE kept and label it, in a browser.

    Prints the address to open, with a token that is new at every start, and answers until Ctrl-C.
    A 'run' into the same store goes on meanwhile. Nothing is fetched from the network.
    """
    from dripgate.review import Address, serve
    from dripgate.review.desk import Desk

    if demo == (store is not None):
        raise UserError("give a STORE, or --demo for a first look at the digits")
    if demo:
        store, gate = _demo()
    if not is_loopback(listen):
        note(
            f"warning: listening on {listen}, beyond this machine, without encryption: whoever sees"
            " the address or the network's traffic can look and label"
        )

    def ready(address: Address) -> None:
        click.echo(f"{address}")
        note("Ctrl-C ends it; every label is in the store already")
        if opens:
            webbrowser.open(str(address))

    assert store is not None  # noqa: S101 - one of both was given
    desk = Desk(store, Gate.load(gate) if gate else None)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):  # the server hands the signal on when it has ended
        serve(desk, host=listen, port=port, ready=ready)


def _demo() -> tuple[Path, Path]:
    """A store of digits whose labels nobody knows yet, made once; and its gate."""
    from dripgate.data.named import cache_root
    from dripgate.demo.first_look import first_look

    folder = cache_root() / _DEMO
    if not (folder / "kept.db").exists():
        log(f"making the demo in {folder}: some seconds, once")
        first_look(folder, log=log)
    return folder / "kept.db", folder / "gate.onnx"
