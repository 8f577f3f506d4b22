"""What the default rule is asked to reach, and whether it does: the missed first."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dripgate.bench.plan import PAPER, plan_for
from dripgate.bench.rows import Keep, Row
from dripgate.bench.rules import DEFAULT
from dripgate.bench.tables import FULL, RANDOM, Mean, Table, asked_for, head, line, saved

#: What the default rule is measured against: label-free, one pass, not made of heatmaps.
BASELINES = (
    RANDOM, "every_nth", "class_random", "max_softmax", "entropy", "margin", "max_logit", "energy",
    "novelty", "sieve", "vessal", "biqf_margin",
)  # fmt: skip
BROKEN_KEEPS: tuple[Keep, ...] = (0.3, "auto")


class Bar(NamedTuple):
    """met: None where one seed cannot say: differences are judged by their intervals."""

    data: str
    asked: str
    found: str
    met: bool | None


def lines(rows: Sequence[Row]) -> list[str]:
    """The bars of a table as Markdown, the missed first."""
    table = Table(rows)
    found = paper(table) if _at_paper_scale(rows) else small(table)
    said = {True: "yes", False: "**no**", None: "one seed cannot say"}
    order = {False: 0, None: 1, True: 2}
    count = sum(bar.met is False for bar in found)
    first = f"{count} of {len(found)} missed."
    return [first, "", *head("data", "asked", "found", "met")] + [
        line(bar.data, bar.asked, bar.found, said[bar.met])
        for bar in sorted(found, key=lambda bar: order[bar.met])
    ]


def _at_paper_scale(rows: Sequence[Row]) -> bool:
    return all(
        row.data in PAPER and row.plan == _paper_plan(row.data, row.steps, row.dtype)
        for row in rows
    )


def _paper_plan(data: str, steps: int, dtype: str) -> str:
    return plan_for(data, "paper", steps, "bfloat16" if dtype == "bfloat16" else "float32").id


def paper(table: Table) -> list[Bar]:
    """The bars for whole data sets."""
    clean = {"condition": "clean", "protocol": "retrain"}
    found = [bar for data in table.names("data") for bar in _paper(table, {"data": data} | clean)]
    chance = table.pick(**clean, rule=RANDOM, keep_target=0.61)
    mine = table.pick(**clean, rule=DEFAULT, keep_target=0.61)
    found += _compared(table, "all together", "61 %: above random", mine, chance, strict=True)
    return found


def _paper(table: Table, clean: dict[str, str]) -> Iterator[Bar]:
    data, full = clean["data"], table.pick(**clean, rule=FULL)
    keeps: tuple[Keep, ...] = (0.61, 0.3, "auto")
    for keep in keeps:
        mine = table.pick(**clean, rule=DEFAULT, keep_target=keep)
        asked = asked_for(keep)
        if keep == "auto":
            gap = table.difference(mine, full)
            if gap is not None:
                yield Bar(data, "auto: at most 0.5 points below full", gap.points("+"),
                          gap.value >= -0.005 if gap.n > 1 else None)  # fmt: skip
            continue
        yield from _compared(table, data, f"{asked}: not below full", mine, full)
        margin = table.pick(**clean, rule="margin", keep_target=keep)
        yield from _compared(table, data, f"{asked}: not below margin", mine, margin)
        if keep == 0.3:
            chance = table.pick(**clean, rule=RANDOM, keep_target=keep)
            yield from _compared(table, data, f"{asked}: above random", mine, chance, strict=True)
    yield from _saved(table, data, 0.7)


def small(table: Table) -> list[Bar]:
    """The bars for parts of data sets."""
    return [bar for data in table.names("data") for bar in _small(table, data)]


def _small(table: Table, data: str) -> Iterator[Bar]:
    clean = {"data": data, "condition": "clean", "protocol": "retrain"}
    full = table.pick(**clean, rule=FULL)

    def ours(keep: Keep) -> list[Row]:
        return table.pick(**clean, rule=DEFAULT, keep_target=keep)

    chance = table.pick(**clean, rule=RANDOM, keep_target=0.61)
    yield from _compared(table, data, "61 %: not below full", ours(0.61), full)
    yield from _compared(table, data, "61 %: above random", ours(0.61), chance, strict=True)
    for keep in (0.61, 0.3, 0.1):
        if best := _best_baseline(table, clean, keep):
            asked = f"{asked_for(keep)}: not below the best label-free baseline ({best[0].rule})"
            yield from _compared(table, data, asked, ours(keep), best)
    for keep in (0.3, 0.1):
        asked = f"{asked_for(keep)}: not below class-balanced random"
        balanced = table.pick(**clean, rule="class_random", keep_target=keep)
        yield from _compared(table, data, asked, ours(keep), balanced)
    yield from _saved(table, data, 0.39)
    for target in BROKEN_KEEPS:
        broken = table.pick(data=data, condition="broken30", rule=DEFAULT, keep_target=target)
        if broken:
            dropped = 1 - Mean.of(row.broken_kept or 0.0 for row in broken).value
            asked = f"broken 30 %, {asked_for(target)}"
            yield Bar(data, f"{asked}: 95 % of the broken not kept", f"{100 * dropped:.1f} %",
                      dropped >= 0.95)  # fmt: skip
            yield from _compared(table, data, f"{asked}: accuracy as clean", broken, ours(target))


def _compared(
    table: Table, data: str, asked: str, mine: Sequence[Row], others: Sequence[Row],
    strict: bool = False,
) -> Iterator[Bar]:  # fmt: skip
    """Whether mine are above others by more than the interval, or else not below by more."""
    gap = table.difference(mine, others)
    if gap is not None:
        met = gap.value - gap.half > 0 if strict else gap.value + gap.half >= 0
        yield Bar(data, asked, gap.points("+"), met if gap.n > 1 else None)


def _saved(table: Table, data: str, least: float) -> Iterator[Bar]:
    share = saved(table, data, DEFAULT)
    if share is not None:
        asked = f"saved at equal accuracy: more than {100 * least:.0f} %"
        yield Bar(data, asked, f"{100 * share:.0f} %", share > least)


def _best_baseline(table: Table, clean: dict[str, str], keep: Keep) -> list[Row]:
    found = [table.pick(**clean, rule=rule, keep_target=keep) for rule in BASELINES]
    found = [rows for rows in found if rows]
    return max(found, key=lambda rows: Mean.of(row.accuracy for row in rows).value, default=[])
