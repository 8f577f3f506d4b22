"""Classifiers as people write them, for the zoo."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def options(model: nn.Module) -> dict[str, Any]:
    """What a shape asks for: output, as_is."""
    return dict(getattr(model, "zoo", {}))


def shapes() -> dict[str, Callable[[], tuple[nn.Module, Tensor]]]:
    """Every shape by its name."""
    return {}
