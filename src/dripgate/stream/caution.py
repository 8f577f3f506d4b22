"""What kills the process must not kill it for ever.

A decoder can take so much memory that the kernel ends the process: no error, no traceback, and the
same file is the first to be read again. So the store says whether the last run came to its end. If
it did not, the first samples are decided one at a time, each named in the store before it is
decoded; whoever is named there at the next start was being decoded at two deaths in a row, and
is passed over from then on.
"""

from collections.abc import Mapping

import msgspec

from dripgate.store import Store
from dripgate.text import one_line
from dripgate.types import Sample

#: Where the store notes it.
RUN = "run"
#: Samples that are remembered as deadly, the last ones.
_REMEMBERED = 100
_CAUSE = "passed over: dripgate was killed twice while it decoded this (out of memory?)"


class _State(msgspec.Struct):
    """running: samples that may have been under way when it died. decoding: which was."""

    running: int = 0
    decoding: str = ""
    source: str = ""
    deadly: list[str] = []


def died(meta: Mapping[str, str]) -> bool:
    """Whether the last run of a store ended without coming to its end."""
    return _read(meta).running > 0


class Caution:
    """How carefully to decide, for a run with batches of ``batch``."""

    def __init__(self, store: Store, batch: int) -> None:
        self._store, self._batch = store, batch
        state = self._state = _read(store.meta)
        if state.decoding:
            state.deadly = [*state.deadly, state.decoding][-_REMEMBERED:]
        self.left = state.running
        state.running, state.decoding, state.source = max(batch, self.left), "", ""
        self._write()

    @property
    def size(self) -> int:
        """Most samples to be decided together."""
        return 1 if self.left else self._batch

    def look(self, samples: list[Sample]) -> list[Sample]:
        """The samples, with a problem where decoding would kill; named before they are decoded."""
        if self._state.deadly:
            samples = [self._spared(sample) for sample in samples]
        if self.left and samples[0].payload:
            self._state.decoding, self._state.source = samples[0].id, one_line(samples[0].source)
            self._write()
        return samples

    def note(self, decided: int) -> dict[str, str]:
        """What is written with the verdicts: nothing is being decoded any more."""
        if not self.left:
            return {}
        self.left = max(self.left - decided, 0)
        self._state.decoding = self._state.source = ""
        return {RUN: self._text()}

    def end(self) -> None:
        """The run came to an end, or to an error that it told."""
        self._state.running, self._state.decoding, self._state.source = 0, "", ""
        self._write()

    def _spared(self, sample: Sample) -> Sample:
        if not sample.payload or sample.id not in self._state.deadly:
            return sample
        return Sample(sample.payload, sample.source, sample.time, _CAUSE)

    def _text(self) -> str:
        return msgspec.json.encode(self._state).decode()

    def _write(self) -> None:
        self._store.set_meta(RUN, self._text())


def _read(meta: Mapping[str, str]) -> _State:
    try:
        return msgspec.json.decode(meta.get(RUN, "{}"), type=_State)
    except msgspec.DecodeError:
        return _State()
