"""Texts from outside, for terminals, logs and tables: they are data, never commands.

The names of files, labels and messages may hold line breaks that forge a line of a log, escape
sequences that a terminal obeys, marks that turn the order of what is read, and formulas that a
spreadsheet runs.
"""

#: What a spreadsheet takes for the beginning of a formula, also in its wide forms.
_FORMULA = tuple("=+-@＝＋－＠")


def one_line(text: str) -> str:
    """The text with everything that is not printable written as Python does: \\n, \\x1b, \\u202e.

    A byte of a name that is no UTF-8 is written as \\xff.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return ascii(character)[1:-1]


def plain_json(text: str) -> str:
    """JSON of the same meaning without what is not printable; its own line breaks stay.

    JSON lets all but the first 32 characters stand as they are.
    """
    lines = text.split("\n")
    return "\n".join(line if line.isprintable() else _escaped(line) for line in lines)


def _escaped(line: str) -> str:
    units = ((c, c.encode("utf-16-be", "surrogatepass").hex()) for c in line)
    return "".join(
        c if c.isprintable() else "".join(f"\\u{h[i : i + 4]}" for i in range(0, len(h), 4))
        for c, h in units
    )


def cell(text: str) -> str:
    """The text as a cell of a table: on one line, and no formula.

    What a spreadsheet would take for a formula gets an apostrophe, which ``from_cell`` takes off.
    """
    shown = one_line(text)
    return f"'{shown}" if shown.lstrip().startswith((*_FORMULA, "'")) else shown


def from_cell(text: str) -> str:
    """What was given to ``cell``, as far as it was printable."""
    return text[1:] if text.startswith("'") and cell(text[1:]) == text else text
