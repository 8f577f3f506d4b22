"""SOURCE → addresses, a few thousand at a time, and what is passed over, told and counted.

photos/ · 'photos/**/*.jpg'      this machine's files
s3://bucket/prefix · gs://…      an object store's, or by a glob; listed by the engine
https://host/folder/             the links of a listing, and of those below it
files.parquet · files.csv        a column of addresses, wherever the table itself is
"""

import glob
import os
import stat
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from dripgate.archive.fetch import FILE, address_of, cause_of, is_remote
from dripgate.archive.index import links
from dripgate.archive.needs import daft
from dripgate.archive.table import TABLES, addresses
from dripgate.data.names import ARCHIVES
from dripgate.errors import DataError
from dripgate.stream.tree import Tree
from dripgate.text import one_line

Told = Callable[[str], object]
_STORES = ("s3://", "gs://")
_MAGIC = "*?["


class Entry(NamedTuple):
    """One thing to decide about. size: in bytes, -1 where unknown. time: seconds since the epoch,
    None where nothing says it.
    """

    address: str
    size: int = -1
    time: float | None = None


class Columns(NamedTuple):
    """Which columns of a table hold addresses and times; None is found out, and no times."""

    address: str | None = None
    time: str | None = None


def root_of(source: str) -> str:
    """The beginning that all addresses of a source share, as they are written; "" for a table."""
    if source.lower().endswith(TABLES):
        return ""
    fixed = source
    for sign in _MAGIC:
        fixed = fixed.partition(sign)[0]
    if is_remote(source):
        return fixed if fixed.endswith("/") else fixed.rpartition("/")[0] + "/"
    folder = fixed if fixed == source else os.path.dirname(fixed) or "."
    return address_of(os.path.join(os.path.realpath(os.path.expanduser(folder)), ""))


def entries(source: str, columns: Columns, transport: Any, told: Told) -> Iterator[Entry]:
    """All that a source has. told: is given a line for each thing that is passed over.

    Raises DataError for what is no source, and where a listing breaks off.
    """
    lower = source.lower()
    if lower.endswith(TABLES):
        yield from _of_table(source, columns, transport, told)
    elif lower.startswith(_STORES):
        yield from _of_store(source, transport)
    elif is_remote(source):
        yield from (Entry(link) for link in links(source, told))
    elif any(sign in source for sign in _MAGIC) and not os.path.exists(source):
        yield from _of_glob(source, told)
    else:
        yield from _of_folder(Path(source).expanduser(), told)


def batches(found: Iterator[Entry], size: int) -> Iterator[list[Entry]]:
    """Entries, ``size`` at a time."""
    while part := list(islice(found, size)):
        yield part


# Kinds of sources ------------------------------------------------------------------------------


def _of_folder(folder: Path, told: Told) -> Iterator[Entry]:
    if not folder.is_dir():
        raise DataError(_no_source(folder))
    for found in Tree(folder.resolve(), told).each():
        yield Entry(address_of(found.path), found.status.st_size, found.status.st_mtime)


def _of_glob(pattern: str, told: Told) -> Iterator[Entry]:
    passed = 0
    for path in glob.iglob(os.path.expanduser(pattern), recursive=True):
        try:
            status = os.stat(path)
        except OSError:
            passed += 1
            continue
        if stat.S_ISREG(status.st_mode):
            yield Entry(address_of(os.path.realpath(path)), status.st_size, status.st_mtime)
        elif not stat.S_ISDIR(status.st_mode):
            passed += 1
    if passed:
        told(f"{one_line(pattern)}: {passed:,} matches are no regular files; passed over")


def _of_store(source: str, transport: Any) -> Iterator[Entry]:
    pattern = source
    if not any(sign in source for sign in _MAGIC):
        pattern = source.rstrip("/") + "/**"
    try:
        found = daft().from_glob_path(pattern, io_config=transport).select("path", "size")
        for batch in found.to_arrow_iter():
            for path, size in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if not path.endswith("/"):  # what consoles make as a folder
                    yield Entry(path, -1 if size is None else size)
    except Exception as error:  # the engine's errors share no base class
        raise _broken(source, error) from None


def _of_table(source: str, columns: Columns, transport: Any, told: Told) -> Iterator[Entry]:
    base = source.rpartition("/")[0]
    if not is_remote(source):
        base = os.path.dirname(os.path.realpath(os.path.expanduser(source)))
    for address, time in addresses(source, columns.address, columns.time, transport, told):
        if is_remote(address) or address.lower().startswith(FILE):
            yield Entry(address, time=time)
        elif is_remote(source):
            yield Entry(f"{base}/{quote(address.lstrip('/'))}", time=time)
        else:
            yield Entry(address_of(os.path.join(base, address)), time=time)


def _no_source(path: Path) -> str:
    if path.name.lower().endswith(ARCHIVES):
        return f"{path}: an archive file; sift reads folders, buckets and tables: unpack it, or " \
               "decide about it with 'dripgate run'"  # fmt: skip
    what = "no folder" if path.exists() else "no such folder"
    return f"{path}: {what}; give a folder, a glob in quotes, s3://…, gs://…, https://… or a " \
           f"table ({', '.join(TABLES)})"  # fmt: skip


def _broken(source: str, error: Exception) -> DataError:
    only = "; Daft reaches no other server for gs:// than storage.googleapis.com"
    return DataError(
        f"{source}: cannot be listed ({cause_of(error)}); check the address, and the credentials "
        "in the environment (--anonymous for a public bucket)"
        + (only if source.lower().startswith("gs:") else "")
    )
