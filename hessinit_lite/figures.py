"""The figures of the book, one function a figure.

Each is called as `figure(depth, activation, ...)`, runs the real computation and returns a
matplotlib Figure. Colours are Okabe and Ito's, readable by colour-blind readers.
"""

import torch
from matplotlib.figure import Figure

from .models import MLP

BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"


def _axes(columns=1, height=3.2):
    """A Figure outside pyplot (nothing to close), with `columns` axes side by side."""
    figure = Figure(figsize=(7.2, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]
