"""What kills the process: it is found, named and passed over; nothing else is lost or doubled."""

import subprocess
import sys
from pathlib import Path

import pytest

from dripgate.store import Store
from dripgate.stream.loop import run
from dripgate.types import Sample


@pytest.fixture
def start(loop, tmp_path):
    """Starts a run over the folder ``in``; gives the exit status and what it names."""

    def started(batch=8, processed="keep"):
        script = Path(__file__).with_name("deadly.py")
        done = subprocess.run(
            [sys.executable, script, loop / "gate.onnx", tmp_path / "in", tmp_path / "k.db",
             str(batch), processed], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout

    return started


def fill(folder, stream, *deadly):
    folder.mkdir()
    for i, (_, payload) in enumerate(stream[:40]):
        (folder / f"{i:02d}.png").write_bytes(payload + b"deadly" * (i in deadly))


@pytest.mark.parametrize("processed", ["keep", "remove"])
def test_what_kills_twice_is_passed_over_and_named(start, stream, tmp_path, processed):
    fill(tmp_path / "in", stream, 21)
    found = [start(processed=processed) for _ in range(4)]
    assert [status for status, _ in found] == [-9, -9, 0, 0]
    assert found[2][1].startswith("21.png passed over: dripgate was killed twice")
    assert found[3][1] == ""
    with Store(tmp_path / "k.db") as store:
        assert (store.counters["seen"], store.counters["unreadable"]) == (40, 1)
        assert store.check() == []
    left = sorted(path.name for path in (tmp_path / "in").iterdir())
    assert left == (["21.png"] if processed == "remove" else [f"{i:02d}.png" for i in range(40)])


def test_each_of_several_is_found(start, stream, tmp_path):
    fill(tmp_path / "in", stream, 3, 5, 38)
    starts = 0
    while (found := start())[0]:
        starts += 1
    assert starts <= 6
    assert len(found[1].splitlines()) >= 1
    with Store(tmp_path / "k.db") as store:
        assert (store.counters["seen"], store.counters["unreadable"]) == (40, 3)


def test_whoever_is_killed_for_another_reason_loses_nothing(start, gate, stream, tmp_path):
    """Once is chance: what was under way then is decided one by one, and is no suspect."""
    fill(tmp_path / "in", stream, 21)
    assert start()[0] == -9
    (tmp_path / "in" / "21.png").write_bytes(stream[21][1])
    assert start() == (0, "")
    with Store(tmp_path / "k.db") as store:
        assert store.counters["seen"] == 40
        assert "unreadable" not in store.counters


def test_an_error_that_is_told_is_no_death(gate, stream, tmp_path):
    def broken():
        yield Sample(stream[0][1], "a")
        raise OSError("the cable")

    sizes = []
    with Store(tmp_path / "k.db") as store:
        with pytest.raises(OSError, match="cable"):
            run(gate, broken(), store)
        run(gate, [Sample(p, n) for n, p in stream[:20]], store, batch=8,
            on_verdicts=lambda pairs: sizes.append(len(pairs)))  # fmt: skip
    assert sizes == [8, 8, 4]
