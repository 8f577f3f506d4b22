"""Labels and splits from paths: one rule, for training and for what a device stored.

A tree has one folder per class, optionally inside split folders under any of the names people
use (``train``, ``Training Set``, ``val``, ``dev``, ``test``, ``eval`` …), all of it optionally
inside folders that hold nothing else. A class may hold sub-folders. Whether a folder such as
``valid`` is a split or a class is decided on all paths, never on the first; where both readings
fit nothing is guessed.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple

import msgspec

from dripgate.data.names import NO_CLASSES, TABLE, Side, is_archive
from dripgate.errors import DataError
from dripgate.text import one_line

#: How a tree is read: found out, or said by the user.
Reading = Literal["auto", "splits", "classes"]
READINGS: tuple[Reading, ...] = ("auto", "splits", "classes")
_SIDES: dict[str, Side] = {
    "train": "train", "training": "train", "trn": "train", "trainval": "train",
    "train val": "train", "traindev": "train", "train dev": "train",
    "val": "train", "valid": "train", "validation": "train", "dev": "train", "devel": "train",
    "development": "train", "validate": "train",
    "test": "test", "tests": "test", "testing": "test", "eval": "test", "evaluation": "test",
    "tst": "test", "evaluate": "test", "testdev": "test", "test dev": "test",
    "publictest": "test", "public test": "test", "privatetest": "test", "private test": "test",
    "holdout": "test", "hold out": "test", "heldout": "test", "held out": "test",
}  # fmt: skip
_WORDS = re.compile(r"[\s_.\-]+")
_SUFFIX = re.compile(r" ?(set|data|dataset|images?|samples?|split|folder|(19|20)\d\d)$")
#: Folders around the class folders that hold nothing else are looked through so far.
_WRAPPERS = 8
#: Folders that are looked at; memory does not grow beyond.
_MOST = 100_000


def side_of(folder: str) -> Side | None:
    """train or test, where a folder's name is one that people give to splits.

    Upper and lower case, spaces, underscores and a closing "set" make no difference. What is
    there for validation counts as train: thresholds and models are tested on what is left.
    """
    words = _WORDS.sub(" ", folder.casefold()).strip()
    return _SIDES.get(words) or _SIDES.get(_SUFFIX.sub("", words))


def class_of(name: str, classes: Collection[str]) -> str | None:
    """The class a path says: the first folder on the way that has the name of a class.

    The same for data to learn from and for the sources in a store. None where no folder has.
    """
    for folder in unicodedata.normalize("NFC", name).split("/")[:-1]:
        if folder in classes:
            return folder
    return None


def label_of(given: str | None, source: str, classes: Collection[str]) -> str | None:
    """The label of a stored sample: the one it was given, else the class its source says."""
    return unicodedata.normalize("NFC", given) if given else class_of(source, classes)


class Place(NamedTuple):
    """Split and label of a file; or why it has none."""

    split: Side | None
    label: str
    why: str = ""


class Layout(msgspec.Struct, frozen=True):
    """wrappers: the folders around everything. sides: split by folder; empty where there are
    none. classes: the class folders. notes: what was guessed, and how to overrule it. aside:
    folders that 'dripgate export' made for what has no class.
    """

    wrappers: tuple[str, ...]
    sides: dict[str, Side]
    classes: frozenset[str]
    notes: tuple[str, ...] = ()
    aside: frozenset[str] = frozenset()

    def place(self, name: str) -> Place:
        """Where a file belongs."""
        if is_archive(name):
            return Place(None, "", "an archive inside; unpack it, or give it by itself")
        parts = name.split("/")
        inner = parts[len(self.wrappers) :]
        if tuple(parts[: len(self.wrappers)]) != self.wrappers or len(inner) < 2:
            return Place(None, "", "beside the class folders")
        if inner[0] in self.aside:
            return Place(None, "", f"in {inner[0]}/, by 'dripgate export', which is no class")
        side = None
        if self.sides:
            side = self.sides.get(inner[0])
            if side is None:
                return Place(None, "", f"in {inner[0]}/, which is no split beside the others")
            inner = inner[1:]
            if len(inner) < 2:
                return Place(None, "", f"in {parts[len(self.wrappers)]}/, but in no class folder")
        label = class_of("/".join(inner), self.classes)
        return Place(side, label or inner[0])

    @classmethod
    def of(cls, names: Iterable[str], what: str, reading: Reading = "auto") -> "Layout":
        """Read from all names. Raises DataError, naming ``what``, where it cannot be known."""
        tree, files = _Tree.of(names)
        if not files:
            raise DataError(f"{what}: empty; expected one sub-folder per class with files in it")
        archives, wrappers = tree.archives, _unwrap(tree, reading)
        for folder in wrappers:
            tree = tree.folders[folder]
        aside = tree.take_aside()
        if aside and not tree.folders:
            raise DataError(
                f"{what}: nothing in it has a class: 'dripgate export' put all of it into "
                f"{_listed(sorted(aside))}; label it ('dripgate review') and export again"
            )
        if not tree.folders and archives:
            raise DataError(
                f"{what}: {archives:,} archives inside, which are not opened; unpack them, "
                "or give one by itself"
            )
        if not tree.folders:
            raise DataError(
                f"{what}: {files:,} files but no class sub-folders; put the files of each "
                "class into a folder that has its name"
            )
        sides, notes = _sides(tree, what, reading)
        if sides:
            classes = {name for folder in sides for name in tree.folders[folder].folders}
        else:
            classes = set(tree.folders)
            notes = notes + _deeper(tree)
        return cls(tuple(wrappers), sides, frozenset(classes), tuple(notes), aside)


class _Tree:
    """Folders that hold files somewhere below, three levels below each wrapper and no deeper."""

    def __init__(self) -> None:
        self.folders: dict[str, _Tree] = {}
        self.files = self.archives = 0
        self.table = False

    @classmethod
    def of(cls, names: Iterable[str]) -> tuple["_Tree", int]:
        """The tree, and how many files there are."""
        root, files, folders = cls(), 0, 0
        for name in names:
            here, files = root, files + 1
            *parents, _ = name.split("/")
            for folder in parents[: _WRAPPERS + 3]:
                if folder not in here.folders:
                    if folders == _MOST:
                        break
                    folders += 1
                    here.folders[folder] = cls()
                here = here.folders[folder]
            here.files += 1
            here.table = here.table or name.split("/")[-1] == TABLE
            root.archives += is_archive(name)
        return root, files

    def take_aside(self) -> frozenset[str]:
        """Take out the folders that are no classes, where the table of an export lies beside."""
        aside = NO_CLASSES & self.folders.keys() if self.table else frozenset[str]()
        self.folders = {name: one for name, one in self.folders.items() if name not in aside}
        return aside


def _unwrap(tree: _Tree, reading: Reading) -> list[str]:
    """The folders around everything: each the only one where it is, with folders below it."""
    wrappers: list[str] = []
    while len(tree.folders) == 1 and len(wrappers) < _WRAPPERS:
        ((name, below),) = tree.folders.items()
        split = side_of(name) and reading != "classes" and not any(map(side_of, below.folders))
        if split or not below.folders:
            break
        wrappers.append(name)
        tree = below
    return wrappers


def _sides(tree: _Tree, what: str, reading: Reading) -> tuple[dict[str, Side], list[str]]:
    """Split by folder, and what was guessed; no splits where the folders are classes."""
    named = {name: side for name in tree.folders if (side := side_of(name))}
    others = sorted(tree.folders.keys() - named.keys())
    if reading == "classes" or not named:
        if reading == "splits":
            raise DataError(f"{what}: no folder is called train or test; found {_listed(others)}")
        return {}, []
    filled = {name: side for name, side in named.items() if tree.folders[name].folders}
    if reading == "splits" and filled:
        return named, []
    if not filled:
        if others and reading == "auto":
            return {}, _as_class(named, others)
        raise DataError(
            f"{what}: files lie directly in {_listed(sorted(named))}, which are names of splits, "
            "and there are no class folders in them; make one per class in each, or say "
            "--folders classes if these are the classes"
        )
    if others and not _surely(filled):
        return {}, _as_class(named, others)
    if "train" not in filled.values():
        raise DataError(
            f"{what}: {_listed(sorted(filled))} is for testing, and there is nothing to learn "
            "from; add a train/ with the same class folders, or say --folders classes"
        )
    if _fits(tree, filled):
        return named, []
    raise DataError(
        f"{what}: {_listed(sorted(named))} may be splits or classes: no folder is in two of them; "
        "say --folders splits or --folders classes"
    )


def _surely(filled: dict[str, Side]) -> bool:
    """Whether folders beside the splits do not make them classes: something to learn from, and
    another split, are there under their names.
    """
    return len(filled) >= 2 and any(_is_train(name) for name in filled)


def _is_train(name: str) -> bool:
    return _WORDS.sub(" ", name.casefold()).strip().startswith("train")


def _fits(tree: _Tree, filled: dict[str, Side]) -> bool:
    """Whether splits hold the same classes, at least some of them."""
    seen = Counter(name for folder in filled for name in tree.folders[folder].folders)
    return len(filled) == 1 or max(seen.values()) > 1


def _deeper(tree: _Tree) -> list[str]:
    """Said where the classes may lie a level deeper: only there are files, under other names."""
    below = [name for folder in tree.folders.values() for name in folder.folders]
    direct = any(folder.files or not folder.folders for folder in tree.folders.values())
    if direct or len(set(below)) < len(below) or len(below) == len(tree.folders):
        return []
    name, folder = next(iter(tree.folders.items()))
    inner = ", ".join(f"{name}/{one}" for one in list(folder.folders)[:2])
    return [
        f"all files lie in sub-folders ({inner}, …), which count as their upper folder's class; if "
        "they are the classes, put them beside each other"
    ]


def _as_class(named: Iterable[str], others: list[str]) -> list[str]:
    return [
        f"{_listed(sorted(named))} taken for a class, not a split, because {_listed(others)} "
        "stand beside it; --folders splits overrules that"
    ]


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"{one_line(name)}/" for name in names[:4])
    return shown + (f" and {len(names) - 4:,} more" if len(names) > 4 else "")
