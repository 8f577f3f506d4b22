"""The whole loop, small: through the same functions and files that a user has.

labelled.zip (train/ and test/) and stream.zip are written first, so that every phase can be run
again by hand with the commands the demo prints. The payloads of the chosen samples are held in
memory while the archives are written; the plans below bound them.
"""

import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np

from dripgate.data import Dataset, LabelledFile, Split, infer_input, load, open_source
from dripgate.errors import DataError, MissingExtra, UserError
from dripgate.gate import Gate
from dripgate.report import (
    ClassShare,
    Example,
    Outcome,
    Report,
    StreamHistogram,
    Unreadable,
    write,
)
from dripgate.store import Store
from dripgate.stream.loop import Summary, run
from dripgate.stream.sources import watch
from dripgate.training.classifier import Classifier
from dripgate.training.first import First, train_first
from dripgate.training.fit import fit, run_all
from dripgate.training.retrain import onward, retrain
from dripgate.training.train import Progress, Recipe
from dripgate.types import Array, Decision, ImageInput, Reason, Sample, Verdict

Say = Callable[[str], None]
Bar = Callable[[int, str], AbstractContextManager[Progress | None]]
EXAMPLES = 12


@dataclass(frozen=True)
class Plan:
    """How much of a data set the demo uses, sized for a few minutes on two cores.

    steps: for the first model; onward: for every row, from the first model on. initial: share of
    the train samples that are labelled at the start. most: train samples used, test: test samples
    used. size: side that images are resized to, None leaves them.
    """

    arch: str = "resnet8"
    steps: int = 500
    onward: int = 300
    lr: float = 0.1
    flip: bool = False
    size: int | None = None
    initial: float = 0.15
    most: int = 30_000
    test: int = 5_000


PLANS = {
    "digits": Plan(steps=200, onward=150, initial=0.25),
    "mnist": Plan("lenet", steps=1500, onward=1500, most=60_000, initial=0.05, test=10_000),
    "cifar10": Plan(flip=True, test=10_000),
    "plantvillage": Plan(flip=True, size=32),
    "speechcommands": Plan(steps=400, onward=200),
}


class Result(msgspec.Struct, kw_only=True):
    """What a demo gave; accuracies are on the same test samples, after the same steps."""

    data: str
    seed: int
    stream: int
    kept: int
    quarantined: int
    storage_saved: float
    bytes_seen: int
    bytes_kept: int
    accuracy: dict[str, float]
    seconds: dict[str, float]
    gate: str
    store: str
    report: str
    steps: int
    tested: int
    keep_expected: float


@dataclass
class _Streamed:
    """What the run over the stream showed."""

    summary: Summary
    scores: list[float] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    examples: dict[Decision, list[tuple[Sample, Verdict]]] = field(default_factory=dict)

    def note(self, pairs: list[tuple[Sample, Verdict]]) -> None:
        """Keep scores of all samples, and the first few samples of each decision."""
        for sample, verdict in pairs:
            self.scores.append(verdict.score)
            self.decisions.append(verdict.decision)
            shown = self.examples.setdefault(verdict.decision, [])
            if len(shown) < EXAMPLES and verdict.reason is not Reason.UNREADABLE:
                shown.append((sample, verdict))


def demo(
    data: str, out: Path, *, seed: int = 0, steps: int | None = None,
    say: Say | None = None, bar: Bar | None = None, command: str = "",
) -> Result:  # fmt: skip
    """Run all phases on ``data`` and write everything into the folder ``out``.

    say: is told what is being done. bar: makes the progress bar of one training run, from its
    length and label. command: what the report says it was made by. Raises UserError where the
    data or the folder cannot be used.
    """
    if find_spec("jinja2") is None:
        raise MissingExtra("the demo's report", "report")
    say, bar = say or (lambda _: None), bar or _no_bar
    plan = PLANS.get(data, Plan())
    plan = replace(plan, steps=steps or plan.steps, onward=steps or plan.onward)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made a folder ({error.strerror})") from None

    say(f"[1/6] {data}: splitting into initial, stream and test")
    labelled, stream = split(data, plan, seed, out)
    dataset = _load(data, labelled, plan)

    say(f"[2/6] training {plan.arch} on the initial samples, {plan.steps} steps")
    with bar(plan.steps, "      training") as step:
        first = _train(dataset, plan, seed, out, step)

    say("[3/6] fitting the gate")
    gate, fit_seconds = _fit(first.classifier, dataset, seed, out, say)

    say(f"[4/6] running the gate over {stream.name}, without torch's help")
    streamed = _run(gate, stream, out / "kept.db")

    say(f"[5/6] training on, {plan.onward} steps, with initial + kept")
    recipe = msgspec.structs.replace(onward(first.classifier.info.recipe), steps=plan.onward)
    started = time.perf_counter()
    with bar(plan.onward, "      dripgate") as step:
        result = retrain(out / "kept.db", dataset, first.classifier, recipe=recipe, progress=step)
    retrain_seconds = time.perf_counter() - started
    if result.better:
        result.classifier.save(out / "model2.safetensors")

    say("[6/6] the same number of steps with nothing, everything, random's and margin's choice")
    accuracy = _compare(first.classifier, dataset, gate, stream, result.used, recipe, bar)
    accuracy["dripgate"] = result.new_accuracy
    seconds = {"train": first.seconds, "fit": fit_seconds, "run": streamed.summary.seconds,
               "retrain": retrain_seconds}  # fmt: skip
    summary = streamed.summary
    outcome = Outcome(
        accuracy={name: accuracy[name] for name in ROWS}, steps=plan.onward, stream=summary.seen,
        kept=summary.kept, quarantined=summary.quarantined, bytes_seen=summary.bytes_seen,
        bytes_kept=summary.bytes_stored, seconds=seconds, tested=len(dataset.test),
    )  # fmt: skip
    report = out / "report.html"
    write(_report(data, seed, command, outcome, gate, streamed), report)
    return Result(
        data=data, seed=seed, stream=summary.seen, kept=summary.kept,
        quarantined=summary.quarantined, storage_saved=outcome.bytes_saved,
        bytes_seen=summary.bytes_seen, bytes_kept=summary.bytes_stored,
        accuracy=dict(outcome.accuracy), seconds=seconds, gate=str(out / "gate.onnx"),
        store=str(out / "kept.db"), report=str(report), steps=plan.onward,
        tested=len(dataset.test), keep_expected=gate.info.keep,
    )  # fmt: skip


ROWS = ("initial", "full", "dripgate", "random", "margin")


def _no_bar(length: int, label: str) -> AbstractContextManager[Progress | None]:
    return nullcontext()


# The phases -------------------------------------------------------------------------------------


def split(data: str, plan: Plan, seed: int, out: Path) -> tuple[Path, Path]:
    """Write labelled.zip (initial samples as train/, and test/) and stream.zip, in random order."""
    rng = np.random.default_rng(seed)
    files = [file for file in open_source(data).labelled() if not file.problem]
    order = [files[i] for i in rng.permutation(len(files))]
    test = [file for file in order if file.split == "test"]
    train = [file for file in order if file.split != "test"]
    if not test:
        share = len(train) // 5
        test, train = train[:share], train[share:]
    train, test = train[: plan.most], test[: plan.test]
    initial = round(plan.initial * len(train))
    classes = {file.label for file in train[:initial]}
    if initial < 2 or len(classes) < 2:
        raise DataError(
            f"{data}: {len(train)} train samples are too few for a demo; give at least a hundred"
        )
    # A class the first model has never seen is another story than this one.
    test = [file for file in test if file.label in classes]
    stream = [file for file in train[initial:] if file.label in classes]
    labelled_zip, stream_zip = out / "labelled.zip", out / "stream.zip"
    _write_zip(labelled_zip, [("train", train[:initial]), ("test", test)])
    _write_zip(stream_zip, [("", stream)])
    return labelled_zip, stream_zip


def _write_zip(path: Path, parts: list[tuple[str, list[LabelledFile]]]) -> None:
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w") as archive:
        for top, files in parts:
            for index, file in enumerate(files):
                name = f"{index:06d}_{PurePosixPath(file.name).name}"
                archive.writestr(str(PurePosixPath(top, file.label, name)), file.payload)
    part.replace(path)


def _load(data: str, labelled: Path, plan: Plan) -> Dataset:
    source = open_source(labelled)
    spec = infer_input(source)
    if plan.size and isinstance(spec, ImageInput):
        spec = msgspec.structs.replace(spec, height=plan.size, width=plan.size)
    return replace(load(source, spec, cache=False), name=data)


def _train(dataset: Dataset, plan: Plan, seed: int, out: Path, progress: Progress | None) -> First:
    recipe = Recipe(steps=plan.steps, lr=plan.lr, flip=plan.flip, seed=seed)
    first = train_first(dataset, plan.arch, recipe, progress=progress)
    first.classifier.save(out / "model.safetensors")
    return first


def _fit(
    classifier: Classifier, dataset: Dataset, seed: int, out: Path, say: Say
) -> tuple[Gate, float]:
    started = time.perf_counter()
    gate = fit(classifier, dataset, seed=seed, say=lambda text: say(f"      {text}"))
    gate.save(out / "gate.onnx")
    return Gate.load(out / "gate.onnx", threads=0), time.perf_counter() - started


def _run(gate: Gate, stream: Path, path: Path) -> _Streamed:
    path.unlink(missing_ok=True)
    with Store(path) as store:
        streamed = _Streamed(Summary())
        streamed.summary = run(gate, watch(stream), store, on_verdicts=streamed.note)
    return streamed


def _compare(
    classifier: Classifier, dataset: Dataset, gate: Gate, stream: Path, count: int,
    recipe: Recipe, bar: Bar,
) -> dict[str, float]:  # fmt: skip
    """Test accuracy after training on with initial + nothing, everything, random, margin."""
    decoded = load(stream, classifier.info.input, cache=False)
    arrived = Split.concat(decoded.train, decoded.test)
    arrived_y = classifier.indices(decoded.classes, decoded.name)[arrived.y]
    ordered = np.sort(run_all(gate, arrived).logits, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    choices = {
        "initial": np.arange(0),
        "full": np.arange(len(arrived)),
        "random": np.random.default_rng([recipe.seed, 1]).permutation(len(arrived))[:count],
        "margin": np.argsort(margin)[:count],
    }
    initial, _ = classifier.parts(dataset)
    class_of = classifier.indices(dataset.classes, dataset.name)
    accuracy = {}
    for name, chosen in choices.items():
        x = np.concatenate([initial.x, arrived.x[chosen]])
        y = np.concatenate([class_of[initial.y], arrived_y[chosen]])
        with bar(recipe.steps, f"      {name}") as step:
            trained = classifier.trained(x, y, recipe, fresh=False, progress=step)
        accuracy[name] = trained.accuracy(dataset.test.x, class_of[dataset.test.y])
    return accuracy


# The report -------------------------------------------------------------------------------------


def _report(
    data: str, seed: int, command: str, outcome: Outcome, gate: Gate, streamed: _Streamed
) -> Report:
    summary = streamed.summary
    examples = [
        _example(gate, sample, verdict)
        for decision in Decision
        for sample, verdict in streamed.examples.get(decision, [])
    ]
    reasons: Counter[tuple[Decision, Reason]] = Counter()
    for key, count in summary.reasons.items():
        decision, reason = key.split(": ")
        reasons[Decision(decision), Reason(reason)] = count
    return Report(
        title=f"dripgate on {data}",
        data=data,
        seed=seed,
        command=command or f"dripgate demo --data {data} --seed {seed}",
        outcome=outcome,
        gate=gate.info,
        scores=StreamHistogram.of(streamed.scores, streamed.decisions),
        classes=[ClassShare(c.name, c.seen, c.kept, c.quarantined) for c in summary.classes],
        examples=examples,
        reasons=reasons,
        unreadable=[Unreadable(u.source, u.cause) for u in summary.unreadable_named],
    )


def _example(gate: Gate, sample: Sample, verdict: Verdict) -> Example:
    array: Array = gate.decode(sample)
    return Example(
        source=sample.source,
        verdict=verdict,
        array=array,
        heatmap=gate(array[None]).heatmap[0],
        label=PurePosixPath(sample.source).parent.name or None,
    )
