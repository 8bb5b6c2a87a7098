"""The figures of the book, one function a figure.

Each is called as `figure(depth, activation, ...)`, runs the real computation and returns a
matplotlib Figure.
"""

from ...plots import BLUE, GREEN, ORANGE, PURPLE, SKY
from .curvature import (
    approximation_error,
    chain_rule_error,
    convolution_curvature,
    density,
    gradient_dependence,
    jacobian_products,
    jacobian_spectrum,
    lanczos_convergence,
    misprints,
    shards,
)
from .scales import embedding_scale, largest_rate, principle, scale_and_rate
from .variance import (
    correlations,
    fluctuations,
    gain_flow,
    residual_flow,
    signal_by_layer,
    variance_flow,
)
