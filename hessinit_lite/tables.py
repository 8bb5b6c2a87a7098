"""Tables from rows of numbers: HTML on the page, plain text of at most 79 columns elsewhere.

As `plots`, this file needs nothing of the module: reports and the book's pages share it.
"""

import html
from collections.abc import Mapping

WIDTH = 79  #: columns that a line of plain text may have


def table(rows, columns, caption="", bold=None):
    """A table that a notebook shows as HTML, and nbval and `print` as plain text.

    Args:
        rows: a list of rows: sequences with an entry for each column, or mappings from the columns'
            names. An entry is a number, a pair `(value, spread)` of numbers (shown as
            "value ± spread"), an `Estimate` (its standard error is the spread), text, or None
            ("–").
        columns: `{name: format}`. A format is what stands behind the colon of an f-string
            (".3g", "%"), or a function from the entry to text; "" for text. Units stand in names.
        caption: what the rows are and what to look for.
        bold: `bold(row, name)` says whether an entry of a row, in the form it was given, is to
            stand out; None for no entry.

    Returns:
        A Table.

    Raises:
        ValueError: for no rows, a row that does not fit the columns, a format that does not fit an
            entry, or plain text that is wider than 79 columns even with single spaces between.

    Example:
        >>> from hessinit_lite.tables import table
        >>> print(table([("He", (0.91, 0.02))], {"scheme": "", "accuracy": ".2f"}))
        scheme     accuracy
        He      0.91 ± 0.02
    """
    return Table(rows, columns, caption, bold)


class Table:
    """A table of text: `names` [columns], `cells` [rows][columns], `bold` [rows][columns].

    Arguments and errors as `table`'s; `most` columns fit as plain text, None: any number.
    """

    def __init__(self, rows, columns, caption="", bold=None, most=WIDTH):
        rows, self.names, self.caption = list(rows), list(columns), caption
        if not rows:
            raise ValueError("a table needs at least one row")
        entries = [self._entries(number, row) for number, row in enumerate(rows)]
        self.cells = [
            [_text(entry, spec, name) for entry, (name, spec) in zip(row, columns.items())]
            for row in entries
        ]
        self.bold = [[bool(bold and bold(row, name)) for name in self.names] for row in rows]
        #: numbers stand at the right, words at the left
        self.right = [
            any(not isinstance(row[k], str | None) for row in entries)
            for k in range(len(self.names))
        ]
        self._gap = "  "
        width = max(map(len, str(self).splitlines()))
        if most is not None and width > most:  # other draws have a minus or a digit more
            self._gap = " "
            width -= len(self.names) - 1
        if most is not None and width > most:
            raise ValueError(
                f"the table is {width} columns wide as text, {most} fit: shorter names, "
                "fewer columns, or rows and columns exchanged"
            )

    def _entries(self, number, row):
        if isinstance(row, Mapping):
            missing = [name for name in self.names if name not in row]
            if missing:
                raise ValueError(f"row {number} has no {', '.join(missing)}")
            return [row[name] for name in self.names]
        if len(row) != len(self.names):
            raise ValueError(f"row {number} has {len(row)} entries for {len(self.names)} columns")
        return list(row)

    def __str__(self):
        lines = [self.names, *self.cells]
        widths = [max(map(len, column)) for column in zip(*lines)]
        text = [
            self._gap.join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, self.right)
            ).rstrip()
            for line in lines
        ]
        return "\n".join(text)

    __repr__ = __str__

    def _repr_html_(self):
        def line(tag, cells, bold, scope=""):
            shown = []
            for k, (cell, right, strong) in enumerate(zip(cells, self.right, bold)):
                kind, at = ("th", scope or "row") if scope or not k else (tag, "")
                at = f' scope="{at}"' if at else ""
                side = "right" if right else "left"
                cell = html.escape(cell)
                cell = f"<strong>{cell}</strong>" if strong else cell
                shown.append(f'<{kind}{at} style="text-align:{side}">{cell}</{kind}>')
            return f"<tr>{''.join(shown)}</tr>"

        none = [False] * len(self.names)
        head = line("th", self.names, none, scope="col")
        body = "\n".join(line("td", row, bold) for row, bold in zip(self.cells, self.bold))
        label = html.escape(self.caption or ", ".join(self.names), quote=True)
        caption = f"<caption>{html.escape(self.caption)}</caption>\n" if self.caption else ""
        return (
            f'<div class="hessinit-table" role="region" aria-label="{label}" tabindex="0" '
            f'style="overflow-x:auto">\n<table>\n{caption}<thead>{head}</thead>\n'
            f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
        )


def _text(entry, spec, name):
    """An entry as text; ValueError where the column's format does not fit it."""
    if entry is None:
        return "–"
    try:
        if callable(spec):
            return spec(entry)
        if hasattr(entry, "error"):  # an Estimate
            entry = float(entry), entry.error
        if isinstance(entry, tuple):
            return " ± ".join(formatted(part, spec) for part in entry)
        return formatted(entry, spec)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {name!r}: {entry!r} does not fit the format {spec!r}") from error


def formatted(value, spec):
    """`format`, but what rounds to zero has no sign.

    Example:
        >>> from hessinit_lite.tables import formatted
        >>> formatted(-0.001, ".2f")
        '0.00'
    """
    text = format(value, spec)
    if isinstance(value, str) or any(digit in text for digit in "123456789"):
        return text
    return text.removeprefix("-") if text.startswith("-0") else text
