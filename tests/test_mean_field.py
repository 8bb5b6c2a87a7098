"""The curvature predicted from pairs of inputs: its moments against integrals, its blocks against real wide nets."""

import pytest
import torch
import torch.nn.functional as F

import hessinit_lite as hl
from hessinit_lite.lab.mean_field import mean_field_blocks, pair_moments


@pytest.mark.parametrize("activation, tolerance", [("tanh", 1e-9), ("sigmoid", 1e-9), ("gelu", 1e-9), ("relu", 3e-3),
                                                   ("selu", 3e-3)])
@pytest.mark.parametrize("variance, correlation", [(1.0, 0.3), (0.5, -0.6), (2.0, 0.9)])
def test_moments_are_the_integrals(activation, tolerance, variance, correlation):
    covariance = variance * torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64)
    found = pair_moments(activation, covariance)
    crossed = hl.cross_moments(activation, correlation, variance)
    alone = hl.second_moments(activation, variance)
    for moment, cross, square in zip(found, crossed, alone):
        assert float(moment[0, 1]) == pytest.approx(cross, abs=tolerance)
        assert float(moment[1, 1]) == pytest.approx(square, rel=1e-9)


def test_variances_may_differ():
    """E u v is the covariance, for the activation that does nothing."""
    root = torch.randn(4, 4, dtype=torch.float64, generator=hl.seeded(0))
    covariance = root @ root.T + torch.eye(4)
    f, slopes = pair_moments("linear", covariance)
    assert torch.allclose(f, covariance) and torch.allclose(slopes, torch.ones_like(f))


@pytest.mark.parametrize("activation, first_bias", [("tanh", 0.0), ("tanh", 0.9), ("relu", 0.0)])
def test_wide_nets_have_these_blocks(activation, first_bias):
    width, depth, samples = 512, 4, 24
    inputs, targets = (t.double() if t.is_floating_point() else t for t in hl.digits().batch(samples, hl.seeded(0)))
    variance = [1 - first_bias] + [hl.gain(activation) ** 2] * (depth - 1)
    biases = [first_bias] + [0.0] * (depth - 1)
    found = mean_field_blocks(activation, inputs, [width] * (depth - 1) + [10], variance, biases, 20, hl.seeded(1))
    traces, norms, signal = [], [], []
    for seed in range(6):
        model, generator = hl.MLP(64, width, depth, 10, activation=activation).double(), hl.seeded(seed)
        hl.init_(model, "forward", generator=generator)
        with torch.no_grad():
            model.layers[0].weight.mul_((1 - first_bias) ** 0.5)
            model.layers[0].bias.normal_(0, first_bias**0.5, generator=generator)
        signal.append(torch.stack([u.square().mean() for u in hl.signals(model, inputs).values()]))
        blocks = hl.layer_blocks(model, F.cross_entropy, (inputs, targets)).values()
        traces.append(torch.stack([block.trace() for block in blocks]))
        norms.append(torch.stack([block.norm() for block in blocks]))
    near = [torch.stack(measured).mean(0) / predicted.mean(0) for measured, predicted in
            ((signal, found.signal[None]), (traces, found.traces), (norms, found.norms))]
    assert (near[0][:-1] - 1).abs().max() < 0.25  # ten outputs are too few for a mean
    assert (near[1] - 1).abs().max() < 0.15
    assert near[2].min() > 0.8 and near[2].max() < 1.35


def test_one_pair_of_layers_by_hand():
    """Linear, two layers: F₁·F₂ and B are known, and the trace is Σ_i tr H_z(i) B_ii F_i·F_i."""
    inputs = torch.randn(5, 8, dtype=torch.float64, generator=hl.seeded(0))
    found = mean_field_blocks("linear", inputs, [32, 3], [2.0, 0.5], [0.1, 0.0], 2, hl.seeded(0))
    square = inputs.square().mean(1)
    assert torch.allclose(found.signal, torch.stack([(2 * square + 0.1).mean(), (0.5 * (2 * square + 0.1)).mean()]))
    assert (found.norms <= found.traces).all() and (found.norms >= found.traces / 15).all()


def test_the_outputs_draws_are_those_of_the_generator():
    inputs = torch.eye(4, dtype=torch.float64)
    first, second = (mean_field_blocks("tanh", inputs, [16, 3], 1.0, draws=3, generator=hl.seeded(5)) for _ in range(2))
    assert torch.equal(first.norms, second.norms) and first.norms.shape == (3, 2)
