"""Training a classifier on arrays, as fast as two cores allow: SGD, one-cycle, whole-batch augment.

The same function trains the first model, the retrained one and every row of the demo. Its budget
is a number of steps, not of epochs: rows with less data are not trained less.
"""

import time
from collections.abc import Iterator
from functools import cache
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from dripgate.progress import Progress
from dripgate.types import Array, FloatArray

#: What convolutions and matrices are multiplied in; weights and losses stay float32.
Dtype = Literal["float32", "bfloat16"]


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train. ``shift`` is the largest random shift, as a share of height and of width."""

    steps: int = 800
    batch: int = 128
    lr: float = 0.2
    weight_decay: float = 5e-4
    momentum: float = 0.9
    shift: tuple[float, float] = (0.125, 0.125)
    flip: bool = False
    seed: int = 0
    dtype: Dtype = "float32"


def train(
    model: nn.Module, x: Tensor, y: Array, recipe: Recipe, progress: Progress | None = None,
    weights: Array | None = None,
) -> None:  # fmt: skip
    """Train ``model`` in place on x (N, h, w, C), of the type the model takes, and y int (N,).

    weights: how much each sample's loss counts, (N,), relative to their mean. All of x is moved to
    the model's device. The model is left in eval mode. Deterministic for a seed, a device, a number
    of threads and a torch.
    """
    device = device_of(model)
    generator = torch.Generator().manual_seed(recipe.seed)
    torch.manual_seed(recipe.seed)  # dropout draws from the global generator
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum,
        weight_decay=recipe.weight_decay, nesterov=True,
    )  # fmt: skip
    total = recipe.steps + 1
    rise = max(0.25, 1.5 / total)  # torch divides by zero where the rise is one step
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=total, pct_start=rise, cycle_momentum=False
    )
    x, targets = x.to(device), torch.from_numpy(np.asarray(y, np.int64)).to(device)
    counts = None
    if weights is not None:
        counts = torch.from_numpy(weights / weights.mean()).float().to(device)
    loss_of = nn.CrossEntropyLoss(reduction="mean" if counts is None else "none")
    for step, index in enumerate(_batches(len(targets), recipe, generator)):
        index = index.to(device)
        given = augment(x[index], recipe, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.dtype == "bfloat16"):
            logits = model(given)
        loss = loss_of(logits.float(), targets[index])
        if counts is not None:
            loss = (loss * counts[index]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress:
            progress(step + 1)
    model.eval()


def _batches(n: int, recipe: Recipe, generator: torch.Generator) -> Iterator[Tensor]:
    """Exactly ``recipe.steps`` index batches, every sample once before any is seen again."""
    order = torch.empty(0, dtype=torch.long)
    batch = min(recipe.batch, n)
    for _ in range(recipe.steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(n, generator=generator)])
        index, order = order[:batch], order[batch:]
        yield index


def augment(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Shift every sample of (N, h, w, C) by its own random offset, mirror half of them."""
    n, h, w, _ = x.shape
    rows = _offsets(n, h, recipe.shift[0], generator)
    cols = _offsets(n, w, recipe.shift[1], generator)
    if recipe.flip:
        mirrored = torch.rand(n, 1, generator=generator) < 0.5
        cols = torch.where(mirrored, cols.flip(1), cols)
    index = torch.arange(n)[:, None, None], rows[:, :, None], cols[:, None, :]
    return x[tuple(part.to(x.device) for part in index)]


def _offsets(n: int, side: int, share: float, generator: torch.Generator) -> Tensor:
    """Indices (n, side), each row shifted by a random amount, edges repeated."""
    most = round(side * share)
    shift = torch.randint(-most, most + 1, (n, 1), generator=generator)
    return (torch.arange(side) + shift).clamp(0, side - 1)


def logits_of(model: nn.Module, x: Tensor, batch: int = 512) -> FloatArray:
    """Logits float32 (N, classes) of x in eval mode, a batch at a time."""
    model.eval()
    device = device_of(model)
    with torch.inference_mode():
        parts = [model(x[i : i + batch].to(device)) for i in range(0, len(x), batch)]
    return np.asarray(torch.cat(parts).float().cpu().numpy(), np.float32)


@cache
def fastest() -> Dtype:
    """The type that this processor trains a convolution in fastest, by trying: half a second.

    bfloat16 only where it saves a fifth, so that chance decides nothing: processors that have it
    (AVX512-BF16, AMX) save a third and more, others emulate it at several times the price.
    """
    layer = nn.Conv2d(16, 16, 3, padding=1, bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.ones(64, 16, 32, 32, requires_grad=True)
    took = {True: float("inf"), False: float("inf")}
    for _ in range(6):
        for half in took:
            start = time.process_time()
            for _ in range(3):
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    layer(x).relu().sum().backward()
            took[half] = min(took[half], time.process_time() - start)
    return "bfloat16" if took[True] < 0.8 * took[False] else "float32"


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are; the CPU for one without weights."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
