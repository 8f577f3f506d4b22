"""What a rule of the benchmark knows before the rest has come."""

from typing import Any


class Prefix:
    """The first n samples of what a model saw: what a rule knows after n samples."""

    def __init__(self, seen: Any, n: int) -> None:
        self._seen, self._n = seen, n
        self.gate = seen.gate

    def score(self, name: str) -> Any:
        """Scores of the first n, (n,)."""
        return self._seen.score(name)[: self._n]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seen, name)[: self._n]
