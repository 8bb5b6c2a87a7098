import pytest
import torch
from torch import nn

import hessinit_lite as hl
from hessinit_lite.models import activation_name


@pytest.mark.parametrize("activation", hl.ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_shapes_and_depth(activation, depth):
    model = hl.MLP(6, 4, depth, 3, activation)
    assert len(model.layers) == depth
    assert model(torch.randn(7, 6)).shape == (7, 3)
    assert model(torch.randn(7, 2, 3)).shape == (7, 3)


def test_forward_is_the_recursion_of_the_notation():
    model = hl.MLP(3, 4, 3, 2, "tanh")
    z = x = torch.randn(5, 3)
    for layer in model.layers[:-1]:
        z = torch.tanh(z @ layer.weight.T + layer.bias)
    torch.testing.assert_close(model(x), z @ model.layers[-1].weight.T + model.layers[-1].bias)


def test_without_bias():
    assert all(layer.bias is None for layer in hl.MLP(3, 4, 3, 2, bias=False).layers)


@pytest.mark.parametrize("arguments", [
    dict(in_features=0), dict(width=-1), dict(depth=0), dict(out_features=2.5), dict(dropout=1.0),
    dict(dropout=-0.1)])
def test_impossible_sizes(arguments):
    sizes = dict(in_features=3, width=4, depth=2, out_features=2)
    with pytest.raises(ValueError, match=next(iter(arguments))):
        hl.MLP(**{**sizes, **arguments})


def test_unknown_activation_lists_the_known_ones():
    with pytest.raises(ValueError, match="swosh") as caught:
        hl.MLP(3, 4, 2, 2, "swosh")
    assert all(name in str(caught.value) for name in hl.ACTIVATIONS)


def test_dropout_acts_in_train_mode_only():
    model, x = hl.MLP(3, 50, 3, 2, dropout=0.5), torch.randn(5, 3)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_weight_layers_keep_the_names_of_named_modules():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    assert list(hl.weight_layers(model)) == ["0", "3"]


def test_models_without_layers_and_non_models():
    with pytest.raises(ValueError, match="no layers"):
        hl.weight_layers(nn.Sequential(nn.ReLU()))
    with pytest.raises(TypeError, match="Module"):
        hl.weight_layers([nn.Linear(2, 2)])


def test_activation_is_read_off_the_model():
    assert activation_name(hl.MLP(3, 4, 2, 2, "selu")) == "selu"
    assert activation_name(hl.MLP(3, 4, 2, 2, "linear")) == "linear"
    with pytest.raises(ValueError, match="relu, tanh"):
        activation_name(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Tanh()))
