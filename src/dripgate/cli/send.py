"""dripgate send: what a store has pending, to a receiver, and then it is done."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from dripgate.cli import describe
from dripgate.cli.broker import Troubles, security, security_options, sending, sending_options
from dripgate.cli.common import Stop, json_option, progress, show
from dripgate.errors import IncompleteError, StoreError
from dripgate.store import Store
from dripgate.stream.broker import name_of, parse_address


@click.command("send")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--to", required=True, help="mqtt://host/topic, or mqtts://host/topic for TLS.")
@sending_options
@security_options
@click.option(
    "--give-up", default=300.0, show_default=True, help="Seconds without progress before it ends."
)
@json_option
def command(
    store: Path, to: str, give_up: float, json_path: Path | None, **options: Any
) -> None:  # fmt: skip
    """Send what STORE has pending to 'dripgate receive', and end when all of it is confirmed.

    For a store that no 'dripgate run' writes to; a running one sends with --uplink.
    """
    from dripgate.stream.uplink import Uplink

    address, secure, how = parse_address(to), security(options), sending(options)
    if not store.is_file():
        raise StoreError(f"{store} does not exist; give the path of a store")
    stop = Stop()
    with Store(store) as opened:
        name = name_of(opened, options["device"])
        with closing(Uplink(opened, address, secure, name, how)) as uplink:
            uplink.link.connect(stop)
            _send(uplink, stop, give_up, len(opened) - opened.summary().uploaded)
        state, left = uplink.state, len(opened) - opened.summary().uploaded
    value = {"store": str(store), "to": to, "device": name, "left": left, "uplink": state}
    show(describe.uplink(state, left), value, json_path)
    if left and not stop():
        raise IncompleteError(
            f"{left:,} of {store} were not sent: {state.skipped:,} are more than the broker takes"
            + (f"; {state.trouble}" if state.trouble else "")
        )


def _send(uplink: Any, stop: Stop, give_up: float, pending: int) -> None:
    """Until all is confirmed, a signal, or nothing has moved for so many seconds."""
    confirmed, since, say_trouble = 0, time.monotonic(), Troubles()
    with progress(pending, "sending") as sent:
        while not stop() and not uplink.done and time.monotonic() - since < give_up:
            uplink.turn()
            state = uplink.state
            if state.confirmed > confirmed:
                confirmed, since = state.confirmed, time.monotonic()
                sent(confirmed)
            say_trouble(state.trouble)
            uplink.link.wait(0.2)
