"""The experiments on the paper's panels: against dense blocks and other functions, and a quick run of each."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hessinit_lite as hl
from hessinit_lite.lab.experiments import (
    again,
    approximation,
    cifar,
    cost,
    errors,
    gpu,
    mnist,
    panels,
    redraws,
)


class TestPanels:
    def test_values_are_those_of_layer_norms(self):
        model, batch, _ = cifar.start(cifar.pictures("quick"), "selu", "lecun", 0, 2, 8)
        model, batch = model.double(), (batch[0].double(), batch[1])
        expected = hl.layer_norms(model, F.cross_entropy, batch, "gradient")
        found = panels.values_along_gradients(model, batch, panels.SIX)
        assert found.tolist() == pytest.approx([expected[name] for name in panels.SIX], rel=1e-6)

    def test_a_tiny_gradient_does_not_underflow(self):
        model, batch = hl.digits_net("tanh", depth=3, width=8, samples=16)
        layers = [f"layers.{k}" for k in range(3)]
        with torch.no_grad():
            for layer in model.layers:
                layer.weight.mul_(1e-4)
        exact = panels.values_along_gradients(model, batch, layers)
        model, batch = model.float(), (batch[0].float(), batch[1])
        assert panels.values_along_gradients(model, batch, layers).tolist() == pytest.approx(exact.tolist(), rel=1e-3)

    def test_the_quick_run(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
        found = panels.run("quick")
        assert found.values["selu", "orthogonal", 2].shape == (3, 6)
        assert found.ends["selu", "normal 0.0001", 2].item() == pytest.approx(math.log(10), abs=0.01)
        assert found.tracked.shape == (2, 3, 4) and [len(each) for each in found.stored] == [6, 6, 2]

    def test_what_is_stored_is_of_the_settings(self):
        found = panels.stored()
        assert set(panels.FIGURE_1.values()) <= {key[:2] for key in found.values if key[2] == 8}
        assert all(len(values) >= 3 and values.shape[1] == 6 for values in found.values.values())


class TestErrors:
    def test_outside_is_the_error_of_theorem_1(self):
        model, batch = hl.digits_net("tanh", depth=3, width=8, samples=16)
        generator = hl.seeded(0)
        expected = [approximation.theorem_1(model, batch, f"layers.{k}", generator) for k in range(2)]
        found = errors.relative_errors(model, batch, ["layers.0", "layers.1"])[0]
        assert found.tolist() == pytest.approx([float(approximation.two_errors(e)[0]) for e in expected], rel=1e-6)

    def test_inside_is_gauss_newton_of_a_net_that_ends_in_a_softmax(self):
        model, batch = hl.digits_net("tanh", depth=3, width=8, samples=16)
        ends = nn.Sequential(model, nn.Softmax(1))
        log = lambda p, t: -p.gather(1, t[:, None]).log().mean()
        h = hl.hessian(model, F.cross_entropy, batch, layer="layers.1")
        unit = h.gradient / h.gradient.norm()
        weight = model.layers[1].weight
        v = torch.func.jvp(lambda w: torch.func.functional_call(ends, {"0.layers.1.weight": w}, (batch[0],)),
                           (weight.detach(),), (unit.view_as(weight),))[1]
        p = ends(batch[0]).detach()
        curved = torch.func.hessian(lambda z: log(z, batch[1]))(p).flatten(2, 3).flatten(0, 1)
        expected = abs(unit @ (h @ unit) - v.flatten() @ curved @ v.flatten()) / abs(unit @ (h @ unit))
        assert errors.relative_errors(model, batch, ["layers.1"])[1].item() == pytest.approx(expected.item(), rel=1e-6)

    def test_the_quick_run(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
        found = errors.run("quick")
        outside = found.starts["digits", "ResNet-18", False, "outside"]
        assert outside.shape == (3, 5) and outside[:, 4].max() < 1e-5 < outside[:, :4].min()
        assert found.starts["digits", "ResNet-18", False, "inside"][:, 4].min() > 1e-5
        assert found.steps["GoogLeNet"].shape == (1, 2, 5)


class TestRedraws:
    def test_the_first_layer_need_not_be_drawn(self):
        """Its pre-activations have the variance that drawn matrices give, and a net's gradient sums to zero."""
        gradient, weights = redraws.redrawn((3.0, 50), 2, "tanh", 4000, 16, seed=0)
        assert gradient.sum(1).abs().max() < 1e-5 and weights.shape == (4000, 16)
        drawn = torch.randn(4000, 16, 50, generator=hl.seeded(1)) * (2 / 66) ** 0.5
        u = (drawn @ (3.0 * F.normalize(torch.ones(50), dim=0))).std()
        assert float(u) == pytest.approx(3.0 * (2 / 66) ** 0.5, rel=0.02)

    def test_p_values(self):
        found = redraws.p_values(torch.tensor([0.0, 0.0196], dtype=torch.float64), 10_000)
        assert found.tolist() == pytest.approx([1.0, 0.05], abs=1e-3)

    def test_the_quick_run(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
        rows = redraws.run("quick").rows
        assert rows["relu"]["row 1"].shape == (2, 2) and (rows["relu"]["row 1"][:, 0] < 0).all()


def test_a_cost_is_a_ratio(tmp_path, monkeypatch):
    monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
    found = cost.run("quick").ratios
    assert set(found) == {"128-128-10", "LeNet5"}
    assert all(answer["one layer"] > 0.5 and answer["seconds"] > 0 for answer in found.values())


def test_one_deviation_for_all_layers():
    model, _, off = mnist.fresh(mnist.load("digits"), 3, 64, "relu", "normal 0.1", seed=0)
    assert off == 1.0 and float(model.layers[1].weight.std()) == pytest.approx(0.1, rel=0.05)


class TestGpu:
    def test_the_quick_plan_goes_on_where_it_stopped(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
        all_parts = gpu.plan("quick", "cpu")
        few = [part._replace(settings=part.settings[:1]) for part in all_parts]
        monkeypatch.setattr(gpu, "plan", lambda size, device: few)
        assert gpu.run("quick", minutes=1e-9) == 3  # no time: nothing is begun
        assert gpu.run("quick") == 0 and len(list(tmp_path.glob("paper-*.json"))) == 3

    def test_bad_input(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(RuntimeError, match="needs a GPU"):
            gpu.run("full")
        with pytest.raises(ValueError, match="minutes"):
            gpu.run("quick", minutes=0)


class TestAgain:
    def test_the_cheapest_answer_comes_again(self, tmp_path, monkeypatch):
        """Equal on the machine that stored it; elsewhere a shallow net's numbers are close in the median."""
        monkeypatch.setenv("HESSINIT_RESULTS", str(tmp_path))
        found = again.run("quick").rows["19-width"]
        assert found["numbers"] == 6 and 0 <= found["equal"] <= 6

    def test_answers_of_data_that_are_not_here_are_refused_in_words(self, monkeypatch):
        monkeypatch.setattr(again, "available", lambda settings, name_of: [])
        with pytest.raises(ValueError, match="HESSINIT_DATA"):
            again.once_more("paper-table-1")

    def test_a_run_that_was_lost_is_lost_again(self, tmp_path, monkeypatch):
        stored = hl.Results("lost", "full", tmp_path)
        stored.run(lambda x: {"loss": [math.inf, x]}, [{"x": 1.0}], progress=False)
        monkeypatch.setitem(again.FUNCTIONS, "lost", (lambda x: {"loss": [math.inf, x]}, None))
        assert again.once_more("lost", tmp_path) == {"numbers": 2, "equal": 2, "largest": 0.0}

    def test_differences(self):
        old, new = {"a": [1.0, 2.0], "b": "x"}, {"a": [1.0, 2.2], "b": "y"}
        found = again.difference(old, new)
        assert found["numbers"] == 2 and found["equal"] == 1 and found["largest"] == pytest.approx(0.2 / 2.2)
        assert again.difference([math.nan], [math.nan])["equal"] == 1
        assert again.difference([math.inf, 1.0], [math.inf, math.inf]) == {"numbers": 2, "equal": 1, "largest": math.inf}
        with pytest.raises(ValueError, match="not of one setting"):
            again.difference([1.0], [1.0, 2.0])
