"""dripgate receive: what devices send, into a store."""

import time
from pathlib import Path
from typing import Any

import click

from dripgate.cli import describe
from dripgate.cli.broker import Troubles, security, security_options
from dripgate.cli.common import Stop, json_option, note, show
from dripgate.store import Store, parse_size
from dripgate.stream.broker import name_of, parse_address


@click.command("receive")
@click.argument("address")
@click.option("--store", required=True, type=click.Path(path_type=Path), help="Store to keep in.")
@click.option("--limit", help="Most that all may take; beyond it the least valuable are lost.")
@security_options
@click.option("--interval", default=60.0, show_default=True, help="Seconds between two reports.")
@json_option
def command(
    address: str, store: Path, limit: str | None, interval: float, json_path: Path | None,
    **options: Any,
) -> None:  # fmt: skip
    """Put what devices send to ADDRESS, mqtt://host/topic, into a store, until Ctrl-C or SIGTERM.

    Each sample once, with its verdict; a device forgets that it must be sent when it is here.
    Records of samples that are sent without payload go to STORE.metadata.jsonl, which takes at most
    a tenth of the limit: the oldest go.
    """
    from dripgate.stream.receive import METADATA_PART, Receiver

    # A tenth is for records without payload, in a file of their own.
    room = limit and parse_size(limit) * METADATA_PART // (METADATA_PART + 1)
    where, secure, stop = parse_address(address), security(options), Stop()
    say_trouble, reported = Troubles(), time.monotonic()
    with (
        Store(store, room) as opened,
        Receiver(
            opened, where, secure, name_of(opened, options["device"]),
            on_refused=lambda topic, cause: note(f"refused {topic}: {cause}"),
        ) as receiver,
    ):  # fmt: skip
        receiver.link.connect(stop)
        while not stop():
            receiver.turn(0.2)
            say_trouble(receiver.link.trouble)
            if time.monotonic() - reported >= interval:
                note(describe.received(receiver.tally)[0])
                reported = time.monotonic()
    value = {"address": address, "store": str(store), "received": receiver.tally}
    show(describe.received(receiver.tally), value, json_path)
