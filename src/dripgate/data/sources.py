"""What people have, as labelled files: open_source, and trees of class folders (see layout)."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from dripgate.data import named
from dripgate.data.files import check, fingerprint, iter_files, iter_names
from dripgate.data.found import Finding, SplitFound
from dripgate.data.layout import Layout, Reading
from dripgate.data.names import LabelledFile, stem
from dripgate.data.packed import CifarBinary, Digits, Idx, idx_pairs
from dripgate.errors import DataError
from dripgate.progress import Progress


class Source(Protocol):
    """A labelled data set that can be read again and again, one file at a time."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def path(self) -> Path | None:
        """The folder or archive; None for what comes with a library."""

    def labelled(self, finding: Finding | None = None) -> Iterator[LabelledFile]:
        """Every labelled file, in a stable order. finding: is told what is not used."""

    def examples(self, each: int) -> Iterator[LabelledFile]:
        """Up to ``each`` files of every class, or more where the classes are alike."""

    def fingerprint(self) -> str:
        """Changes when the data does; found without reading the files."""


def open_source(
    data: str | Path, *, progress: Progress | None = None, reading: Reading = "auto"
) -> Source:
    """DATA: a folder, an archive, or the name of a data set (the name goes before a local file).

    ``progress`` is given the bytes downloaded so far. reading: whether the top folders are splits
    or classes; by default that is found out. Raises DataError for what is not there.
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
    return Tree(name, path, reading)


def shadowed(data: str | Path) -> str:
    """What is to be said where a name means a data set although a file here is called so."""
    if str(data) in named.KNOWN and isinstance(data, str) and Path(data).exists():
        return f"{data} is the data set of that name; write ./{data} for the folder here"
    return ""


# A folder or an archive with a sub-folder per class ---------------------------------------------


class Tree:
    """A folder or an archive with one sub-folder per class."""

    def __init__(self, name: str, path: Path, reading: Reading = "auto") -> None:
        self.name, self.path, self._reading = name, path, reading
        self._known = "", Layout((), {}, frozenset())

    def labelled(self, finding: Finding | None = None) -> Iterator[LabelledFile]:
        """Folders sorted, archives in their own order; DataError where there is no class."""
        finding = finding or Finding()
        layout = self._layout()
        finding.notes += layout.notes
        for file in iter_files(self.path, unused=finding.passed, outside=True):
            place = layout.place(file.name)
            if place.why:
                finding.unused.add(place.why, file.name)
                continue
            if place.split:
                folder = file.name.split("/")[len(layout.wrappers)]
                finding.splits.setdefault(folder, SplitFound(place.split)).files += 1
            yield LabelledFile(place.split, place.label, file.name, file.payload, file.problem)

    def examples(self, each: int) -> Iterator[LabelledFile]:
        """The first files of every class, up to ``each``; of the others nothing is read."""
        layout, seen = self._layout(), Counter[str]()

        def wanted(name: str) -> bool:
            place = layout.place(name)
            seen[place.label] += not place.why
            return not place.why and seen[place.label] <= each

        for file in iter_files(self.path, outside=True, wanted=wanted):
            if file.payload or file.problem:
                place = layout.place(file.name)
                yield LabelledFile(place.split, place.label, file.name, file.payload, file.problem)

    def fingerprint(self) -> str:
        """Of the listing: names, sizes and times of change, and how they are read."""
        return f"{fingerprint(self.path, outside=True)} {self._reading}"

    def _layout(self) -> Layout:
        """Of all names; an archive that did not change is not unpacked again for it."""
        mark = self.fingerprint() if self.path.is_file() else ""
        if not mark or self._known[0] != mark:
            names = iter_names(self.path, outside=True)
            self._known = mark, Layout.of(names, str(self.path), self._reading)
        return self._known[1]


class SpeechCommands(Tree):
    """The official archive, which has no test/: its README splits speakers by this hash."""

    def labelled(self, finding: Finding | None = None) -> Iterator[LabelledFile]:
        """A tenth of the speakers are test; background noise is not a word."""
        finding = finding or Finding()
        for file in super().labelled(finding):
            if file.label == "_background_noise_":
                finding.unused.add("background noise, which is no word", file.name)
                continue
            speaker = Path(file.name).name.split("_nohash_")[0]
            digest = hashlib.sha1(speaker.encode(), usedforsecurity=False).hexdigest()
            percent = int(digest, 16) % 2**27 * 100 / (2**27 - 1)
            yield file._replace(split="test" if 10 <= percent < 20 else "train")

    def examples(self, each: int) -> Iterator[LabelledFile]:
        """As of any tree, but for the background noise."""
        return (f for f in super().examples(each) if f.label != "_background_noise_")
