"""What happens to a raw sample before the model sees it, as torch modules that go into the graph.

Training and the device cannot differ: both run this code, the device as part of ``gate.onnx``.
"""

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dripgate.errors import ModelError
from dripgate.types import (
    Array,
    AudioInput,
    ImageInput,
    InputSpec,
    LogMel,
    Normalize,
    Preprocessing,
)

#: Added to the mel power before the logarithm, so that digital silence stays finite.
FLOOR = 1e-6


class NormalizeImages(nn.Module):
    """uint8 (N, h, w, C) → float32 (N, C, h, w), (pixel / 255 - mean) / std per channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Array, std: Array) -> None:
        super().__init__()
        self.register_buffer("scale", _float(1 / (255 * std)).view(1, -1, 1, 1))
        self.register_buffer("shift", _float(-mean / std).view(1, -1, 1, 1))

    def forward(self, samples: Tensor) -> Tensor:
        """See the class."""
        if samples.shape[3] == 1:  # the same order in memory: nothing is moved
            planes = samples.reshape(-1, 1, *samples.shape[1:3])
        else:
            planes = samples.permute(0, 3, 1, 2).contiguous()
        return planes.float() * self.scale + self.shift


class LogMelSpectrogram(nn.Module):
    """int16 (N, T) → float32 (N, 1, frames, bins), frames = 1 + (T - window) // hop.

    Frames are not padded; the DFT is as long as the periodic Hann window. It is a convolution,
    because ONNX's own STFT was measured ten times slower in onnxruntime.
    """

    waves: Tensor
    mel: Tensor
    floor: Tensor

    def __init__(self, spec: LogMel, rate: int) -> None:
        super().__init__()
        self.hop, self.mean, self.std = spec.hop, spec.mean, spec.std
        mel = mel_filters(spec, rate)
        used = np.flatnonzero(mel.any(axis=0))  # the DFT is only taken where a filter listens
        n = np.arange(spec.window)
        phase = 2 * np.pi * np.outer(used, n) / spec.window
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / spec.window)
        waves = np.concatenate([np.cos(phase), np.sin(phase)]) * hann / 32768
        self.register_buffer("waves", _float(waves)[:, None])
        self.register_buffer("mel", _float(np.tile(mel[:, used], 2))[:, :, None])
        self.register_buffer("floor", _float(np.full(len(mel), FLOOR)))

    def forward(self, samples: Tensor) -> Tensor:
        """See the class."""
        parts = functional.conv1d(samples.float().unsqueeze(1), self.waves, stride=self.hop)
        # Not square(), which ONNX has as Pow; the floor as a bias, which costs nothing.
        power = functional.conv1d(parts * parts, self.mel, self.floor)
        features = (power.log() - self.mean) / self.std
        return features.transpose(1, 2).unsqueeze(1)


def mel_filters(spec: LogMel, rate: int) -> Array:
    """Triangular filters of peak 1, evenly spaced on the HTK mel scale, (bins, window // 2 + 1).

    Source: Young et al., "The HTK Book" (2006), 5.4: mel = 2595 log10(1 + f / 700).
    Raises ModelError where a filter is so narrow that no DFT bin falls into it.
    """
    low, high = 2595 * np.log10(1 + np.array([spec.low, spec.high]) / 700)
    edges = 700 * (10 ** (np.linspace(low, high, spec.bins + 2) / 2595) - 1)
    frequencies = np.arange(spec.window // 2 + 1) * rate / spec.window
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequencies - lower) / (centre - lower)
    falling = (upper - frequencies) / (upper - centre)
    filters = np.maximum(0, np.minimum(rising, falling))
    empty = int((~filters.any(axis=1)).sum())
    if empty:
        raise ModelError(
            f"log-mel: {empty} of {spec.bins} filters between {spec.low:g} and {spec.high:g} Hz "
            f"hold no frequency of a {spec.window}-sample window at {rate} Hz; "
            "use fewer bins or a longer window"
        )
    return filters


class Deployed(nn.Module):
    """Raw samples to logits: the preprocessing, then the user's model."""

    def __init__(self, model: nn.Module, preprocessing: nn.Module) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.model = model

    def forward(self, samples: Tensor) -> Tensor:
        """Logits (N, C) of raw samples."""
        return cast(Tensor, self.model(self.preprocessing(samples)))


def build(preprocessing: Preprocessing, input_spec: InputSpec) -> nn.Module:
    """The module for a preprocessing, from batches of ``input_spec`` to the model's input.

    Raises ModelError where the two do not fit, such as three means for one channel.
    """
    if isinstance(preprocessing, Normalize):
        return _normalize(preprocessing, input_spec)
    if isinstance(preprocessing, LogMel):
        return _logmel(preprocessing, input_spec)
    return nn.Identity()


def _normalize(spec: Normalize, input_spec: InputSpec) -> NormalizeImages:
    channels = input_spec.channels if isinstance(input_spec, ImageInput) else None
    if not len(spec.mean) == len(spec.std) == channels:
        raise ModelError(
            f"normalize: found {len(spec.mean)} means and {len(spec.std)} deviations for "
            f"{input_spec}; give one of each per image channel"
        )
    if min(spec.std) <= 0:
        raise ModelError(f"normalize: deviations must be above 0, found {spec.std}")
    return NormalizeImages(np.array(spec.mean), np.array(spec.std))


def _logmel(spec: LogMel, input_spec: InputSpec) -> LogMelSpectrogram:
    if not isinstance(input_spec, AudioInput):
        raise ModelError(f"log-mel needs audio, found {input_spec}; choose another preprocessing")
    if not 0 < spec.window <= input_spec.length or spec.hop < 1 or spec.std <= 0:
        raise ModelError(
            f"log-mel: window {spec.window}, hop {spec.hop} and std {spec.std:g} do not fit "
            f"{input_spec.length} samples; the window must fit in them, hop and std be above 0"
        )
    if not 0 <= spec.low < spec.high <= input_spec.rate / 2:
        raise ModelError(
            f"log-mel: {spec.low:g} to {spec.high:g} Hz is not inside 0 to "
            f"{input_spec.rate / 2:g} Hz, half the rate"
        )
    return LogMelSpectrogram(spec, input_spec.rate)


def _float(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
