"""dripgate adapt: the head learns on the device, from what was kept and labelled."""

from pathlib import Path

import click

from dripgate.adapting.learning import LEAST_NEW, Adapted, Outcome, adapt
from dripgate.cli.common import json_option, log, parent_of, percent, show
from dripgate.errors import UserError
from dripgate.export import read_labels
from dripgate.gate import Gate
from dripgate.policy import Interval
from dripgate.store import Store
from dripgate.text import one_line

_SHOWN = 10


@click.command("adapt")
@click.argument("gate", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New gate file.")
@click.option(
    "--labels", type=click.Path(path_type=Path),
    help="Labels from a file or folder as for 'label', before those in the store.",
)  # fmt: skip
@click.option("--new-classes", is_flag=True, help="Labels of other classes make new ones.")
@click.option(
    "--least", default=LEAST_NEW, show_default=True, type=click.IntRange(2),
    help="Labels that make a new class.",
)  # fmt: skip
@click.option(
    "--weigh", type=click.Choice(["stream", "equal"]), default="stream", show_default=True,
    help="stream: a kept sample counts for all those it stands for (1/propensity).",
)  # fmt: skip
@json_option
def command(
    gate: Path, store: Path, out: Path, labels: Path | None, new_classes: bool, least: int,
    weigh: str, json_path: Path | None,
) -> None:  # fmt: skip
    """Let the head of GATE learn from STORE's labelled samples; write the new gate if not worse.

    Only the last linear layer learns, the thresholds follow. Needs neither torch nor onnx. What it
    repairs, and when to retrain instead: docs/adapt.md.
    """
    parent_of(out)
    opened = Gate.load(gate)
    with Store(store, read_only=True) as kept:
        given = read_labels(labels, opened.info.classes) if labels else None
        if labels and given is not None and not given.labels:
            raise UserError(f"{labels}: holds no label of any sample; see 'dripgate label --help'")
        adapted = adapt(
            opened, kept, labels=given.labels if given else None, new_classes=new_classes,
            least=least, weigh=weigh == "stream", log=log,
        )  # fmt: skip
    if adapted.gate is not None:
        adapted.gate.save(out)
    show(
        [*lines(adapted.outcome), _end(adapted, out)],
        {"gate": str(gate), "store": str(store), "out": str(out) if adapted.gate else None,
         "id": adapted.gate.id if adapted.gate else None, "outcome": adapted.outcome},
        json_path,
    )  # fmt: skip


def lines(outcome: Outcome) -> list[str]:
    """What became of it, in lines for people."""
    used, labels = outcome.used, outcome.labels
    shown = [f"{one_line(name)} {count:,}" for name, count in used.classes.items()]
    found = [
        f"labels     {used.labelled:,} samples, that count as {used.effective:,.0f}: "
        + _some(shown),
    ]
    if used.by_folder:
        found.append(f"           {used.by_folder:,} of them by the folder they came from")
    if used.run_again:
        found.append(f"           {used.run_again:,} had no features in the store and were run")
    found += [f"  not used: {text}" for text in _unused(outcome)]
    found.append(
        f"on labels  {_pair(labels.before, labels.after)}; gain {100 * labels.gain:+.1f} ± "
        f"{100 * labels.half:.1f} points, each by a head that has not seen it"
    )
    if outcome.memory is not None:
        found.append(f"on memory  {_pair(outcome.memory.before, outcome.memory.after)}")
    worst = sorted(outcome.classes, key=lambda one: one.after - one.before)[:_SHOWN]
    found += [
        f"           {one_line(one.name)}: {percent(one.before)} → {percent(one.after)} "
        f"of {one.labels:,}" for one in worst if one.before != one.after
    ]  # fmt: skip
    if outcome.grown:
        found.append(f"new        {_some([one_line(name) for name in outcome.grown])}")
    if outcome.missing:
        found.append(f"no label   of {_some([one_line(name) for name in outcome.missing])}")
    found.append(f"held back  by a pull of {outcome.pull:g} samples")
    found += [f"  note: {note}" for note in outcome.notes]
    if outcome.doubted:
        found.append(f"  doubtful: {_some([id[:12] for id in outcome.doubtful])}")
    return found


def _unused(outcome: Outcome) -> list[str]:
    used = outcome.used
    texts = [
        (used.unlabelled, "samples without a label"),
        (used.broken, "marked as broken"),
        (used.quarantined, "in quarantine without a label of their own"),
        (used.missing, "labels of samples that are not in this store: "
         + _some([id[:12] for id in used.strangers])),
        (len(used.unreadable), "that cannot be decoded: " + _some(used.unreadable)),
    ]  # fmt: skip
    found = [f"{count:,} {text}" for count, text in texts if count]
    for name, count in used.unknown.items():
        found.append(
            f"{count:,} labelled '{one_line(name)}', a class that the gate does not have "
            "(--new-classes)"
        )
    return found


def _pair(before: Interval, after: Interval) -> str:
    return f"before {_interval(before)}, after {_interval(after)}"


def _interval(one: Interval) -> str:
    return f"{percent(one.value)} ({100 * one.low:.1f}-{100 * one.high:.1f})"


def _some(texts: list[str]) -> str:
    rest = f", … {len(texts) - _SHOWN:,} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + rest


def _end(adapted: Adapted, out: Path) -> str:
    outcome = adapted.outcome
    if adapted.gate is None:
        return f"nothing was written, the old gate stays: {outcome.why}"
    size = len(adapted.gate.data) / 1e3
    return (
        f"{out}: gate {adapted.gate.id}, {size:.0f} kB, in {outcome.seconds:.1f} s of processor "
        f"time; {outcome.why}"
    )
