"""How long from a key press until the label is on the disk and on the page, in a real browser.

    python tools/bench_review.py [--samples 10000,1000000] [--presses 200]

Stores of so many samples (PNG of 16 × 16), Debian's chromium, `dripgate review` as users start it,
alone and beside a process that commits 32 samples ten times a second. Writes
docs/results/review.json. A million samples take some minutes to make.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from dripgate.media import encode_png
from dripgate.store import Store
from dripgate.types import Decision, Reason, Sample, Verdict

OUT = Path(__file__).parents[1] / "docs" / "results" / "review.json"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
#: Presses a key and waits until the page shows the label, which is after it is durable.
PRESS = """key => new Promise((shown, failed) => {
  const before = took, wrong = oops, began = performance.now();
  took = done => { took = before; took(done); shown(performance.now() - began); };
  oops = error => { oops = wrong; failed(error); };
  setTimeout(() => failed(new Error('no label within 10 s')), 10000);
  $('grid').dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
})"""
WRITER = """
import sys, time
sys.path[:0] = [sys.argv[2]]
from bench_review import one
from dripgate.store import Store
with Store(sys.argv[1]) as store:
    n = 10**9
    print("ready", flush=True)
    while True:
        store.put_many([one(n + i) for i in range(32)])
        n += 32
        time.sleep(0.1)
"""


def one(n: int) -> tuple[Sample, Verdict]:
    """A sample that is like no other, and a verdict on it."""
    rng = np.random.default_rng(n)
    png = encode_png(rng.integers(0, 256, (16, 16), np.uint8))
    verdict = Verdict(
        decision=Decision.KEEP, reason=Reason.BAND, score=float(rng.random()), quality=0.0,
        predicted=int(rng.integers(10)), propensity=1.0,
    )  # fmt: skip
    return Sample(png, source=f"frame-{n}.png", time=1e9 + n), verdict


def fill(path: Path, samples: int) -> None:
    """A store of so many samples, each with an embedding of 64 numbers."""
    with Store(path) as store:
        for start in range(0, samples, 5000):
            pairs = [one(n) for n in range(start, min(start + 5000, samples))]
            values = np.random.default_rng(start).normal(size=(len(pairs), 64)).astype(np.float32)
            ids = (sample.id for sample, _ in pairs)
            store.put_many(pairs, embeddings=dict(zip(ids, values, strict=True)))
            print(f"\r{start + len(pairs):,} samples", end="", file=sys.stderr)
    print(file=sys.stderr)


def measure(page: Page, path: Path, presses: int) -> dict[str, float]:
    """Milliseconds by what was done."""
    process = subprocess.Popen(  # noqa: S603 - this interpreter
        [sys.executable, "-m", "dripgate", "review", str(path), "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        output = process.stdout or sys.exit("no output")
        began = time.perf_counter()
        page.goto(output.readline().strip())
        page.wait_for_selector(".cell[data-id]")
        first = time.perf_counter() - began
        took = sorted(page.evaluate(PRESS, "x") for _ in range(presses))
        began = time.perf_counter()
        page.evaluate("(async () => { $('order').value = 'strangest'; await show(); })()")
        order = time.perf_counter() - began
        frames = page.evaluate(SCROLL)
        resident = _resident(process.pid)
    finally:
        process.terminate()
        process.wait()
    return {
        "first_picture_ms": round(1000 * first, 1),
        "press_median_ms": round(took[len(took) // 2], 1),
        "press_95_ms": round(took[int(0.95 * len(took))], 1),
        "press_longest_ms": round(took[-1], 1),
        "order_ms": round(1000 * order, 1),
        "frame_95_ms": round(frames, 1),
        "server_resident_mb": round(resident / 1e6, 1),
    }


#: Scrolls through three hundred rows; the 95th percentile of the time between two frames.
SCROLL = """() => new Promise(done => {
  const times = []; let last = performance.now(), n = 0;
  const frame = now => {
    times.push(now - last); last = now;
    $('grid').scrollTop += 160 / factor;
    if (++n < 300) requestAnimationFrame(frame);
    else done(times.sort((a, b) => a - b)[Math.floor(.95 * times.length)]);
  };
  requestAnimationFrame(frame);
})"""


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", default="10000,1000000")
    parser.add_argument("--presses", type=int, default=200)
    asked = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium here: apt-get install chromium")
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for samples in map(int, asked.samples.split(",")):
            path = Path(folder, f"{samples}.db")
            fill(path, samples)
            for beside in (False, True):
                writer = _writer(path) if beside else None
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                row = {"samples": samples, "writer_beside": beside}
                rows.append(row | measure(page, path, asked.presses))
                print(json.dumps(rows[-1]))
                page.close()
                if writer:
                    writer.kill()
                    writer.wait()
        browser.close()
    machine = {"machine": platform.platform(), "cores": os.cpu_count(),
               "python": platform.python_version(), "load": os.getloadavg()[0]}  # fmt: skip
    OUT.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def _writer(path: Path) -> "subprocess.Popen[str]":
    writer = subprocess.Popen(  # noqa: S603 - this interpreter
        [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    (writer.stdout or sys.exit("no output")).readline()
    return writer


if __name__ == "__main__":
    main()
