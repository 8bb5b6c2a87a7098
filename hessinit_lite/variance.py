"""What a Gaussian signal does on its way through a wide random network.

In a wide layer the pre-activations u are close to Gaussian, N(0, q). Everything here is an integral
of the activation f (or of its slope f') against that density, in float64 on the CPU.
"""

import functools
import math

import numpy as np
import torch

from .models import activation_module


@functools.lru_cache
def _half_line_rule(nodes=128, cut=12.0):
    """Nodes and weights with sum(w g(x)) = E g(z) for z ~ N(0, 1), g smooth on each side of 0.

    Gauss-Legendre on [-cut, 0] and [0, cut] instead of Gauss-Hermite on the line, because ReLU,
    leaky ReLU and SELU have their kink at 0. The mass beyond |z| = 12 is below 1e-32.
    """
    x, w = np.polynomial.legendre.leggauss(nodes)
    x, w = cut * (x + 1) / 2, cut * w / 2
    z = np.concatenate([-x[::-1], x])
    w = np.concatenate([w[::-1], w]) * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return torch.from_numpy(z), torch.from_numpy(w)


def values_and_slopes(activation, u):
    """(f(u), f'(u)) of an activation."""
    u = u.clone().requires_grad_()
    with torch.enable_grad():
        f = activation_module(activation)(u)
        (slope,) = torch.autograd.grad(f.sum(), u)
    return f.detach(), slope


def check_variance(variance):
    """ValueError for a variance that is not finite and positive."""
    if not (math.isfinite(variance) and variance > 0):
        raise ValueError(f"variance must be finite and positive, got {variance!r}")


def second_moments(activation, variance=1.0):
    """(E f(u)², E f'(u)²) for u ~ N(0, variance).

    The first says how much of the signal's variance an activation passes forwards, the second how
    much of the gradient's variance it passes backwards (He et al. 2015, eqs. 7 and 13).

    Raises:
        ValueError: for an unknown activation, or a variance that is not positive.

    Example:
        >>> forward, backward = hl.second_moments("relu", variance=3.0)
        >>> round(forward, 8), round(backward, 8)
        (1.5, 0.5)
    """
    check_variance(variance)
    z, w = _half_line_rule()
    f, slope = values_and_slopes(activation, math.sqrt(variance) * z)
    return float(w @ f**2), float(w @ slope**2)


def gain(activation, mode="forward", variance=1.0):
    """The factor g by which the weights' standard deviation must exceed 1/sqrt(fan).

    With Var w = g²/fan_in ("forward") pre-activations of the given variance keep it from layer to
    layer: g² = variance / E f(u)². With Var w = g²/fan_out ("backward") gradients keep theirs: g² =
    1 / E f'(u)². For ReLU both are sqrt(2): He initialization.

    Raises:
        ValueError: for an unknown activation or mode, or a variance that is not positive.

    Example:
        >>> round(hl.gain("relu") ** 2, 8)
        2.0
        >>> round(hl.gain("tanh"), 4), round(hl.gain("tanh", "backward"), 4)
        (1.5925, 1.4674)
    """
    forward, backward = second_moments(activation, variance)
    if mode == "forward":
        return math.sqrt(variance / forward)
    if mode == "backward":
        return 1 / math.sqrt(backward)
    raise ValueError(f"unknown mode {mode!r}; known: forward, backward")


def dropout_factor(p, inverted=True):
    """The factor on the weights' standard deviation that undoes dropout with probability p.

    Inverted dropout (torch.nn.Dropout: kept units are multiplied by 1/(1-p)) multiplies the second
    moment by 1/(1-p), so the factor is sqrt(1-p). A plain 0/1 mask multiplies it by 1-p, so the
    factor is 1/sqrt(1-p); that is what Corollary 12 of Skorski et al. prints.

    Raises:
        ValueError: unless 0 <= p < 1.

    Example:
        >>> hl.dropout_factor(0.75), hl.dropout_factor(0.75, inverted=False)
        (0.5, 2.0)
    """
    if not 0 <= p < 1:
        raise ValueError(f"the dropout probability must lie in [0, 1), got {p!r}")
    return math.sqrt(1 - p) if inverted else 1 / math.sqrt(1 - p)


def variance_profile(activation, depth, weight_variance, bias_variance=0.0, input_variance=1.0):
    """Predicted variances of the pre-activations u of `depth` layers, as a list.

    Inputs pass through no activation: q_1 = weight_variance · input_variance + bias_variance, then
    q_{k+1} = weight_variance · E f(u_k)² + bias_variance. A variance that under- or overflows is
    reported as 0 or inf.

    Args:
        weight_variance: fan_in · Var w.
        input_variance: the mean square of the inputs.

    Example:
        >>> [round(q, 8) for q in hl.variance_profile("relu", depth=4, weight_variance=1.0)]
        [1.0, 0.5, 0.25, 0.125]
    """
    check_variance(input_variance)
    profile, second_moment = [], input_variance
    for _ in range(depth):
        q = weight_variance * second_moment + bias_variance
        profile.append(q)
        # Outside the range of floats the profile stays where it is.
        second_moment = second_moments(activation, q)[0] if 0 < q < math.inf else q
    return profile


def gradient_profile(activation, profile, weight_variance):
    """Predicted mean square of dL/du by layer, relative to the last layer's, as a list.

    E (dL/du_k)² = weight_variance · E f'(u_k)² · E (dL/du_{k+1})².

    Args:
        profile: the forward variances (`variance_profile`).
        weight_variance: fan_out · Var w.

    Example:
        >>> profile = hl.variance_profile("relu", depth=3, weight_variance=2.0)
        >>> [round(g, 8) for g in hl.gradient_profile("relu", profile, weight_variance=4.0)]
        [4.0, 2.0, 1.0]
    """
    gradients = [1.0]
    for q in reversed(profile[:-1]):
        slope = second_moments(activation, q)[1] if 0 < q < math.inf else math.nan
        gradients.append(gradients[-1] * weight_variance * slope)
    return gradients[::-1]


def fluctuation_profile(
    activation, depth, width, weight_variance, bias_variance=0.0, input_variance=1.0
):
    """Predicted variance over nets of log(mean square of u) in `depth` layers of one width, a list.

    To first order in depth/width. A layer passes on a relative deviation times m, the logarithmic
    slope of the variance map, and its finitely many units add noise of their own, Var f² / width:
    v_{l+1} = m² v_l + (E f⁴ / (E f²)² - 1) / width, and the mean over a layer's units adds 2/width.
    Hanin 2018 has the case m = 1. Where a variance leaves the range of floats the result is nan.

    Raises:
        ValueError: for a width below 1 or an input_variance that is not positive.

    Example:
        >>> found = hl.fluctuation_profile("relu", depth=3, width=100, weight_variance=2.0)
        >>> [round(v, 8) for v in found]
        [0.02, 0.07, 0.12]
    """
    if not width >= 1:
        raise ValueError(f"width must be at least 1, got {width!r}")
    z, w = _half_line_rule()
    profile, v = [], 0.0
    for q in variance_profile(activation, depth, weight_variance, bias_variance, input_variance):
        profile.append(v + 2 / width)
        if not 0 < q < math.inf:
            v = math.nan
            continue
        u = math.sqrt(q) * z
        f, slope = values_and_slopes(activation, u)
        square = float(w @ f**2)
        grown = weight_variance * square
        share = grown / (grown + bias_variance)  # not the bias's
        m = share * float(w @ (f * slope * u)) / square
        v = m**2 * v + share**2 * (float(w @ f**4) / square**2 - 1) / width
    return profile


def edge_of_chaos(activation, variance):
    """(weight_variance, bias_variance) that hold the variance level and have χ₁ = 1.

    weight_variance = 1 / E f'(u)², bias_variance = variance - weight_variance · E f(u)². A negative
    bias_variance says that no net does this. Poole et al. 2016.

    Raises:
        ValueError: as `second_moments`.

    Example:
        >>> weight_variance, bias_variance = hl.edge_of_chaos("relu", variance=1.0)
        >>> round(weight_variance, 6), round(abs(bias_variance), 6)
        (2.0, 0.0)
    """
    forward, backward = second_moments(activation, variance)
    return 1 / backward, variance - forward / backward
