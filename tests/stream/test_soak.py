"""Memory, open files and time do not grow with the stream; `make soak` gives a million samples."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

SAMPLES = int(os.environ.get("DRIPGATE_SOAK", "20000"))


def test_nothing_grows_with_the_stream(loop):
    tool = Path(__file__).parents[2] / "tools" / "soak.py"
    done = subprocess.run(
        [sys.executable, tool, loop / "gate.onnx", str(SAMPLES)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = found["rows"]
    assert found["samples"] == SAMPLES
    assert found["problems"] == []
    assert 0 < found["left"] == found["stored"] - found["evicted"]
    settled = rows[len(rows) // 4 :]  # the policy's memory and SQLite's cache are full by then
    assert len({row["files"] for row in rows}) == 1
    assert settled[-1]["resident"] - settled[0]["resident"] < 4e6
    assert max(row["store"] for row in rows) <= 2_000_000
    thirds = len(settled) // 3
    early, late = (
        statistics.median(row["cpu_us"] for row in part)
        for part in (settled[:thirds], settled[-thirds:])
    )
    assert late < 2 * early  # in CPU time: a list that grows would show at any speed
