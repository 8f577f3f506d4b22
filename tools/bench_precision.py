"""What training in bfloat16 costs in accuracy and saves in time: docs/results/bf16.jsonl.

Everything kept, by the small table's plans, five seeds paired with float32. A ResNet-8 stands
beside CIFAR-10's ResNet-6, because the paper's table is made with it. What is finished is not
made again. Run it by ``make bench-precision``.
"""

from pathlib import Path

import msgspec

from dripgate.bench.plan import Cell, Plan, plan_for
from dripgate.bench.protocol import Job
from dripgate.bench.rows import Row, append, mend
from dripgate.bench.run import described, made
from dripgate.bench.tables import Mean

OUT = Path(__file__).parents[1] / "docs" / "results" / "bf16.jsonl"
SEEDS = range(5)
NETS = (("mnist", "lenet"), ("cifar10", "resnet6"), ("cifar10", "resnet8"))
FULL = Cell("clean", "retrain", "full", 1.0)


def plan(data: str, net: str, dtype: str) -> Plan:
    """The small table's, with another net or type."""
    return msgspec.structs.replace(plan_for(data), net=net, dtype=dtype)


def main() -> None:
    """Make the rows that are not there, then print the table."""
    plans = {
        (data, net, t): plan(data, net, t) for data, net in NETS for t in ("float32", "bfloat16")
    }
    found = {(row.plan, row.seed): row for row in mend(OUT, Row)}
    for (data, _, _), one in plans.items():
        for seed in SEEDS:
            if (one.id, seed) not in found:
                for row in made([Job(data, one, seed, [FULL])], workers=1):
                    append(OUT, row)
                    found[one.id, seed] = row
                    print(described(row), row.dtype, flush=True)
    print("| | float32 | bfloat16 | difference | time |\n|---|---|---|---|---|")
    for data, net in NETS:
        rows = [[found[plans[data, net, t].id, s] for s in SEEDS] for t in ("float32", "bfloat16")]
        means = [Mean.of(row.accuracy for row in of).points() for of in rows]
        gap = Mean.of(half.accuracy - whole.accuracy for whole, half in zip(*rows, strict=True))
        times = [sum(row.seconds for row in of) for of in rows]
        said = (f"{data}, {net}", *means, gap.points("+"), f"{times[1] / times[0]:.0%}")
        print(f"| {' | '.join(said)} |")


if __name__ == "__main__":
    main()
