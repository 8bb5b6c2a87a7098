"""Initialization and curvature of deep networks, small enough to read. See README.md."""

from . import figures, parallel
from .architectures import EfficientNet, GoogLeNet, LeNet5, ResNet18, SkipGram, TinyTransformer
from .chain_rule import layer_blocks, layer_norms, layer_spectra, layer_traces
from .corpus import Corpus, docstrings, draw_negatives, text8
from .curvature import gauss_newton, hessian
from .data import Data, DataUnavailable, cifar10, digits, fashion_mnist, mnist
from .explore import explore
from .losses import output_curvature
from .models import ACTIVATIONS, MLP, weight_layers
from .principle import InitReport, hessian_init_
from .report import CurvatureReport, report
from .results import Results
from .schemes import SCHEMES, init_
from .spectrum import (Estimate, frobenius_norm, gradient_quotient, spectral_density, top_eigenpairs,
                       top_eigenvalues, trace)
from .training import Run, accuracy, sweep, train
from .variance import (FixedPoint, correlation_map, correlation_profile, cross_moments, dropout_factor,
                       edge_of_chaos, fixed_point, fluctuation_profile, gain, gradient_profile,
                       second_moments, variance_profile)

__version__ = "0.1.0"
