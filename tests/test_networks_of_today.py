"""Networks and losses that people use: the right answer, or words that say what to do. Never silence."""

import copy
import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from dense import dense_gauss_newton, dense_hessian, dense_of
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import hessinit_lite as hl
from hessinit_lite.autograd import twice_differentiable, weight_norm_is_wrong
from hessinit_lite.chain_rule import LayerBlock


def seeded(model, seed=0, scale=0.5):
    """The model in float64, every parameter drawn, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, scale, generator=generator)
    return model


def normal(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(*shape, classes=3, seed=2):
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


X, Y, T = normal(6, 4), labels(6), normal(6, 3, seed=3)


def check(model, loss_fn, batch, dense_loss=None, dense_batch=None, factored=()):
    """Products and every layer's numbers equal those of the dense matrices; returns the blocks."""
    dense_loss, dense_batch = dense_loss or loss_fn, dense_batch or batch
    with twice_differentiable(model):
        truth = dense_hessian(model, dense_loss, dense_batch)
    scale = truth.abs().max().item()
    torch.testing.assert_close(dense_of(hl.hessian(model, loss_fn, batch)), truth, rtol=1e-8, atol=1e-11 * scale)
    everything = hl.gauss_newton(model, loss_fn, batch)
    with twice_differentiable(model):
        truth = dense_gauss_newton(model, dense_loss, dense_batch)
    scale = max(truth.abs().max().item(), 1e-300)
    torch.testing.assert_close(dense_of(everything), truth, rtol=1e-8, atol=1e-11 * scale)
    eye = torch.eye(len(truth), dtype=truth.dtype)
    torch.testing.assert_close(everything.matmat(eye), truth, rtol=1e-8, atol=1e-11 * scale)
    sizes = [model.get_parameter(name).numel() for name in everything.names]
    starts = dict(zip(everything.names, torch.tensor([0, *sizes]).cumsum(0).tolist()))
    blocks = hl.layer_blocks(model, loss_fn, batch, parameters="all")
    norms, traces, frobenius = (hl.layer_norms(model, loss_fn, batch, parameters="all"),
                                hl.layer_traces(model, loss_fn, batch, parameters="all"),
                                hl.layer_norms(model, loss_fn, batch, norm="frobenius", parameters="all"))
    assert list(blocks) == everything.names == list(norms) == list(traces) == list(frobenius)
    for name, block in blocks.items():
        rows = slice(starts[name], starts[name] + model.get_parameter(name).numel())
        dense = truth[rows, rows]
        near = dict(rel=1e-6, abs=1e-10 * scale)
        torch.testing.assert_close(dense_of(block), dense, rtol=1e-8, atol=1e-11 * scale)
        assert norms[name] == pytest.approx(torch.linalg.matrix_norm(dense, 2).item(), **near), name
        assert traces[name] == pytest.approx(dense.trace().item(), **near), name
        assert frobenius[name] == pytest.approx(dense.norm().item(), **near), name
        assert isinstance(block, LayerBlock) == (name in factored) or not factored, name
    return blocks


class Scaled(nn.Linear):
    def forward(self, x):
        return F.linear(x, 0.1 * self.weight, self.bias)


class Standardized(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        return self._conv_forward(x, (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True), self.bias)


class Table(nn.Embedding):
    def forward(self, x):
        return super().forward(x) / 64


class LoRA(nn.Linear):
    """A Linear with adapters of rank 2; its own weight is frozen."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.A, self.B = nn.Parameter(torch.zeros(2, sizes[0])), nn.Parameter(torch.zeros(sizes[1], 2))
        self.weight.requires_grad_(False)

    def forward(self, x):
        return super().forward(x) + x @ self.A.T @ self.B.T


class Offset(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, 1 + self.weight, self.bias)


def _hooked(hook):
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    hook(model[0])
    return model


def _patched():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    layer, plain = model[0], model[0].forward
    layer.forward = lambda x: 2 * plain(x)
    return model


class KeywordCall(nn.Module):
    def __init__(self):
        super().__init__()
        self.l, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.l(input=x).tanh())


class Temperature(nn.Module):
    """With CLIP's logit scale, a parameter without dimensions."""

    def __init__(self):
        super().__init__()
        self.l, self.scale = nn.Linear(4, 3), nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return self.l(x) * self.scale.exp()


class Cube(torch.autograd.Function):
    """A custom function without a rule for batched passes."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x ** 3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x ** 2 * g


class Custom(nn.Module):
    def forward(self, x):
        return Cube.apply(x)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.last = kind(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.rnn(x.view(len(x), -1, 2))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.stack([x, x.flip(1), x * x], dim=1)
        return self.last(self.attention(x, x, x)[0].mean(1))


NETWORKS = {
    "a Linear of another scale": lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), Scaled(5, 3)),
    "a forward hook": lambda: _hooked(lambda m: m.register_forward_hook(lambda m, i, o: 3 * o)),
    "a forward pre-hook": lambda: _hooked(lambda m: m.register_forward_pre_hook(lambda m, i: (i[0] ** 2,))),
    "a patched forward": lambda: _patched(),
    "a LoRA layer": lambda: nn.Sequential(LoRA(4, 5), nn.Tanh(), nn.Linear(5, 3)),
    "a norm of its own kind": lambda: nn.Sequential(nn.Linear(4, 5), Offset(5), nn.Tanh(), nn.Linear(5, 3)),
    "a call by keyword": lambda: KeywordCall(),
    "a parameter without dimensions": lambda: Temperature(),
    "group norm": lambda: nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.Tanh(), nn.Linear(6, 3)),
    "a custom function": lambda: nn.Sequential(nn.Linear(4, 5), Custom(), nn.Linear(5, 3)),
    "an LSTM": lambda: Recurrent(nn.LSTM),
    "a GRU": lambda: Recurrent(nn.GRU),
    "attention": lambda: Attention(),
    "a transposed convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.ConvTranspose1d(1, 2, 2), nn.Tanh(),
                                              nn.Flatten(), nn.Linear(10, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    model = seeded(NETWORKS[name]())
    check(model, F.cross_entropy, (X, Y))
    operator = hl.hessian(model, F.cross_entropy, (X, Y))
    assert (dense_of(operator) - by_differences(model)).abs().max() < 1e-6


def by_differences(model, step=1e-4):
    """The Hessian from gradients at shifted weights (fourth order): no second derivative of torch's."""
    weights = [p for p in model.parameters() if p.requires_grad]

    def gradient_at(p, index, shift):
        with torch.no_grad():
            old = p.view(-1)[index].clone()
            p.view(-1)[index] += shift
        found = torch.autograd.grad(F.cross_entropy(model(X), Y), weights)
        with torch.no_grad():
            p.view(-1)[index] = old
        return torch.cat([g.flatten() for g in found])

    return torch.stack([sum(factor * gradient_at(p, index, multiple * step) for multiple, factor in (
        (1, 8), (-1, -8), (2, -1), (-2, 1))) / (12 * step) for p in weights for index in range(p.numel())], dim=1)


def test_weight_norm_has_no_right_second_derivative_in_torch():
    """Gauss-Newton products need none; the Hessian is refused while torch's is wrong."""
    model = seeded(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)))
    plain = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    v, g = (getattr(model[0].parametrizations.weight, f"original{i}") for i in (1, 0))

    def outputs(b, g, v, w, c):
        weights = {"0.weight": v * (g / v.norm(dim=1, keepdim=True)), "0.bias": b, "2.weight": w, "2.bias": c}
        return torch.func.functional_call(plain, weights, (X,))

    parameters = tuple(p.detach() for p in (model[0].bias, g, v, model[2].weight, model[2].bias))
    jacobian = torch.cat([j.flatten(2) for j in torch.func.jacrev(outputs, tuple(range(5)))(*parameters)], dim=2)
    p = outputs(*parameters).softmax(1)
    h_z = (torch.diag_embed(p) - p[:, :, None] * p[:, None]) / len(X)
    truth = torch.einsum("nki,nkl,nlj->ij", jacobian, h_z, jacobian)
    torch.testing.assert_close(dense_of(hl.gauss_newton(model, F.cross_entropy, (X, Y))), truth)
    if weight_norm_is_wrong():
        with pytest.raises(ValueError, match="second derivative of this torch's weight_norm is wrong"):
            hl.hessian(model, F.cross_entropy, (X, Y))
    else:
        assert (dense_of(hl.hessian(model, F.cross_entropy, (X, Y))) - by_differences(model)).abs().max() < 1e-6


def test_subclasses_of_convolutions_and_embeddings():
    conv = seeded(nn.Sequential(Standardized(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)))
    check(conv, F.cross_entropy, (normal(6, 1, 3, 3), Y))
    table = seeded(nn.Sequential(Table(7, 3), nn.Flatten(), nn.Linear(6, 3)))
    check(table, F.cross_entropy, (labels(6, 2, classes=7), Y))


def test_pruned_and_old_weight_normed_layers():
    """Their weight is computed by a pre-hook from parameters of other names."""
    pruned = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    prune.random_unstructured(pruned[0], "weight", 0.5)
    old = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    for model, name in ((pruned, "0.weight_orig"), (old, "0.weight_g")):
        model = seeded(model)
        model(X)
        norms = hl.layer_norms(model, F.cross_entropy, (X, Y), parameters="all")
        largest = hl.top_eigenvalues(hl.gauss_newton(model, F.cross_entropy, (X, Y), layer=name), rtol=1e-8)[0]
        assert norms[name] == pytest.approx(float(largest[0]), rel=1e-6)
        with pytest.raises(ValueError, match="computed from other parameters"):
            hl.layer_norms(model, F.cross_entropy, (X, Y))


@pytest.mark.parametrize("change", [
    nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm, nn.utils.weight_norm,
    lambda layer: prune.random_unstructured(layer, "weight", 0.5)],
    ids=["weight_norm", "spectral_norm", "old weight_norm", "pruning"])
def test_weights_that_are_computed_are_not_drawn_in_silence(change):
    model = nn.Sequential(change(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    before = copy.deepcopy(model.state_dict())
    for draw in (lambda: hl.init_(model, "he"), lambda: hl.hessian_init_(model, F.cross_entropy, (X.float(), Y))):
        with pytest.raises(ValueError, match="computed from other parameters"):
            draw()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class Weighted(nn.MSELoss):
    def forward(self, z, t):
        return 100 * super().forward(z, t)


class Focal(nn.CrossEntropyLoss):
    def forward(self, z, t):
        p = z.softmax(1).gather(1, t[:, None])
        return ((1 - p) ** 2 * -p.log()).mean()


@pytest.mark.parametrize("loss_fn, targets", [(Weighted(), T), (Focal(), Y)], ids=["weighted", "focal"])
def test_a_loss_of_ones_own(loss_fn, targets):
    check(seeded(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))), loss_fn, (X, targets))


class MeetInOneColumn(nn.Module):
    def __init__(self):
        super().__init__()
        self.l, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        z = self.last(self.l(x).tanh())
        return torch.cat([z[:, :2], z[:, 2:] - z[:, 2:].mean(0)], dim=1)


@pytest.mark.parametrize("loss_fn, targets", [(F.cross_entropy, Y), (F.mse_loss, T)], ids=["classes", "values"])
def test_samples_that_meet_in_one_column(loss_fn, targets):
    check(seeded(MeetInOneColumn()), loss_fn, (X, targets))


def test_a_loss_that_couples_pairs_of_samples():
    model = seeded(nn.Sequential(nn.Linear(4, 3)))
    with pytest.raises(ValueError, match="couples the samples"):
        hl.layer_norms(model, lambda z, t: ((z[:2] - z[2:4]) ** 2).mean() + (z ** 2).mean(), (X, Y))


class Gpt(nn.Module):
    """Tokens, causal attention, and a head tied to the table: outputs [N, T, V]."""

    def __init__(self, vocabulary=5, width=4, heads=2, layers=1, context=3):
        super().__init__()
        self.table, self.places = nn.Embedding(vocabulary, width), nn.Parameter(torch.zeros(1, context, width))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.norm, self.heads = nn.LayerNorm(width), heads
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        x = self.table(tokens) + self.places
        for qkv, out in zip(self.qkv, self.out):
            q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2)
                       for part in qkv(self.norm(x)).chunk(3, dim=2))
            x = x + out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return self.head(self.norm(x))


TOKENS, NEXT = labels(4, 3, classes=5), labels(4, 3, classes=5, seed=5)


@pytest.mark.parametrize("loss_fn", [
    F.cross_entropy, nn.CrossEntropyLoss(ignore_index=1), nn.CrossEntropyLoss(label_smoothing=0.1),
    nn.CrossEntropyLoss(torch.arange(1.0, 6).double())], ids=["plain", "ignored", "smoothed", "weighted"])
def test_a_language_model(loss_fn):
    def by_place(z, t):
        return loss_fn(z.flatten(0, 1), t.flatten())

    model = seeded(Gpt())
    check(model, loss_fn, (TOKENS, NEXT), by_place)
    check(model, by_place, (TOKENS, NEXT))


def test_attention_in_single_precision():
    """The fused kernel of torch has no second derivative; the plain one is taken."""
    model = seeded(Gpt()).float()
    with twice_differentiable(model):
        truth = dense_hessian(copy.deepcopy(model).double(),
                              lambda z, t: F.cross_entropy(z.flatten(0, 1), t.flatten()), (TOKENS, NEXT))
    found = dense_of(hl.hessian(model, F.cross_entropy, (TOKENS, NEXT)))
    assert (found - truth).abs().max() < 1e-4 * truth.abs().max()


def test_pictures_of_labels():
    model = seeded(nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Conv2d(2, 3, 1)))
    t = labels(4, 2, 2)
    t[0, 0, 0] = -100
    check(model, F.cross_entropy, (normal(4, 1, 3, 3), t))
    soft = normal(4, 3, 2, 2).softmax(1)
    check(model, F.cross_entropy, (normal(4, 1, 3, 3), soft))


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor


class Several(nn.Module):
    """Two inputs; the outputs in a dict, an object or bare."""

    def __init__(self, kind):
        super().__init__()
        self.a, self.b, self.last, self.kind = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3), kind

    def forward(self, left, right):
        hidden = (self.a(left) * self.b(right)).tanh()
        logits = self.last(hidden)
        return {"bare": logits, "dict": {"logits": logits, "hidden": hidden},
                "object": Output(logits, hidden), "tuple": (logits, hidden)}[self.kind]


class Bare(nn.Module):
    """`Several` with one input, for the dense truth."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, both):
        return self.model(*both.chunk(2, dim=1))


@pytest.mark.parametrize("kind", ["bare", "dict", "object"])
@pytest.mark.parametrize("loader", [False, True], ids=["batch", "loader"])
def test_several_inputs_and_named_outputs(kind, loader):
    model, right = seeded(Several(kind)), normal(6, 4, seed=7)
    truth = Bare(copy.deepcopy(model))
    truth.model.kind = "bare"
    dense = dense_gauss_newton(truth, F.cross_entropy, (torch.cat([X, right], 1), Y))
    for inputs in ((X, right), {"left": X, "right": right}):
        if loader:
            parts = [({k: v[:2] for k, v in inputs.items()} if isinstance(inputs, dict) else
                      tuple(v[:2] for v in inputs), Y[:2]),
                     ({k: v[2:] for k, v in inputs.items()} if isinstance(inputs, dict) else
                      tuple(v[2:] for v in inputs), Y[2:])]
        batch = parts if loader else (inputs, Y)
        torch.testing.assert_close(dense_of(hl.gauss_newton(model, F.cross_entropy, batch)), dense)
        norms = hl.layer_norms(model, F.cross_entropy, batch)
        assert norms["last"] == pytest.approx(torch.linalg.matrix_norm(dense[50:65, 50:65], 2).item(), rel=1e-6)
    if not loader:
        assert hl.report(model, F.cross_entropy, batch).samples == 6
        found = hl.hessian_init_(model, F.cross_entropy, batch, generator=torch.Generator().manual_seed(0))
        assert set(found.norms) == {"a", "b", "last"}


def test_a_tuple_of_outputs_is_refused():
    with pytest.raises(TypeError, match="returns tuple.*logits: wrap it"):
        hl.layer_norms(seeded(Several("tuple")), F.cross_entropy, ((X, X), Y))


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(torch.tensor([1.0, 5, 0.1]).double()),
                                     nn.CrossEntropyLoss(ignore_index=1), F.cross_entropy],
                         ids=["weights", "ignored", "plain"])
def test_loaders_weigh_batches_as_the_loss_does(loss_fn):
    """Batches of unequal weight; one holds ignored labels and the other none."""
    model, y = seeded(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))), torch.tensor([0, 0, 1, 1, 2, 1])
    parts = [(X[:2], y[:2]), (X[2:], y[2:])]
    for question in (hl.hessian, hl.gauss_newton):
        whole, split = question(model, loss_fn, (X, y)), question(model, loss_fn, parts)
        torch.testing.assert_close(dense_of(split), dense_of(whole))
        torch.testing.assert_close(split.gradient, whole.gradient)
        torch.testing.assert_close(split.loss, whole.loss)
    for question in (hl.layer_norms, hl.layer_traces):
        assert question(model, loss_fn, parts) == pytest.approx(question(model, loss_fn, (X, y)), rel=1e-5)
    torch.testing.assert_close(hl.chain_rule.layer_gradients(model, loss_fn, parts),
                               hl.chain_rule.layer_gradients(model, loss_fn, (X, y)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64])
def test_weights_that_are_not_single_or_double_are_refused(dtype):
    model = nn.Linear(4, 3).to(dtype)
    for question in (hl.hessian, hl.gauss_newton, hl.layer_norms, hl.hessian_init_):
        with pytest.raises(ValueError, match=r"weights are torch.*copy.deepcopy\(model\).float"):
            question(model, F.cross_entropy, (X.to(dtype), Y))


def test_mixed_precision_weights_are_refused():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3).double())
    with pytest.raises(ValueError, match="torch.float32 and torch.float64: give all the same precision"):
        hl.hessian(model, F.cross_entropy, (X, Y))


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 3)

    def forward(self, x):
        return F.dropout(self.l(x), 0.5, self.training)


@pytest.mark.parametrize("model", [
    Dropping(), nn.Sequential(nn.Linear(4, 3), nn.RReLU()), nn.Sequential(
        nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), nn.TransformerEncoderLayer(2, 1, 2, 0.5, batch_first=True),
        nn.Flatten(), nn.Linear(4, 3))], ids=["F.dropout", "RReLU", "attention"])
def test_a_random_forward_pass_is_refused(model):
    model.train()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for question in (hl.hessian, hl.layer_norms):
        with pytest.raises(ValueError, match=r"random numbers|is in train mode"):
            question(model, F.cross_entropy, (X.float(), Y))
    assert torch.equal(state, torch.get_rng_state())
    assert hl.layer_norms(model.eval(), F.cross_entropy, (X.float(), Y))


@pytest.mark.parametrize("model", [
    nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, track_running_stats=True),
                  nn.Flatten(), nn.Linear(6, 3)),
    nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Linear(5, 3))],
    ids=["instance norm", "spectral norm"])
def test_a_forward_pass_that_changes_buffers_is_refused(model):
    model.train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="changes in the forward pass: .*use model.eval"):
        hl.hessian(model, F.cross_entropy, (X.float(), Y))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert hl.hessian(model.eval(), F.cross_entropy, (X.float(), Y)).shape[0] > 0


@pytest.mark.parametrize("targets, loss_fn, words", [
    (Y.tolist(), F.cross_entropy, "targets must be a torch.Tensor, got list"),
    (Y.numpy(), F.cross_entropy, "targets must be a torch.Tensor, got ndarray"),
    (Y, lambda z, t: float(F.cross_entropy(z, t)), "loss_fn must return a tensor"),
    (torch.tensor(1), lambda z, t: z.mean(), "axis of samples")], ids=["list", "numpy", "float", "0-d"])
def test_malformed_batches_and_losses(targets, loss_fn, words):
    with pytest.raises((TypeError, ValueError), match=words):
        hl.hessian(nn.Linear(4, 3).double(), loss_fn, (X, targets))


def test_no_columns_and_one_weight():
    model = nn.Linear(1, 1, bias=False).double()
    batch = X[:, :1], T[:, :1]
    for seed in range(20):
        operator = hl.hessian(model, F.mse_loss, batch)
        (value,), _ = hl.top_eigenvalues(operator, generator=torch.Generator().manual_seed(seed))
        assert float(value) == pytest.approx(2 * float((X[:, 0] ** 2).mean()))
    assert operator.matmat(torch.empty(1, 0, dtype=torch.float64)).shape == (1, 0)
    (block,) = hl.layer_blocks(model, F.mse_loss, batch).values()
    assert block.matmat(torch.empty(1, 0, dtype=torch.float64)).shape == (1, 0)


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6")
def test_a_compiled_model_is_measured_as_it_was_before():
    model = seeded(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    plain = hl.layer_norms(model, F.cross_entropy, (X, Y))
    assert hl.layer_norms(torch.compile(model), F.cross_entropy, (X, Y)) == plain
    found = hl.hessian(torch.compile(model), F.cross_entropy, (X, Y))
    assert found.names[0] == "0.weight"
    torch.testing.assert_close(dense_of(found), dense_hessian(model, F.cross_entropy, (X, Y)))


def test_many_classes_stay_within_memory():
    """8,000 classes: factors of H_z would take 8 GB. Products give the norms, random columns the traces."""
    model = hl.MLP(16, 8, 2, 8000)
    batch = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)), labels(16, classes=8000)
    blocks = hl.layer_blocks(model, F.cross_entropy, batch)
    assert not any(isinstance(block, LayerBlock) for block in blocks.values())
    traces = hl.layer_traces(model, F.cross_entropy, batch)
    hidden, last = F.relu(model.layers[0](batch[0])).detach(), model.layers[1].weight.detach()
    p = model(batch[0]).softmax(1).detach()
    curved = p @ last.square() - (p @ last).square()  # of each hidden unit: wᵀ(diag p − p pᵀ)w, [samples, hidden]
    exact = (batch[0].square().sum(1) * (curved * (hidden > 0)).sum(1)).mean()
    assert float(traces["layers.0"]) == pytest.approx(float(exact), rel=1e-4)  # 128 weights: not estimated
    head = traces["layers.1"]
    assert isinstance(head, hl.Estimate) and head.error > 0 and "±" in str(head)
    truth = float((hidden.square().sum(1) * (p * (1 - p)).sum(1)).mean())  # ‖F‖² tr(diag p − p pᵀ)
    assert abs(float(head) - truth) < 6 * head.error and head.error < 0.2 * truth


def test_estimated_traces_are_unbiased_for_every_closed_form():
    """Of a layer large enough to be estimated, against the trace from its factors."""
    for loss_fn, targets in ((nn.CrossEntropyLoss(torch.tensor([1.0, 2, 3]).double(), label_smoothing=0.1), Y),
                             (F.mse_loss, T), (F.binary_cross_entropy_with_logits, T.sigmoid())):
        model = seeded(nn.Sequential(nn.Linear(4, 600), nn.Tanh(), nn.Linear(600, 3)), scale=0.1)
        exact = hl.layer_traces(model, loss_fn, (X, targets))["0"]
        model[0].register_forward_hook(lambda m, i, o: o)
        for batch in ((X, targets), [(X[:3], targets[:3]), (X[3:], targets[3:])]):
            found = hl.layer_traces(model, loss_fn, batch)["0"]
            assert isinstance(found, hl.Estimate)
            assert abs(found - exact) < 6 * found.error
            assert found.error < 0.3 * exact


def deep(scale, depth=100, dtype=torch.float32):
    """Layers of width 8 whose signal grows to `scale` at the outputs."""
    generator = torch.Generator().manual_seed(0)
    model = hl.MLP(4, 8, depth, 3, activation="linear", bias=False)
    factor = scale ** (1 / depth)
    with torch.no_grad():
        for layer in model.layers:
            nn.init.orthogonal_(layer.weight, gain=factor, generator=generator)
    return model.to(dtype)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_deep_nets_of_tiny_and_huge_signals(scale):
    """Every question in float32 against float64, at depth 100."""
    single = deep(scale)
    double, loss = copy.deepcopy(single).double(), lambda z, t: ((z / scale - t) ** 2).mean()
    batches = (X.float(), T.float()), (X.float().double(), T.float().double())

    def ask(question, **more):
        a, b = (question(model, loss, batch, **more) for model, batch in zip((single, double), batches))
        assert a == pytest.approx(b, rel=1e-3)
        assert all(value > 0 for value in b.values())

    ask(hl.layer_traces)
    for norm in ("spectral", "frobenius", "gradient"):
        ask(hl.layer_norms, norm=norm)
    for (name, a), b in zip(hl.layer_spectra(single, loss, batches[0], k=2).items(),
                            hl.layer_spectra(double, loss, batches[1], k=2).values()):
        assert a[0] == pytest.approx(b[0], rel=1e-3), name


def test_torchs_default_at_depth_100_has_no_zero_trace():
    torch.manual_seed(0)
    model, batch = hl.MLP(64, 64, 100, 10), (torch.randn(32, 64), labels(32, classes=10))
    hl.init_(model, "torch", generator=torch.Generator().manual_seed(0))
    single = hl.layer_traces(model, F.cross_entropy, batch)
    double = hl.layer_traces(model.double(), F.cross_entropy, (batch[0].double(), batch[1]))
    assert single == pytest.approx(double, rel=1e-2) and min(single.values()) > 0


def test_both_ends_of_an_indefinite_spectrum():
    from scipy.sparse.linalg import eigsh
    model = seeded(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    operator = hl.hessian(model, F.cross_entropy, (X, Y))
    for which in ("LM", "LA", "SA"):
        values, vectors, bounds = hl.top_eigenpairs(operator, 3, 1e-8, torch.Generator().manual_seed(0), which=which)
        truth = eigsh(operator.as_scipy(), 3, which=which, return_eigenvectors=False)
        assert sorted(values.tolist()) == pytest.approx(sorted(truth.tolist()), rel=1e-6)
        assert (operator.matmat(vectors) - vectors * values).norm() < 1e-6
    assert float(hl.top_eigenvalues(operator, which="SA")[0][0]) < 0
    with pytest.raises(ValueError, match="LM, LA, SA"):
        hl.top_eigenvalues(operator, which="BE")


@pytest.mark.parametrize("size", [2, 10, 100])
def test_bounds_hold_in_floating_point(size):
    """An eigenvalue lies within each bound, rounding included."""
    class Dense:
        def __init__(self, matrix):
            self.matrix, self.shape, self.dtype, self.device = matrix, matrix.shape, matrix.dtype, matrix.device

        def __matmul__(self, vector):
            return self.matrix @ vector

    for seed in range(40):
        matrix = normal(size, size, seed=seed)
        matrix = matrix + matrix.T
        values, bounds = hl.top_eigenvalues(Dense(matrix), 2, 1e-10, torch.Generator().manual_seed(seed))
        truth = torch.linalg.eigvalsh(matrix)
        assert ((truth[:, None] - values).abs().amin(0) <= bounds).all()


# init_ and hessian_init_

def test_frozen_weights_are_left_alone_and_listed():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    for p in model[0].parameters():
        p.requires_grad_(False)
    frozen = model[0].weight.clone(), model[0].bias.clone()
    hl.init_(model, "he", generator=torch.Generator().manual_seed(0))
    found = hl.hessian_init_(model, F.cross_entropy, (X.float(), Y), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model[0].weight, frozen[0]) and torch.equal(model[0].bias, frozen[1])
    assert found.left == ["0"] and "left as they were: 0" in str(found) and set(found.norms) == {"2", "4"}
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="every weight of torch's layers is frozen"):
        hl.init_(model, "he")


@pytest.mark.parametrize("layer, key, parts, shape", [
    (nn.MultiheadAttention(64, 4), "in_proj_weight", 3, (64, 64)),
    (nn.MultiheadAttention(64, 4, kdim=32, vdim=16), "k_proj_weight", 1, (32, 64)),
    (nn.LSTM(32, 64), "weight_ih_l0", 4, (32, 64)), (nn.LSTM(32, 64), "weight_hh_l0", 4, (64, 64)),
    (nn.GRU(32, 64), "weight_ih_l0", 3, (32, 64)), (nn.RNN(32, 64), "weight_hh_l0", 1, (64, 64)),
    (nn.LSTMCell(32, 64), "weight_ih", 4, (32, 64)), (nn.GRUCell(32, 64), "weight_hh", 3, (64, 64)),
    (nn.ConvTranspose2d(16, 32, 3, groups=2), "", 1, (8 * 9, 16 * 9))],
    ids=lambda value: value if isinstance(value, str) else None)
def test_fans_of_other_layers(layer, key, parts, shape):
    """Every part is drawn with its own fans: He's variance 2/fan_in, and orthogonal parts."""
    from hessinit_lite.schemes import drawn_weights
    hl.init_(layer, "he", generator=torch.Generator().manual_seed(0))
    found = drawn_weights(layer)[key]
    assert (found.parts, found.fan_in, found.fan_out) == (parts, *shape)
    for part in found.weight.chunk(parts):
        assert float(part.detach().var()) == pytest.approx(2 / shape[0], rel=0.15)
    assert all(not bias.any() for bias in found.biases)
    if found.weight.ndim == 2 and shape[0] == shape[1]:
        hl.init_(layer, "orthogonal", generator=torch.Generator().manual_seed(0))
        for part in found.weight.chunk(parts):
            torch.testing.assert_close(part @ part.T, torch.eye(shape[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.Linear(32, 64), nn.Conv2d(8, 16, 3, groups=2), nn.ConvTranspose2d(8, 16, 3),
                                   nn.MultiheadAttention(64, 4), nn.LSTM(32, 64), nn.GRUCell(32, 64)],
                         ids=lambda layer: type(layer).__name__)
def test_the_scheme_torch_draws_as_torch_does(layer):
    """The same ranges as a new layer of torch, weight by weight."""
    fresh = copy.deepcopy(layer)
    hl.init_(layer, "torch", generator=torch.Generator().manual_seed(0))
    for (name, p), q in zip(layer.named_parameters(), fresh.parameters()):
        a, b = float(p.detach().abs().max()), float(q.detach().abs().max())
        assert (a == 0) == (b == 0) and a == pytest.approx(b, rel=0.15 if p.numel() > 100 else 0.5), name


@pytest.mark.parametrize("draw", [
    lambda model: hl.init_(model, "delta_orthogonal"), lambda model: hl.init_(model, "orthogonal"),
    lambda model: hl.init_(model, "lsuv", batch=(X.float(), Y))], ids=["delta", "orthogonal", "lsuv"])
def test_a_failed_draw_leaves_the_weights(draw):
    """An error in the middle: half-precision weights after the first, or a model that fails in its second pass."""
    class Fails(nn.Sequential):
        calls = 0

        def forward(self, x):
            Fails.calls += 1
            if Fails.calls % 2 == 0:
                raise RuntimeError("out of memory")
            return super().forward(x)

    model = Fails(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    if draw.__code__.co_consts.count("lsuv") == 0:
        model = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 1).bfloat16())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((RuntimeError, ValueError)):
        draw(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_target_out_of_reach_ends():
    model = hl.MLP(4, 5, 3, 3)
    found = hl.hessian_init_(model, F.cross_entropy, (X.float(), Y), target=1e-310,
                             generator=torch.Generator().manual_seed(0))
    assert not found.converged and all(torch.isfinite(p).all() for p in model.parameters())


def test_unsettled_batch_norm_is_refused_for_the_principle():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).eval()
    with pytest.raises(ValueError, match="has seen no batch"):
        hl.hessian_init_(model, F.cross_entropy, (X.float(), Y))
    model.train()(X.float())
    assert hl.hessian_init_(model.eval(), F.cross_entropy, (X.float(), Y)).norms


# Nothing left changed

def _state(model):
    return ([p.detach().clone() for p in [*model.parameters(), *model.buffers()]],
            [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()],
            [len(getattr(m, hooks)) for m in model.modules() for hooks in ("_forward_hooks", "_forward_pre_hooks")],
            torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())


@pytest.mark.parametrize("question", [hl.hessian, hl.gauss_newton, hl.layer_blocks, hl.layer_norms, hl.layer_traces,
                                      hl.layer_spectra, hl.report], ids=lambda q: q.__name__)
def test_nothing_is_left_changed(question):
    model = seeded(Gpt()).train()
    x = TOKENS.clone()
    before = _state(model)
    question(model, F.cross_entropy, (x, NEXT))
    after = _state(model)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0]))
    assert before[1:4] == after[1:4] and torch.equal(before[4], after[4]) and before[5] == after[5]
    assert (before[6] == after[6]).all() and torch.equal(x, TOKENS)
    assert all(p.grad is None for p in model.parameters()) and not math.isnan(float(model.places.sum()))


def test_a_model_that_changes_its_inputs_leaves_the_batch():
    model = seeded(nn.Sequential(nn.ReLU(inplace=True), Scaled(4, 3)))
    x = X.clone()
    hl.layer_norms(model, F.mse_loss, (x, T), parameters="all")
    for question in (hl.layer_norms, hl.gauss_newton, hl.report):
        x = X.clone()
        question(model, F.mse_loss, (x, T))
        assert torch.equal(x, X)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant):
    """Recomputed layers are answered; torch's older kind hides its weights from autograd: refused with words."""
    class Recomputing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            part = torch.utils.checkpoint.checkpoint
            z = part(lambda x: torch.tanh(self.a(x)), x.requires_grad_(reentrant), use_reentrant=reentrant)
            return self.b(z)

    torch.manual_seed(0)
    model, batch = Recomputing().double(), (torch.randn(6, 4).double(), torch.arange(6) % 3)
    if reentrant:
        for ask in (hl.hessian, hl.gauss_newton, hl.layer_norms):
            with pytest.raises(ValueError, match="a.weight.* behind a reentrant checkpoint.*use_reentrant=False"):
                ask(model, F.cross_entropy, batch)
    else:
        plain = nn.Sequential(model.a, nn.Tanh(), model.b)
        expected = hl.layer_norms(plain, F.cross_entropy, batch)
        assert list(hl.layer_norms(model, F.cross_entropy, batch).values()) == pytest.approx(list(expected.values()))
