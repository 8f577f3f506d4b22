"""From the file of rows to tables and pictures beside it."""

from pathlib import Path

from dripgate.bench.bars import lines
from dripgate.bench.plots import write_plots
from dripgate.bench.rows import Row, read
from dripgate.bench.run import FILE
from dripgate.bench.tables import Table, markdown
from dripgate.errors import DataError
from dripgate.files import write_whole


def write(folder: Path) -> list[Path]:
    """Write bench.md and the SVG files for ``folder``/bench.jsonl; their paths.

    Raises DataError where there are no rows.
    """
    rows = read(folder / FILE, Row)
    if not rows:
        raise DataError(f"{folder / FILE}: holds no rows; make some with 'dripgate bench'")
    page = folder / "bench.md"
    write_whole(page, markdown(rows, lines(rows)).encode())
    return [page, *write_plots(Table(rows), folder)]
