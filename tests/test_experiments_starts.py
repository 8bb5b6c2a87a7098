"""Chapter 11's comparison of starts: rates by layer, one common factor, and a run that goes on."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import hessinit_lite as hl
from hessinit_lite.lab.experiments import mnist, rates, starts


def test_rates_by_layer_are_sgd_of_each_layer():
    models = [hl.MLP(64, 8, 2, 10), hl.MLP(64, 8, 2, 10)]
    before = [[p.detach().clone() for p in model.parameters()] for model in models]
    factors = [torch.tensor([1.0, 0.0]), torch.tensor([0.5, 2.0])]
    starts.outcome(models, hl.digits(), [0.1, 0.1], 1, [0, 0], "sgd", factors)
    for model, old, factor in zip(models, before, factors):
        alone = hl.MLP(64, 8, 2, 10)
        with torch.no_grad():
            for p, value in zip(alone.parameters(), old):
                p.copy_(value)
        hl.train(alone, hl.digits(), 0.1, 1, seed=0)
        for k, (p, q, value) in enumerate(zip(model.parameters(), alone.parameters(), old)):
            assert torch.allclose(p - value, factor[k // 2] * (q - value), atol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_one_common_factor_brings_the_geometric_mean_to_the_target(activation):
    model, batch, factors = starts.start(hl.digits(), 5, 16, activation, "orthogonal", "common 3", seed=0)
    norms = starts.norms_of(model, batch).values()
    assert factors is None
    assert math.exp(sum(map(math.log, norms)) / len(norms)) == pytest.approx(3, rel=0.06)


def test_rates_are_proportional_to_one_over_the_norm():
    model, batch, factors = starts.start(hl.digits(), 5, 16, "relu", "orthogonal", "rates", seed=0)
    product = factors * torch.tensor(list(starts.norms_of(model, batch).values()))
    assert torch.allclose(product, product[0].expand(5), rtol=1e-4)
    assert float(factors.log().mean()) == pytest.approx(0, abs=1e-5)


def test_settings_are_different_and_name_what_they_depend_on():
    found = starts.settings("full")
    assert len({tuple(sorted(each.items())) for each in found}) == len(found)
    assert {each["change"] for each in found if each["optimizer"] == "adamw"} == set(starts.CHANGES) - {"rates"}


def test_a_run_is_stored_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
    monkeypatch.setattr(starts, "JUDGING", range(2))
    monkeypatch.setattr(starts, "QUICK", {"depth": 2, "width": 8, "steps": 4})
    (setting, answer), *rest = starts.run("quick")
    assert len(rest) == 2 and setting["base"] == "forward"
    assert len(answer["loss"]) == 2 and f"{answer['rate']:g}" in answer["tuning"]
    assert answer["tuning"][f"{answer['rate']:g}"] == min(answer["tuning"].values())
    assert len(hl.Results(starts.NAME, "quick", fresh=False)) == 3


def test_both_optimizers_begin_from_the_same_nets(monkeypatch):
    monkeypatch.setattr(starts, "JUDGING", range(2))
    one = dict(data="digits", depth=2, width=8, activation="gelu", base="lsuv", change="target 3", steps=4)
    first, second = starts.compare(optimizer="sgd", **one), starts.compare(optimizer="adamw", **one)
    starts.drawn.cache_clear()
    starts.measured.cache_clear()
    assert starts.compare(optimizer="adamw", **one) == second  # nothing was trained in place
    assert second["curvature"] == first["curvature"] and second["loss"] != first["loss"]


def test_a_common_factor_is_found_where_a_larger_one_overflows_or_saturates():
    """This net's norms are 1e-17 as drawn, 3 in a narrow band, and 0 beyond it."""
    generator = starts.seeded(2)
    model, batch = hl.MLP(64, 64, 30, 10, activation="gelu"), hl.digits().batch(128, generator)
    hl.init_(model, "orthogonal", generator=generator)
    starts.scale_together_(model, batch, 3.0)
    norms = starts.norms_of(model, batch).values()
    assert math.exp(sum(map(math.log, norms)) / len(norms)) == pytest.approx(3, rel=0.06)


def test_lost_runs_count_as_guessing():
    assert starts.losses_of({"loss": [0.5, math.inf, math.nan, 9.0]}).tolist() == [0.5, *[math.log(10)] * 3]


def test_a_rule_for_the_rate_is_judged_on_what_it_has_not_seen():
    pairs = [(1.0, 0.2), (4.0, 0.1), (16.0, 0.05)]  # 0.2 / sqrt(λ)
    assert starts.factors_off(pairs, 0.5) == pytest.approx([1, 1, 1])
    assert starts.factors_off(pairs, 0.0) == pytest.approx([8**0.5, 1, 8**0.5])
    assert starts.factors_off(pairs, 1.0) == pytest.approx([8**0.5, 1, 8**0.5])


def test_a_rule_for_the_rate_is_carried_over_to_other_groups():
    pairs = [(1.0, 0.2), (4.0, 0.1), (1.0, 0.6), (4.0, 0.3)]  # c = 0.2 on one data set, 0.6 on another
    assert starts.factors_off(pairs, 0.5, ["a", "a", "b", "b"]) == pytest.approx([3] * 4)
    with pytest.raises(ValueError, match="two groups"):
        starts.factors_off(pairs, 0.5, ["a"] * 4)


def test_a_start_that_does_not_learn_or_is_best_at_the_edge_is_left_out():
    losses = np.array([[2.0, 1.0, 1.5], [1.0, 1.5, 2.0], [2.3, 2.2, np.inf]])
    assert rates.best_rates(losses, [0.01, 0.03, 0.1]) == [0.03, None, None]


def test_curvatures_are_those_of_the_grids_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
    found = rates.run("quick")
    of = {start: (value, rate) for start, value, rate in found.pairs["digits, 3 layers"]}
    assert set(of) == {"spectral 30", "spectral 100", "spectral 300"}
    model, batch, _ = mnist.fresh(mnist.load("digits"), 3, 64, "relu", "spectral 100", 0)
    operator = hl.hessian(model, F.cross_entropy, batch)
    largest, _ = hl.top_eigenvalues(operator, rtol=1e-3, generator=hl.seeded(1))
    assert of["spectral 100"][0] == pytest.approx(float(largest[0]), rel=0.03)
    assert of["spectral 100"][1] == 0.03
