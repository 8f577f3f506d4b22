"""The backward pass through the head, written as ONNX operators: α without autograd."""

import onnx_ir as ir

from dripgate.graph.builder import Builder
from dripgate.graph.cut import Cut
from dripgate.graph.rules import RULES, SEVERAL, NoRule
from dripgate.graph.rules.pool import CELL_SUMS

#: Comparisons, places and counts have no slope; quantised integers count as the numbers they mean.
_STEPS = {ir.DataType.BOOL, ir.DataType.INT64}


def alpha(build: Builder, target: Cut, logits: ir.Value, cotangent: ir.Value) -> ir.Value:
    """α (N, K): the mean over the target's cells of cotangent · ∂logits/∂A.

    cotangent: (N, C), of the logits' shape. Raises NoRule for an operator of the head that has
    none.
    """
    whole = target.tokens is None
    parts = _contributions(build, target.value, logits, cotangent, sums=whole)
    means = [_mean(build, target, part, summed=summed) for part, summed in parts]
    total = means[0]
    for mean in means[1:]:
        total = build.add(total, mean)
    total = build.expand(total, target.shape, [target.channel])
    return build.reshape(total, (target.shape[0], target.shape[target.channel]))


def gradient(build: Builder, target: ir.Value, logits: ir.Value, cotangent: ir.Value) -> ir.Value:
    """cotangent · ∂logits/∂target, written out, of the target's shape. Raises NoRule."""
    parts = _contributions(build, target, logits, cotangent, sums=False)
    total = parts[0][0]
    for part, _ in parts[1:]:
        total = build.add(total, part)
    return build.expand(total, build.shapes[target])


def head_nodes(graph: ir.Graph, target: ir.Value, logits: ir.Value) -> list[ir.Node]:
    """The nodes between the two, in the graph's order."""
    behind, found = {target}, []
    for node in graph:
        if any(value in behind for value in node.inputs):
            behind.update(node.outputs)
            found.append(node)
    needed, chosen = {logits}, []
    for node in reversed(found):
        if any(value in needed for value in node.outputs):
            needed.update(v for v in node.inputs if v in behind)
            chosen.append(node)
    return chosen[::-1]


def _contributions(
    build: Builder, target: ir.Value, logits: ir.Value, cotangent: ir.Value, *, sums: bool
) -> list[tuple[ir.Value, bool]]:
    """The gradients that reach the target, one per use, and whether it is their sum over cells."""
    nodes = head_nodes(build.graph, target, logits)
    wanted = {target}.union(*(node.outputs for node in nodes)) if nodes else {target}
    gradients: dict[ir.Value, ir.Value] = {logits: cotangent}
    parts: list[tuple[ir.Value, bool]] = []
    for node in reversed(nodes):
        given = [gradients.get(value) for value in node.outputs]
        if all(g is None for g in given):
            continue
        rule = RULES.get(node.op_type)
        if rule is None:
            raise NoRule(f"{node.op_type} ('{node.name}')")
        for i, value in enumerate(node.inputs):
            if value is None or value not in wanted or value.dtype in _STEPS:
                continue
            short = CELL_SUMS.get(node.op_type) if value is target and sums else None
            g = given if node.op_type in SEVERAL else given[0]
            try:
                found = (short or rule)(build, node, g, i)  # type: ignore[arg-type]
            except NoRule as error:
                raise NoRule(f"{error} ('{node.name}')") from None
            if value is target:
                parts.append((found, short is not None))
            else:
                gradients[value] = (
                    build.add(gradients[value], found) if value in gradients else found
                )
    if not parts:
        raise NoRule("nothing: no path leads from the cut to the logits")
    return parts


def _mean(build: Builder, target: Cut, part: ir.Value, *, summed: bool) -> ir.Value:
    if summed:
        cells = 1
        for axis in target.cells:
            cells *= target.shape[axis]
        return build.mul(part, 1 / cells)
    if target.tokens and build.shapes[part][target.cells[0]] != 1:
        part = build.slice(part, target.cells[0], *target.tokens)
    return build.mean(part, target.cells)
