"""Short SGD runs: what they compute, that they repeat, and that a run that diverges does no harm."""

import math

import pytest
import torch
from torch.nn import functional as F

import hessinit_lite as hl


def small(seed=0, activation="tanh"):
    generator = torch.Generator().manual_seed(seed)
    return hl.init_(hl.MLP(64, 16, 3, 10, activation), "forward", generator=generator)


def test_one_full_batch_step_is_gradient_descent(digits):
    model, reference = small(), small()
    data = hl.Data("few", (digits.train[0][:20], digits.train[1][:20]), digits.test)
    run = hl.train(model, data, lr=0.1, steps=1, batch_size=20)
    loss = F.cross_entropy(reference(data.train[0]), data.train[1])
    loss.backward()
    assert float(run.losses[0]) == pytest.approx(loss.item(), rel=1e-5)
    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p, q - 0.1 * q.grad)


def test_training_learns_and_repeats(digits):
    runs = [hl.train(model := small(), digits, lr=0.1, steps=200, seed=3) for _ in range(2)]
    assert torch.equal(runs[0].losses, runs[1].losses)
    assert runs[0].final_loss < 0.5 * float(runs[0].losses[0]) and not runs[0].diverged
    assert hl.accuracy(model, digits.test) > 0.8
    other = hl.train(small(), digits, lr=0.1, steps=200, seed=4)
    assert not torch.equal(runs[0].losses, other.losses)


def test_warm_up_grows_to_the_full_rate(digits):
    """Two steps of warm-up: lr/2, then lr, and lr from there on."""
    model, reference = small(), small()
    data = hl.Data("few", (digits.train[0][:20], digits.train[1][:20]), digits.test)
    hl.train(model, data, lr=0.4, steps=3, batch_size=20, warmup=2)
    for lr in (0.2, 0.4, 0.4):
        hl.train(reference, data, lr=lr, steps=1, batch_size=20)
    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p, q)


def test_norms_are_tracked(digits):
    batch = digits.batch(64, torch.Generator().manual_seed(0))
    start = hl.layer_norms(small(), F.cross_entropy, batch)
    run = hl.train(small(), digits, lr=0.1, steps=25, track_every=10, track_batch=batch)
    assert run.tracked_steps == [0, 10, 20]
    assert run.norms[0] == pytest.approx(start, rel=1e-3)
    with pytest.raises(ValueError, match="track_batch"):
        hl.train(small(), digits, lr=0.1, steps=1, track_every=10)


@pytest.mark.parametrize("steps", [3, 300])
def test_a_run_that_diverges_keeps_finite_weights(digits, steps):
    model = small(activation="relu")
    run = hl.train(model, digits, lr=1e12, steps=steps, loss_fn=lambda z, t: (z ** 2).mean())
    assert run.diverged and run.final_loss == math.inf
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize("bad", [dict(lr=0.0, steps=1), dict(lr=0.1, steps=0), dict(lr=math.nan, steps=1)])
def test_bad_arguments(digits, bad):
    with pytest.raises(ValueError, match="must be positive"):
        hl.train(small(), digits, **bad)
    with pytest.raises(ValueError, match="warmup must be"):
        hl.train(small(), digits, lr=0.1, steps=1, warmup=-1)


def test_sweep_has_one_loss_per_rate_and_seed(digits):
    losses = hl.sweep(small, digits, lrs=[0.01, 0.1], seeds=[0, 1, 2], steps=60)
    assert losses.shape == (2, 3)
    assert bool((losses[1] < losses[0]).all())
    assert float(losses[1, 2]) == pytest.approx(hl.train(small(2), digits, 0.1, 60, seed=2).final_loss)


def test_inputs_may_be_words():
    """Integer inputs: the losses are recorded in the model's dtype."""
    words, labels = torch.randint(20, (64, 3)), torch.randint(2, (64,))
    model = torch.nn.Sequential(torch.nn.EmbeddingBag(20, 4), torch.nn.Linear(4, 2))
    run = hl.train(model, hl.Data("words", (words, labels), (words, labels)), 0.1, 5, batch_size=8)
    assert run.losses.dtype == torch.float32 and bool(torch.isfinite(run.losses).all())
