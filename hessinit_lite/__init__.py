"""Initialization and curvature of deep networks, small enough to read. See README.md.

Every name below is found here (`import hessinit_lite as hl`, `hl.report`); its file is loaded when
it is first asked for, so that the core loads neither matplotlib nor scikit-learn.
"""

import importlib

from . import parallel
from .chain_rule import layer_blocks, layer_gradients, layer_norms, layer_spectra, layer_traces
from .critical import CriticalRate, critical_rate
from .curvature import gauss_newton, hessian
from .losses import output_curvature
from .models import ACTIVATIONS, MLP, weight_layers
from .preconditioner import adam_preconditioner, preconditioned
from .principle import InitReport, hessian_init_
from .scaling import mup_groups, scale_branches_, width_multipliers
from .schemes import SCHEMES, init_
from .spectrum import (
    Estimate,
    frobenius_norm,
    gradient_quotient,
    spectral_density,
    top_eigenpairs,
    top_eigenvalues,
    trace,
)
from .variance import (
    dropout_factor,
    edge_of_chaos,
    fluctuation_profile,
    gain,
    gradient_profile,
    second_moments,
    variance_profile,
)

__version__ = "0.1.0"

_ELSEWHERE = {
    "diagnosis": ("CurvatureReport", "report"),
    "lab.correlation": (
        "FixedPoint",
        "correlation_map",
        "correlation_profile",
        "cross_moments",
        "fixed_point",
    ),
    "lab.corpus": ("Corpus", "docstrings", "draw_negatives", "python_text", "text8"),
    "lab.data": ("Data", "DataUnavailable", "cifar10", "digits", "fashion_mnist", "mnist"),
    "lab.explorable": ("explore",),
    "lab.laboratory": ("Laboratory", "laboratory"),
    "lab.networks": "EfficientNet GoogLeNet LeNet5 ResNet18 SkipGram TinyTransformer".split(),
    "lab.probes": "Shifted digits_net many_nets seeded signals signals_and_gradients".split(),
    "lab.results": ("Results",),
    "lab.statistics": ("Interval", "correlations", "interval", "spread"),
    "lab.transformers": ("GPT", "ViT"),
    "lab.training": ("Run", "accuracy", "final_losses", "sweep", "train", "train_together"),
    "tables": ("table",),
}
_HOME = {name: module for module, names in _ELSEWHERE.items() for name in names}
_MODULES = {"figures": "lab.figures", "results": "lab.results", "plots": "plots"}
_HERE = [name for name in globals() if not name.startswith("_") and name != "importlib"]
__all__ = sorted([*_HERE, *_HOME, *_MODULES])


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f".{_MODULES[name]}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__():
    return __all__
