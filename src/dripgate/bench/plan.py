"""How much of each data set, which net, how many steps; and which rows make the table."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from dripgate.bench.conditions import Condition
from dripgate.bench.rows import Keep, Protocol
from dripgate.bench.rules import DEFAULT, RULES
from dripgate.heatmap import DEFAULT_SCORE
from dripgate.training.train import Dtype, fastest

Preset = Literal["quick", "paper"]
#: Changes when the protocol does, so that old rows are not taken for new ones.
_PROTOCOL = 1


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How one data set is used.

    net: of bench.nets. initial, stream, test: samples; of a data set with fewer, all in the same
    proportion. steps: of every training, of ``batch``
    samples each. size: side that images are resized to, None leaves them. dtype: what nets are
    trained in.
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
    dtype: Dtype = "float32"

    @property
    def id(self) -> str:
        """Eight hex digits that change with the plan and the protocol.

        float32 goes without saying, as in the rows from before there was a choice.
        """
        fields = msgspec.structs.asdict(self)
        if self.dtype == "float32":
            del fields["dtype"]
        text = msgspec.json.encode((_PROTOCOL, fields))
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
#: All of every data set, a tenth of it labelled first; nets as MLPerf Tiny has them. Steps are what
#: ``dripgate bench steps`` begins with.
PAPER = {
    "mnist": Plan(net="lenet", steps=3000, lr=0.05, shift=(0.07, 0.07)),
    "cifar10": Plan(net="resnet8", steps=5000, lr=0.2, flip=True),
    "plantvillage": Plan(net="resnet8", steps=4000, lr=0.2, flip=True, size=32),
    "speechcommands": Plan(net="dscnn", steps=3000, shift=(0.125, 0.0)),
}
PAPER = {
    name: msgspec.structs.replace(plan, initial=10_000, stream=90_000, test=100_000, batch=128)
    for name, plan in PAPER.items()
}
_PLANS: dict[Preset, dict[str, Plan]] = {"quick": QUICK, "paper": PAPER}


def plan_for(
    data: str, preset: Preset = "quick", steps: int | None = None, dtype: Dtype | None = None
) -> Plan:
    """The plan of a named data set; for any other, that of CIFAR-10 without mirroring.

    steps: of every training, in place of the plan's. dtype: in place of the preset's, which is
    float32 for the small table and what is fastest here for the paper's.
    """
    plans = _PLANS[preset]
    plan = plans.get(data) or msgspec.structs.replace(plans["cifar10"], flip=False)
    if dtype is None:
        dtype = fastest() if preset == "paper" else plan.dtype
    return msgspec.structs.replace(plan, steps=steps or plan.steps, dtype=dtype)


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


#: The paper's rows: what tells most first, and only what is worth days of a core.
PAPER_RULES = ("random", DEFAULT, "margin", "entropy", "max_softmax", "every_nth")


def paper_table() -> list[Cell]:
    """The rows of the table at the paper's scale, most telling first."""
    cells = [Cell("clean", "retrain", "full", 1.0)]
    for keep in (0.3, "auto", 0.61, 0.1):
        cells += [Cell("clean", "retrain", rule, keep) for rule in PAPER_RULES]
    return cells


def crossed(
    conditions: Sequence[Condition], rules: Sequence[str], keeps: Sequence[Keep]
) -> list[Cell]:
    """Every rule at every share under every condition; "full" once per condition."""
    return list(dict.fromkeys(
        Cell(condition, "retrain", rule, 1.0 if rule == "full" else keep)
        for condition in conditions for keep in keeps for rule in rules
    ))  # fmt: skip
