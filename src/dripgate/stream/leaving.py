"""Removing or moving a file, and never any other bytes than those that were read.

Between the look at a file and its removal somebody may put another in its place. So it is first
renamed, beside itself, to a name that nobody else uses; only then is it looked at, and removed if
it is the one that was read, else given its name back. The name beside is an ordinary one: after
a loss of power the file is found again.
"""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from dripgate.errors import DataError
from dripgate.stream.reading import Read, moved, same

_LONGEST = 200  # bytes of a name, which may have 255 with what is added


class Leaving:
    """What becomes of a file: "keep", "remove", "move:DIR".

    Raises DataError where DIR is no other folder of the same file system.
    """

    def __init__(self, what: str, source: Path, option: str = "--processed") -> None:
        self._what, _, folder = what.partition(":")
        self._to = Path(folder)
        if what not in ("keep", "remove") and not (self._what == "move" and folder):
            raise DataError(f"{what!r}: files can be processed by keep, remove or move:FOLDER")
        if what != "keep" and not source.is_dir():
            raise DataError(f"{source}: its files cannot be moved or removed one by one; leave out "
                            f"{option}")  # fmt: skip
        if self._what == "move":
            self._check(source)

    @property
    def keeps(self) -> bool:
        """Whether files stay where they are."""
        return self._what == "keep"

    def __call__(self, file: Read) -> str:
        """Remove or move a file if it is still the one that was read, or is gone.

        The empty string, or why the file stays.
        """
        path = file.found.path
        status = os.stat if file.found.link else os.lstat  # of a link the link goes
        try:
            if not same(status(path), file.status):
                return "written again since it was read"
            aside = _beside(path)
            os.rename(path, aside)
            if not (moved(status(aside), file.status) and _is(aside, file)):
                _give_back(aside, path)
                return "written again since it was read"
            if self._what == "remove":
                os.unlink(aside)
            else:
                self._move(aside, file)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{error.strerror}; check who may write to its folder"
        return ""

    def _move(self, aside: str, file: Read) -> None:
        target = self._to / file.found.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            for candidate in (target, _named(target, file.content.hex()[:12]), _beside(target)):
                with suppress(FileExistsError):
                    _rename_new(aside, candidate)
                    return
        except OSError:
            _give_back(aside, file.found.path)
            raise

    def _check(self, source: Path) -> None:
        inside = self._to.resolve().is_relative_to(source.resolve())
        try:
            if not inside:  # nothing is made in the folder of the samples
                self._to.mkdir(parents=True, exist_ok=True)
            fits = not inside and self._to.stat().st_dev == source.stat().st_dev
        except OSError as error:
            raise DataError(f"{self._to}: cannot be made ({error.strerror})") from None
        if not fits:
            raise DataError(f"{self._to}: files are moved to a folder of the same file system that "
                            f"is not inside {source}")  # fmt: skip


def _is(path: str, file: Read) -> bool:
    """Whether these are the bytes that were read. A status does not tell: a new file often gets
    the inode of the one before, and within a moment the same times too.
    """
    if file.problem:
        return True  # it was not read; it is moved apart, and never removed
    digest = hashlib.sha256()
    with open(path, "rb") as opened:
        while part := opened.read(1 << 20):
            digest.update(part)
    return digest.digest() == file.content


def _give_back(aside: str, path: str) -> None:
    """Its name, if nobody took that meanwhile; else it keeps the one beside."""
    with suppress(FileExistsError):
        _rename_new(aside, path)


def _rename_new(path: str, target: str | Path) -> None:
    """Rename, replacing nothing. Raises FileExistsError, and OSError as ``os.rename`` does."""
    try:
        os.link(path, target, follow_symlinks=False)
    except FileExistsError:
        if os.path.samestat(os.lstat(path), os.lstat(target)):  # begun before, and interrupted
            os.unlink(path)
            return
        raise
    except OSError:  # a file system without hard links; or another one, which rename tells
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.rename(path, target)
    else:
        os.unlink(path)


def _beside(path: str | Path) -> str:
    """A name in the same folder that nobody uses; one that is not hidden."""
    return str(_named(Path(path), secrets.token_hex(4)))


def _named(path: Path, mark: str) -> Path:
    stem = os.fsdecode(os.fsencode(path.stem)[: _LONGEST - len(os.fsencode(path.suffix))])
    return path.with_name(f"{stem}~{mark}{path.suffix}")
