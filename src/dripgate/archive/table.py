"""The addresses in a Parquet or CSV table, part by part; a damaged part does not lose the rest."""

from collections.abc import Callable, Iterator
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from dripgate.archive.fetch import is_remote
from dripgate.archive.needs import daft
from dripgate.errors import DataError
from dripgate.text import one_line

TABLES = (".parquet", ".csv")
#: What columns of addresses are called; the first that a table has is taken, and said.
_USUAL = ("address", "url", "uri", "path", "file_path", "filepath", "file_name", "filename",
          "file", "image_url", "image", "audio")  # fmt: skip
_LONGEST = 8192
_BLOCK = 1 << 20

Told = Callable[[str], object]


def addresses(
    source: str, address: str | None, time: str | None, transport: Any, told: Told
) -> Iterator[tuple[str, float | None]]:
    """Each row's address, and its time in seconds since the epoch.

    address, time: names of columns. Raises DataError where the table or a column is not there.
    """
    with _opened(source, transport) as file:
        parts = _csv if source.lower().endswith(".csv") else _parquet
        unused = timeless = 0
        for found, times in parts(source, file, address, time, told):
            for i, text in enumerate(found):
                if not isinstance(text, str) or not 0 < len(text) <= _LONGEST:
                    unused += 1
                    continue
                at = None if times is None else _seconds(times[i])
                timeless += times is not None and at is None
                yield text, at
    if unused:
        told(f"{source}: {unused:,} rows without an address, or with one of more than "
             f"{_LONGEST:,} characters; passed over")  # fmt: skip
    if timeless:
        told(f"{source}: {timeless:,} rows without a time in the column {time!r}")


def _opened(source: str, transport: Any) -> Any:
    try:
        if is_remote(source):
            return daft().File(source, io_config=transport).open()
        path = Path(source).expanduser()
        if not path.is_file():
            raise DataError(f"{source}: no such table; give a Parquet or CSV file")
        return path.open("rb")
    except DataError:
        raise
    except Exception as error:  # the engine's errors share no base class
        raise _unusable(source, error) from None


def _parquet(
    source: str, file: Any, address: str | None, time: str | None, told: Told
) -> Iterator[tuple[list[Any], list[Any] | None]]:
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
    except Exception as error:  # a damaged footer raises whatever it likes
        raise _unusable(source, error) from None
    columns = _columns(source, table.schema_arrow.names, address, time, told)
    for group in range(table.num_row_groups):
        try:
            part = table.read_row_group(group, columns=columns)
        except Exception as error:
            rows = table.metadata.row_group(group).num_rows
            cause = one_line(" ".join(str(error).split()))[:120]
            told(f"{source}: the rows of group {group} are damaged ({cause}); {rows:,} not seen")
            continue
        for batch in part.to_batches(8192):
            yield _lists(batch, columns)


def _csv(
    source: str, file: Any, address: str | None, time: str | None, told: Told
) -> Iterator[tuple[list[Any], list[Any] | None]]:
    from pyarrow import csv

    skipped = 0

    def skip(_: Any) -> str:
        nonlocal skipped
        skipped += 1
        return "skip"

    try:
        reader = csv.open_csv(
            file,
            read_options=csv.ReadOptions(block_size=_BLOCK, use_threads=False),
            parse_options=csv.ParseOptions(invalid_row_handler=skip, newlines_in_values=True),
        )
    except Exception as error:
        raise _unusable(source, error) from None
    columns = _columns(source, reader.schema.names, address, time, told)
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            break
        except Exception as error:
            cause = one_line(" ".join(str(error).split()))[:120]
            told(f"{source}: damaged from here on ({cause}); the rows behind are not seen")
            break
        yield _lists(batch, columns)
    if skipped:
        told(f"{source}: {skipped:,} rows have another number of columns; passed over")


def _columns(
    source: str, names: list[str], address: str | None, time: str | None, told: Told
) -> list[str]:
    """The columns to read: addresses, and times where they are asked for."""
    shown = ", ".join(map(one_line, names[:20]))
    if address is None:
        lower = {name.lower(): name for name in reversed(names)}
        usual = [lower[name] for name in _USUAL if name in lower]
        if not usual:
            raise DataError(f"{source}: which column holds the addresses? Say --column; there are "
                            f"{shown}")  # fmt: skip
        address = usual[0]
        told(f"{source}: addresses are in the column {address!r} (another one: --column)")
    for name in filter(None, (address, time)):
        if name not in names:
            raise DataError(f"{source}: no column {name!r}; there are {shown}")
    return [address] if time is None else [address, time]


def _lists(batch: Any, columns: list[str]) -> tuple[list[Any], list[Any] | None]:
    found = batch.column(columns[0]).to_pylist()
    return found, batch.column(columns[1]).to_pylist() if len(columns) > 1 else None


def _seconds(value: Any) -> float | None:
    """A time as tables have it: a timestamp, a date, ISO text, or seconds since the epoch."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=timezone.utc).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e11 else None
    return None


def _unusable(source: str, error: Exception) -> DataError:
    cause = one_line(" ".join(str(error).split()))[:200]
    return DataError(f"{source}: cannot be read as a table ({cause}); check the file")
