"""dripgate report: a fleet's figures as one HTML file."""

from pathlib import Path

import click

from dripgate.cli.common import json_option, parent_of, progress, show
from dripgate.errors import UserError, require
from dripgate.fleet import fleet_account
from dripgate.store import Store


@click.command("report")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="HTML file to write.")
@json_option
def command(store: Path, out: Path, json_path: Path | None) -> None:
    """Write what the devices say that send into STORE, which 'dripgate receive' fills.

    One by one and together, with intervals; the one to look at first; by gate; and the scenes that
    several of them saw. One file, which fetches nothing.
    """
    from dripgate.report import fleet

    parent_of(out)
    require("the HTML report", "report", "jinja2")
    if not store.is_file():
        raise UserError(f"{store}: no such file; give the store of 'dripgate receive'")
    with (
        Store(store, read_only=True) as opened,
        progress(None, "comparing devices' samples") as told,
    ):
        found = fleet_account(opened, told=told)
    if found is None:
        raise UserError(
            f"{store}: no device reported to it, so there is no fleet; give the store of 'dripgate "
            "receive', or look at this one with 'dripgate inspect' and 'dripgate review'"
        )
    fleet.write(found, store.name, out)
    lines = [
        f"{out}: {len(found.devices):,} devices; look at {found.devices[0].name} first",
    ]
    show(lines, {"store": str(store), "out": str(out), "fleet": found}, json_path)
