"""dripgate run: the Application Phase."""

import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import click
import msgspec

from dripgate.cli import describe
from dripgate.cli.common import json_option, say, show
from dripgate.gate import Gate
from dripgate.policy import Rules, parse_allowance
from dripgate.store import Store
from dripgate.stream.loop import BATCH, run
from dripgate.stream.sources import watch
from dripgate.types import Sample


@click.command("run")
@click.argument("gate", type=click.Path(path_type=Path))
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--store", required=True, type=click.Path(path_type=Path), help="Store to keep in.")
@click.option("--limit", help="Most the store may take on disk, such as 500MB; remembered.")
@click.option("--follow", is_flag=True, help="Go on as files arrive, until Ctrl-C or SIGTERM.")
@click.option("--batch", default=BATCH, show_default=True, help="Samples decided together.")
@click.option("--keep", type=float, help="Share to keep, such as 0.05; else the gate's band.")
@click.option("--budget", multiple=True, help="200/h, 500MB/week, …; may be given several times.")
@click.option("--audit", type=float, help="Share kept whatever the score, such as 0.01.")
@click.option(
    "--duplicates",
    type=float,
    help="Keep a scene once; share of distinct scenes that may be lost by it. 0 is off.",
)
@click.option("--seed", default=0, show_default=True, help="Of the audit and all other chance.")
@json_option
def command(
    gate: Path, source: Path, store: Path, limit: str | None, follow: bool, batch: int,
    keep: float | None, budget: tuple[str, ...], audit: float | None, duplicates: float | None,
    seed: int, json_path: Path | None,
) -> None:  # fmt: skip
    """Decide about every sample of SOURCE, a folder or an archive, and store what GATE keeps.

    With --keep, --budget, --audit or --duplicates a policy decides on top of the gate: shares and
    budgets are kept to, a scene is kept once, no class dries up, and a few samples are kept at
    random so that what is dropped stays measurable; docs/policy.md explains.
    """
    rules = _rules(keep, budget, audit, duplicates, seed)
    opened = Gate.load(gate, threads=0)
    stop = _stop_on_signals()
    samples = _reported(watch(source, follow=follow, stop=stop.is_set))
    with Store(store, limit) as kept:
        summary = run(opened, samples, kept, batch=1 if follow else batch, rules=rules)
        on_disk = kept.disk_bytes
    show(
        describe.run(summary, store, on_disk),
        {"gate": str(gate), "source": str(source), "store": str(store), "store_bytes": on_disk,
         "summary": summary},
        json_path,
    )  # fmt: skip


def _rules(
    keep: float | None, budget: tuple[str, ...], audit: float | None, duplicates: float | None,
    seed: int,
) -> Rules | None:  # fmt: skip
    """What was asked of a policy; None where nothing was."""
    asked = {"keep": keep, "audit": audit, "duplicates": duplicates}
    given = {name: value for name, value in asked.items() if value is not None}
    if not given and not budget:
        return None
    rules = Rules(budgets=tuple(parse_allowance(text) for text in budget), seed=seed)
    return msgspec.structs.replace(rules, **given)


def _stop_on_signals() -> Event:
    """Ctrl-C and SIGTERM end the stream: what was read is decided, committed and reported."""
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _reported(samples: Iterator[Sample], every: int = 1000) -> Iterator[Sample]:
    """The same samples; says now and then how many there were."""
    for count, sample in enumerate(samples, 1):
        yield sample
        if count % every == 0:
            say(f"{count:,} samples")
