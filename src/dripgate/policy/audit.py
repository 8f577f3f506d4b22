"""The audit: a few samples are kept whatever their score, at a rate that is known.

Without it nobody can say what was dropped. The rate of each sample is fixed before the sample is
looked at, and stored with it as its propensity; ``estimate`` makes numbers of both.
"""

from dripgate.policy.budget import Pace, Purse
from dripgate.policy.rules import Rules
from dripgate.types import Sample

#: Part of every budget that belongs to the audit, and to quarantine.
AUDIT_PART, QUARANTINE_PART = 0.1, 0.05
#: Largest part of a target share that the audit may take.
_PART_OF_KEEP = 0.25


def capped(rules: Rules) -> float:
    """The rate that is asked for, and that a small share leaves room for."""
    return rules.audit if rules.keep is None else min(rules.audit, _PART_OF_KEEP * rules.keep)


def affordable(rate: float, purse: Purse, pace: Pace, sample: Sample) -> float:
    """The probability with which this sample is kept for the audit alone.

    It falls where the budget cannot pay for it; 0 means that nobody will know about this sample.
    """
    if not purse.buckets:
        return rate
    return min(rate, purse.share(pace)) if purse.affords(sample, pace) else 0.0
