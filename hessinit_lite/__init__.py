"""Initialization and curvature of deep networks, small enough to read. See README.md."""

from . import figures
from .chain_rule import layer_blocks, layer_norms, layer_traces, output_curvature
from .curvature import gauss_newton, hessian
from .data import Data, DataUnavailable, digits, mnist
from .explore import explore
from .models import ACTIVATIONS, MLP, weight_layers
from .principle import InitReport, hessian_init_
from .schemes import SCHEMES, init_
from .spectrum import frobenius_norm, gradient_quotient, spectral_density, top_eigenvalues, trace
from .training import Run, accuracy, sweep, train
from .variance import dropout_factor, gain, gradient_profile, second_moments, variance_profile

__version__ = "0.1.0"
