"""Very many small samples through `run`: does anything grow? `make soak`.

python tools/soak.py GATE [SAMPLES]. The gate's input must be small images, such as the demo's on
digits. A process of its own reads nothing but this machine's clock and /proc. After each tenth it
notes resident memory, open files, the store's size and the CPU time per sample; the store is
limited, so most of the way samples are evicted. Rows go to docs/results/reliability.json.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dripgate.gate import Gate
from dripgate.policy import Rules
from dripgate.store import Store
from dripgate.stream.loop import run
from dripgate.types import ImageInput, Sample

OUT = Path(__file__).parents[1] / "docs" / "results" / "reliability.json"


def main() -> None:
    """Measure, print, write."""
    gate = Gate.load(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    rows: list[dict[str, Any]] = []
    started = time.perf_counter()
    with TemporaryDirectory() as folder, Store(Path(folder) / "kept.db", "2MB") as store:
        stream = samples(gate, count, store, rows)
        summary = run(gate, stream, store, rules=Rules(keep=0.05), batch=256)
        problems = store.check()
        kept, counters = len(store), store.counters
    found = {
        "samples": summary.seen, "stored": summary.stored, "left": kept, "problems": problems,
        "evicted": sum(n for name, n in counters.items() if "evicted" in name),
        "seconds": round(time.perf_counter() - started), "rows": rows,
    }  # fmt: skip
    if count >= 1_000_000:  # what a SIGTERM ended early is written too: see its number of samples
        old = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
        text = json.dumps(old | {"soak": found}, indent=1, sort_keys=True)
        OUT.write_text(text + "\n", encoding="utf-8")
    json.dump(found, sys.stdout)


def samples(gate: Gate, count: int, store: Store, rows: list[dict[str, Any]]) -> Iterator[Sample]:
    """Different small images without end; notes the state of this process on the way."""
    assert isinstance(gate.info.input, ImageInput)  # noqa: S101 - a tool, told so above
    height, width = gate.info.input.height, gate.info.input.width
    rng, header = np.random.default_rng(0), b"P5 %d %d 255\n" % (width, height)
    step, clock = max(count // 40, 1), time.process_time()
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    for n in range(count):
        if stopped:
            return
        if n % step == 0:
            now = time.process_time()
            if n:
                files = len(list(Path("/proc/self/fd").iterdir()))
                rows.append({
                    "samples": n, "resident": resident(), "files": files,
                    "store": store.disk_bytes, "cpu_us": round(1e6 * (now - clock) / step, 1),
                })  # fmt: skip
                print(rows[-1], file=sys.stderr, flush=True)
            clock = now
        yield Sample(header + rng.bytes(height * width), f"{n % 1000}.pgm", float(n))


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
