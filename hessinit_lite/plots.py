"""How every figure looks: colours, panels, axes, legends, bands, and a figure as SVG or PNG.

Colours are Okabe and Ito's, readable by colour-blind readers. Only what draws imports this file.
"""

import io
import re

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, LogFormatterMathtext

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
RELATIVE_SIGNAL, RELATIVE_GRADIENT = f"{SIGNAL} (inputs: 1)", f"{GRADIENT} (last: 1)"
CURVATURE = "loss per unit step²"


def panels_in_a_row(columns=1, height=3.2, **each):
    """A Figure outside pyplot (nothing to close), with `columns` axes side by side.

    `each`: properties of all of them, such as yscale="log" or xlabel=LAYER.
    """
    figure = Figure(figsize=(7.2, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False, subplot_kw=each)[0]


def whole_layers(*panels):
    """Ticks at whole numbers on the horizontal axis: there is no half layer."""
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)


def level(axes, height=1.0):
    """A dotted line, behind the curves, at the value that these are to be compared with."""
    axes.axhline(height, color="black", linewidth=0.8, linestyle=":", zorder=1)


def legend_below(figure, axes, columns, loc="outside lower left"):
    """One legend for all panels, below them: the labels of `axes`."""
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc=loc, ncols=columns, frameon=False)


def band(axes, x, values, color, alpha=0.25, **line):
    """The range of `values` [runs, x], shaded; with a `label` or so, a line along the median."""
    axes.fill_between(x, values.amin(0), values.amax(0), color=color, alpha=alpha, linewidth=0)
    if line:
        axes.plot(x, values.median(0).values, color=color, **line)


class Powers(Formatter):
    """Labels of a logarithmic axis in plain letters, 10⁻³: TeX takes longer than all the rest."""

    RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

    def __init__(self, tex):
        self.tex = tex

    def set_axis(self, axis):
        super().set_axis(axis)
        self.tex.set_axis(axis)

    def set_locs(self, locs):
        self.tex.set_locs(locs)

    def __call__(self, x, pos=None):
        label = self.tex(x, pos).removeprefix(r"$\mathdefault{").removesuffix("}$")
        label = re.sub(r"\^\{(.*?)\}", lambda power: power[1].translate(self.RAISED), label)
        return label.replace(r"\times", "×").replace("-", "−")


def plain_powers(figure):
    """Labels of logarithmic axes as `Powers`, where matplotlib would set TeX."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
            axis.set_major_formatter(Powers(axis.get_major_formatter()))
        if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
            axis.set_minor_formatter(Powers(axis.get_minor_formatter()))


def to_png(figure):
    """The figure as the bytes of a PNG, on white."""
    plain_powers(figure)
    with matplotlib.rc_context(STYLE):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor="white")
    return buffer.getvalue()


def to_svg(figure, letters="path"):
    """The figure as small SVG text, transparent; what is black takes the page's text colour.

    Args:
        figure: a matplotlib Figure.
        letters: "path" draws them, "none" leaves that to the browser, which makes a smaller file.
    """
    plain_powers(figure)
    with matplotlib.rc_context(STYLE | {"svg.fonttype": letters}):
        buffer = io.BytesIO()
        metadata = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    svg = re.sub(r"'DejaVu Sans',[^;\"]*", "sans-serif", buffer.getvalue().decode())
    return themed(svg)


#: What matplotlib lays under a figure, its axes and legends: white, if it is not told otherwise.
GROUND = re.compile(
    r'(<g id="(?:figure|axes|legend)_\d+">\s*<g id="patch_\d+">\s*<path [^>]*?)fill: #ffffff'
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
