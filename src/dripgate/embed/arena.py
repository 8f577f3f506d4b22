"""Where each tensor lies in one static block of memory, planned before anything is compiled.

Tensors that live at the same time never overlap; everything else may. The problem is NP-hard
(dynamic storage allocation); placing the largest first at the lowest free offset is within a few
percent of the lower bound on convolutional nets (Pisarchyk and Lee, "Efficient Memory Management
for Deep Neural Net Inference", 2020, greedy by size).
"""

from collections.abc import Sequence
from typing import NamedTuple

#: Offsets are multiples of this: the strictest alignment of C's arithmetic types here.
ALIGNMENT = 8


class Block(NamedTuple):
    """``size`` bytes that are needed from step ``first`` to step ``last``, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: "Block") -> bool:
        """Whether the two are needed at the same time."""
        return self.first <= other.last and other.first <= self.last


class Plan(NamedTuple):
    """An offset for each block, in their order, and the bytes that hold them all."""

    offsets: list[int]
    size: int


def plan(blocks: Sequence[Block]) -> Plan:
    """The smallest of three greedy placements: largest first, busiest step first, from both ends.

    The last is exact for a chain of layers, where the first two are not.
    """
    by_size = sorted(range(len(blocks)), key=lambda i: (-blocks[i].size, blocks[i].first))
    load = [0] * (1 + max((block.last for block in blocks), default=0))
    for block in blocks:
        for step in range(block.first, block.last + 1):
            load[step] += block.size
    by_load = sorted(
        by_size,
        key=lambda i: -max(load[blocks[i].first : blocks[i].last + 1], default=0),
    )
    plans = [_lowest(blocks, by_size), _lowest(blocks, by_load), _both_ends(blocks)]
    return min(filter(None, plans), key=lambda found: found.size)


def lower_bound(blocks: Sequence[Block]) -> int:
    """Bytes alive at the busiest step: no plan can need less."""
    ends = {block.first for block in blocks}
    return max(
        (sum(_padded(b.size) for b in blocks if b.first <= step <= b.last) for step in ends),
        default=0,
    )


def _lowest(blocks: Sequence[Block], order: Sequence[int]) -> Plan:
    """Each block, in this order, at the lowest offset that is free as long as it lives."""
    offsets = [0] * len(blocks)
    placed: list[int] = []
    for i in order:
        offset = 0
        for start, end in _taken(blocks, offsets, placed, blocks[i]):
            if offset + _padded(blocks[i].size) <= start:
                break
            offset = max(offset, end)
        offsets[i] = offset
        placed.append(i)
    ends = [offset + _padded(block.size) for offset, block in zip(offsets, blocks, strict=True)]
    return Plan(offsets, max(ends, default=0))


def _both_ends(blocks: Sequence[Block]) -> Plan | None:
    """By birth, in turn at the bottom and at the top of the least memory; None if that fails."""
    size = lower_bound(blocks)
    offsets = [0] * len(blocks)
    placed: list[int] = []
    top = False
    for i in sorted(range(len(blocks)), key=lambda i: blocks[i].first):
        needed = _padded(blocks[i].size)
        edges = [(0, 0), *_taken(blocks, offsets, placed, blocks[i]), (size, size)]
        free, reached = [], 0
        for start, end in edges:
            if start - reached >= needed:
                free.append((reached, start - needed))
            reached = max(reached, end)
        if not free:
            return None
        offsets[i] = free[-1][1] if top else free[0][0]
        top = not top
        placed.append(i)
    return Plan(offsets, size)


def _taken(
    blocks: Sequence[Block], offsets: Sequence[int], placed: Sequence[int], block: Block
) -> list[tuple[int, int]]:
    """Where blocks lie that were placed already and live when this one does, in order."""
    return sorted(
        (offsets[j], offsets[j] + _padded(blocks[j].size)) for j in placed if blocks[j].meets(block)
    )


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
