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
