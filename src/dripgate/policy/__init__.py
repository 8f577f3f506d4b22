"""The policy: what turns a gate's verdicts into what a device can afford, and can answer for."""

from dripgate.policy.drift import ALARM, Alarm, Drift, DriftAlarm, cells_of, compare
from dripgate.policy.estimate import Estimates, Interval, Seen, Stream, estimate
from dripgate.policy.policy import Policy
from dripgate.policy.rules import Allowance, Rules, parse_allowance

__all__ = [
    "ALARM", "Alarm", "Allowance", "Drift", "DriftAlarm", "Estimates", "Interval", "Policy",
    "Rules", "Seen", "Stream", "cells_of", "compare", "estimate", "parse_allowance",
]  # fmt: skip
