"""The chain rule of products with weights: matrices, convolutions, Einstein sums."""

import math
import string
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dripgate.graph.builder import Builder
from dripgate.graph.rules.table import NoRule, attribute, rule, source


@rule("MatMul")
def _matmul(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Y = A · B: ∂A = G · Bᵀ, ∂B = Aᵀ · G, summed over what was broadcast."""
    x, y = source(node, i)
    other, _ = source(node, 1 - i)
    if len(b.shapes[x]) < 2:
        raise NoRule("MatMul whose vector depends on the sample")
    if len(b.shapes[other]) == 1:
        return _by_vector(b, g, other, i)
    if i == 0:
        g = b.expand(g, b.shapes[y], [-1])
        if len(b.shapes[other]) == 2:
            *sizes, columns = b.shapes[g]
            flat = b.reshape(g, (math.prod(sizes), columns))
            return b.reshape(_gemm_of(b, flat, other, turned=True), (*sizes, b.shapes[x][-1]))
        product = b.matmul(g, b.swap_last(other))
    else:
        product = b.matmul(b.swap_last(other), b.expand(g, b.shapes[y], [-1, -2]))
    rows = b.shapes[product][-2]  # 1 where all rows have the same gradient
    full = (*b.shapes[y][:-2], rows, b.shapes[x][-1])
    return b.sum_to(product, full, (*b.shapes[x][:-2], rows, b.shapes[x][-1]))


def _by_vector(b: Builder, g: ir.Value, vector: ir.Value, i: int) -> ir.Value:
    """Y = A · v: ∂A = g vᵀ; Y = v · B: ∂B = v gᵀ."""
    sizes, (n,) = b.shapes[g], b.shapes[vector]
    if i == 0:
        return b.mul(b.reshape(g, (*sizes, 1)), vector)
    return b.mul(b.reshape(g, (*sizes[:-1], 1, sizes[-1])), b.reshape(vector, (n, 1)))


def _gemm_of(b: Builder, g: ir.Value, weight: ir.Value, *, turned: bool) -> ir.Value:
    """(N, m) · (m, n), or · (n, m)ᵀ without a second copy of the weight."""
    columns = b.shapes[weight][0 if turned else 1]
    return b("Gemm", g, weight, shape=(b.shapes[g][0], columns), transB=int(turned))


@rule("Gemm")
def _gemm(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Y = α · A · B + β · C: ∂A = α · G · Bᵀ, ∂C = β · G summed over the rows."""
    x, y = source(node, i)
    if i == 2:
        return b.sum_to(b.mul(g, attribute(node, "beta", 1.0)), b.shapes[y], b.shapes[x])
    if i == 1 or attribute(node, "transA", 0):
        raise NoRule("Gemm whose second factor, or a transposed first, depends on the sample")
    g = b.expand(g, b.shapes[y], [-1])
    turned = not attribute(node, "transB", 0)
    product = _gemm_of(b, g, source(node, 1)[0], turned=turned)
    return b.mul(product, attribute(node, "alpha", 1.0))


@rule("Einsum")
def _einsum(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Y = Σ A · B over letters: ∂A is such a sum of G and the others, with A's letters.

    Along a letter that A alone has, its gradient is the same everywhere.
    """
    x, y = source(node, i)
    letters, out = _letters(
        node, [len(b.shapes[source(node, n)[0]]) for n in range(len(node.inputs))]
    )
    mine = letters[i]
    others = [n for n in range(len(letters)) if n != i]
    if len(set(mine)) < len(mine):
        raise NoRule(f"Einsum of a diagonal, '{attribute(node, 'equation', '')}'")
    known = set(out).union(*(letters[n] for n in others))
    kept = [n for n, letter in enumerate(mine) if letter in known]
    g = b.expand(g, b.shapes[y])
    values = [g, *(source(node, n)[0] for n in others)]
    equation = (
        ",".join([out, *(letters[n] for n in others)]) + "->" + "".join(mine[n] for n in kept)
    )
    shape = b.shapes[x]
    found = b("Einsum", *values, shape=tuple(shape[n] for n in kept), equation=equation)
    return b.reshape(found, [size if n in kept else 1 for n, size in enumerate(shape)])


def _letters(node: ir.Node, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The operands' letters and the result's, with letters in place of an ellipsis."""
    equation = str(attribute(node, "equation", "")).replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        once = sorted(c for c in set(left) - {",", "."} if left.count(c) == 1)
        out = ("..." if "..." in left else "") + "".join(once)
    spare = [c for c in string.ascii_letters if c not in equation]
    hidden = [rank - len(t.replace(".", "")) for t, rank in zip(terms, ranks, strict=True)]
    dots = "".join(
        spare[: max([0, *(h for h, t in zip(hidden, terms, strict=True) if "..." in t)])]
    )
    if any("..." in t and h != len(dots) for h, t in zip(hidden, terms, strict=True)):
        raise NoRule(f"Einsum '{equation}', whose ellipses differ in length")
    return [t.replace("...", dots) for t in terms], out.replace("...", dots)


@rule("Conv")
def _conv(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """The input's gradient is the transposed convolution of G with the same weights."""
    if i:
        raise NoRule("Conv whose weights depend on the sample")
    x, y = source(node)
    weight, _ = source(node, 1)
    sizes, steps = b.shapes[x][2:], b.shapes[y][2:]
    kernel, stride, dilation, before, _ = _form(node, b.shapes[weight][2:], sizes, steps)
    g = b.expand(g, b.shapes[y])
    reach = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(steps, stride, dilation, kernel)]  # noqa: B905
    after = [r - p - n for r, p, n in zip(reach, before, sizes, strict=True)]
    cut, missing = [max(n, 0) for n in after], [max(-n, 0) for n in after]
    reached = [n - m for n, m in zip(sizes, missing, strict=True)]  # by a window at all
    found = b(
        "ConvTranspose", g, weight, shape=(*b.shapes[x][:2], *reached), strides=list(stride),
        dilations=list(dilation), group=attribute(node, "group", 1), pads=[*before, *cut],
    )  # fmt: skip
    return b.pad(found, [0] * len(b.shapes[x]), [0, 0, *missing])


@rule("ConvTranspose")
def _conv_transpose(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """The input's gradient is the convolution of G with the same weights."""
    if i:
        raise NoRule("ConvTranspose whose weights depend on the sample")
    x, y = source(node)
    weight, _ = source(node, 1)
    sizes, out = b.shapes[x][2:], b.shapes[y][2:]
    kernel = b.shapes[weight][2:]
    rank = len(kernel)
    stride = attribute(node, "strides", [1] * rank)
    dilation = attribute(node, "dilations", [1] * rank)
    reach = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(sizes, stride, dilation, kernel)]  # noqa: B905
    mode = str(attribute(node, "auto_pad", "NOTSET"))
    before = attribute(node, "pads", [0] * 2 * rank)[:rank]
    if mode.startswith("SAME") or "output_shape" in node.attributes:
        more = attribute(node, "output_padding", [0] * rank)
        total = [max(r + m - o, 0) for r, m, o in zip(reach, more, out, strict=True)]
        before = [t - t // 2 if mode != "SAME_UPPER" else t // 2 for t in total]
    g = b.expand(g, b.shapes[y])
    after = [r - o - p for r, o, p in zip(reach, out, before, strict=True)]
    g = b.pad(g, [0, 0, *before], [0, 0, *after])
    return b(
        "Conv", g, weight, shape=b.shapes[x], strides=list(stride), dilations=list(dilation),
        group=attribute(node, "group", 1), pads=[0] * 2 * rank,
    )  # fmt: skip


Form = tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int], Sequence[int]]


def _form(node: ir.Node, kernel: Sequence[int], sizes: Sequence[int], out: Sequence[int]) -> Form:
    """(kernel, strides, dilations, pads before, pads behind) of a window, whatever auto_pad says.

    ``sizes`` and ``out`` are the lengths of its input's and its output's spatial axes.
    """
    rank = len(kernel)
    stride = attribute(node, "strides", [1] * rank)
    dilation = attribute(node, "dilations", [1] * rank)
    mode = str(attribute(node, "auto_pad", "NOTSET"))
    pads = list(attribute(node, "pads", [0] * 2 * rank))
    if mode.startswith("SAME"):
        reach = zip(out, stride, dilation, kernel, sizes, strict=True)
        missing = [max((o - 1) * s + d * (k - 1) + 1 - n, 0) for o, s, d, k, n in reach]
        low, high = [m // 2 for m in missing], [math.ceil(m / 2) for m in missing]
        pads = [*low, *high] if mode == "SAME_UPPER" else [*high, *low]
    return kernel, stride, dilation, pads[:rank], pads[rank:]


def window(node: ir.Node, b: Builder) -> Form:
    """The form of a pool's window."""
    x, y = source(node)
    kernel = attribute(node, "kernel_shape", ())
    return _form(node, kernel, b.shapes[x][2:], b.shapes[y][2:])


def separable(b: Builder, g: ir.Value, matrices: dict[int, np.ndarray]) -> ir.Value:
    """Y = R · X · Cᵀ has ∂X = Rᵀ · G · C: one constant (out, in) per axis of x that it changes."""
    for axis, matrix in matrices.items():
        rank = len(b.shapes[g])
        last = [*(a for a in range(rank) if a != axis), axis]
        back = [last.index(a) for a in range(rank)]
        g = b.transpose(b.matmul(b.transpose(g, last), b.constant(matrix)), back)
    return g
