"""A store to label, for a first look at ``dripgate review``: a day without its labels."""

from collections.abc import Callable
from pathlib import Path

from dripgate.demo import scenes, shipped
from dripgate.policy import Rules
from dripgate.store import Store
from dripgate.stream.loop import run
from dripgate.types import Sample


def first_look(folder: Path, *, log: Callable[[str], None] = lambda _: None) -> None:
    """Fit a gate and run over unlabelled frames; writes gate.onnx, labelled.zip and kept.db.

    kept.db gets its name last: where it is, all is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log("fitting the gate of a small classifier")
    gate = shipped.fitted_gate(shipped.write_labelled(folder))
    gate.save(folder / "gate.onnx")
    log("running over a day's frames")
    frames = scenes.day(shipped.SEED)
    samples = (Sample(f.payload, f"frame-{n:05}.png") for n, f in enumerate(frames))
    part = folder / "part.db"
    part.unlink(missing_ok=True)
    with Store(part) as store:
        run(gate, samples, store, rules=Rules(audit=0.02))
    part.rename(folder / "kept.db")
