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


RATES = [0.02, 0.1, 0.3]


@pytest.mark.parametrize("options", [{}, {"warmup": 10}, {"momentum": 0.9}], ids=["plain", "warmup", "momentum"])
def test_together_is_one_by_one(digits, options):
    data = digits.to(torch.float64)
    together, alone = ([small(seed).double() for seed in range(3)] for _ in range(2))
    losses = hl.train_together(together, data, RATES, 40, **options)
    for i, (model, rate) in enumerate(zip(alone, RATES)):
        run = hl.train(model, data, rate, 40, **options)
        torch.testing.assert_close(losses[:, i], run.losses, rtol=1e-10, atol=0)
        assert float(hl.final_losses(losses)[i]) == pytest.approx(run.final_loss, rel=1e-10)
        for p, q in zip(together[i].parameters(), model.parameters()):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


def test_together_with_a_seed_and_an_optimizer_for_each(digits):
    """AdamW at several rates and on mini-batches of its own: as torch's loop, model by model."""
    data, seeds = digits.to(torch.float64), [5, 6, 7]
    together, alone = ([small(seed).double() for seed in range(3)] for _ in range(2))
    rates = [1e-3, 3e-3, 1e-2]
    losses = hl.train_together(together, data, rates, 20, seed=seeds, optimizer=torch.optim.AdamW, weight_decay=0.1)
    for i, model in enumerate(alone):
        optimizer = torch.optim.AdamW(model.parameters(), lr=rates[i], weight_decay=0.1)
        generator = torch.Generator().manual_seed(seeds[i])
        order = torch.randperm(len(data.train[0]), generator=generator).split(32)
        for step in range(20):
            loss = F.cross_entropy(model(data.train[0][order[step]]), data.train[1][order[step]])
            assert float(losses[step, i]) == pytest.approx(loss.item(), rel=1e-8)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for p, q in zip(together[i].parameters(), model.parameters()):
            torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-10)


def test_a_run_that_diverges_leaves_the_others_alone(digits):
    models = [small(seed, "relu") for seed in range(2)]
    losses = hl.train_together(models, digits, [1e12, 0.1], 50)
    final = hl.final_losses(losses)
    assert final[0] == math.inf and final[1] < losses[0, 1]
    assert all(torch.isfinite(p).all() for p in models[1].parameters())


def test_bad_arguments_for_training_together(digits):
    models = [small(seed) for seed in range(2)]
    before = [p.clone() for p in models[0].parameters()]
    for bad, words in ((dict(lr=[0.1]), "lr has 1 entries for 2 models"), (dict(lr=-1.0), "must be positive"),
                       (dict(lr=0.1, seed=[1]), "seed has 1 entries"), (dict(lr=0.1, steps=0), "must be positive")):
        with pytest.raises(ValueError, match=words):
            hl.train_together(models, digits, **{"steps": 3, **bad})
    for wrong in ([], [models[0], models[0]]):
        with pytest.raises(ValueError, match="different modules"):
            hl.train_together(wrong, digits, 0.1, 3)
    assert all(torch.equal(p, q) for p, q in zip(before, models[0].parameters()))
    with pytest.raises(ValueError, match="have buffers"):
        hl.train_together([torch.nn.BatchNorm1d(64)], digits, 0.1, 3)
