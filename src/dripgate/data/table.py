"""What is known of decoded samples, beside their arrays: one JSON table."""

from typing import ClassVar, NamedTuple

import msgspec

from dripgate.data.found import Finding
from dripgate.data.names import Side


class Skipped(NamedTuple):
    """A file that was left out, why, and the class it would have been."""

    name: str
    cause: str
    label: str = ""


class Table(msgspec.Struct):
    """Each decoded sample, column by column, and the files left out. files: how many were read.
    windows: samples that are parts of long recordings.
    """

    LONG: ClassVar[str] = "a recording longer than the input"

    labels: list[str] = []
    sides: list[Side | None] = []
    ids: list[str] = []
    origins: list[str] = []
    names: list[str] = []
    sizes: list[int] = []
    skipped: list[Skipped] = []
    files: int = 0
    windows: int = 0
    finding: Finding = msgspec.field(default_factory=Finding)
