"""Which gate is in force, and how another one takes its place between two samples.

The store says which one it is, in the transaction that makes it so: whatever dies at whatever
moment, one gate is in force, whole. The files of all but the one that was given lie in a folder
beside the store, each written and synced before the store names it.

Files that were decided are known by the gate the run was *given*, the origin. So when another gate
takes over, nothing is decided twice; and nothing is lost, because a batch is decided by one gate
alone and committed with its name.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from dripgate.errors import GateError, StoreError
from dripgate.files import sync_folder, write_whole
from dripgate.gate import Gate
from dripgate.gate_info import GateInfo
from dripgate.store import Event, Store
from dripgate.types import Array, Sample, Verdict

#: Where the store notes what is in force, and what is known of releases (``release.state``).
FORCE, RELEASES = "force", "trial"


class Batch(msgspec.Struct, frozen=True):
    """What the gate in force made of some samples, before it is committed.

    verdicts: the gate's own, before any policy. embeddings: (N, D), NaN where unreadable.
    seconds: that the gate took, decoding included.
    """

    samples: Sequence[Sample]
    verdicts: Sequence[Verdict]
    embeddings: Array
    seconds: float


class Observer:
    """Looks on while the loop decides, and may offer another gate.

    ``decided`` is called for each batch before its commit: what it returns is noted in the store
    in that commit. ``turn`` is called after each commit, and where nothing comes; a gate that is
    offered in either decides from the next batch on. ``failed`` is told that the gate in force
    could not decide a batch: True says that another one was offered, and it is decided again.
    """

    def decided(self, batch: Batch) -> Mapping[str, str]:
        """Look at a batch."""
        return {}

    def turn(self) -> None:
        """Do what is due."""

    def failed(self, error: GateError) -> bool:
        """Help, or say that nothing helps."""
        return False


class Force(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a store says of it. origin: id of the gate that was given. id, sha256: of the gate in
    force. previous: id of the one before it, "" for none.
    """

    origin: str
    id: str
    sha256: str
    previous: str = ""


class _Offer(msgspec.Struct):
    gate: Gate
    events: list[Event]
    notes: dict[str, str]
    previous: str


class InForce:
    """The gate in force for a store, and the way to another.

    given: the gate that the run was started with. Where the store notes that another one took its
    place, that one is in force; a given gate that the store does not know takes over from all,
    and that is told and logged. threads: of gates that are opened here.

    Raises:
        StoreError: what the store notes is damaged.
    """

    def __init__(
        self,
        store: Store,
        given: Gate,
        *,
        threads: int = 1,
        told: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._store, self._given, self._threads, self._told = store, given, threads, told
        self.folder = folder_of(store.path)
        self.pinned: set[str] = set()
        self._offer: _Offer | None = None
        self.gate, self.origin, self.previous = given, given.id, ""
        noted, events = noted_force(store.meta), []
        if noted and given.id in (noted.origin, noted.id):
            self.origin, self.previous = noted.origin, noted.previous
            try:
                self.gate = self.stored(noted.id, noted.sha256)
            except GateError as error:
                events.append(self._event("lost", given, f"{error}; {given.id} decides instead"))
        elif noted:
            said = f"{given.id} was given and takes the place of {noted.id}"
            events.append(self._event("given", given, said))
        self.store_notes = self._notes(self.gate)
        if any(store.meta.get(key) != text for key, text in self.store_notes.items()):
            store.put_many([], meta=self.store_notes, events=events)

    def offer(
        self,
        gate: Gate,
        what: str,
        said: str,
        notes: Mapping[str, str] | None = None,
        *,
        back: bool = False,
    ) -> None:
        """Let a gate decide from the next batch on; its file is durable when this returns.

        what, said: the event for the log. notes: texts that the store notes in the same
        transaction. back: it is a way back, so there is none back to the present gate. The samples'
        shape stays the same, and the classes begin with the present ones: what is stored counts by
        their places.

        Raises:
            GateError: it does not fit in the place of the present one, or cannot be written.
        """
        if problem := unfit(gate.info, self.gate.info):
            raise GateError(f"{gate.name}: {problem}")
        self.keep(gate)
        self.keep(self.gate)  # to go back to
        previous = "" if back else self.gate.id
        event = self._event(what, gate, said)
        self._offer = _Offer(gate, [event], dict(notes or {}), previous)

    @property
    def offered(self) -> bool:
        """Whether another gate is about to take over."""
        return self._offer is not None

    def take(self, notes: Mapping[str, str]) -> bool:
        """Put the gate that was offered in force, if one was, with these notes, in one commit."""
        if self._offer is None:
            return False
        offer, self._offer = self._offer, None
        previous, self.previous = self.previous, offer.previous
        try:
            meta = self._notes(offer.gate) | offer.notes | dict(notes)
            self._store.put_many([], meta=meta, events=offer.events, counters={"switched": 1})
        except StoreError:
            self.previous = previous
            raise
        self.gate = offer.gate
        for event in offer.events:
            self._told(f"{event.what}: {event.said}")
        self._sweep()
        return True

    @property
    def coming(self) -> Gate:
        """The gate that decides about the next batch."""
        return self._offer.gate if self._offer else self.gate

    # Files --------------------------------------------------------------------------------------

    def keep(self, gate: Gate) -> None:
        """Make a gate's file durable beside the store. Raises GateError."""
        path = self.folder / f"{gate.id}.onnx"
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == gate.sha256:
            return
        try:
            self.folder.mkdir(exist_ok=True)
            write_whole(path, gate.data)
            sync_folder(self.folder)
            sync_folder(self.folder.parent)
        except OSError as error:
            raise GateError(
                f"{path}: cannot be written ({error.strerror}); check rights and free space"
            ) from None

    def stored(self, id: str, sha256: str = "") -> Gate:
        """The gate with this id. Raises GateError where it is not there as it was written."""
        if id == self._given.id:
            return self._given
        gate = Gate.load(self.folder / f"{id}.onnx", threads=self._threads)
        if gate.id != id or (sha256 and gate.sha256 != sha256):
            raise GateError(f"{gate.name}: is not the gate that was written there")
        return gate

    def _sweep(self) -> None:
        """Remove the files of gates that nobody goes back to."""
        wanted = {self.gate.id, self.previous, *self.pinned}
        with suppress(OSError):
            for path in self.folder.glob("*.onnx"):
                if path.stem not in wanted:
                    path.unlink()

    # Notes --------------------------------------------------------------------------------------

    def _notes(self, gate: Gate) -> dict[str, str]:
        force = Force(self.origin, gate.id, gate.sha256, self.previous)
        return {
            FORCE: msgspec.json.encode(force).decode(), "gate": gate.info.to_json(),
            "gate_id": gate.id,
        }  # fmt: skip

    def _event(self, what: str, gate: Gate, said: str) -> Event:
        if what in ("lost", "given"):
            self._told(said)
        return Event(what=what, gate=gate.id, said=said)


def folder_of(store: Path) -> Path:
    """Where the gates of a store lie."""
    return store.with_name(f"{store.name}.gates")


def noted_force(meta: Mapping[str, str]) -> Force | None:
    """What a store says is in force; None where it says nothing. Raises StoreError."""
    if FORCE not in meta:
        return None
    try:
        return msgspec.json.decode(meta[FORCE], type=Force)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(
            f"which gate is in force is noted in a way that no dripgate writes ({error}); begin "
            "anew with another store"
        ) from None


def unfit(new: GateInfo, old: GateInfo) -> str:
    """Why one gate cannot take the place of another in a running stream; "" where it can."""
    if new.input != old.input:
        return (
            f"takes {_said(new.input)}, the gate in force {_said(old.input)}; start "
            "'dripgate run' with it, and another store"
        )
    if new.classes[: len(old.classes)] != old.classes:
        return (
            "its classes do not begin with those of the gate in force, by whose places samples "
            "are stored; start 'dripgate run' with it, and another store"
        )
    return ""


def _said(spec: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in msgspec.to_builtins(spec).items())
