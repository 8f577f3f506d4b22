"""The tables as pictures: SVG files that look the same every time they are made."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from dripgate.bench.rows import Keep
from dripgate.bench.rules import DEFAULT
from dripgate.bench.tables import FULL, RANDOM, Mean, Table, asked_for, saved

#: Rules that are drawn, with their colours; everything else is in the tables.
COLOURS = {
    DEFAULT: "#16877b",
    "margin": "#b4590a",
    "entropy": "#7a4fa3",
    "class_random": "#8a949c",
    RANDOM: "#596673",
    "novelty": "#2f6db3",
    "el2n": "#c23b6b",
}
STYLE: Any = {
    "svg.hashsalt": "dripgate", "svg.fonttype": "none", "font.size": 9, "axes.grid": True,
    "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip


def accuracy(table: Table, field: str = "accuracy") -> Figure:
    """Accuracy over the kept share, one panel per data set, bands of one standard error."""
    names = table.names("data")
    figure = Figure(figsize=(3.6 * max(len(names), 1), 3.4), layout="constrained")
    panels = figure.subplots(1, max(len(names), 1), squeeze=False)[0]
    for panel, data in zip(panels, names, strict=False):
        clean = {"data": data, "condition": "clean", "protocol": "retrain"}
        for rule, colour in COLOURS.items():
            _curve(panel, table, clean, rule, colour, field)
        if full := table.pick(**clean, rule=FULL):
            reference = Mean.of(getattr(row, field) for row in full)
            panel.axhline(100 * reference.value, color="black", lw=1, ls=":", label="everything")
        panel.set(title=data, xlabel="kept, % of the stream", ylabel=f"{_said(field)}, %")
    if len(panels):
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    return figure


def _curve(
    panel: Any, table: Table, clean: dict[str, str], rule: str, colour: str, field: str
) -> None:
    points = []
    for keep in (k for k in table.keeps(**clean) if k != "auto"):
        if rows := table.pick(**clean, rule=rule, keep_target=keep):
            mean = Mean.of(getattr(row, field) for row in rows)
            points.append((Mean.of(row.kept for row in rows).value, mean.value, mean.error))
    if not points:
        return
    kept, value, error = ([100 * p[i] for p in points] for i in range(3))
    style = "--" if rule == "el2n" else "-"
    panel.plot(kept, value, style, color=colour, marker="o", ms=3, label=rule,
               lw=2.2 if rule == DEFAULT else 1.2)  # fmt: skip
    low = [v - e for v, e in zip(value, error, strict=True)]
    high = [v + e for v, e in zip(value, error, strict=True)]
    panel.fill_between(kept, low, high, color=colour, alpha=0.12, lw=0)


def storage(table: Table) -> Figure:
    """Storage saved at equal accuracy: a group of bars per data set, a bar per rule."""
    names = table.names("data")
    figure = Figure(figsize=(1.2 + 2.0 * max(len(names), 1), 3.2), layout="constrained")
    panel = figure.subplots()
    width = 0.8 / len(COLOURS)
    for i, (rule, colour) in enumerate(COLOURS.items()):
        shares = [saved(table, data, rule) for data in names]
        at = [x + (i - len(COLOURS) / 2 + 0.5) * width for x in range(len(names))]
        panel.bar(at, [100 * (s or 0) for s in shares], width, color=colour, label=rule)
    panel.axhline(39, color="black", lw=1, ls=":", label="the paper's 39 %")
    panel.set_xticks(range(len(names)), names)
    panel.set(ylabel="stored less at equal accuracy, %", ylim=(0, 100))
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def conditions(table: Table) -> Figure:
    """Accuracy under each condition minus random's, at the share that was asked for under most."""
    names, keeps = table.names("data"), table.keeps(protocol="retrain")
    keep = max(keeps, key=lambda k: len(table.names("condition", keep_target=k)), default=0.3)
    figure = Figure(figsize=(3.6 * max(len(names), 1), 3.2), layout="constrained")
    panels = figure.subplots(1, max(len(names), 1), squeeze=False)[0]
    for panel, data in zip(panels, names, strict=False):
        found = table.names("condition", data=data)
        for shift, rule in ((-0.2, "margin"), (0.2, DEFAULT)):
            gaps = [_gap(table, data, condition, rule, keep) for condition in found]
            panel.bar(
                [i + shift for i in range(len(found))], [100 * gap.value for gap in gaps], 0.38,
                yerr=[0 if gap.n < 2 else 100 * gap.error for gap in gaps],
                color=COLOURS[rule], label=rule,
            )  # fmt: skip
        panel.axhline(0, color="black", lw=1)
        panel.set_xticks(range(len(found)), found, rotation=45, ha="right")
        panel.set(title=f"{data}, {asked_for(keep)} kept", ylabel="accuracy − random's, points")
    if len(panels):
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _gap(table: Table, data: str, condition: str, rule: str, keep: Keep) -> Mean:
    common = {"data": data, "condition": condition, "protocol": "retrain", "keep_target": keep}
    gap = table.difference(table.pick(**common, rule=rule), table.pick(**common, rule=RANDOM))
    return gap or Mean(0.0, 0.0, 0.0, 0)


def _said(field: str) -> str:
    return field.replace("_", " ").replace(" accuracy", "") if field != "accuracy" else field


def write_plots(table: Table, folder: Path) -> list[Path]:
    """Write all pictures into ``folder``; their paths."""
    with mpl.rc_context(STYLE):  # the settings are the whole process's: others draw too
        pictures = {
            "bench_accuracy.svg": accuracy(table),
            "bench_worst_class.svg": accuracy(table, "worst_class_accuracy"),
            "bench_storage.svg": storage(table),
            "bench_conditions.svg": conditions(table),
        }
        for name, figure in pictures.items():
            # Without a date in it, the same rows give the same file.
            figure.savefig(folder / name, metadata={"Date": None})
    return [folder / name for name in pictures]
