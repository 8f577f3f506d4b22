"""dripgate rollback: back to the gate before."""

from pathlib import Path

import click

from dripgate.cli.common import json_option, show
from dripgate.store import Store
from dripgate.stream.force import noted_force


@click.command("rollback")
@click.option(
    "--store", required=True, type=click.Path(path_type=Path), help="Store that 'run' writes to."
)
@click.option("--why", default="", help="For the log.")
@json_option
def command(store: Path, why: str, json_path: Path | None) -> None:
    """Ask the run that writes to STORE, or the next, to end a trial or go to the gate before."""
    from dripgate.errors import ReleaseError
    from dripgate.release.state import Request, ask, noted_releases

    with Store(store, read_only=True) as opened:
        meta = opened.meta
    force, trial = noted_force(meta), noted_releases(meta).trial
    if trial is None and (force is None or not force.previous):
        raise ReleaseError(f"{store}: there is no gate before the one in force to go back to")
    ask(store.resolve(), Request(why=why[:500]))
    line = f"{store}: rolled back by the run that writes to it, or by the next"
    show([line], {"store": str(store), "why": why}, json_path)
