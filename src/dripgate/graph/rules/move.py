"""The chain rule of operators that only move values about: they are led back."""

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from dripgate.graph.builder import Builder
from dripgate.graph.rules.linear import separable
from dripgate.graph.rules.table import NoRule, array, attribute, integers, rule, source


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """The input's shape again; sizes of 1 stay unexpanded where both shapes have the axis."""
    x, y = source(node)
    given, wanted = b.shapes[y], b.shapes[x]
    if given == wanted:
        return g
    if b.shapes[g] == given:
        return b.reshape(g, wanted)
    lazy = unexpanded(given, wanted, b.shapes[g])
    return b.reshape(g if lazy else b.expand(g, given), lazy or wanted)


def unexpanded(given: tuple[int, ...], wanted: tuple[int, ...], lazy: tuple[int, ...]) -> (
    tuple[int, ...] | None
):  # fmt: skip
    """``wanted`` with size 1 along what comes from axes of ``given`` that are 1 in ``lazy``.

    None where an axis that is written out is regrouped with one that is not.
    """
    result: list[int] = []
    i = j = 0
    while i < len(given) or j < len(wanted):
        left, right = [i], [j]
        a = given[i] if i < len(given) else 1
        c = wanted[j] if j < len(wanted) else 1
        while abs(a) != abs(c) or (a < 0) != (c < 0):
            if abs(a) < abs(c) and left[-1] + 1 < len(given):
                left.append(left[-1] + 1)
                a *= given[left[-1]]
            elif right[-1] + 1 < len(wanted):
                right.append(right[-1] + 1)
                c *= wanted[right[-1]]
            else:
                return None
        left, right = ([n for n in s if n < len(of)] for s, of in ((left, given), (right, wanted)))
        written = [lazy[n] == given[n] for n in left]
        if all(written):
            result += [wanted[n] for n in right]
        elif not any(w and given[n] != 1 for w, n in zip(written, left, strict=True)):
            result += [1 for n in right]
        else:
            return None
        i, j = i + max(len(left), 1), j + max(len(right), 1)
    return tuple(result)


@rule("Transpose")
def _transpose(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """The axes go back to where they were."""
    rank = len(b.shapes[source(node)[0]])
    perm = list(attribute(node, "perm", range(rank)[::-1]))
    return b.transpose(g, [perm.index(a) for a in range(rank)])


@rule("Expand", "Tile")
def _expand(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """The sum over what was repeated."""
    x, y = source(node)
    full, shape = b.shapes[y], b.shapes[x]
    padded = (1,) * (len(full) - len(shape)) + shape
    rows = [a for a, (s, f) in enumerate(zip(padded, full, strict=True)) if s not in (1, f)]
    for axis in reversed(rows):  # as (times, rows), of which the first is summed
        g = b.expand(g, full, [axis])
        now, times = b.shapes[g], full[axis] // padded[axis]
        apart = (*now[:axis], times, padded[axis], *now[axis + 1 :])
        g = b.sum(b.reshape(g, apart), [axis], apart)
        g = b.reshape(g, (*now[:axis], padded[axis], *now[axis + 1 :]))
    full = tuple(padded[a] if a in rows else size for a, size in enumerate(full))
    return b.sum_to(g, full, shape)


@rule("Concat")
def _concat(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """The input's own part of the gradient."""
    x, y = source(node, i)
    axis = attribute(node, "axis", 0) % len(b.shapes[y])
    start = sum(b.shapes[source(node, n)[0]][axis] for n in range(i))
    if b.shapes[g][axis] != b.shapes[y][axis]:
        return g
    return b.slice(g, axis, start, start + b.shapes[x][axis])


@rule("Split")  # type: ignore[arg-type]  # see SEVERAL
def _split(b: Builder, node: ir.Node, g: list[ir.Value | None], i: int) -> ir.Value:
    """The parts' gradients side by side, zeros for a part that nothing depends on."""
    x, _ = source(node)
    axis = attribute(node, "axis", 0) % len(b.shapes[x])
    known = next(value for value in g if value is not None)
    parts = []
    for output, part in zip(node.outputs, g, strict=True):
        shape = b.shapes[output]
        value = b.expand(part, shape) if part is not None else None
        if value is None:
            # Of the batch's size, which is not known here: a known gradient, times 0.
            some = b.slice(b.expand(known, b.shapes[known]), axis, 0, 1)
            value = b.expand(b.mul(some, 0.0), shape)
        parts.append(value)
    return b("Concat", *parts, shape=b.shapes[x], axis=axis)


@rule("Slice")
def _slice(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Zeros where nothing was taken."""
    x, y = source(node)
    shape = b.shapes[x]
    starts, ends = integers(node, 1) or [], integers(node, 2) or []
    axes = (integers(node, 3) if len(node.inputs) > 3 else None) or list(range(len(starts)))
    steps = (integers(node, 4) if len(node.inputs) > 4 else None) or [1] * len(starts)
    before, after, chosen = [0] * len(shape), [0] * len(shape), {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis %= len(shape)
        if shape[axis] < 0:
            if (start, step) == (0, 1) and end >= 2**31 - 1:
                continue
            raise NoRule("Slice along the batch")
        taken = range(shape[axis])[start:end:step]
        if step == 1:
            before[axis], after[axis] = taken.start, shape[axis] - taken.start - len(taken)
        else:
            chosen[axis] = np.eye(shape[axis])[list(taken)]
    g = b.expand(
        g, b.shapes[y], [a for a in range(len(shape)) if before[a] or after[a] or a in chosen]
    )
    return separable(b, b.pad(g, before, after), chosen)


@rule("Gather")
def _gather(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """With constant indices: each taken row's gradient is added where the row came from."""
    x, y = source(node)
    shape = b.shapes[x]
    axis = attribute(node, "axis", 0) % len(shape)
    indices = array(node.inputs[1])
    if indices is None or shape[axis] < 0:
        raise NoRule("Gather whose indices depend on the sample")
    rows = indices.ravel() % shape[axis]
    lazy = b.shapes[g][axis : axis + indices.ndim]
    if lazy != indices.shape:
        g = b.expand(g, b.shapes[y], range(axis, axis + indices.ndim))
    sizes = b.shapes[g]
    g = b.reshape(g, (*sizes[:axis], len(rows), *sizes[axis + indices.ndim :]))
    if (np.diff(rows) == 1).all():
        before = [rows[0] if a == axis else 0 for a in range(len(shape))]
        after = [shape[axis] - len(rows) - rows[0] if a == axis else 0 for a in range(len(shape))]
        return b.pad(g, [int(n) for n in before], [int(n) for n in after])
    return separable(b, g, {axis: np.eye(shape[axis])[rows]})


@rule("Pad")
def _pad(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """What was added is left out again."""
    x, y = source(node)
    if str(attribute(node, "mode", "constant")) != "constant":
        return _by_unit_vectors(b, node, g, i)
    pads = integers(node, 1, "pads") or []
    rank = len(b.shapes[x])
    axes = integers(node, 3) if len(node.inputs) > 3 and node.inputs[3] else None
    axes = [a % rank for a in axes] if axes else list(range(rank))
    before, after = [0] * rank, [0] * rank
    for n, axis in enumerate(axes):
        before[axis], after[axis] = pads[n], pads[n + len(axes)]
    g = b.expand(g, b.shapes[y], [a for a in range(rank) if before[a] or after[a]])
    return b.pad(g, [-n for n in before], [-n for n in after])


@rule("Resize", "Upsample")
def _by_unit_vectors(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Linear, one axis after the other: its matrices are what it makes of unit vectors."""
    x, y = source(node)
    given, wanted = b.shapes[x], b.shapes[y]
    g = b.expand(g, wanted)
    matrices = {}
    for axis in range(1, len(given)):
        if given[axis] == wanted[axis] and node.op_type != "Pad":
            continue
        shape = [1] * len(given)
        shape[axis] = given[axis]
        rows = [_along(node, unit.reshape(shape), axis, wanted) for unit in np.eye(given[axis])]
        matrices[axis] = np.stack(rows, axis=1)
    return separable(b, g, matrices)


def _along(node: ir.Node, x: np.ndarray, axis: int, wanted: tuple[int, ...]) -> np.ndarray:
    """The operator on a line along one axis."""
    proto = ir.to_proto(node)
    chosen = attribute(node, "axes", None) if node.op_type == "Resize" else None
    kept = [a for a in proto.attribute if a.name != "axes"]
    del proto.attribute[:]
    proto.attribute.extend(kept)
    feeds: dict[str, np.ndarray | None] = {str(source(node)[0].name): x.astype(np.float32)}
    for place, value in enumerate(node.inputs[1:], 1):
        if value is None:
            continue
        values = array(value)
        if values is None:
            raise NoRule(f"{node.op_type} whose sizes depend on the sample")
        if chosen and values.size:  # one number per axis, as where all of them are named
            every = np.array(x.shape if values.dtype.kind == "i" else np.ones(x.ndim), values.dtype)
            every[[a % x.ndim for a in chosen]] = values
            values = every
        feeds[str(value.name)] = _for_axis(node.op_type, place, values, axis, wanted, x.ndim)
    (y,) = ReferenceEvaluator(proto, opsets={"": 20}).run(None, feeds)
    return np.asarray(y).ravel()


def _for_axis(
    operator: str, place: int, values: np.ndarray, axis: int, wanted: tuple[int, ...], rank: int
) -> np.ndarray:
    """A Resize's scales or sizes, or a Pad's pads, that leave all other axes as they are."""
    if operator == "Pad" and place == 1 and len(values) == 2 * rank:
        return np.array([v if n % rank == axis else 0 for n, v in enumerate(values)])
    if operator != "Pad" and len(values) == rank and place > 1:
        one = np.ones(rank, values.dtype)
        one[axis] = values[axis] if place == 2 else wanted[axis]
        return one
    return values


@rule("DepthToSpace", "SpaceToDepth")
def _blocks(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """One leads back from the other; written as moves, as only one order has both operators."""
    x, y = source(node)
    size = attribute(node, "blocksize", 1)
    (n, k, h, w) = b.shapes[x] if node.op_type == "DepthToSpace" else b.shapes[y]
    by_column = str(attribute(node, "mode", "DCR")) == "CRD"
    deep = k // size**2
    g = b.expand(g, b.shapes[y])
    # As (N, deep, block, block, h, w), or with the blocks before the depth.
    apart = (n, deep, size, size, h, w) if by_column else (n, size, size, deep, h, w)
    there = [0, 1, 4, 2, 5, 3] if by_column else [0, 3, 4, 1, 5, 2]
    if node.op_type == "DepthToSpace":
        g = b.reshape(g, [apart[a] for a in there])
        return b.reshape(b.transpose(g, [there.index(a) for a in range(6)]), b.shapes[x])
    return b.reshape(b.transpose(b.reshape(g, apart), there), b.shapes[x])
