"""Columns pushed back by hand are those of autograd, and only where the network is a chain."""

import pytest
import torch
from dense import dense_gauss_newton, problem
from torch import nn
from torch.nn import functional as F

import hessinit_lite as hl
from hessinit_lite import columns
from hessinit_lite.blocks import LayerBlock

ACTIVATIONS = {
    "none": nn.Identity(), "relu in place": nn.ReLU(inplace=True), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(),
    "gelu": nn.GELU(), "gelu by tanh": nn.GELU("tanh"), "silu": nn.SiLU(), "elu in place": nn.ELU(inplace=True),
    "selu": nn.SELU(), "leaky relu": nn.LeakyReLU(0.1), "softplus": nn.Softplus(), "hardtanh": nn.Hardtanh(),
    "mish": nn.Mish(), "two": nn.Sequential(nn.Tanh(), nn.ReLU()),
}


@pytest.fixture
def chains(monkeypatch):
    """What `_chain` found at each call."""
    found, real = [], columns._chain

    def chain(*arguments):
        found.append(real(*arguments))
        return found[-1]

    monkeypatch.setattr(columns, "_chain", chain)
    return found


def check(model, inputs, chains, chain, **options):
    """Every block is the dense one; `chain`: is it found without autograd's pass?"""
    batch = inputs, torch.arange(len(inputs)) % 2
    for name, block in hl.layer_blocks(model, F.cross_entropy, batch, **options).items():
        dense = dense_gauss_newton(model, F.cross_entropy, batch, [f"{name}.weight"])
        assert isinstance(block, LayerBlock)
        torch.testing.assert_close(block.matmat(torch.eye(len(dense)).double()), dense, rtol=1e-9, atol=1e-12)
    assert [each is not None for each in chains] == [chain]


def stack(activation, last=nn.Identity):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 5, bias=False), activation, nn.Linear(5, 2),
                         last()).double()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_chain_has_the_dense_blocks(name, chains):
    check(stack(ACTIVATIONS[name]), torch.randn(6, 3).double(), chains, chain=True)


def test_outputs_may_have_an_activation(chains):
    check(stack(nn.Tanh(), nn.Tanh), torch.randn(6, 3).double(), chains, chain=True)


@pytest.mark.parametrize("layers", [["0"], ["2"], ["0", "4"]])
def test_layers_in_between_need_not_be_asked_for(layers, chains):
    check(stack(nn.Tanh()), torch.randn(6, 3).double(), chains, chain=True, layers=layers)


@pytest.mark.parametrize("frozen", ["0", "2", "4"])
def test_frozen_layers(frozen, chains):
    model = stack(nn.Tanh())
    model.get_submodule(frozen).requires_grad_(False)
    check(model, torch.randn(6, 3).double(), chains, chain=True)


def test_a_layer_that_is_called_twice(chains):
    first, shared, last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
    check(nn.Sequential(first, nn.Tanh(), shared, nn.Tanh(), shared, nn.Tanh(), last).double(),
          torch.randn(6, 3).double(), chains, chain=True)


class Around(nn.Module):
    """`function` of a dense layer's input and output, between two others."""

    def __init__(self, function):
        super().__init__()
        self.function, self.first, self.inner, self.last = function, *map(nn.Linear, (3, 4, 4), (4, 4, 2))
        self.double()

    def forward(self, x):
        z = torch.tanh(self.first(x))
        return self.last(self.function(z, self.inner(z)))


NO_CHAINS = {
    "skip": lambda z, u: z + torch.tanh(u),
    "gate": lambda z, u: z * torch.sigmoid(u),
    "softmax": lambda z, u: torch.softmax(u, 1),
    "moved": lambda z, u: torch.tanh(u).roll(1, 1),
    "normalized": lambda z, u: u / u.norm(dim=1, keepdim=True),
    "multiplied": lambda z, u: torch.tanh(u) @ torch.arange(16.0).view(4, 4).double().sin(),
}


@pytest.mark.parametrize("name", NO_CHAINS)
def test_anything_else_is_left_to_autograd(name, chains):
    torch.manual_seed(0)
    check(Around(NO_CHAINS[name]), torch.randn(6, 3).double(), chains, chain=False)


def test_samples_that_meet_are_no_chain(chains):
    torch.manual_seed(0)
    model = Around(lambda z, u: torch.tanh(u - u.mean(0)))
    blocks = hl.layer_blocks(model, F.cross_entropy, (torch.randn(6, 3).double(), torch.arange(6) % 2))
    assert chains == [None]
    assert {name: isinstance(b, LayerBlock) for name, b in blocks.items()} == {
        "first": False, "inner": False, "last": True}


def test_chunks_of_columns_are_joined(chains):
    model, loss_fn, batch = problem("tanh", sizes=(3, 5, 3, 9), samples=7)
    for name, block in hl.layer_blocks(model, loss_fn, batch, memory=8 * 7 * 9 * 9).items():
        torch.testing.assert_close(block.curvature, hl.layer_blocks(model, loss_fn, batch)[name].curvature)


class Overwriting(nn.Module):
    """Changes what a layer has read: the factor F is lost."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()

    def forward(self, x):
        u = self.first(x)
        x += 1
        return self.last(torch.tanh(u))


def test_an_input_that_is_overwritten_is_no_silent_error():
    batch = torch.randn(6, 3).double(), torch.arange(6) % 2
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        hl.layer_traces(Overwriting(), F.cross_entropy, batch)
