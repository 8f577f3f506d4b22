"""dripgate export: what was kept, as files for labelling tools and trainers."""

from pathlib import Path

import click

from dripgate.cli.common import json_option, progress, show
from dripgate.errors import StoreError
from dripgate.export import FORMATS, Exported
from dripgate.store import Store

_SHOWN = 5
#: What to do with each format.
_THEN = {
    "imagefolder": "fill in 'label' in samples.csv, or move files between folders",
    "labelstudio": "import tasks-*.json into a project with config.xml",
    "hf": "load_dataset('imagefolder' or 'audiofolder', data_dir=OUT)",
    "webdataset": "webdataset.WebDataset('OUT/shard-{000000..}.tar')",
    "fiftyone": "fiftyone.Dataset.from_dir(OUT, types.FiftyOneImageClassificationDataset)",
    "edgeimpulse": "edge-impulse-uploader --info-file OUT/info.labels",
    "csv": "fill in 'label' in samples.csv",
}


@click.command("export")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--format", "kind", default="imagefolder", show_default=True, type=click.Choice(list(FORMATS)),
    help="imagefolder: one folder per label, and a table. docs/review.md describes the others.",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New, empty folder.")
@json_option
def command(store: Path, kind: str, out: Path, json_path: Path | None) -> None:
    """Write STORE's samples into OUT, with predictions, scores, propensities and ids.

    'dripgate label' takes the labels back from every one of the formats.
    """
    with (
        Store(store, read_only=True) as opened,
        progress(len(opened), f"exporting {store}") as told,
    ):
        done: Exported = FORMATS[kind](opened, out, told=told)
    value = {"store": str(store), "out": str(out), "format": kind, "exported": done}
    show(_lines(store, kind, out, done), value | {"samples": done.samples}, json_path)
    if done.damaged:
        raise StoreError(
            f"{store}: {len(done.damaged):,} samples are damaged and were left out; write what is "
            f"whole into a new store: dripgate inspect {store} --salvage OUT"
        )


def _lines(store: Path, kind: str, out: Path, done: Exported) -> list[str]:
    then = _THEN[kind].replace("OUT", str(out))
    lines = [
        f"{out}: {done.samples:,} samples as {kind}; {then}",
        f"labels back: dripgate label {store} {out}{'/samples.csv' if kind == 'csv' else ''}",
    ]
    if done.aside:
        counts = ", ".join(f"{count:,} in {name}/" for name, count in done.aside.items())
        lines.append(f"  no class, leave out when you train: {counts}")
    renamed = list(done.renamed.items())
    lines += [f"  label {label} is in {name}/" for label, name in renamed[:_SHOWN]]
    if len(renamed) > _SHOWN:
        lines.append(f"  … and {len(renamed) - _SHOWN} more labels in folders of another name")
    lines += [f"  damaged {id}" for id in done.damaged[:_SHOWN]]
    return lines
