"""hessian_init_: scales that bring every layer's norm to the target, and truthful reports where none do."""

import copy
import math

import pytest
import torch
from dense import dense_gauss_newton
from torch import nn
from torch.nn import functional as F

import hessinit_lite as hl


def setting(digits, activation, depth, bias=False, seed=0, samples=128):
    generator = torch.Generator().manual_seed(seed)
    model = hl.MLP(64, 64, depth, 10, activation=activation, bias=bias)
    return model, F.cross_entropy, digits.batch(samples, generator), generator


@pytest.mark.parametrize("depth", [3, 10, 30])
def test_relu_nets_reach_the_target_most_often_in_five_measurements(digits, depth):
    steps = []
    for seed in range(5):
        model, loss_fn, batch, generator = setting(digits, "relu", depth, seed=seed)
        report = hl.hessian_init_(model, loss_fn, batch, generator=generator)
        assert report.converged
        steps.append(report.steps)
        measured = hl.layer_norms(model, loss_fn, batch)
        assert all(abs(norm - 1) < 0.02 for norm in measured.values())
        assert report.norms == pytest.approx(measured, rel=1e-3)
    assert sorted(steps)[2] <= 5


@pytest.mark.parametrize("norm", ["spectral", "frobenius", "gradient"])
@pytest.mark.parametrize("target", [0.3, 3.0])
def test_the_norm_that_was_asked_for_is_the_one_that_is_reached(digits, norm, target):
    model, loss_fn, batch, generator = setting(digits, "relu", 4, bias=True)
    report = hl.hessian_init_(model, loss_fn, batch, target, norm, generator)
    measured = hl.layer_norms(model, loss_fn, batch, norm)
    worst = max(abs(math.log(value / target)) for value in measured.values())
    assert report.history and min(report.history) == pytest.approx(worst, abs=2e-3)
    assert report.converged == (worst <= math.log1p(0.01))
    if norm != "gradient":  # along the gradient the curvature turns with the scales: no promise
        assert report.converged


def test_the_norms_are_those_of_dense_blocks(generator):
    model = hl.MLP(3, 5, 3, 2, bias=False).double()
    batch = torch.randn(20, 3, dtype=torch.float64, generator=generator), torch.arange(20) % 2
    report = hl.hessian_init_(model, F.cross_entropy, batch, 0.1, generator=generator)
    assert report.converged
    for name in report.norms:
        dense = dense_gauss_newton(model, F.cross_entropy, batch, [f"{name}.weight"])
        assert torch.linalg.eigvalsh(dense)[-1].item() == pytest.approx(0.1, rel=0.011)


def plain_newton(model, loss_fn, batch):
    """One solve of the scaling law; returns the worst factor that is left."""
    layers = hl.weight_layers(model)
    error = torch.tensor(list(hl.layer_norms(model, loss_fn, batch).values()), dtype=torch.float64).log()
    law = 2 * (torch.ones(len(layers), len(layers), dtype=torch.float64) - torch.eye(len(layers)))
    with torch.no_grad():
        for layer, factor in zip(layers.values(), torch.linalg.solve(law, -error).exp().tolist()):
            layer.weight.mul_(factor)
    left = hl.layer_norms(model, loss_fn, batch)
    return max(abs(math.log(norm)) for norm in left.values())


@pytest.mark.parametrize("depth", [10, 30])
def test_saturating_nets_end_with_a_truthful_report(digits, depth):
    model, loss_fn, batch, generator = setting(digits, "tanh", depth)
    report = hl.hessian_init_(model, loss_fn, batch, generator=generator)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    measured = hl.layer_norms(model, loss_fn, batch)
    worst = max(abs(math.log(norm)) for norm in measured.values())
    assert report.norms == pytest.approx(measured, rel=1e-3)
    assert report.converged == (worst <= math.log1p(0.01))
    assert ("reached within" in report.message) == report.converged
    if not report.converged:
        assert f"a factor {math.exp(min(report.history)):.3g} away" in report.message


def test_saturating_nets_end_closer_than_after_one_newton_solve(digits):
    """At depth 30 the solve of the scaling law overshoots by orders of magnitude."""
    closer = []
    for seed in range(5):
        model, loss_fn, batch, generator = setting(digits, "tanh", 30, seed=seed)
        hl.init_(model, "forward", generator=generator)
        drawn = copy.deepcopy(model)
        report = hl.hessian_init_(model, loss_fn, batch, scheme=None)
        closer.append(plain_newton(drawn, loss_fn, batch) - min(report.history))
    assert sorted(closer)[2] > 1  # in logarithms


def test_the_report_prints_one_line_a_layer(digits):
    model, loss_fn, batch, generator = setting(digits, "relu", 3)
    report = hl.hessian_init_(model, loss_fn, batch, target=2.0, generator=generator)
    lines = str(report).splitlines()
    assert "target 2" in lines[0] and "reached" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == list(report.norms)


def test_scales_are_the_factors_on_the_drawn_weights(digits):
    model, loss_fn, batch, generator = setting(digits, "relu", 3)
    hl.init_(model, "he", generator=generator)
    drawn = {name: layer.weight.detach().clone() for name, layer in hl.weight_layers(model).items()}
    report = hl.hessian_init_(model, loss_fn, batch, scheme=None)
    for name, layer in hl.weight_layers(model).items():
        torch.testing.assert_close(layer.weight, drawn[name] * report.scales[name])


def test_same_seed_same_weights(digits):
    weights = []
    for _ in range(2):
        model, loss_fn, batch, generator = setting(digits, "gelu", 4)
        hl.hessian_init_(model, loss_fn, batch, generator=generator)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_frozen_layers_are_left_alone(digits):
    model, loss_fn, batch, generator = setting(digits, "relu", 4)
    hl.init_(model, "he", generator=generator)
    model.layers[1].weight.requires_grad_(False)
    before = model.layers[1].weight.clone()
    report = hl.hessian_init_(model, loss_fn, batch, scheme=None)
    assert report.converged and "layers.1" not in report.norms
    assert torch.equal(model.layers[1].weight, before)


def test_a_step_that_overflows_is_taken_back(digits):
    """A loss that is finite only near the first weights: the search stays where it is."""
    model, _, batch, generator = setting(digits, "relu", 4)
    hl.init_(model, "he", generator=generator)
    limit = 1.2 * float(model(batch[0]).detach().abs().max())

    def loss_fn(outputs, targets):
        wall = 0.0 if float(outputs.detach().abs().max()) < limit else math.inf
        return F.cross_entropy(outputs, targets) + wall

    report = hl.hessian_init_(model, loss_fn, batch, target=1e4, scheme=None)
    assert math.inf in report.history and not report.converged
    assert bool(torch.isfinite(model(batch[0])).all())
    assert report.norms == pytest.approx(hl.layer_norms(model, loss_fn, batch), rel=1e-3)


BAD = {
    "target": (dict(target=0.0), "target must be finite and positive"),
    "infinite target": (dict(target=math.inf), "target must be finite and positive"),
    "norm": (dict(norm="nuclear"), "unknown norm 'nuclear'; known: spectral"),
    "steps": (dict(max_steps=0), "max_steps"),
    "tolerance": (dict(tolerance=0.0), "tolerance"),
    "scheme": (dict(scheme="best"), "unknown scheme 'best'; known: lecun"),
    "activation": (dict(activation="swish"), "unknown activation 'swish'; known: linear"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_change_nothing(digits, case):
    model, loss_fn, batch, _ = setting(digits, "relu", 3)
    before = [p.clone() for p in model.parameters()]
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        hl.hessian_init_(model, loss_fn, batch, **options)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before))


def test_bad_batches_and_weights_change_nothing(digits):
    model, loss_fn, (x, t), _ = setting(digits, "relu", 3)
    before = [p.clone() for p in model.parameters()]
    for batch, message in [((x[:0], t[:0]), "batch is empty"), ((x, t + 5), "labels must lie in 0..9"),
                           ((x * math.nan, t), "the loss is nan")]:
        with pytest.raises(ValueError, match=message):
            hl.hessian_init_(model, loss_fn, batch)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before))
    with torch.no_grad():
        model.layers[1].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="the weight of 'layers.1' is not finite"):
        hl.hessian_init_(model, loss_fn, (x, t))
    with pytest.raises(ValueError, match="no layers to initialize"):
        hl.hessian_init_(nn.Sequential(nn.Flatten()), loss_fn, (x, t))


def test_a_net_without_curvature_is_named(digits):
    model, loss_fn, batch, generator = setting(digits, "relu", 3)
    hl.init_(model, "he", generator=generator)
    with torch.no_grad():
        model.layers[0].weight.abs_().neg_()  # on inputs that are positive every unit is dead
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="layers.0.* is zero or not finite"):
        hl.hessian_init_(model, loss_fn, (batch[0].abs(), batch[1]), scheme=None)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before))


def test_interrupted_work_leaves_the_weights(digits):
    model, _, batch, _ = setting(digits, "relu", 3)
    before = [p.clone() for p in model.parameters()]
    calls = []

    def loss_fn(outputs, targets):
        calls.append(None)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return F.cross_entropy(outputs, targets)

    with pytest.raises(KeyboardInterrupt):
        hl.hessian_init_(model, loss_fn, batch)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda(digits):
    generator = torch.Generator("cuda").manual_seed(0)
    data = digits.to("cuda")
    model = hl.MLP(64, 64, 10, 10, bias=False).cuda()
    report = hl.hessian_init_(model, F.cross_entropy, data.batch(128, generator), generator=generator)
    assert report.converged and model.layers[0].weight.is_cuda
