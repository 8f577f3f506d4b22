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


def markdown(rows: Sequence[Row], bar: Sequence[str] = ()) -> str:
    """The whole report, without the plots. bar: lines on what is asked, and what was found."""
    table = Table(rows)
    parts = ["# Benchmark results", "", _cost(rows)]
    parts += ["", "## The bar", "", *bar] if bar else []
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
        lines += head("rule", "kept %", "− random", "− full", "pairs")
        for _, rule, rows in sorted(found, reverse=True, key=lambda one: one[0]):
            lines.append(line(
                _name(rule, rows), _kept(rows), _difference(table, rows, chance),
                _difference(table, rows, full), f"{len(rows)}",
            ))  # fmt: skip
    return lines


def line(*cells: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(cells) + " |"


def head(*cells: str) -> list[str]:
    """The first two lines of a table."""
    return [line(*cells), line(*("---" for _ in cells))]


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
            lines += head("rule", "kept %", "accuracy", "− full", "− random", "worst class")
            chance = table.pick(**common, protocol=protocol, rule=RANDOM, keep_target=keep)
            found = {
                rule: table.pick(**common, protocol=protocol, rule=rule, keep_target=keep)
                for rule in rules
            }
            for rule in sorted(rules, key=lambda rule: -_mean(found[rule]).value):
                rows = found[rule]
                lines.append(line(
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
    lines += head(
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
                lines.append(line(
                    condition, asked_for(keep), _name(rule, rows), _kept(rows),
                    _accuracy(rows), _difference(table, rows, chance),
                    _difference(table, rows, clean),
                    _worst(rows), f"{100 * Mean.of(broken).value:.1f}" if broken else "",
                    f"{100 * Mean.of(row.scenes_kept for row in rows).value:.0f}",
                ))  # fmt: skip
    return lines


def _saved(table: Table) -> list[str]:
    names = table.names("data")
    lines = head("rule", *names)
    for rule in table.names("rule", condition="clean", protocol="retrain"):
        shares = [saved(table, data, rule) for data in names]
        if rule != FULL and any(share is not None for share in shares):
            said = ("" if share is None else f"{100 * share:.0f} %" for share in shares)
            lines.append(line(rule, *said))
    return lines


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
