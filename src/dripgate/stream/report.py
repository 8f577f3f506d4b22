"""What a device says of itself over the uplink: which gate decides, its figures, and its log.

A report goes where samples go, begins with a byte that no MessagePack has, and is confirmed as a
sample is, by the SHA-256 of its bytes. It holds the totals, so one that is lost costs nothing.
"""

import hashlib
from typing import Annotated, Literal

import msgspec

from dripgate.gate_info import EMBEDDING, GateInfo, noted
from dripgate.store import Event, Store
from dripgate.stream.figures import ByGate, noted_figures
from dripgate.stream.force import RELEASES
from dripgate.stream.message import RefusedError

#: No MessagePack begins so: https://github.com/msgpack/msgpack/blob/master/spec.md.
MARK = b"\xc1"
#: Seconds between two reports where nothing happened, and most bytes and events of one.
EVERY, LARGEST, EVENTS = 60.0, 1 << 20, 64
#: Gates whose figures are told.
_GATES = 4


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """gate: id of the one in force. classes: its. figures: by gate id. versions: of releases, by
    gate id. events: of the log, those the receiver has not confirmed. lineage: the gates whose
    embeddings are of one kind with that gate's, since its head learned from theirs. distances: of
    those embeddings (``gate_info.Calibration``); empty where what the store keeps is of another
    kind. Both are there only where embeddings are sent.
    """

    version: Literal[1] = 1
    gate: Annotated[str, msgspec.Meta(max_length=64)]
    classes: tuple[str, ...] = ()
    figures: ByGate = {}
    versions: dict[str, int] = {}
    events: Annotated[tuple[Event, ...], msgspec.Meta(max_length=EVENTS)] = ()
    lineage: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)] = ()
    distances: tuple[Annotated[float, msgspec.Meta(ge=0)], ...] = ()

    def __post_init__(self) -> None:
        if len(self.distances) not in (0, 101):
            raise ValueError("distances are no percentiles from 0 to 100")


class _Versions(msgspec.Struct):
    versions: dict[str, int] = {}


class Reports:
    """The reports of a store's device. ``due`` gives the next one; ``confirmed`` takes receipts.

    embeddings: whether they are sent, so that it must be said what they are comparable with.
    """

    def __init__(self, store: Store, patience: float, *, embeddings: bool = False) -> None:
        self._store, self._patience, self._embeddings = store, patience, embeddings
        self._sent: dict[str, list[int]] = {}
        self._at = self._asked = float("-inf")
        self._told = b""

    def due(self, now: float) -> bytes:
        """The message to be sent now; empty where there is none."""
        events = self._store.events(most=EVENTS, unsent=True)
        wait = self._patience if self._sent or not events else 1.0
        if now - self._at < (wait if events or self._sent else EVERY):
            return b""
        data = self._message(events)
        if not data or (data == self._told and not self._sent):
            return b""
        self._at = now
        self._sent = {hashlib.sha256(data).hexdigest(): [one.number for one in events]}
        self._told = data
        return data

    def confirmed(self, ids: list[str]) -> None:
        """Take receipts."""
        for id in ids:
            if numbers := self._sent.pop(id, None):
                self._store.mark_events(numbers)

    @property
    def done(self) -> bool:
        """Whether all is confirmed that there is to say."""
        events = self._store.events(most=1, unsent=True)
        return not events and not self._sent and self._message([]) in (b"", self._told)

    def hurry(self) -> None:
        """Say at once what there is to say: the run is over."""
        if not self._sent:
            self._at = float("-inf")

    def _message(self, events: list[Event]) -> bytes:
        meta = self._store.meta
        info = noted(meta)
        if info is None:
            return b""
        figures = noted_figures(meta)
        try:
            versions = msgspec.json.decode(meta.get(RELEASES, "{}"), type=_Versions).versions
        except msgspec.DecodeError:
            versions = {}
        report = Report(
            gate=meta.get("gate_id", ""), classes=info.classes,
            figures=dict(list(figures.items())[-_GATES:]), versions=versions,
            events=tuple(events), lineage=info.provenance.lineage if self._embeddings else (),
            distances=_distances(info) if self._embeddings else (),
        )  # fmt: skip
        return MARK + msgspec.msgpack.encode(report)


def _distances(info: GateInfo) -> tuple[float, ...]:
    """Of what a store keeps: the embedding, unless the head's last layer takes something else."""
    own = info.last is not None and info.last.features != EMBEDDING
    return () if own else info.calibration.distances


def decode_report(data: bytes) -> Report:
    """The report in these bytes, without its mark. Raises RefusedError."""
    if len(data) > LARGEST:
        raise RefusedError(f"{len(data):,} bytes, more than a report has")
    try:
        return msgspec.msgpack.decode(data, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(f"not a report of this dripgate ({error!s:.160})") from None
