"""What a gate file says about itself, and the checks a file must pass before anything runs it.

The information is one JSON object under the key ``dripgate`` of the model's metadata. It is read
strictly: unknown fields, missing fields and other types are refused.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

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
OUTPUT_NAMES = ("logits", "score", "verdict", "quality", "embedding", "heatmap")


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
    everything is kept) are the trade-off; ``why`` says how the kept fraction was chosen. apart:
    percentiles 0 … 100 of the distance from an embedding to the nearest of some others, by which
    a policy knows a near-duplicate (``policy.duplicates.apart``); without it none is known.
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
    apart: tuple[float, ...] = ()


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

    torch: what gates said before they were made from ONNX files.
    """

    dripgate: str
    onnx: str
    onnxruntime: str
    opset: int
    data: str
    seed: int
    model: str = ""
    torch: str = ""


class GateInfo(_Strict, frozen=True):
    """All that a gate says about itself. ``keep`` is the kept fraction expected of the stream.

    head: how the logits become probabilities, by a softmax or by a sigmoid each (multi-label).
    notes: the choices that nobody made and the data decided, as they were told when it was fitted.
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
    onnx_wire.refuse_unsafe(model, name)
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if len(texts) != 1:
        raise GateError(
            f"{name}: an ONNX model, but no gate (it has no '{METADATA_KEY}' metadata); "
            "make one from your classifier with 'dripgate fit DATA --model MODEL --out gate.onnx'"
        )
    info = _parse_info(texts[0], name)
    outputs = tuple(value.name for value in model.graph.output)
    if outputs != OUTPUT_NAMES:
        raise GateError(
            f"{name}: has the outputs {', '.join(outputs)}, expected {', '.join(OUTPUT_NAMES)}; "
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
