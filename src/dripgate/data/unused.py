"""What was there and is not used: counted by reason, with the first few names of each."""

import re
from collections.abc import Callable

import msgspec

#: Names that are kept of each reason, and reasons that are told apart.
EXAMPLES, REASONS = 3, 40
_OTHER = "other reasons"

#: Is told why something is not used, and its name.
Pass = Callable[[str, str], None]


class Pile(msgspec.Struct):
    """How many there are, and the first few of them."""

    count: int = 0
    examples: list[str] = []


class Unused(msgspec.Struct):
    """Piles by reason. Memory does not grow with what is added."""

    reasons: dict[str, Pile] = {}

    def add_unreadable(self, cause: str, name: str) -> None:
        """Count a file that cannot be read. Causes that differ in their numbers only are one
        reason, and their examples have the numbers.
        """
        reason = re.sub(r"\d[\d,.]*", "…", cause)
        self.add(reason, name if reason == cause else f"{name}: {cause}")

    def add(self, reason: str, example: str) -> None:
        """Count one."""
        if reason not in self.reasons and len(self.reasons) >= REASONS:
            reason = _OTHER
        pile = self.reasons.setdefault(reason, Pile())
        pile.count += 1
        if len(pile.examples) < EXAMPLES:
            pile.examples.append(example)

    @property
    def count(self) -> int:
        """How many there are of all."""
        return sum(pile.count for pile in self.reasons.values())


def nobody(reason: str, name: str) -> None:
    """For who does not want to know."""
