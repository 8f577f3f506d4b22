"""Reference nets, sized as in MLPerf Tiny, for any input size: for tests, demo and benchmark.

Users bring their own ``nn.Module``. Each takes floats (N, channels, h, w) and gives logits.
Sources: ResNet-8 and DS-CNN from Banbury et al., "MLPerf Tiny Benchmark" (2021); LeNet-5 from
LeCun et al., "Gradient-based learning applied to document recognition" (1998), with ReLU and
max-pools.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dripgate.errors import ModelError

Shape = tuple[int, int, int]


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    groups: int = 1,
) -> list[nn.Module]:
    """A convolution that keeps the size, but for its stride, and its batch norm."""
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut: (N, inputs, h, w) → (N, outputs, h/s, w/s)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn(inputs, outputs, 3, stride), nn.ReLU(), *conv_bn(outputs, outputs, 3)
        )
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity() if same else nn.Sequential(*conv_bn(inputs, outputs, 1, stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, rectified."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet8(shape: Shape, classes: int, width: int = 16) -> nn.Sequential:
    """Three residual blocks of 16, 32 and 64 channels, global average pool, linear: 78 k."""
    return nn.Sequential(
        nn.Sequential(*conv_bn(shape[0], width, 3), nn.ReLU()),
        ResidualBlock(width, width, 1),
        ResidualBlock(width, 2 * width, 2),
        ResidualBlock(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


def lenet(shape: Shape, classes: int) -> nn.Sequential:
    """Two 5 × 5 convolutions with max-pools, three linear layers: a head that is not a pool."""
    flat = 16 * (shape[1] // 4) * (shape[2] // 4)
    return nn.Sequential(
        nn.Conv2d(shape[0], 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(flat, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, classes),
    )  # fmt: skip


def dscnn(shape: Shape, classes: int, width: int = 64) -> nn.Sequential:
    """Depthwise-separable keyword spotter: a 10 × 4 convolution and four blocks of 64: 23 k."""
    blocks: list[nn.Module] = [*conv_bn(shape[0], width, (10, 4), (2, 2)), nn.ReLU()]
    for _ in range(4):
        blocks += [*conv_bn(width, width, 3, groups=width), nn.ReLU()]
        blocks += [*conv_bn(width, width, 1), nn.ReLU()]
    return nn.Sequential(
        *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(width, classes),
    )  # fmt: skip


NETS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "resnet8": resnet8,
    "lenet": lenet,
    "dscnn": dscnn,
}
SMALLEST = 8


def factory(arch: str, shape: Shape, classes: int) -> Callable[[], nn.Module]:
    """A function that builds the named net, freshly initialised, for inputs (channels, h, w).

    Raises ModelError for an unknown name or an input smaller than 8 × 8.
    """
    if arch not in NETS:
        raise ModelError(
            f"no reference net is called '{arch}'; choose one of {', '.join(NETS)}, "
            "or bring your own as package.module:factory"
        )
    if min(shape[1:]) < SMALLEST:
        raise ModelError(
            f"{arch} needs inputs of at least {SMALLEST} × {SMALLEST}, found "
            f"{shape[1]} × {shape[2]}; choose a larger --size"
        )
    return partial(NETS[arch], shape, classes)
