"""The demo on the four real data sets, three seeds each: docs/results/demo.jsonl and demo.md.

Rows are appended as they finish; rows that are there already are not run again. Run it by
`make demo-rows` with $DRIPGATE_DATA set. DATA and SEEDS narrow it down.
"""

import json
import os
import sys
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch

from dripgate.demo.loop import ROWS, demo
from dripgate.demo.plan import PLANS

RESULTS = Path(__file__).parents[1] / "docs" / "results"
LINES, PAGE = RESULTS / "demo.jsonl", RESULTS / "demo.md"
#: Student's t for a 95 % interval of a mean, by number of seeds.
T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}


def main() -> None:
    """Run what is missing, then write the page from all rows."""
    names = os.environ.get("DATA", "mnist cifar10 plantvillage speechcommands").split()
    seeds = range(int(os.environ.get("SEEDS", "3")))
    done = {(row["data"], row["seed"]) for row in rows()}
    for seed in seeds:
        for name in names:
            if (name, seed) not in done:
                run(name, seed)
    PAGE.write_text(page(rows()), encoding="utf-8")


def rows() -> list[dict[str, Any]]:
    """All rows so far."""
    if not LINES.exists():
        return []
    return [json.loads(line) for line in LINES.read_text(encoding="utf-8").splitlines()]


def run(name: str, seed: int) -> None:
    """One demo, appended as one line."""
    log = lambda text: print(text, file=sys.stderr)  # noqa: E731
    with TemporaryDirectory() as out:
        result = demo(name, Path(out), seed=seed, log=log)
    row = {key: getattr(result, key) for key in (
        "data", "seed", "stream", "kept", "quarantined", "storage_saved", "bytes_seen",
        "bytes_kept", "accuracy", "seconds", "steps", "tested", "keep_expected",
    )} | {"arch": PLANS[name].arch, "threads": torch.get_num_threads()}  # fmt: skip
    with LINES.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def page(found: list[dict[str, Any]]) -> str:
    """The Markdown page."""
    by_data: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        by_data.setdefault(row["data"], []).append(row)
    lines = [
        "# The demo on real data",
        "",
        "Made by `make demo-rows` with `DRIPGATE_DATA` set; one row by hand:",
        "`DRIPGATE_DATA=../shared/data .venv/bin/dripgate demo --data cifar10 --seed 0`.",
        "The rows are in [demo.jsonl](demo.jsonl). Each is a small budget on two cores (steps in",
        "the table, onward from the first model, the same for every rule): it compares rules, it",
        "does not show what a net can reach. With two seeds or more: mean ± half of a 95 %",
        "interval (Student's t), differences paired by seed. One accuracy has a standard error of",
        "about 0.5 points on 10,000 samples at 65 %, 0.4 on 5,000 at 90 %.",
        "",
        "## Accuracy on held-out test samples, % (all: trained on the whole stream)",
        "",
        "| data | net, steps | seeds | stored | initial | all | **dripgate** | random | margin |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, of in by_data.items():
        cells = " | ".join(spread([100 * r["accuracy"][rule] for r in of]) for rule in ROWS)
        stored = spread([100 * (r["kept"] + r["quarantined"]) / r["stream"] for r in of])
        lines.append(
            f"| {name} | {of[0]['arch']}, {of[0]['steps']:,} | {len(of)} | {stored} % | {cells} |"
        )
    lines += [
        "",
        "## dripgate minus the others, points",
        "",
        "| data | minus all | minus random | minus margin | storage saved (bytes) |",
        "|---|---|---|---|---|",
    ]
    for name, of in by_data.items():
        cells = " | ".join(
            spread([100 * (r["accuracy"]["dripgate"] - r["accuracy"][rule]) for r in of])
            for rule in ("full", "random", "margin")
        )
        saved = spread([100 * r["storage_saved"] for r in of])
        lines.append(f"| {name} | {cells} | {saved} % |")
    lines += [
        "",
        "## Seconds (these machines are noisy: read ratios)",
        "",
        "| data | train | fit | fit / train | run | retrain |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in by_data.items():
        seconds = {p: mean(r["seconds"][p] for r in of) for p in of[0]["seconds"]}
        ratio = mean(r["seconds"]["fit"] / r["seconds"]["train"] for r in of)
        lines.append(
            f"| {name} | {seconds['train']:.0f} | {seconds['fit']:.0f} | {ratio:.2f} | "
            f"{seconds['run']:.1f} | {seconds['retrain']:.0f} |"
        )
    return "\n".join([*lines, ""])


def spread(values: list[float]) -> str:
    """Mean ± half of the 95 % interval."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = T95[min(len(values), 5)] * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()
