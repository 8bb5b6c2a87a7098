"""Gains and profiles against independent integrators and against real networks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import nn

import hessinit_lite as hl
from hessinit_lite.models import activation_module

NAMES = list(hl.ACTIVATIONS)


def _value_and_slope(name, x):
    u = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    f = activation_module(name)(u)
    (slope,) = torch.autograd.grad(f, u)
    return f.item(), slope.item()


@pytest.mark.parametrize("variance", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("activation", NAMES)
def test_second_moments_equal_scipys_integral(activation, variance):
    deviation = math.sqrt(variance)
    for which in (0, 1):
        def integrand(z):
            return (_value_and_slope(activation, deviation * z)[which] ** 2
                    * math.exp(-z * z / 2) / math.sqrt(2 * math.pi))
        expected = quad(integrand, -12, 0, epsabs=1e-12)[0] + quad(integrand, 0, 12, epsabs=1e-12)[0]
        assert hl.second_moments(activation, variance)[which] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("activation", NAMES)
def test_second_moments_lie_in_a_monte_carlo_interval(activation, generator):
    u = torch.randn(200_000, dtype=torch.float64, generator=generator).requires_grad_()
    f = activation_module(activation)(u)
    (slope,) = torch.autograd.grad(f.sum(), u)
    for exact, sample in zip(hl.second_moments(activation), (f.detach() ** 2, slope ** 2)):
        error = sample.std().item() / math.sqrt(len(sample))
        assert abs(sample.mean().item() - exact) <= 4 * error + 1e-12


def test_gains_known_in_closed_form():
    assert hl.gain("relu") == pytest.approx(math.sqrt(2), rel=1e-12)
    assert hl.gain("relu", "backward") == pytest.approx(math.sqrt(2), rel=1e-12)
    assert hl.gain("linear") == pytest.approx(1, rel=1e-12)
    slope = nn.LeakyReLU().negative_slope
    assert hl.gain("leaky_relu") == pytest.approx(math.sqrt(2 / (1 + slope ** 2)), rel=1e-12)
    assert hl.gain("selu") == pytest.approx(1, abs=1e-6)  # the fixed point SELU was built for


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("mode", ["forward", "backward"])
def test_a_gain_keeps_the_variance_that_it_promises_to_keep(activation, mode):
    for variance in (0.3, 1.0, 2.0):
        forward, backward = hl.second_moments(activation, variance)
        kept = forward / variance if mode == "forward" else backward
        assert hl.gain(activation, mode, variance) ** 2 * kept == pytest.approx(1, rel=1e-12)


@given(st.sampled_from(["relu", "leaky_relu", "linear"]), st.floats(1e-6, 1e6))
def test_gains_of_homogeneous_activations_know_no_scale(activation, variance):
    assert hl.gain(activation, variance=variance) == pytest.approx(hl.gain(activation), rel=1e-9)


@pytest.mark.parametrize("variance", [0, -1, math.nan, math.inf])
def test_impossible_variances(variance):
    with pytest.raises(ValueError, match="variance"):
        hl.gain("tanh", variance=variance)


def test_unknown_names():
    with pytest.raises(ValueError, match="known: .*tanh.*relu"):
        hl.gain("swosh")
    with pytest.raises(ValueError, match="forward, backward"):
        hl.gain("tanh", "sideways")


@pytest.mark.parametrize("activation", NAMES)
def test_variance_profile_predicts_a_wide_network(activation):
    """Mean of 10 seeds of a width-512 net; the prediction must lie within 4 standard errors + 2 %."""
    depth, width, measured = 6, 512, []
    predicted = hl.variance_profile(activation, depth, 1.5)
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        z = torch.randn(64, width, generator=g)
        rows = []
        for _ in range(depth):
            u = z @ (torch.randn(width, width, generator=g) * math.sqrt(1.5 / width)).T
            rows.append(u.var().item())
            z = activation_module(activation)(u)
        measured.append(rows)
    measured = torch.tensor(measured)
    error = measured.std(0) / math.sqrt(len(measured))
    assert ((measured.mean(0) - torch.tensor(predicted)).abs()
            <= 4 * error + 0.02 * torch.tensor(predicted)).all()


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
def test_gradient_profile_predicts_a_wide_network(activation):
    depth, width, measured = 5, 512, []
    g2 = hl.gain(activation) ** 2
    predicted = torch.tensor(hl.gradient_profile(
        activation, hl.variance_profile(activation, depth, g2), g2))
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        z, us = torch.randn(64, width, generator=g), []
        for _ in range(depth):
            weight = torch.randn(width, width, generator=g) * math.sqrt(g2 / width)
            u = (z @ weight.T).requires_grad_()
            us.append(u)
            z = activation_module(activation)(u)
        last = torch.randn(us[-1].shape, generator=g)
        sizes = torch.stack([d.pow(2).mean() for d in torch.autograd.grad(us[-1], us, last)])
        measured.append(sizes / sizes[-1])
    measured = torch.stack(measured)
    error = measured.std(0) / math.sqrt(len(measured))
    assert ((measured.mean(0) - predicted).abs() <= 4 * error + 0.05 * predicted).all()


def test_profiles_under_and_overflow_to_0_and_inf():
    assert hl.variance_profile("relu", 400, 0.01)[-1] == 0
    assert hl.variance_profile("relu", 800, 1e4)[-1] == math.inf
    profile = hl.variance_profile("sigmoid", 3, 2.0, bias_variance=0.5, input_variance=3.0)
    assert profile[0] == 2.0 * 3.0 + 0.5
    assert profile[1] == 2.0 * hl.second_moments("sigmoid", profile[0])[0] + 0.5


def _ratio(mask, factor, p, depth=10, width=256, seeds=10):
    """(mean, standard error) of log(output/input mean square) of deep linear nets with dropout."""
    logs = []
    for seed in range(seeds):
        torch.manual_seed(seed)  # nn.Dropout takes no generator
        z = torch.randn(256, width)
        start = z.pow(2).mean()
        for _ in range(depth):
            z = mask(z, p) @ (torch.randn(width, width) * factor / math.sqrt(width)).T
        logs.append((z.pow(2).mean() / start).log())
    logs = torch.stack(logs)
    return logs.mean().item(), logs.std().item() / math.sqrt(seeds)


def _inverted(z, p):
    return nn.Dropout(p)(z)


def _plain(z, p):
    return z * (torch.rand_like(z) >= p)


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropout_factor_restores_the_variance(p):
    for mask, inverted in ((_inverted, True), (_plain, False)):
        mean, error = _ratio(mask, hl.dropout_factor(p, inverted), p)
        # The mean of the logarithm lies 10 layers · (about 2/width) / 2 below 0.
        assert abs(mean) <= 4 * error + 10 / 256


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_the_printed_corollary_12_fails_for_inverted_dropout(p):
    """Corollary 12 prints 1/sqrt(1-p): off by (1-p)^-2 a layer, as `dropout_factor` says."""
    printed = 1 / math.sqrt(1 - p)
    assert hl.dropout_factor(p, inverted=False) == pytest.approx(printed)
    mean, error = _ratio(_inverted, printed, p)
    expected = -2 * 10 * math.log(1 - p)
    assert abs(mean - expected) <= 4 * error + 10 / 256
    assert mean > 4


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, math.nan])
def test_impossible_dropout(p):
    with pytest.raises(ValueError, match="dropout"):
        hl.dropout_factor(p)


def test_dropout_factor_of_no_dropout_is_1():
    assert hl.dropout_factor(0) == hl.dropout_factor(0, inverted=False) == 1


def _expected(integrand):
    """E integrand(z), z ~ N(0, 1), by scipy, on both sides of the kink."""
    def weighted(z):
        return integrand(z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return sum(quad(weighted, a, b, epsabs=1e-12)[0] for a, b in ((-12, 0), (0, 12)))


@pytest.mark.parametrize("variance", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("activation", NAMES)
def test_cross_moments_of_equal_opposite_and_independent_numbers(activation, variance):
    """The three correlations at which the double integral is a single one."""
    deviation = math.sqrt(variance)

    def values(z):
        return _value_and_slope(activation, deviation * z)

    for which in (0, 1):
        equal = hl.second_moments(activation, variance)[which]
        opposite = _expected(lambda z: values(z)[which] * values(-z)[which])
        independent = _expected(lambda z: values(z)[which]) ** 2
        for c, expected in ((1.0, equal), (-1.0, opposite), (0.0, independent)):
            assert hl.cross_moments(activation, c, variance)[which] == pytest.approx(expected, rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("correlation", [-0.99, -0.4, 0.3, 0.999])
@pytest.mark.parametrize("variance", [0.1, 9.0])
def test_cross_moments_of_relu_are_the_arc_cosine_kernels(correlation, variance):
    """Cho and Saul 2009: orders 1 and 0."""
    angle = math.acos(correlation)
    first = variance * (math.sin(angle) + (math.pi - angle) * correlation) / (2 * math.pi)
    zeroth = (math.pi - angle) / (2 * math.pi)
    assert hl.cross_moments("relu", correlation, variance) == pytest.approx((first, zeroth), abs=1e-13 * variance)


@pytest.mark.parametrize("activation", NAMES)
def test_cross_moments_lie_in_a_monte_carlo_interval(activation, generator):
    c, variance = 0.6, 2.0
    z = torch.randn(2, 200_000, dtype=torch.float64, generator=generator) * math.sqrt(variance)
    pair = torch.stack([z[0], c * z[0] + math.sqrt(1 - c * c) * z[1]]).requires_grad_()
    f = activation_module(activation)(pair)
    (slope,) = torch.autograd.grad(f.sum(), pair)
    for exact, sample in zip(hl.cross_moments(activation, c, variance), (f.detach().prod(0), slope.prod(0))):
        error = sample.std().item() / math.sqrt(len(sample))
        assert abs(sample.mean().item() - exact) <= 4 * error + 1e-12


@pytest.mark.parametrize("activation", NAMES)
def test_the_second_cross_moment_is_the_derivative_of_the_first(activation):
    """Price's theorem, by a central difference in the covariance."""
    step, variance = 1e-4, 1.5
    for c in (-0.5, 0.2, 0.9):
        ends = [hl.cross_moments(activation, c + d, variance)[0] for d in (step, -step)]
        difference = (ends[0] - ends[1]) / (2 * step * variance)
        assert hl.cross_moments(activation, c, variance)[1] == pytest.approx(difference, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("correlation", [-1.1, 1.1, math.nan])
def test_impossible_correlations(correlation):
    for function in (hl.cross_moments, hl.correlation_map):
        with pytest.raises(ValueError, match="correlation"):
            function("tanh", correlation)


@pytest.mark.parametrize("activation", NAMES)
def test_correlation_map_is_convex_and_ends_in_one(activation):
    """What `fixed_point` relies on: Hermite's expansion has no negative coefficients."""
    grid = torch.linspace(0, 1, 21, dtype=torch.float64)
    image = torch.tensor([hl.correlation_map(activation, float(c), 1.7, 2.0, 0.1) for c in grid])
    assert image[-1] == pytest.approx(1, abs=1e-6) and image[0] >= 0
    assert (image.diff(n=2) >= -1e-6).all() and (image.diff() >= 0).all()


@pytest.mark.parametrize("activation", NAMES)
def test_correlation_profile_predicts_a_wide_network(activation):
    """Ten seeds of a width-512 net with biases; within 4 standard errors + 0.01 in every layer."""
    depth, width, weight_variance, bias_variance, cosine, square = 5, 512, 1.5, 0.2, 0.3, 2.0
    predicted = torch.tensor(hl.correlation_profile(activation, depth, cosine, weight_variance, bias_variance, square))
    measured = []
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(torch.randn(width, 2, generator=g)).Q.T
        z = torch.stack([basis[0], cosine * basis[0] + math.sqrt(1 - cosine ** 2) * basis[1]]) * math.sqrt(square * width)
        rows = []
        for _ in range(depth):
            u = (z @ torch.randn(width, width, generator=g) * math.sqrt(weight_variance / width)
                 + torch.randn(width, generator=g) * math.sqrt(bias_variance))
            rows.append(torch.cosine_similarity(u[0], u[1], dim=0))
            z = activation_module(activation)(u)
        measured.append(torch.stack(rows))
    measured = torch.stack(measured)
    error = measured.std(0) / math.sqrt(len(measured))
    assert ((measured.mean(0) - predicted).abs() <= 4 * error + 0.01).all()


def test_correlation_profile_beyond_the_floats_is_nan():
    profile = hl.correlation_profile("relu", 800, 0.5, 1e4)
    assert profile[0] == 0.5 and math.isnan(profile[-1])


@pytest.mark.parametrize("weight_variance, bias_variance", [(1.2, 0.05), (2.0, 0.05), (4.0, 0.3)])
def test_fixed_point_is_where_deep_layers_settle(weight_variance, bias_variance):
    point = hl.fixed_point("tanh", weight_variance, bias_variance)
    start = (point.variance - bias_variance) / weight_variance  # so that the first layer has q*
    variances = hl.variance_profile("tanh", 3, weight_variance, bias_variance, start)
    assert variances == pytest.approx([point.variance] * 3, rel=1e-8)
    depth = round(8 * point.depth_scale)
    near = hl.correlation_profile("tanh", depth, 0.9, weight_variance, bias_variance, start)
    far = abs(near[0] - point.correlation)
    assert abs(near[-1] - point.correlation) < 0.01 * far
    assert (point.correlation == 1) == (point.chi <= 1)
    # ξ: the last distances shrink by exp(-1/ξ) a layer.
    distances = [abs(c - point.correlation) for c in near if abs(c - point.correlation) > 1e-4]
    assert distances[-1] / distances[-2] == pytest.approx(math.exp(-1 / point.depth_scale), rel=0.02)


def test_fixed_point_that_does_not_exist():
    for arguments in (("relu", 2.5), ("tanh", 0.9), ("tanh", 1.0)):
        with pytest.raises(ValueError, match="settled"):
            hl.fixed_point(*arguments, layers=2000)
    with pytest.raises(ValueError, match="variance"):
        hl.fixed_point("tanh", 2.0, start=-1.0)


def test_edge_of_chaos():
    assert hl.edge_of_chaos("relu", 3.0) == pytest.approx((2, 0), abs=1e-12)
    for activation, q in (("tanh", 0.5), ("gelu", 1.0), ("selu", 2.0), ("sigmoid", 60.0)):
        weight_variance, bias_variance = hl.edge_of_chaos(activation, q)
        assert bias_variance > 0
        assert hl.variance_profile(activation, 2, weight_variance, bias_variance,
                                   hl.second_moments(activation, q)[0])[0] == pytest.approx(q)
        assert weight_variance * hl.second_moments(activation, q)[1] == pytest.approx(1)
    assert hl.edge_of_chaos("sigmoid", 1.0)[1] < 0


def test_fluctuation_profile_in_closed_form():
    """Linear: χ² of a layer over its width, 2/n each. ReLU: 5/n, since E relu⁴ / (E relu²)² = 6."""
    linear, relu = (hl.fluctuation_profile(name, 4, 10, hl.gain(name) ** 2) for name in ("linear", "relu"))
    assert linear == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert relu == pytest.approx([0.2, 0.7, 1.2, 1.7])
    with pytest.raises(ValueError, match="width"):
        hl.fluctuation_profile("relu", 4, 0, 2.0)


@pytest.mark.parametrize("activation, bias_variance", [("linear", 0.0), ("relu", 0.0), ("tanh", 0.3), ("selu", 0.1)])
def test_fluctuation_profile_predicts_the_spread_of_real_nets(activation, bias_variance, generator):
    """2,000 nets of width 100, depth 6: within 4 standard errors of a variance and 5 % (next order)."""
    nets, width, depth = 2000, 100, 6
    z = torch.ones(nets, width, 1)
    predicted = torch.tensor(hl.fluctuation_profile(activation, depth, width, 1.3, bias_variance))
    for k in range(depth):
        w = torch.randn(nets, width, width, generator=generator) * math.sqrt(1.3 / width)
        u = w @ z + torch.randn(nets, width, 1, generator=generator) * math.sqrt(bias_variance)
        spread = u.square().mean((1, 2)).log().var()
        assert abs(spread / predicted[k] - 1) <= 4 * math.sqrt(2 / nets) + 0.05
        z = activation_module(activation)(u)
