"""The demo: the whole loop, small, with everything, random and margin beside it."""

from dripgate.demo.loop import ROWS, Result, demo
from dripgate.demo.plan import PLANS, Plan, split

__all__ = ["PLANS", "ROWS", "Plan", "Result", "demo", "split"]
