"""What the partitions hold, added up."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec
from pyarrow import parquet

from dripgate.stream.loop import NAMED, Unreadable

#: Causes that are told apart; further ones are counted together.
_CAUSES = 1000


class ClassCount(msgspec.Struct):
    """Samples predicted as one class, by verdict."""

    name: str
    seen: int = 0
    keep: int = 0
    quarantine: int = 0


class Tally(msgspec.Struct, kw_only=True):
    """samples: rows, windows counted each. named: the first that could not be read."""

    samples: int = 0
    keep: int = 0
    drop: int = 0
    quarantine: int = 0
    unreadable: int = 0
    bytes: int = 0
    classes: list[ClassCount] = []
    causes: dict[str, int] = {}
    named: list[Unreadable] = []


def tally(parts: Iterable[Path]) -> Tally:
    """Count a partition at a time. Raises nothing for what sift itself wrote."""
    found, classes, causes = Tally(), dict[str, ClassCount](), Counter[str]()
    for part in parts:
        table = parquet.read_table(
            part, columns=["address", "predicted", "verdict", "cause", "bytes"], partitioning=None
        )
        found.samples += table.num_rows
        columns = (table[name].to_pylist() for name in ("predicted", "verdict", "cause", "address"))
        for (predicted, verdict, cause), n in Counter(zip(*list(columns)[:3], strict=True)).items():
            if cause is not None:
                found.unreadable += n
                known = cause if cause in causes or len(causes) < _CAUSES else "other causes"
                causes[known] += n
                continue
            one = classes.setdefault(predicted, ClassCount(predicted))
            one.seen += n
            one.keep += n * (verdict == "keep")
            one.quarantine += n * (verdict == "quarantine")
        found.bytes += sum(table["bytes"].to_pylist())
        if len(found.named) < NAMED:
            rows = zip(table["address"].to_pylist(), table["cause"].to_pylist(), strict=True)
            found.named += [Unreadable(a, c) for a, c in rows if c is not None]
    found.named = found.named[:NAMED]
    found.classes = sorted(classes.values(), key=lambda one: one.name)
    found.causes = dict(causes.most_common())
    found.keep = sum(one.keep for one in found.classes)
    found.quarantine = sum(one.quarantine for one in found.classes)
    found.drop = found.samples - found.keep - found.quarantine
    return found
