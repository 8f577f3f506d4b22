"""What the page asks of a store, each kind of work on a thread of its own.

SQLite's connections belong to a thread. Labels have one, so that no key press waits for a scan of
a million rows; rows and payloads have one; orders, counts and neighbours share the third.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from dripgate.errors import StoreError, UnreadableError
from dripgate.gate import Gate
from dripgate.gate_info import noted
from dripgate.review import pictures
from dripgate.review.neighbours import Neighbours
from dripgate.review.progress import Progress, progress, strata
from dripgate.store import Change, Labels, Look, Relabelled, Row, Store, StoredSample, Tally
from dripgate.types import Array, Sample

T = TypeVar("T")
S = TypeVar("S", Store, Labels)

#: Orders that are held at once, and neighbours that are shown.
_VIEWS, _NEAREST = 16, 24
#: Counting again may take this part of the time.
_SHARE_OF_TIME = 0.1


class Near(NamedTuple):
    """A neighbour: 0 is the same, about 1.4 has nothing in common."""

    row: Row
    distance: float


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """A sample, large. heat: the peak of its heatmap, None without a gate. why: what is missing."""

    row: Row
    kind: str
    heat: float | None
    near: list[Near]
    why: str


class View(NamedTuple):
    """An order: its number, and the samples' keys."""

    number: int
    keys: Array


class _Worker(Generic[S]):
    """A thread with a store of its own, opened when it is first used."""

    def __init__(self, opened: Callable[[], S]) -> None:
        self._opened: Callable[[], S] = opened
        self._store: S | None = None
        self._thread = ThreadPoolExecutor(1)

    async def __call__(self, work: Callable[[S], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)

    def _do(self, work: Callable[[S], T]) -> T:
        if self._store is None:
            self._store = self._opened()
        return work(self._store)

    def close(self) -> None:
        """Finish what is being done, and close the store."""
        self._thread.submit(self._close).result()
        self._thread.shutdown()

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()


class Desk:
    """A store on somebody's desk.

    gate: for heatmaps, and for its classes where the store does not name them. Raises StoreError
    where the file cannot be used.
    """

    def __init__(self, path: Path, gate: Gate | None = None) -> None:
        with Store(path, read_only=True) as store:  # said now, not at the first request
            meta = store.meta
        self.path, self._gate = path, gate
        self.info = gate.info if gate else None
        if gate is None:
            self.info = noted(meta)
        self._other = bool(gate and meta.get("gate_id", gate.id) != gate.id)
        self._look = _Worker(partial(Store, path, read_only=True))
        self._scan = _Worker(partial(Store, path, read_only=True))
        self._write = _Worker(partial(Labels, path))
        self._views: OrderedDict[int, View] = OrderedDict()
        self._number = 0
        self._neighbours = Neighbours()
        self._counted: tuple[tuple[int, int, int], Tally] | None = None
        self._count_after = 0.0

    def close(self) -> None:
        """Close the stores."""
        for worker in (self._look, self._scan, self._write):
            worker.close()

    @property
    def has_gate(self) -> bool:
        """Whether there are heatmaps."""
        return self._gate is not None

    @property
    def warning(self) -> str:
        """What whoever labels should know; empty for nothing."""
        if not self._other:
            return ""
        return "the samples were kept by another gate: heatmaps show what this one looks at"

    # Looking ------------------------------------------------------------------------------------

    async def view(self, look: Look) -> View:
        """Make an order and hold it; the oldest one is let go."""

        def make(store: Store) -> Array:
            shares = (1.0, 1.0)
            if look.order == "measure" and self.info:
                size, _ = strata(store, self.info)
                shares = (size.chance or 1.0, size.certain or 1.0)
            return store.keys(look, shares=shares)

        keys = await self._scan(make)
        self._number += 1
        view = self._views[self._number] = View(self._number, keys)
        while len(self._views) > _VIEWS:
            self._views.popitem(last=False)
        return view

    async def rows(self, number: int, start: int, stop: int) -> list[Row | None] | None:
        """Samples of an order from place ``start`` on; None where the order was let go."""
        view = self._views.get(number)
        if view is None:
            return None
        self._views.move_to_end(number)
        keys = view.keys[start:stop].tolist()
        return await self._look(lambda store: store.rows(keys))

    async def tally(self) -> Tally:
        """Counts over all, made again where something is another and it is not too soon."""

        def count(store: Store) -> Tally:
            version = store.version()
            fresh = self._counted is not None and self._counted[0] == version
            if self._counted is None or not (fresh or time.monotonic() < self._count_after):
                began = time.monotonic()
                self._counted = (version, store.tally())
                took = time.monotonic() - began
                self._count_after = time.monotonic() + took / _SHARE_OF_TIME
            return self._counted[1]

        return await self._scan(count)

    async def version(self) -> tuple[int, int, int]:
        """As ``Browsing.version``."""
        return await self._look(lambda store: store.version())

    async def changed(self, since: int) -> dict[str, str | None]:
        """Labels that were changed after the change ``since``, by sample id, as they are now."""

        def look(store: Store) -> dict[str, str | None]:
            ids = {id for one in store.changes(since=since, most=200) for id in one.labels}
            rows = {id: store.row(id) for id in ids}
            return {id: row.label for id, row in rows.items() if row}

        return await self._look(look)

    async def progress(self) -> Progress:
        """How far the labelling is."""
        return await self._scan(lambda store: progress(store, self.info))

    async def history(self) -> list[dict[str, Any]]:
        """The newest changes, without their samples."""

        def described(one: Change) -> dict[str, Any]:
            given = sorted({after or "" for _, after in one.labels.values()})[:5]
            return {"change": one.change, "time": one.time, "who": one.who, "undone": one.undone,
                    "samples": len(one.labels), "labels": given}  # fmt: skip

        def look(store: Store) -> list[dict[str, Any]]:
            return [described(one) for one in store.changes(most=50)]

        return await self._look(look)

    async def detail(self, id: str) -> Detail | None:
        """A sample with its neighbours; None where it is gone."""
        stored = await self._stored(id)
        row = await self._look(lambda store: store.row(id))
        if stored is None or row is None:
            return None
        near = await self._scan(lambda store: self._near(store, row))
        loop = asyncio.get_running_loop()
        kind, heat, why = await loop.run_in_executor(None, self._described, stored)
        return Detail(row=row, kind=kind, heat=heat, near=near, why=why)

    def _near(self, store: Store, row: Row) -> list[Near]:
        self._neighbours.refresh(store)
        own = store.embedding(row.key)
        if own is None:
            return []
        found = self._neighbours.nearest(row.key, own, _NEAREST)
        rows = store.rows([key for key, _ in found])
        return [Near(one, apart) for one, (_, apart) in zip(rows, found, strict=True) if one]

    def _described(self, stored: StoredSample) -> tuple[str, float | None, str]:
        try:
            kind = pictures.kind(stored.payload)
            heat = self._heatmap(stored)
        except UnreadableError as error:
            return "none", None, str(error)
        return kind, None if heat is None else pictures.strength(heat), ""

    def _heatmap(self, stored: StoredSample) -> Array | None:
        if self._gate is None:
            return None
        array = self._gate.decode(Sample(stored.payload))
        heatmap: Array = self._gate(array[None]).heatmap[0]
        return heatmap

    # Pictures and sound -------------------------------------------------------------------------

    async def picture(self, id: str, side: int) -> bytes | None:
        """PNG; None where the sample is gone. Raises UnreadableError."""
        return await self._made(id, lambda stored: pictures.picture(stored.payload, side))

    async def heat(self, id: str) -> bytes | None:
        """PNG to lay over the picture; None without a gate, or where the sample is gone."""

        def make(stored: StoredSample) -> bytes | None:
            heat = self._heatmap(stored)
            return None if heat is None else pictures.heat_of(heat, stored.payload)

        return await self._made(id, make)

    async def sound(self, id: str) -> bytes | None:
        """WAV; None where the sample is gone. Raises UnreadableError."""
        return await self._made(id, lambda stored: pictures.sound(stored.payload))

    async def _stored(self, id: str) -> StoredSample | None:
        return await self._look(lambda store: store.get(id))

    async def _made(self, id: str, make: Callable[[StoredSample], bytes | None]) -> bytes | None:
        stored = await self._stored(id)
        if stored is None:
            return None
        return await asyncio.get_running_loop().run_in_executor(None, make, stored)

    # Labelling ----------------------------------------------------------------------------------

    async def label(self, ids: list[str], label: str | None, who: str) -> Relabelled:
        """Durable when this returns. Raises StoreError."""
        wanted = dict.fromkeys(ids, label)
        return await self._write(lambda labels: labels.relabel(wanted, who=who))

    async def accept(self, ids: list[str], who: str) -> Relabelled:
        """Label each with the class that was predicted; those without one stay as they are."""
        if self.info is None:
            raise StoreError("the store does not say which gate filled it; give it with --gate")
        classes = self.info.classes

        def work(labels: Labels) -> Relabelled:
            rows = [row for row in map(labels.row, ids) if row]
            wanted: dict[str, str | None] = {
                row.id: classes[row.predicted] for row in rows if 0 <= row.predicted < len(classes)
            }
            return labels.relabel(wanted, who=who)

        return await self._write(work)

    async def undo(self, who: str | None, change: int | None) -> Relabelled | None:
        """Take back the newest change of somebody, or this one."""
        return await self._write(lambda labels: labels.undo(who=who, change=change))
