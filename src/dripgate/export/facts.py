"""What every format carries of a sample beside its bytes: one table of names for all of them."""

import math
from collections.abc import Sequence
from typing import Any

from dripgate.export.names import ending
from dripgate.gate_info import noted
from dripgate.store import BROKEN, Store
from dripgate.store.records import StoredSample
from dripgate.text import one_line

#: The folder of the payloads, where a format has one.
MEDIA = "data"


def classes_of(store: Store) -> tuple[str, ...]:
    """The gate's classes, where the store says which gate filled it."""
    info = noted(store.meta)
    return info.classes if info else ()


def all_classes(store: Store) -> list[str]:
    """The gate's classes, then labels beyond them, sorted; what is broken is no class."""
    known = list(classes_of(store))
    given = store.tally().label
    return known + sorted(label for label in given if label not in known and label != BROKEN)


def predicted(stored: StoredSample, classes: Sequence[str]) -> str | None:
    """The name of the predicted class; None where there is none."""
    if not stored.predicted >= 0:
        return None
    return classes[stored.predicted] if stored.predicted < len(classes) else str(stored.predicted)


def facts(stored: StoredSample, classes: Sequence[str]) -> dict[str, Any]:
    """Values for JSON, NaN as None: prediction, score, quality, propensity, verdict, origin."""
    return {
        "id": stored.id,
        "predicted": predicted(stored, classes),
        "score": finite(stored.score),
        "quality": finite(stored.quality),
        "propensity": finite(stored.propensity),
        "decision": stored.decision.value,
        "reason": stored.reason.value,
        "source": one_line(stored.source),
        "time": finite(stored.time),
    }


def finite(value: float) -> float | None:
    """The number; None where JSON has none for it."""
    return value if math.isfinite(value) else None


def file_name(stored: StoredSample) -> str:
    """The whole id and an ending that says what the bytes are: labels find back by it."""
    return f"{stored.id}{ending(stored.payload)}"
