"""An address → its bytes, never more than the limit; object stores and servers by the engine."""

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from dripgate.media import DEFAULT_LIMITS, too_many_bytes
from dripgate.text import one_line

#: Bytes of payloads that wait to be decoded, where none is larger by itself.
AHEAD = 32 << 20
#: Requests under way at once, of one worker.
_REQUESTS = 32
#: Beginnings of addresses that the engine reads.
REMOTE = ("s3://", "gs://", "https://", "http://")
FILE = "file://"
_LONGEST_CAUSE = 160


class Fetched(NamedTuple):
    """problem: why payload is empty; "" where it is not."""

    payload: bytes
    problem: str = ""


def is_remote(address: str) -> bool:
    """Whether the engine reads it; else it is a path."""
    return address.lower().startswith(REMOTE)


# Paths as addresses ------------------------------------------------------------------------------


def address_of(path: str) -> str:
    """A path as text that can be stored; one with bytes that are no UTF-8 as a file:// address."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return FILE + quote(os.fsencode(path))
    return path


def path_of(address: str) -> str:
    """The path of an address that is not remote."""
    if address.startswith("/"):
        return address
    if address.lower().startswith(FILE):
        return os.fsdecode(unquote_to_bytes(address[len(FILE) :]))
    return address


class Fetcher:
    """Reads many addresses, in their order, a bounded number of bytes ahead."""

    def __init__(self, transport: Any, limit: int = DEFAULT_LIMITS.payload_bytes) -> None:
        self._transport, self._limit = transport, limit
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, addresses: Sequence[str], sizes: Sequence[int]) -> Iterator[Fetched]:
        """Payloads. sizes: in bytes as far as they were listed, -1 where not."""
        known = list(sizes)
        unknown = [i for i, a in enumerate(addresses) if known[i] < 0 and is_remote(a)]
        problems: dict[int, str] = {}
        for i, found in zip(
            unknown, self._all(self._size, [addresses[i] for i in unknown]), strict=True
        ):
            if isinstance(found, str):
                problems[i] = found
            else:
                known[i] = found
        begin = 0
        while begin < len(addresses):
            end, ahead = begin, 0
            while end < len(addresses) and (end == begin or ahead + max(known[end], 0) <= AHEAD):
                ahead += max(known[end], 0)
                end += 1
            yield from self._group(range(begin, end), addresses, known, problems)
            begin = end

    def one(self, address: str) -> Fetched:
        """The bytes of one address."""
        return next(self([address], [-1]))

    def _group(
        self, rows: range, addresses: Sequence[str], sizes: list[int], problems: dict[int, str]
    ) -> Iterator[Fetched]:
        wanted = [i for i in rows if is_remote(addresses[i]) and i not in problems]
        asked = [(addresses[i], sizes[i]) for i in wanted]
        remote = dict(zip(wanted, self._all(self._remote, asked), strict=True))
        for i in rows:
            if i in problems:
                yield Fetched(b"", problems[i])
            else:
                yield remote.pop(i) if i in remote else self._local(addresses[i])

    def _all(self, function: Any, items: list[Any]) -> list[Any]:
        if not items:
            return []
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_REQUESTS, "fetch")
        return list(self._pool.map(function, items))

    def _size(self, address: str) -> int | str:
        try:
            return int(self._file(address, None).size())
        except Exception as error:  # the engine's errors share no base class
            return _cause(error)

    def _remote(self, asked: tuple[str, int]) -> Fetched:
        address, size = asked
        if size > self._limit:
            return Fetched(b"", too_many_bytes(size, self._limit))
        if not size:
            return Fetched(b"")
        try:
            with self._file(address, size).open(buffer_size=1 << 16) as file:
                payload = file.read(size)
        except Exception as error:
            return Fetched(b"", _cause(error))
        if len(payload) != size:
            return Fetched(b"", f"{len(payload):,} bytes came, {size:,} were said to be there")
        return Fetched(bytes(payload))

    def _file(self, address: str, size: int | None) -> Any:
        from dripgate.archive.needs import daft

        # With a range the engine neither asks whether it exists, nor how large it is.
        place = {} if size is None else {"position": 0, "size": size}
        return daft().File(address, io_config=self._transport, **place)

    def _local(self, address: str) -> Fetched:
        """A regular file: a name in a table may be that of a device, which has no end."""
        try:
            handle = os.open(path_of(address), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            return Fetched(b"", f"cannot be read: {getattr(error, 'strerror', None) or error}")
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                return Fetched(b"", "no regular file")
            if status.st_size > self._limit:
                return Fetched(b"", too_many_bytes(status.st_size, self._limit))
            payload = os.read(handle, status.st_size)
            while len(payload) < status.st_size and (more := os.read(handle, status.st_size)):
                payload += more
        except OSError as error:
            return Fetched(b"", f"cannot be read: {error.strerror}")
        finally:
            os.close(handle)
        return Fetched(payload)


def _cause(error: Exception) -> str:
    return f"cannot be fetched: {cause_of(error)}"


def cause_of(error: Exception) -> str:
    """The last of the engine's nested causes that says something, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    numbered = [line.partition(": ")[2] for line in lines if line[:1].isdigit()]
    text = (numbered or lines or [type(error).__name__])[-1]
    return one_line(text)[:_LONGEST_CAUSE]
