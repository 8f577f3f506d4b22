"""The chain rule, one short function per operator (see table.Rule)."""

from dripgate.graph.rules import elementwise, linear, move, norm, pool
from dripgate.graph.rules.table import RULES, SEVERAL, NoRule, Rule

__all__ = ["RULES", "SEVERAL", "NoRule", "Rule", "elementwise", "linear", "move", "norm", "pool"]
