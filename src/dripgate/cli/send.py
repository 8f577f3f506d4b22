"""dripgate send: what a store has pending, to a receiver, and then it is done."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dripgate.cli import describe
from dripgate.cli.broker import (
    Troubles,
    check_all_sent,
    drain,
    security,
    security_options,
    sending,
    sending_options,
)  # fmt: skip
from dripgate.cli.common import Stop, json_option, progress, show
from dripgate.errors import StoreError
from dripgate.store import Store
from dripgate.stream.broker import name_of, parse_address

if TYPE_CHECKING:
    from dripgate.stream.uplink import Uplink


@click.command("send")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--to", required=True, help="mqtt://host/topic, or mqtts://host/topic for TLS.")
@sending_options
@security_options
@json_option
def command(store: Path, to: str, json_path: Path | None, **options: Any) -> None:
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
            _send(uplink, stop, options["give_up"], opened.backlog)
        state, left = uplink.state, opened.backlog
    value = {"store": str(store), "to": to, "device": name, "left": left, "uplink": state}
    show(describe.uplink(state, left), value, json_path)
    check_all_sent(store, left, state, stop)


def _send(uplink: "Uplink", stop: Stop, give_up: float, pending: int) -> None:
    say_trouble = Troubles()
    with progress(pending, "sending") as sent:

        def turn() -> None:
            uplink.turn()
            sent(uplink.state.confirmed)
            say_trouble(uplink.state.trouble)

        drain(uplink, stop, give_up, turn)
