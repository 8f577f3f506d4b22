"""The zoo: every public family of classifiers, user code and files, made into gates and checked.

`make zoo` runs it: docs/results/zoo.json and docs/results/zoo.md. A row per model is appended to
out/zoo.jsonl as soon as it is known, and a second run goes on where the first one stopped.
"""

import argparse
import copy
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import onnx
import onnx_ir as ir
import torch

sys.path.insert(0, str(Path(__file__).parent))
import zoo_code
import zoo_models
import zoo_reference
import zoo_shapes

from dripgate.errors import DripgateError
from dripgate.graph.build import build_graph
from dripgate.graph.cut import Cut
from dripgate.graph.measure import run, samples_like, session
from dripgate.graph.opened import Opened
from dripgate.graph.target import open_first
from dripgate.training import export
from dripgate.types import ArrayInput, Identity, ImageInput, Normalize, Thresholds

ROWS = Path("out/zoo.jsonl")
#: Where tools/zoo_keras.py has written its files.
KERAS = Path("out/keras")
#: What one model may take: seconds of wall clock, bytes of memory.
SECONDS, MEMORY = 420, 9 * 10**9
#: The bar: α against autograd or double precision, against differences in float32, logits; all relative to the largest.
CLOSE, ROUGH, SAME = 1e-4, 1e-3, 1e-5
#: What must be refused: no tensor of theirs has cells and takes everything; which of two outputs
#: has the classes has to be said; a converter's file that is no ONNX.
REFUSED = {
    "code:LSTM alone", "code:rows alone", "code:batch of crops", "code:siamese, one picture",
    "code:ensemble of two nets", "code:logits and embedding", "file:ei_fomo_int8.onnx",
    "keras:ConvNeXtTiny", "keras:normalises, augments",
}  # fmt: skip
PUBLIC = ("torchvision", "timm", "transformers")

Row = dict[str, Any]


def main() -> None:
    """Run what is not in out/zoo.jsonl yet, then write the two results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="names to run, a shell pattern")
    parser.add_argument("--failed", action="store_true", help="run again what missed the bar")
    parser.add_argument("--again", action="store_true", help="run again what was run")
    parser.add_argument("--files", type=Path, default=Path(os.environ.get("DRIPGATE_MODELS", "")))
    parser.add_argument("--share", default="0/1", help="K/N: the K-th of N parts, for two cores")
    options = parser.parse_args()
    models = everything(options.files)
    done = rows()
    part, parts = (int(n) for n in options.share.split("/"))
    wanted = [
        name for place, name in enumerate(models)
        if place % parts == part and fnmatch(name, options.only)
        and (options.again or name not in done or (options.failed and not passes(done[name])))
    ]  # fmt: skip
    ROWS.parent.mkdir(exist_ok=True)
    for place, name in enumerate(wanted, 1):
        row = apart(name, models[name])
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{place}/{len(wanted)} {line(row)}", flush=True)
    if parts == 1:
        write([row for name, row in rows().items() if name in models])


def everything(files: Path) -> dict[str, Callable[[], Row]]:
    """Every model by its name, and what tries it."""
    found: dict[str, Callable[[], Row]] = {}
    for name, build in {**zoo_models.public(), **zoo_shapes.shapes(), **zoo_code.shapes()}.items():
        found[name] = lambda build=build: try_module(*build())
    for path in sorted(KERAS.glob("*.onnx")):
        found[f"keras:{path.stem}"] = lambda path=path: try_file(path)
    for path in sorted(files.glob("*.onnx")) if files.name else ():
        found[f"file:{path.name}"] = lambda path=path: try_file(path)
    return found


def rows() -> dict[str, Row]:
    """The last row of each model."""
    lines = ROWS.read_text().splitlines() if ROWS.is_file() else []
    return {row["model"]: row for row in map(json.loads, lines)}


def apart(name: str, attempt: Callable[[], Row]) -> Row:
    """One model in a process of its own, with limits; what goes wrong in it is its row."""
    read, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.alarm(SECONDS)
        begin = time.monotonic()
        row: Row
        try:
            torch.set_num_threads(1)
            torch.manual_seed(0)
            row = attempt()
        except DripgateError as error:
            row = {"made": False, "why": str(error)}
        except BaseException as error:
            where = traceback.format_exc().strip().splitlines()[-12:]
            row = {
                "made": False,
                "why": f"{type(error).__name__}: {error}"[:300],
                "traceback": where,
            }
        row = {"model": name, **row, "seconds": round(time.monotonic() - begin, 1)}
        with os.fdopen(write_end, "w") as file:
            file.write(json.dumps(row))
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    if text:
        return dict(json.loads(text))
    reason = (
        f"over {SECONDS} s" if status & 127 == signal.SIGALRM else f"ended by signal {status & 127}"
    )
    return {"model": name, "made": False, "why": reason, "traceback": [reason]}


def try_module(model: torch.nn.Module, example: torch.Tensor) -> Row:
    """Export a module, make a gate of it and hold both against torch."""
    options = zoo_shapes.options(model)
    if all(p.dtype == torch.float32 for p in model.parameters()) and not isinstance(
        model, torch.jit.ScriptModule
    ):
        zoo_models.perturb(model, example)
    made: list[export.Exported] = []
    clock = [0.0]

    def files() -> Iterator[bytes]:
        wanted = export.exports(model, example, output=options.get("output"))
        while True:
            begin = time.monotonic()
            each = next(wanted, None)
            clock[0] += time.monotonic() - begin
            if each is None:
                return
            made.append(each)
            yield each.data

    begin = time.monotonic()
    name = type(model).__name__
    place, opened, chosen = open_first(files(), name)
    opening = time.monotonic() - begin - clock[0]
    row = {"exporter": made[place].exporter, "export_seconds": round(clock[0], 2)}
    x = samples_like(opened.given, opened.measured.batch or 3, tuple(example.shape[1:]), seed=3)
    row |= gate(opened, chosen, x, made[place].data)
    row["open_seconds"] = round(opening, 2)
    target, alpha, logits, head = row.pop("numbers")
    picked = export.entries

    def forward(values: torch.Tensor) -> torch.Tensor:
        given = model(values.to(next((p.dtype for p in model.parameters()), values.dtype)))
        found = picked(given)
        name = options.get("output") or next((n for n in export._LOGITS if n in found), None)
        return (found[name] if name else next(iter(found.values()))).float()

    def forward64(values: torch.Tensor) -> torch.Tensor:
        model.double()
        found = picked(model(values))
        name = options.get("output") or next((n for n in export._LOGITS if n in found), None)
        return found[name] if name else next(iter(found.values()))

    model.eval()
    cut = chosen.cut
    reference, values = zoo_reference.by_autograd(
        forward, torch.from_numpy(x), target, cut.channel, cut.tokens
    )
    values = values.reshape(len(x), -1)
    row["logits_error"] = _error(own(logits, opened), ends(values, opened))
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters()):
        single = copy.deepcopy(model).float()(torch.from_numpy(x)).detach().numpy()
        row["logits_rounding"] = _error(values, single.reshape(len(x), -1))
    # Of a module that ends in probabilities, torch can differentiate these, not its logits.
    if reference is None or opened.head.ends != "none":
        row["axis"] = "unknown"
        row["alpha_error"], row["reference"] = zoo_reference.by_differences(
            head,
            {cut.name: target, str(opened.given.name): x},
            target,
            alpha,
            cut.channel,
            cut.tokens,
        )
    else:
        row |= {"reference": f"autograd at {reference.source}", "axis": reference.axis}
        row["alpha_error"] = _error(alpha, reference.alpha)
        if not passes({**row, "axis": "same"}):  # how far is torch's float32 from its float64?
            exact, precise = zoo_reference.by_autograd(
                lambda values: forward64(values), torch.from_numpy(x).double(), target,
                cut.channel, cut.tokens,
            )  # fmt: skip
            row["logits_rounding"] = _error(values, precise.reshape(len(x), -1))
            if exact is not None:
                row["alpha_rounding"] = _error(reference.alpha, exact.alpha)
    return row


def try_file(path: Path) -> Row:
    """Make a gate of an ONNX file and hold it against the file in onnxruntime."""
    data = path.read_bytes()
    begin = time.monotonic()
    _, opened, chosen = open_first([data], path.name)
    opening = time.monotonic() - begin
    shape = tuple(opened.build.shapes[opened.given][1:])
    x = samples_like(opened.given, opened.measured.batch or 3, shape, seed=3)
    row = {"exporter": "file", **gate(opened, chosen, x, data), "open_seconds": round(opening, 2)}
    target, alpha, logits, head = row.pop("numbers")
    source = session(data)
    (values,) = run(source, {source.get_inputs()[0].name: x})
    quantised = any(
        n.op_type == "QuantizeLinear" for n in onnx.load_model_from_string(data).graph.node
    )
    row["logits_error"] = _error(
        given(logits, opened), values.astype(np.float64).reshape(len(x), -1)
    )
    cut = chosen.cut
    row |= {"axis": "unknown", "alpha_error": None, "reference": "none: rounding has no slope"}
    if not quantised:
        row["alpha_error"], row["reference"] = zoo_reference.by_differences(
            head,
            {cut.name: target, str(opened.given.name): x},
            target,
            alpha,
            cut.channel,
            cut.tokens,
        )
    if values.dtype.kind in "iu":
        row["logits_error"] = None
    return row


def gate(opened: Opened, chosen: Any, x: np.ndarray, source: bytes) -> Row:
    """The gate's graph, run; what is known of it."""
    cut: Cut = chosen.cut
    name = opened.name
    batch = opened.measured.batch
    head_model, values = head_of(opened, cut, x)
    classes = opened.build.shapes[opened.head.logits][1]
    spec: ArrayInput | ImageInput = ArrayInput(shape=tuple(x.shape[1:]))
    thresholds = Thresholds(low=(None,) * classes, high=(None,) * classes, quality_low=None)
    notes, ended = list(opened.notes), opened.head.ends
    nodes = len(opened_nodes(opened))
    begin = time.monotonic()
    preprocessing: Identity | Normalize = Identity()
    samples = x.astype(np.float32)
    if x.dtype.kind in "iu":
        spec = ImageInput(height=x.shape[1], width=x.shape[2], channels=x.shape[3])
        zero = 128 if x.dtype == np.int8 else 0
        preprocessing = Normalize(
            mean=(zero / 255,) * x.shape[3], std=(1 / 255,) * x.shape[3], layout="channels_last",
            dtype="int8" if zero else "uint8",
        )  # fmt: skip
        samples = (x.astype(np.int16) + zero).astype(np.uint8)
    built = build_graph(
        opened, cut, preprocessing, spec, "evidence_mean", thresholds, with_alpha=True
    )
    building = time.monotonic() - begin
    found = session(built.model)
    names = [each.name for each in found.get_outputs()]
    results = dict(zip(names, run(found, {"samples": samples}), strict=True))
    del name, source
    return {
        "made": True, "why": chosen.why, "batch": "dynamic" if batch is None else batch,
        "target": cut.name, "shape": ["N" if s < 0 else s for s in cut.shape],
        "channel": cut.channel, "tokens": cut.tokens, "guess": cut.guess, "ends": ended,
        "cuts": len(opened.cuts), "passed": len(chosen.looked_at) - 1, "notes": notes,
        "nodes": nodes,
        "added": len(onnx.load_model_from_string(built.model).graph.node) - nodes, "build_seconds": round(building, 2),
        "numbers": (values, results["alpha"], results["logits"], head_model),
    }  # fmt: skip


def head_of(opened: Opened, cut: Cut, x: np.ndarray) -> tuple[onnx.ModelProto, np.ndarray]:
    """The graph from the target to the logits as a model, and the target's values."""
    graph = opened.model.graph
    kept = list(graph.outputs)
    graph.outputs[:] = [cut.value, opened.head.logits]
    proto = ir.to_proto(opened.model)
    graph.outputs[:] = kept
    del proto.graph.value_info[:]
    (values, _) = run(session(proto.SerializeToString()), {str(opened.given.name): x})
    name, logits = cut.name, str(opened.head.logits.name)
    made = {output: node for node in proto.graph.node for output in node.output}
    waiting, needed = [logits], set()
    while waiting:
        value = waiting.pop()
        node = made.get(value)
        if value == name or node is None or id(node) in needed:
            continue
        needed.add(id(node))
        waiting += node.input
    nodes = [node for node in proto.graph.node if id(node) in needed]
    used = {value for node in nodes for value in node.input}
    past = [value for value in proto.graph.input if value.name in used]  # for its size only
    del proto.graph.input[:]
    proto.graph.input.append(onnx.helper.make_tensor_value_info(name, 1, [None] * values.ndim))
    proto.graph.input.extend(past)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    del proto.graph.output[0]
    stored = [t for t in proto.graph.initializer if t.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(stored)
    return proto, values


def opened_nodes(opened: Opened) -> list[ir.Node]:
    """The classifier's own operators up to its logits, without what was added to look at cuts."""
    needed, waiting = set(), [opened.head.origin]
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in needed:
            needed.add(node)
            waiting += [value for value in node.inputs if value is not None]
    return list(needed)


def own(logits: np.ndarray, opened: Opened) -> np.ndarray:
    """The gate's logits as the classifier has them: one number where it gives one.

    Behind a softmax they are known up to a shift only.
    """
    if opened.head.ends.lower() in ("softmax", "logsoftmax"):
        return np.log(probabilities(logits))
    return logits[:, 1:] if opened.head.binary else logits


def ends(values: np.ndarray, opened: Opened) -> np.ndarray:
    """The module's outputs led back to logits where it ends in a softmax or sigmoid."""
    values = values.astype(np.float64)
    if opened.head.ends.lower() == "sigmoid":
        return np.log(values / (1 - values))
    if opened.head.ends.lower() == "softmax":
        return np.log(values)
    return values


def given(logits: np.ndarray, opened: Opened) -> np.ndarray:
    """What the file itself gives, led forward from a gate's logits."""
    if opened.head.ends == "none":
        return own(logits, opened)
    if opened.head.kind == "sigmoid" or opened.head.binary:
        return np.asarray(1 / (1 + np.exp(-own(logits, opened).astype(np.float64))))
    return probabilities(logits)


def _error(found: np.ndarray, wanted: np.ndarray) -> float:
    if found.shape != wanted.shape:
        raise ValueError(f"shapes {found.shape} and {wanted.shape}")
    scale = float(np.abs(wanted).max())
    return float(np.abs(found - wanted).max()) / max(scale, 1e-30)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax, in double precision."""
    e = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def passes(row: Row) -> bool:
    """Whether a row meets the bar."""
    if not row["made"]:
        return row["model"] in REFUSED and "traceback" not in row
    alpha, logits = row["alpha_error"], row["logits_error"]
    bound = ROUGH if row["reference"] == "differences" else CLOSE
    bound = max(bound, 3 * row.get("alpha_rounding", 0))  # torch itself is no closer to the truth
    same = max(SAME, 3 * row.get("logits_rounding", 0))
    right = (alpha is None or alpha <= bound) and (logits is None or logits <= same)
    return right and row["axis"] != "other"


def line(row: Row) -> str:
    """A row in one line, for the terminal."""
    if not row["made"]:
        return f"{'CRASHED' if 'traceback' in row else 'refused'} {row['model']}: {row['why'][:300]} {row.get('seconds')} s"
    return (
        f"{'ok' if passes(row) else 'MISSED'} {row['model']} {row['exporter']} {row['batch']} "
        f"{row['shape']} ch{row['channel']} {row['axis']} α {row['alpha_error']:.1e} "
        if row["alpha_error"] is not None
        else f"ok {row['model']} {row['shape']} "
    ) + (
        f"logits {row['logits_error']} {row['reference']} passed {row['passed']} nodes {row['nodes']} +{row['added']} "
        f"export {row.get('export_seconds')} open {row['open_seconds']} build {row['build_seconds']} all {row['seconds']} s"
    )


def write(found: list[Row]) -> None:
    """docs/results/zoo.json and docs/results/zoo.md."""
    folder = Path("docs/results")
    (folder / "zoo.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "zoo.md").write_text("\n".join(table(found)) + "\n")
    public = [row for row in found if row["model"].split(":")[0] in PUBLIC]
    made = sum(row["made"] for row in public)
    print(
        f"{made} of {len(public)} public families are gates; {sum(map(passes, public))} meet the bar"
    )


def table(found: list[Row]) -> Iterator[str]:
    """The page."""
    groups = Counter(row["model"].split(":")[0] for row in found)
    yield "# The zoo\n"
    for group, number in groups.items():
        mine = [row for row in found if row["model"].startswith(f"{group}:")]
        yield f"* {group}: {sum(r['made'] for r in mine)} of {number} are gates, {sum(map(passes, mine))} meet the bar"
    yield ""
    yield "| model | target | channel axis | exporter | batch | α error | by | logits error | operators | added | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    number = lambda value: "–" if value is None else f"{value:.0e}"
    for row in found:
        name = row["model"]
        if not row["made"]:
            yield f"| {name} | refused: {row['why'].replace('|', '/')} | | | | | | | | | {row.get('seconds', '')} |"
            continue
        yield (
            f"| {name} | {', '.join(map(str, row['shape']))} | {row['channel']} | {row['exporter']} "
            f"| {row['batch']} | {number(row['alpha_error'])} | {row['reference'].removesuffix(' precision')} "
            f"| {number(row['logits_error'])} | {row['nodes']} | {row['added']} | {row['seconds']} |"
        )


if __name__ == "__main__":
    main()
