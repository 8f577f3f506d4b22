"""The colours of every page and picture, light and dark."""

#: One accent per decision; text on ``surface`` has a contrast of at least 4.5. The ``…_fill``
#: colours also differ in lightness, for print and for those who see no hue.
LIGHT = {
    "page": "#f6f6f3", "surface": "#ffffff", "ink": "#1d2529", "muted": "#5a656c",
    "line": "#dcdfdd", "keep": "#0b6b62", "keep_fill": "#16877b", "drop": "#596673",
    "drop_fill": "#b4bec8", "quarantine": "#94520a", "quarantine_fill": "#d98a1f",
}  # fmt: skip
DARK = {
    "page": "#101416", "surface": "#181d20", "ink": "#e6eae9", "muted": "#9aa6ab",
    "line": "#323a3e", "keep": "#5ed3c3", "keep_fill": "#35ab9b", "drop": "#a9b5c0",
    "drop_fill": "#515d68", "quarantine": "#f0b45c", "quarantine_fill": "#e0a040",
}  # fmt: skip


def chart_css() -> str:
    """Style of all charts: they are drawn in LIGHT, which a dark screen exchanges for DARK.

    So a viewer that knows no style sheets shows them too, and printed pages stay light.
    """
    font = 'font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'
    dark = "\n".join(
        f'.chart [style*="{use}: {light}"] {{ {use}: {DARK[name]} !important; }}'
        for name, light in LIGHT.items()
        for use in ("fill", "stroke")
    )
    return (
        f".chart {{ {font}; font-variant-numeric: tabular-nums; stroke-linejoin: round; }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    )
