"""dripgate bench: what rules are worth, on streams that anyone can make again."""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from dripgate.cli.common import a_file, json_option, log, progress, show
from dripgate.errors import UserError, require

if TYPE_CHECKING:
    from dripgate.bench.conditions import Condition
    from dripgate.bench.plan import Preset
    from dripgate.bench.rows import Keep


class _Names(click.Group):
    """``report`` and others are commands; anything else is the first of the data sets."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args.insert(0, "rows")
        return super().parse_args(ctx, args)


_data = click.argument(
    "names", nargs=-1, required=True, metavar="NAME|PATH …", shell_complete=a_file
)
_out = click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
_seeds = click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
_workers = click.option(
    "--workers", type=click.IntRange(1), help="Processes; by default one per core."
)
_preset = click.option(
    "--preset", type=click.Choice(["quick", "paper"]), default="quick", show_default=True,
    help="quick: a part of each data set, hours of two cores; paper: all of it, days.",
)  # fmt: skip
_dtype = click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto",
    help="What nets are trained in; auto: float32 for quick, for paper what is fastest here.",
)  # fmt: skip


@click.group("bench", cls=_Names, subcommand_metavar="NAME|PATH … --out DIR | report DIR")
def command() -> None:
    """Make benchmark rows for data sets, or a report of them.

    NAME|PATH … are data sets as for 'dripgate train'; 'dripgate bench rows --help' lists the
    options. What is finished is not made again.
    """


@command.command("rows")
@_data
@_out
@_preset
@click.option("--steps", type=click.IntRange(1), help="Of every training; the plan has its own.")
@_dtype
@click.option("--rules", help="With commas; by default the committed table's rows.")
@click.option("--conditions", help="With commas; by default the table's.")
@click.option("--keep", help="Kept shares with commas, such as 0.61,0.3,auto.")
@_seeds
@_workers
@json_option
def rows_command(
    names: tuple[str, ...], out: Path, preset: "Preset", steps: int | None, dtype: str,
    rules: str | None, conditions: str | None, keep: str | None, seeds: int, workers: int | None,
    json_path: Path | None,
) -> None:  # fmt: skip
    """Make rows for data sets and append them to DIR/bench.jsonl; then write the report."""
    require("the benchmark", "bench", "torch", "scipy", "skactiveml", "matplotlib")
    from dripgate.bench.plan import Cell, Plan, crossed, paper_table, plan_for, table
    from dripgate.bench.run import bench

    out.mkdir(parents=True, exist_ok=True)
    chosen = None
    if rules or conditions or keep:
        chosen = crossed(*_asked(rules, conditions, keep))

    def cells(name: str) -> Sequence[Cell]:
        if chosen is not None:
            return chosen
        return paper_table() if preset == "paper" else table(name)

    def plans(name: str) -> Plan:
        return plan_for(name, preset, steps, _chosen(dtype))

    made = bench(
        names, out, seeds=range(seeds), plans=plans, cells=cells, workers=workers, log=log,
        bar=partial(progress, unit="rows"),
    )  # fmt: skip
    show(_written(out), made, json_path)


@command.command("steps")
@_data
@_out
@_preset
@click.option("--steps", type=click.IntRange(1), help="To begin with; the plan has its own.")
@_dtype
@click.option("--most", default=40_000, show_default=True, type=click.IntRange(1))
@_seeds
@_workers
@json_option
def steps_command(
    names: tuple[str, ...], out: Path, preset: "Preset", steps: int | None, dtype: str, most: int,
    seeds: int, workers: int | None, json_path: Path | None,
) -> None:  # fmt: skip
    """How many steps are enough, everything kept: a quarter more gives less than 0.3 points.

    Rows are appended to DIR/steps.jsonl; what is finished is not made again.
    """
    require("the benchmark", "bench", "torch", "scipy", "skactiveml")
    from dripgate.bench.plan import plan_for
    from dripgate.bench.steps import enough

    out.mkdir(parents=True, exist_ok=True)
    found = {
        name: enough(
            name, plan_for(name, preset, steps, _chosen(dtype)), out, seeds=range(seeds),
            most=most, workers=workers, log=log,
        )
        for name in names
    }  # fmt: skip
    told = (f"{n}: {f'{s} steps' if s else f'more than {most} steps'}" for n, s in found.items())
    show(list(told), found, json_path)


@command.command("adapt")
@_data
@_out
@_seeds
@json_option
def adapt_command(names: tuple[str, ...], out: Path, seeds: int, json_path: Path | None) -> None:
    """What the head learns on the device, beside a retraining: DIR/adapt.jsonl and adapt.md."""
    from dripgate.bench.adapt_tables import write
    from dripgate.bench.adapting import bench

    out.mkdir(parents=True, exist_ok=True)
    made = bench(names, out, seeds=range(seeds), log=log)
    show([str(path) for path in write(out)], made, json_path)


@command.command("day")
@_data
@_out
@click.option("--rules", help="With commas; by default those of the table, at 10 % all.")
@click.option("--keep", help="Shares of the day's bytes with commas, such as 0.1,0.02.")
@_seeds
@json_option
def day_command(
    names: tuple[str, ...], out: Path, rules: str | None, keep: str | None, seeds: int,
    json_path: Path | None,
) -> None:  # fmt: skip
    """What rules store of a device's day, in bytes, and what it teaches: DIR/day.jsonl and day.md.

    Scenes that stay in view, a long tail of classes, broken frames, a drift and a class that is new
    at noon; docs/benchmark.md describes the day. What is finished is not made again.
    """
    require("the benchmark", "bench", "torch", "scipy", "skactiveml", "matplotlib")
    from dripgate.bench.day_protocol import bench, cells
    from dripgate.bench.day_rules import RULES
    from dripgate.bench.day_tables import write

    some = _names(rules, RULES, "--rules") if rules else []
    shares = [_part(text) for text in keep.split(",")] if keep else []
    out.mkdir(parents=True, exist_ok=True)
    made = bench(names, out, seeds=range(seeds), wanted=cells(some, shares), log=log)
    show([str(path) for path in write(out)], made, json_path)


@command.command("report")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def report_command(folder: Path) -> None:
    """Write tables (bench.md) and plots (SVG) of DIR/bench.jsonl into DIR."""
    for line in _written(folder):
        click.echo(line)


def _chosen(dtype: str) -> Any:
    return None if dtype == "auto" else dtype


def _asked(
    rules: str | None, conditions: str | None, keep: str | None
) -> "tuple[list[Condition], list[str], list[Keep]]":
    """The three options as lists; where one is not given, the usual. Raises UserError."""
    from dripgate.bench.conditions import Condition
    from dripgate.bench.plan import BESIDE
    from dripgate.bench.rules import RULES

    wanted = _names(rules or ",".join(("full", *BESIDE)), RULES, "--rules")
    under = _names(conditions or "clean", get_args(Condition), "--conditions")
    return under, wanted, [_share(part) for part in (keep or "0.3").split(",")]


def _names(text: str, known: Collection[str], option: str) -> list[Any]:
    names = [name.strip() for name in text.split(",")]
    if strange := [name for name in names if name not in known]:
        raise UserError(f"{option} has '{strange[0]}', expected some of {', '.join(known)}")
    return names


def _share(text: str) -> "Keep":
    return "auto" if text.strip() == "auto" else _part(text, ", or auto")


def _part(text: str, more: str = "") -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"--keep has '{text}', expected numbers above 0 and up to 1{more}")
    return share


def _written(folder: Path) -> list[str]:
    from dripgate.bench.report import write

    return [f"{path}" for path in write(folder)]
