"""The chain rule of elementwise operators: g · f'(x), summed where an operand was repeated."""

import math

import onnx_ir as ir

from dripgate.graph.builder import Builder
from dripgate.graph.rules.table import attribute, number, rule, source

_SELU = (1.6732632423543772, 1.0507009873554805)


@rule("Add", "Sub", "Sum", "Mean")
def _sum(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = a + b, a - b, Σ or mean: ∂y/∂x = ±1, or one over their number."""
    x, y = source(node, i)
    factor = {"Sub": 1 - 2 * i, "Mean": 1 / len(node.inputs)}.get(node.op_type, 1)
    g = b.unary("Neg", g) if factor == -1 else b.mul(g, factor)
    return b.sum_to(g, b.shapes[y], b.shapes[x])


@rule("Mul")
def _mul(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = a · b: ∂y/∂a = b."""
    x, y = source(node, i)
    other, _ = source(node, 1 - i)
    return b.sum_to(b.mul(g, other), b.shapes[y], b.shapes[x])


@rule("Div")
def _div(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = a / b: ∂y/∂a = 1 / b, ∂y/∂b = -y / b."""
    x, y = source(node, i)
    divisor, _ = source(node, 1)
    g = g if i == 0 else b.unary("Neg", b.mul(g, y))
    return b.sum_to(b.div(g, divisor), b.shapes[y], b.shapes[x])


@rule("Pow")
def _pow(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = x^p: ∂y/∂x = p · x^(p - 1); ∂y/∂p = y · log x."""
    x, y = source(node, 0)
    power, _ = source(node, 1)
    p = number(power)
    if i == 1:
        slope = b.mul(y, b.unary("Log", x))
        return b.sum_to(b.mul(g, slope), b.shapes[y], b.shapes[power])
    if p == 2:
        return b.sum_to(b.mul(g, b.mul(x, 2.0)), b.shapes[y], b.shapes[x])
    less = b.sub(power, 1.0) if p is None else b.constant(p - 1)
    slope = b.mul(b.binary("Pow", x, less), power)
    return b.sum_to(b.mul(g, slope), b.shapes[y], b.shapes[x])


@rule("Min", "Max")
def _extreme(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """The gradient goes to the operand that is the result."""
    x, y = source(node, i)
    chosen = b.binary("Equal", x, y)
    flags = b.unary("Cast", chosen, to=ir.DataType.FLOAT)
    return b.sum_to(b.mul(g, flags), b.shapes[y], b.shapes[x])


@rule("Where")
def _where(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = a where the condition holds, else b."""
    x, y = source(node, i)
    condition, _ = source(node, 0)
    flags = b.unary("Cast", condition, to=ir.DataType.FLOAT)
    if i == 2:
        flags = b.binary("Sub", b.constant(1.0), flags)
    return b.sum_to(b.mul(g, flags), b.shapes[y], b.shapes[x])


@rule("Neg")
def _neg(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = -x."""
    return b.unary("Neg", g)


@rule("Abs")
def _abs(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = |x|: y' = sign x."""
    return b.mul(g, b.unary("Sign", source(node)[0]))


@rule("Sign", "Floor", "Ceil", "Round")
def _steps(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Steps are flat: y' = 0."""
    return b.mul(g, 0.0)


@rule("Sqrt")
def _sqrt(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = √x: y' = 1 / 2y."""
    return b.div(b.mul(g, 0.5), source(node)[1])


@rule("Reciprocal")
def _reciprocal(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = 1 / x: y' = -y²."""
    y = source(node)[1]
    return b.unary("Neg", b.mul(g, b.mul(y, y)))


@rule("Exp")
def _exp(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = eˣ: y' = y."""
    return b.mul(g, source(node)[1])


@rule("Log")
def _log(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = log x: y' = 1 / x."""
    return b.div(g, source(node)[0])


@rule("Sin", "Cos")
def _wave(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """sin' = cos, cos' = -sin."""
    x = source(node)[0]
    if node.op_type == "Sin":
        return b.mul(g, b.unary("Cos", x))
    return b.unary("Neg", b.mul(g, b.unary("Sin", x)))


@rule("Tanh")
def _tanh(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y' = 1 - y²."""
    y = source(node)[1]
    return b.mul(g, _one_minus(b, b.mul(y, y)))


@rule("Sigmoid")
def _sigmoid(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y' = y · (1 - y)."""
    y = source(node)[1]
    return b.mul(g, b.mul(y, _one_minus(b, y)))


@rule("Erf")
def _erf(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y' = 2 / √π · exp(-x²)."""
    x = source(node)[0]
    bell = b.unary("Exp", b.unary("Neg", b.mul(x, x)))
    return b.mul(g, b.mul(bell, 2 / math.sqrt(math.pi)))


@rule("Softplus")
def _softplus(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = log(1 + eˣ): y' = sigmoid x."""
    return b.mul(g, b.unary("Sigmoid", source(node)[0]))


@rule("Softsign")
def _softsign(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = x / (1 + |x|): y' = 1 / (1 + |x|)²."""
    below = b.add(b.unary("Abs", source(node)[0]), 1.0)
    return b.div(g, b.mul(below, below))


@rule("Relu")
def _relu(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = max(x, 0): y' = sign y, which is 0 or 1."""
    return b.mul(g, b.unary("Sign", source(node)[1]))


@rule("LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "ThresholdedRelu")
def _rectifiers(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """1 where x > 0 (or the threshold), else the slope of the other branch.

    Leaky: α. Elu α(eˣ - 1): y + α. Selu: γ, and y + αγ. Celu α(e^(x/α) - 1): y/α + 1.
    """
    x, y = source(node)
    kind, alpha = node.op_type, attribute(node, "alpha", 0.01 if node.op_type == "LeakyRelu" else 1)
    if kind == "ThresholdedRelu":
        return b.mul(g, b.mask("Greater", x, alpha))
    above = 1.0
    if kind == "LeakyRelu":
        below: ir.Value = b.constant(alpha)
    elif kind == "PRelu":
        below = source(node, 1)[0]
    elif kind == "Celu":
        below = b.add(b.div(y, alpha), 1.0)
    else:
        if kind == "Selu":
            alpha, above = (attribute(node, n, d) for n, d in zip(("alpha", "gamma"), _SELU))  # noqa: B905
            alpha *= above
        below = b.add(y, alpha)
    positive = b.binary("Greater", x, 0.0)
    slope = b("Where", positive, b.constant(above), below, shape=b.shapes[x])
    return b.mul(g, slope)


@rule("HardSigmoid", "HardSwish")
def _hard(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """s = clip(αx + β, 0, 1) has slope α inside; x · s has s + x · s'."""
    x, _ = source(node)
    swish = node.op_type == "HardSwish"
    alpha = 1 / 6 if swish else attribute(node, "alpha", 0.2)
    beta = 0.5 if swish else attribute(node, "beta", 0.5)
    away = b.unary("Abs", b.sub(x, (0.5 - beta) / alpha))  # from the middle of the slope
    slope = b.mul(b.mask("Less", away, 0.5 / alpha), alpha)
    if swish:
        gate = b.unary("HardSigmoid", x, alpha=alpha, beta=beta)
        slope = b.add(gate, b.mul(x, slope))
    return b.mul(g, slope)


@rule("Swish")
def _swish(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = x · s, s = sigmoid(αx): y' = s + α · y · (1 - s)."""
    x, y = source(node)
    alpha = attribute(node, "alpha", 1.0)
    s = b.unary("Sigmoid", b.mul(x, alpha))
    return b.mul(g, b.add(s, b.mul(b.mul(y, _one_minus(b, s)), alpha)))


@rule("Mish")
def _mish(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """y = x · t, t = tanh(softplus x): y' = t + x · sigmoid(x) · (1 - t²)."""
    x, _ = source(node)
    t = b.unary("Tanh", b.unary("Softplus", x))
    slope = b.mul(b.mul(x, b.unary("Sigmoid", x)), _one_minus(b, b.mul(t, t)))
    return b.mul(g, b.add(t, slope))


@rule("Gelu")
def _gelu(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """x · Φ(x): Φ + x · φ; by tanh: y = x/2 · (1 + t), t = tanh(√(2/π)(x + 0.044715x³))."""
    x, _ = source(node)
    square = b.mul(x, x)
    if str(attribute(node, "approximate", "none")) == "tanh":
        c = math.sqrt(2 / math.pi)
        t = b.unary("Tanh", b.mul(x, b.add(b.mul(square, 0.044715 * c), c)))
        inner = b.mul(x, b.add(b.mul(square, 3 * 0.044715 * c), c))
        slope = b.mul(b.mul(inner, _one_minus(b, b.mul(t, t))), 0.5)
        return b.mul(g, b.add(slope, b.mul(b.add(t, 1.0), 0.5)))
    below = b.add(b.mul(b.unary("Erf", b.mul(x, math.sqrt(0.5))), 0.5), 0.5)
    bell = b.mul(b.unary("Exp", b.mul(square, -0.5)), 1 / math.sqrt(2 * math.pi))
    return b.mul(g, b.add(below, b.mul(x, bell)))


@rule("Clip")
def _clip(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """1 strictly inside the bounds: there y is neither."""
    _, y = source(node)
    for operator, bound in zip(("Greater", "Less"), node.inputs[1:], strict=False):
        if bound is not None:
            g = b.mul(g, b.mask(operator, y, bound))
    return g


@rule("QuantizeLinear", "DequantizeLinear", "Cast", "Identity", "Dropout")
def _straight_through(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Rounding counts as the identity (Bengio et al., "Estimating or propagating …", 2013)."""
    return g


def _one_minus(b: Builder, x: ir.Value) -> ir.Value:
    return b.binary("Sub", b.constant(1.0), x)
