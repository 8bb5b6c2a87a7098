"""The experiment of chapter 15: its measurements against dense blocks, a tiny run and its resumption."""

import pytest
import torch

import hessinit_lite as hl
from hessinit_lite.lab.experiments import approximation


def dense(operator):
    return operator.matmat(torch.eye(operator.shape[1], dtype=operator.dtype))


@pytest.fixture(scope="module")
def net():
    return approximation.small_net("tanh", 3, seed=0, width=5, samples=8)


def test_theorem_1_is_what_dense_blocks_say(net):
    h, g = map(dense, approximation.blocks(*net, "layers.1"))
    unit = approximation.blocks(*net, "layers.1")[0].gradient
    unit = unit / unit.norm()
    signs = approximation.random_signs(unit, hl.seeded(3))
    expected = torch.stack([unit @ h @ unit, unit @ g @ unit, ((h - g) @ signs).norm() / (h @ signs).norm()])
    torch.testing.assert_close(approximation.theorem_1(*net, "layers.1", hl.seeded(3)), expected)


def test_frobenius_norms_are_those_of_dense_blocks(net):
    b, g = map(dense, approximation.blocks(*net, ("layers.1", "layers.2")))
    found = approximation.frobenius(*net, ("layers.1", "layers.2"), hl.seeded(0), signs=400)
    torch.testing.assert_close(found, torch.stack([b.norm(), (b - g).norm()]), rtol=0.1, atol=0)


def test_norms_by_width_are_those_of_dense_blocks():
    h, g = map(dense, approximation.blocks(*approximation.small_net("gelu", 4, 0, width=6), "layers.1"))
    expected = torch.stack([torch.linalg.matrix_norm(x, 2) for x in (h, g, h - g)])
    torch.testing.assert_close(approximation.norms_by_width("gelu", 6, 0), expected, rtol=0.05, atol=0)


def test_quotients_along_the_gradient(net):
    found = approximation.along_gradient_and_at_random("tanh", [0], depth=3, width=5, samples=8)
    assert found.shape == (1, 2, 2, 2)
    expected = approximation.theorem_1(*net, "layers.1", hl.seeded(0))[:2]
    torch.testing.assert_close(found[0, 1, 0], expected)


def test_a_slope_is_an_exponent():
    values = torch.tensor([[1.0], [2.0]], dtype=torch.float64) * approximation.SCALES**1.5
    assert approximation.slope(values).mean == pytest.approx(1.5)


def test_relu_is_exact_and_the_last_layer_too():
    along, block = approximation.errors_of_seeds("relu", 3, range(3), range(2), width=6, samples=8)
    assert max(along.max(), block.max()) < 1e-9
    along, block = approximation.errors_of_seeds("gelu", 3, range(3), range(2), width=6, samples=8)
    assert block[:, 2].max() < 1e-9 < block[:, :2].min()


@pytest.mark.parametrize("net", approximation.NETS)
def test_every_net_has_its_five_layers(net):
    model, _, _ = approximation.drawn("digits", net, "selu", 4, 0, 4, "float32")
    assert set(approximation.chosen_layers(net, model)) <= set(hl.weight_layers(model))


def test_a_tiny_run_and_its_resumption(tmp_path, monkeypatch):
    setting = {"data": "digits", "net": "LeNet5", "activation": "selu", "width": 2, "seed": 0, "samples": 4,
               "dtype": "float64"}
    training = {**setting, "epochs": 1, "measures": 2}
    monkeypatch.setattr(approximation, "start_settings", lambda size: [setting])
    monkeypatch.setattr(approximation, "training_settings", lambda size: [training])
    first = approximation.run("full", folder=tmp_path)
    monkeypatch.setattr(approximation, "at_start", lambda **_: 1 / 0)  # nothing is left to compute
    monkeypatch.setattr(approximation, "in_training", lambda **_: 1 / 0)
    again = approximation.run("full", folder=tmp_path)
    for a, b, asked in zip(first, again, ([setting], [training])):
        assert a.answers(asked) == b.answers(asked)
    errors = approximation.errors(first[0])["digits", "LeNet5", "selu"]
    assert errors.shape[0] == 3 and errors.shape[2] == 5
    history = approximation.histories(first[1])["digits", "LeNet5", "selu", 2]
    assert history["along"].shape == (1, 3, 5) and history["loss"].shape == (1, 3)


def test_stored_starts_are_found_again():
    keys = {tuple(sorted(setting.items())) for setting, _ in hl.Results("15-approximation", "full", fresh=False).items()}
    asked = {tuple(sorted(setting.items())) for setting in approximation.start_settings("full")}
    assert len(keys & asked) > 200
