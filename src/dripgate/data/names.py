"""Names of files in folders and archives, and what is read under them."""

import unicodedata
from pathlib import Path
from typing import Literal, NamedTuple

from dripgate.types import BROKEN

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
_LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini")
Side = Literal["train", "test"]
#: What 'dripgate export' puts beside the class folders: its table, and folders that are no classes.
TABLE, QUARANTINE, UNLABELLED = "samples.csv", "quarantine", "unlabelled"
NO_CLASSES = frozenset({QUARANTINE, UNLABELLED, BROKEN})


class File(NamedTuple):
    """problem: why payload is empty although the file is not; else the empty string. time: of the
    last change in seconds since the epoch, where an archive says it.
    """

    name: str
    payload: bytes
    problem: str = ""
    time: float | None = None


class LabelledFile(NamedTuple):
    """split is None where the source does not say; problem as in File."""

    split: Side | None
    label: str
    name: str
    payload: bytes
    problem: str = ""


def is_archive(path: str | Path) -> bool:
    """Whether the name says that this is an archive we read."""
    return Path(path).name.lower().endswith(ARCHIVES)


def stem(path: Path) -> str:
    """What people call it: the last part of the path, without an archive's ending."""
    name = path.resolve().name
    endings = [ending for ending in ARCHIVES if name.lower().endswith(ending)]
    return name[: -len(endings[0])] if endings and not path.is_dir() else name


def clean(name: str) -> str:
    r"""The name without roots and climbs, in Unicode's composed form (NFC).

    Bytes that are no UTF-8 arrive as lone surrogates, which cannot be printed or stored: each
    becomes its escape, as in ``caf\xe9``, so that two names stay two.
    """
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    text = "/".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def hidden(name: str) -> str:
    """Why a clean name is passed over; empty where it is not."""
    parts = name.split("/")
    if not name:
        return "a name of dots and slashes alone"
    if any(part.startswith(".") or part in _LITTER for part in parts):
        return "hidden, or left by a system"
    return ""
