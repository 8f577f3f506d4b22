"""Labels back, from whatever they were given in: what a file or folder says about which sample.

What a sample is, is found by its id wherever a format kept it: in its own column, in the name of
the file, or by hashing the file itself. Nothing is guessed: what says nothing is counted.
"""

import csv
import hashlib
import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from dripgate.data.names import QUARANTINE, TABLE, UNLABELLED
from dripgate.errors import DataError
from dripgate.export.names import Folders, safe_name
from dripgate.progress import Progress
from dripgate.text import from_cell

LARGEST_JSON, LARGEST_LINE = 1 << 30, 1 << 20
_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
#: Columns and keys under which a label may stand, the first that is there.
_LABELS = ("label", "choice", "class")
_Said = tuple[str | None, str | None]


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What was read. format: as it was recognised. labels: by sample id.

    unlabelled: entries that name a sample and no label. unknown: entries that name no sample.
    twice: ids with two labels; the last one counts.
    """

    format: str
    labels: dict[str, str]
    unlabelled: int
    unknown: int
    twice: tuple[str, ...]


def read_labels(path: Path, known: Sequence[str] = (), *, told: Progress = lambda _: None) -> Taken:
    """Labels from a file or folder of any format that ``export`` writes.

    known: labels and classes of the store, whose folders may have other names than they have. told:
    is given the number of entries so far.
    Raises DataError where it is none of them, is too large, or is damaged.
    """
    name, entries = _recognised(path, known)
    return _taken(str(path), name, entries, told)


def parse_labels(data: bytes) -> Taken:
    """Labels from what could stand in a .json, .jsonl or .csv file, found out by how it begins.

    Raises DataError where it is none of them, or damaged.
    """
    try:
        name, entries = _begun(data)
    except _DAMAGED as error:
        raise _damaged("labels", "JSON or CSV", error) from None
    return _taken("labels", name, entries)


def _begun(data: bytes) -> tuple[str, Iterator[_Said]]:
    begin = data.lstrip()[:1]
    if begin not in (b"[", b"{"):
        return "csv", _of_csv(io.StringIO(data.decode("utf-8-sig"), newline=""), "labels")
    try:
        return "json", _of_json(msgspec.json.decode(data))
    except msgspec.DecodeError:
        if begin == b"[":
            raise
        return "lines", _of_lines(io.BytesIO(data))


def _taken(
    where: str, name: str, entries: Iterator[_Said], told: Progress = lambda _: None
) -> Taken:
    labels: dict[str, str] = {}
    count: Counter[str] = Counter()
    twice: dict[str, None] = {}
    try:
        for number, (id, label) in enumerate(entries, 1):
            told(number)
            if id is None:
                count["unknown"] += 1
            elif label is None or not label.strip():
                count["unlabelled"] += 1
            else:
                if labels.get(id, label) != label:
                    twice[id] = None
                labels[id] = label
    except _DAMAGED as error:
        raise _damaged(where, name, error) from None
    return Taken(
        format=name, labels=labels, unlabelled=count["unlabelled"], unknown=count["unknown"],
        twice=tuple(twice),
    )  # fmt: skip


#: What reading something else than it says ends in. UnicodeDecodeError is a ValueError.
_DAMAGED = (
    OSError, ValueError, csv.Error, tarfile.TarError, msgspec.DecodeError, AttributeError,
    TypeError, KeyError, RecursionError,
)  # fmt: skip


def _damaged(where: str, name: str, error: BaseException) -> DataError:
    cause = str(error).split("\n")[0]
    return DataError(f"{where}: damaged, or not what its name says ({name}): {cause}")


def _recognised(path: Path, known: Sequence[str]) -> tuple[str, Iterator[_Said]]:
    if path.is_dir():
        for name, pattern, read in _IN_FOLDERS:
            if found := sorted(path.glob(pattern)):
                return name, _each(found, read)
        if any(child.is_dir() for child in path.iterdir()):
            return "imagefolder", _folders(path, known)
        raise DataError(f"{path}: no labels in this folder; expected what 'dripgate export' writes")
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; give what a labelling tool exported")
    for name, pattern, read in _FILES:
        if path.match(pattern):
            return name, read(path)
    raise DataError(
        f"{path}: labels cannot be read from it; expected .json, .jsonl, .csv, .tar, info.labels, "
        "or a folder"
    )


def _each(paths: Iterable[Path], read: Callable[[Path], Iterator[_Said]]) -> Iterator[_Said]:
    for path in paths:
        yield from read(path)


def _json(path: Path) -> Any:
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise DataError(f"{path}: {size / 1e9:.1f} GB of JSON, at most 1.1; split it")
    return msgspec.json.decode(path.read_bytes())


# One reader for each format: (id, label) of every entry ------------------------------------------


def _records(path: Path) -> Iterator[_Said]:
    """JSON: Label Studio's JSON or JSON_MIN, FiftyOne's labels, or Edge Impulse's."""
    yield from _of_json(_json(path))


def _of_json(found: Any) -> Iterator[_Said]:
    if isinstance(found, dict) and "labels" in found:
        yield from _fiftyone(found)
    elif isinstance(found, dict) and "files" in found:
        yield from _edgeimpulse(found)
    else:
        for record in found if isinstance(found, list) else [found]:
            yield _id_in(record), _label_in(record)


def _lines(path: Path) -> Iterator[_Said]:
    with path.open("rb") as file:
        yield from _of_lines(file)


def _of_lines(file: IO[bytes]) -> Iterator[_Said]:
    for line in iter(lambda: file.readline(LARGEST_LINE), b""):
        if line.strip():
            record = msgspec.json.decode(line)
            yield _id_in(record), _label_in(record)


def _csv(path: Path) -> Iterator[_Said]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from _of_csv(file, str(path))


def _of_csv(file: Iterable[str], where: str) -> Iterator[_Said]:
    rows = csv.DictReader(file)
    if not rows.fieldnames or not set(_LABELS) & set(rows.fieldnames):
        raise DataError(f"{where}: no column 'label'; expected CSV with a header: id,label")
    for row in rows:
        label = _label_in(row)
        yield _id_in(row), from_cell(label) if label else None


def _tar(path: Path) -> Iterator[_Said]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".json") and member.size < LARGEST_LINE:
                file = archive.extractfile(member)
                record = msgspec.json.decode(file.read() if file else b"{}")
                yield _id_in(record) or _id_in(member.name), _label_in(record)


def _fiftyone(found: dict[str, Any]) -> Iterator[_Said]:
    classes = found.get("classes") or []
    for id, value in found["labels"].items():
        given = value.get("label") if isinstance(value, dict) else value
        if isinstance(given, int):
            given = classes[given] if 0 <= given < len(classes) else None
        yield _id_in(id), None if given is None else str(given)


def _edgeimpulse(found: dict[str, Any]) -> Iterator[_Said]:
    for one in found["files"]:
        label = one.get("label") or {}
        yield _id_in(one), label.get("label") if label.get("type") == "label" else None


def _folders(root: Path, known: Sequence[str]) -> Iterator[_Said]:
    """A folder per label, however its files were moved about: a sample is its bytes."""
    labels = _by_folder([*known, *_exported(root / TABLE)])
    for folder in sorted(child for child in root.iterdir() if child.is_dir()):
        aside = folder.name in (QUARANTINE, UNLABELLED)
        for file in sorted(child for child in folder.rglob("*") if child.is_file()):
            if not file.name.startswith("."):
                yield _digest(file), None if aside else labels.get(folder.name, folder.name)


def _digest(file: Path) -> str:
    """SHA-256, a part at a time: a recording may be longer than memory."""
    found = hashlib.sha256()
    with file.open("rb") as data:
        while part := data.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def _exported(table: Path) -> Iterator[str]:
    """The labels of the table that an export wrote into its folder, where it is still there."""
    if table.is_file():
        with table.open(newline="", encoding="utf-8-sig") as file:
            yield from dict.fromkeys(
                from_cell(row["label"]) for row in csv.DictReader(file) if row.get("label")
            )


def _by_folder(known: Sequence[str]) -> dict[str, str]:
    """The label of a folder whose name is not the label itself."""
    found: dict[str, str] = {}
    for label in known:
        name = safe_name(label)
        for folder in (name, Folders(QUARANTINE, UNLABELLED, name).of(label)):
            found.setdefault(folder, label)
    return found | {label: label for label in known}


# Where a record says what -------------------------------------------------------------------------


def _id_in(record: Any) -> str | None:
    """The id, in its own place or in the name of a file; None where there is none."""
    if isinstance(record, str):
        found = _ID.findall(record.lower())
        return found[-1] if found else None
    if isinstance(record, dict):
        preferred = [record[key] for key in ("dripgate_id", "id", "name") if key in record]
        for value in (*preferred, record.get("data"), *record.values()):
            if isinstance(value, str | dict) and (id := _id_in(value)):
                return id
    return None


def _label_in(record: dict[str, Any]) -> str | None:
    """The label: of the newest annotation that was not cancelled, or under its own name."""
    if "annotations" in record:
        given = [one for one in record["annotations"] if not one.get("was_cancelled")]
        for result in reversed([one for note in given for one in note.get("result", [])]):
            choices = result.get("value", {}).get("choices")
            if choices:
                return str(choices[0])
        return None
    for key in _LABELS:
        value = record.get(key)
        if isinstance(value, dict):
            value = (value.get("choices") or [None])[0]
        if value is not None:
            return str(value)
    return None


_FILES = (
    ("edgeimpulse", "*.labels", _records),
    ("fiftyone", "labels.json", _records),
    ("lines", "*.jsonl", _lines),
    ("json", "*.json", _records),
    ("csv", "*.csv", _csv),
    ("webdataset", "*.tar", _tar),
)
#: What makes a folder one of a format, before it is taken for a folder of labels.
_IN_FOLDERS = (
    ("edgeimpulse", "info.labels", _records),
    ("fiftyone", "labels.json", _records),
    ("hf", "**/metadata.jsonl", _lines),
    ("labelstudio", "tasks-*.json", _records),
    ("webdataset", "*.tar", _tar),
)
