"""Stored figures in their page: the theme's colours, a text, names that do not meet."""

import io
import re
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure
from test_site import ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from inline_figures import inline  # noqa: E402


@pytest.fixture(scope="module")
def page():
    """A figure as the notebooks store it, and as the page has it."""
    figure = Figure(figsize=(7.2, 3.6))
    left, right = figure.subplots(1, 2)
    left.plot([1, 2, 3], "o-", markerfacecolor="white", label="a line with markers")
    left.legend(frameon=True)
    right.fill_between([0, 1], [0, 1], color="#0072B2", alpha=0.3)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "test"}):
        figure.savefig(buffer, format="svg")
    stored = buffer.getvalue().decode()
    return stored, inline(stored, "what is &lt;seen&gt;", set())


def test_black_follows_the_page_and_white_ground_is_gone(page):
    stored, shown = page
    assert stored.count("fill: #ffffff") > shown.count("fill: #ffffff") == 2  # what is left are the markers, and that in the legend
    assert "#000000" not in shown and "currentColor" in shown
    assert "#0072b2" in shown.lower()


def test_it_is_well_formed_and_has_its_text_and_size(page):
    root = ElementTree.fromstring(page[1])
    assert root.get("role") == "img" and root.get("aria-label") == "what is <seen>"
    assert "aspect-ratio:518.4/259.2" in root.get("style") and "width:691px" in root.get("style")
    assert root.get("width") is None and root.get("height") is None


def test_names_are_those_that_something_refers_to(page):
    names = set(re.findall(r' id="([^"]*)"', page[1]))
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]*)', page[1]))
    assert names == referred and names


def test_the_next_figure_of_a_page_does_not_draw_its_letters_again(page):
    stored, first = page
    letters = set()
    assert inline(stored, "what is &lt;seen&gt;", letters) == first
    second = inline(stored, "", letters)
    assert letters == set(re.findall('<path id="(DejaVu[^"]*)"', first)) and letters
    assert "<path id=\"DejaVu" not in second and 'href="#DejaVu' in second
    assert inline(stored, "what is &lt;seen&gt;", set()) == first
