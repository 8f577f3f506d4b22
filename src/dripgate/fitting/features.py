"""Feature recipes that live outside of the model's file, as people write them down."""

import re
from dataclasses import dataclass

from dripgate.errors import ModelError, UserError
from dripgate.types import AudioInput, LogMel

_TIMES = {"window", "hop"}
_WHOLE = {"bins", "coefficients", "fft", "rate", "power"}
_REAL = {"low", "high", "floor", "mean", "std"}
#: Said by its name alone.
_FLAGS = {"ortho"}
_USE = (
    "write it like 'mfcc window=30ms hop=20ms bins=40 coefficients=10 low=20 high=4000' or "
    "'log-mel window=25ms hop=10ms bins=64'"
)


@dataclass(frozen=True)
class Features:
    """A recipe in its own terms: times in seconds or in samples, frequencies in Hz.

    settings: window and hop as given (text); bins, coefficients, fft, power (1: magnitude, 2:
    power), rate; low, high, floor, mean, std. ortho, without a value: of mfcc, the first
    coefficient as librosa and scipy scale it.
    """

    kind: str
    settings: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> "Features":
        """From the text of --features. Raises UserError with an example."""
        kind, *parts = text.replace(",", " ").split() or [""]
        if kind not in ("log-mel", "mfcc"):
            raise UserError(f"--features begins with '{kind}', expected log-mel or mfcc; {_USE}")
        settings = dict(part.partition("=")[::2] for part in parts)
        strange = set(settings) - _TIMES - _WHOLE - _REAL - _FLAGS
        if strange:
            known = ", ".join(sorted(_TIMES | _WHOLE | _REAL | _FLAGS))
            raise UserError(f"--features: '{sorted(strange)[0]}' is none of {known}; {_USE}")
        if "ortho" in settings and kind != "mfcc":
            raise UserError(f"--features: ortho is of mfcc, and this is {kind}; leave it out")
        for name, value in settings.items():
            if name in _FLAGS:
                if value:
                    raise UserError(f"--features: {name} stands alone, found {name}={value}")
                continue
            pattern = r"\d+(\.\d+)?(ms|s)?" if name in _TIMES else r"-?\d+(\.\d+)?(e-?\d+)?"
            if not re.fullmatch(pattern, value):
                raise UserError(f"--features: {name} is '{value}', expected a number; {_USE}")
        return cls(kind, settings)

    def rate(self, spec: AudioInput) -> int:
        """Samples per second: said, else the data's."""
        return int(float(self.settings.get("rate", spec.rate)))

    def recipe(self, spec: AudioInput, shape: tuple[int, ...]) -> LogMel:
        """The preparation for recordings like ``spec``, for a classifier that takes ``shape``.

        Raises ModelError where the classifier's input cannot be such features.
        """
        s, rate = self.settings, self.rate(spec)
        window = _samples(s.get("window", "25ms"), rate)
        hop = _samples(s.get("hop", "10ms"), rate)
        frames = 1 + (spec.length - window) // hop
        bins = int(float(s.get("bins", 40)))
        coefficients = int(float(s.get("coefficients", 13))) if self.kind == "mfcc" else None
        size = 1
        for side in shape:
            size *= side
        if frames * (coefficients or bins) != size:
            raise ModelError(
                f"--features gives {frames} frames of {coefficients or bins} values, the "
                f"classifier takes {shape}, {size} in all; other window, hop, "
                f"{'coefficients' if coefficients else 'bins'}, or recordings of another length"
            )
        return LogMel(
            window=window, hop=hop, bins=bins, low=float(s.get("low", 20)),
            high=float(s.get("high", rate / 2)), mean=float(s.get("mean", 0)),
            std=float(s.get("std", 1)), fft=int(float(s["fft"])) if "fft" in s else None,
            magnitude=s.get("power", "2") in ("1", "1.0"), floor=float(s.get("floor", 1e-6)),
            coefficients=coefficients, ortho="ortho" in s, shape=shape,
        )  # fmt: skip


def _samples(text: str, rate: int) -> int:
    """'30ms', '0.03s' or '480' as a number of samples."""
    if text.endswith("ms"):
        return round(float(text[:-2]) * rate / 1000)
    return round(float(text[:-1]) * rate) if text.endswith("s") else round(float(text))
