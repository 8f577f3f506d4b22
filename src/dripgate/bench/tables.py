"""Means, intervals and paired differences of rows, as Markdown."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t

from dripgate.bench.rows import Keep, Row
from dripgate.bench.rules import DEFAULT

FULL, RANDOM = "full", "random"


class Mean(NamedTuple):
    """A mean over seeds with the half width of its 95 % interval (Student's t), NaN for one seed.

    error: the mean's standard error.
    """

    value: float
    half: float
    error: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Mean":
        """Of at least one value."""
        found = np.array(list(values), float)
        n = len(found)
        error = float(found.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
        return cls(float(found.mean()), float(t.ppf(0.975, n - 1)) * error, error, n)

    def points(self, sign: str = "") -> str:
        """In percentage points with its interval: '61.2 ± 0.8'."""
        interval = "" if np.isnan(self.half) else f" ± {100 * self.half:.1f}"
        return f"{100 * self.value:{sign}.1f}{interval}"


class Table:
    """Rows of one kind of net and protocol, by what they are asked for."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def pick(self, **fields: object) -> list[Row]:
        """Rows with these values, in the order of seeds."""
        found = [r for r in self.rows if all(getattr(r, k) == v for k, v in fields.items())]
        return sorted(found, key=lambda row: row.seed)

    def names(self, field: str, **fields: object) -> list[str]:
        """The different values of a field, in the order in which they first appear."""
        return list(dict.fromkeys(getattr(row, field) for row in self.pick(**fields)))

    def keeps(self, **fields: object) -> list[Keep]:
        """The shares that rules were asked to keep, from large to small, then auto."""
        found = {row.keep_target for row in self.pick(**fields) if row.rule != FULL}
        auto: list[Keep] = ["auto"] if "auto" in found else []
        return [*sorted((keep for keep in found if keep != "auto"), reverse=True), *auto]

    def difference(self, rows: Sequence[Row], others: Sequence[Row]) -> Mean | None:
        """Accuracy of rows minus that of others, by data set and seed; None where none has both."""
        theirs = {(row.data, row.seed): row.accuracy for row in others}
        pairs = [(row.accuracy, theirs.get((row.data, row.seed))) for row in rows]
        paired = [ours - other for ours, other in pairs if other is not None]
        return Mean.of(paired) if paired else None


BROKEN_KEEPS: tuple[Keep, ...] = (0.3, "auto")


def saved(table: Table, data: str, rule: str) -> float | None:
    """Share of the stream that need not be stored for the accuracy of storing everything.

    The curve through the measured shares is followed down from everything, to where it crosses
    full minus one standard error of full. Below the smallest measured share nothing is claimed.
    None where the rule was not tried at every share that others were.
    """
    clean = {"data": data, "condition": "clean", "protocol": "retrain"}
    full = table.pick(**clean, rule=FULL)
    if not full:
        return None
    reference = Mean.of(row.accuracy for row in full)
    bar = reference.value - (0 if np.isnan(reference.error) else reference.error)
    kept, accuracy = 1.0, reference.value
    for keep in (k for k in table.keeps(**clean) if k != "auto"):
        rows = table.pick(**clean, rule=rule, keep_target=keep)
        if not rows:
            return None
        next_kept = float(np.mean([row.kept for row in rows]))
        next_accuracy = float(np.mean([row.accuracy for row in rows]))
        if next_accuracy < bar:
            part = (accuracy - bar) / (accuracy - next_accuracy)
            return 1 - (kept + part * (next_kept - kept))
        kept, accuracy = next_kept, next_accuracy
    return None if kept == 1.0 else 1 - kept


def markdown(rows: Sequence[Row]) -> str:
    """The whole report, without the plots."""
    table = Table(rows)
    parts = ["# Benchmark results", "", _cost(rows)]
    parts += ["", "## The bar", "", *_bar(table)]
    parts += ["", "## Storage saved at equal accuracy", "", *_saved(table)]
    parts += _together(table)
    for data in table.names("data"):
        parts += ["", f"## {data}", "", *_clean(table, data), *_conditions(table, data)]
    return "\n".join(parts) + "\n"


def _cost(rows: Sequence[Row]) -> str:
    seeds = len({row.seed for row in rows})
    hours = sum(row.seconds for row in rows) / 3600
    return (
        f"{len(rows)} rows, {seeds} seeds, {hours:.1f} core hours. Accuracies in %, mean over "
        "seeds with 95 % intervals (Student's t); differences are paired by seed, in points."
    )


def _together(table: Table) -> list[str]:
    """Differences over all data sets, of the rules that all of them have."""
    clean = {"condition": "clean", "protocol": "retrain"}
    count = len(table.names("data"))
    if count < 2:
        return []
    full = table.pick(**clean, rule=FULL)
    lines = ["", "## All data sets together", "",
             "Differences paired by data set and seed, in points: which rule, if one must choose "
             "one for all."]  # fmt: skip
    for keep in table.keeps(**clean):
        chance = table.pick(**clean, rule=RANDOM, keep_target=keep)
        found = []
        for rule in table.names("rule", **clean, keep_target=keep):
            rows = table.pick(**clean, rule=rule, keep_target=keep)
            gap = table.difference(rows, chance)
            if gap is not None and len({row.data for row in rows}) == count:
                found.append((gap.value, rule, rows))
        if not found:
            continue
        lines += ["", f"**Asked for {asked_for(keep)}**", ""]
        lines += _head("rule", "kept %", "− random", "− full", "pairs")
        for _, rule, rows in sorted(found, reverse=True, key=lambda one: one[0]):
            lines.append(_line(
                _name(rule, rows), _kept(rows), _difference(table, rows, chance),
                _difference(table, rows, full), f"{len(rows)}",
            ))  # fmt: skip
    return lines


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(*cells: str) -> list[str]:
    return [_line(*cells), _line(*("---" for _ in cells))]


def asked_for(keep: Keep) -> str:
    """In words: '30 %'."""
    return "auto" if keep == "auto" else f"{100 * keep:.0f} %"


def _clean(table: Table, data: str) -> list[str]:
    lines: list[str] = []
    common = {"data": data, "condition": "clean"}
    full = table.pick(**common, protocol="retrain", rule=FULL)
    if full:
        steps, stream = full[0].steps, full[0].stream
        lines += [
            f"Everything kept: {_accuracy(full)}; worst class {_worst(full)}; stream of "
            f"{stream:,}; {steps:,} steps for every row.",
        ]  # fmt: skip
    for protocol, title in (("retrain", ""), ("alone", ", trained on the kept part alone")):
        everything = table.pick(**common, protocol=protocol, rule=FULL)
        for keep in table.keeps(**common, protocol=protocol):
            rules = table.names("rule", **common, protocol=protocol, keep_target=keep)
            lines += ["", f"**Asked for {asked_for(keep)}{title}**", ""]
            lines += _head("rule", "kept %", "accuracy", "− full", "− random", "worst class")
            chance = table.pick(**common, protocol=protocol, rule=RANDOM, keep_target=keep)
            found = {
                rule: table.pick(**common, protocol=protocol, rule=rule, keep_target=keep)
                for rule in rules
            }
            for rule in sorted(rules, key=lambda rule: -_mean(found[rule]).value):
                rows = found[rule]
                lines.append(_line(
                    _name(rule, rows), _kept(rows), _accuracy(rows),
                    _difference(table, rows, everything), _difference(table, rows, chance),
                    _worst(rows),
                ))  # fmt: skip
    return lines


def _conditions(table: Table, data: str) -> list[str]:
    hard = [c for c in table.names("condition", data=data) if c != "clean"]
    if not hard:
        return []
    lines = ["", "**Hard streams**", ""]
    lines += _head(
        "condition", "asked for", "rule", "kept %", "accuracy", "− random", "− clean",
        "worst class", "broken kept %", "scenes kept %",
    )  # fmt: skip
    for condition in hard:
        for keep in table.keeps(data=data, condition=condition):
            common = {"data": data, "protocol": "retrain", "keep_target": keep}
            chance = table.pick(**common, condition=condition, rule=RANDOM)
            for rule in table.names("rule", **common, condition=condition):
                rows = table.pick(**common, condition=condition, rule=rule)
                clean = table.pick(**common, condition="clean", rule=rule)
                broken = [row.broken_kept for row in rows if row.broken_kept is not None]
                lines.append(_line(
                    condition, asked_for(keep), _name(rule, rows), _kept(rows),
                    _accuracy(rows), _difference(table, rows, chance),
                    _difference(table, rows, clean),
                    _worst(rows), f"{100 * Mean.of(broken).value:.1f}" if broken else "",
                    f"{100 * Mean.of(row.scenes_kept for row in rows).value:.0f}",
                ))  # fmt: skip
    return lines


def _saved(table: Table) -> list[str]:
    names = table.names("data")
    lines = _head("rule", *names)
    for rule in table.names("rule", condition="clean", protocol="retrain"):
        shares = [saved(table, data, rule) for data in names]
        if rule != FULL and any(share is not None for share in shares):
            said = ("" if share is None else f"{100 * share:.0f} %" for share in shares)
            lines.append(_line(rule, *said))
    return lines


def _bar(table: Table) -> list[str]:
    """What the default rule is asked to reach, and whether it does."""
    lines = _head("data", "asked", "found", "met")
    for data in table.names("data"):
        for asked, found, met in bars(table, data):
            said = {True: "yes", False: "**no**", None: "one seed cannot say"}[met]
            lines.append(_line(data, asked, found, said))
    return lines


def bars(table: Table, data: str) -> list[tuple[str, str, bool | None]]:
    """(what is asked, what was found, whether it is met) for the default rule on one data set.

    A difference is judged by its interval, so one seed decides nothing: None.
    """
    clean = {"data": data, "condition": "clean", "protocol": "retrain"}
    full = table.pick(**clean, rule=FULL)

    def ours(keep: Keep) -> list[Row]:
        return table.pick(**clean, rule=DEFAULT, keep_target=keep)

    found: list[tuple[str, str, bool | None]] = []

    def compare(
        asked: str, keep: Keep, others: Sequence[Row], strict: bool = False,
        mine: Sequence[Row] | None = None,
    ) -> None:  # fmt: skip
        gap = table.difference(ours(keep) if mine is None else mine, others)
        if gap is not None:
            met = gap.value - gap.half > 0 if strict else gap.value + gap.half >= 0
            found.append((asked, gap.points("+"), met if gap.n > 1 else None))

    compare("61 %: not below full", 0.61, full)
    compare(
        "61 %: above random", 0.61, table.pick(**clean, rule=RANDOM, keep_target=0.61), strict=True
    )
    for keep in (0.61, 0.3, 0.1):
        if best := _best_baseline(table, clean, keep):
            compare(f"{asked_for(keep)}: not below the best label-free baseline ({best[0].rule})",
                    keep, best)  # fmt: skip
    for keep in (0.3, 0.1):
        compare(f"{asked_for(keep)}: not below class-balanced random", keep,
                table.pick(**clean, rule="class_random", keep_target=keep))  # fmt: skip
    share = saved(table, data, DEFAULT)
    if share is not None:
        asked = "saved at equal accuracy: more than 39 %"
        found.append((asked, f"{100 * share:.0f} %", share > 0.39))
    for target in BROKEN_KEEPS:
        broken = table.pick(data=data, condition="broken30", rule=DEFAULT, keep_target=target)
        if broken:
            dropped = 1 - Mean.of(row.broken_kept or 0.0 for row in broken).value
            found.append((f"broken 30 %, {asked_for(target)}: 95 % of the broken not kept",
                          f"{100 * dropped:.1f} %", dropped >= 0.95))  # fmt: skip
            compare(f"broken 30 %, {asked_for(target)}: accuracy as clean", target, ours(target),
                    mine=broken)  # fmt: skip
    return found


#: What the default rule is measured against: label-free, one pass, not made of heatmaps.
BASELINES = (
    RANDOM, "class_random", "max_softmax", "entropy", "margin", "max_logit", "energy", "novelty",
    "sieve", "vessal", "biqf_margin",
)  # fmt: skip


def _best_baseline(table: Table, clean: dict[str, str], keep: Keep) -> list[Row]:
    found = [table.pick(**clean, rule=rule, keep_target=keep) for rule in BASELINES]
    found = [rows for rows in found if rows]
    return max(found, key=lambda rows: _mean(rows).value) if found else []


def _mean(rows: Sequence[Row]) -> Mean:
    return Mean.of(row.accuracy for row in rows)


def _accuracy(rows: Sequence[Row]) -> str:
    return _mean(rows).points()


def _worst(rows: Sequence[Row]) -> str:
    return Mean.of(row.worst_class_accuracy for row in rows).points()


def _kept(rows: Sequence[Row]) -> str:
    return f"{100 * Mean.of(row.kept for row in rows).value:.1f}"


def _name(rule: str, rows: Sequence[Row]) -> str:
    bold = f"**{rule}**" if rule == DEFAULT else rule
    return f"{bold} (needs labels)" if rows[0].needs_labels else bold


def _difference(table: Table, rows: Sequence[Row], others: Sequence[Row]) -> str:
    gap = table.difference(rows, others)
    return "" if gap is None or rows is others else gap.points("+")
