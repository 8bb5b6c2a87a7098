"""200 random networks with twelve losses against dense matrices that torch makes."""

import re
from collections import Counter

import pytest
import torch
from random_networks import (
    LOSSES,
    PARTS,
    compare,
    coupled,
    dense_truth,
    disagreement,
    is_computed,
    is_in_train_mode,
    network,
)
from torch.nn import functional as F

import hessinit_lite as hl

SEEDS = range(200)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
#: What may be refused: {reason: (of which question, whether it is true)}.
ALLOWED = {
    "is in train mode": ("", lambda model, loss_fn: is_in_train_mode(model)),
    "is computed from other parameters": (", weights:", lambda model, loss_fn: is_computed(model)),
    "this torch's weight_norm is wrong": ("hessian", lambda model, loss_fn: is_computed(model)),
    "couples the samples": ("layer_", lambda model, loss_fn: loss_fn is coupled),
}


def losses_of(seed):
    """Two of the losses; in time each one meets each other."""
    names = list(LOSSES)
    return names[seed % 12], names[(seed + 1 + seed // 12 % 11) % 12]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_network(seed):
    for loss in losses_of(seed):
        description, model, loss_fn, _ = network(seed, loss)
        outcome = disagreement(seed, loss)
        where = f"network {seed}, {loss}: {description}"
        assert not outcome.faults, where
        for what, message in outcome.refusals.items():
            fitting = [reason for reason, (question, holds) in ALLOWED.items()
                       if reason in message and question in what and holds(model, loss_fn)]
            assert fitting, f"{where}: {what} {message}"
        wrong = {what: number for what, number in outcome.numbers.items() if not number < 1e-8}
        assert not wrong, where


@pytest.mark.parametrize("seed", range(0, 200, 4))
def test_a_loader_is_one_batch(seed, generator):
    """Two batches of 2 and 3 samples against all 5 at once, where samples do not see each other."""
    # (2, not 1: for a single sample the first gradients of torch 2.13's BatchNorm2d may be wrong.)
    loss = list(LOSSES)[seed // 4 % 11]
    description, model, loss_fn, (x, t) = network(seed, loss)
    if "sample" in description or is_in_train_mode(model):
        pytest.skip("samples see each other")
    loader = [(x[:2], t[:2]), (x[2:], t[2:])]
    for build in (hl.gauss_newton,) if is_computed(model) else (hl.gauss_newton, hl.hessian):
        whole, parts = build(model, loss_fn, (x, t)), build(model, loss_fn, loader)
        v = torch.randn(whole.shape[0], 2, dtype=torch.float64, generator=generator)
        for found, true in [(parts.matmat(v), whole.matmat(v)), (parts @ v[:, 0], whole @ v[:, 0]),
                            (parts.gradient, whole.gradient)]:
            torch.testing.assert_close(found, true, rtol=1e-8, atol=1e-10)
        assert parts.loss.item() == pytest.approx(whole.loss.item(), rel=1e-12)
    for question in (hl.layer_norms, hl.layer_traces):
        whole = question(model, loss_fn, (x, t), parameters="all")
        found = question(model, loss_fn, loader, parameters="all")
        assert found == pytest.approx(whole, rel=1e-7, abs=1e-10)


def test_every_part_occurs():
    counts = Counter(part for seed in SEEDS for part in re.split("[:,(] ?| [(]", network(seed)[0]))
    assert all(counts[part] for part in PARTS), counts


def test_networks_are_the_same_each_time():
    for seed in range(10):
        (one, model, _, batch), (two, again, _, same) = network(seed), network(seed)
        assert one == two and torch.equal(batch[0], same[0]) and torch.equal(batch[1], same[1])
        assert all(map(torch.equal, model.parameters(), again.parameters()))


@pytest.mark.parametrize("seed", range(0, 200, 20))
def test_the_truth_against_differences(seed):
    """Central differences of the loss along lines: nothing but function values."""
    description, model, loss_fn, batch = network(seed, list(LOSSES)[seed // 20])
    if "detached" in description or "without gradient" in description:
        pytest.skip("autograd leaves out on purpose what the function's values show")
    model.eval()
    truth = dense_truth(model, loss_fn, batch)
    direction = torch.randn(len(truth.gradient), dtype=torch.float64,
                            generator=torch.Generator().manual_seed(seed))
    direction[truth.gradient == 0] = 0  # an embedding's padding, which only autograd leaves out
    direction /= direction.norm()
    weights = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in weights]

    @torch.no_grad()
    def along(t):
        for p, old, part in zip(weights, start, direction.split([p.numel() for p in weights])):
            p.copy_(old + t * part.view_as(p))
        return loss_fn(model(batch[0]), batch[1]).item()

    h = 1e-3
    values = [along(t * h) for t in (-2, -1, 0, 1, 2)]
    first = (values[0] - 8 * values[1] + 8 * values[3] - values[4]) / (12 * h)
    second = (16 * (values[1] + values[3]) - values[0] - values[4] - 30 * values[2]) / (12 * h * h)
    assert first == pytest.approx((truth.gradient @ direction).item(), rel=1e-6, abs=1e-7)
    curvature = (direction @ truth.hessian @ direction).item()
    assert second == pytest.approx(curvature, rel=1e-5, abs=1e-6)


def test_the_harness_notices(monkeypatch):
    """A factor off by a millionth, a draw from torch's generator, a missing layer."""
    _, model, _, batch = network(0)
    model.eval()
    norms, traces, spectra = hl.layer_norms, hl.layer_traces, hl.layer_spectra
    monkeypatch.setattr(hl, "layer_norms", lambda *a, **k: {
        name: value * (1 + 1e-6) for name, value in norms(*a, **k).items()})
    monkeypatch.setattr(hl, "layer_traces", lambda *a, **k: torch.rand(1) and traces(*a, **k))
    monkeypatch.setattr(hl, "layer_spectra", lambda *a, **k: dict(
        list(spectra(*a, **k).items())[1:]))
    outcome = compare(model, F.cross_entropy, batch)
    assert outcome.worst > 1e-8
    assert outcome.faults["layer_traces, all: changes"] == "torch's random state"
    assert "layer_spectra, all: missing" in outcome.faults
