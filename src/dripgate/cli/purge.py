"""dripgate purge: delete from a store what is no longer needed, and give the room back."""

from pathlib import Path

import click

from dripgate.cli.common import json_option, progress, show
from dripgate.errors import UserError
from dripgate.store import Store, Wanted, format_size, parse_duration
from dripgate.types import Decision


@click.command("purge")
@click.argument(
    "store", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option("--cache", is_flag=True, help="No store: the copies of decoded data sets.")
@click.option("--uploaded", is_flag=True, help="What the receiving end has.")
@click.option("--labelled", is_flag=True, help="What has a label.")
@click.option("--quarantined", is_flag=True, help="What is in quarantine.")
@click.option("--older-than", metavar="AGE", help="What is older than this, such as 30d or 12h.")
@click.option("--everything", is_flag=True, help="All samples; counters and limit stay.")
@json_option
def command(
    store: Path | None, cache: bool, uploaded: bool, labelled: bool, quarantined: bool,
    older_than: str | None, everything: bool, json_path: Path | None,
) -> None:  # fmt: skip
    """Delete samples of STORE for which all that is given holds, and shrink the file.

    Without an option nothing is deleted: the file shrinks to what it holds, and a store of an
    older dripgate is brought up to date. Deleted bytes are not overwritten on the disk.
    """
    if cache:
        if store:
            raise UserError("give a STORE or --cache, not both")
        _cache(json_path)
        return
    if store is None:
        raise UserError("which store? give STORE, or --cache for the copies of decoded data sets")
    given = Wanted(
        uploaded=uploaded or None,
        labelled=labelled or None,
        decision=Decision.QUARANTINE if quarantined else None,
        age=None if older_than is None else parse_duration(older_than),
    )
    with Store(store) as opened:
        before = opened.disk_bytes
        deleted = 0
        if everything or given != Wanted():
            with progress(len(opened) if everything else None, f"deleting from {store}") as told:
                deleted = opened.purge(given, told=told)
        opened.shrink()
        left, after = len(opened), opened.disk_bytes
    line = (
        f"{store}: {deleted:,} samples deleted, {left:,} left; "
        f"{format_size(before)} → {format_size(after)} on disk"
    )
    show(
        [line],
        {"store": str(store), "deleted": deleted, "left": left, "bytes_before": before,
         "bytes_after": after},
        json_path,
    )  # fmt: skip


def _cache(json_path: Path | None) -> None:
    from dripgate.data.cache import emptied  # numpy: not needed to purge a store

    folder, copies, size = emptied()
    line = f"{folder}: {copies:,} decoded copies deleted, {format_size(size)}"
    show([line], {"cache": str(folder), "deleted": copies, "bytes": size}, json_path)
