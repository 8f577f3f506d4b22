"""How far long work is: who does it tells a number now and then, and knows no terminal."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

#: Given how much is done so far, not what was added.
Progress = Callable[[int], None]
#: Makes the Progress of one piece of work from its length, None where it is not known, and a label.
Bar = Callable[[int | None, str], AbstractContextManager[Progress]]


@contextmanager
def no_bar(length: int | None, label: str) -> Iterator[Progress]:
    """A Bar that nobody sees."""
    yield lambda done: None
