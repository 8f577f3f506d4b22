"""The chosen ones into a store, as a run with a policy would have left them there."""

import base64
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from pyarrow import parquet

from dripgate import media
from dripgate.archive.choose import Choice, Pick, Wish, in_parts
from dripgate.archive.fetch import Fetcher
from dripgate.archive.tally import Tally
from dripgate.archive.work import Manifest
from dripgate.errors import DataError, UnreadableError
from dripgate.gate import Gate
from dripgate.policy import Policy
from dripgate.policy.state import Counts
from dripgate.store import Store
from dripgate.stream.loop import BATCH, NAMED, POLICY, Unreadable
from dripgate.types import Decision, Reason, Sample, Verdict

#: Files that are fetched together.
_TOGETHER = 256
#: Under which the store notes what it was filled from.
_NOTE = "sift"


class Copied(msgspec.Struct, kw_only=True):
    """stored: newly written; present: in the store already; refused: no room for them within its
    limit. gone: cannot be fetched, or are not the bytes any more that were decided about.
    """

    store: str
    stored: int = 0
    present: int = 0
    refused: int = 0
    gone: int = 0
    gone_named: list[Unreadable] = []


def write_choice(parts: Sequence[Path], picks: Sequence[Pick], path: Path) -> None:
    """The rows of the chosen, with decision, reason and propensity: one Parquet file."""
    part, writer = path.with_name(f".{path.name}.part"), None
    for number, wanted in in_parts(picks):
        rows = parquet.read_table(parts[number], partitioning=None).take([p.at for p in wanted])
        rows = rows.drop_columns(["verdict", "reason", "cause"])
        rows = rows.append_column("decision", pa.array([p.decision.value for p in wanted]))
        rows = rows.append_column("reason", pa.array([p.reason.value for p in wanted]))
        rows = rows.append_column("propensity", pa.array([p.propensity for p in wanted]))
        writer = writer or parquet.ParquetWriter(part, rows.schema, compression="zstd")
        writer.write_table(rows)
    if writer is None:
        raise DataError("nothing was chosen: no sample could be read, or none is in the band")
    writer.close()
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


def copy(
    chosen: Path,
    store: Store,
    gate: Gate,
    manifest: Manifest,
    tally: Tally,
    choice: Choice,
    wish: Wish,
    transport: Any,
    *,
    told: Callable[[int], object] = lambda _: None,
) -> Copied:
    """Put the samples of a file of ``write_choice`` into a store, with what estimates need.

    A copy that ended half way goes on. Raises DataError where the store has samples of other
    ways: estimates would mix what was drawn by different chances.
    """
    mark = f"{manifest.gate} {msgspec.json.encode(wish).decode()} {manifest.source}"
    had = store.meta.get(_NOTE)
    if len(store) and had != mark and had != f"{mark} done":
        raise DataError(
            f"{store.path}: has samples of another choice, gate or source; give a new store, or "
            "its estimates would be wrong"
        )
    store.set_meta("gate", gate.info.to_json())
    store.set_meta("gate_id", gate.id)
    if had is None:
        store.set_meta(_NOTE, mark)
    copied = Copied(store=str(store.path))
    with parquet.ParquetFile(chosen) as file:
        done = 0
        for batch in file.iter_batches(_TOGETHER):
            _put(batch.to_pylist(), store, gate, manifest, Fetcher(transport), copied)
            done += batch.num_rows
            told(done)
    if had != f"{mark} done":
        counters = {"seen": tally.samples, "unreadable": tally.unreadable,
                    "bytes_seen": tally.bytes}  # fmt: skip
        saved = _policy(gate, wish, choice, tally).save()
        meta = {_NOTE: f"{mark} done", POLICY: base64.b64encode(saved).decode()}
        store.put_many([], counters=counters, meta=meta)
    return copied


def _put(
    rows: list[dict[str, Any]], store: Store, gate: Gate, manifest: Manifest, fetch: Fetcher,
    copied: Copied,
) -> None:  # fmt: skip
    pairs, missing = [], {row["id"]: row for row in rows}
    files = [list(group) for _, group in groupby(rows, key=lambda row: row["address"])]
    fetched = fetch([group[0]["address"] for group in files], [-1] * len(files))
    causes: dict[str, str] = {}
    for group, (payload, problem) in zip(files, fetched, strict=True):
        wanted = {row["id"]: row for row in group}
        for sample in _samples(payload, wanted, gate, manifest):
            row = missing.pop(sample.id)
            pairs.append((sample, _verdict(row, gate)))
        causes |= dict.fromkeys(wanted, problem or "its bytes are not those that were decided")
    features = _features(gate, [sample for sample, _ in pairs])
    for outcome in store.put_many(pairs, embeddings=features):
        setattr(copied, outcome.value, getattr(copied, outcome.value) + 1)
    copied.gone += len(missing)
    room = NAMED - len(copied.gone_named)
    copied.gone_named += [
        Unreadable(row["address"], causes[id]) for id, row in islice(missing.items(), room)
    ]


def _samples(
    payload: bytes, wanted: dict[str, dict[str, Any]], gate: Gate, manifest: Manifest
) -> Iterator[Sample]:
    """Of a file's bytes those samples whose ids are wanted."""
    if not payload:
        return
    left = set(wanted)
    with suppress(UnreadableError):
        for window in media.windows(payload, gate.info.input, overlap=manifest.asked.overlap):
            sample = Sample(window.payload)
            if sample.id not in left:
                continue
            left.discard(sample.id)
            row = wanted[sample.id]
            name = row["address"].removeprefix(manifest.root)
            time = 0.0 if row["time"] is None else row["time"].timestamp()
            yield Sample(window.payload, window.name(name), time)
            if not left:
                return


def _features(gate: Gate, samples: list[Sample]) -> dict[str, Any]:
    """What a run would have stored beside them (``stream.loop``)."""
    found: dict[str, Any] = {}
    for begin in range(0, len(samples), BATCH):
        part = samples[begin : begin + BATCH]
        features = gate.observe_features(part)[2]
        found |= dict(zip((s.id for s in part), features, strict=True))
    return found


def _verdict(row: dict[str, Any], gate: Gate) -> Verdict:
    return Verdict(
        decision=Decision(row["decision"]), reason=Reason(row["reason"]), score=row["score"],
        quality=row["quality"], predicted=gate.info.classes.index(row["predicted"]),
        propensity=row["propensity"],
    )  # fmt: skip


def _policy(gate: Gate, wish: Wish, choice: Choice, tally: Tally) -> Policy:
    """The counts by which ``account`` makes estimates of the labelled samples."""
    seen = [choice.classes.get(name, (0, 0)) for name in gate.info.classes]
    reasons = dict(choice.reasons)
    left = choice.samples - choice.chosen - choice.audited
    reasons |= {"drop: band": left, "drop: unreadable": tally.unreadable}
    reasons = {key: n for key, n in reasons.items() if n}
    counts = Counts(
        seen=[n for n, _ in seen], kept=[n for _, n in seen], reasons=reasons,
        certain=choice.chosen, chance=choice.samples - choice.chosen if choice.propensity else 0,
        blind=0 if choice.propensity else choice.samples - choice.chosen,
    )  # fmt: skip
    return Policy.counted(wish.rules, gate.info, counts)
