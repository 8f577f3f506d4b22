"""A mean over days with its error."""

import msgspec

from dripgate.types import Array

#: Student's t, 97.5 %, for 1, 2, 3 … degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
MOST = len(_T) + 1


class Mean(msgspec.Struct, frozen=True):
    """value: of up to MOST days. half: of the 95 % interval (Student's t); None for one day."""

    value: float
    half: float | None

    @classmethod
    def of(cls, values: Array) -> "Mean":
        """Of at least one value, (n,)."""
        n = len(values)
        error = float(values.std(ddof=1)) / n**0.5 if n > 1 else None
        return cls(float(values.mean()), None if error is None else _T[n - 2] * error)

    def points(self, sign: str = "") -> str:
        """In per cent: '61.2 ± 0.8'."""
        half = "" if self.half is None else f" ± {100 * self.half:.1f}"
        return f"{100 * self.value:{sign}.1f}{half}"
