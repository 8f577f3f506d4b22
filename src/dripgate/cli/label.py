"""dripgate label: labels back into a store, from whatever they were given in."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from dripgate.adapting.gather import rows_of
from dripgate.cli.broker import security, security_options
from dripgate.cli.common import Stop, json_option, progress, show
from dripgate.errors import UserError, require
from dripgate.export import Taken, read_labels
from dripgate.export.facts import all_classes
from dripgate.store import Labels, Relabelled, Store
from dripgate.stream.broker import name_of, parse_address
from dripgate.text import one_line

_SHOWN = 10


@click.command("label")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--undo", is_flag=True, help="Take back the newest change of labels instead.")
@click.option(
    "--to", metavar="ADDRESS",
    help="Publish the labels of FILE too, or all that STORE has, to mqtt[s]://host/topic.",
)  # fmt: skip
@security_options
@json_option
def command(
    store: Path, file: Path | None, dry_run: bool, undo: bool, to: str | None,
    json_path: Path | None, **options: Any,
) -> None:  # fmt: skip
    """Take labels into STORE from FILE: a file or folder that a labelling tool wrote.

    Label Studio's JSON, JSON_MIN and CSV; metadata.jsonl; any CSV with id and label; FiftyOne's
    labels.json; Edge Impulse's info.labels; WebDataset's shards; a folder per label, in which a
    sample is known by its bytes. An entry without a label leaves the sample as it is. May run
    beside a 'run' or a 'review' of the same store.

    With --to they go to the devices where 'dripgate run --adapt … --labels ADDRESS' takes them.
    """
    if undo == bool(file or to):
        raise UserError(
            "give a FILE with labels, --to ADDRESS to send what the store has, or --undo to take "
            "the newest change back"
        )
    if undo:
        _undo(store, dry_run, json_path)
        return
    value: dict[str, Any] = {"store": str(store), "dry_run": dry_run}
    lines: list[str] = []
    wanted: Mapping[str, str] = {}
    if to:
        require("--to", "mqtt", "paho")
        parse_address(to)
    if file:
        taken, done = _take(store, file, dry_run)
        wanted = taken.labels
        lines += _lines(store, file, taken, done, dry_run)
        value |= {
            "file": str(file), "format": taken.format,
            "changed": done.labels, "same": len(done.same), "missing": done.missing,
            "unlabelled": taken.unlabelled, "unknown": taken.unknown, "twice": taken.twice,
        }  # fmt: skip
    if to:
        sent = _send(store, wanted if file else None, to, dry_run, options)
        lines.append(f"{to}: {sent:,} labels {'would be ' if dry_run else ''}sent")
        value |= {"to": to, "sent": sent}
    show(lines, value, json_path)


def _take(store: Path, file: Path, dry_run: bool) -> tuple[Taken, Relabelled]:
    """Labels of the file, and what became of them."""
    with Store(store, read_only=True) as opened:
        known = all_classes(opened)
    with progress(None, f"reading {file}", "entries") as told:
        taken = read_labels(file, known, told=told)
    with Labels(store) as labels, progress(len(taken.labels), f"labelling {store}") as told:
        if dry_run:
            return taken, _would(labels, taken.labels)
        return taken, labels.relabel(taken.labels, who=f"label {file.name}", told=told)


def _send(
    store: Path, labels: Mapping[str, str] | None, to: str, dry_run: bool, options: dict[str, Any]
) -> int:
    """Publish labels, or all that the store has; returns how many."""
    from dripgate.stream.labels import publish

    with Store(store, read_only=True) as opened:
        name = name_of(opened, options["device"])
        if labels is None:
            labels = {row.id: row.label for row in rows_of(opened) if row.label is not None}
    if labels and not dry_run:
        with progress(len(labels), "sending", "labels") as told:
            publish(parse_address(to), security(options), name, labels, Stop(), told=told)
    return len(labels)


def _would(labels: Labels, wanted: Mapping[str, str]) -> Relabelled:
    """What would become of these labels."""
    done = Relabelled(None, {}, [], [])
    for id, label in wanted.items():
        row = labels.row(id)
        if row is None:
            done.missing.append(id)
        elif row.label == label:
            done.same.append(id)
        else:
            done.labels[id] = (row.label, label)
    return done


def _lines(store: Path, file: Path, taken: Taken, done: Relabelled, dry_run: bool) -> list[str]:
    fresh = sum(before is None for before, _ in done.labels.values())
    would = "would be " if dry_run else ""
    changed = {id: pair for id, pair in done.labels.items() if pair[0] is not None}
    lines = [
        f"{file} ({taken.format}): {fresh:,} {would}labelled, {len(changed):,} {would}changed, "
        f"{len(done.same):,} as they were, {taken.unlabelled:,} entries without a label"
    ]
    shown = [f"  {id[:12]}… {_name(old)} → {_name(new)}" for id, (old, new) in changed.items()]
    lines += _some(shown)
    if done.missing:
        lines.append(f"{len(done.missing):,} ids are not in the store:")
        lines += _some([f"  {id}" for id in done.missing])
    if taken.unknown:
        lines.append(
            f"{taken.unknown:,} entries name no sample: no id in them, nor in a file name; "
            "'dripgate export --format csv' writes a table with the ids"
        )
    if taken.twice:
        lines.append(f"{len(taken.twice):,} samples have two labels there; the last one counts:")
        lines += _some([f"  {id}" for id in taken.twice])
    if done.change is not None:
        lines.append(f"to take this back: dripgate label {store} --undo")
    return lines


def _undo(store: Path, dry_run: bool, json_path: Path | None) -> None:
    with Labels(store) as labels:
        newest = next((one for one in labels.changes(most=1000) if not one.undone), None)
        if newest is None:
            raise UserError(f"{store}: there is no change of labels to take back")
        done = None if dry_run else labels.undo(change=newest.change)
    when = datetime.fromtimestamp(newest.time).strftime("%Y-%m-%d %H:%M")
    left = f", {len(done.kept):,} were changed since and stay" if done and done.kept else ""
    would = "would be " if dry_run else ""
    line = (
        f"{store}: {len(newest.labels):,} labels of '{one_line(newest.who)}' ({when}) "
        f"{would}taken back{left}"
    )
    show([line], {"store": str(store), "change": newest, "dry_run": dry_run}, json_path)


def _name(label: str | None) -> str:
    return "none" if label is None else repr(label)


def _some(lines: list[str]) -> list[str]:
    rest = [f"  … and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else []
    return lines[:_SHOWN] + rest
