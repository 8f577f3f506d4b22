"""What a user asks of a policy, in the units people think in: 5 %, 200 an hour, 500 MB a week."""

import math
import re

import msgspec

from dripgate.errors import UserError

PERIODS = {"min": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400, "w": 604800,
           "week": 604800}  # fmt: skip
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BYTES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}
_ALLOWANCE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]*)\s*(?:/|per\s)\s*([a-z]+)\s*", re.I)


class Allowance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most ``amount`` samples, or payload bytes, in any ``period`` seconds."""

    amount: float
    period: float
    bytes: bool = False


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of a policy.

    keep: share of the stream to keep, over any long window; None leaves it to the gate's band.
    budgets: all are kept to, in any window of their period, everything that is stored counted.
    audit: share of the samples kept whatever their score; at most a quarter of ``keep``.
    floor: each predicted class keeps at least this part of the overall share of its own samples.
    duplicates: embeddings are the same scene where they are as near as this share of distinct
    calibration samples is to one of 64 others; so many distinct scenes may be lost, and 0 is off.
    quarantine: largest share of the stream that may go to quarantine. seed: of all chance.

    Raises:
        UserError: a number outside its range.
    """

    keep: float | None = None
    budgets: tuple[Allowance, ...] = ()
    audit: float = 0.01
    floor: float = 0.25
    duplicates: float = 0.05
    quarantine: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.keep is not None and not 0 < self.keep <= 1:
            raise UserError(
                f"keep is {self.keep}, expected a share above 0 and up to 1, such as 0.3 for 30 %"
            )
        for name in ("audit", "floor", "quarantine", "duplicates"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise UserError(f"{name} is {value}, expected a number from 0 to 1")
        for one in self.budgets:
            if not (0 < one.amount < math.inf and 0 < one.period < math.inf):
                raise UserError(f"{one} is no budget; amount and period must be above 0")


def parse_allowance(text: str) -> Allowance:
    """An allowance from text such as "200/h", "500MB/week" or "2 GB per day".

    Raises:
        UserError: for anything else.
    """
    match = _ALLOWANCE.fullmatch(text)
    unit, per = (match[2].lower(), match[3].lower()) if match else ("", "")
    known = unit in ("", "samples", *_BYTES) and per in PERIODS
    if match is None or not known or float(match[1]) <= 0:
        raise UserError(
            f"the budget {text!r} cannot be read; write samples or bytes per period, such as "
            f"200/h or 500MB/week (periods: {', '.join(PERIODS)})"
        )
    return Allowance(float(match[1]) * _BYTES.get(unit, 1), PERIODS[per], unit in _BYTES)
