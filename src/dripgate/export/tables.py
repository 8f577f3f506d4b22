"""Formats that are a folder of payloads and a table beside it, written row by row.

csv: the table alone. hf: Hugging Face's imagefolder or audiofolder. fiftyone: a
FiftyOneImageClassificationDataset. edgeimpulse: info.labels for the uploader.
"""

import csv as csv_
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from dripgate.data.names import TABLE
from dripgate.export.facts import MEDIA, all_classes, classes_of, facts, file_name
from dripgate.export.folder import Exported, intact, new_folder
from dripgate.export.imagefolder import COLUMNS, row
from dripgate.progress import Progress
from dripgate.store import BROKEN, Store


def csv(store: Store, out: Path, *, told: Progress = lambda _: None) -> Exported:
    """samples.csv alone, without the payloads. Arguments and errors: as ``imagefolder``."""
    classes, damaged, written = classes_of(store), list[str](), 0
    with new_folder(out) as part, (part / TABLE).open("w", newline="", encoding="utf-8") as file:
        rows = csv_.writer(file)
        rows.writerow(COLUMNS)
        for stored in intact(store, damaged, told):
            written += 1
            rows.writerow(row(stored, "", classes))
    return Exported(samples=written, damaged=tuple(damaged))


def hf(store: Store, out: Path, *, told: Progress = lambda _: None) -> Exported:
    """train/ with the payloads and metadata.jsonl: ``load_dataset("imagefolder", data_dir=OUT)``.

    Arguments and errors: as ``imagefolder``.
    """
    classes, damaged, written = classes_of(store), list[str](), 0
    with new_folder(out) as part:
        (part / "train").mkdir()
        with (part / "train" / "metadata.jsonl").open("wb") as lines:
            for stored in intact(store, damaged, told):
                written += 1
                name = file_name(stored)
                (part / "train" / name).write_bytes(stored.payload)
                line = {"file_name": name, "label": stored.label} | facts(stored, classes)
                lines.write(msgspec.json.encode(line) + b"\n")
    return Exported(samples=written, damaged=tuple(damaged))


def fiftyone(store: Store, out: Path, *, told: Progress = lambda _: None) -> Exported:
    """data/, labels.json {classes, labels}, and predictions.json with the numbers as attributes.

    For ``fo.Dataset.from_dir(OUT, fo.types.FiftyOneImageClassificationDataset)``. Arguments and
    errors: as ``imagefolder``.
    """
    classes, damaged, written = [*all_classes(store), BROKEN], list[str](), 0
    index = {name: number for number, name in enumerate(classes)}
    with (
        new_folder(out) as part,
        _entries(part / "labels.json", classes) as labels,
        _entries(part / "predictions.json", None) as predictions,
    ):
        (part / MEDIA).mkdir()
        for stored in intact(store, damaged, told):
            written += 1
            (part / MEDIA / file_name(stored)).write_bytes(stored.payload)
            known = stored.label is None or stored.label in index
            labels(stored.id, index.get(stored.label or "") if known else stored.label)
            found = facts(stored, classes)
            guess = {"label": found.pop("predicted"), "confidence": None, "attributes": found}
            predictions(stored.id, guess)
    return Exported(samples=written, damaged=tuple(damaged))


def edgeimpulse(store: Store, out: Path, *, told: Progress = lambda _: None) -> Exported:
    """training/ and info.labels: ``edge-impulse-uploader --info-file OUT/info.labels``.

    Arguments and errors: as ``imagefolder``.
    """
    classes, damaged, written = classes_of(store), list[str](), 0
    with new_folder(out) as part, (part / "info.labels").open("wb") as file:
        (part / "training").mkdir()
        file.write(b'{"version": 1, "files": [')
        for stored in intact(store, damaged, told):
            written += 1
            name = file_name(stored)
            (part / "training" / name).write_bytes(stored.payload)
            texts = {key: str(value) for key, value in facts(stored, classes).items()
                     if value is not None}  # fmt: skip
            label = {"type": "label", "label": stored.label}
            entry = {
                "path": f"training/{name}", "name": stored.id, "category": "training",
                "label": label if stored.label is not None else {"type": "unlabeled"},
                "metadata": texts,
            }  # fmt: skip
            file.write((b",\n" if written > 1 else b"\n") + msgspec.json.encode(entry))
        file.write(b"\n]}\n")
    return Exported(samples=written, damaged=tuple(damaged))


@contextmanager
def _entries(path: Path, classes: Sequence[str] | None) -> Iterator[Callable[[str, Any], None]]:
    """Writes {"classes": …, "labels": {id: …}} entry by entry."""
    with path.open("wb") as file:
        head = b"" if classes is None else b'"classes": ' + msgspec.json.encode(classes) + b",\n"
        file.write(b"{" + head + b'"labels": {')
        yield _entry(file)
        file.write(b"\n}}\n")


def _entry(file: IO[bytes]) -> Callable[[str, Any], None]:
    between = b"\n"

    def write(id: str, value: Any) -> None:
        nonlocal between
        file.write(between + b'"' + id.encode() + b'": ' + msgspec.json.encode(value))
        between = b",\n"

    return write
