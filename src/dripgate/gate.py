"""The gate at work: one ONNX file, run by onnxruntime alone, turned into verdicts."""

import hashlib
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dripgate.errors import GateError, UnreadableError
from dripgate.files import read_whole, write_whole
from dripgate.gate_info import EMBEDDING, LARGEST_FILE, OUTPUT_NAMES, GateInfo, read_info
from dripgate.gate_session import Runner
from dripgate.types import Array, Decision, FloatArray, Reason, Sample, Verdict

_BRIEF = ["logits", "score", "verdict", "quality"]
#: By the graph's code: what is decided, why, and with which probability the sample was kept.
_DECIDED = (
    (Decision.DROP, Reason.BAND, 0.0),
    (Decision.KEEP, Reason.BAND, 1.0),
    (Decision.QUARANTINE, Reason.QUALITY, 1.0),
)


class Outputs(NamedTuple):
    """All that the graph says about N samples, in the order of its outputs."""

    logits: FloatArray  # (N, classes)
    score: FloatArray  # (N,)
    verdict: Array  # int8 (N,): 0 drop, 1 keep, 2 quarantine
    quality: FloatArray  # (N,)
    embedding: FloatArray  # (N, D)
    heatmap: FloatArray  # (N, h, w)
    features: FloatArray  # (N, D), what the head's last layer takes, else the embedding


class Gate:
    """A deployed classifier that also says what is worth keeping. Needs no torch.

    It can be pickled, and used after a fork: each process opens the graph for itself.
    ``info`` is what the file says about itself: classes, thresholds, calibration, provenance.
    """

    def __init__(self, data: bytes, name: str = "gate", *, threads: int = 1) -> None:
        """Check and open the bytes of a gate file; ``name`` is for messages.

        Raises GateError where they are not a gate that can be run safely.
        """
        self.info: GateInfo = read_info(data, name)
        self.data = data
        self.name = name
        self._threads = threads
        self._shape, self._dtype = self.info.input.shape, self.info.input.dtype
        self._features = self.info.last.features if self.info.last else EMBEDDING
        self._runner = Runner(data, name, self.info, threads)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Gate, threads=self._threads), (self.data, self.name)

    @cached_property
    def sha256(self) -> str:
        """Of the file, in hex. Once: who decides asks for ``id`` at every batch."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def id(self) -> str:
        """12 hex digits that change with the file: which gate decided is noted in the store."""
        return self.sha256[:12]

    @classmethod
    def load(cls, path: str | Path, *, threads: int = 1) -> "Gate":
        """Open a gate file. Raises GateError, naming the file and the remedy."""
        path = Path(path)
        try:
            data = read_whole(path, LARGEST_FILE)
        except OSError as error:
            raise GateError(
                f"{path}: cannot be read ({error.strerror}); "
                "give the gate.onnx that 'dripgate fit' wrote"
            ) from None
        return cls(data, str(path), threads=threads)

    def save(self, path: str | Path) -> None:
        """Write the file whole or not at all: temporary file, fsync, rename."""
        path = Path(path)
        try:
            write_whole(path, self.data)
        except OSError as error:
            raise GateError(
                f"{path}: cannot be written ({error.strerror}); check the folder and free space"
            ) from None

    def __call__(self, samples: Array) -> Outputs:
        """Everything about decoded samples (N, …). Raises GateError for another shape or dtype."""
        names = list(dict.fromkeys([*OUTPUT_NAMES, self._features]))
        found = dict(zip(names, self._run(names, samples), strict=True))
        outputs = Outputs(*(found[name] for name in (*OUTPUT_NAMES, self._features)))
        for code in np.unique(outputs.verdict).tolist():
            _decided(code)
        return outputs

    def decode(self, sample: Sample) -> Array:
        """The array the graph takes. Raises UnreadableError where the payload is broken."""
        if sample.problem:
            raise UnreadableError(sample.problem)
        from dripgate import media  # pillow: 7 MB, and not needed by who brings arrays

        return media.decode(sample.payload, self.info.input)

    def decide(self, sample: Sample | Array) -> Verdict:
        """The verdict on one sample, given as received or decoded. Never raises for bad bytes."""
        try:
            array = self.decode(sample) if isinstance(sample, Sample) else sample
        except UnreadableError as error:
            return unreadable(str(error))
        logits, score, verdict, quality = self._run(_BRIEF, array[None])
        predicted = int(logits.argmax())
        return _verdict(predicted, score.item(), verdict.item(), quality.item())

    def decide_batch(self, samples: Sequence[Sample | Array]) -> list[Verdict]:
        """Verdicts in order, the same as one by one; unreadable samples get theirs too."""
        return self._decide(samples, _BRIEF)[0]

    def observe_batch(self, samples: Sequence[Sample | Array]) -> tuple[list[Verdict], FloatArray]:
        """Verdicts as ``decide_batch`` gives them, and what a policy needs beside them.

        That is the embeddings (N, D), NaN where a sample was unreadable.
        """
        return self.observe_features(samples)[:2]

    def observe_features(
        self, samples: Sequence[Sample | Array]
    ) -> tuple[list[Verdict], FloatArray, FloatArray]:
        """The same, and what the head's last layer takes, often the embedding itself, (N, D)."""
        names = dict.fromkeys([EMBEDDING, self._features])
        verdicts, readable, rows = self._decide(samples, [*_BRIEF, *names])
        found = []
        for column in rows or [np.empty((0, 0), np.float32)] * len(names):
            found.append(np.full((len(samples), column.shape[1]), np.nan, np.float32))
            found[-1][readable] = column
        return verdicts, found[0], found[-1]

    def _decide(
        self, samples: Sequence[Sample | Array], names: list[str]
    ) -> tuple[list[Verdict], list[int], list[Array]]:
        """Verdicts, which samples were readable, and the outputs beyond the brief ones of those."""
        verdicts: list[Verdict | None] = [None] * len(samples)
        readable, arrays = [], []
        for i, sample in enumerate(samples):
            try:
                arrays.append(
                    self.decode(sample)
                    if isinstance(sample, Sample)
                    else self._checked(sample[None])[0]
                )
                readable.append(i)
            except UnreadableError as error:
                verdicts[i] = unreadable(str(error))
        outputs = self._run(names, np.stack(arrays)) if arrays else []
        if outputs:
            for i, verdict in zip(readable, _verdicts(*outputs[: len(_BRIEF)]), strict=True):
                verdicts[i] = verdict
        found = [verdict for verdict in verdicts if verdict is not None]
        return found, readable, outputs[len(_BRIEF) :]

    def _run(self, names: list[str], samples: Array) -> list[Array]:
        samples, size = self._checked(samples), self._runner.batch
        if size is None:
            return self._runner.run(names, samples)
        return self._in_fixed_batches(names, samples, size)

    def _in_fixed_batches(self, names: list[str], samples: Array, size: int) -> list[Array]:
        """For a classifier of fixed batch: the last batch is filled up with its last sample."""
        missing = -len(samples) % size
        if missing:
            samples = np.concatenate([samples, np.repeat(samples[-1:], missing, axis=0)])
        starts = range(0, len(samples), size)
        parts = [self._runner.run(names, samples[i : i + size]) for i in starts]
        total = len(samples) - missing
        return [np.concatenate(column)[:total] for column in zip(*parts, strict=True)]

    def _checked(self, samples: Array) -> Array:
        if samples.shape[1:] != self._shape or samples.dtype != self._dtype:
            raise GateError(
                f"{self.name}: samples are {samples.dtype} {samples.shape}, "
                f"expected {self._dtype} (N, {', '.join(map(str, self._shape))})"
            )
        return samples


def _decided(code: int) -> tuple[Decision, Reason, float]:
    if not 0 <= code < len(_DECIDED):
        raise GateError(
            f"the gate gives the verdict {code}, expected 0, 1 or 2; fit it again with "
            "'dripgate fit'"
        )
    return _DECIDED[code]


def unreadable(cause: str) -> Verdict:
    """The verdict on a payload that could not be decoded: dropped, with its cause."""
    return Verdict(
        decision=Decision.DROP,
        reason=Reason.UNREADABLE,
        score=float("nan"),
        quality=float("nan"),
        predicted=-1,
        propensity=0.0,
        detail=cause,
    )


def _verdicts(logits: Array, score: Array, verdict: Array, quality: Array) -> list[Verdict]:
    """The graph's brief outputs as objects."""
    columns = (logits.argmax(axis=1), score, verdict, quality)
    return [_verdict(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _verdict(predicted: int, score: float, code: int, quality: float) -> Verdict:
    """Kept for certain or not at all: propensity 1 or 0."""
    decision, reason, propensity = _decided(code)
    return Verdict(
        decision=decision,
        reason=reason,
        score=score,
        quality=quality,
        predicted=predicted,
        propensity=propensity,
    )
