"""What a gate file says about itself, and the checks a file must pass before anything runs it.

The information is one JSON object under the key ``dripgate`` of the model's metadata. It is read
strictly: unknown fields, missing fields and other types are refused.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np

from dripgate import onnx_wire
from dripgate.errors import GateError
from dripgate.gate_check import contradictions
from dripgate.heatmap import SCORES
from dripgate.types import Array, InputSpec, Preprocessing, Thresholds

if TYPE_CHECKING:
    from typing import Self

SCHEMA = 1
METADATA_KEY = "dripgate"
INPUT_NAME = "samples"
LARGEST_FILE = 512 * 10**6
EMBEDDING: Final = "embedding"
FEATURES: Final = "features"
OUTPUT_NAMES = ("logits", "score", "verdict", "quality", EMBEDDING, "heatmap")
#: Tensors that ``adapt`` replaces, and those of the memory, which no node reads.
HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"
MEMORY_FEATURES, MEMORY_CLASSES, MEMORY_SPREAD = (
    "memory.features",
    "memory.classes",
    "memory.spread",
)


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _SchemaOnly(msgspec.Struct):
    schema: int


class TargetLayer(_Strict, frozen=True):
    """Where the heatmap is taken. shape is (K, h, w); ``why`` explains the choice.

    behind: the operators between it and the logits. added: how many the gate has more than the
    classifier. module: the torch module whose output it is, where torch's exporter noted one.
    """

    name: str
    shape: tuple[int, int, int]
    why: str
    behind: tuple[str, ...] = ()
    added: int = 0
    module: str = ""


class LastLayer(_Strict, frozen=True):
    """The head's last linear layer, which can learn on the device: HEAD_WEIGHT and HEAD_BIAS.

    turned: the weight is (C, D), else (D, C). rows: C, but 1 where one number is the second of two
    logits. width: D. features: the output that holds what the layer takes, (N, D): the embedding,
    or an output of its own, FEATURES. scale2: the mean square of a feature on calibration samples.
    """

    turned: bool
    rows: int
    width: int
    features: Literal["embedding", "features"]
    scale2: float


class Memory(_Strict, frozen=True):
    """What the gate remembers of the features of its ``samples`` calibration samples.

    form: "stats", each class's mean and standard deviations, or "vectors", ``each`` features of
    each class, where it had so many. counts: calibration samples by class.
    """

    form: Literal["stats", "vectors"]
    samples: int
    counts: tuple[int, ...]
    each: int = 0

    def size(self, width: int) -> int:
        """Bytes of the memory in the file, for features of that width."""
        if self.form == "stats":
            return sum(count > 0 for count in self.counts) * (4 * width + 4)
        return sum(min(count, self.each) for count in self.counts) * (2 * width + 4)


class Histogram(_Strict, frozen=True):
    """counts has one entry less than edges."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: Array, bins: int = 40) -> "Self":
        """Counts of values (N,) in bins of equal width."""
        counts, edges = np.histogram(np.asarray(values, np.float64), bins)
        return cls(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


class CurvePoint(_Strict, frozen=True):
    """One point of the trade-off: share kept → accuracy expected by the proxy, with random's.

    ``signal`` is the share of the learning signal that this share of the samples holds.
    """

    keep: float
    expected: float
    random: float
    signal: float


class Calibration(_Strict, frozen=True):
    """What the score looked like on held-out data: the ground for drift and for the picture.

    predicted and kept count samples by predicted class. curve and full (the probe's accuracy when
    everything is kept) are the trade-off; ``why`` says how the kept fraction was chosen. distances:
    percentiles 0 … 100 of the distance from an embedding to the nearest of some others, by which
    a policy knows a near-duplicate (``policy.duplicates.distances``); without it none is known.
    """

    samples: int
    accuracy: float
    score: Histogram
    quality: Histogram
    predicted: tuple[int, ...]
    kept: tuple[int, ...]
    curve: tuple[CurvePoint, ...]
    full: float
    why: str
    distances: tuple[float, ...] = ()


class Parity(_Strict, frozen=True):
    """Largest relative differences on real samples, of each output's largest value.

    logits: from the user's own file. heatmap: from finite differences of the head. score: from
    its definition in NumPy.
    """

    logits: float
    score: float
    heatmap: float
    samples: int
    tolerance: float


class Provenance(_Strict, frozen=True):
    """What the gate was made from: hashes of the calibration samples' ids and of the model's file.

    torch: what gates said before they were made from ONNX files. lineage: the ids of the gates
    that this one's head learned from, the one that was fitted first: all have one trunk.
    """

    dripgate: str
    onnx: str
    onnxruntime: str
    opset: int
    data: str
    seed: int
    model: str = ""
    torch: str = ""
    lineage: tuple[str, ...] = ()


class GateInfo(_Strict, frozen=True):
    """All that a gate says about itself. ``keep`` is the kept fraction expected of the stream.

    head: how the logits become probabilities, by a softmax or by a sigmoid each (multi-label).
    notes: the choices that nobody made and the data decided, as they were told when it was fitted.
    last: what can learn on the device, None where the head does not end in a linear layer. memory:
    what keeps it from forgetting, None for none.
    """

    schema: int
    score: str
    thresholds: Thresholds
    keep: float
    classes: tuple[str, ...]
    input: InputSpec
    preprocessing: Preprocessing
    layer: TargetLayer
    calibration: Calibration
    parity: Parity
    provenance: Provenance
    head: Literal["softmax", "sigmoid"] = "softmax"
    notes: tuple[str, ...] = ()
    last: LastLayer | None = None
    memory: Memory | None = None

    @property
    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs, in order."""
        own = self.last is not None and self.last.features == FEATURES
        return (*OUTPUT_NAMES, FEATURES) if own else OUTPUT_NAMES

    def to_json(self) -> str:
        """The metadata text."""
        return msgspec.json.encode(self).decode()


def read_info(data: bytes, name: str) -> GateInfo:
    """Check the bytes of a gate file and return what it says about itself.

    ``name`` is for messages. Raises GateError where the file is too large, no ONNX model, could
    run or read anything but itself, is no gate, or is a gate of another schema.
    """
    if len(data) > LARGEST_FILE:
        raise GateError(
            f"{name}: {len(data) / 1e6:.0f} MB, more than the {LARGEST_FILE / 1e6:.0f} MB that "
            "dripgate loads; a gate holds one edge classifier, check that this is the right file"
        )
    model = onnx_wire.parse(data, name)
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if len(texts) != 1:
        raise GateError(
            f"{name}: an ONNX model, but no gate (it has no '{METADATA_KEY}' metadata); "
            "make one from your classifier with 'dripgate fit DATA --model MODEL --out gate.onnx'"
        )
    onnx_wire.refuse_unsafe(model, name)
    info = _parse_info(texts[0], name)
    outputs = tuple(value.name for value in model.graph.output)
    if outputs not in {info.output_names, (*OUTPUT_NAMES, FEATURES)}:
        raise GateError(
            f"{name}: has the outputs {', '.join(outputs)}, expected "
            f"{', '.join(info.output_names)}; "
            "export it again with 'dripgate fit'"
        )
    return info


def noted(meta: Mapping[str, str]) -> GateInfo | None:
    """The gate that a store's texts name; None where there is none that this dripgate can read."""
    try:
        return _parse_info(meta["gate"], "the gate noted in the store") if "gate" in meta else None
    except GateError:
        return None


def _parse_info(text: str, name: str) -> GateInfo:
    try:
        schema = msgspec.json.decode(text, type=_SchemaOnly).schema
        if schema != SCHEMA:
            raise GateError(
                f"{name}: written in gate schema {schema}, this dripgate reads schema {SCHEMA}; "
                "fit the gate again, or install the dripgate that wrote it"
            )
        info = msgspec.json.decode(text, type=GateInfo)
    except msgspec.DecodeError as error:
        raise GateError(
            f"{name}: its dripgate metadata is damaged ({error}); fit the gate again"
        ) from None
    found = list(contradictions(info))
    if info.score not in SCORES:
        found.append(f"score '{info.score}'")
    if found:
        raise GateError(
            f"{name}: its dripgate metadata contradicts itself ({'; '.join(found)}); fit the gate "
            "again"
        )
    return info
