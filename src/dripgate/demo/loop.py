"""The whole loop, small: through the same functions and files that a user has.

labelled.zip (train/ and test/) and stream.zip are written first, so that every phase can be run
again by hand with the commands the demo prints.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import numpy as np

from dripgate.data import Dataset, Split, load
from dripgate.demo.plan import PLANS, Plan, load_labelled, split
from dripgate.demo.result import Noted, Streamed, ready, report_of
from dripgate.fitting.fit import fit, run_all
from dripgate.gate import Gate
from dripgate.policy import Rules
from dripgate.progress import Bar, Progress, no_bar
from dripgate.report import Outcome, write
from dripgate.store import Store
from dripgate.stream.account import Account, account
from dripgate.stream.loop import Summary, run
from dripgate.stream.sources import watch
from dripgate.training.classifier import Classifier
from dripgate.training.first import First, train_first
from dripgate.training.retrain import Retrained, onward, retrain
from dripgate.training.train import Recipe

Log = Callable[[str], None]


class Result(msgspec.Struct, kw_only=True):
    """What a demo gave; accuracies are on the same test samples, after the same steps.

    account: what the policy did, and its audit's estimates of the stream.
    """

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
    account: Account


def demo(
    data: str, out: Path, *, seed: int = 0, steps: int | None = None,
    log: Log | None = None, bar: Bar = no_bar, command: str = "",
) -> Result:  # fmt: skip
    """Run all phases on ``data`` and write everything into the folder ``out``.

    log: is told what is being done. bar: makes the progress bar of one training run, from its
    length and label. command: what the report says it was made by. Raises UserError where the
    data or the folder cannot be used.
    """
    ready(out)
    log = log or (lambda _: None)
    plan = PLANS.get(data, Plan())
    plan = replace(plan, steps=steps or plan.steps, onward=steps or plan.onward)

    log(f"[1/6] {data}: splitting into initial, stream and test")
    labelled, stream = split(data, plan, seed, out)
    dataset = load_labelled(data, labelled, plan)

    log(f"[2/6] training {plan.arch} on the initial samples, {plan.steps} steps")
    with bar(plan.steps, "      training") as step:
        first = _train(dataset, plan, seed, out, step)

    log("[3/6] fitting the gate")
    gate, fit_seconds = _fit(first.classifier, dataset, seed, out, log)

    log(f"[4/6] running gate and policy over {stream.name}, without torch's help")
    streamed = _run(gate, stream, out / "kept.db", plan.rules(seed))

    log(f"[5/6] training on, {plan.onward} steps, with initial + kept")
    recipe = msgspec.structs.replace(onward(first.classifier.info.recipe), steps=plan.onward)
    with bar(plan.onward, "      dripgate") as step:
        again, retrain_seconds = _retrain(dataset, first.classifier, recipe, out, step)

    log("[6/6] the same number of steps with nothing, everything, random's and margin's choice")
    accuracy = _compare(first.classifier, dataset, gate, stream, again.used, recipe, bar)
    accuracy["dripgate"] = again.new_accuracy
    seconds = {"train": first.seconds, "fit": fit_seconds, "run": streamed.summary.seconds,
               "retrain": retrain_seconds}  # fmt: skip
    outcome = _outcome(streamed.summary, accuracy, plan.onward, seconds, len(dataset.test))
    report = out / "report.html"
    write(report_of(data, seed, command, outcome, gate, streamed), report)
    return _result(data, seed, out, outcome, gate, streamed.account)


ROWS = ("initial", "full", "dripgate", "random", "margin")


# The phases -------------------------------------------------------------------------------------


def _train(dataset: Dataset, plan: Plan, seed: int, out: Path, progress: Progress | None) -> First:
    recipe = Recipe(steps=plan.steps, lr=plan.lr, flip=plan.flip, seed=seed)
    first = train_first(dataset, plan.arch, recipe, progress=progress)
    first.classifier.save(out / "model.safetensors")
    return first


def _fit(
    classifier: Classifier, dataset: Dataset, seed: int, out: Path, log: Log
) -> tuple[Gate, float]:
    started = time.perf_counter()
    gate = fit(classifier.exported(), dataset, seed=seed, log=lambda text: log(f"      {text}"))
    gate.save(out / "gate.onnx")
    return Gate.load(out / "gate.onnx", threads=0), time.perf_counter() - started


def _run(gate: Gate, stream: Path, path: Path, rules: Rules) -> Streamed:
    path.unlink(missing_ok=True)
    with Store(path) as store:
        noted = Noted()
        summary = run(gate, watch(stream), store, rules=rules, on_verdicts=noted.note)
        found = cast(Account, account(store))  # there was a policy
    return Streamed(summary, found, noted)


def _retrain(
    dataset: Dataset, classifier: Classifier, recipe: Recipe, out: Path, step: Progress | None
) -> tuple[Retrained, float]:
    started = time.perf_counter()
    result = retrain(out / "kept.db", dataset, classifier, recipe=recipe, progress=step)
    seconds = time.perf_counter() - started
    if result.better:
        result.classifier.save(out / "model2.safetensors")
    return result, seconds


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


# What came of it --------------------------------------------------------------------------------


def _outcome(
    summary: Summary, accuracy: dict[str, float], steps: int, seconds: dict[str, float], tested: int
) -> Outcome:
    return Outcome(
        accuracy={name: accuracy[name] for name in ROWS}, steps=steps, stream=summary.seen,
        kept=summary.kept, quarantined=summary.quarantined, bytes_seen=summary.bytes_seen,
        bytes_kept=summary.bytes_stored, seconds=seconds, tested=tested,
    )  # fmt: skip


def _result(
    data: str, seed: int, out: Path, outcome: Outcome, gate: Gate, found: Account
) -> Result:
    return Result(
        data=data, seed=seed, stream=outcome.stream, kept=outcome.kept,
        quarantined=outcome.quarantined, storage_saved=outcome.bytes_saved,
        bytes_seen=outcome.bytes_seen, bytes_kept=outcome.bytes_kept,
        accuracy=dict(outcome.accuracy), seconds=dict(outcome.seconds),
        gate=str(out / "gate.onnx"), store=str(out / "kept.db"), report=str(out / "report.html"),
        steps=outcome.steps, tested=outcome.tested, keep_expected=gate.info.keep, account=found,
    )  # fmt: skip
