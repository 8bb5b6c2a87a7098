"""What the source paper reports, as data: every table and every panel of its figures.

`reported.json` holds one row for each reported value, with how accurately it could be read; here it
is looked up. `panels.py` draws a reported panel beside ours, `measured.py` judges tables and
figures, `statements.py` theorems and formulas.

Source: Skorski, Temperoni, Theobald, Revisiting Weight Initialization of Deep Neural Networks, ACML
2021, PMLR 157. Tables as printed; figures measured in their own pixels.
"""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("reported.json")
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "dense")  #: of Figures 1 and 2


class Reported(NamedTuple):
    """One reported value, or one curve.

    Example:
        >>> from hessinit_lite.lab import paper
        >>> paper.one("Table 2", "relu he", "loss after 2 epochs").value
        0.30755
    """

    item: str  #: "Table 1" ... "Figure 6"
    panel: str  #: row or panel
    layer: str  #: "" for what is no layer's
    quantity: str
    value: Any  #: a number, or a list of them
    accuracy: float | None  #: by how much a reading may be off; None: not estimated
    at: list | None = None  #: of a curve: the steps, or for Figure 1 times of an unknown unit


@functools.cache
def content():
    """The file as it is: "source", "how", "settings", "titles", "rows"."""
    return json.loads(FILE.read_text(encoding="utf-8"))


@functools.cache
def _rows():
    return tuple(Reported(**row) for row in content()["rows"])


def rows(item, panel=None, quantity=None, layer=None):
    """All reported values of an item, or of one of its panels, quantities, layers.

    Args:
        item: "Table 1", "Figure 2", ...
        panel: None for all, likewise quantity and layer.
        quantity: as above.
        layer: as above.

    Raises:
        ValueError: if there is none.

    Example:
        >>> from hessinit_lite.lab import paper
        >>> [row.value for row in paper.rows("Figure 1", quantity="loss at the end")]
        [1.38, 0.94, 0.98, 1.1, 0.94]
    """
    asked = {"item": item, "panel": panel, "quantity": quantity, "layer": layer}
    asked = {name: value for name, value in asked.items() if value is not None}
    found = [
        row for row in _rows() if all(getattr(row, name) == value for name, value in asked.items())
    ]
    if not found:
        raise ValueError(f"the paper reports nothing for {asked}: see {FILE.name}")
    return found


def one(item, panel, quantity, layer=""):
    """The only reported value of this kind.

    Raises:
        ValueError: if there is none, or several.
    """
    found = rows(item, panel, quantity, layer)
    if len(found) > 1:
        raise ValueError(f"{len(found)} values of {item}, {panel}, {quantity}, {layer!r}")
    return found[0]


def title(item, panel):
    """A panel's title."""
    return content()["titles"].get(item, {}).get(panel, panel)


def stated(item):
    """(settings that the paper states, settings that it leaves open), as text."""
    both = content()["settings"][item]
    return both["stated"], both["open"]
