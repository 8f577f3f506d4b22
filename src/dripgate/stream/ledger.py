"""Which files were decided already, by one gate and one set of rules.

A file is known again by its inode, size and times, without reading it; where these differ, by its
content together with its name (it was copied anew) or its inode (it was renamed). Each of the
three is a mark of 62 bits, with what became of the file in the two bits below. A store notes them
with the verdicts, in one transaction, and remembers those of a million files at most.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Sequence

import numpy as np

from dripgate.store.records import Decided
from dripgate.store.records import Ledger as Noted
from dripgate.types import Array

#: What became of a file: dropped; a sample of it was to be stored; it stays, whatever was asked.
#: Only in memory: its samples are under way.
DROPPED, STORED, STAYS, GIVEN = 1, 2, 3, 4
#: Marks that are held in memory as one sorted table, before a younger one takes over.
TABLE = 3_000_000
_RECENT = 2048
_STATE = 3
_NOTHING = Noted(b"", b"", 0)
_NONE = np.zeros(0, np.uint64)


class Ledger:
    """Marks and what they say; 8 bytes each.

    by: what decides, such as a gate's id and the rules; other marks mean nothing to it. noted:
    as the store has it.
    """

    def __init__(self, by: str = "", noted: Noted = _NOTHING) -> None:
        self._key = hashlib.blake2b(by.encode(), digest_size=32).digest()
        self.by = self._key.hex()[:16]
        self._tables = [np.sort(_unpacked(noted.marks + noted.leaving)), _NONE]
        self._recent: dict[int, int] = {}
        self._held = set[int]()
        self._noted = noted.marks != b""
        self._carried = noted.leaving  # of a run that was killed: not to be forgotten by the next
        self.floor = noted.floor

    # Marks --------------------------------------------------------------------------------------

    def of_status(self, status: os.stat_result) -> int:
        """The mark of a file that is not read."""
        return self._mark(_status(status, status.st_ctime_ns))

    def of_content(self, name: str, content: bytes, status: os.stat_result | None) -> list[int]:
        """The marks of a file by name and inode; of what has no inode, such as a member of an
        archive, only the first.
        """
        marks = [self._mark(b"n" + content + os.fsencode(name))]
        return marks + ([self._mark(b"i" + content + _status(status, 0))] if status else [])

    def of_part(self, mark: int, index: int) -> int:
        """The mark of one sample of a file that gives several."""
        return self._mark(struct.pack("<QQ", mark, index))

    def _mark(self, data: bytes) -> int:
        digest = hashlib.blake2b(data, digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little") & ~_STATE

    # What is known ------------------------------------------------------------------------------

    def states(self, marks: Sequence[int]) -> list[int]:
        """What became of each; 0 is not known."""
        wanted = np.array(marks, np.uint64)
        states = np.zeros(len(wanted), np.uint64)
        for table in self._tables:
            if len(table):
                found = table[np.searchsorted(table, wanted).clip(max=len(table) - 1)]
                states = np.where((found & ~np.uint64(_STATE)) == wanted, found & _STATE, states)
        recent, held = self._recent, self._held
        return [
            GIVEN if mark in held else recent.get(mark, state)
            for mark, state in zip(marks, states.tolist(), strict=True)
        ]

    def state(self, marks: Iterable[int]) -> int:
        """The first that is known of several marks of one file; 0 is none."""
        return next((state for state in self.states(list(marks)) if state), 0)

    def note(self, marks: Iterable[int], state: int) -> None:
        """Know these from now on."""
        self._recent.update(dict.fromkeys(marks, state))
        if len(self._recent) > _RECENT:
            self._settle()

    def hold(self, mark: int) -> None:
        """Its file is under way: not to be given twice."""
        self._held.add(mark)

    def release(self, mark: int) -> None:
        """Its file is decided."""
        self._held.discard(mark)

    def forget(self, marks: Iterable[int]) -> None:
        """Know these no more, where they are recent: their files are gone."""
        for mark in marks:
            self._recent.pop(mark, None)

    def _settle(self) -> None:
        held = [mark | state for mark, state in self._recent.items()]
        self._recent = {}
        younger = np.concatenate([self._tables[0], np.array(held, np.uint64)])
        if len(younger) > TABLE:
            self._tables[1], younger = self._tables[0], np.array(held, np.uint64)
        self._tables[0] = np.sort(younger)

    # For the store ------------------------------------------------------------------------------

    def block(
        self, staying: Array, leaving: Array, newest: int, *, crowded: bool
    ) -> Decided | None:
        """What to write with the next commit; None where there is nothing to say.

        staying, leaving: as ``packed`` gives them. newest, crowded: as in ``Decided``.
        """
        marks, self._carried = self._carried + staying.tobytes(), b""
        before, self._noted = self._noted, bool(marks or len(leaving))
        if not (self._noted or before):
            return None
        return Decided(marks, leaving.tobytes(), newest, crowded)


def packed(marks: Iterable[tuple[int, int]]) -> Array:
    """Marks with their states as a store holds them: little-endian uint64 (n,)."""
    return np.array([mark | state for mark, state in marks], "<u8")


def _unpacked(marks: bytes) -> Array:
    return np.frombuffer(marks[: len(marks) // 8 * 8], "<u8").astype(np.uint64)


def _status(status: os.stat_result, changed: int) -> bytes:
    known = (status.st_ino % 2**64, status.st_size, status.st_mtime_ns, changed)
    return struct.pack("<Qqqq", *known)
