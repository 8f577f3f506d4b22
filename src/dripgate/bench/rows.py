"""One row per trained model, appended to a file as it finishes."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from dripgate.errors import DataError, UserError

Keep = float | Literal["auto"]
Protocol = Literal["retrain", "alone"]
#: Rows of some kind.
R = TypeVar("R", bound=msgspec.Struct)


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one rule kept of one stream, and what a net trained on it is worth.

    data: the data set's name. keep_target: share asked for; "auto" is the share that the gate
    chose, for every rule. kept: share of the stream. accuracy, worst_class_accuracy: on the test
    part; the latter is the smallest recall of a class. bytes_seen, bytes_kept: payloads.
    quarantined: share of the stream. broken_kept: share of the broken frames that were kept,
    None where none is broken. scenes_kept: share of the distinct scenes of which at least one
    sample was kept. plan: changes with everything that a row depends on beside what is named here.
    dtype: what nets were trained in; rows from before there was a choice do not name it.
    """

    data: str
    condition: str
    protocol: Protocol
    rule: str
    needs_labels: bool
    keep_target: Keep
    kept: float
    seed: int
    steps: int
    accuracy: float
    worst_class_accuracy: float
    bytes_seen: int
    bytes_kept: int
    quarantined: float
    broken_kept: float | None
    scenes_kept: float
    stream: int
    tested: int
    seconds: float
    plan: str
    dtype: str = "float32"

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it this row: a row with the same key is not made again."""
        return key_of(
            self.data, self.plan, self.seed, self.condition, self.protocol, self.rule,
            self.keep_target,
        )  # fmt: skip


def key_of(
    data: str, plan: str, seed: int, condition: str, protocol: Protocol, rule: str, keep: Keep
) -> tuple[object, ...]:
    """The key of a row that may not exist yet."""
    return (data, plan, seed, condition, protocol, rule, keep)


def append(path: Path, row: msgspec.Struct) -> None:
    """Add a row: one write of one line, synced, so that several processes can share the file."""
    line = msgspec.json.encode(row) + b"\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"{path}: a row cannot be added ({error.strerror})") from None


def read(path: Path, kind: type[R]) -> list[R]:
    """All rows of a file that is there. A last line that was cut off by a crash is left out.

    Raises DataError, naming the line, for anything else that is no row.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); 'dripgate bench' writes it"
        ) from None
    return list(_rows(path, text.split(b"\n")[:-1], kind))


def mend(path: Path, kind: type[R]) -> list[R]:
    """The rows so far, of a file that may not exist; a cut-off last line is removed from it."""
    if not path.exists():
        return []
    rows = read(path, kind)
    with path.open("r+b") as file:
        file.truncate(path.read_bytes().rfind(b"\n") + 1)
    return rows


def _rows(path: Path, lines: Iterable[bytes], kind: type[R]) -> Iterable[R]:
    decoder = msgspec.json.Decoder(kind)
    for number, line in enumerate(lines, 1):
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError as error:
            raise DataError(
                f"{path}: line {number} is no benchmark row ({error}); move the file away"
            ) from None
