"""Explorable figures: frames drawn beforehand, so that sliders work with and without a kernel.

The frames travel inside the notebook output itself, as compressed SVG, and some thirty lines of
JavaScript swap them: no server, no network, no widget library.
"""

import base64
import functools
import gzip
import hashlib
import html
import inspect
import itertools
import json
import re
import sys
import urllib.parse
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from tqdm import tqdm

from ..plots import STYLE, to_png, to_svg

PACKAGE = Path(__file__).parent.parent

# The frames sit in an attribute of the root element, not in the script: Colab parts scripts from
# their siblings. One script starts every root that has not started yet, so repeats are harmless.
_SCRIPT = """
(() => {
  const start = async root => {
    const bytes = Uint8Array.from(atob(root.dataset.frames), c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const {lines, frames, labels} = await new Response(stream).json();
    const image = root.querySelector("img"), panel = root.querySelector("[data-controls]");
    const controls = [...panel.querySelectorAll("input, select")];
    let shown = "";
    const draw = () => {
      const color = getComputedStyle(root).color;
      const at = controls.map(c => c.selectedIndex ?? Number(c.value));
      if (shown === (shown = color + at)) return;
      const words = at.map((k, axis) => labels[axis][k]);
      panel.querySelectorAll("input").forEach(c => {
        const word = words[controls.indexOf(c)];
        c.setAttribute("aria-valuetext", word);
        c.nextElementSibling.textContent = word;
      });
      let line = 0;
      const frame = frames[at.reduce((sum, k, axis) => sum * labels[axis].length + k, 0)];
      const svg = frame.map(step => lines[line += step]).join("\\n");
      image.src = "data:image/svg+xml," + encodeURIComponent(svg.replaceAll("currentColor", color));
      image.alt = [root.dataset.alt, ...controls.map((c, k) => c.name + " = " + words[k])].join(", ");
    };
    panel.addEventListener("input", draw);
    panel.addEventListener("keydown", event => event.stopPropagation());
    const later = () => { draw(); setTimeout(draw, 400); };  // a theme may fade its colours in
    const observer = new MutationObserver(later);
    for (const node of [document.documentElement, document.body])
      observer.observe(node, {attributes: true});
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
    draw();
    panel.style.visibility = "visible";
  };
  for (const root of document.querySelectorAll(".hessinit-explore"))
    if (!root.started) { root.started = true; start(root); }
})();
"""


def explore(figure_fn, **axes):
    """Draw `figure_fn(**values)` once for every combination of the axes' values.

    At first figure_fn's own default is shown where it is among the values; else the middle number,
    and "relu" or else the first string. Text and axes left black take the page's text colour.

    Args:
        figure_fn: returns a matplotlib Figure.
        axes: each a list of one or more numbers (shown as a slider) or strings (a menu); an axis
            with one value is passed on and gets no control.

    Returns:
        An Explorable, which a notebook shows when it is the last line of a cell. A figure of the
        book (`hl.figures`) that was drawn by this process with the same axes is not drawn again;
        any other function is, for it may depend on anything.

    Raises:
        TypeError: if figure_fn is not callable or returns no Figure, or an axis is no list.
        ValueError: if there are no axes or an axis is empty. Errors of figure_fn are passed on.

    Example:
        >>> def picture(depth):
        ...     figure, (axes,) = hl.plots.panels_in_a_row()
        ...     axes.plot(range(depth))
        ...     return figure
        >>> hl.explore(picture, depth=[2, 5, 10])
        explore picture: 3 of depth
    """
    if not callable(figure_fn):
        raise TypeError(f"figure_fn must be a function that returns a Figure, got {figure_fn!r}")
    if not axes:
        raise ValueError("explore needs at least one axis, such as depth=[2, 5, 10]")
    _check_axes(axes)
    axes = {name: list(values) for name, values in axes.items()}
    if not str(getattr(figure_fn, "__module__", None)).startswith(f"{__package__}.figures."):
        return _draw_frames(figure_fn, axes)
    origin = _origin(axes)
    if figure_fn not in _drawn or _drawn[figure_fn][0] != origin:
        _drawn[figure_fn] = origin, _draw_frames(figure_fn, axes)
    return _drawn[figure_fn][1]


def _draw_frames(figure_fn, axes):
    own = inspect.signature(figure_fn).parameters
    default = {
        name: _default(values, own[name].default if name in own else None)
        for name, values in axes.items()
    }
    combinations = [dict(zip(axes, values)) for values in itertools.product(*axes.values())]
    frames = []
    bar = dict(desc="drawing", unit="frame", leave=False, file=sys.stdout)  # stderr is shown in red
    for values in tqdm(combinations, **bar):
        frames.append(draw(figure_fn, values, to_svg))
    return Explorable(figure_fn, axes, default, frames)


#: A figure of the book: (what its frames follow from, the Explorable that was drawn last).
_drawn = {}


def _origin(axes):
    """All that the frames of a figure of the book follow from, in words: its seeds are arguments."""
    files = [(path, path.stat().st_mtime_ns) for path in sorted(PACKAGE.rglob("*.py"))]
    plain = torch.empty(0)
    return repr((axes, files, plain.dtype, plain.device, sorted(matplotlib.rcParams.items())))


class Explorable:
    """A figure with a control for every axis; made by `explore`.

    `axes` maps names to lists of values, `default` names to the values shown at first, and `frames`
    lists the SVG texts in the order of `itertools.product(*axes.values())`.

    Example:
        >>> from matplotlib.figure import Figure
        >>> shown = hl.explore(lambda width, dpi: Figure((width, 2)), width=[2, 3], dpi=[100])
        >>> shown.default, len(shown.frames)
        ({'width': 3, 'dpi': 100}, 2)
    """

    def __init__(self, figure_fn, axes, default, frames):
        self.figure_fn, self.axes, self.default, self.frames = figure_fn, axes, default, frames
        self._png = draw(figure_fn, default, to_png)

    def __repr__(self):
        axes = ", ".join(f"{len(values)} of {name}" for name, values in self.axes.items())
        return f"explore {_function(self.figure_fn).__name__}: {axes}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        png = base64.b64encode(self._png).decode()
        return {"text/html": self._html(), "image/png": png, "text/plain": repr(self)}

    def _html(self):
        shown = {name: values for name, values in self.axes.items() if len(values) > 1}
        labels = [[str(value) for value in values] for values in shown.values()]
        data = _pack(self.frames, labels)
        first = 0
        for name, values in self.axes.items():
            first = first * len(values) + values.index(self.default[name])
        svg = self.frames[first]
        width, height = size_of(svg)
        title = html.escape(_title(self.figure_fn))
        alt = html.escape(
            ", ".join([_title(self.figure_fn), *(f"{n} = {self.default[n]}" for n in shown)])
        )
        source = html.escape(urllib.parse.quote(svg, safe=" =:;/,()'!*{}"))
        controls = "\n".join(
            _control(name, values, self.default[name]) for name, values in shown.items()
        )
        key = hashlib.sha256(data.encode()).hexdigest()[:16]
        return (
            f'<div id="hessinit-{key}" class="hessinit-explore" data-alt="{title}" data-frames="{data}">\n'
            '<div data-controls data-lm-suppress-shortcuts="true" style="visibility:hidden; display:flex; '
            f'flex-wrap:wrap; gap:0.3em 1.5em; margin:0.5em 0">\n{controls}\n</div>\n'
            f'<img class="dark-light" alt="{alt}" width="{width}" height="{height}" '
            f'style="max-width:100%; height:auto" src="data:image/svg+xml,{source}">\n'
            f"</div>\n<script>{_SCRIPT}</script>"
        )

    def live(self, **more_axes):
        """The same figure as an ipywidgets panel that calls figure_fn anew at every change.

        Needs a running kernel. An error of figure_fn is shown as text above the last figure, which
        turns pale.

        Args:
            more_axes: further arguments of figure_fn with their lists of values, the first shown at
                first; an axis that is given again gets the new list.

        Raises:
            TypeError, ValueError: as `explore`, for bad axes.
        """
        import ipywidgets

        _check_axes(more_axes)
        axes = {**self.axes, **more_axes}
        controls = {}
        for name, values in axes.items():
            kind = ipywidgets.SelectionSlider if _numeric(values) else ipywidgets.Dropdown
            value = values[0] if name in more_axes else self.default[name]
            options = [(str(value), value) for value in values]
            controls[name] = kind(options=options, value=value, description=name.replace("_", " "))
            if _numeric(values):
                controls[name].continuous_update = False
        # The message keeps its line when it is empty: the figure stays where it is.
        line = "var(--jp-widgets-inline-height, 28px)"
        message, figure = ipywidgets.HTML(layout={"min_height": line}), ipywidgets.HTML()
        title, drawn = _title(self.figure_fn), ""

        def redraw(change=None):
            nonlocal drawn
            message.value = "drawing …"
            values = {name: control.value for name, control in controls.items()}
            try:
                svg = draw(self.figure_fn, values, to_svg)
            except Exception as error:  # shown to the reader, who has no traceback in a callback
                message.value = html.escape(f"{type(error).__name__}: {error}")
                figure.value = f'<div style="opacity:0.3">{drawn}</div>'
            else:
                alt = html.escape(", ".join([title, *(f"{n} = {v}" for n, v in values.items())]))
                style = "max-width:100%; height:auto"
                drawn = svg.replace(
                    "<svg", f'<svg role="img" aria-label="{alt}" style="{style}"', 1
                )
                message.value, figure.value = "", drawn

        for control in controls.values():
            control.observe(redraw, names="value")
        redraw()
        return ipywidgets.VBox([*controls.values(), message, figure])


def _check_axes(axes):
    for name, values in axes.items():
        if not isinstance(values, list):
            raise TypeError(f"axis {name!r} must be a list of values, got {values!r}")
        if not values:
            raise ValueError(f"axis {name!r} is empty; give it at least one value")


def _numeric(values):
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _default(values, own):
    if any(own == value for value in values):
        return own
    if _numeric(values):
        return values[len(values) // 2]
    return "relu" if "relu" in values else values[0]


def _function(figure_fn):
    while isinstance(figure_fn, functools.partial):
        figure_fn = figure_fn.func
    return figure_fn if hasattr(figure_fn, "__name__") else type(figure_fn)


def _title(figure_fn):
    """What the figure shows, in words: the first line of the function's docstring, or its name."""
    function = _function(figure_fn)
    return (function.__doc__ or function.__name__).strip().splitlines()[0].rstrip(".")


def size_of(svg):
    """(width, height) of an SVG in a page's pixels, whole numbers."""
    points = re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups()
    return tuple(round(float(x) * 4 / 3) for x in points)


def draw(figure_fn, values, kind):
    """The figure of `figure_fn(**values)` as `kind` makes it: `to_svg` or `to_png`."""
    with matplotlib.rc_context(STYLE):
        figure = figure_fn(**values)
    if not isinstance(figure, Figure):
        raise TypeError(f"figure_fn must return a matplotlib Figure, got {figure!r}")
    pyplot.close(figure)  # else a figure made by pyplot is shown a second time
    return kind(figure)


def _pack(frames, labels):
    """Frames as base64 of gzipped JSON: a table of their lines, and per frame steps through it."""
    table, steps = {}, []
    for frame in frames:
        at = [table.setdefault(line, len(table)) for line in frame.split("\n")]
        steps.append([at[0], *(b - a for a, b in itertools.pairwise(at))])
    text = json.dumps(
        {"lines": list(table), "frames": steps, "labels": labels}, separators=(",", ":")
    )
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _control(name, values, default):
    name, at = html.escape(name.replace("_", " ")), values.index(default)
    same = f'name="{name}" aria-label="{name}" autocomplete="off" data-lm-suppress-shortcuts="true"'
    if _numeric(values):
        control = (
            f'<input type="range" {same} min="0" max="{len(values) - 1}" step="1" value="{at}" '
            f'aria-valuetext="{default}"><output>{default}</output>'
        )
    else:
        options = (
            f"<option{' selected' * (k == at)}>{html.escape(str(value))}</option>"
            for k, value in enumerate(values)
        )
        control = f"<select {same}>{''.join(options)}</select>"
    return f'<label style="display:inline-flex; gap:0.5em; align-items:center">{name} {control}</label>'
