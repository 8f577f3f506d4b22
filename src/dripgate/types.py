"""The vocabulary: what passes between the parts. Frozen, with shapes, dtypes and units."""

import hashlib
import time as clock
from enum import Enum
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FloatArray = NDArray[np.float32]
#: The label of a sample that a person found broken: no class, and nothing to train on.
BROKEN = "(broken)"


class _Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, and strict when read back from JSON."""


# What a gate takes in: the shape of one decoded sample ------------------------------------------


class ImageInput(_Frozen, frozen=True, tag="image", tag_field="kind", omit_defaults=True):
    """uint8 (height, width, channels); channels 1 is grey, 3 is RGB.

    range: the values (low, high) of 16-bit pictures that become 0 and 255; None takes their
    upper 8 bits. Pictures of 8 bits are taken as they are.
    """

    height: int
    width: int
    channels: int
    range: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one decoded sample."""
        return (self.height, self.width, self.channels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one decoded sample."""
        return np.dtype(np.uint8)


class AudioInput(_Frozen, frozen=True, tag="audio", tag_field="kind"):
    """int16 PCM (length,), one channel, at ``rate`` samples per second."""

    rate: int
    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one decoded sample."""
        return (self.length,)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one decoded sample."""
        return np.dtype(np.int16)


class ArrayInput(_Frozen, frozen=True, tag="array", tag_field="kind"):
    """float32 of any fixed shape, for everything that is neither image nor audio."""

    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one decoded sample."""
        return np.dtype(np.float32)


InputSpec = ImageInput | AudioInput | ArrayInput


# What the graph does to a decoded sample before the model sees it -------------------------------


class Normalize(_Frozen, frozen=True, tag="normalize", tag_field="kind"):
    """Images: (pixel / 255 - mean) / std per channel, in the layout and type the classifier takes.

    bgr: blue comes first. dtype: integers are rounded; with mean 0 and std 1/255 they are the
    pixels, with mean 128/255 the pixels - 128.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: Literal["channels_first", "channels_last"] = "channels_first"
    bgr: bool = False
    dtype: Literal["float32", "uint8", "int8"] = "float32"


class LogMel(_Frozen, frozen=True, tag="logmel", tag_field="kind"):
    """Audio: log(mel power + floor), (value - mean) / std, frames first.

    ``window`` and ``hop`` are in samples, ``low`` and ``high`` in Hz. fft: points of the DFT, the
    window by default. magnitude: of the spectrum, in place of its power. coefficients: how many
    of the levels' DCT are taken (MFCC). ortho: the first of them divided by sqrt(2), as in librosa
    and scipy; without it as in HTK and TensorFlow. shape: what the classifier takes, (1, frames,
    bins) by default.
    """

    window: int
    hop: int
    bins: int
    low: float
    high: float
    mean: float
    std: float
    fft: int | None = None
    magnitude: bool = False
    floor: float = 1e-6
    coefficients: int | None = None
    ortho: bool = False
    shape: tuple[int, ...] | None = None


class Waveform(_Frozen, frozen=True, tag="waveform", tag_field="kind"):
    """Audio as it is, scaled to -1…1; standardise: then to mean 0 and variance 1 per sample."""

    standardise: bool = False
    shape: tuple[int, ...] | None = None


class Identity(_Frozen, frozen=True, tag="identity", tag_field="kind"):
    """The sample goes to the model as it is."""


Preprocessing = Normalize | LogMel | Waveform | Identity


# Samples and verdicts ---------------------------------------------------------------------------


class Sample(msgspec.Struct, frozen=True, dict=True):
    """One item of the stream.

    payload: the bytes as received. source: where they came from, such as a path inside the
    folder or archive. time: seconds since the epoch (UTC) at which they were received. problem:
    why the source could not give the payload, which is then empty: too large, no permission, …
    """

    payload: bytes
    source: str = ""
    time: float = msgspec.field(default_factory=clock.time)
    problem: str = ""

    @cached_property
    def id(self) -> str:
        """SHA-256 of the payload, 64 hex digits: the same bytes are the same sample."""
        return hashlib.sha256(self.payload).hexdigest()


class StrEnum(str, Enum):
    """Words that are their own text; ``enum`` has it since Python 3.11."""

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)


class Decision(StrEnum):
    """What happens to a sample. ``code`` is the graph's int8 output."""

    DROP = "drop"
    KEEP = "keep"
    QUARANTINE = "quarantine"

    @property
    def code(self) -> int:
        """0 drop, 1 keep, 2 quarantine."""
        return _CODES[self]


_CODES = {Decision.DROP: 0, Decision.KEEP: 1, Decision.QUARANTINE: 2}


class Reason(StrEnum):
    """Why a verdict was given."""

    BAND = "band"  # the score is inside the band (keep) or outside of it (drop)
    QUALITY = "quality"  # unlike the calibration samples: broken, or of another kind
    UNREADABLE = "unreadable"  # the payload could not be decoded
    BUDGET = "budget"  # worth keeping, but not within the budget
    DUPLICATE = "duplicate"  # the same scene as something kept recently
    FLOOR = "class floor"  # its class would dry up otherwise
    AUDIT = "audit"  # kept at random, so that what is dropped stays measurable


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about one sample, and why.

    score and quality are NaN, and predicted is -1, where the payload was unreadable; ``detail``
    then says why. propensity is the probability with which this sample was kept.
    """

    decision: Decision
    reason: Reason
    score: float
    quality: float
    predicted: int
    propensity: float
    detail: str = ""

    @property
    def stored(self) -> bool:
        """Whether the sample belongs in the store: everything that is not dropped."""
        return self.decision is not Decision.DROP


class Typical(_Frozen, frozen=True):
    """What calibration samples look like (see dripgate.quality): centre (4,), whitening (4, 4).

    As it begins, everything is typical.
    """

    centre: tuple[float, ...] = (0.0,) * 4
    whitening: tuple[tuple[float, ...], ...] = ((0.0,) * 4,) * 4


class Thresholds(_Frozen, frozen=True):
    """The band and the quality range.

    A sample predicted as class c is kept where ``low[c] <= score <= high[c]``, and quarantined
    first where its quality is below ``quality_low``. low and high have one entry per class; None
    is "no bound".
    """

    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    quality_low: float | None
    typical: Typical = Typical()

    def inside(self, score: Array, predicted: Array) -> Array:
        """Whether scores (N,) of samples with these predicted classes are in the band, bool (N,).

        NaN is in no band.
        """
        low = np.array([-np.inf if bound is None else bound for bound in self.low])
        high = np.array([np.inf if bound is None else bound for bound in self.high])
        return np.asarray((score >= low[predicted]) & (score <= high[predicted]))
