"""The preparation of dripgate.graph.prepare as torch modules, to train on the same numbers."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dripgate.errors import ModelError
from dripgate.graph.prepare import (
    check_log_mel,
    check_normalize,
    scale_and_shift,
    waves_and_filters,
)
from dripgate.types import AudioInput, InputSpec, LogMel, Normalize, Preprocessing, Waveform


class NormalizeImages(nn.Module):
    """uint8 (N, h, w, C) → float32 (N, C, h, w), (pixel / 255 - mean) / std per channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, spec: Normalize) -> None:
        super().__init__()
        for name, values in zip(("scale", "shift"), scale_and_shift(spec), strict=True):
            self.register_buffer(name, torch.from_numpy(values).view(1, -1, 1, 1))

    def forward(self, samples: Tensor) -> Tensor:
        """See the class."""
        if samples.shape[3] == 1:  # the same order in memory: nothing is moved
            planes = samples.reshape(-1, 1, *samples.shape[1:3])
        else:
            planes = samples.permute(0, 3, 1, 2).contiguous()
        return planes.float() * self.scale + self.shift


class LogMelSpectrogram(nn.Module):
    """int16 (N, T) → float32 (N, 1, frames, bins), frames = 1 + (T - window) // hop."""

    waves: Tensor
    mel: Tensor
    floor: Tensor

    def __init__(self, spec: LogMel, rate: int) -> None:
        super().__init__()
        self.hop, self.mean, self.std = spec.hop, spec.mean, spec.std
        waves, mel = (torch.from_numpy(values) for values in waves_and_filters(spec, rate))
        self.register_buffer("waves", waves[:, None])
        self.register_buffer("mel", mel[:, :, None])
        self.register_buffer("floor", torch.full((spec.bins,), spec.floor))

    def forward(self, samples: Tensor) -> Tensor:
        """See the class."""
        parts = functional.conv1d(samples.float().unsqueeze(1), self.waves, stride=self.hop)
        # Not square(), which ONNX has as Pow; the floor as a bias, which costs nothing.
        power = functional.conv1d(parts * parts, self.mel, self.floor)
        features = (power.log() - self.mean) / self.std
        return features.transpose(1, 2).unsqueeze(1)


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

    Raises ModelError where the two do not fit, such as three means for one channel, and for
    preparations that only a gate's graph knows.
    """
    if isinstance(preprocessing, Normalize):
        check_normalize(preprocessing, input_spec)
        plain = Normalize(mean=preprocessing.mean, std=preprocessing.std)
        if preprocessing != plain:
            raise ModelError("training here takes float images with the channels first, as RGB")
        return NormalizeImages(preprocessing)
    if isinstance(preprocessing, LogMel):
        if not isinstance(input_spec, AudioInput):
            raise ModelError(
                f"log-mel needs audio, found {input_spec}; choose another preprocessing"
            )
        check_log_mel(preprocessing, input_spec.rate, input_spec.length)
        if preprocessing.magnitude or preprocessing.coefficients or preprocessing.shape:
            raise ModelError("training here takes log-mel power (1, frames, bins), no MFCC")
        return LogMelSpectrogram(preprocessing, input_spec.rate)
    if isinstance(preprocessing, Waveform):
        raise ModelError("training here takes log-mel features, not the waveform")
    return nn.Identity()
