"""dripgate receive: what devices send, into a store."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dripgate.cli import describe, devices
from dripgate.cli.broker import Troubles, security, security_options
from dripgate.cli.common import Stop, json_option, note, show
from dripgate.store import Store, parse_size
from dripgate.stream.broker import name_of, parse_address

if TYPE_CHECKING:
    from dripgate.stream.receive import Receiver
    from dripgate.stream.report import Report


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
    a tenth of the limit: the oldest go. Steps of devices' releases are told as they come, and with
    each report which gate a device runs, and its figures by gate.
    """
    from dripgate.stream.receive import METADATA_PART, Receiver

    # A tenth is for records without payload, in a file of their own.
    room = limit and parse_size(limit) * METADATA_PART // (METADATA_PART + 1)
    where, secure, stop = parse_address(address), security(options), Stop()
    say_trouble, reported = Troubles(), time.monotonic()
    shown: dict[str, Report] = {}
    with (
        Store(store, room) as opened,
        Receiver(
            opened, where, secure, name_of(opened, options["device"]),
            on_refused=lambda topic, cause: note(f"refused {topic}: {cause}"),
            on_event=lambda event: note(devices.event(event)),
        ) as receiver,
    ):  # fmt: skip
        receiver.link.connect(stop)
        while not stop():
            receiver.turn(0.2)
            say_trouble(receiver.link.trouble)
            if time.monotonic() - reported >= interval:
                for line in describe.received(receiver.tally) + _news(receiver, shown):
                    note(line)
                reported = time.monotonic()
        news = _news(receiver, shown)
    value = {"address": address, "store": str(store), "received": receiver.tally,
             "devices": receiver.reported}  # fmt: skip
    show(describe.received(receiver.tally) + news, value, json_path)


def _news(receiver: "Receiver", shown: "dict[str, Report]") -> list[str]:
    """What devices said of themselves that was not shown yet."""
    new = {name: one for name, one in receiver.reported.items() if shown.get(name) != one}
    shown |= new
    return [line for name, one in sorted(new.items()) for line in devices.reported(name, one)]
