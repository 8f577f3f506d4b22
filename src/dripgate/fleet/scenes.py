"""Scenes that several devices saw, by the embeddings that came with their samples.

Embeddings of two classifiers have nothing in common, so those are compared whose gates have one
trunk, as the devices' reports say. A scene is a sample that is near to none before it, and all
that are near to it (``policy.duplicates`` says how near that is).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import msgspec
import numpy as np

from dripgate.policy.duplicates import Duplicates, radius
from dripgate.progress import Progress
from dripgate.store import Browsing
from dripgate.stream.report import Report
from dripgate.twins import Twins

#: Share of distinct samples that may be taken for one that was seen before.
SHARE = 0.01
#: Samples that are compared, the newest: 200 bytes and 0.2 ms for each.
MOST = 100_000
#: Pairs of devices that are named.
_PAIRS = 20
#: Of a scene that more devices saw, these make pairs.
_PAIRED = 64


class Scenes(msgspec.Struct, frozen=True, kw_only=True):
    """What devices have in common. compared: samples. scenes: distinct ones among them. shared:
    those that several devices saw. devices: by name, (scenes, of which others saw as well). pairs:
    (device, device, scenes that both saw), the most first. strangers: samples with an embedding of
    a gate that no device runs, or that says nothing of distances. older: more samples than are
    compared. expected: share of distinct samples that are taken for one seen before.
    """

    compared: int
    scenes: int
    shared: int
    devices: dict[str, tuple[int, int]]
    pairs: tuple[tuple[str, str, int], ...]
    strangers: int
    older: int
    expected: float = SHARE


def scenes(
    store: Browsing, reports: Mapping[str, Report], *, most: int = MOST,
    told: Progress = lambda _: None,
) -> Scenes | None:  # fmt: skip
    """Compare the newest samples of a store that ``receive`` filled; None where none has an
    embedding. told: how many are compared.

    Raises MissingExtra without usearch.
    """
    total, after = store.newest_embeddings(most)
    if not total:
        return None
    trunks = _trunks(reports, min(total, most))
    known: dict[tuple[str, int], _Kind] = {}
    compared = strangers = 0
    for one in store.embedded(after):
        device, under, _ = one.source.partition("/")
        trunk, nearness = trunks.get(one.gate, ("", 0.0))
        if not (nearness and under):
            strangers += 1
            continue
        kind = known.setdefault((trunk, len(one.numbers)), _Kind(nearness))
        kind.add(device, one.numbers)
        compared += 1
        told(compared)
    return _counted([s for kind in known.values() for s in kind.seen], strangers, total - most)


class _Kind:
    """Samples whose embeddings can be compared. seen: by scene, the devices that saw it, and how
    many samples it has.
    """

    def __init__(self, nearness: float) -> None:
        self._twins, self._fold = Twins(nearness), Duplicates(0.0)
        self.seen: list[Counter[str]] = []

    def add(self, device: str, numbers: bytes) -> None:
        embedding = np.frombuffer(numbers, "<f2").astype(np.float32)
        point = self._fold.points(embedding[None])[0][0]
        scene = self._twins.find(point)
        if scene is None:
            scene = len(self.seen)
            self._twins.add(point)
            self.seen.append(Counter())
        self.seen[scene][device] += 1


def _trunks(reports: Mapping[str, Report], samples: int) -> dict[str, tuple[str, float]]:
    """By gate: the first gate of its trunk, and how near two of its scenes are the same."""
    found: dict[str, tuple[str, float]] = {}
    for report in reports.values():
        trunk = next(iter(report.lineage), report.gate)
        nearness = radius(report.distances, SHARE, samples)
        if nearness:
            found |= dict.fromkeys((report.gate, *report.lineage), (trunk, nearness))
    return found


def _counted(seen: Sequence[Counter[str]], strangers: int, older: int) -> Scenes:
    own: Counter[str] = Counter()
    common: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for devices in seen:
        names = sorted(devices)
        own.update(names)
        if len(names) > 1:
            common.update(names)
            pairs.update(combinations(names[:_PAIRED], 2))
    return Scenes(
        compared=sum(one.total() for one in seen), scenes=len(seen),
        shared=sum(len(one) > 1 for one in seen),
        devices={name: (n, common[name]) for name, n in sorted(own.items())},
        pairs=tuple((*pair, n) for pair, n in pairs.most_common(_PAIRS)),
        strangers=strangers, older=max(0, older),
    )  # fmt: skip
