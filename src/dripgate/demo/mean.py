"""A mean over days with its error."""

import msgspec

from dripgate.policy.estimate import student
from dripgate.types import Array

#: Most days of a mean.
MOST = 10


class Mean(msgspec.Struct, frozen=True):
    """value: of up to MOST days. half: of the 95 % interval (Student's t); None for one day."""

    value: float
    half: float | None

    @classmethod
    def of(cls, values: Array) -> "Mean":
        """Of at least one value, (n,)."""
        n = len(values)
        error = float(values.std(ddof=1)) / n**0.5 if n > 1 else None
        return cls(float(values.mean()), None if error is None else student(n - 1) * error)

    def points(self, sign: str = "") -> str:
        """In per cent: '61.2 ± 0.8'."""
        half = "" if self.half is None else f" ± {100 * self.half:.1f}"
        return f"{100 * self.value:{sign}.1f}{half}"
