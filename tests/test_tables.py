"""Tables: one source for HTML and plain text, that fits a page, and errors that say what to change."""

from html.parser import HTMLParser

import pytest

import hessinit_lite as hl
from hessinit_lite.tables import WIDTH

ROWS = [("He", 0.914, (1.5, 0.25), 12), ("torch's <default>", None, (20, 3.0), 7)]
COLUMNS = {"scheme": "", "accuracy": ".2f", "norm (loss/step²)": ".3g", "steps": "d"}


class Reader(HTMLParser):
    """The cells of a table, row by row: (tag, attributes, text, bold)."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.caption, self.inside = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.inside.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append([tag, dict(attributes), "", False])
        if tag == "strong":
            self.rows[-1][-1][3] = True

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag  # well-formed

    def handle_data(self, data):
        if "caption" in self.inside:
            self.caption += data
        elif {"td", "th"} & set(self.inside):
            self.rows[-1][-1][2] += data


def test_text_is_aligned_and_says_what_a_page_says():
    made = hl.table(ROWS, COLUMNS, "two schemes")
    lines = str(made).splitlines()
    assert lines == [
        "scheme             accuracy  norm (loss/step²)  steps",
        "He                     0.91         1.5 ± 0.25     12",
        "torch's <default>         –             20 ± 3      7"]
    page = Reader(made._repr_html_())
    assert [[cell[2] for cell in row] for row in page.rows] == [made.names, *made.cells]
    assert page.caption == "two schemes" and repr(made) == str(made)


def test_cells_are_scoped_and_aligned():
    page = Reader(hl.table(ROWS, COLUMNS)._repr_html_())
    assert all(cell[1]["scope"] == "col" for cell in page.rows[0])
    for row in page.rows[1:]:
        assert row[0][0] == "th" and row[0][1]["scope"] == "row"
        assert all(cell[0] == "td" and "right" in cell[1]["style"] for cell in row[1:])
    assert "overflow-x:auto" in hl.table(ROWS, COLUMNS)._repr_html_()


def test_bold_estimates_functions_and_named_rows():
    rows = [{"a": hl.Estimate(2.0, 0.5), "b": 0.25}, {"a": hl.Estimate(3.0, 0.5), "b": 0.5}]
    made = hl.table(rows, {"a": ".1f", "b": lambda share: f"{share:.0%}"},
                    bold=lambda row, name: name == "b" and row["b"] > 0.3)
    assert made.cells == [["2.0 ± 0.5", "25%"], ["3.0 ± 0.5", "50%"]]
    assert [cell[3] for row in Reader(made._repr_html_()).rows for cell in row] == [False] * 5 + [True]


@pytest.mark.parametrize("rows, columns, words", [
    ([], COLUMNS, "at least one row"),
    ([("He",)], COLUMNS, "row 0 has 1 entries for 4 columns"),
    ([{"scheme": "He"}], {"scheme": "", "loss": ".2f"}, "row 0 has no loss"),
    ([("He", "fast")], {"scheme": "", "loss": ".2f"}, "column 'loss': 'fast' does not fit the format '.2f'"),
    ([("x" * 80,)], {"scheme": ""}, f"80 columns wide as text, {WIDTH} fit"),
], ids=["empty", "short", "missing", "format", "wide"])
def test_bad_tables(rows, columns, words):
    with pytest.raises(ValueError, match=words):
        hl.table(rows, columns)


def test_a_column_too_many_for_two_spaces_between_takes_one():
    """A table that just fits with one draw is still shown with another."""
    fits, longer = ([("x" * width, "y" * 37)] for width in (40, 41))
    assert str(hl.table(fits, {"a": "", "b": ""})).splitlines()[1] == "x" * 40 + "  " + "y" * 37
    assert str(hl.table(longer, {"a": "", "b": ""})).splitlines()[1] == "x" * 41 + " " + "y" * 37


def test_what_rounds_to_zero_has_no_sign():
    made = hl.table([(-0.001, (-0.2, 0.0), "-0"), (-1.0, (0.0, -0.0), "-1")], {"a": ".2f", "b": ".0f", "c": ""})
    assert made.cells == [["0.00", "0 ± 0", "-0"], ["-1.00", "0 ± 0", "-1"]]
    assert hl.spread([-0.001, -0.002]) == "0.00 ± 0.00"
