"""How much of each data set, which net, how many steps; and which rows make the table."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from dripgate.bench.conditions import Condition
from dripgate.bench.rows import Keep, Protocol
from dripgate.bench.rules import DEFAULT, RULES
from dripgate.heatmap import DEFAULT_SCORE

Preset = Literal["quick", "full"]
#: Changes when the protocol does, so that old rows are not taken for new ones.
_PROTOCOL = 1


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How one data set is used.

    net: of bench.nets. initial, stream, test: samples. steps: of every training, of ``batch``
    samples each. size: side that images are resized to, None leaves them.
    """

    net: str = "resnet6"
    initial: int = 1000
    stream: int = 3000
    test: int = 5000
    steps: int = 1200
    batch: int = 64
    lr: float = 0.1
    flip: bool = False
    shift: tuple[float, float] = (0.125, 0.125)
    size: int | None = None

    @property
    def id(self) -> str:
        """Eight hex digits that change with the plan and the protocol."""
        text = msgspec.json.encode((_PROTOCOL, self))
        return hashlib.sha256(text).hexdigest()[:8]


QUICK = {
    "digits": Plan(initial=300, stream=900, steps=25, batch=32, shift=(0.1, 0.1)),
    "mnist": Plan(
        net="lenet", initial=600, stream=5400, test=10_000, steps=1000, lr=0.05, shift=(0.07, 0.07)
    ),
    "cifar10": Plan(flip=True, test=10_000),
    "plantvillage": Plan(flip=True, size=32),
    "speechcommands": Plan(steps=800, shift=(0.125, 0.0)),
}
FULL = {
    name: msgspec.structs.replace(
        plan, net="resnet18", initial=10_000, stream=50_000, test=10_000, steps=8000, batch=128
    )
    for name, plan in QUICK.items()
}
_PLANS: dict[Preset, dict[str, Plan]] = {"quick": QUICK, "full": FULL}


def plan_for(data: str, preset: Preset = "quick", steps: int | None = None) -> Plan:
    """The plan of a named data set; for any other, that of CIFAR-10 without mirroring.

    steps: of every training, in place of the plan's.
    """
    plans = _PLANS[preset]
    plan = plans.get(data) or msgspec.structs.replace(plans["cifar10"], flip=False)
    return plan if steps is None else msgspec.structs.replace(plan, steps=steps)


class Cell(NamedTuple):
    """One row to be made."""

    condition: Condition
    protocol: Protocol
    rule: str
    keep: Keep


KEEPS: tuple[Keep, ...] = (0.3, 0.1, 0.61, "auto")
#: Rules that are tried at every kept share; all others at 30 %.
MAIN = (
    "random", "class_random", "margin", "entropy", "novelty", "el2n", DEFAULT_SCORE,
    "evidence_mean", DEFAULT,
)  # fmt: skip
BESIDE = ("random", "margin", DEFAULT)
#: The two cheapest data sets are tried under every condition, as is what users bring.
DEAR = ("cifar10", "plantvillage")
HARD: tuple[Condition, ...] = (
    "broken10", "label_noise", "long_tail", "duplicates", "new_class", "drift"
)  # fmt: skip


def table(data: str) -> list[Cell]:
    """The rows of the committed table, most telling first."""
    return list(dict.fromkeys(_table(data)))


def _table(data: str) -> Iterator[Cell]:
    yield Cell("clean", "retrain", "full", 1.0)
    for keep in KEEPS:
        yield from (Cell("clean", "retrain", rule, keep) for rule in MAIN)
    for keep in (0.3, "auto"):
        yield from (Cell("broken30", "retrain", rule, keep) for rule in BESIDE)
    yield Cell("clean", "alone", "full", 1.0)
    yield from (Cell("clean", "alone", rule, 0.3) for rule in BESIDE)
    if data not in DEAR:
        for condition in HARD:
            yield from (Cell(condition, "retrain", rule, 0.3) for rule in BESIDE)
    yield from (Cell("clean", "retrain", rule, 0.3) for rule in RULES if rule != "full")


def crossed(
    conditions: Sequence[Condition], rules: Sequence[str], keeps: Sequence[Keep]
) -> list[Cell]:
    """Every rule at every share under every condition; "full" once per condition."""
    return list(dict.fromkeys(
        Cell(condition, "retrain", rule, 1.0 if rule == "full" else keep)
        for condition in conditions for keep in keeps for rule in rules
    ))  # fmt: skip
