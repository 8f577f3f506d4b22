"""A bounded queue between what arrives by itself and what works it off."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Buffer(Generic[T]):
    """Holds at most ``room`` bytes, or one item that is larger, whatever the two sides do.

    size: bytes of an item. drop_oldest: where there is no room the oldest go, counted in
    ``lost`` and told to on_lost; otherwise ``put`` waits, and with it the microphone, the camera
    or the broker.
    """

    def __init__(
        self,
        room: int,
        size: Callable[[T], int],
        *,
        drop_oldest: bool = False,
        on_lost: Callable[[T], object] = lambda _: None,
    ) -> None:
        self.lost, self._on_lost = 0, on_lost
        self._room, self._size, self._drop_oldest = room, size, drop_oldest
        self._items: deque[T] = deque()
        self._bytes = 0
        self._ended = False
        self._error: Exception | None = None
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> bool:
        """Add an item; False where nothing is taken any more because the buffer was ended."""
        size = self._size(item)
        with self._changed:
            while self._items and self._bytes + size > self._room and not self._ended:
                if self._drop_oldest:
                    oldest = self._items.popleft()
                    self._bytes -= self._size(oldest)
                    self.lost += 1
                    self._on_lost(oldest)
                else:
                    self._changed.wait()
            if self._ended:
                return False
            self._items.append(item)
            self._bytes += size
            self._changed.notify_all()
            return True

    def take(self, most: int, wait: float) -> list[T]:
        """What is there, oldest first; where nothing is, waits so many seconds for the first."""
        with self._changed:
            if not self._items and not self._ended:
                self._changed.wait(wait)
            taken = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            self._bytes -= sum(map(self._size, taken))
            self._changed.notify_all()
            return taken

    def end(self, error: Exception | None = None) -> None:
        """Nothing more is put; what is there can still be taken. error: why, if for a reason."""
        with self._changed:
            self._ended = True
            self._error = self._error or error
            self._changed.notify_all()

    @property
    def over(self) -> bool:
        """Whether nothing is there and nothing will come. Raises what ended it, once empty."""
        with self._changed:
            if not self._ended or self._items:
                return False
            if self._error:
                raise self._error
            return True
