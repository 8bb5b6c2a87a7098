"""The experiments of chapters 19 and 21: their measurements against dense matrices and formulas, tiny runs."""

import math

import pytest
import torch
from torch.nn import functional as F

import hessinit_lite as hl
from hessinit_lite.lab.experiments import gpt, width


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Both experiments in seconds, stored elsewhere."""
    monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
    monkeypatch.setattr(width, "WIDTHS", {(s, loss): (64, 66) for s in ("quick", "full") for loss in width.LOSSES})
    monkeypatch.setattr(width, "POWERS", {(s, loss): (-8, -6) for s in ("quick", "full") for loss in width.LOSSES})
    monkeypatch.setattr(width, "STEPS", {"quick": 2, "full": 2})
    monkeypatch.setattr(width, "CHOOSE", range(2))
    monkeypatch.setattr(width, "JUDGE", {"quick": (), "full": (5,)})
    monkeypatch.setattr(width, "MARKS", (0, 1))
    monkeypatch.setattr(gpt, "STEPS", {"quick": 2, "full": 2})
    monkeypatch.setattr(gpt, "CHOOSE", {"quick": (0,), "full": (0,)})
    monkeypatch.setattr(gpt, "JUDGE", {"quick": (), "full": (5,)})


def test_squares_have_curvature_one():
    outputs, labels = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1])
    expected = 0.5 * (outputs - F.one_hot(labels, 3)).square().sum(1).mean()
    torch.testing.assert_close(width.squares(outputs, labels), expected)
    s, _ = hl.output_curvature(width.squares, outputs, labels)
    torch.testing.assert_close(torch.einsum("cni,cnj->nij", s, s), torch.eye(3).double().expand(4, 3, 3) / 4)


@pytest.mark.parametrize("scaling", width.SCALINGS)
def test_at_the_base_width_three_are_one_net(scaling):
    model, rates = width.start(scaling, 64, seed=1)
    plain, _ = width.start("standard", 64, seed=1)
    assert set(rates.values()) == {1.0}
    same = all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters()))
    assert same == (scaling != "principle")


def test_scalings_follow_the_width():
    plain, _ = width.start("standard", 256, seed=1)
    ntk, slower = width.start("NTK", 256, seed=1)
    mup, rates = width.start("μP", 256, seed=1)
    assert list(slower.values()) == [1, 1 / 4, 1 / 4, 1 / 4] and list(rates.values()) == [4, 1, 1, 1 / 4]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), ntk.parameters()))
    torch.testing.assert_close(mup.layers[3].weight, plain.layers[3].weight / 2)
    one, rates = width.start("principle", 96, seed=1)
    generator = hl.seeded(1)
    hl.init_(width.dense(96), "forward", generator=generator)
    norms = hl.layer_norms(one, width.squares, hl.digits().batch(width.SAMPLES, generator))
    assert max(abs(math.log(x)) for x in norms.values()) < 0.05 and set(rates.values()) == {1.0}
    with pytest.raises(ValueError, match="known: standard"):
        width.start("mup", 64, 0)


def test_sharpness_is_that_of_dense_matrices():
    torch.manual_seed(0)
    model = hl.MLP(64, 3, 2, 10, "tanh", bias=False).double()
    rates = {"layers.0.weight": 4.0, "layers.1.weight": 0.25}
    batch = hl.digits().batch(20, hl.seeded(0))
    batch = batch[0].double(), batch[1]
    operator = hl.hessian(model, width.squares, batch)
    dense = operator.matmat(torch.eye(len(operator.gradient), dtype=torch.float64))
    root = torch.cat([torch.full((192,), 2.0), torch.full((30,), 0.5)]).double()
    largest = torch.linalg.eigvalsh(root[:, None] * dense * root)[-1].item()
    assert width.sharpness(model, rates, batch) == pytest.approx(largest, rel=0.05)


def test_training_follows_the_rates_and_says_where_it_was_lost():
    model, _ = width.start("standard", 64, seed=0)
    before = [p.detach().clone() for p in model.parameters()]
    rates = dict.fromkeys((f"layers.{k}.weight" for k in range(4)), 0.0) | {"layers.2.weight": 1.0}
    loss, seen = width.trained(model, rates, 0.01, 3, seed=0)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters())]
    assert moved == [False, False, True, False] and math.isfinite(loss) and seen == []
    model, rates = width.start("standard", 64, seed=0)
    loss, seen = width.trained(model, rates, 100.0, 60, seed=0, marks=(0, 59))
    assert loss == math.inf and math.isfinite(seen[0]) and math.isnan(seen[1])


def test_widths_are_run_stored_and_found_again(tiny):
    found = width.run("full")
    assert set(found.swept) == {(loss, s, n) for loss in width.LOSSES for s in width.SCALINGS for n in (64, 66)}
    assert {tuple(x.shape) for x in found.swept.values()} == {(2, 2)}
    assert {tuple(x.shape) for x in found.judged.values()} == {(1, 2)}
    assert {tuple(x.shape) for x in found.followed.values()} == {(2, 2)}
    again = width.stored()
    assert all(torch.equal(found.swept[key], x) for key, x in again.swept.items()) and len(again.swept) == 16
    assert not width.run("quick").judged


def test_what_is_stored_of_the_book_is_the_full_size():
    found = width.stored()
    assert {n for loss, _, n in found.swept if loss == "squares"} >= {64, 128, 256, 512}
    assert set(gpt.stored().judged) <= set(gpt.STARTS)


@pytest.mark.parametrize("name", gpt.STARTS)
def test_starts_are_what_they_say(name):
    model = gpt.start(name, seed=3)
    ends = [p for n, p in model.named_parameters() if n.endswith(("out.weight", "down.weight"))]
    deviation = torch.cat([p.flatten() for p in ends]).std().item()
    fast = name == "speed run"
    expected = {"0.02": gpt.STD, "nanoGPT": gpt.STD / 12**0.5, "1/(2L)": gpt.STD / 12, "zero ends": 0.0, "speed run": 0.0,
                "post-norm": gpt.STD / 12**0.5}
    assert len(ends) == 12 and deviation == pytest.approx(expected.get(name, deviation), rel=0.05)
    for table in (model.tokens, model.places):
        assert table.weight.std().item() == pytest.approx(1.0 if fast else 0.02, rel=0.1)
    assert (model.head.weight is model.tokens.weight) == (not fast) and bool(model.head.weight.any()) == (not fast)
    again = gpt.start(name, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="known: 0.02"):
        gpt.start("gpt2", 0)


def test_starts_are_run_stored_and_found_again(tiny):
    found = gpt.run("full")
    assert set(found.swept) == set(found.judged) == set(gpt.STARTS)
    assert {tuple(x.shape) for x in found.swept.values()} == {(1, len(gpt.RATES["full"]))}
    assert all(torch.equal(x, gpt.stored().judged[name]) for name, x in found.judged.items())
    assert not gpt.run("quick").judged


@pytest.mark.parametrize("depth, activation", [(2, "relu"), (5, "tanh")])
def test_the_figures_hold_what_they_draw(depth, activation):
    numbers = hl.figures.measure_width_curvature(depth, activation, widths=(8, 16))
    assert numbers.one_rate.shape == numbers.mup.shape == (2, depth)
    torch.testing.assert_close(numbers.one_rate[0], numbers.mup[0])  # at the base width
    ratio = numbers.mup[1] / numbers.one_rate[1]
    torch.testing.assert_close(ratio, torch.tensor([1.0] + [0.5] * (depth - 1)).to(ratio))
    numbers = hl.figures.measure_branch_starts(depth, activation)
    assert all(len(x) == depth for x in (*numbers.signal.values(), *numbers.gradient.values()))
    for name in ("width_curvature", "branch_starts"):
        assert len(getattr(hl.figures, name)(depth, activation).axes) == 2
