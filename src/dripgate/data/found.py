"""What was found in a data set, as data: classes, splits, what was not used, what was guessed."""

import msgspec

from dripgate.data.archives import NO_ENCODING
from dripgate.data.names import Side
from dripgate.data.unused import Pile, Unused
from dripgate.types import ImageInput, InputSpec


class SplitFound(msgspec.Struct):
    """A split folder: the side it counts as, and its labelled files."""

    side: Side
    files: int = 0


class Finding(msgspec.Struct):
    """Filled while a source is read. splits: by folder. remarks: what is used but worth knowing,
    counted by what it is. notes: what was guessed, and how to overrule it.
    """

    splits: dict[str, SplitFound] = {}
    unused: Unused = msgspec.field(default_factory=Unused)
    remarks: Unused = msgspec.field(default_factory=Unused)
    notes: list[str] = []

    def passed(self, reason: str, name: str) -> None:
        """Count what a walk passed over, or remarked on."""
        (self.remarks if reason == NO_ENCODING else self.unused).add(reason, name)


class ClassFound(msgspec.Struct, frozen=True):
    """Samples of a class on each side, and its files that cannot be read."""

    name: str
    train: int
    test: int
    unreadable: int = 0


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of a data set. samples: decoded, a long recording is several. unused: by
    reason; files that cannot be read have their cause as one. notes: in plain sentences.
    """

    name: str
    input: InputSpec = ImageInput(height=1, width=1, channels=1)
    samples: int = 0
    classes: tuple[ClassFound, ...] = ()
    splits: dict[str, SplitFound] = {}
    unused: dict[str, Pile] = {}
    notes: tuple[str, ...] = ()

    @property
    def not_used(self) -> int:
        """How many files, folders and links were not used."""
        return sum(pile.count for pile in self.unused.values())
