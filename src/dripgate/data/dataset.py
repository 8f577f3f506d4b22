"""A data set decoded once: arrays on disk, their labels, and deterministic splits by content.

A recording that is longer than the input is several samples: windows that overlap. No side of a
split depends on the order of the files or on which others are there; the windows of a recording
are on one side.
"""

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from dripgate.data import cache as decoded
from dripgate.data.found import Found
from dripgate.data.infer import infer_input
from dripgate.data.layout import Reading
from dripgate.data.names import LabelledFile
from dripgate.data.sources import Source, open_source
from dripgate.data.split import Split, set_aside
from dripgate.data.summary import summary
from dripgate.data.table import Skipped, Table
from dripgate.errors import DataError, UnreadableError
from dripgate.media import decode, remarks, windows
from dripgate.progress import Progress
from dripgate.types import Array, ImageInput, InputSpec

TEST_SHARE = 0.2
#: A source whose first files are all unreadable is given up after this many.
PATIENCE = 1_000


@dataclass(frozen=True, eq=False)
class Dataset:
    """A decoded data set; y indexes ``classes``, which are sorted. found: the summary of what was
    there, what of it is not used, and what was guessed.
    """

    name: str
    classes: tuple[str, ...]
    input: InputSpec
    train: Split
    test: Split
    skipped: tuple[Skipped, ...]
    found: Found = field(default_factory=lambda: Found(name=""))


def load(
    data: str | Path | Source,
    spec: InputSpec | None = None,
    *,
    progress: Progress | None = None,
    cache: bool = True,
    reading: Reading = "auto",
) -> Dataset:
    """Read DATA and decode all of it, or take it from the cache of an earlier time.

    spec: what every sample becomes; by default infer_input's guess. progress: is given the
    number of files read so far. reading: whether top folders are splits or classes, where DATA
    is not a source already. Without a test part, a fifth of the contents, chosen by their
    hash, are test. Unreadable files are skipped and listed. Raises DataError where most files
    are unreadable, there are fewer than two classes, or test has a class that train has not.
    """
    source = open_source(data, reading=reading) if isinstance(data, str | Path) else data
    spec = spec or infer_input(source)

    def decode_into(sink: IO[bytes]) -> Table:
        return _decode_all(source, spec, sink, progress)

    if cache:
        table, x = decoded.through(source, spec, decode_into)
    else:
        sink = io.BytesIO()
        table = decode_into(sink)
        x = np.frombuffer(sink.getbuffer(), spec.dtype).reshape(-1, *spec.shape)
    return _assemble(source.name, spec, table, x)


def _decode_all(
    source: Source, spec: InputSpec, sink: IO[bytes], progress: Progress | None
) -> Table:
    """Write every decoded sample to ``sink``, one after the other."""
    table, seen = Table(), 0
    for seen, file in enumerate(source.labelled(table.finding), 1):
        try:
            if file.problem:
                raise UnreadableError(file.problem)
            _decode(file, spec, sink, table)
        except UnreadableError as error:
            table.skipped.append(Skipped(file.name, str(error), file.label))
            if seen == PATIENCE == len(table.skipped):
                break
        if progress:
            progress(seen)
    table.files = seen
    if len(table.skipped) > seen - len(table.skipped) or not seen:
        first = f"{table.skipped[0].name}: {table.skipped[0].cause}" if seen else "there is none"
        raise DataError(
            f"{source.name}: {len(table.skipped):,} of {seen:,} files cannot be read as "
            f"{decoded.described(spec)} (the first, {first}); give files of that kind"
        )
    return table


def _decode(file: LabelledFile, spec: InputSpec, sink: IO[bytes], table: Table) -> None:
    """All samples of a file. Of one that is damaged at its end, those before it stay."""
    origin, count = hashlib.sha256(file.payload).hexdigest(), 0
    try:
        for window in windows(file.payload, spec):
            sink.write(decode(window.payload, spec).tobytes())
            id_ = origin if window.whole else hashlib.sha256(window.payload).hexdigest()
            table.labels.append(file.label)
            table.sides.append(file.split)
            table.ids.append(id_)
            table.origins.append(origin)
            table.names.append(window.name(file.name))
            table.sizes.append(len(window.payload))
            count += 1
    finally:
        if count > 1:
            table.windows += count
            table.finding.remarks.add(table.LONG, file.name)
    if isinstance(spec, ImageInput):
        for remark in remarks(file.payload, spec):
            table.finding.remarks.add(remark, file.name)


def _assemble(name: str, spec: InputSpec, table: Table, x: Array) -> Dataset:
    """Labels to indices, and the two sides."""
    classes = tuple(sorted(set(table.labels)))
    if len(classes) < 2:
        raise DataError(
            f"{name}: one class only ({classes[0]!r}); a classifier needs two or more"
            f"{_unreadable_classes(table)}"
        )
    y = np.searchsorted(np.array(classes), np.array(table.labels)).astype(np.int64)
    everything = Split.of(
        x, y, np.array(table.ids), table.names, np.array(table.sizes, np.int64),
        np.array(table.origins),
    )  # fmt: skip
    test = np.array([side == "test" for side in table.sides])
    given = bool(test.any())
    if not given:
        test = set_aside(everything.origins, y, TEST_SHARE, "test")
        if not test.any():
            raise DataError(f"{name}: too few samples ({len(y)}) to set some aside; add a test/")
    if len(untaught := np.setdiff1d(y[test], y[~test])):
        labels = ", ".join(classes[i] for i in untaught[:5])
        raise DataError(
            f"{name}: {len(untaught)} classes are in test but not in train ({labels}); give both "
            "the same class folders"
        )
    train, held_out = everything.take(~test), everything.take(test)
    found = summary(name, spec, classes, train, held_out, table)
    return Dataset(name, classes, spec, train, held_out, tuple(table.skipped), found)


def _unreadable_classes(table: Table) -> str:
    lost = sorted({entry.label for entry in table.skipped} - set(table.labels))
    return f"; no file of {', '.join(lost[:5])} can be read" if lost else ""
