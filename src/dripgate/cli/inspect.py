"""dripgate inspect: what a gate or a store says about itself."""

from pathlib import Path

import click
import msgspec

from dripgate.cli import describe
from dripgate.cli.common import json_option, show
from dripgate.errors import UserError
from dripgate.gate import Gate
from dripgate.gate_info import GateInfo
from dripgate.store import Store
from dripgate.stream.account import account


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
            summary, meta, policy = store.summary(), store.meta, account(store)
        gate = msgspec.json.decode(meta["gate"], type=GateInfo) if "gate" in meta else None
        lines = describe.store(summary, gate) + (describe.account(policy) if policy else [])
        show(lines, {"path": str(path), "info": summary, "policy": policy}, json_path)
    else:
        info = Gate.load(path).info
        show(describe.gate(info), {"path": str(path), "info": info}, json_path)
