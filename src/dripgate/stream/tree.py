"""The files below a folder: what is there, what is passed over, and why.

Hidden files and folders (a name that begins with a dot) and ``__MACOSX`` are no samples. Links
count where they lead to a file inside of the folder. Everything else that is passed over is told,
once each: folders that cannot be listed, links that lead out or in a circle, devices, pipes.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dripgate.text import one_line

Told = Callable[[str], object]
#: Things told about at most, so that memory has an end; those are enough to look into.
_TOLD = 1000


class Found(NamedTuple):
    """A file: its name below the folder as the system has it, where it is, and its status."""

    name: str
    path: str
    status: os.stat_result
    link: bool = False

    @property
    def source(self) -> str:
        """The name as it is shown and stored; bytes that are no UTF-8 as escapes, kept apart."""
        return shown(self.name)


class Once:
    """Tells each thing once."""

    def __init__(self, told: Told) -> None:
        self._told, self._known = told, set[str]()

    def __call__(self, key: str, text: str) -> None:
        """Tell the text, unless something was told under the key."""
        if key not in self._known and len(self._known) < _TOLD:
            self._known.add(key)
            self._told(text)


class Tree:
    """A folder, and the files of the program itself that may lie in it: these are left out."""

    def __init__(self, root: Path, told: Told) -> None:
        self.root = os.fspath(root)
        self._real, self._own = os.path.realpath(root), set[str]()
        self._within = os.path.join(self._real, "")  # joined once, not for each file
        self.once = Once(told)

    def leave_out(self, paths: list[Path]) -> None:
        """Pass over these files and folders."""
        self._own |= {os.path.realpath(path) for path in paths}

    def list(self, folder: str) -> tuple[list[Found], list[str]] | None:
        """Files and folders in a folder below the root, by name; None where it is gone."""
        files, folders = [], []
        try:
            for one in self._entries(folder):
                if isinstance(one, str):
                    folders.append(one)
                else:
                    files.append(one)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return files, folders

    def each(self) -> Iterator[Found]:
        """All files, by name, as they are met: of a folder only the names are held in memory."""
        waiting = [""]
        while waiting:
            folders = []
            with suppress(FileNotFoundError, NotADirectoryError):  # gone meanwhile
                for one in self._entries(waiting.pop()):
                    if isinstance(one, str):
                        folders.append(one)
                    else:
                        yield one
            waiting += reversed(folders)

    def _entries(self, folder: str) -> Iterator[Found | str]:
        """Files, and the names of folders. Raises OSError where there is no such folder."""
        here, above = os.path.join(self.root, folder), os.path.join(folder, "")
        try:
            with os.scandir(here) as entries:
                for entry in sorted(entries, key=lambda one: one.name):
                    name = above + entry.name
                    if _hidden(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if self._within + name not in self._own:
                            yield name
                    elif (found := self._found(entry, name)) is not None:
                        yield found
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            self.once(folder, f"{one_line(here)}: cannot be listed ({error.strerror}); what is in "
                      "it is not seen")  # fmt: skip

    def walk(self, *, oldest: bool = False) -> Iterator[Found]:
        """All files, those of a folder before its sub-folders', by name; or the oldest first."""
        waiting = [""]
        while waiting:
            files, folders = self.list(waiting.pop()) or ([], [])
            if oldest:  # budgets per hour and pace go by the times of samples
                files.sort(key=lambda one: one.status.st_mtime_ns)
            yield from files
            waiting += reversed(folders)

    def again(self, found: Found) -> Found | None:
        """The same name as it is now; None where it is gone, or no file any more."""
        try:
            status = os.stat(found.path)
        except OSError:
            return None
        return found._replace(status=status) if stat.S_ISREG(status.st_mode) else None

    def status(self, folder: str) -> os.stat_result | None:
        """Of a folder below the root; None where it is gone."""
        try:
            return os.stat(os.path.join(self.root, folder))
        except OSError:
            return None

    def _found(self, entry: os.DirEntry[str], name: str) -> Found | None:
        where = self._within + name
        if where in self._own:
            self.once(name, f"{one_line(entry.path)}: belongs to this run and is left out; it is "
                      "better kept in another folder")  # fmt: skip
            return None
        link = entry.is_symlink()
        try:
            if link and (why := self._astray(os.path.realpath(where))):
                self.once(name, f"{one_line(entry.path)}: {why}; not followed")
                return None
            status = entry.stat()
        except FileNotFoundError:
            if link:
                self.once(name, f"{one_line(entry.path)}: a link to nowhere; passed over")
            return None  # or gone since it was listed
        except OSError as error:
            self.once(name, f"{one_line(entry.path)}: passed over ({error.strerror})")
            return None
        if not stat.S_ISREG(status.st_mode):
            what = "a link to a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            self.once(name, f"{one_line(entry.path)}: {what}; passed over")
            return None
        return Found(name, entry.path, status, link)

    def _astray(self, target: str) -> str:
        """Why a link to this is not followed; "" where it is."""
        if self._within.startswith(os.path.join(target, "")):
            return "a link to a folder that it lies in"
        return "" if target.startswith(self._within) else "a link that leads out of the folder"


def shown(name: str) -> str:
    """A name of the file system as text: bytes that are no UTF-8 become \\xe9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
