"""The rows of the protocol ``day`` as Markdown and a picture: docs/results/day.md."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from dripgate.bench.day_protocol import FILE, SHARES, Row
from dripgate.bench.day_rules import FULL, MAIN, RULES
from dripgate.bench.plots import COLOURS, STYLE
from dripgate.bench.rows import read
from dripgate.bench.rules import DEFAULT
from dripgate.bench.tables import RANDOM, Mean
from dripgate.errors import DataError
from dripgate.files import write_whole

PICTURE = "day_accuracy.svg"
#: The budget that the bars are about.
AT = SHARES[0]
_COLOURS = COLOURS | {
    "every_nth": "#8a949c", "on_change": "#c7a008", "margin_once": "#e39a54", "tactile": "#c23b6b",
}  # fmt: skip
_PARTS = [rule for rule in RULES if rule.startswith(f"{DEFAULT}_")]

_INTRO = f"""# A day of a device

Written by `dripgate bench day`, from [day.jsonl](day.jsonl); what a day is and what the rules do:
[benchmark.md](../benchmark.md). Accuracies in %, after retraining from scratch on the labelled
beginning and what was kept, mean over seeds with 95 % intervals (Student's t); differences are
paired by seed, in points.

![Accuracy over the bytes stored]({PICTURE})

*Bands and bars are one standard error; the dotted line is everything. Crosses: the product with one
part switched off, or another number in its score's place; dots: other rules.*
"""

_ACCURACIES = ("accuracy", "worst_class_accuracy", "new_class_accuracy")

Field = Callable[[Row], float]


def write(folder: Path) -> list[Path]:
    """Write day.md and its picture beside the rows; returns what was written.

    Raises DataError where there are no rows.
    """
    rows = read(folder / FILE, Row)
    if not rows:
        raise DataError(f"{folder / FILE}: holds no rows; make some with 'dripgate bench day'")
    page, picture = folder / "day.md", folder / PICTURE
    write_whole(page, ("\n".join(lines(rows)) + "\n").encode())
    with mpl.rc_context(STYLE):
        accuracy(rows).savefig(picture, metadata={"Date": None})
    return [page, picture]


def pick(rows: Sequence[Row], **fields: object) -> list[Row]:
    """Rows with these values."""
    return [row for row in rows if all(getattr(row, k) == v for k, v in fields.items())]


def gap(rows: Sequence[Row], others: Sequence[Row], field: str = "accuracy") -> Mean | None:
    """Mean difference by data set and seed; None where none has both."""
    theirs = {(row.data, row.seed): getattr(row, field) for row in others}
    pairs = [(getattr(row, field), theirs.get((row.data, row.seed))) for row in rows]
    found = [ours - other for ours, other in pairs if other is not None]
    return Mean.of(found) if found else None


# The bar ----------------------------------------------------------------------------------------


class Bar(NamedTuple):
    """What is asked of the default rule, what was found, and whether it is met; one seed: None."""

    asked: str
    found: str
    met: bool | None


def bars(rows: Sequence[Row], data: str) -> list[Bar]:
    """Those of one data set at a tenth of the bytes: the mean has to reach the number."""
    ours = pick(rows, data=data, rule=DEFAULT, share=AT)
    found = []
    for other, field, least, asked in (
        (FULL, "accuracy", -0.5, "at most 0.5 below everything"),
        (RANDOM, "accuracy", 3, "at least 3 above random"),
        ("every_nth", "accuracy", 3, "at least 3 above every n-th"),
        ("margin", "accuracy", 1, "at least 1 above margin"),
        (RANDOM, "worst_class_accuracy", 5, "worst class: at least 5 above random"),
    ):
        theirs = pick(rows, data=data, rule=other, share=1.0 if other == FULL else AT)
        if mean := gap(ours, theirs, field):
            met = 100 * mean.value >= least if mean.n > 1 else None
            found.append(Bar(asked, mean.points("+"), met))
    for field, asked in (
        ("broken_stored", "at most 1 % of what is stored is broken, quarantine included"),
        ("broken", "at most 1 % of what is kept to be labelled is broken"),
    ):
        if ours:
            share = Mean.of(_part(row, field) for row in ours)
            found.append(Bar(asked, f"{share.points()} %", share.value <= 0.01))
    return found


def _part(row: Row, field: str) -> float:
    """Of the samples that are kept, or kept and quarantined."""
    of = row.labels + (row.quarantined if field == "broken_stored" else 0)
    return float(getattr(row, field) / max(of, 1))


# The page ---------------------------------------------------------------------------------------


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """The page."""
    yield _INTRO
    hours, seeds = sum(row.seconds for row in rows) / 3600, len({row.seed for row in rows})
    yield f"{len(rows)} rows, {seeds} seeds, {hours:.1f} core hours.\n"
    names = list(dict.fromkeys(row.data for row in rows))
    yield f"## The bar, at {100 * AT:g} % of the bytes: what is missed first\n"
    yield from _table(("data", "asked", "found", "met"), _judged(rows, names))
    if len(names) > 1:
        yield "\n## All data sets together\n"
        yield f"At {100 * AT:g} % of the bytes, paired by data set and seed.\n"
        yield from _table(
            ("", "accuracy", "worst class", "new class", "pairs"), _together(rows, names)
        )
    for data in names:
        yield f"\n## {data}\n"
        yield from _of_data(pick(rows, data=data))


def _judged(rows: Sequence[Row], names: Sequence[str]) -> list[tuple[str, ...]]:
    said = {True: "yes", False: "**no**", None: "one seed cannot say"}
    found = [(data, bar) for data in names for bar in bars(rows, data)]
    found.sort(key=lambda one: (one[1].met is not False, one[1].met is not None))
    return [(data, bar.asked, bar.found, said[bar.met]) for data, bar in found]


def _together(rows: Sequence[Row], names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    ours = pick(rows, rule=DEFAULT, share=AT)
    for rule in RULES:
        theirs = pick(rows, rule=rule, share=1.0 if rule == FULL else AT)
        means = [gap(ours, theirs, field) for field in _ACCURACIES]
        if rule != DEFAULT and {row.data for row in theirs} >= set(names) and means[0]:
            yield (f"{DEFAULT} − {rule}", *(m.points("+") for m in means if m), str(means[0].n))


def _of_data(rows: Sequence[Row]) -> Iterator[str]:
    everything = pick(rows, rule=FULL)
    if everything:
        one = everything[0]
        yield (
            f"{one.frames:,} frames of {one.scenes:,} scenes (seed {one.seed}), "
            f"{one.bytes_day / 1e6:.1f} MB; {one.steps:,} steps for every row. Everything stored: "
            f"{_mean(everything)}, worst class {_mean(everything, 'worst_class_accuracy')}, new "
            f"class {_mean(everything, 'new_class_accuracy')}, broken "
            f"{Mean.of(_part(row, 'broken') for row in everything).points()} %."
        )
    for share in sorted({row.share for row in rows if row.rule != FULL}):
        found = {rule: pick(rows, rule=rule, share=share) for rule in RULES if rule != FULL}
        found = {rule: there for rule, there in found.items() if there}
        yield f"\n**{100 * share:g} % of the bytes**\n"
        ranked = sorted(found, key=lambda rule: -Mean.of(r.accuracy for r in found[rule]).value)
        yield from _table(
            ("rule", "bytes %", "to label", "accuracy", "− everything", "− random", "worst class",
             "new class", "broken %", "… with quarantine", "repeats %", "scenes %", "classes"),
            (_cells(rule, found[rule], everything, found.get(RANDOM, [])) for rule in ranked),
        )  # fmt: skip


def _cells(
    rule: str, rows: Sequence[Row], everything: Sequence[Row], chance: Sequence[Row]
) -> tuple[str, ...]:
    full, beside = gap(rows, everything), None if rule == RANDOM else gap(rows, chance)

    def share(of: Field) -> str:
        return f"{100 * Mean.of(of(row) for row in rows).value:.1f}"

    return (
        f"**{rule}**" if rule == DEFAULT else rule,
        share(lambda row: row.bytes_stored / row.bytes_day),
        f"{Mean.of(row.labels for row in rows).value:.0f}", _mean(rows),
        full.points("+") if full else "", beside.points("+") if beside else "",
        _mean(rows, "worst_class_accuracy"), _mean(rows, "new_class_accuracy"),
        share(lambda row: _part(row, "broken")), share(lambda row: _part(row, "broken_stored")),
        share(lambda row: row.repeats / max(row.labels, 1)),
        share(lambda row: row.scenes_kept / row.scenes),
        f"{Mean.of(row.classes_kept for row in rows).value:.1f}",
    )  # fmt: skip


def _mean(rows: Sequence[Row], field: str = "accuracy") -> str:
    return Mean.of(getattr(row, field) for row in rows).points()


def _table(head: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(cells) + " |"


# The picture ------------------------------------------------------------------------------------


def accuracy(rows: Sequence[Row]) -> Figure:
    """Accuracy over the bytes stored, one panel per data set: curves, bands of a standard error."""
    names = list(dict.fromkeys(row.data for row in rows))
    figure = Figure(figsize=(3.8 * len(names), 4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, data in zip(panels, names, strict=True):
        mine = pick(rows, data=data)
        for rule in MAIN:
            _curve(panel, mine, rule)
        others = [rule for rule in RULES if rule not in (FULL, *MAIN, *_PARTS)]
        for some, mark, label in ((_PARTS, "x", "a part off"), (others, ".", "others")):
            _points(panel, mine, some, mark, label)
        if everything := pick(mine, rule=FULL):
            level = 100 * Mean.of(row.accuracy for row in everything).value
            panel.axhline(level, color="black", lw=1, ls=":", label="everything")
        shares = sorted({100 * row.share for row in mine if row.rule != FULL})
        panel.set(title=data, xlabel="stored, % of the day's bytes", ylabel="accuracy, %")
        panel.set_xscale("log")
        panel.set_xticks(shares, [f"{share:g}" for share in shares])
        panel.minorticks_off()
    labels: dict[str, Any] = {}
    for panel in panels:
        marks, texts = panel.get_legend_handles_labels()
        labels |= dict(zip(texts, marks, strict=True))
    figure.legend(list(labels.values()), list(labels), loc="outside lower center", ncols=6)
    return figure


def _where(rows: Sequence[Row]) -> tuple[float, Mean]:
    """(% of the bytes, accuracy) of rows of one rule and share."""
    stored = Mean.of(row.bytes_stored / row.bytes_day for row in rows)
    return 100 * stored.value, Mean.of(100 * row.accuracy for row in rows)


def _curve(panel: Any, rows: Sequence[Row], rule: str) -> None:
    mine = pick(rows, rule=rule)
    points = [_where(pick(mine, share=share)) for share in sorted({row.share for row in mine})]
    if not points:
        return
    at, means = zip(*points, strict=True)
    colour, value = _COLOURS[rule], [mean.value for mean in means]
    panel.plot(at, value, color=colour, marker="o", ms=3, label=rule,
               lw=2.2 if rule == DEFAULT else 1.2)  # fmt: skip
    panel.fill_between(
        at, [m.value - m.error for m in means], [m.value + m.error for m in means],
        color=colour, alpha=0.12, lw=0,
    )  # fmt: skip


def _points(panel: Any, rows: Sequence[Row], rules: Sequence[str], mark: str, label: str) -> None:
    """Rules that are at few budgets: marks with bars."""
    for rule in rules:
        mine = pick(rows, rule=rule)
        for share in sorted({row.share for row in mine}):
            at, mean = _where(pick(mine, share=share))
            error = mean.error if mean.n > 1 else 0
            colour = _COLOURS[DEFAULT] if mark == "x" else "#8a949c"
            panel.errorbar(at, mean.value, error, color=colour, fmt=mark, ms=5, lw=0.6, label=label)
            label = "_"  # once in the legend
