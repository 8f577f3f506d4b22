"""dripgate inspect: what a gate or a store says about itself, and whether it is sound."""

from pathlib import Path

import click

from dripgate.cli import describe, devices
from dripgate.cli.common import json_option, progress, show
from dripgate.errors import StoreError, UserError
from dripgate.fleet import fleet_account
from dripgate.gate import Gate
from dripgate.gate_info import noted
from dripgate.store import Store, format_size, salvage
from dripgate.stream.account import account
from dripgate.stream.force import noted_force

_SHOWN = 10


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Read all of a STORE and say what is wrong with it.")
@click.option(
    "--salvage", "out", type=click.Path(path_type=Path),
    help="Write what is whole in a damaged STORE into this new one.",
)  # fmt: skip
@click.option("--releases", is_flag=True, help="Which gate is in force in a STORE, and its log.")
@json_option
def command(
    path: Path, check: bool, out: Path | None, releases: bool, json_path: Path | None
) -> None:
    """Show what a GATE or a STORE holds, check a STORE, or save what is left of it."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a gate.onnx or a store, such as kept.db")
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a gate.onnx or a store")
    if out is not None:
        _salvage(path, out, json_path)
    elif releases:
        _releases(path, json_path)
    elif check:
        _check(path, json_path)
    elif _is_database(path):
        _store(path, json_path)
    else:
        info = Gate.load(path).info
        show(describe.gate(info), {"path": str(path), "info": info}, json_path)


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(16).startswith(b"SQLite format 3")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its rights") from None


def _store(path: Path, json_path: Path | None) -> None:
    with Store(path, read_only=True) as store:
        summary, meta, policy = store.summary(), store.meta, account(store)
        with progress(None, "comparing devices' samples") as told:
            fleet = fleet_account(store, told=told)
    gate = noted(meta)
    lines = describe.store(summary, gate) + (describe.account(policy) if policy else [])
    if "gate" in meta and gate is None:
        lines.append("gate         damaged, or of another dripgate: classes are shown by number")
    lines += devices.fleet(fleet) if fleet else []
    value = {"path": str(path), "info": summary, "policy": policy, "fleet": fleet}
    show(lines, value, json_path)


def _releases(path: Path, json_path: Path | None) -> None:
    from dripgate.release.state import noted_releases

    with Store(path, read_only=True) as store:
        meta, events = store.meta, store.events()
    force, found = noted_force(meta), noted_releases(meta)
    lines = describe.releases(force, found, events)
    show(lines, {"path": str(path), "force": force, "releases": found, "events": events}, json_path)


def _check(path: Path, json_path: Path | None) -> None:
    """Fails where the store is not sound, so that a script can ask."""
    with (
        Store(path, read_only=True) as store,
        progress(len(store), f"checking {path}") as told,
    ):
        problems, samples = store.check(told=told), len(store)
    if not problems:
        show(
            [f"{path}: sound, {samples:,} samples"], {"path": str(path), "problems": []}, json_path
        )
        return
    lines = [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  … and {len(problems) - _SHOWN:,} more")
    show(lines, {"path": str(path), "problems": problems}, json_path)
    raise StoreError(
        f"{path} is damaged ({len(problems):,} problems); write what is whole into a new store: "
        f"dripgate inspect {path} --salvage OUT"
    )


def _salvage(path: Path, out: Path, json_path: Path | None) -> None:
    with progress(None, f"salvaging {path}") as told:
        found = salvage(path, out, told=told)
    lines = [
        f"{out}: {found.whole:,} whole samples, {found.without_verdict:,} of them quarantined "
        f"because their verdicts are lost",
        f"damaged      {found.damaged:,} samples or payloads were not whole",
    ]
    if found.journal:
        lines.append(f"journal      not used: {found.journal}")
    if found.limit is not None:
        lines.append(f"limit        none; it was {format_size(found.limit)}: give it to run again")
    show(lines, {"path": str(path), "out": str(out), "salvaged": found}, json_path)
