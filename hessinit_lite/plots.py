"""How every figure looks: colours, panels, axes, legends, bands, and a figure as SVG or PNG.

Colours are Okabe and Ito's, readable by colour-blind readers. Only what draws imports this file.
"""

import io
import re

import matplotlib
import torch
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"

#: Text as paths needs no fonts in the browser. No legend box: it would stay white on a dark page.
STYLE = {
    "svg.fonttype": "path",
    "svg.hashsalt": "hessinit_lite",
    "font.family": "sans-serif",
    "savefig.bbox": None,
    "legend.frameon": False,
}
PNG_DPI = 120

#: What stands at an axis in more than one figure, with its unit.
LAYER = "layer (1 = first)"
SIGNAL, GRADIENT = "mean square of u", "mean square of dL/du"
RELATIVE_SIGNAL, RELATIVE_GRADIENT = f"{SIGNAL} (input = 1)", f"{GRADIENT} (last = 1)"
CURVATURE = "loss per unit step²"


def panels_in_a_row(columns=1, height=3.2, **each):
    """A Figure outside pyplot (nothing to close), with `columns` axes side by side.

    `each`: properties of all of them, such as yscale="log" or xlabel=LAYER.
    """
    figure = Figure(figsize=(7.2, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False, subplot_kw=each)[0]


def some_layers(depth, most=13):
    """At most `most` layers out of 1..depth, evenly spaced, the first and the last among them."""
    return torch.linspace(1, depth, min(depth, most)).round().long()


def whole_layers(*panels):
    """Ticks at whole numbers on the horizontal axis: there is no half layer."""
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)


def level(axes, height=1.0):
    """A dotted line at the value that the others are to be compared with."""
    axes.axhline(height, color="black", linewidth=0.8, linestyle=":")


def two_decades(axes):
    """A vertical axis from 0.1 to 10 at least, so that a level line looks level."""
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.1), max(high, 10.0))


def legend_below(figure, axes, columns, loc="outside lower left"):
    """One legend for all panels, below them: the labels of `axes`."""
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc=loc, ncols=columns, frameon=False)


def band(axes, x, values, color, alpha=0.25, **line):
    """The range of `values` [runs, x], shaded; with a `label` or so, a line along the median."""
    axes.fill_between(x, values.amin(0), values.amax(0), color=color, alpha=alpha, linewidth=0)
    if line:
        axes.plot(x, values.median(0).values, color=color, **line)


def to_png(figure):
    """The figure as the bytes of a PNG, on white."""
    with matplotlib.rc_context(STYLE):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor="white")
    return buffer.getvalue()


def to_svg(figure):
    """The figure as small SVG text, transparent; what is black takes the page's text colour."""
    with matplotlib.rc_context(STYLE):
        buffer = io.BytesIO()
        metadata = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    return themed(buffer.getvalue().decode())


#: What matplotlib lays under a figure and under its axes: white, if it is not told otherwise.
GROUND = re.compile(
    r'(<g id="(?:figure|axes)_\d+">\s*<g id="patch_\d+">\s*<path [^>]*?)fill: #ffffff'
)


def themed(svg):
    """Matplotlib's SVG for a page: small, transparent, and what is black takes the text's colour.

    Drops the prologue and comments, rounds lengths to 0.1 points.
    """

    def shorter(match):
        if match[0][-1] == ")":  # scale() and matrix() stay: rounded, they would shrink the letters
            return match[0]
        number = float(match[0])
        return f"{round(number, 1) + 0.0:g}" if abs(number) < 1000 else f"{number:.1f}"

    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"(?:scale|matrix)\([^)]*\)|-?\d+\.\d+", shorter, svg)
    svg = GROUND.sub(r"\1fill: none", svg)
    # Matplotlib leaves out a fill that is black, SVG's default.
    svg = svg.replace("<svg", '<svg fill="currentColor"', 1).replace("#000000", "currentColor")
    return "\n".join(line.strip() for line in svg.splitlines() if line.strip())
