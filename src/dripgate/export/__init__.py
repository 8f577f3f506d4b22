"""What a store holds, as files for other tools, and labels back from them.

Each export is whole, or not at all under its name; and streams: a sample at a time is in memory.
"""

from collections.abc import Callable
from typing import Any

from dripgate.export.back import Taken, parse_labels, read_labels
from dripgate.export.folder import Exported
from dripgate.export.imagefolder import imagefolder
from dripgate.export.labelstudio import labelstudio
from dripgate.export.tables import csv, edgeimpulse, fiftyone, hf
from dripgate.export.webdataset import webdataset

#: By the name that ``dripgate export --format`` takes.
FORMATS: dict[str, Callable[..., Any]] = {
    "imagefolder": imagefolder,
    "labelstudio": labelstudio,
    "hf": hf,
    "webdataset": webdataset,
    "fiftyone": fiftyone,
    "edgeimpulse": edgeimpulse,
    "csv": csv,
}

__all__ = ["FORMATS", "Exported", "Taken", "parse_labels", "read_labels"]
