"""One seed of the benchmark on digits, with every rule under every condition: made once."""

from pathlib import Path

import pytest

from dripgate.bench.plan import Cell, crossed, table
from dripgate.bench.rows import Row
from dripgate.bench.run import bench


def every_row(name: str) -> list[Cell]:
    """Every rule at 30 %, and the default's neighbours wherever the table has them."""
    few = {"full", "random", "margin", "dripgate"}
    return [c for c in table(name) if (c.keep == 0.3 and c.condition == "clean") or c.rule in few]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished benchmark: read only."""
    out = tmp_path_factory.mktemp("bench")
    bench(["digits"], out, seeds=[0], cells=every_row, workers=1)
    return out


@pytest.fixture(scope="session")
def rows(folder: Path) -> list[Row]:
    """Its rows."""
    from dripgate.bench.rows import read

    return read(folder / "bench.jsonl")


@pytest.fixture
def small() -> list[Cell]:
    """Three rows for which no gate has to be fitted."""
    return crossed(["clean"], ["full", "random"], [0.3, 0.1])
