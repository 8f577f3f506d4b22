"""Options of the commands that speak to an MQTT broker."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dripgate.cli.common import SECONDS, SECONDS_ABOVE_0, Stop, note
from dripgate.errors import IncompleteError, UserError
from dripgate.store import parse_size
from dripgate.stream.broker import Security, read_login

if TYPE_CHECKING:
    from dripgate.stream.uplink import Options, State, Uplink

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)
_SECURITY = (
    click.option("--credentials", type=_FILE, help='TOML file: username = "…", password = "…".'),
    click.option(
        "--ca", type=_FILE, help="PEM file of the authority of the broker; with mqtts://."
    ),
    click.option("--cert", type=_FILE, help="PEM file of our own certificate."),
    click.option("--key", type=_FILE, help="PEM file of its key."),
    click.option("--device", help="Our name at the broker; remembered."),
)
_SENDING = (
    click.option("--metadata-only", is_flag=True, help="Send no payloads; samples stay here."),
    click.option(
        "--send-embeddings", is_flag=True,
        help="Send embeddings too: then scenes that several devices saw are found there.",
    ),
    click.option("--bandwidth", help="Most to send per second, such as 20kB."),
    click.option(
        "--confirm", type=click.Choice(["receiver", "broker"]), default="receiver",
        show_default=True, help="Whose word is enough to forget that a sample must be sent.",
    ),
    click.option(
        "--patience", type=SECONDS_ABOVE_0, default=30.0, show_default=True,
        help="Seconds without a receipt before a sample is sent again.",
    ),
    click.option(
        "--give-up", type=SECONDS, default=300.0, show_default=True,
        help="Seconds without a receipt before it ends, when only sending is left to do.",
    ),
)  # fmt: skip


def security_options(command: F) -> F:
    """--credentials, --ca, --cert, --key, --device."""
    return _all(_SECURITY, command)


def sending_options(command: F) -> F:
    """--metadata-only, --send-embeddings, --bandwidth, --confirm, --patience, --give-up."""
    return _all(_SENDING, command)


def security(options: dict[str, Any]) -> Security:
    """Who we are to the broker, and whom we trust, from the options. Raises UplinkError."""
    login = read_login(options["credentials"])
    return Security(login, options["ca"], options["cert"], options["key"])


def sending(options: dict[str, Any]) -> "Options":
    """How to send, from the options. Raises UserError."""
    from dripgate.stream.uplink import Options

    rate = options["bandwidth"] and parse_size(options["bandwidth"].removesuffix("/s"))
    if rate == 0:
        raise UserError("--bandwidth must be more than nothing")
    if options["send_embeddings"] and options["metadata_only"]:
        raise UserError(
            "--send-embeddings and --metadata-only: embeddings are kept beside payloads; give one"
        )
    return Options(
        options["metadata_only"], rate, options["confirm"], options["patience"],
        options["send_embeddings"],
    )  # fmt: skip


def drain(uplink: "Uplink", stop: Stop, give_up: float, turn: Callable[[], object]) -> None:
    """Turn until all is confirmed, a signal, or nothing was confirmed for so many seconds."""
    confirmed, since = -1, time.monotonic()
    while not stop() and not uplink.done and time.monotonic() - since < give_up:
        turn()
        if uplink.state.confirmed > confirmed:
            confirmed, since = uplink.state.confirmed, time.monotonic()
        uplink.link.wait(0.2)


def check_all_sent(store: Path, left: int, state: "State", stop: Stop) -> None:
    """IncompleteError where something is left, unless a signal was the reason."""
    if left and not stop():
        raise IncompleteError(
            f"{left:,} of {store} were not sent: {state.skipped:,} are more than the broker takes"
            + (f"; {state.trouble}" if state.trouble else "")
        )


class Troubles:
    """Says what is wrong when it begins to be, and when it is over."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, trouble: str) -> None:
        """Told now and then; the empty string is none."""
        if trouble != self._last:
            note(trouble or "the connection stands again")
        self._last = trouble


def _all(options: tuple[Callable[[F], F], ...], command: F) -> F:
    for option in reversed(options):
        command = option(command)
    return command
