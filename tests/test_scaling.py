"""Width and depth: rates against what steps do to a net's outputs, factors on branches, refusals."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hessinit_lite as hl
from hessinit_lite.scaling import BRANCHES

BRANCH_ENDS = "blocks.*.attention.out", "blocks.*.down"


def dense(width, **options):
    return hl.MLP(20, width, 4, 5, activation="tanh", **options)


def transformer(width=8, depth=3):
    return hl.TinyTransformer(3, width=width, depth=depth, heads=2, classes=5)


class Tied(nn.Module):
    """The head comes first and shares its weight with the embedding; a convolution, a norm, a matrix of its own."""

    def __init__(self, width):
        super().__init__()
        self.head = nn.Linear(width, 7, bias=False)
        self.embed = nn.Embedding(7, width)
        self.embed.weight = self.head.weight
        self.conv = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.norm = nn.LayerNorm(2 * width)
        self.matrix = nn.Parameter(torch.zeros(width, 2 * width))


def test_the_published_table():
    """Table 3 of Yang et al. 2022: input and biases, hidden, output; fan_out, 1, 1/fan_in and 1, 1/fan_in, 1/fan_in."""
    wide, narrow = dense(256), dense(32)
    sgd, adam = (hl.width_multipliers(wide, narrow, each) for each in ("sgd", "adam"))
    weights = [f"layers.{k}.weight" for k in range(4)]
    assert [sgd[name] for name in weights] == [8, 1, 1, 1 / 8]
    assert [adam[name] for name in weights] == [1, 1 / 8, 1 / 8, 1 / 8]
    assert [sgd[f"layers.{k}.bias"] for k in range(4)] == [8, 8, 8, 1]
    assert {adam[f"layers.{k}.bias"] for k in range(4)} == {1}


def test_other_layers_are_read_by_their_shapes():
    found = hl.width_multipliers(Tied(40), Tied(10))
    assert found == {"head.weight": 4, "conv.weight": 1, "conv.bias": 4, "norm.weight": 4, "norm.bias": 4, "matrix": 1}
    found = hl.width_multipliers(Tied(40), Tied(10), "adam")
    assert found == {"head.weight": 1, "conv.weight": 1 / 4, "conv.bias": 1, "norm.weight": 1, "norm.bias": 1,
                     "matrix": 1 / 4}


def frozen_bias():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    return model


class Places(nn.Module):
    """What is added to every sample, as vision Transformers hold it, beside a layer and adapters of rank 1."""

    def __init__(self, width):
        super().__init__()
        self.places, self.token = nn.Parameter(torch.zeros(1, 9, width)), nn.Parameter(torch.zeros(1, 1, width))
        self.out = nn.Linear(width, 1)
        self.A, self.B = nn.Parameter(torch.zeros(1, width)), nn.Parameter(torch.zeros(width, 1))


def test_what_is_added_to_every_sample_is_read_as_a_vector():
    found = hl.width_multipliers(Places(40), Places(10), "adam")
    assert found == {"places": 1, "token": 1, "out.weight": 1 / 4, "out.bias": 1, "A": 1 / 4, "B": 1}
    found = hl.width_multipliers(Places(40), Places(10))
    assert (found["places"], found["token"], found["out.weight"]) == (4, 4, 1 / 4)


class Stacked(nn.Module):
    """Experts in one parameter [experts, in, out]."""

    def __init__(self, width):
        super().__init__()
        self.experts = nn.Parameter(torch.zeros(3, width, 4 * width))


def test_groups_hold_every_trainable_parameter_once():
    wide, narrow = dense(64), dense(32)
    wide.layers[1].weight.requires_grad_(False)
    groups = hl.mup_groups(wide, narrow, 0.5)
    held = [p for group in groups for p in group["params"]]
    assert set(held) == {p for p in wide.parameters() if p.requires_grad} and len(held) == len(set(held))
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    for name, p in wide.named_parameters():
        assert p not in rates or rates[p] == 0.5 * hl.width_multipliers(wide, narrow)[name]
    torch.optim.SGD(groups, momentum=0.9), torch.optim.AdamW(groups)


def test_at_the_base_width_nothing_changes():
    assert [group["lr"] for group in hl.mup_groups(dense(32), dense(32), 0.5, "adam")] == [0.5]


@pytest.mark.parametrize("optimizer, make", [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_a_step_moves_outputs_alike_at_every_width(optimizer, make):
    """Four steps in μP: how far outputs move neither grows nor falls with the width; with one rate it grows."""
    moved = {"mup": {}, "one rate": {}}
    for width in (32, 512):
        for how in moved:
            logs = []
            for seed in range(6):
                g = hl.seeded(seed)
                model = hl.init_(dense(width).double(), "mup", generator=g)
                x = torch.randn(16, 20, generator=g, dtype=torch.float64)
                y = torch.randint(5, (16,), generator=g)
                rate = 0.1 if optimizer == "sgd" else 0.01
                groups = hl.mup_groups(model, dense(32), rate, optimizer) if how == "mup" else model.parameters()
                stepping, before = make(groups, lr=rate), model(x).detach()
                for _ in range(4):
                    stepping.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    stepping.step()
                logs.append((model(x) - before).norm().log().item())
            moved[how][width] = sum(logs) / 6
    growth = {how: at[512] - at[32] for how, at in moved.items()}
    assert abs(growth["mup"]) < math.log(1.5)
    assert abs(growth["one rate"]) > math.log(2.5)


@pytest.mark.parametrize("name, factor", [("1/sqrt(L)", 6 ** -0.5), ("1/L", 1 / 6), ("zero", 0.0), (0.3, 0.3)])
def test_branches_are_scaled_and_nothing_else(name, factor):
    model = transformer()
    before = copy.deepcopy(model.state_dict())
    chosen = hl.scale_branches_(model, BRANCH_ENDS, name)
    assert len(chosen) == 6
    for key, value in model.state_dict().items():
        scaled = key.rpartition(".")[0] in chosen
        torch.testing.assert_close(value, before[key] * factor if scaled else before[key])


def test_a_weight_that_two_branches_share_is_scaled_once():
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(3)))
    model[2].weight = model[0].weight
    before = copy.deepcopy(model.state_dict())
    assert hl.scale_branches_(model, "*", 0.5) == ["0", "1", "2"]
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key] / 2)


def test_zero_branches_pass_their_input_on_and_wake_up():
    model = transformer()
    hl.scale_branches_(model, BRANCH_ENDS, "zero")
    z = torch.randn(2, 5, 8)
    assert torch.equal(model.blocks(z), z)
    F.cross_entropy(model(torch.randn(4, 6, 3)), torch.arange(4)).backward()
    woken = {name: bool(p.grad.any()) for name, p in model.blocks[0].named_parameters()}
    assert woken["down.weight"] and woken["attention.out.weight"] and not woken["up.weight"]


@pytest.mark.parametrize("call, message", [
    (lambda: hl.mup_groups(dense(8), dense(4), 0.1, "lion"), "known: sgd, adam"),
    (lambda: hl.width_multipliers(dense(8), dense(4), "lion"), "known: sgd, adam"),
    (lambda: hl.mup_groups(dense(8), dense(4), 0), "lr"),
    (lambda: hl.mup_groups(dense(8), dense(4), math.nan), "lr"),
    (lambda: hl.mup_groups(dense(8), dense(4, bias=False), 0.1), "'layers.0.bias' is not in both"),
    (lambda: hl.mup_groups(nn.Conv1d(3, 4, 1), nn.Conv2d(3, 4, 1), 0.1), "number of axes"),
    (lambda: hl.mup_groups(Stacked(8), Stacked(4), 0.1), "'experts' is not .* matrices in a stack"),
    (lambda: hl.mup_groups(dense(8).requires_grad_(False), dense(4), 0.1), "frozen"),
    (lambda: hl.scale_branches_(transformer(), "nothing", "zero"), "no layer is called 'nothing'"),
    (lambda: hl.scale_branches_(transformer(), [], "zero"), "layers is empty"),
    (lambda: hl.scale_branches_(transformer(), BRANCH_ENDS, "1/l"), "known: 1/sqrt"),
    (lambda: hl.scale_branches_(transformer(), BRANCH_ENDS, math.inf), "finite"),
    (lambda: hl.scale_branches_(transformer().requires_grad_(False), BRANCH_ENDS, 0.5), "frozen"),
    (lambda: hl.scale_branches_(frozen_bias(), "*", 0.5), "'' is frozen"),
    (lambda: hl.scale_branches_(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "*", 0.5), "computed"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_no_module_is_a_type_error():
    for call in (lambda: hl.mup_groups("net", dense(4), 0.1), lambda: hl.scale_branches_([], "*", 0.5)):
        with pytest.raises(TypeError, match="Module"):
            call()


def test_every_named_factor_is_documented():
    assert all(f'"{name}"' in hl.scale_branches_.__doc__ for name in BRANCHES)
