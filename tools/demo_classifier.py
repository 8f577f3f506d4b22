"""The classifier that ships with the demo, trained from a seed: src/dripgate/demo/classifier.onnx.

It saw digits at noon, the rare ones rarely. Run it again after a change of ``demo/scenes``:

    make demo-classifier
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import dripgate.demo
from dripgate.demo import scenes
from dripgate.training.export import exported
from dripgate.training.nets import conv_bn
from dripgate.training.train import Recipe, train
from dripgate.types import ImageInput, Normalize

OUT = Path(dripgate.demo.__file__).with_name("classifier.onnx")
SEED, LOOKS, LARGEST = 0, 8, 150_000
CLASSES = tuple(map(str, range(10)))
INPUT = ImageInput(scenes.SIDE, scenes.SIDE, 1)


def net() -> nn.Sequential:
    """Three convolutions, global average pool, linear: 23 k weights."""
    return nn.Sequential(
        *conv_bn(1, 16, 3), nn.ReLU(), *conv_bn(16, 32, 3, 2), nn.ReLU(),
        *conv_bn(32, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def arrays(frames: list[scenes.Frame]) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, h, w, 1) uint8, labels (N,)."""
    images = [np.asarray(Image.open(io.BytesIO(frame.payload))) for frame in frames]
    return np.stack(images)[..., None], np.array([int(frame.label) for frame in frames])


def main() -> None:
    """Train, export, and say how good it is."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    pixels, labels = arrays(scenes.apart("learned", SEED, copies=LOOKS, lit=True))
    mean, std = float(pixels.mean() / 255), float(pixels.std() / 255)
    model = net().to(memory_format=torch.channels_last)
    inner = nn.Sequential(_Channels(mean, std), model)
    train(inner, torch.from_numpy(pixels), labels, Recipe(steps=600, lr=0.1, seed=SEED))
    classifier = exported(model.to(memory_format=torch.contiguous_format), (1, 16, 16), "digits")
    data = classifier.with_(
        classes=CLASSES, input=INPUT, preprocessing=Normalize(mean=(mean,), std=(std,))
    ).file()
    if len(data) > LARGEST:
        raise SystemExit(f"{len(data):,} bytes, more than the {LARGEST:,} that may ship")
    OUT.write_bytes(data)
    for name, lit in (("noon", True), ("any time of the day", False)):
        pixels, labels = arrays(scenes.apart("tested", SEED, lit=lit, skewed=False))
        with torch.inference_mode():
            right = inner(torch.from_numpy(pixels)).argmax(1).numpy() == labels
        by_class = [f"{right[labels == k].mean():.2f}" for k in range(10)]
        print(
            f"{name}: {right.mean():.3f} of {len(right)} test digits right ({' '.join(by_class)})"
        )
    print(f"{OUT}: {len(data):,} bytes")


class _Channels(nn.Module):
    """Pixels (N, h, w, 1) uint8 as the classifier takes them, (N, 1, h, w)."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x.float() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
