"""One folder per label, as torchvision's ImageFolder and most trainers read it, and a table."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dripgate.data.names import NO_CLASSES, QUARANTINE, TABLE, UNLABELLED
from dripgate.export.facts import classes_of
from dripgate.export.folder import Exported, intact, new_folder
from dripgate.export.names import Folders, ending
from dripgate.progress import Progress
from dripgate.store import Store
from dripgate.store.records import StoredSample
from dripgate.text import cell
from dripgate.types import Decision

COLUMNS = (
    "id", "file", "label", "decision", "reason", "predicted", "predicted_class", "score",
    "quality", "propensity", "source", "time",
)  # fmt: skip


def imagefolder(store: Store, out: Path, *, told: Progress = lambda _: None) -> Exported:
    """Write the samples into a new folder, and samples.csv to fill in labels.

    What has no label goes to unlabelled/, or to quarantine/ where it was set aside. told: is
    given the number of samples so far. Raises UserError where it cannot be written; then
    nothing is there.
    """
    classes = classes_of(store)
    folders, damaged = Folders(QUARANTINE, UNLABELLED, TABLE), list[str]()
    written = Counter[str]()
    with (
        new_folder(out) as part,
        (part / TABLE).open("w", newline="", encoding="utf-8") as table,
    ):
        rows = csv.writer(table)
        rows.writerow(COLUMNS)
        for stored in intact(store, damaged, told):
            file = PurePosixPath(_folder(stored, folders), _name(stored))
            (part / file).parent.mkdir(exist_ok=True)
            (part / file).write_bytes(stored.payload)
            rows.writerow(row(stored, str(file), classes))
            written[file.parts[0]] += 1
    return Exported(
        samples=written.total(), damaged=tuple(damaged), renamed=folders.renamed,
        aside={name: written[name] for name in sorted(NO_CLASSES & written.keys())},
    )  # fmt: skip


def _folder(stored: StoredSample, folders: Folders) -> str:
    if stored.label:
        return folders.of(stored.label)
    return QUARANTINE if stored.decision is Decision.QUARANTINE else UNLABELLED


def _name(stored: StoredSample) -> str:
    return f"{stored.id[:32]}{ending(stored.payload)}"


def row(stored: StoredSample, file: str, classes: Sequence[str]) -> Sequence[object]:
    """A line of samples.csv, in the order of COLUMNS; classes: names of what the gate predicts."""
    named = 0 <= stored.predicted < len(classes)
    made = {"file": file, "predicted_class": classes[stored.predicted] if named else ""}
    return [_cell(made[name] if name in made else getattr(stored, name)) for name in COLUMNS]


def _cell(value: object) -> object:
    if value is None:
        return ""
    return cell(str(value)) if isinstance(value, str) else value
