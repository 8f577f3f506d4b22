"""A data set decoded once: arrays on disk, their labels, and deterministic splits by content.

The decoded samples of one source, one input and one version of the decoders are kept under
``decoded/`` in the cache as raw values and one JSON table, written aside, synced and renamed. No
side of a split depends on the order of the files or on which others are there.
"""

import hashlib
import io
import os
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple

import msgspec
import numpy as np

from dripgate.data.files import Side
from dripgate.data.infer import infer_input
from dripgate.data.named import cache_root
from dripgate.data.sources import Source, open_source
from dripgate.data.split import Split, uniform
from dripgate.errors import DataError, UnreadableError
from dripgate.files import write_whole
from dripgate.media import decode
from dripgate.types import Array, InputSpec

Progress = Callable[[int], None]

CACHE_VERSION = 1
TEST_SHARE = 0.2
#: A source whose first files are all unreadable is given up after this many.
PATIENCE = 1_000


class Skipped(NamedTuple):
    """A file that was left out, and why."""

    name: str
    cause: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """A decoded data set; y indexes ``classes``, which are sorted."""

    name: str
    classes: tuple[str, ...]
    input: InputSpec
    train: Split
    test: Split
    skipped: tuple[Skipped, ...]


class _Table(msgspec.Struct):
    """What is known of each decoded sample, column by column, and the files left out."""

    labels: list[str] = []
    sides: list[Side | None] = []
    ids: list[str] = []
    names: list[str] = []
    sizes: list[int] = []
    skipped: list[Skipped] = []


def load(
    data: str | Path | Source,
    spec: InputSpec | None = None,
    *,
    progress: Progress | None = None,
    cache: bool = True,
) -> Dataset:
    """Read DATA and decode all of it, or take it from the cache of an earlier time.

    spec: what every sample becomes; by default infer_input's guess. progress: is given the
    number of files read so far. Without a test part, a fifth of the contents, chosen by their
    hash, are test. Unreadable files are skipped and listed. Raises DataError where most files
    are unreadable, there are fewer than two classes, or test has a class that train has not.
    """
    source = open_source(data) if isinstance(data, str | Path) else data
    spec = spec or infer_input(source)
    read = _through_cache if cache else _into_memory
    return _assemble(source.name, spec, *read(source, spec, progress))


# Decoding, and the cache of it ------------------------------------------------------------------


def _decode_all(
    source: Source, spec: InputSpec, sink: IO[bytes], progress: Progress | None
) -> _Table:
    """Write every decoded sample to ``sink``, one after the other."""
    table, seen = _Table(), 0
    for seen, file in enumerate(source.labelled(), 1):
        try:
            if file.problem:
                raise UnreadableError(file.problem)
            sink.write(decode(file.payload, spec).tobytes())
        except UnreadableError as error:
            table.skipped.append(Skipped(file.name, str(error)))
            if seen == PATIENCE == len(table.skipped):
                break
        else:
            table.labels.append(file.label)
            table.sides.append(file.split)
            table.ids.append(hashlib.sha256(file.payload).hexdigest())
            table.names.append(file.name)
            table.sizes.append(len(file.payload))
        if progress:
            progress(seen)
    if len(table.skipped) > len(table.ids) or not seen:
        first = ": ".join(table.skipped[0]) if seen else "there is none"
        raise DataError(
            f"{source.name}: {len(table.skipped):,} of {seen:,} files cannot be read as "
            f"{_described(spec)} (the first, {first}); give files of that kind"
        )
    return table


def _described(spec: InputSpec) -> str:
    return msgspec.json.encode(spec).decode()


def _into_memory(
    source: Source, spec: InputSpec, progress: Progress | None
) -> tuple[_Table, Array]:
    sink = io.BytesIO()
    table = _decode_all(source, spec, sink, progress)
    return table, np.frombuffer(sink.getbuffer(), spec.dtype).reshape(-1, *spec.shape)


def _through_cache(
    source: Source, spec: InputSpec, progress: Progress | None
) -> tuple[_Table, Array]:
    folder = cache_root() / "decoded" / _key(source, spec)
    try:
        found = _read(folder, spec)
        if found is None:
            _write(folder, source, spec, progress)
            found = _read(folder, spec)
    except OSError as error:
        found = None
        warnings.warn(
            f"{folder}: the cache cannot be used ({error.strerror}); decoding into memory, which "
            "the next start has to do again; set DRIPGATE_CACHE to a folder with space",
            RuntimeWarning,
            stacklevel=3,
        )
    return found or _into_memory(source, spec, progress)


def _key(source: Source, spec: InputSpec) -> str:
    """A folder name that changes with the data, the input, and the code that decodes."""
    decoders = (CACHE_VERSION, version("pillow"), version("soundfile"), version("numpy"))
    text = f"{source.fingerprint()} {_described(spec)} {decoders}"
    readable = re.sub(r"[^\w-]", "_", source.name)
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _read(folder: Path, spec: InputSpec) -> tuple[_Table, Array] | None:
    """Table and samples, mapped copy-on-write; None where they are not there, or not whole."""
    try:
        table = msgspec.json.decode((folder / "table.json").read_bytes(), type=_Table)
        shape = (len(table.ids), *spec.shape)
        if (folder / "x.bin").stat().st_size != prod(shape) * spec.dtype.itemsize:
            return None
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return table, np.asarray(np.memmap(folder / "x.bin", spec.dtype, "c", shape=shape))


def _write(folder: Path, source: Source, spec: InputSpec, progress: Progress | None) -> None:
    """Decode into a temporary folder beside ``folder`` and rename it: never half there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".part-", dir=folder.parent) as temporary:
        part = Path(temporary, "part")
        part.mkdir()
        with (part / "x.bin").open("wb") as sink:
            table = _decode_all(source, spec, sink, progress)
            sink.flush()
            os.fsync(sink.fileno())
        write_whole(part / "table.json", msgspec.json.encode(table))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)


def _assemble(name: str, spec: InputSpec, table: _Table, x: Array) -> Dataset:
    """Labels to indices, and the two sides."""
    classes = tuple(sorted(set(table.labels)))
    if len(classes) < 2:
        raise DataError(f"{name}: one class only ({classes[0]!r}); a classifier needs two or more")
    y = np.searchsorted(np.array(classes), np.array(table.labels)).astype(np.int64)
    everything = Split.of(x, y, np.array(table.ids), table.names, np.array(table.sizes, np.int64))
    test = np.array([side == "test" for side in table.sides])
    if not test.any():
        test = uniform(everything.ids, "test") < TEST_SHARE
        # A class of so few samples that all of them were chosen is for training.
        test &= np.isin(y, y[~test])
        if not test.any():
            raise DataError(f"{name}: too few samples ({len(y)}) to set some aside; add a test/")
    if len(untaught := np.setdiff1d(y[test], y[~test])):
        labels = ", ".join(classes[i] for i in untaught[:5])
        raise DataError(
            f"{name}: {len(untaught)} classes are in test but not in train ({labels}); give both "
            "the same class folders"
        )
    train, held_out = everything.take(~test), everything.take(test)
    return Dataset(name, classes, spec, train, held_out, tuple(table.skipped))
