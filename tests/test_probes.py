"""Nets to look into, and what several seeds say: against autograd, theory and SciPy."""

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

import hessinit_lite as hl


def test_signals_are_the_pre_activations():
    model, (inputs, _) = hl.digits_net("tanh", depth=3, seed=4)
    by_hand, z = [], inputs
    for layer in model.layers:
        by_hand.append(F.linear(z, layer.weight, layer.bias))
        z = by_hand[-1].tanh()
    found = hl.signals(model, inputs)
    assert list(found) == ["layers.0", "layers.1", "layers.2"]
    assert all(torch.equal(a, b) for a, b in zip(found.values(), by_hand))


def test_hooks_are_gone_after_an_error():
    model, _ = hl.digits_net()
    with pytest.raises(RuntimeError):
        hl.signals(model, torch.ones(2, 3))
    assert not any(layer._forward_hooks for layer in model.layers)


def test_gradients_are_those_of_the_biases():
    """dL/db is the sum of dL/du over the samples, so one sample shows it."""
    model, (inputs, targets) = hl.digits_net("gelu", depth=4, samples=1)
    signal, gradient = hl.signals_and_gradients(model, (inputs, targets))
    F.cross_entropy(model(inputs), targets).backward()
    expected = torch.stack([layer.bias.grad.square().mean() for layer in model.layers])
    assert torch.allclose(gradient, expected, rtol=1e-12)
    assert not signal.requires_grad and signal.shape == (4,)


def test_many_nets_keep_the_mean_square():
    """Exact: E = 1 in each layer, Var = (1 + 2/width)^layers - 1 of linear nets."""
    signal, gradient = hl.many_nets([20] * 6, 4000, "linear", generator=hl.seeded(1))
    for found in (signal[:, -1], gradient[:, 0]):
        deviation = ((1 + 2 / 20) ** 5 - 1) ** 0.5
        assert abs(found.mean() - 1) < 6 * deviation / 4000 ** 0.5
    assert signal.shape == gradient.shape == (4000, 5)


def test_a_shifted_operator():
    model, batch = hl.digits_net(depth=2, width=4, samples=8)
    h = hl.hessian(model, F.cross_entropy, batch)
    shifted, v = hl.Shifted(h, 3.0), torch.randn(h.shape[0], 2, dtype=h.dtype, generator=hl.seeded(0))
    assert torch.allclose(shifted @ v[:, 0], h @ v[:, 0] - 3 * v[:, 0])
    assert torch.allclose(shifted.matmat(v), h.matmat(v) - 3 * v)


def test_student_s_interval_is_scipy_s():
    values = torch.randn(7, dtype=torch.float64, generator=hl.seeded(2))
    expected = stats.ttest_1samp(values.numpy(), 0).confidence_interval(0.9)
    found = hl.interval(values, 0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(float(values.mean()))


@pytest.mark.parametrize("values, level, message", [
    ([1.0], 0.95, "two finite runs"), ([1.0, float("nan")], 0.95, "two finite runs"), ([1.0, 2.0], 95, "between 0 and 1"),
])
def test_no_interval(values, level, message):
    with pytest.raises(ValueError, match=message):
        hl.interval(values, level)


def test_spread_counts_what_diverged():
    assert hl.spread(torch.tensor([1.0, float("inf"), float("nan")])) == "2 of 3 diverge"
    assert hl.spread([0.5, 0.5], digits=1) == "0.5 ± 0.0"


def test_correlations_are_numpy_s():
    a, b = torch.randn(2, 30, 3, dtype=torch.float64, generator=hl.seeded(3))
    expected = torch.corrcoef(torch.cat([a, b], 1).T)[:3, 3:]
    assert torch.allclose(hl.correlations(a, b), expected)
