"""dripgate sift: decide about an archive, however large, and choose from it."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from dripgate.cli.common import SEEDS, Finite, Stop, json_option, log, percent, progress, show
from dripgate.errors import DataError, UserError
from dripgate.gate import Gate
from dripgate.store import Store, parse_size
from dripgate.store.size import format_size

_SHARE = Finite(0, 1)
_NAMED = 5
#: Options that choose: any of them has something chosen.
_CHOOSING = ("keep", "floor", "per_day", "duplicates", "audit", "copy_to", "chosen")


@click.command("sift")
@click.argument("source")
@click.option("--gate", required=True, type=click.Path(path_type=Path), help="What decides.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path),
    help="Folder of Parquet partitions, such as scores.parquet; the same again goes on.",
)  # fmt: skip
@click.option("--cluster", help="Address of a Ray cluster, ray://host:10001; else this machine.")
@click.option(
    "--workers", type=click.IntRange(1, 4096), help="Processes; one per core if not given."
)
@click.option("--embeddings", is_flag=True, help="Write each sample's embedding too.")
@click.option("--column", help="Of a table: where the addresses are.")
@click.option("--time-column", help="Of a table: when each sample was taken.")
@click.option(
    "--time", "times", type=click.Choice(("mtime", "exif")), default="mtime", show_default=True,
    help="A sample's time: of its file, or what its EXIF data say and else of its file.",
)  # fmt: skip
@click.option(
    "--overlap", default=0.5, show_default=True, type=Finite(0, 0.95),
    help="Of the windows of long recordings.",
)  # fmt: skip
@click.option("--anonymous", is_flag=True, help="No credentials: for public buckets.")
@click.option(
    "--keep",
    type=Finite(0, 1, min_open=True),
    help="Share to choose, exactly; else the gate's band.",
)
@click.option(
    "--per-class-floor", "floor", type=_SHARE, default=0.25, show_default=True,
    help="Part of the share that each predicted class is sure of.",
)  # fmt: skip
@click.option("--per-day", type=click.IntRange(1), help="Most that are chosen of one day.")
@click.option(
    "--duplicates", type=_SHARE, default=0.05, show_default=True,
    help="Choose a scene once; share of distinct scenes that may be lost by it. 0 is off.",
)  # fmt: skip
@click.option(
    "--audit", type=_SHARE, default=0.01, show_default=True,
    help="Share drawn by chance of all the rest; at most a quarter of --keep.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=SEEDS, help="Of the audit.")
@click.option(
    "--chosen", type=click.Path(path_type=Path),
    help="Parquet file of what is chosen; OUT with .chosen.parquet if not given.",
)  # fmt: skip
@click.option("--copy-to", type=click.Path(path_type=Path), help="Store for what is chosen.")
@click.option("--limit", help="Most the store may take on disk, such as 10GB; remembered.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, source: str, gate: Path, out: Path, cluster: str | None,
    workers: int | None, embeddings: bool, column: str | None, time_column: str | None,
    times: str, overlap: float, anonymous: bool, keep: float | None, floor: float,
    per_day: int | None, duplicates: float, audit: float, seed: int, chosen: Path | None,
    copy_to: Path | None, limit: str | None, json_path: Path | None,
) -> None:  # fmt: skip
    """Decide about every sample of SOURCE, then choose from all of them.

    SOURCE is a folder, a glob in quotes, s3://bucket/prefix, gs://bucket/prefix, an https://
    listing, or a .parquet or .csv table with a column of addresses.
    """
    from dripgate.archive.choose import Wish
    from dripgate.archive.listing import Columns
    from dripgate.archive.sift import How, Progress, sift

    if limit is not None and copy_to is None:
        raise UserError("--limit is of the store of --copy-to; give that as well")
    if limit is not None:
        parse_size(limit)
    wish = Wish(keep=keep, floor=floor, per_day=per_day, duplicates=duplicates, audit=audit,
                seed=seed)  # fmt: skip
    how = How(
        columns=Columns(column, time_column), times=times, overlap=overlap, embeddings=embeddings,
        cluster=cluster, workers=workers, anonymous=anonymous,
    )  # fmt: skip
    opened, stop = Gate.load(gate), Stop()
    with ExitStack() as stack:
        done: list[Callable[[int], None]] = []  # a bar, once it is known how much is left

        def turn(now: Progress) -> None:
            if not done:
                bar = progress(now.addresses - now.before, "deciding", "addresses")
                done.append(stack.enter_context(bar))
            done[0](now.done)

        found = sift(source, opened, out, how, stop=stop, told=log, on_turn=turn)
    lines, value = _lines(found), {"sift": found}
    given = [name for name in _CHOOSING if _given(ctx, name)]
    if given:
        target = chosen or out.with_name(f"{out.name.removesuffix('.parquet')}.chosen.parquet")
        more, chose = _choose(opened, out, wish, target, copy_to, limit, found, anonymous)
        lines, value = [*lines, *more], value | chose
    elif _given(ctx, "seed"):
        log("--seed is of the audit: not used, since nothing is chosen (--keep, --copy-to)")
    show(lines, value, json_path)


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _lines(found: Any) -> list[str]:
    got, run = found.tally, found.progress
    lines = [
        f"{found.out}: {got.samples:,} samples of {run.addresses:,} addresses, "
        f"{format_size(got.bytes)}, by gate {found.gate}",
        f"  keep {got.keep:,} ({_share(got.keep, got.samples)}), drop {got.drop:,}, quarantine "
        f"{got.quarantine:,}; {got.unreadable:,} of the dropped could not be read",
    ]
    if found.cpu_per_million is not None:
        rate = run.samples / run.seconds if run.seconds else 0.0
        lines.append(
            f"  this run: {run.samples:,} in {run.seconds:,.0f} s on {found.where}, "
            f"{found.workers} workers, {rate:,.0f}/s; a million cost "
            f"{found.cpu_per_million:.2f} hours of one core"
        )
    else:
        lines.append("  all was decided before")
    if run.deaths:
        lines.append(f"  the engine failed {run.deaths:,} times, and was got over")
    lines += [
        f"  class {one.name}: {one.seen:,}, keep {one.keep:,}, quarantine {one.quarantine:,}"
        for one in got.classes[:50]
    ]
    lines += [f"  not seen: {line}" for line in found.skipped[:_NAMED]]
    causes = list(got.causes.items())
    lines += [f"  unreadable {n:,}: {cause}" for cause, n in causes[:_NAMED]]
    if len(causes) > _NAMED:
        lines.append(f"  … and {len(causes) - _NAMED:,} more causes; all are in --json")
    return lines


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "none"


def _choose(
    gate: Gate, out: Path, wish: Any, target: Path, copy_to: Path | None, limit: str | None,
    found: Any, anonymous: bool,
) -> tuple[list[str], dict[str, Any]]:  # fmt: skip
    from dripgate.archive.choose import choose
    from dripgate.archive.copy import copy, write_choice
    from dripgate.archive.needs import transport
    from dripgate.archive.work import Work

    work = Work(out)
    with work.claimed():
        parts, manifest = work.parts(), work.manifest
        if manifest is None or work.pending():
            raise DataError(f"{out}: is not complete; run the same command again")
        with progress(len(parts), "choosing", "partitions") as told:
            choice, picks = choose(parts, gate.info, wish, work.scratch("choice.db"), told=told)
        write_choice(parts, picks, target)
        lines, value = _chosen(choice, target), {"choice": choice, "chosen": str(target)}
        if copy_to is None:
            return lines, value
        with Store(copy_to, limit) as store, progress(len(picks), f"copying to {copy_to}") as told:
            done = copy(
                target, store, gate, manifest, found.tally, choice, wish,
                transport(anonymous=anonymous), told=told,
            )  # fmt: skip
    lines.append(
        f"{copy_to}: {done.stored:,} stored, {done.present:,} there already, {done.refused:,} "
        f"without room, {done.gone:,} gone or changed since"
    )
    lines += [f"  gone {one.source}: {one.cause}" for one in done.gone_named[:_NAMED]]
    return lines, value | {"copied": done}


def _chosen(choice: Any, target: Path) -> list[str]:
    total = choice.chosen + choice.audited
    lines = [
        f"{target}: {total:,} of {choice.samples:,} distinct samples "
        f"({_share(total, choice.samples)}), {choice.audited:,} of them by chance "
        f"(propensity {choice.propensity:.4g})",
        f"  passed over on the way: {choice.duplicates:,} near-duplicates, {choice.full_days:,} of "
        f"days that were full; {choice.repeats:,} repeats of the same bytes, {choice.outside:,} "
        "outside of the quality range",
    ]
    if choice.wanted is not None and total < choice.wanted:
        lines.append(
            f"  {choice.wanted:,} were asked for: there are no more that are distinct, sound and "
            "within the days; a smaller --duplicates or a larger --per-day leaves more"
        )
    lines += [
        f"  class {name}: {n:,} is all there is for its floor" for name, n in choice.short.items()
    ]
    return lines
