"""What a decision takes on a Cortex-M, with and without its score, and how far it is from here.

`make bench-embed` writes docs/results/embed.json and embed.md: the three reference nets on MNIST,
CIFAR-10 and Speech Commands (under $DRIPGATE_DATA; digits stand in where that is not set), each on
four emulated cores. Every finished row is kept: a run that was stopped goes on where it stopped.
SAMPLES, CORES and NETS narrow it down; WORK keeps the gates. Then the head learns: embed_learning.

`make embed-test` is the same in CI's time, with `check`: gates trained for a minute in all, 200
samples on the M4 and fewer where emulation is slow; it writes nothing and fails on a wrong verdict,
and on real data on a missed bar.
"""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import embed_learning as learning
import numpy as np

from dripgate.data import load, open_source
from dripgate.embed import golden
from dripgate.embed.emulate import BOARDS, compare, emulate
from dripgate.embed.figures import COMPILER, figures
from dripgate.embed.folder import embed
from dripgate.gate import Gate
from dripgate.types import Array

RESULTS = Path(__file__).parents[1] / "docs" / "results"
OUT, TABLE = RESULTS / "embed.json", RESULTS / "embed.md"
WORK = Path(os.environ.get("WORK", "build/embed"))
SAMPLES = int(os.environ.get("SAMPLES", "200"))
COUNTED = 4
NETS = {"lenet": "mnist", "dscnn": "speechcommands", "resnet8": "cifar10"}
STEPS = os.environ.get("STEPS", "300")
#: What the score may add, in per cent, on a Cortex-M4.
BARS = {
    "lenet": {"flash": 3, "instructions": 10},
    "dscnn": {"flash": 3, "instructions": 2, "ram": 1},
    "resnet8": {"flash": 3, "instructions": 2, "ram": 1},
}


class Made(NamedTuple):
    """A gate, its C with the score, its C without, and its C whose head learns."""

    gate: Gate
    scored: Path
    plain: Path
    learns: Path
    data: str


def main() -> None:
    """Every net on every core; the file is written after each row."""
    nets = os.environ.get("NETS", " ".join(NETS)).split()
    cores = os.environ.get("CORES", " ".join(["cortex-m4", "cortex-m7", "cortex-m55",
                                              "cortex-m3"])).split()  # fmt: skip
    made = {net: _made(net) for net in nets}
    samples = {net: _samples(one) for net, one in made.items()}
    for core in cores:
        for net in nets:
            key = f"{net} {core}"
            known = _saved().get(key, {})
            if (known.get("code"), known.get("samples")) == (_code(made[net].scored), SAMPLES):
                continue
            print(key, file=sys.stderr, flush=True)
            row = _row(made[net], core, samples[net])
            _save(key, row)
    for net, core in ((net, core) for core in cores for net in nets if core != "cortex-m3"):
        _learning(made[net], net, core)


def _learning(made: Made, net: str, core: str) -> None:
    """What learning takes; on one net and core the whole loop as well."""
    wanted = {f"learning {net} {core}": ""}
    if (net, core, made.data) == ("lenet", "cortex-m4", "mnist"):
        wanted |= {f"loop {drift} {core}": drift for drift in learning.DRIFTS}
    code = _code(made.learns)
    for key, drift in wanted.items():
        if _saved().get(key, {}).get("code") == code:
            continue
        print(key, file=sys.stderr, flush=True)
        if drift:
            row = learning.loop(made.gate, made.learns, core, drift)
        else:
            row = learning.row(made.gate, made.learns, core, *_labelled(made, learning.FEW))
        _save(key, row | {"code": code, "data": made.data})


def _save(key: str, row: dict[str, Any]) -> None:
    rows = _saved() | {key: row}  # read again: another process may make other rows
    OUT.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    TABLE.write_text(table(rows) + learning.table(rows), encoding="utf-8")


def _saved() -> dict[str, Any]:
    return json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}


def _code(folder: Path) -> str:
    """What the C says, weights and all, as 16 digits."""
    sources = sorted((folder / "src").iterdir())
    return sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def check() -> None:
    """Every net on every core, few samples where that is slow; exits with 1 where one is wrong."""
    failed = []
    for net in os.environ.get("NETS", " ".join(NETS)).split():
        made = _made(net)
        samples = _samples(made)
        row = _row(made, "cortex-m4", samples)
        # On digits the nets are so small that the C library alone is more than a bar.
        judged = made.data == NETS[net]
        for name, bar in BARS[net].items():
            more = 100 * (row["scored"][name] / row["plain"][name] - 1)
            asked = f"at most {bar} %" if judged else "not judged without $DRIPGATE_DATA"
            print(f"{net} cortex-m4: the score adds {more:.2f} % {name}, {asked}")
            failed += [f"{net}: {name}"] if judged and more > bar else []
        wrong = {"cortex-m4": (row["samples"], row["wrong"])}
        for core, count in (("cortex-m7", 10), ("cortex-m55", 10), ("cortex-m3", 1)):
            part = samples[:count]
            agreed = compare(
                made.gate, made.gate(part), emulate(made.scored, core, part), golden.TOLERANCE
            )
            wrong[core] = (agreed.samples, agreed.wrong)
        for core, (count, number) in wrong.items():
            print(f"{net} {core}: self-test passed, {number} of {count} verdicts wrong", flush=True)
            failed += [f"{net} {core}"] if number else []
        learned = learning.row(made.gate, made.learns, "cortex-m4", *_labelled(made, learning.FEW))
        print(
            f"{net} cortex-m4: {learned['steps']} steps of learning, numbers differ from NumPy's "
            f"by {learned['numbers']:.1e}, asked: at most {learning.TOLERANCE:g}",
            flush=True,
        )
        good = learned["same"] and learned["numbers"] <= learning.TOLERANCE
        failed += [] if good else [f"{net}: learning"]
    if failed:
        raise SystemExit(f"missed: {', '.join(failed)}")


def _made(net: str) -> Made:
    data = NETS[net] if os.environ.get("DRIPGATE_DATA") else "digits"
    WORK.mkdir(parents=True, exist_ok=True)
    model, path = WORK / f"{net}.safetensors", WORK / f"{net}.onnx"
    if not path.exists():
        _dripgate("train", data, "--arch", net, "--steps", STEPS, "--out", model)
        _dripgate("fit", data, "--model", model, "--keep", "0.3", "--out", path)
    gate = Gate.load(path)
    scored, plain, learns = WORK / net, WORK / f"{net}-plain", WORK / f"{net}-learns"
    embed(gate, scored)
    embed(gate, plain, score=False)
    embed(gate, learns, adapt=True)
    return Made(gate, scored, plain, learns, data)


def _dripgate(*arguments: object) -> None:
    command = [sys.executable, "-m", "dripgate", *map(str, arguments)]
    subprocess.run(command, check=True)  # noqa: S603


def _samples(made: Made) -> Array:
    return _labelled(made, SAMPLES)[0]


def _labelled(made: Made, count: int) -> tuple[Array, Array]:
    """Samples of the test part, and their classes."""
    test = load(open_source(made.data), made.gate.info.input).test
    chosen = np.sort(np.random.default_rng(0).permutation(len(test.x))[:count])
    return np.asarray(test.x[chosen]), np.asarray(test.y)[chosen]


def _row(made: Made, core: str, samples: Array) -> dict[str, Any]:
    expected = made.gate(samples)
    found = emulate(made.scored, core, samples)
    agreed = compare(made.gate, expected, found, golden.TOLERANCE)
    row: dict[str, Any] = {
        "code": _code(made.scored),
        "data": made.data,
        "machine": BOARDS[core].machine,
    }
    row |= agreed._asdict()
    row["verdicts"] = np.bincount(expected.verdict, minlength=3).tolist()
    for name, folder in (("scored", made.scored), ("plain", made.plain)):
        measured = figures(folder, core)
        if measured is None:
            raise SystemExit(f"{COMPILER} is not installed; run: make embed-tools")
        counted = emulate(folder, core, samples[:COUNTED], count=True)
        row[name] = {
            "flash": measured.flash, "ram": measured.ram, "stack": counted.stack,
            "stack_bound": measured.stack,
            "instructions": round(float(np.median(counted.instructions))),
        }  # fmt: skip
        if name == "scored":
            row["policy"] = {"flash": measured.policy_flash, "ram": measured.policy_ram}
    return row


# The table --------------------------------------------------------------------------------------

HEAD = """\
# A decision on a Cortex-M

Made by `make bench-embed` ([rows](embed.json)), with arm-none-eabi-gcc -Os and QEMU. "+" is what
score, quality and verdict add to the same classifier with the same preprocessing. Instructions are
counted by QEMU (`-icount shift=0`): they are not cycles. RAM is static memory, the arena included;
stack is the deepest that was reached. Differences are to onnxruntime, the largest over the samples:
logits relative to the sample's largest, the score to itself or a thousandth of the largest in
calibration. Verdicts may differ where a number is within 1e-4 of a threshold; "wrong" ones are
those that differ elsewhere.

| net, data | core | flash kB | + | RAM kB | + | stack B | + | M instr. | + \
| samples | logits | score | close | wrong |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def table(rows: dict[str, Any]) -> str:
    """Markdown of all rows."""
    lines = []
    for key, row in sorted((key, row) for key, row in rows.items() if "scored" in row):
        net, core = key.split()
        scored, plain = row["scored"], row["plain"]

        def more(name: str, scored: Any = scored, plain: Any = plain) -> str:
            return f"{100 * (scored[name] / plain[name] - 1):.2f} %"

        lines.append(
            f"| {net}, {row['data']} | {core.removeprefix('cortex-').upper()} "
            f"| {scored['flash'] / 1e3:.1f} | {more('flash')} "
            f"| {scored['ram'] / 1e3:.1f} | {more('ram')} "
            f"| {scored['stack']} | {scored['stack'] - plain['stack']} "
            f"| {scored['instructions'] / 1e6:.1f} | {more('instructions')} "
            f"| {row['samples']} | {row['logits']:.1e} | {row['score']:.1e} "
            f"| {row['close']} | {row['wrong']} |"
        )
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    check() if sys.argv[1:] == ["check"] else main()
