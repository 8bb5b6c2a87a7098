"""Chapter 11's comparison of starts: rates by layer, one common factor, and a run that goes on."""

import math

import pytest
import torch

import hessinit_lite as hl
from hessinit_lite.lab.experiments import starts


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
