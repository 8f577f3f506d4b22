"""Nets of the benchmark: small enough for two cores, and one for a GPU."""

from collections.abc import Callable
from math import ceil

from torch import nn

from dripgate.training.nets import ResidualBlock, Shape, conv_bn, lenet

#: Side, in cells, that the stem of ``resnet6`` brings its input down to, at most.
SIDE = 16


def resnet6(shape: Shape, classes: int, width: int = 16) -> nn.Module:
    """ResNet-8 without its first block, its stem striding to about 16 × 16 cells: 73 k.

    A sixth of the work for 32 × 32 pixels; what that costs in accuracy is in docs/benchmark.md.
    """
    stride = ceil(shape[1] / SIDE), ceil(shape[2] / SIDE)
    return nn.Sequential(
        nn.Sequential(*conv_bn(shape[0], width, 3, stride), nn.ReLU()),
        ResidualBlock(width, 2 * width, 2),
        ResidualBlock(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


def resnet18(shape: Shape, classes: int) -> nn.Module:
    """ResNet-18 as it is used on CIFAR-10: a 3 × 3 stem and no pool, 11 M (He et al., 2016)."""
    widths = (64, 128, 256, 512)
    blocks: list[nn.Module] = []
    inputs = widths[0]
    for stage, width in enumerate(widths):
        for block in range(2):
            stride = 2 if stage and not block else 1
            blocks.append(ResidualBlock(inputs, width, stride))
            inputs = width
    return nn.Sequential(
        nn.Sequential(*conv_bn(shape[0], 64, 3), nn.ReLU()), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes),
    )  # fmt: skip


NETS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "lenet": lenet,
    "resnet6": resnet6,
    "resnet18": resnet18,
}
