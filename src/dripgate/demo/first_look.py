"""A store to label, for a first look at ``dripgate review``: digits without their folders."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from dripgate.demo.plan import PLANS, load_labelled, split
from dripgate.fitting.fit import fit
from dripgate.gate import Gate
from dripgate.store import Store
from dripgate.stream.loop import run
from dripgate.stream.sources import watch
from dripgate.training.first import train_first
from dripgate.training.train import Recipe


def first_look(folder: Path, *, log: Callable[[str], None] = lambda _: None) -> None:
    """Train, fit and run over unlabelled digits; writes gate.onnx, labelled.zip and kept.db.

    kept.db gets its name last: where it is, all is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = PLANS["digits"]
    labelled, stream = split("digits", plan, 0, folder)
    dataset = load_labelled("digits", labelled, plan)
    log("training a small classifier")
    first = train_first(dataset, plan.arch, Recipe(steps=plan.steps, lr=plan.lr, seed=0))
    first.classifier.save(folder / "model.safetensors")
    gate = fit(first.classifier.exported(), dataset, seed=0)
    gate.save(folder / "gate.onnx")
    log("running over the stream")
    unnamed = folder / "unnamed.zip"
    with zipfile.ZipFile(stream) as known, zipfile.ZipFile(unnamed, "w") as out:
        for number, name in enumerate(known.namelist()):
            out.writestr(f"frame-{number:05}.png", known.read(name))
    rules = msgspec.structs.replace(plan.rules(0), keep=0.4)
    part = folder / "part.db"
    part.unlink(missing_ok=True)
    with Store(part) as store:
        run(Gate.load(folder / "gate.onnx", threads=0), watch(unnamed), store, rules=rules)
    part.rename(folder / "kept.db")
