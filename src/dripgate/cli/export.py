"""dripgate export: what was kept, as files for labelling tools and trainers."""

from pathlib import Path

import click

from dripgate.cli.common import json_option, progress, show
from dripgate.errors import StoreError
from dripgate.export import Exported, imagefolder
from dripgate.store import Store

_FORMATS = {"imagefolder": imagefolder}
_SHOWN = 5


@click.command("export")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--format", "kind", default="imagefolder", show_default=True,
    type=click.Choice(list(_FORMATS)), help="imagefolder: one folder per label, and a table.",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New, empty folder.")
@json_option
def command(store: Path, kind: str, out: Path, json_path: Path | None) -> None:
    """Write STORE's samples into OUT: a folder per label, and samples.csv to fill in labels."""
    with (
        Store(store, read_only=True) as opened,
        progress(len(opened), f"exporting {store}") as told,
    ):
        done = _FORMATS[kind](opened, out, told=told)
    value = {"store": str(store), "out": str(out), "format": kind, "exported": done}
    show(_lines(out, done), value | {"samples": done.samples}, json_path)
    if done.damaged:
        raise StoreError(
            f"{store}: {len(done.damaged):,} samples are damaged and were left out; write what is "
            f"whole into a new store: dripgate inspect {store} --salvage OUT"
        )


def _lines(out: Path, done: Exported) -> list[str]:
    lines = [
        f"{out}: {done.samples:,} samples and samples.csv; fill in 'label' and give it to retrain"
    ]
    renamed = list(done.renamed.items())
    lines += [f"  label {label} is in {name}/" for label, name in renamed[:_SHOWN]]
    if len(renamed) > _SHOWN:
        lines.append(f"  … and {len(renamed) - _SHOWN} more labels in folders of another name")
    lines += [f"  damaged {id}" for id in done.damaged[:_SHOWN]]
    return lines
