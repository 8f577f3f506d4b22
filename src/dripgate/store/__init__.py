"""The store: the bounded, crash-safe database of kept samples on the device.

One SQLite file, one writer process, any number of readers. docs/store.md says what is promised
and why it is built as it is.
"""

from dripgate.store.browse import ORDERS, Browsing, Look, Row, Tally
from dripgate.store.labelling import Labels, Relabelled
from dripgate.store.records import Change, Event, Put, StoredSample, Summary, Wanted
from dripgate.store.salvage import Salvaged, salvage
from dripgate.store.size import format_size, parse_duration, parse_size
from dripgate.store.store import Store
from dripgate.types import BROKEN

__all__ = [
    "BROKEN", "ORDERS", "Browsing", "Change", "Event", "Labels", "Look", "Put", "Relabelled", "Row",
    "Salvaged", "Store", "StoredSample", "Summary", "Tally", "Wanted", "format_size",
    "parse_duration", "parse_size", "salvage",
]  # fmt: skip
