"""The protocol ``adapt``: rows that are made once, and their page."""

from needs import need

need("torch", "scikit-activeml")

from dripgate.bench import adapting
from dripgate.bench.adapt_tables import write


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
