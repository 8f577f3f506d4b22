"""What `sift` does at a million samples, and what it costs beside others: `make bench-sift`.

    million   1,000,000 small pictures on this machine: memory as it goes on, cost, choosing
    price     20,000 pictures of 32×32 through a resnet8 gate: sift, plain threads, Ray Data, bare;
              and each further one, by what 2,000 cost: the start of all processes falls out
    kills     a worker, then the driver, killed by SIGKILL: the same rows in the end
    twins     near-duplicates found, and distinct samples lost

CPU time, of all processes together. Rows go to docs/results/sift.json; work goes on in build/sift.
Ray Data needs `make sift-cluster`'s environment and is left out, and said, where it is missing.
"""

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dripgate import media
from dripgate.archive.decide import BATCH, Asked, Block, Decider
from dripgate.archive.work import BLOCK
from dripgate.gate import Gate
from dripgate.gate_info import INPUT_NAME

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "results" / "sift.json"
WORK = Path(os.environ.get("WORK", ROOT / "build" / "sift"))
MILLION = int(os.environ.get("SIFT_SAMPLES", "1000000"))
SMALL, FEW, PER_FOLDER, ROUNDS = 20_000, 2000, 1000, 3
OUTPUTS = ["logits", "score", "verdict", "quality"]
RAY = Path(os.environ.get("DRIPGATE_CLUSTER", ROOT / ".venv-cluster")) / "bin" / "python"


def main() -> None:
    """Measure the parts that are asked for, all by default, print and write."""
    WORK.mkdir(parents=True, exist_ok=True)
    parts = {"million": million, "price": price, "kills": kills, "twins": twins}
    for name in sys.argv[1:] or parts:
        found = parts[name]()
        old = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
        text = json.dumps(old | {name: found}, indent=1, sort_keys=True) + "\n"
        OUT.write_text(text, encoding="utf-8")
        print(name, json.dumps(found, indent=1), flush=True)


# What is decided about ---------------------------------------------------------------------------


def pictures(count: int, side: int, kind: str) -> Path:
    """A folder of different noisy digits, a thousand in each sub-folder; made once."""
    from sklearn.datasets import load_digits

    folder, digits = WORK / f"{count}-{side}-{kind}", load_digits().images * (255 / 16)
    for begin in range(0, count, PER_FOLDER):
        here = folder / f"{begin // PER_FOLDER:04d}"
        if (here / ".whole").exists():
            continue
        here.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(begin)
        for i in range(begin, min(begin + PER_FOLDER, count)):
            image = Image.fromarray(digits[i % len(digits)].astype(np.uint8)).resize((side, side))
            pixels = np.asarray(image, np.int16) + rng.integers(-6, 7, (side, side))
            file = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, kind)
            (here / f"{i:07d}.{kind}").write_bytes(file.getvalue())
        (here / ".whole").touch()
    return folder


def gate(side: int) -> Path:
    """A gate for pictures of so many pixels a side, fitted on digits; made once."""
    path = WORK / f"gate-{side}.onnx"
    if not path.exists():
        from dripgate.data import load, open_source
        from dripgate.models import fit
        from dripgate.training.first import train_first
        from dripgate.training.train import Recipe
        from dripgate.types import ImageInput

        dataset = load(open_source("digits"), ImageInput(height=side, width=side, channels=1))
        trained = train_first(dataset, "resnet8", Recipe(steps=60, batch=64, lr=0.1, seed=0))
        fit(trained.classifier, dataset, keep=0.05, seed=0, log=None).save(path)
    return path


def sifting(*arguments: Any, **more: Any) -> "subprocess.Popen[str]":
    """The command, as users run it, in a session of its own."""
    command = [sys.executable, "-m", "dripgate", "sift", *map(str, arguments)]
    return subprocess.Popen(command, start_new_session=True, text=True, **more)  # noqa: S603


def tree(leader: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def resident(process: int) -> int:
    """Bytes of a process in memory; of what it shares with others its part."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def children() -> float:
    """Seconds of CPU of all processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# Parts -------------------------------------------------------------------------------------------


def million() -> dict[str, Any]:
    """Memory at each tenth of the way, cost, and choosing. Goes on where it was stopped."""
    folder, out = pictures(MILLION, 8, "png"), WORK / "million.parquet"
    began, before = time.time(), children()
    process = sifting(folder, "--gate", gate(8), "--out", out, "--workers", 2,
                      "--json", WORK / "million.json")  # fmt: skip
    memory = followed(process, out)
    cpu = children() - before
    said = json.loads((WORK / "million.json").read_text())["sift"]
    decided = said["progress"]["samples"]
    began_choice = children()
    choosing = sifting(folder, "--gate", gate(8), "--out", out, "--workers", 2, "--keep", 0.05,
                       "--per-day", 40_000, "--json", WORK / "chosen.json")  # fmt: skip
    peak = watched(choosing)
    choice = json.loads((WORK / "chosen.json").read_text())["choice"]
    return {
        "samples": said["tally"]["samples"], "decided_in_this_run": decided,
        "seconds": round(time.time() - began), "cpu_seconds": round(cpu, 1),
        "cpu_us_per_sample": round(cpu / decided * 1e6, 1) if decided else None,
        "cpu_hours_per_million": said["cpu_per_million"], "resident_mb_by_tenth": memory,
        "choosing": {
            "cpu_seconds": round(children() - began_choice, 1), "peak_mb": round(peak / 1e6),
            "chosen": choice["chosen"], "audited": choice["audited"],
            "duplicates": choice["duplicates"], "wanted": choice["wanted"],
        },
        "out_mb": round(sum(p.stat().st_size for p in out.glob("*.parquet")) / 1e6),
    }  # fmt: skip


def followed(process: "subprocess.Popen[str]", out: Path) -> dict[str, Any]:
    """Largest memory of driver and workers in each tenth, in MB."""
    parts, found = max(1, MILLION // 4096), dict[int, list[float]]()
    while process.poll() is None:
        tenth = 10 * len(list(out.glob("part-*"))) // parts
        sizes = {one: resident(one) for one in tree(process.pid)}
        now = [sizes.get(process.pid, 0) / 1e6, sum(sizes.values()) / 1e6]
        found[tenth] = [round(max(pair)) for pair in zip(found.get(tenth, now), now, strict=True)]
        time.sleep(1)
    if process.returncode:
        raise SystemExit("sift failed; see above")
    return {str(tenth): {"driver": a, "all": b} for tenth, (a, b) in sorted(found.items())}


def watched(process: "subprocess.Popen[str]") -> float:
    """Largest memory of all processes together, in bytes."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(resident, tree(process.pid))))
        time.sleep(0.2)
    return peak


def price() -> dict[str, Any]:
    """CPU microseconds per sample, in turn, and bare's as a share of each."""
    folders, path = {n: pictures(n, 32, "jpeg") for n in (FEW, SMALL)}, gate(32)
    ways: dict[str, Any] = {"bare": bares, "threads": threads, "sift": by_sift}
    if RAY.exists():
        ways["ray_data"] = ray_data
    else:
        print("Ray Data: left out, make sift-cluster first", flush=True)
    least: dict[str, dict[int, float]] = {name: {} for name in ways}
    only = 0.0
    for _ in range(ROUNDS):
        for name, way in ways.items():
            for count, folder in folders.items():
                began = time.process_time() + children()
                result = way(folder, path)
                spent = time.process_time() + children() - began
                spent = (result if name == "ray_data" else spent) * 1e6
                least[name][count] = min(spent, least[name].get(count, spent))
                if name == "bare":
                    only = result / count * 1e6
    each = {name: found[SMALL] / SMALL for name, found in least.items()}
    further = {name: (f[SMALL] - f[FEW]) / (SMALL - FEW) for name, f in least.items()}
    return {
        "samples": SMALL, "few": FEW, "rounds": ROUNDS,
        "cpu_us_per_sample": {name: round(value, 1) for name, value in each.items()},
        "cpu_us_per_further_sample": {name: round(value, 1) for name, value in further.items()},
        "onnxruntime_alone_us": round(only, 1),
        "bare_by": {name: round(each["bare"] / value, 3) for name, value in each.items()},
        "bare_by_further": {name: round(further["bare"] / v, 3) for name, v in further.items()},
    }  # fmt: skip


def listed(folder: Path) -> list[str]:
    """The pictures of a folder."""
    return sorted(map(str, folder.glob("*/*.jpeg")))


def bares(folder: Path, path: Path) -> float:
    """Two bare loops at once, as sift has two workers: cores that share a cache slow each other."""
    files = listed(folder)
    with get_context("fork").Pool(2) as pool:
        return sum(pool.starmap(bare, [(path, files[::2]), (path, files[1::2])]))


def bare(path: Path, files: list[str]) -> float:
    """Read, decode with dripgate.media, onnxruntime; CPU seconds of onnxruntime alone."""
    import onnxruntime

    opened = Gate.load(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(opened.data, options, providers=["CPUExecutionProvider"])
    spent = 0.0
    for at in range(0, len(files), BATCH):
        payloads = [Path(name).read_bytes() for name in files[at : at + BATCH]]
        arrays = np.stack([media.decode(one, opened.info.input) for one in payloads])
        began = time.process_time()
        session.run(OUTPUTS, {INPUT_NAME: arrays})
        spent += time.process_time() - began
    return spent


def threads(folder: Path, path: Path) -> None:
    """The same rows without an engine: two threads, each with a decider."""
    files = listed(folder)
    blocks = [
        Block(at, part, [-1] * len(part), [None] * len(part))
        for at in range(0, len(files), BLOCK)
        for part in [files[at : at + BLOCK]]
    ]

    def work(mine: list[Block]) -> None:
        decide = Decider(Gate.load(path), Asked(), None)
        for block in mine:
            decide(block)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, [blocks[::2], blocks[1::2]]))


def by_sift(folder: Path, path: Path) -> None:
    """The command, from nothing."""
    out = WORK / "price.parquet"
    shutil.rmtree(out, ignore_errors=True)
    if sifting(folder, "--gate", path, "--out", out, "--workers", 2).wait():
        raise SystemExit("sift failed; see above")


_RAY_DATA = """
import sys, time, ray, pyarrow as pa, pyarrow.parquet
from dripgate.archive.decide import Asked, Block, Decider
from dripgate.gate import Gate
folder, path, out = sys.argv[1:]
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)

class Deciding:
    def __init__(self):
        self.decide = Decider(Gate.load(path), Asked(), None)
    def __call__(self, batch):
        names = [str(one) for one in batch["path"]]
        rows, cpu = self.decide(Block(0, names, [-1] * len(names), [None] * len(names)))
        spent = pa.array([cpu / len(names)] * len(names))
        return pa.Table.from_batches([rows]).append_column("cpu", spent)

import pathlib
files = sorted(str(one) for one in pathlib.Path(folder).glob("*/*.jpeg"))
rows = ray.data.from_items([{"path": one} for one in files])
rows.map_batches(Deciding, batch_size=256, concurrency=2, num_cpus=1).write_parquet(out)
spent = pa.parquet.read_table(out, columns=["cpu"])["cpu"].to_pylist()
print("CPU", time.process_time() + sum(spent), len(spent))
"""


def ray_data(folder: Path, path: Path) -> float:
    """Ray Data with the same decider, start included; CPU seconds of its driver and workers.

    A lower bound: Ray's own daemons are not counted, nobody here waits for them.
    """
    out, env = WORK / "ray.parquet", os.environ | {"PYTHONPATH": str(ROOT / "src")}
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(  # noqa: S603
        [str(RAY), "-c", _RAY_DATA, str(folder), str(path), str(out)], env=env, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    said = next(line for line in done.stdout.splitlines() if line.startswith("CPU"))
    return float(said.split()[1])


def kills() -> dict[str, Any]:
    """A worker is killed, then the driver; the partitions are compared byte for byte."""
    folder, path = pictures(SMALL, 32, "jpeg"), gate(32)
    expected, out = WORK / "price.parquet", WORK / "kills.parquet"
    if not (expected / "part-000004.parquet").exists():
        by_sift(folder, path)
    shutil.rmtree(out, ignore_errors=True)
    asked = (folder, "--gate", path, "--out", out, "--workers", 2)
    process, killed = sifting(*asked), {"workers": 0, "drivers": 0}
    while process.poll() is None and killed["workers"] < 2:
        workers = [one for one in tree(process.pid) if one != process.pid]
        if len(workers) >= 2 and len(list(out.glob("part-*"))) > killed["workers"]:
            os.kill(workers[-1], signal.SIGKILL)
            killed["workers"] += 1
        time.sleep(0.5)
    while process.poll() is None and len(list(out.glob("part-*"))) < 4:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    killed["drivers"] += process.wait() == -signal.SIGKILL
    before = len(list(out.glob("part-*")))
    if sifting(*asked).wait():
        raise SystemExit("sift failed; see above")
    same = [a.read_bytes() == b.read_bytes() for a, b in zip(
        sorted(expected.glob("part-*")), sorted(out.glob("part-*")), strict=True)]  # fmt: skip
    return {"killed": killed, "partitions_before_the_last_run": before, "partitions": len(same),
            "same_bytes": all(same)}  # fmt: skip


def twins() -> dict[str, Any]:
    """Of near-duplicates among scattered points: found, beside all pairs compared."""
    from dripgate.archive.rows import sketched, unsketched
    from dripgate.twins import Twins

    rng = np.random.default_rng(0)
    points = rng.standard_normal((20_000, 32)).astype(np.float32)
    again = points + 0.02 * rng.standard_normal(points.shape).astype(np.float32)
    known, nearness = Twins(0.1), 0.1
    sketches, others = sketched(points), sketched(again)
    began = time.process_time()
    alone = 0
    a, b = unsketched(sketches), unsketched(others)
    for point in a:
        alone += known.find(point) is not None
        known.add(point)
    cost = (time.process_time() - began) / len(sketches) * 1e6
    gaps = ((a - b) ** 2).sum(1) / ((a * a).sum(1) + (b * b).sum(1)) * 2
    near = gaps <= nearness**2
    found = np.array([known.find(one) is not None for one in b])
    return {"points": len(points), "distinct_taken": int(alone),
            "twins": int(near.sum()), "found": round(float(found[near].mean()), 5),
            "us_per_point": round(cost, 1)}  # fmt: skip


if __name__ == "__main__":
    main()
