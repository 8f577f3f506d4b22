"""What one payload may ask for, and the guard around every decoder."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from dripgate.errors import UnreadableError


class Limits(NamedTuple):
    """What one payload may ask for; checked on its size and header before anything is decoded.

    decoded_bytes: memory that a picture takes while it is decoded, as far as its header tells.
    seconds: of a recording, which is decoded block by block.
    """

    payload_bytes: int = 64 << 20
    pixels: int = 50_000_000
    decoded_bytes: int = 256 << 20
    seconds: float = 7200.0


DEFAULT_LIMITS = Limits()


@contextmanager
def guard(payload: bytes, limits: Limits) -> Iterator[None]:
    """Check the payload's size, and let nothing out but UnreadableError."""
    if not payload:
        raise UnreadableError("empty file")
    if len(payload) > limits.payload_bytes:
        raise UnreadableError(too_many_bytes(len(payload), limits.payload_bytes))
    try:
        yield
    except UnreadableError:
        raise
    except Exception as error:  # decoders raise whatever they like on hostile bytes
        text = re.sub(r"<\S+ object at [^>]*>", "payload", str(error)).strip() or "no reason given"
        cause = f"cannot be decoded: {type(error).__name__}: {text.splitlines()[0]:.120}"
        raise UnreadableError(cause) from error


def too_many_bytes(found: int, limit: int) -> str:
    """The cause that says that a payload is over the limit."""
    return f"{found:,} bytes, more than the limit of {limit:,}"
