"""The table of rules, and what all rules ask of a node."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import onnx_ir as ir

from dripgate.graph.builder import Builder
from dripgate.types import Array

#: (builder, node, gradient of its output, number of an input) → the gradient of that input.
Rule = Callable[[Builder, ir.Node, ir.Value, int], ir.Value]
#: Operator → its rule.
RULES: dict[str, Rule] = {}
#: Rules that need the gradients of all of a node's outputs, None where nothing depends on one.
SEVERAL = {"Split"}


class NoRule(Exception):  # noqa: N818 - an answer, caught where a cut is chosen
    """There is no rule for a node, or not for this form of it; ``str`` says which."""


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Enter a function into the table."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return enter


def source(node: ir.Node, i: int = 0) -> tuple[ir.Value, ir.Value]:
    """(x, y): a node's input and its first output."""
    return cast(ir.Value, node.inputs[i]), node.outputs[0]


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, or ``default``."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def array(value: ir.Value | None) -> Array | None:
    """A constant's values; None where it is none."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def number(value: ir.Value | None) -> float | None:
    """A constant of one element."""
    values = array(value)
    return float(values.item()) if values is not None and values.size == 1 else None


def integers(node: ir.Node, place: int, name: str = "") -> list[int] | None:
    """A constant list of integers: the input at ``place``, else the attribute ``name``."""
    value = node.inputs[place] if place < len(node.inputs) else None
    if value is None:
        found = attribute(node, name, None)
        return None if found is None else list(found)
    values = array(value)
    if values is None:
        raise NoRule(f"{node.op_type} whose {name or 'bounds'} depend on the sample")
    return [int(v) for v in np.atleast_1d(values).ravel()]


def axes_of(node: ir.Node, rank: int) -> list[int]:
    """The axes of a reduction, all of them where none are named, counted from the front."""
    axes = integers(node, 1, "axes")
    if not axes:
        return [] if attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted(a % rank for a in axes)
