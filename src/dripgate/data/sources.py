"""What people have, as labelled files: open_source, and trees of class folders.

A tree is a folder or an archive with one sub-folder per class, optionally under ``train/`` and
``test/`` (``val/`` counts as train), all of it optionally inside one wrapping folder. A class
may hold sub-folders. Files beside the class folders (a README) are no samples.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from dripgate.data import named
from dripgate.data.files import (
    LabelledFile,
    Side,
    check,
    fingerprint,
    iter_files,
    iter_names,
    stem,
)  # fmt: skip
from dripgate.data.packed import CifarBinary, Digits, Idx, idx_pairs
from dripgate.errors import DataError

_SIDES: dict[str, Side] = {
    "train": "train", "training": "train", "val": "train", "valid": "train",
    "validation": "train", "test": "test", "testing": "test",
}  # fmt: skip


class Source(Protocol):
    """A labelled data set that can be read again and again, one file at a time."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def path(self) -> Path | None:
        """The folder or archive; None for what comes with a library."""

    def labelled(self) -> Iterator[LabelledFile]:
        """Every labelled file, in a stable order."""

    def fingerprint(self) -> str:
        """Changes when the data does; found without reading the files."""


def open_source(data: str | Path, *, progress: named.Progress | None = None) -> Source:
    """DATA: a folder, an archive, or the name of a data set (the name goes before a local file).

    ``progress`` is given the bytes downloaded so far. Raises DataError for what is not there.
    """
    if data == "digits":
        return Digits()
    bare = isinstance(data, str) and re.fullmatch(r"\w[\w-]*", data) is not None
    path = Path(data).expanduser()
    if bare and (str(data) in named.KNOWN or not path.exists()):
        found = named.find(str(data), progress)
        if found is None:
            raise DataError(
                f"{data}: no such file, folder or data set; give a folder or archive with one "
                f"sub-folder per class, or one of {', '.join(named.KNOWN)}"
            )
        path = found
    check(path)
    name = str(data) if bare else stem(path)
    if path.name == named.CIFAR_BINARY:
        return CifarBinary(name, path)
    if path.name == named.SPEECH_COMMANDS:
        return SpeechCommands(name, path)
    if path.is_dir() and (pairs := idx_pairs(path)):
        return Idx(name, path, pairs)
    return Tree(name, path)


# A folder or an archive with a sub-folder per class ---------------------------------------------


class Layout(NamedTuple):
    """wrapped: everything is inside one top folder. sided: train/ and test/ come next."""

    wrapped: bool
    sided: bool

    @classmethod
    def of(cls, names: Iterator[str]) -> "Layout":
        """Read from all names, or until a train/ or test/ is seen."""
        tops, deep = set(), False
        for name in names:
            parts = name.split("/")
            for wrapped in (0, 1):
                # Three levels, so that a class may itself be called "train".
                if len(parts) >= wrapped + 3 and parts[wrapped].lower() in _SIDES:
                    return cls(wrapped=bool(wrapped), sided=True)
            if len(parts) > 1:
                tops.add(parts[0])
                deep |= len(parts) > 2
        return cls(wrapped=len(tops) == 1 and deep, sided=False)

    def place(self, name: str) -> tuple[Side | None, str] | None:
        """Split and label of a file; None where it is not inside a class folder."""
        parts = name.split("/")[self.wrapped :]
        if not self.sided:
            return (None, parts[0]) if len(parts) > 1 else None
        side = _SIDES.get(parts[0].lower()) if len(parts) > 2 else None
        return (side, parts[1]) if side else None


class Tree:
    """A folder or an archive with one sub-folder per class."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path

    def labelled(self) -> Iterator[LabelledFile]:
        """Folders sorted, archives in their own order; DataError where there is no class."""
        layout, files, placed = Layout.of(iter_names(self.path)), 0, 0
        for file in iter_files(self.path):
            files += 1
            if place := layout.place(file.name):
                placed += 1
                yield LabelledFile(*place, file.name, file.payload, file.problem)
        if not files:
            raise DataError(
                f"{self.path}: empty; expected one sub-folder per class with files in it"
            )
        if not placed:
            raise DataError(
                f"{self.path}: {files:,} files but no class sub-folders; put the files of each "
                "class into a folder that has its name"
            )

    def fingerprint(self) -> str:
        """Of the listing: names, sizes and times of change."""
        return fingerprint(self.path)


class SpeechCommands(Tree):
    """The official archive, which has no test/: its README splits speakers by this hash."""

    def labelled(self) -> Iterator[LabelledFile]:
        """A tenth of the speakers are test; background noise is not a word."""
        for file in super().labelled():
            if file.label != "_background_noise_":
                speaker = Path(file.name).name.split("_nohash_")[0]
                digest = hashlib.sha1(speaker.encode(), usedforsecurity=False).hexdigest()
                percent = int(digest, 16) % 2**27 * 100 / (2**27 - 1)
                yield file._replace(split="test" if 10 <= percent < 20 else "train")
