"""The arena: what lives at the same time never overlaps, and it is not larger than it must be."""

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from dripgate.embed.arena import ALIGNMENT, Block, lower_bound, plan


@st.composite
def blocks(draw):
    first = draw(st.integers(0, 12))
    return Block(draw(st.integers(1, 5000)), first, first + draw(st.integers(0, 6)))


@given(st.lists(blocks(), max_size=24))
def test_no_two_live_tensors_overlap(found):
    offsets, size = plan(found)
    for i, j in combinations(range(len(found)), 2):
        one, other = found[i], found[j]
        if one.first <= other.last and other.first <= one.last:  # some step needs both
            apart = offsets[i] + one.size <= offsets[j] or offsets[j] + other.size <= offsets[i]
            assert apart, (one, offsets[i], other, offsets[j])
    assert all(offset >= 0 and offset % ALIGNMENT == 0 for offset in offsets)
    assert all(offset + block.size <= size for offset, block in zip(offsets, found, strict=True))


@given(st.lists(blocks(), max_size=24))
def test_it_holds_the_busiest_step_and_not_more_than_everything(found):
    size = plan(found).size
    alive = [
        sum(block.size for block in found if block.first <= step <= block.last)
        for step in range(20)
    ]
    assert max(alive) <= lower_bound(found) <= size
    assert size <= sum(block.size + ALIGNMENT for block in found)


@given(st.lists(st.integers(1, 4000), min_size=2, max_size=30))
def test_a_chain_of_layers_takes_its_largest_neighbours_and_no_more(sizes):
    chain = [Block(size * ALIGNMENT, step, step + 1) for step, size in enumerate(sizes)]
    needed = max(a.size + b.size for a, b in pairwise(chain))
    assert plan(chain).size == needed


def test_a_residual_block_is_planned_to_the_byte():
    skip = Block(800, 0, 3)
    assert plan([skip, Block(800, 1, 2), Block(800, 2, 3), Block(80, 3, 4)]).size == 2400


def test_nothing_needs_nothing():
    assert plan([]) == ([], 0)
