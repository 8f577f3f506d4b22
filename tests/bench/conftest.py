"""One seed of the benchmark on digits, with every rule under every condition: made once."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dripgate.bench.rows import Row, read
from needs import need

if TYPE_CHECKING:
    from dripgate.bench.plan import Cell


def every_row(name: str) -> "list[Cell]":
    """Every rule at 30 %, and the default's neighbours wherever the table has them."""
    from dripgate.bench.plan import table

    few = {"full", "random", "margin", "dripgate"}
    return [c for c in table(name) if (c.keep == 0.3 and c.condition == "clean") or c.rule in few]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished benchmark: read only."""
    need("torch", "scikit-activeml")
    from dripgate.bench.run import bench

    out = tmp_path_factory.mktemp("bench")
    bench(["digits"], out, seeds=[0], cells=every_row, workers=1)
    return out


@pytest.fixture(scope="session")
def rows(folder: Path) -> list[Row]:
    """Its rows."""
    return read(folder / "bench.jsonl", Row)


@pytest.fixture
def small() -> "list[Cell]":
    """Three rows for which no gate has to be fitted."""
    need("torch", "scikit-activeml")
    from dripgate.bench.plan import crossed

    return crossed(["clean"], ["full", "random"], [0.3, 0.1])
