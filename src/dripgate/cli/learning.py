"""What lets the head learn while 'dripgate run' decides: --adapt, and labels from beside the store.

Labels in the store count anyway. A file is watched; what comes by MQTT goes into the store.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from dripgate.cli.common import a_file, note
from dripgate.errors import UserError, require
from dripgate.export import parse_labels, read_labels
from dripgate.gate_tensors import read_linear
from dripgate.store import Store, parse_duration
from dripgate.stream.broker import Address, Security, is_address, name_of, parse_address
from dripgate.stream.force import InForce, Observer

if TYPE_CHECKING:
    from dripgate.stream.labels import LabelTally

F = TypeVar("F", bound=Callable[..., Any])


class Asked(NamedTuple):
    """every: seconds. file, address: where labels come from beside the store, at most one."""

    every: float
    file: Path | None
    address: Address | None


class Learning(NamedTuple):
    """Who looks on at the loop; and what came by MQTT, None where nothing can."""

    observers: list[Observer]
    labels: "LabelTally | None"


def learning_options(command: F) -> F:
    """--adapt, --labels."""
    command = click.option(
        "--labels", metavar="FILE|ADDRESS", shell_complete=a_file,
        help="For --adapt: a file with labels that may come and change, or mqtt://host/topic.",
    )(command)  # fmt: skip
    return click.option(
        "--adapt", metavar="EVERY", help="Let the head learn so often, such as 1h."
    )(command)


def asked(options: dict[str, Any]) -> Asked | None:
    """What the options ask for, None for nothing. Raises UserError."""
    every, labels = options["adapt"], options["labels"]
    if every is None:
        if labels:
            raise UserError("--labels is for --adapt EVERY; 'dripgate label' takes labels in")
        return None
    if (seconds := parse_duration(every)) <= 0:
        raise UserError(f"--adapt {every} is no time to wait; write one such as 1h or 30min")
    if not labels or not is_address(labels):
        return Asked(seconds, Path(labels) if labels else None, None)
    address = parse_address(labels)
    require("--labels", "mqtt", "paho")
    return Asked(seconds, None, address)


@contextmanager
def learning(
    kept: Store, force: InForce, wanted: Asked | None, secure: Security, options: dict[str, Any],
    busy: Callable[[], bool],
) -> Iterator[Learning]:  # fmt: skip
    """What was asked for; the head stays while it is ``busy``. Raises UserError."""
    if wanted is None:
        yield Learning([], None)
        return
    from dripgate.stream.learner import Learner

    gate = force.gate
    read_linear(gate.data, gate.info, gate.name)  # else it would be told every hour
    if options["embeddings"] == "off":
        note("  note: with --embeddings off, --adapt runs each labelled sample again")
    watched = Watched(wanted.file, gate.info.classes, note) if wanted.file else dict
    learner = Learner(kept, force, wanted.every, labels=watched, busy=busy, told=note)
    if wanted.address is None:
        yield Learning([learner], None)
        return
    from dripgate.stream.labels import LabelTopic

    with closing(LabelTopic(
        kept, wanted.address, secure, name_of(kept, options["device"]),
        read=parse_labels, classes=lambda: force.gate.info.classes, told=note,
    )) as topic:  # fmt: skip
        yield Learning([topic, learner], topic.tally)


class Watched:
    """Labels of a file that may come, change and go while a run lasts; by sample id.

    What cannot be read is told once for each state of the file, and the labels before it count on.
    """

    def __init__(self, path: Path, classes: tuple[str, ...], told: Callable[[str], object]) -> None:
        self._path, self._classes, self._told = path, classes, told
        self._state: tuple[int, int] | None = None
        self._labels: Mapping[str, str] = {}

    def __call__(self) -> Mapping[str, str]:
        """The labels as they are now."""
        try:
            found = self._path.stat()
        except OSError:
            return self._labels
        if (state := (found.st_mtime_ns, found.st_size)) != self._state:
            self._state = state
            try:
                self._labels = read_labels(self._path, self._classes).labels
            except UserError as error:
                self._told(f"labels: {error}; those from before count on")
        return self._labels
