"""The laboratory: real networks drawn, measured and trained where the page is read (`live/`).

The notebook's output carries all it needs: the engine (`live/engine.js`, held to this module by
tests/test_live_engine.py), the page's own small scripts, and the digits or stored numbers that the
view asks for. All of it is compressed, and `live/load.js` unpacks it. No kernel, no network.
"""

import base64
import functools
import gzip
import hashlib
import html
import json
import re
import urllib.parse
from pathlib import Path

import torch

from ..models import activation_module
from ..plots import to_png, to_svg
from .data import digits
from .experiments import eigenvalues, sweep
from .explorable import draw, size_of
from .stills import STILLS

LIVE = Path(__file__).parent / "live"
#: One function's body, in this order; each file is one idea.
SCRIPTS = "kit", "panels", "theory", "host", "bench", "laboratory", "small"
SCRIPTS += "circle", "views", "sweep", "lanczos", "balance", "start"
SCHEMES = "torch", "lecun", "glorot", "he", "forward", "backward"
SCHEMES += "spectral_condition", "mup", "orthogonal", "lsuv"
#: {view: what it lets its reader do}.
VIEWS = {
    "full": "knobs for the network, its curves by layer, and training",
    "small": "one knob, and what it does to the curves by layer and to training",
    "signal": "a knob for σ, new draws, and the line that theory predicts",
    "layers": "a knob for every layer, the norms of all, and the learning rate's budget",
    "rate": "training, with the learning rate on a knob beside its limit 2/λ",
    "plane": "a point to drag, and what it makes of variances, correlations, a circle of inputs",
    "map": "the variance map of an activation, with the gain on a knob",
    "singular": "the singular values of a net's Jacobians, with σ on a knob and new draws",
    "balance": "a factor on a knob that is moved from one layer to the next, and what stays",
    "lanczos": "Lanczos product by product, with a knob for the products and new starts",
    "sweep": "a map of targets and learning rates, and the loss curves of each of its fields",
}
FORMULAS = "plane", "map"  #: views that need no data
TRAINED = "full", "small"  #: views that train on all digits; the others measure a batch of them
#: {view: the stored numbers that it shows}.
STORED = {"sweep": sweep.figure, "lanczos": eigenvalues.figure}
#: The knobs' ends, as in live/bench.js.
RANGES = {
    "depth": (1, 60),
    "width": (4, 128),
    "factor": (0.25, 4),
    "biases": (0, 1),
    "dropout": (0, 0.9),
    "seed": (1, 9999),
    "rate": (1e-4, 100),
}
WHOLE = "depth", "width", "seed"


def laboratory(
    depth=30,
    activation="relu",
    *,
    width=64,
    scheme="torch",
    factor=1.0,
    biases=None,
    dropout=0.0,
    seed=1,
    balanced=False,
    rate=0.1,
    optimizer="sgd",
    view="full",
):
    """A dense net on scikit-learn's digits to be played with: drawn, measured and trained live.

    Everything is computed in the browser that shows it, in JupyterLab, Colab, VS Code or on a page
    of the book, and needs no kernel. Where scripts do not run there is a picture of the first
    setting, drawn with torch. The browser's random numbers are not torch's: one seed is two nets.

    Args:
        depth: weight matrices, 1 to 60.
        activation: a name in `hl.ACTIVATIONS`.
        width: of the hidden layers, 4 to 128.
        scheme: how the weights are drawn, as in `hl.init_`: "torch", "lecun", "glorot", "he",
            "forward", "backward", "spectral_condition", "mup", "orthogonal" or "lsuv".
        factor: on the scheme's standard deviation, 0.25 to 4.
        biases: their standard deviation, 0 to 1; None for what the scheme says.
        dropout: probability behind every activation, 0 to 0.9; nothing makes up for it.
        seed: of the weights, 1 to 9999.
        balanced: scale the layers until every Hessian norm is 1, as `hl.hessian_init_` does.
        rate: learning rate, 1e-4 to 100.
        optimizer: "sgd" or "adam".
        view: "full", "small" for one knob, or one of the chapters' figures: "signal", "layers",
            "rate", "plane", "map", "singular", "balance", "lanczos", "sweep". The last two show
            stored numbers: of the settings they know the seed alone, or none.

    Returns:
        A Laboratory, which a notebook shows when it is the last line of a cell.

    Raises:
        ValueError: for a setting that the laboratory has no knob or no place for.

    Example:
        >>> hl.laboratory(depth=10, activation="tanh", scheme="he")
        laboratory: tanh, depth 10, width 64, scheme he
    """
    setting = {
        "depth": depth,
        "width": width,
        "activation": activation,
        "scheme": scheme,
        "factor": factor,
        "biases": biases,
        "dropout": dropout,
        "seed": seed,
        "balanced": bool(balanced),
        "rate": rate,
        "optimizer": optimizer,
    }
    activation_module(activation)
    for name, value, known in (
        ("scheme", scheme, SCHEMES),
        ("optimizer", optimizer, ("sgd", "adam")),
        ("view", view, VIEWS),
    ):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
    for name, (low, high) in RANGES.items():
        value = setting[name]
        if value is None and name == "biases":
            continue
        if not (isinstance(value, (int, float)) and low <= value <= high):
            raise ValueError(f"{name} must lie in {low}..{high}, got {value!r}")
        if name in WHOLE and value != int(value):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
    return Laboratory(setting, view)


class Laboratory:
    """A live figure; made by `laboratory`. `setting`: what its knobs stand at first.

    Example:
        >>> shown = hl.laboratory(view="small")
        >>> shown.setting["depth"], "<script>" in shown._repr_html_()
        (30, True)
    """

    def __init__(self, setting, view):
        self.setting, self.view = setting, view

    def __repr__(self):
        words = [
            self.setting["activation"],
            *(f"{n} {self.setting[n]}" for n in ("depth", "width")),
        ]
        return f"laboratory: {', '.join(words)}, scheme {self.setting['scheme']}"

    def _repr_html_(self):
        return self.html()

    def _repr_png_(self):
        return draw(STILLS[self.view], self.setting, to_png)

    def html(self, link=False):
        """The laboratory as HTML that stands alone.

        Args:
            link: keep the setting in the page's address; for a page with one laboratory.
        """
        small = functools.partial(to_svg, letters="none")  # most pages replace it at once
        svg = draw(STILLS[self.view], self.setting, small)
        width, height = size_of(svg)
        scripts, key = _scripts()
        root = {
            "class": "hessinit-lab",
            "data-view": self.view,
            "data-setting": json.dumps(self.setting),
            **_data_of(self.view),
            "data-key": key,
            "data-scripts": scripts,
        } | ({"data-link": "true"} if link else {})
        picture = {
            "class": "dark-light",
            "alt": f"{STILLS[self.view].__doc__} {self!r}",
            "width": str(width),
            "height": str(height),
            "style": "max-width:100%; height:auto",
            "src": "data:image/svg+xml," + urllib.parse.quote(svg, safe=" =:;/,()'!*{}"),
        }
        style, load = (
            (LIVE / name).read_text(encoding="utf-8") for name in ("laboratory.css", "load.js")
        )
        return (
            f"<style>{style}</style>\n<div {_attributes(root)}>\n<img {_attributes(picture)}>\n"
            f"<p>Where scripts run, this is live: {VIEWS[self.view]}.</p>\n</div>\n"
            f"<script>{load}</script>"
        )

    @staticmethod
    def files():
        """What the HTML is made of: the paths of the scripts, the style sheet and this module."""
        return [
            *sorted(LIVE.glob("*.[jc]s*")),
            Path(__file__),
            Path(__file__).with_name("stills.py"),
        ]


def _attributes(values):
    return " ".join(f'{name}="{html.escape(value)}"' for name, value in values.items())


@functools.cache
def _digits(count):
    """The first training digits, pixels and then labels a byte each, and what standardizes all.

    count: how many of them; None for all.
    """
    inputs, targets = digits(standardize=False).train
    scaled = inputs.double()
    pixels, targets = (inputs[:count] * 16).round().to(torch.uint8), targets[:count]
    packed = _packed(pixels.numpy().tobytes() + targets.to(torch.uint8).numpy().tobytes())
    about = {"count": len(targets), "mean": float(scaled.mean()), "std": float(scaled.std())}
    return {"data-about": json.dumps(about), "data-digits": packed}


def _data_of(view):
    """Attributes with what a view computes with, or shows: nothing, stored numbers, or digits."""
    if view in STORED:
        return {"data-stored": _packed(json.dumps(STORED[view]()).encode())}
    return {} if view in FORMULAS else _digits(None if view in TRAINED else 128)


def _packed(data):
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def _without_comments(script):
    """Comments and spaces at the beginnings of lines left out: a page has no reader for them."""
    script = re.sub(r"^\s*(//.*|/\*[\s\S]*?\*/)\s*$", "", script, flags=re.MULTILINE)
    return re.sub(r"\n\s+", "\n", script)


@functools.cache
def _scripts():
    """The engine inside a function, whose source a worker is made from, and the page's files.

    Returns:
        Compressed, and a key that tells one version from another.
    """
    read = lambda name: _without_comments((LIVE / f"{name}.js").read_text(encoding="utf-8"))
    engine = f"function hessinitEngineSource() {{\nvar module;\n{read('engine')}\n}}"
    text = "\n".join(
        [
            "(() => {",
            '"use strict";',
            engine,
            "hessinitEngineSource();",
            *map(read, SCRIPTS),
            "})();",
        ]
    ).encode()
    return _packed(text), hashlib.sha256(text).hexdigest()[:12]
