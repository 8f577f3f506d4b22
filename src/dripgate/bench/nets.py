"""Nets of the benchmark: those of MLPerf Tiny, and one that is a sixth of the work."""

from collections.abc import Callable
from math import ceil

from torch import nn

from dripgate.training import nets
from dripgate.training.nets import ResidualBlock, Shape, conv_bn

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


NETS: dict[str, Callable[[Shape, int], nn.Module]] = {
    **nets.NETS,
    "resnet6": resnet6,
}
