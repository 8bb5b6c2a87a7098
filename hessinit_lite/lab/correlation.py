"""Two inputs of a wide random network: what becomes of the angle between them, layer by layer.

The pre-activations of two inputs are close to Gaussian, of one variance and some correlation.
Everything here is an integral of the activation (or of its slope) against their density, in float64
on the CPU, as in `hessinit_lite.variance`.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch

from ..models import activation_module
from ..variance import check_variance, second_moments, values_and_slopes, variance_profile


@functools.lru_cache
def _polar_rule(radial=48, angular=32, cut=12.0):
    """Radii with their weights, and a rule on [0, 1]: two independent normal numbers, polar."""
    x, w = np.polynomial.legendre.leggauss(radial)
    r, w_r = cut * (x + 1) / 2, cut * w / 2
    w_r = w_r * r * np.exp(-r * r / 2) / (2 * math.pi)
    x, w = np.polynomial.legendre.leggauss(angular)
    return tuple(torch.from_numpy(a) for a in (r, w_r, (x + 1) / 2, w / 2))


def _correlated_pair(correlation, variance):
    """Nodes u, v and weights, [r, θ], for Gaussians of the given variance and correlation.

    u = r cos θ and v = r cos(θ - α) with cos α = c: the kinks u = 0 and v = 0 are rays, whatever r,
    so that an integrand is smooth in each of the four sectors between them, for every c.
    """
    check_variance(variance)
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation must lie in [-1, 1], got {correlation!r}")
    r, w_r, t, w_t = _polar_rule()
    angle, right = math.acos(correlation), math.pi / 2
    edges = [-right, angle - right, right, angle + right, 3 * right]
    theta = torch.cat([a + (b - a) * t for a, b in zip(edges, edges[1:])])
    w_theta = torch.cat([(b - a) * w_t for a, b in zip(edges, edges[1:])])
    radius = math.sqrt(variance) * r[:, None]
    return radius * theta.cos(), radius * (theta - angle).cos(), w_r[:, None] * w_theta


def cross_moments(activation, correlation, variance=1.0):
    """(E f(u) f(v), E f'(u) f'(v)) for Gaussians u, v of the given variance and correlation.

    The second is the derivative of the first by the covariance of u and v (Price's theorem). At
    correlation 1 they are the `second_moments`. Poole et al. 2016, section 2.

    Raises:
        ValueError: for an unknown activation, a variance that is not positive, or a correlation
            outside [-1, 1].

    Example:
        >>> [round(moment, 6) for moment in hl.cross_moments("relu", correlation=0.0)]
        [0.159155, 0.25]
    """
    u, v, w = _correlated_pair(correlation, variance)
    f_u, slope_u = values_and_slopes(activation, u)
    f_v, slope_v = values_and_slopes(activation, v)
    return float((w * f_u * f_v).sum()), float((w * slope_u * slope_v).sum())


def correlation_map(activation, correlation, variance=1.0, weight_variance=1.0, bias_variance=0.0):
    """Correlation of one unit's pre-activations for two inputs, one layer on.

    Before, both have the given `variance` and `correlation`; `weight_variance` is fan_in · Var w,
    which does not matter without biases. Poole et al. 2016, section 2.

    Raises:
        ValueError: as `cross_moments`.

    Example:
        >>> round(hl.correlation_map("relu", correlation=0.0), 6)  # 1/π
        0.31831
    """
    u, v, w = _correlated_pair(correlation, variance)
    f = activation_module(activation)
    covariance = weight_variance * float((w * f(u) * f(v)).sum()) + bias_variance
    total = weight_variance * second_moments(activation, variance)[0] + bias_variance
    return max(-1.0, min(1.0, covariance / total))  # rounding may reach beyond


def correlation_profile(
    activation, depth, correlation, weight_variance, bias_variance=0.0, input_variance=1.0
):
    """Predicted correlations of two inputs' pre-activations in `depth` layers, as a list.

    `correlation` is the inputs' cosine; both have mean square `input_variance`. Variances follow
    `variance_profile`; where they leave the range of floats, the correlation is nan.

    Example:
        >>> found = hl.correlation_profile("relu", depth=3, correlation=0.0, weight_variance=2.0)
        >>> [round(c, 4) for c in found]
        [0.0, 0.3183, 0.4937]
    """
    variances = variance_profile(activation, depth, weight_variance, bias_variance, input_variance)
    profile = [(weight_variance * input_variance * correlation + bias_variance) / variances[0]]
    for q in variances[:-1]:
        c = profile[-1]
        known = 0 < q < math.inf and not math.isnan(c)
        c = correlation_map(activation, c, q, weight_variance, bias_variance) if known else math.nan
        profile.append(c)
    return profile


class FixedPoint(NamedTuple):
    """What layers settle at far from the input; see `fixed_point`.

    Example:
        >>> point = hl.fixed_point("relu", weight_variance=1.0, bias_variance=0.5)
        >>> round(point.variance, 6), round(point.correlation, 6), round(point.chi, 6)
        (1.0, 1.0, 0.5)
    """

    variance: float  #: q*, the variance of the pre-activations
    correlation: float  #: c*, the correlation of any two inputs
    chi: float  #: χ₁, slope of the correlation map at 1, and factor on the gradient's variance
    depth_scale: float  #: ξ, the layers in which the distance from c* falls by a factor e


def fixed_point(activation, weight_variance, bias_variance=0.0, start=1.0, layers=10_000):
    """The FixedPoint of the variance and the correlation map, the variance starting at `start`.

    On [0, 1] the correlation map is convex and ends in (1, 1): c* = 1 if its slope there is at most
    1, else it has one more fixed point, which attracts. (Where f is linear and there are no biases
    every c is fixed; 1 is returned.) Schoenholz et al. 2017, section 3.

    Raises:
        ValueError: if the variance has not settled, to ten digits, after `layers` layers.

    Example:
        >>> point = hl.fixed_point("tanh", weight_variance=2.0, bias_variance=0.1)
        >>> 0 < point.correlation < 1 < point.chi
        True
    """
    check_variance(start)
    q, before = start, math.nan
    for _ in range(layers):
        if not 0 < q < math.inf or math.isclose(q, before, rel_tol=1e-11):
            break
        q, before = weight_variance * second_moments(activation, q)[0] + bias_variance, q
    else:
        before = math.nan
    if not (0 < q < math.inf and math.isclose(q, before, rel_tol=1e-11)):
        what = f"the variance has not settled: it is {q:.3g} in the last layer tried"
        how = "change weight_variance, bias_variance or start, or allow more layers="
        raise ValueError(f"{what}; {how}")
    chi = weight_variance * second_moments(activation, q)[1]
    c = 1.0
    if chi > 1 + 1e-9:  # nearer to the edge rounding decides
        low, high = 0.0, 1.0
        while high - low > 1e-10:
            c = (low + high) / 2
            above = correlation_map(activation, c, q, weight_variance, bias_variance) > c
            low, high = (c, high) if above else (low, c)
    slope = weight_variance * cross_moments(activation, c, q)[1]
    return FixedPoint(q, c, chi, math.inf if slope == 1 else -1 / math.log(slope))
