"""dripgate: decide on the device, sample by sample, what is worth keeping for retraining.

Names are resolved when first used, so that ``import dripgate`` loads neither torch nor
onnxruntime, and a device needs only what it uses.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# onnxruntime (1.32 on Linux) tells Microsoft about each session, unless this stands in the
# environment before it is loaded; its own disable_telemetry_events() comes too late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from dripgate.adapting.learning import adapt as adapt
    from dripgate.gate import Gate as Gate
    from dripgate.models import fit as fit
    from dripgate.policy import Policy as Policy
    from dripgate.policy import Rules as Rules
    from dripgate.policy import parse_allowance as parse_allowance
    from dripgate.store import Store as Store
    from dripgate.stream.account import account as account
    from dripgate.stream.loop import run as run
    from dripgate.stream.sources import watch as watch
    from dripgate.training.retrain import retrain as retrain
    from dripgate.types import Decision as Decision
    from dripgate.types import Reason as Reason
    from dripgate.types import Sample as Sample
    from dripgate.types import Verdict as Verdict

_HOMES = {
    "Gate": "dripgate.gate",
    "Policy": "dripgate.policy",
    "Rules": "dripgate.policy",
    "parse_allowance": "dripgate.policy",
    "Store": "dripgate.store",
    "account": "dripgate.stream.account",
    "run": "dripgate.stream.loop",
    "watch": "dripgate.stream.sources",
    "adapt": "dripgate.adapting.learning",
    "fit": "dripgate.models",
    "retrain": "dripgate.training.retrain",
    "Decision": "dripgate.types",
    "Reason": "dripgate.types",
    "Sample": "dripgate.types",
    "Verdict": "dripgate.types",
}
__all__ = [
    "Decision", "Gate", "Policy", "Reason", "Rules", "Sample", "Store", "Verdict", "account",
    "adapt", "fit", "parse_allowance", "retrain", "run", "watch",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dripgate' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
