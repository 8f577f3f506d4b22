"""The folder that a sift fills: what is to be done, what is done, and nothing half done.

scores.parquet/part-000000.parquet …   rows, a partition at a time: any reader takes the folder
scores.parquet/_sift/manifest.json     what was asked
scores.parquet/_sift/listing.parquet   the addresses, a row group for each partition
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pyarrow as pa
from pyarrow import parquet

from dripgate.archive.decide import Asked, Block
from dripgate.archive.listing import Columns, Entry
from dripgate.errors import DataError
from dripgate.files import read_whole, sync_folder, write_whole

#: A partition has at most so many addresses, and bytes; a block, which is decided in one go, too.
PARTITION, PARTITION_BYTES = 4096, 1 << 30
BLOCK, BLOCK_BYTES = 256, 64 << 20
_LARGEST_MANIFEST = 16 << 20
_LISTING = pa.schema([("address", pa.string()), ("size", pa.int64()), ("time", pa.float64())])
_VERSION = 1


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was asked, and what was listed. root: the beginning that addresses share. assumed:
    bytes of what has no size in the listing. skipped: what the listing passed over, in lines.
    """

    version: int = _VERSION
    source: str
    root: str
    gate: str
    columns: Columns
    asked: Asked
    assumed: int
    addresses: int
    skipped: tuple[str, ...]

    def same(self, other: "Manifest") -> bool:
        """Whether both ask for the same rows."""
        listed = {"addresses": 0, "skipped": (), "assumed": 0}
        one, two = (msgspec.structs.replace(m, **listed) for m in (self, other))
        return one == two


class Work:
    """The folder of a sift. Raises DataError where it holds something else, or is in use."""

    def __init__(self, out: Path) -> None:
        self.out, self._state = out, out / "_sift"
        self._listing = self._state / "listing.parquet"
        self._manifest = self._state / "manifest.json"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, and be the only one at work in it."""
        strange = self.out.exists() and not self._state.is_dir()
        if strange and not (self.out.is_dir() and not any(self.out.iterdir())):
            raise DataError(f"{self.out}: is there already, and not from sift; give a new name")
        self._state.mkdir(parents=True, exist_ok=True)
        with (self._state / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DataError(
                    f"{self.out}: another sift is at work in it; wait for it, or stop it"
                ) from None
            for left in (*self.out.glob(".part-*.part"), self._listing.with_suffix(".part")):
                left.unlink(missing_ok=True)  # of one that was killed while it wrote
            yield

    @property
    def manifest(self) -> Manifest | None:
        """What was asked, once the listing is complete; None before. Raises DataError."""
        try:
            text = read_whole(self._manifest, _LARGEST_MANIFEST)
            return msgspec.json.decode(text, type=Manifest)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise DataError(
                f"{self._manifest}: damaged, or of another dripgate ({error}); sift into a new "
                "folder"
            ) from None

    def enlist(self, entries: Iterator[Entry], manifest: Manifest, skipped: list[str]) -> Manifest:
        """Write down all addresses; what was listed before without coming to an end is forgotten.

        skipped: what the listing passes over, which grows as ``entries`` are taken.
        """
        count, part = 0, self._listing.with_suffix(".part")
        with parquet.ParquetWriter(part, _LISTING, compression="zstd") as writer:
            for group in _partitions(entries, manifest.assumed):
                columns = list(zip(*group, strict=True))
                writer.write_table(pa.table(columns, schema=_LISTING), row_group_size=len(group))
                count += len(group)
        if not count:
            raise DataError(
                f"{manifest.source}: nothing is there to decide about; check the address"
                + "".join(f"; {line}" for line in skipped[:1])
            )
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(self._listing)
        manifest = msgspec.structs.replace(manifest, addresses=count, skipped=tuple(skipped))
        write_whole(self._manifest, msgspec.json.encode(manifest))
        sync_folder(self._state)
        return manifest

    # Partitions -------------------------------------------------------------------------------

    def pending(self) -> list[tuple[int, int]]:
        """Numbers of the partitions that are not done, with how many addresses each has."""
        with parquet.ParquetFile(self._listing) as listing:
            rows = [listing.metadata.row_group(i).num_rows for i in range(listing.num_row_groups)]
        done = {path.name for path in self.parts()}
        return [(i, n) for i, n in enumerate(rows) if self._part(i).name not in done]

    def blocks(self, partition: int, assumed: int) -> list[Block]:
        """The blocks of a partition, always the same."""
        with parquet.ParquetFile(self._listing) as listing:
            first = sum(listing.metadata.row_group(i).num_rows for i in range(partition))
            table = listing.read_row_group(partition)
        rows = [Entry(*row) for row in zip(*(c.to_pylist() for c in table.columns), strict=True)]
        found = []
        for group in grouped(iter(rows), BLOCK, BLOCK_BYTES, assumed):
            addresses, sizes, times = (list(column) for column in zip(*group, strict=True))
            found.append(Block(first, addresses, sizes, times))
            first += len(group)
        return found

    def finish(self, partition: int, rows: pa.Table) -> None:
        """Make a partition last: whole, or not at all."""
        sink = pa.BufferOutputStream()
        parquet.write_table(rows, sink, compression="zstd")
        write_whole(self._part(partition), sink.getvalue())
        sync_folder(self.out)

    def parts(self) -> list[Path]:
        """The partitions that are done, in order."""
        return sorted(self.out.glob("part-*.parquet"))

    def scratch(self, name: str) -> Path:
        """Where something may lie for a while."""
        return self._state / name

    def _part(self, partition: int) -> Path:
        return self.out / f"part-{partition:06d}.parquet"


def _partitions(entries: Iterator[Entry], assumed: int) -> Iterator[list[Entry]]:
    return grouped(entries, PARTITION, PARTITION_BYTES, assumed)


def grouped(
    entries: Iterator[Entry], most: int, most_bytes: int, assumed: int
) -> Iterator[list[Entry]]:
    """Neighbours together, up to a number and a sum of sizes; one that is larger is alone."""
    group, held = list[Entry](), 0
    for entry in entries:
        size = entry.size if entry.size >= 0 else assumed
        if group and (len(group) == most or held + size > most_bytes):
            yield group
            group, held = [], 0
        group.append(entry)
        held += size
    if group:
        yield group
