"""What `report` says for Adam: its numbers against dense ones, and advice that holds when it is followed."""

import copy
import json
import math

import pytest
import torch
from dense import dense_hessian, problem
from test_advice import Gpt, VisionTransformer, seeded, words
from torch import nn
from torch.nn import functional as F

import hessinit_lite as hl
from hessinit_lite.diagnosis import adam
from hessinit_lite.diagnosis.findings import Finding


def test_numbers_against_dense_ones():
    model, loss_fn, batch = problem()
    found = hl.report(model, loss_fn, batch, optimizer="adam")
    matrix = dense_hessian(model, loss_fn, batch)
    diagonal = hl.hessian(model, loss_fn, batch).gradient.abs() + 1e-8
    assert bool((diagonal > 1e-7).all())
    truth = torch.linalg.eigvalsh(matrix / diagonal.outer(diagonal).sqrt())[-1]
    assert found.adam.eigenvalue == pytest.approx(float(truth), rel=1e-2)
    critical = hl.critical_rate(model, loss_fn, batch, "adam").rate
    assert found.adam.critical_rate == critical
    smallest = min(float(p.detach().std(correction=0)) for p in model.parameters() if p.ndim > 1)
    assert found.adam.rate == pytest.approx(min(critical / 4, 0.1 * smallest))
    assert f"critical rate {critical:.3g}" in str(found) and "a rate to start from" in words(found, "note")
    json.dumps(found.to_dict(), allow_nan=False)


def test_progress_says_what_is_being_measured(capsys):
    """From the first step on, not only once the layers' turn comes."""
    hl.report(*problem(), optimizer="adam", progress=True)
    error, places = capsys.readouterr().err, []
    for stage in ("largest eigenvalue", "Adam's first step", "factors of layers", "layers: layers.2.weight"):
        assert stage in error, stage
        places.append(error.index(stage))
    assert places == sorted(places)
    hl.report(*problem(), optimizer="adam")
    assert not capsys.readouterr().err


def test_an_optimizer_under_way_is_sent_to_the_critical_rate():
    model, loss_fn, batch = problem()
    with pytest.raises(ValueError, match=r"one of sgd, adam, adamw: .* hl.critical_rate"):
        hl.report(model, loss_fn, batch, optimizer=torch.optim.AdamW(model.parameters()))


def test_plain_descent_is_told_nothing_of_adam():
    model, loss_fn, batch = problem()
    found = hl.report(model, loss_fn, batch, lr=0.1)
    assert found.adam is None and "Adam" not in str(found)


@pytest.mark.parametrize("lr", [0.3, 1.0])
def test_the_warm_up_keeps_the_first_step_low(lr):
    """A step at the rate that it warns of raises the loss; one at the warm-up's first rate lowers it."""
    model = hl.init_(hl.MLP(64, 32, 4, 10), "he", generator=seeded())
    batch = hl.digits().batch(64, seeded())
    found = hl.report(model, F.cross_entropy, batch, optimizer="adamw", lr=lr)
    steps = found.adam.warmup(lr)
    assert f"a linear warm-up of at least {steps} steps" in words(found, "warning")
    assert "speaks against" not in words(found)
    first = lr / steps
    assert found.adam.critical_rate / 8 < first <= found.adam.critical_rate / 4

    def change(rate):
        net = copy.deepcopy(model)
        optimizer = torch.optim.Adam(net.parameters(), lr=rate)
        before = F.cross_entropy(net(batch[0]), batch[1])
        before.backward()
        optimizer.step()
        return float((F.cross_entropy(net(batch[0]), batch[1]) - before).detach())

    assert change(lr) > 0 > change(first)


def test_no_rate_for_a_loss_far_above_chance():
    model = hl.init_(hl.MLP(64, 32, 4, 10), "he", generator=seeded(), factor=4)
    found = hl.report(model, F.cross_entropy, hl.digits().batch(64, seeded()), optimizer="adam")
    assert found.loss > 3 * found.chance and found.adam.rate is None
    assert "no rate is proposed" in words(found, "note")


def test_a_zero_gradient_is_told():
    model, loss_fn, batch = problem("linear", "mse")
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    found = hl.report(model, loss_fn, (batch[0], torch.zeros_like(batch[1])), optimizer="adam")
    assert found.adam.critical_rate is None and found.adam.rate is None
    assert "the critical rate of Adam's first step was not found: the gradient is zero" in words(found)


def test_distances_of_densities():
    """0 of equal ones, 1 of such that share nothing, and the square root of 1 bit's part between."""
    a, b = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0.5, 0.5])
    assert adam.mean_distance([a]) == adam.mean_distance([a, a, a]) == 0
    assert adam.mean_distance([a, b]) == 1
    assert adam.mean_distance([a, a, b]) == pytest.approx(2 / 3)
    mixed = (a + b) / 2  # entropy 1.5; the middle (3/4, 1/8, 1/8): entropy 0.75 log2(4/3) + 0.75
    expected = 0.75 * math.log2(4 / 3) + 0.75 - 1.5 / 2
    assert adam.mean_distance([a, mixed]) == pytest.approx(expected**0.5, rel=1e-6)


def test_the_density_holds_the_trace():
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1e4, 0.0, 0.0], dtype=torch.float64))
    block = hl.preconditioned(_Dense(matrix), torch.ones(5, dtype=torch.float64))
    found = adam.curvature_density(block, seeded())
    places = torch.arange(-20, 10, 0.125)
    assert float(found.sum()) == pytest.approx(1)
    assert float(found[(places - 4).abs() < 2].sum()) == pytest.approx(1e4 / 10002, abs=1e-8)
    assert float(found[places.abs() < 2].sum()) == pytest.approx(2 / 10002, abs=1e-8)


class _Dense:
    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype, self.device = matrix, matrix.shape, matrix.dtype, matrix.device

    def __matmul__(self, vector):
        return self.matrix @ vector

    def matmat(self, matrix, memory=None):
        return self.matrix @ matrix


def test_layers_of_unlike_sizes_are_told_apart():
    """He's weights against the same net with one layer's weights a hundred times smaller."""
    batch = hl.digits().batch(64, seeded())
    model = hl.init_(hl.MLP(64, 32, 4, 10), "he", generator=seeded())
    alike = hl.report(model, F.cross_entropy, batch, optimizer="adam")
    with torch.no_grad():
        model.layers[2].weight.mul_(0.01)
    mixed = hl.report(model, F.cross_entropy, batch, optimizer="adam")
    assert alike.adam.heterogeneity < 0.5 < mixed.adam.heterogeneity
    assert "spectra differ much" in words(mixed, "note") and "spectra differ" not in words(alike)


def parts(model):
    layers = [adam_layer(name, type(owner).__name__) for name, owner in owners(model)]
    return adam.parts_of(layers)


def owners(model):
    for name, p in model.named_parameters():
        if p.ndim > 1:
            owner = name.rpartition(".")[0]
            yield name.removesuffix(".weight"), model.get_submodule(owner)


def adam_layer(name, kind):
    from hessinit_lite.diagnosis.measure import LayerCurvature

    return LayerCurvature(name, kind, (2, 2), 1.0, None, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0)


def test_parts_of_transformers():
    found = parts(Gpt())
    assert found["embedding"] == ["words", "places"]
    assert found["attention"] == [f"blocks.{i}.{each}" for i in range(2) for each in ("qkv", "out")]
    assert found["MLP"] == [f"blocks.{i}.{each}" for i in range(2) for each in ("up", "down")]
    found = parts(VisionTransformer())
    assert "patches" in found["embedding"] and found["head"] == ["head"]
    assert {name.rpartition(".")[2] for name in found["attention"]} == {"in_proj_weight", "out_proj"}
    assert all("linear" in name for name in found["MLP"]) and len(found["MLP"]) == 4
    found = parts(hl.TinyTransformer(8, 8, 2, 2, 10))
    assert found["embedding"] == ["embed"] and found["head"] == ["dense"] and len(found["attention"]) == 8
    assert found["MLP"] == [f"blocks.{i}.{each}" for i in range(2) for each in ("up", "down")]
    assert parts(hl.MLP(4, 4, 3, 2)) == {} and parts(hl.LeNet5(1, 10, size=16)) == {}


def test_a_transformers_report_names_its_parts():
    torch.manual_seed(0)
    model, tokens = Gpt(layers=1), torch.randint(20, (8, 9), generator=seeded())
    found = hl.report(model, F.cross_entropy, (tokens[:, :-1], tokens[:, 1:]), optimizer="adamw",
                      layers=["blocks.0.qkv", "blocks.0.out", "words"], split={"*.qkv": 3})
    assert set(found.adam.parts) == {"embedding", "attention"}
    norms = {layer.name: layer.norm for layer in found.layers}
    assert found.adam.parts["attention"] == (min(n for k, n in norms.items() if "words" not in k),
                                             max(n for k, n in norms.items() if "words" not in k))
    assert "norms by part of the Transformer: embedding" in words(found, "note")


def test_a_head_of_zeros_has_a_report():
    model = hl.init_(hl.MLP(64, 32, 3, 10), "he", generator=seeded())
    nn.init.zeros_(model.layers[2].weight)
    found = hl.report(model, F.cross_entropy, hl.digits().batch(64, seeded()), optimizer="adam", lr=1e-3)
    assert not words(found, "problem", "warning") and found.adam.eigenvalue > 0
    assert all(isinstance(each, Finding) for each in found.findings)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    from hessinit_lite.__main__ import main
    (tmp_path / "adams_net.py").write_text("import hessinit_lite as hl\n\n\ndef net():\n    return hl.MLP(64, 8, 2, 10)\n")
    monkeypatch.chdir(tmp_path)
    assert main(["diagnose", "adams_net:net", "--optimizer", "adamw", "--batch", "32", "--json", "a.json"]) == 0
    assert "learning rate of Adam: " in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["adam"]["rate"] > 0
