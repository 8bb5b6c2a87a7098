import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hessinit_lite as hl
from hessinit_lite.schemes import fans

OPTIONS = {"normal": dict(std=0.05), "lsuv": dict(batch=(torch.randn(64, 200), None))}


def _mlp(activation="tanh", depth=3, **options):
    return hl.MLP(200, 300, depth, 100, activation, **options)


def _same(model, state):
    return all(torch.equal(p, state[n]) for n, p in model.state_dict().items())


def _copy(model):
    return {n: p.clone() for n, p in model.state_dict().items()}


@pytest.mark.parametrize("scheme", hl.SCHEMES)
def test_same_seed_same_numbers_and_the_global_stream_is_left_alone(scheme):
    options, draws = OPTIONS.get(scheme, {}), []
    model = _mlp()
    state = torch.get_rng_state()
    for seed in (1, 1, 2):
        g = torch.Generator().manual_seed(seed)
        assert hl.init_(model, scheme, generator=g, **options) is model
        draws.append(_copy(model))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(draws[0][n], draws[1][n]) for n in draws[0])
    assert not all(torch.equal(draws[0][n], draws[2][n]) for n in draws[0])


@pytest.mark.parametrize("scheme", [name for name in hl.SCHEMES if name != "torch"])
def test_biases_are_zero(scheme):
    model = hl.init_(_mlp(), scheme, **OPTIONS.get(scheme, {}))
    assert all(not layer.bias.any() for layer in model.layers)


VARIANCE = {
    "lecun": lambda i, o, k, n: 1 / i,
    "glorot": lambda i, o, k, n: 2 / (i + o),
    "he": lambda i, o, k, n: 2 / i,
    "forward": lambda i, o, k, n: (hl.gain("tanh") ** 2 if k > 0 else 1) / i,
    "backward": lambda i, o, k, n: (hl.gain("tanh", "backward") ** 2 if k < n - 1 else 1) / o,
    "spectral_condition": lambda i, o, k, n: min(1, o / i) / i,
    "mup": lambda i, o, k, n: 1 / i if k < n - 1 else 1 / i ** 2,
    "normal": lambda i, o, k, n: 0.05 ** 2,
    "torch": lambda i, o, k, n: 1 / (3 * i),
}


@pytest.mark.parametrize("factor", [1.0, 1.7])
@pytest.mark.parametrize("scheme", VARIANCE)
def test_variances(scheme, factor, generator):
    model = hl.init_(_mlp(), scheme, generator=generator, factor=factor, **OPTIONS.get(scheme, {}))
    for k, layer in enumerate(model.layers):
        out, inp = layer.weight.shape
        expected = VARIANCE[scheme](inp, out, k, len(model.layers)) * factor ** 2
        count = layer.weight.numel()  # a Gaussian's sample variance has relative error sqrt(2/count)
        assert layer.weight.var().item() == pytest.approx(expected, rel=4 * math.sqrt(2 / count))
        assert abs(layer.weight.mean().item()) <= 4 * math.sqrt(expected / count)


def test_fans_of_a_convolution_count_the_kernel(generator):
    conv = nn.Conv2d(20, 40, 3)
    hl.init_(conv, "he", generator=generator)
    assert conv.weight.var().item() == pytest.approx(2 / (20 * 9), rel=4 * math.sqrt(2 / 7200))
    hl.init_(nn.Sequential(conv, nn.ReLU(), nn.Conv2d(40, 1, 1)), "backward", generator=generator)
    assert conv.weight.var().item() == pytest.approx(2 / (40 * 9), rel=4 * math.sqrt(2 / 7200))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_fans_of_a_grouped_convolution_count_its_weights(groups):
    """Both by counting: weights per output, and outputs that one input reaches."""
    conv = nn.Conv2d(8, 16, 3, padding=1, groups=groups, bias=False)
    with torch.no_grad():
        conv.weight.fill_(1.0)
    inputs = torch.ones(1, 8, 7, 7, requires_grad=True)
    outputs = conv(inputs)
    outputs.sum().backward()
    assert fans(conv) == (outputs[0, 0, 3, 3].item(), inputs.grad[0, 0, 3, 3].item())


def test_the_torch_scheme_is_what_torch_draws():
    for layer in (nn.Linear(40, 30), nn.Conv2d(3, 4, 3)):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        hl.init_(layer, "torch")
        drawn = torch.cat([layer.weight.flatten(), layer.bias])
        layer.reset_parameters()
        own = torch.cat([layer.weight.flatten(), layer.bias])
        for x in (drawn, own):
            assert 0.9 * bound < x.abs().max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("factor", [1.0, 2.5])
def test_orthogonal(factor, generator):
    model = hl.init_(_mlp().double(), "orthogonal", generator=generator, factor=factor)
    for layer in model.layers:
        w = layer.weight if layer.weight.shape[0] <= layer.weight.shape[1] else layer.weight.T
        torch.testing.assert_close(w @ w.T, factor ** 2 * torch.eye(len(w), dtype=w.dtype))


@pytest.mark.parametrize("activation", hl.ACTIVATIONS)
def test_lsuv_gives_every_layer_unit_output_variance(activation, generator):
    model = _mlp(activation, depth=6)
    x = torch.randn(64, 200, generator=generator) * 3
    hl.init_(model, "lsuv", generator=generator, batch=(x, None))
    found = []
    for layer in model.layers:
        layer.register_forward_hook(lambda m, a, out: found.append(out.std().item()))
    model(x)
    assert found == pytest.approx([1] * 6, rel=1e-3)


def test_lsuv_leaves_no_hook_behind_and_survives_a_dead_layer():
    model = _mlp("relu")
    hl.init_(model, "lsuv", batch=(torch.zeros(8, 200), None))
    assert all(not m._forward_hooks for m in model.modules())
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("scheme", ["forward", "he"])
def test_dropout_scales_every_layer_but_the_first(scheme):
    drawn = []
    for dropout in (None, 0.5):
        model = hl.init_(_mlp(), scheme, generator=torch.Generator().manual_seed(3), dropout=dropout)
        drawn.append([layer.weight.detach().clone() for layer in model.layers])
    for k, (without, with_) in enumerate(zip(*drawn)):
        torch.testing.assert_close(with_, without * (math.sqrt(0.5) if k else 1))


def test_forward_scheme_with_dropout_keeps_the_variance_through_a_real_network():
    logs = []
    for seed in range(10):
        torch.manual_seed(seed)
        model = hl.MLP(400, 400, 12, 400, "relu", bias=False, dropout=0.4)
        hl.init_(model, "forward", dropout=0.4)
        x = torch.randn(200, 400)
        with torch.no_grad():
            logs.append((model(x).pow(2).mean() / x.pow(2).mean()).log())
    logs = torch.stack(logs)
    # log of a mean-one product of 12 layers lies below 0 by about half its variance
    assert abs(logs.mean() + logs.var() / 2) <= 4 * logs.std() / math.sqrt(10)


def test_activation_may_be_given_where_the_model_mixes_them(generator):
    model = nn.Sequential(nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 50))
    with pytest.raises(ValueError, match="mixes"):
        hl.init_(model, "forward")
    hl.init_(model, "forward", activation="tanh", generator=generator)
    hl.init_(model, "he", generator=generator)  # does not depend on the activation


def test_dtype_and_requires_grad_stay():
    model = _mlp().double()
    model.layers[0].weight.requires_grad_(False)
    hl.init_(model, "he")
    assert model.layers[1].weight.dtype == torch.float64
    assert [layer.weight.requires_grad for layer in model.layers] == [False, True, True]


@pytest.mark.parametrize("arguments, message", [
    (("xavier",), "known: lecun, glorot"),
    (("forward", "swosh"), "known: linear, tanh"),
    (("he", "swosh"), "known: linear, tanh"),
    (("he", None, None, dict(factor=0)), "factor"),
    (("he", None, None, dict(factor=math.nan)), "factor"),
    (("he", None, None, dict(dropout=1.0)), "dropout"),
    (("normal",), "std"),
    (("normal", None, None, dict(std=-1)), "std"),
    (("normal", None, None, dict(std=math.inf)), "std"),
    (("lsuv",), "batch"),
])
def test_bad_arguments_leave_the_weights_alone(arguments, message):
    model = _mlp()
    state = _copy(model)
    *positional, options = (*arguments, {}) if not isinstance(arguments[-1], dict) else arguments
    with pytest.raises(ValueError, match=message):
        hl.init_(model, *positional, **options)
    assert _same(model, state)


def test_unknown_scheme_lists_all():
    with pytest.raises(ValueError) as caught:
        hl.init_(_mlp(), "xavier")
    assert all(scheme in str(caught.value) for scheme in hl.SCHEMES)


def test_models_that_cannot_be_initialized():
    with pytest.raises(ValueError, match="no layers"):
        hl.init_(nn.Sequential(nn.Tanh()), "he")
    with pytest.raises(TypeError, match="Module"):
        hl.init_("model", "he")


def test_a_lazy_layer_is_refused_before_any_weight_is_drawn():
    model = nn.Sequential(nn.Linear(3, 4), nn.LazyLinear(2))
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match="(?i)uninitialized|lazy"):
        hl.init_(model, "he")
    assert torch.equal(model[0].weight, before)


def test_lsuv_refuses_a_batch_that_does_not_fit_before_any_weight_is_drawn():
    model = _mlp()
    state = _copy(model)
    with pytest.raises(RuntimeError):
        hl.init_(model, "lsuv", batch=(torch.randn(8, 7), None))
    assert _same(model, state)


def test_a_generator_of_another_device_is_refused():
    with pytest.raises(ValueError, match=r"torch.Generator\('meta'\)"):
        hl.init_(nn.Linear(3, 2, device="meta"), "he", generator=torch.Generator())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_weights_are_drawn_on_the_models_device():
    model = _mlp().cuda()
    with pytest.raises(ValueError, match="cuda"):
        hl.init_(model, "he", generator=torch.Generator())
    hl.init_(model, "he", generator=torch.Generator("cuda").manual_seed(0))
    assert all(p.is_cuda for p in model.parameters())


def _conv_norms(conv, inputs):
    """Norms of the outputs and of the inputs, and of gradients that enter and leave, [N] each."""
    inputs.requires_grad_()
    outputs = conv(inputs)
    entering = torch.randn(outputs.shape, dtype=outputs.dtype, generator=torch.Generator().manual_seed(1))
    (leaving,) = torch.autograd.grad(outputs, inputs, entering)
    return [torch.linalg.vector_norm(t.detach().flatten(1), dim=1) for t in (outputs, inputs, leaving, entering)]


@pytest.mark.parametrize("factor", [1.0, 1.5])
@pytest.mark.parametrize("padding_mode", ["circular", "zeros"])
@pytest.mark.parametrize("layer, d_in, d_out, options", [
    (nn.Conv1d, 6, 6, dict(kernel_size=5)),
    (nn.Conv2d, 6, 6, dict(kernel_size=3)),
    (nn.Conv2d, 4, 10, dict(kernel_size=(3, 5))),
    (nn.Conv2d, 10, 4, dict(kernel_size=3)),
    (nn.Conv2d, 6, 6, dict(kernel_size=3, dilation=2)),
    (nn.Conv2d, 6, 12, dict(kernel_size=3, groups=3)),
    (nn.Conv2d, 12, 6, dict(kernel_size=3, groups=3)),
    (nn.Conv2d, 8, 8, dict(kernel_size=3, groups=8)),
    (nn.Conv2d, 6, 6, dict(kernel_size=1)),
    (nn.Conv3d, 4, 4, dict(kernel_size=3)),
])
def test_delta_orthogonal_keeps_norms(layer, d_in, d_out, options, padding_mode, factor, generator):
    """Of all inputs unless the layer narrows, of all gradients unless it widens; orthogonal does neither."""
    conv = layer(d_in, d_out, padding="same", padding_mode=padding_mode, **options).double()
    size = [6] * (conv.weight.ndim - 2)
    x = torch.randn(5, d_in, *size, dtype=torch.float64, generator=generator)
    hl.init_(conv, "delta_orthogonal", generator=generator, factor=factor)
    forward, before, backward, entering = _conv_norms(conv, x)
    kept = [torch.allclose(forward, factor * before), torch.allclose(backward, factor * entering)]
    assert kept == [d_out >= d_in, d_out <= d_in]
    if conv.weight[0, 0].numel() > 1:
        hl.init_(conv, "orthogonal", generator=generator, factor=factor)
        forward, before, backward, entering = _conv_norms(conv, x)
        assert not torch.allclose(forward, factor * before)
        assert not torch.allclose(backward, factor * entering)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("size", [2, 4])
def test_delta_orthogonal_reads_its_own_pixel_under_an_even_kernel(size, generator):
    conv = nn.Conv1d(3, 3, size, padding="same", bias=False).double()
    hl.init_(conv, "delta_orthogonal", generator=generator)
    (tap,) = conv.weight.abs().sum((0, 1)).nonzero().flatten().tolist()
    pulse = torch.zeros(1, 3, 7, dtype=torch.float64)
    pulse[0, :, 3] = 1
    places = conv(pulse).abs().sum((0, 1)).nonzero().flatten().tolist()
    assert places == [3] and conv.weight[:, :, tap].count_nonzero() == 9


def test_delta_orthogonal_is_orthogonal_in_dense_layers():
    drawn = []
    for scheme in ("orthogonal", "delta_orthogonal"):
        model = hl.init_(_mlp(), scheme, generator=torch.Generator().manual_seed(5), factor=1.3, dropout=0.5)
        drawn.append(_copy(model))
    assert all(torch.equal(drawn[0][n], drawn[1][n]) for n in drawn[0])


def test_delta_orthogonal_draws_every_group_anew_and_uniformly(generator):
    """The groups differ, and over many draws an entry has mean 0 and variance 1/d."""
    conv = nn.Conv2d(400 * 4, 400 * 4, 3, groups=400)
    hl.init_(conv, "delta_orthogonal", generator=generator)
    centres = conv.weight[:, :, 1, 1].detach().unflatten(0, (400, 4))
    assert len(centres.flatten(1).unique(dim=0)) == 400
    assert centres.mean(0).abs().max() < 4 * (1 / 4 / 400) ** 0.5
    assert centres.square().mean(0).sub(1 / 4).abs().max() < 4 * centres.square().std() / 20


class Functional(nn.Module):
    """Two dense layers with a function between them; norm and dropout, so that a look could leave a trace."""

    def __init__(self, function):
        super().__init__()
        self.w1, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)
        self.w2, self.function = nn.Linear(6, 6), function

    def forward(self, x):
        return self.w2(self.drop(self.norm(self.function(self.w1(x)))))


@pytest.mark.parametrize("function, name", [
    (F.gelu, "gelu"), (F.relu, "relu"), (torch.relu_, "relu"), (torch.tanh, "tanh"), (lambda x: x.tanh(), "tanh"),
    (F.silu, "silu"), (lambda x: F.leaky_relu(x, inplace=True), "leaky_relu"), (lambda x: x, "linear")])
@pytest.mark.parametrize("scheme", ["forward", "backward"])
def test_an_activation_that_is_a_function_has_its_gain(function, name, scheme):
    model, batch = Functional(function), (torch.randn(8, 6), torch.zeros(8))
    with pytest.raises(ValueError, match="activation="):
        hl.init_(model, scheme)
    before, state = {n: b.clone() for n, b in model.named_buffers()}, torch.get_rng_state()
    hl.init_(model, scheme, generator=torch.Generator().manual_seed(0), batch=batch)
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())
    assert torch.equal(torch.get_rng_state(), state) and all(m.training for m in model.modules())
    named = hl.init_(copy.deepcopy(model), scheme, name, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), named.parameters()))
    drawn = (model.w2 if scheme == "forward" else model.w1).weight
    plain = hl.init_(copy.deepcopy(model), "lecun", generator=torch.Generator().manual_seed(0))
    plain = (plain.w2 if scheme == "forward" else plain.w1).weight
    torch.testing.assert_close(drawn, hl.gain(name, scheme) * plain)


def test_the_activation_of_torchs_encoder_is_seen():
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)
    model, batch = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (torch.randn(2, 3, 8), torch.zeros(2))
    hl.init_(model, "forward", generator=torch.Generator().manual_seed(0), batch=batch)
    named = hl.init_(copy.deepcopy(model), "forward", "gelu", torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), named.parameters()))


def test_hessian_init_sees_functions_and_refuses_what_it_does_not_know():
    batch = torch.randn(8, 6), torch.randint(6, (8,))
    model = Functional(F.gelu).eval()
    model.norm.num_batches_tracked += 1
    found = hl.hessian_init_(model, F.cross_entropy, batch, generator=torch.Generator().manual_seed(0), max_steps=1)
    named = hl.hessian_init_(copy.deepcopy(model), F.cross_entropy, batch, activation="gelu", max_steps=1,
                             generator=torch.Generator().manual_seed(0))
    assert found.norms == named.norms
    model.function = F.elu
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="the gain of elu is not known"):
        hl.hessian_init_(model, F.cross_entropy, batch)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_one_layer_needs_no_activation():
    hl.init_(nn.Linear(3, 3), "forward")


@pytest.mark.parametrize("scheme", ["he", "torch", "lsuv"])
def test_a_frozen_bias_stays(scheme):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    model[0].bias.requires_grad_(False)
    before = [p.detach().clone() for p in model.parameters()]
    hl.init_(model, scheme, batch=(torch.randn(8, 4), None), generator=torch.Generator().manual_seed(1))
    assert [torch.equal(p, old) for p, old in zip(model.parameters(), before)] == [False, True, False, False]
