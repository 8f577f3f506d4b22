"""Sizes and ages as people write them: "500MB", "64 KiB", "30d"."""

import re
from decimal import Decimal

from dripgate.errors import StoreError

_UNITS = {"B": 1}
_UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("kMGT", 1)}
_UNITS |= {f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)}
_EXACT = {unit.lower(): factor for unit, factor in _UNITS.items()}
_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
_LARGEST = 2**62
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(
    rf"\s*([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)\s*({'|'.join(_SECONDS)})\s*", re.IGNORECASE | re.ASCII
)


def parse_size(text: str) -> int:
    """Bytes from text such as "500MB", "1.5 GiB" or "4096"; kB, MB, GB are powers of 1000.

    Upper and lower case are the same. Fractions of a byte are cut off.

    Raises:
        StoreError: for anything else.
    """
    match = _SIZE.fullmatch(text)
    factor = _EXACT.get((match[2] or "B").lower()) if match else None
    if match is None or factor is None or (size := int(Decimal(match[1]) * factor)) > _LARGEST:
        raise StoreError(
            f"the size {text!r} cannot be read; write a number and a unit, such as 500MB or "
            f"64MiB (units: {', '.join(_UNITS)})"
        )
    return size


def parse_duration(text: str) -> float:
    """Seconds from text such as "30d", "12 h", "90min" or "45s".

    Raises:
        StoreError: for anything else.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise StoreError(
            f"the time {text!r} cannot be read; write a number and a unit, such as 30d or 12h "
            f"(units: {', '.join(_SECONDS)})"
        )
    return float(match[1]) * _SECONDS[match[2].lower()]


def format_size(size: int) -> str:
    """Bytes as text in powers of 1000, three digits: "512 B", "1.23 MB"."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if abs(value) < 999.5:
            break
        value, unit = value / 1000, larger
    digits = 0 if unit == "B" or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"
