"""The figures of the book, three functions each.

`figure(depth, activation, ...)` runs the real computation and returns a matplotlib Figure. It is
`draw_figure(measure_figure(depth, activation, ...), depth, activation)`: who wants the numbers asks
`measure_figure` for them, a NamedTuple.
"""

from ...plots import BLUE, GREEN, ORANGE, PURPLE, SKY
from .branches import branch_starts, draw_branch_starts, measure_branch_starts
from .curvature import (
    approximation_error,
    chain_rule_error,
    convolution_curvature,
    density,
    draw_approximation_error,
    draw_chain_rule_error,
    draw_convolution_curvature,
    draw_density,
    draw_gradient_dependence,
    draw_jacobian_spectrum,
    draw_lanczos_convergence,
    draw_misprints,
    draw_shards,
    gradient_dependence,
    jacobian_spectrum,
    lanczos_convergence,
    measure_approximation_error,
    measure_chain_rule_error,
    measure_convolution_curvature,
    measure_density,
    measure_gradient_dependence,
    measure_jacobian_spectrum,
    measure_lanczos_convergence,
    measure_misprints,
    measure_shards,
    misprints,
    shards,
)
from .jacobians import (
    draw_fan_rules,
    draw_jacobian_bound,
    draw_jacobian_products,
    fan_rules,
    jacobian_bound,
    jacobian_products,
    measure_fan_rules,
    measure_jacobian_bound,
    measure_jacobian_products,
)
from .products import difference_error, draw_difference_error, measure_difference_error
from .scales import (
    draw_embedding_scale,
    draw_largest_rate,
    draw_principle,
    draw_scale_and_rate,
    embedding_scale,
    largest_rate,
    measure_embedding_scale,
    measure_largest_rate,
    measure_principle,
    measure_scale_and_rate,
    principle,
    scale_and_rate,
)
from .steps import along_the_step, draw_along_the_step, measure_along_the_step
from .variance import (
    correlations,
    draw_correlations,
    draw_fluctuations,
    draw_gain_flow,
    draw_residual_flow,
    draw_signal_by_layer,
    draw_variance_flow,
    fluctuations,
    gain_flow,
    measure_correlations,
    measure_fluctuations,
    measure_gain_flow,
    measure_residual_flow,
    measure_signal_by_layer,
    measure_variance_flow,
    residual_flow,
    signal_by_layer,
    variance_flow,
)
from .width import draw_width_curvature, measure_width_curvature, width_curvature
