"""dripgate inspect: what a gate or a store says about itself."""

from pathlib import Path

import click
import msgspec

from dripgate.cli import describe
from dripgate.cli.common import json_option, write_json
from dripgate.errors import UserError
from dripgate.gate import Gate
from dripgate.gate_info import GateInfo
from dripgate.store import Store


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def command(path: Path, json_path: Path | None) -> None:
    """Show what a GATE or a STORE holds."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a gate.onnx or a store")
    with path.open("rb") as file:
        is_database = file.read(16).startswith(b"SQLite format 3")
    if is_database:
        with Store(path, read_only=True) as store:
            summary, meta = store.summary(), store.meta
        gate = msgspec.json.decode(meta["gate"], type=GateInfo) if "gate" in meta else None
        _show(path, describe.store(summary, gate), summary, json_path)
    else:
        info = Gate.load(path).info
        _show(path, describe.gate(info), info, json_path)


def _show(path: Path, lines: list[str], value: object, json_path: Path | None) -> None:
    for line in lines:
        click.echo(line)
    write_json(json_path, {"path": str(path), "info": value})
