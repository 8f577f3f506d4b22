"""dripgate export: what was kept, as files for labelling tools and trainers."""

import csv
import re
from pathlib import Path, PurePosixPath

import click

from dripgate.cli.common import json_option, show
from dripgate.errors import UserError
from dripgate.store import Store
from dripgate.store.records import StoredSample
from dripgate.types import Decision

_COLUMNS = (
    "id", "file", "label", "decision", "reason", "predicted", "score", "quality",
    "propensity", "source", "time",
)  # fmt: skip


@click.command("export")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--format", "kind", default="imagefolder", show_default=True,
    type=click.Choice(["imagefolder"]), help="One folder per label, and a table.",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New, empty folder.")
@json_option
def command(store: Path, kind: str, out: Path, json_path: Path | None) -> None:
    """Write STORE's samples into OUT: a folder per label, and samples.csv to fill in labels."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not empty; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    written = 0
    with (
        Store(store, read_only=True) as opened,
        (out / "samples.csv").open("w", newline="", encoding="utf-8") as table,
    ):
        rows = csv.writer(table)
        rows.writerow(_COLUMNS)
        for stored in opened:
            file = _place(stored)
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            (out / file).write_bytes(stored.payload)
            rows.writerow([_field(stored, file, name) for name in _COLUMNS])
            written += 1
    line = f"{out}: {written:,} samples and samples.csv; fill in 'label' and give it to retrain"
    show([line], {"store": str(store), "out": str(out), "samples": written}, json_path)


def _place(stored: StoredSample) -> PurePosixPath:
    """label/id.ext: names from outside never become paths as they are."""
    folder = (
        "quarantine" if stored.decision is Decision.QUARANTINE else stored.label or "unlabelled"
    )
    suffix = PurePosixPath(stored.source).suffix
    safe = suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", suffix) else ".bin"
    cleaned = re.sub(r"[^\w.-]+", "_", folder).lstrip(".") or "_"
    return PurePosixPath(cleaned, f"{stored.id[:32]}{safe}")


def _field(stored: StoredSample, file: PurePosixPath, name: str) -> object:
    if name == "file":
        return str(file)
    value = getattr(stored, name)
    return "" if value is None else value
