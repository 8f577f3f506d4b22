"""Daft waits without an end for a worker that dies before it has reported for work; not here.

``UdfHandle`` of Daft 0.7 starts a process and then waits at a socket whose address is in that
process's command line. A process that is killed in between never comes, and nobody else does: the
driver would stand still. So the socket that it waits at looks, once a second, whether there is
still somebody who could come; where nobody is, the query fails like one whose worker died later.
"""

from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

_TURN = 1.0  # seconds


class Watchful(Listener):
    """A listener at which only a process waits to be heard that names it in its command line."""

    def accept(self) -> "Connection[Any, Any]":
        """The connection of who came. Raises ConnectionError where nobody will."""
        waiting: Any = self._listener._socket  # type: ignore[attr-defined]
        waiting.settimeout(_TURN)
        while True:
            try:
                return super().accept()
            except TimeoutError:
                if not _is_named(str(self.address).encode()):
                    raise ConnectionError("a worker ended before it reported for work") from None


def install() -> None:
    """Let Daft wait so: pyproject.toml pins it, and tests/archive kills a worker just then."""
    import daft.execution.udf as udf

    udf.Listener = Watchful  # type: ignore[attr-defined]


def _is_named(address: bytes) -> bool:
    """Whether a process lives that has this among its arguments; of a dead one nothing is left."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if address in (entry / "cmdline").read_bytes().split(b"\0"):
                    return True
            except OSError:  # it ended just now
                continue
    return False
