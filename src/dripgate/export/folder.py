"""A folder that appears whole or not at all, and what went into it."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from dripgate.errors import UserError
from dripgate.files import sync_folder
from dripgate.progress import Progress
from dripgate.store import Store
from dripgate.store.records import StoredSample


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What an export wrote.

    samples: written. damaged: ids of those left out, whose payloads do not have the hash that is
    their id. renamed: labels that could not be the names of folders, and the names.
    aside: samples in each folder that stands for no class.
    """

    samples: int
    damaged: tuple[str, ...] = ()
    renamed: dict[str, str] = {}
    aside: dict[str, int] = {}


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write in, which gets the name ``out`` when all is written.

    It lies beside ``out`` until then, so that half an export is never taken for a whole one.
    Raises UserError where ``out`` holds something, or nothing can be written there.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise UserError(f"{out}: exists and is not empty; give a new folder")
    if out.is_mount() or (out.exists() and out.samefile(Path.cwd())):
        raise UserError(f"{out}: cannot be replaced where it is; give a new folder in it")
    part = out.absolute().parent / f".{out.name[:60]}.{secrets.token_hex(4)}.part"
    try:
        part.mkdir(parents=True)
        yield part
        os.sync()  # or a power loss could leave the name and not the bytes
        with suppress(FileNotFoundError):
            out.rmdir()
        part.rename(out)
        sync_folder(part.parent)
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror or error}); nothing was left there: check "
            "the folder, its rights and the free space"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def intact(store: Store, damaged: list[str], told: Progress) -> Iterator[StoredSample]:
    """The samples whose payloads are those that their ids name; the ids of others are noted."""
    for done, stored in enumerate(store, 1):
        if stored.intact:
            yield stored
        else:
            damaged.append(stored.id)
        told(done)
