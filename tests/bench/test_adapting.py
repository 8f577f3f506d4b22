"""The protocol ``adapt``: rows that are made once, and their page."""

from needs import need

need("torch", "scikit-activeml")

import bench_memory
import pages

from dripgate.bench import adapting
from dripgate.bench.adapt_tables import write
from dripgate.bench.rows import read


def test_rows_are_made_once_and_paged(tmp_path, monkeypatch):
    few = [
        adapting.Cell("sensor", "none", 0.0, "before"),
        adapting.Cell("sensor", "random", 0.2, "head"),
        adapting.Cell("sensor", *adapting.WITHOUT, "head"),
    ]  # fmt: skip
    monkeypatch.setattr(adapting, "cells", lambda: iter(few))
    said: list[str] = []
    rows = adapting.bench(["digits"], tmp_path, seeds=[0], log=said.append)
    assert [row.method for row in rows] == ["before", "head", "head"]
    assert rows[1].labels > rows[2].labels > 0
    path = tmp_path / "adapt.jsonl"
    path.write_bytes(path.read_bytes() + b'{"cut')  # as a crash leaves it
    assert adapting.bench(["digits"], tmp_path, seeds=[0], log=said.append) == rows
    assert said == ["digits, seed 0: 3 rows"]
    (page,) = write(tmp_path)
    assert "## digits, 1 seeds" in page.read_text()


def test_the_page_shows_what_was_measured_of_memories():
    page = (pages.DOCS / "adapt.md").read_text()
    rows = read(bench_memory.OUT, bench_memory.Row)
    assert {(row.seed, row.data) for row in rows} == {
        (seed, data) for seed in range(bench_memory.SEEDS) for data in bench_memory.DATA.split()
    }
    assert [line for line in bench_memory.tables(rows) if line not in page] == []


def test_every_memory_is_measured_on_every_stream(monkeypatch):
    monkeypatch.setattr(bench_memory, "DRAWS", 1)
    monkeypatch.setattr(bench_memory, "STREAMS", ("clean", "sensor"))
    rows = list(bench_memory._rows("digits", 0))
    assert len({(row.part, row.form, row.stream) for row in rows}) == len(rows) == 2 * (10 + 3)
    assert all(0 <= value <= 1 for row in rows for value in (row.before, row.weak, row.chosen))
    size = {row.form: row.size for row in rows if row.part == "forms"}
    assert size["none"] == 0 < size["class means"] < size["10 vectors a class"]
    gone = {row.form: row.weak for row in rows if (row.part, row.stream) == ("absent", "sensor")}
    assert gone["none"] < gone["as it is"]
