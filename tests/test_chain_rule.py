"""Exact layer blocks against dense matrices; Theorem 1 against the Gauss-Newton product."""

import pytest
import torch
from dense import LOSSES, dense_gauss_newton, dense_hessian, dense_of, problem, targets_for
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import hessinit_lite as hl
from hessinit_lite import chain_rule
from hessinit_lite.chain_rule import LayerBlock, layer_gradients
from hessinit_lite.losses import output_curvature

PIECEWISE_LINEAR = ["linear", "relu", "leaky_relu"]


def check_blocks(model, loss_fn, batch, expected=None):
    """Every block, trace and norm of `model` equals the dense Gauss-Newton block's."""
    blocks = hl.layer_blocks(model, loss_fn, batch)
    traces = hl.layer_traces(model, loss_fn, batch)
    norms = hl.layer_norms(model, loss_fn, batch)
    frobenius = hl.layer_norms(model, loss_fn, batch, norm="frobenius")
    quotients = hl.layer_norms(model, loss_fn, batch, norm="gradient")
    gradients = layer_gradients(model, loss_fn, batch)
    assert list(blocks) == list(traces) == list(norms) == list(frobenius) == list(quotients)
    for name, block in blocks.items():
        dense = dense_gauss_newton(model, loss_fn, batch, [f"{name}.weight"])
        if expected:
            assert isinstance(block, LayerBlock) == expected[name], name
        torch.testing.assert_close(dense_of(block), dense, rtol=1e-8, atol=1e-11)
        scale = dense.abs().max().item()
        assert traces[name] == pytest.approx(dense.trace().item(), rel=1e-9, abs=1e-11 * scale)
        assert frobenius[name] == pytest.approx(torch.linalg.norm(dense).item(), rel=1e-6)
        largest = torch.linalg.eigvalsh(dense).abs().max().item()
        assert norms[name] == pytest.approx(largest, rel=1e-5)
        g = gradients[name].flatten()
        assert quotients[name] == pytest.approx(((g @ dense @ g) / (g @ g)).abs().item(), rel=1e-8)
    return blocks


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", hl.ACTIVATIONS)
def test_blocks_traces_and_norms_equal_dense_ones(activation, loss, bias):
    check_blocks(*problem(activation, loss, bias), dict.fromkeys(["layers.0", "layers.1", "layers.2"], True))


def test_columns_that_come_in_chunks_are_held_once(monkeypatch):
    """In one piece of memory, in the order that products read: no copy of all chunks beside them."""
    sizes, factor_gradients = [], chain_rule.factor_gradients

    def listen(*arguments):
        for found in factor_gradients(*arguments):
            sizes.append(len(found[0][0]))
            yield found

    monkeypatch.setattr(chain_rule, "factor_gradients", listen)
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 9))
    batch = torch.randn(6, 5), torch.arange(6)
    whole = hl.layer_blocks(model, F.cross_entropy, batch)
    apart, sizes[:] = len(sizes), []
    chunked = hl.layer_blocks(model, F.cross_entropy, batch, memory=2000)
    assert apart == 1 and len(sizes) > 2 and sum(sizes) == 8
    for name, block in chunked.items():
        torch.testing.assert_close(block.curvature, whole[name].curvature)
        held = block._curvature.data_ptr()
        block @ torch.ones(block.shape[0])
        assert block._curvature.data_ptr() == held


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("activation", PIECEWISE_LINEAR)
def test_norms_of_piecewise_linear_nets_are_the_hessians_own(activation, depth):
    for seed in range(5):
        arguments = problem(activation, seed=seed, sizes=(4, 6, depth, 3), samples=7)
        for name, norm in hl.layer_norms(*arguments).items():
            dense = dense_hessian(*arguments, [f"{name}.weight"])
            assert norm == pytest.approx(torch.linalg.eigvalsh(dense).abs().max().item(), rel=1e-5)


def test_float32_norms_at_the_books_size(digits):
    """The default arguments on a 64-32-32-10 net, against the dense blocks in float64."""
    model = hl.init_(hl.MLP(64, 32, 3, 10), "he", generator=torch.Generator().manual_seed(0))
    batch = digits.batch(16, torch.Generator().manual_seed(0))
    norms = hl.layer_norms(model, F.cross_entropy, batch)
    model.double()
    batch = batch[0].double(), batch[1]
    for name in ("layers.1", "layers.2"):
        dense = dense_gauss_newton(model, F.cross_entropy, batch, [f"{name}.weight"])
        assert norms[name] == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-5)


def test_float32_norms_of_saturated_outputs():
    """Many probabilities within 1e-6 of 0 and 1: the curvature is small, and right to 1e-4 all the same."""
    model, loss_fn, (x, t) = problem("relu", sizes=(6, 8, 3, 4), samples=30)
    with torch.no_grad():
        model.layers[-1].weight.mul_(20)
    exact = hl.layer_norms(model, loss_fn, (x, t))
    assert (F.softmax(model(x), 1).amax(1) > 1 - 1e-6).double().mean() > 0.2
    assert hl.layer_norms(model.float(), loss_fn, (x.float(), t)) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("samples", [8, 400])  # the smaller side of the block is the samples' or the weights'
@pytest.mark.parametrize("norm", hl.chain_rule.NORMS)
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_float32_norms_where_signal_and_gradient_are_far_from_1(factor, norm, samples):
    """Deep nets come to this: the squares of a layer's factors leave float32, the block itself does not."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 20, bias=False), nn.ReLU(), nn.Linear(20, 18, bias=False), nn.ReLU(),
                          nn.Linear(18, 3, bias=False))
    hl.init_(model, "he", generator=generator)
    with torch.no_grad():
        _, _, _ = model[0].weight.mul_(factor), model[2].weight.mul_(factor), model[4].weight.mul_(factor ** -2)
    inputs = torch.randn(samples, 16, generator=generator)
    labels = torch.randint(3, (samples,), generator=generator)
    single = hl.layer_norms(model, F.cross_entropy, (inputs, labels), norm=norm, rtol=1e-3)
    double = hl.layer_norms(model.double(), F.cross_entropy, (inputs.double(), labels), norm=norm, rtol=1e-3)
    assert single == pytest.approx(double, rel=1e-3)
    if norm == "spectral":  # traces go the same way
        exact = hl.layer_traces(model, F.cross_entropy, (inputs.double(), labels))
        assert hl.layer_traces(model.float(), F.cross_entropy, (inputs, labels)) == pytest.approx(exact, rel=1e-3)


@given(st.sampled_from(list(hl.ACTIVATIONS)), st.sampled_from(list(LOSSES)), st.integers(0, 10 ** 6))
def test_theorem_1_is_the_gauss_newton_quadratic_form(activation, loss, seed):
    model, loss_fn, batch = problem(activation, loss, seed=seed)
    g = torch.Generator().manual_seed(seed)
    for name, block in hl.layer_blocks(model, loss_fn, batch).items():
        direction = torch.randn(block.shape[0], dtype=torch.float64, generator=g)
        operator = hl.gauss_newton(model, loss_fn, batch, layer=name)
        weight = model.get_submodule(name).weight
        torch.testing.assert_close(block.quadratic_form(direction.view_as(weight)),
                                   direction @ (operator @ direction), rtol=1e-8, atol=1e-10)


@given(st.sampled_from(list(hl.ACTIVATIONS)), st.integers(0, 10 ** 6), st.integers(1, 4), st.floats(-3, 3))
def test_blocks_are_symmetric_and_linear(activation, seed, columns, factor):
    g = torch.Generator().manual_seed(seed)
    for block in hl.layer_blocks(*problem(activation, seed=seed)).values():
        u, v = torch.randn(2, block.shape[0], dtype=torch.float64, generator=g)
        torch.testing.assert_close(u @ (block @ v), v @ (block @ u))
        torch.testing.assert_close(block @ (u + factor * v), block @ u + factor * (block @ v),
                                   rtol=1e-9, atol=1e-10)
        m = torch.randn(block.shape[0], columns, dtype=torch.float64, generator=g)
        torch.testing.assert_close(block.matmat(m), torch.stack([block @ c for c in m.T], 1))


# Models other than the plain MLP

class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


class Twice(nn.Module):
    """One module applied twice."""

    def __init__(self):
        super().__init__()
        self.shared, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


class Tied(nn.Module):
    """One weight in two modules."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.last(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Transposed(nn.Module):
    """A weight that is used once more outside its module, as in a tied auto-encoder."""

    def __init__(self):
        super().__init__()
        self.encoder, self.last = nn.Linear(3, 4), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(F.linear(torch.tanh(self.encoder(x)), self.encoder.weight.T))


class Outside(nn.Module):
    """A layer whose weight is used, but not its forward."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.tanh(F.linear(x, self.first.weight, self.first.bias)))


class Meeting(nn.Module):
    """Samples see their batch's mean: what comes before it is not a sum over samples."""

    def __init__(self):
        super().__init__()
        self.early, self.late = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        z = torch.tanh(self.early(x))
        return self.late(torch.tanh(z - z.mean(0)))


class SequenceFirst(nn.Module):
    """[N, T, d] transposed to [T, N, d] on the way, with T = N: the shape does not tell."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.inner(x.transpose(0, 1))).transpose(0, 1).cumsum(1)[:, -1])


def _special(name):
    torch.manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.float64)
    if name == "sequence":
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.GELU(), Mean(), nn.Linear(4, 2))
        return model, torch.randn(5, 6, 3, dtype=torch.float64), {"0": True, "2": True, "5": True}
    if name == "inplace":
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.SELU(inplace=True),
                              nn.Linear(4, 2))
        return model, x, {"0": True, "2": True, "4": True}
    if name == "convolution":
        model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 2))
        return model, torch.randn(5, 1, 3, 3, dtype=torch.float64), {"0": True, "3": True}
    if name == "convolutions only":
        model = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Conv1d(2, 2, 2), nn.Flatten())
        return model, x[:, None], {"0": True, "2": True}
    if name == "transposed convolution":  # not covered, but with an answer
        model = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Tanh(), nn.ConvTranspose1d(2, 1, 2), nn.Linear(3, 2),
                              nn.Flatten(), nn.Linear(2, 2))
        return model, x[:, None], {"0": True, "2": False, "3": True, "5": True}
    if name == "long sequence":
        model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2), Mean())
        return model, torch.randn(4, 12, 2, dtype=torch.float64), {"0": True, "2": True}
    if name == "samples meet":
        return Meeting(), x, {"early": False, "late": True}
    if name == "sequence first":
        return SequenceFirst(), torch.randn(5, 5, 3, dtype=torch.float64), {"inner": False, "last": True}
    if name == "batch norm":
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
        return model.eval(), x, {"0": True, "3": True}
    if name == "layer norm":
        model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 2))
        return model, x, {"0": True, "3": True}
    return {"shared": (Twice(), x, {"shared": True, "last": True}),
            "tied": (Tied(), x, {"a": False, "last": True}),
            "transposed": (Transposed(), x, {"encoder": False, "last": True}),
            "outside": (Outside(), x, {"first": False, "last": True})}[name]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["sequence", "inplace", "convolution", "convolutions only", "batch norm",
                                  "layer norm", "shared", "transposed", "outside", "long sequence",
                                  "transposed convolution", "samples meet", "sequence first"])
def test_other_models(name, loss):
    model, x, expected = _special(name)
    batch = x, targets_for(loss, len(x), 1, 2, torch.Generator().manual_seed(0))[1]
    check_blocks(model.double(), LOSSES[loss], batch, expected)


def test_a_weight_in_two_modules():
    """The block of a tied weight is listed once, under its first name."""
    model, x, expected = _special("tied")
    model.double()
    arguments = model, F.cross_entropy, (x, torch.tensor([0, 1, 1, 0, 1]))
    blocks = hl.layer_blocks(*arguments)
    assert {name: isinstance(b, LayerBlock) for name, b in blocks.items()} == expected
    dense = dense_gauss_newton(*arguments, ["a.weight"])
    torch.testing.assert_close(dense_of(blocks["a"]), dense)


C = nn.Conv2d
CONVOLUTIONS = {
    "stride and padding": (C(2, 3, 3, stride=2, padding=1), (2, 5, 5)),
    "dilation": (C(2, 3, 2, dilation=2), (2, 5, 4)),
    "groups": (C(4, 6, 2, groups=2), (4, 3, 3)),
    "depthwise": (C(3, 3, 3, groups=3, padding=1, bias=False), (3, 3, 3)),
    "uneven": (C(2, 3, (1, 3), stride=(2, 1), padding=(0, 1), dilation=(1, 2)), (2, 4, 6)),
    "same": (C(2, 2, (2, 4), padding="same"), (2, 3, 5)),
    "valid": (C(1, 2, 2, padding="valid"), (1, 3, 3)),
    "reflected": (C(2, 2, 3, padding=1, padding_mode="reflect"), (2, 4, 3)),
    "circular": (C(2, 2, 3, padding=(2, 1), padding_mode="circular"), (2, 4, 3)),
    "more weights than places": (C(6, 5, 2), (6, 3, 3)),
    "one dimension": (nn.Conv1d(2, 3, 3, stride=2, padding=2, dilation=2), (2, 7)),
    "three dimensions": (nn.Conv3d(2, 2, 2, padding=1, groups=2), (2, 2, 3, 2)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    layer, shape = CONVOLUTIONS[name]
    torch.manual_seed(0)
    layer = layer.double()
    layer.reset_parameters()
    x = torch.randn(4, *shape, dtype=torch.float64)
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.Linear(layer(x).flatten(1).shape[1], 3).double())
    check_blocks(model, F.cross_entropy, (x, torch.tensor([0, 1, 2, 1])), {"0": True, "3": True})
    if layer.bias is not None:
        check_all(model, F.cross_entropy, (x, torch.tensor([0, 1, 2, 1])))


def check_all(model, loss_fn, batch, covered=True):
    """parameters="all": the blocks of biases and norms, too, under their parameters' names."""
    blocks = hl.layer_blocks(model, loss_fn, batch, parameters="all")
    traces = hl.layer_traces(model, loss_fn, batch, parameters="all")
    norms = hl.layer_norms(model, loss_fn, batch, parameters="all")
    spectra = hl.layer_spectra(model, loss_fn, batch, k=3, rtol=1e-6, parameters="all")
    assert list(blocks) == list(norms) == [name for name, p in model.named_parameters() if p.requires_grad]
    for name, block in blocks.items():
        dense = dense_gauss_newton(model, loss_fn, batch, [name])
        if covered:
            assert isinstance(block, LayerBlock), name
        torch.testing.assert_close(dense_of(block), dense, rtol=1e-8, atol=1e-11)
        scale = dense.abs().max().item()
        assert traces[name] == pytest.approx(dense.trace().item(), rel=1e-9, abs=1e-11 * scale)
        true = torch.linalg.eigvalsh(dense).abs().sort(descending=True).values
        assert norms[name] == pytest.approx(true[0].item(), rel=1e-5, abs=1e-13)
        values, bounds = spectra[name]
        assert 1 <= len(values) == len(bounds) <= 3
        assert all(min(abs(true - abs(v))) <= b + 1e-9 * true[0] for v, b in zip(values, bounds))


NORMS = {
    "layer": (nn.LayerNorm((2, 3)), (2, 3)), "layer without bias": (nn.LayerNorm(3, bias=False), (2, 3)),
    **({"root mean square": (nn.RMSNorm(3), (2, 3))} if hasattr(nn, "RMSNorm") else {}),  # torch 2.4
    "group": (nn.GroupNorm(2, 4), (4, 3)),
    "batch": (nn.BatchNorm1d(2).eval(), (2, 3)), "batch of features": (nn.BatchNorm1d(3).eval(), (3,)),
    "batch of pictures": (nn.BatchNorm2d(2).eval(), (2, 2, 2)),
    "instance": (nn.InstanceNorm1d(2, affine=True), (2, 4)),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_and_biases(name):
    layer, shape = NORMS[name]
    torch.manual_seed(0)
    x = torch.randn(5, *shape, dtype=torch.float64)
    width = x[0].numel()
    model = nn.Sequential(nn.Flatten(), nn.Linear(width, width), nn.Tanh(), nn.Unflatten(1, shape), layer, nn.SiLU(),
                          nn.Flatten(), nn.Linear(width, 3)).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()
    check_all(model, F.cross_entropy, (x, torch.tensor([0, 1, 2, 1, 0])))


class Words(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.table, self.last = nn.Embedding(9, 3, **options), nn.Linear(3, 2)

    def forward(self, words):
        return self.last(torch.tanh(self.table(words)).sum(1) + self.table(words[:, 0]))


@pytest.mark.parametrize("options, covered", [({}, True), ({"padding_idx": 2}, True),
                                              ({"scale_grad_by_freq": True}, False)])
def test_embeddings(options, covered):
    torch.manual_seed(0)
    model = Words(**options).double()
    batch = torch.tensor([[0, 2, 2, 7], [1, 1, 0, 3], [8, 2, 0, 7]]), torch.tensor([0, 1, 1])
    if covered:  # torch's own scaled gradient is not that of the loss, so there is no dense truth
        check_blocks(model, F.cross_entropy, batch, {"table": True, "last": True})
        check_all(model, F.cross_entropy, batch)
        matrix = torch.randn(27, 5, dtype=torch.float64)
        block = hl.layer_blocks(model, F.cross_entropy, batch)["table"]
        torch.testing.assert_close(block.matmat(matrix), dense_of(block) @ matrix)
    else:
        assert not isinstance(hl.layer_blocks(model, F.cross_entropy, batch)["table"], LayerBlock)


def test_a_sparse_embedding_has_the_same_block():
    batch = torch.tensor([[0, 2, 2, 7], [1, 1, 0, 3]]), torch.tensor([0, 1])
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = Words(sparse=sparse)
        found.append([hl.layer_norms(model, F.cross_entropy, batch, norm=norm) for norm in ("spectral", "gradient")])
    for whole, sparse in zip(*found):
        assert sparse == pytest.approx(whole, rel=1e-5)


def test_small_memory_gives_the_same_blocks():
    model, x, _ = _special("convolution")
    arguments = model.double(), F.cross_entropy, (x, torch.tensor([0, 1, 1, 0, 1]))
    for name, block in hl.layer_blocks(*arguments).items():
        small = hl.layer_blocks(*arguments, memory=1)[name]
        matrix = torch.randn(block.shape[0], 3, dtype=torch.float64)
        torch.testing.assert_close(small.matmat(matrix, memory=1), block.matmat(matrix))
        torch.testing.assert_close(small.frobenius(memory=1), block.frobenius())


def test_a_parametrized_weight_is_refused():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    with pytest.raises(ValueError, match="remove_parametrizations"):
        hl.layer_norms(model, F.cross_entropy, (torch.randn(4, 3), torch.zeros(4).long()))


@pytest.mark.parametrize("name", ["sequence", "convolution", "shared", "samples meet"])
def test_a_loader_gives_what_one_batch_gives(name):
    model, x, _ = _special(name)
    model.double()
    t = torch.tensor([0, 1, 1, 0, 1])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, t), batch_size=2)
    whole = (x, t)
    if name == "samples meet":  # then batches are not parts of a whole: the loader's own mean counts
        parts = [dense_gauss_newton(model, F.cross_entropy, part, ["early.weight"]) for part in loader]
        dense = sum(len(part[0]) / 5 * d for part, d in zip(loader, parts))
        torch.testing.assert_close(dense_of(hl.layer_blocks(model, F.cross_entropy, loader)["early"]), dense)
        return
    for question in (hl.layer_traces, hl.layer_norms):
        assert question(model, F.cross_entropy, loader) == pytest.approx(
            question(model, F.cross_entropy, whole), rel=1e-7)
    for norm in ("frobenius", "gradient"):
        assert hl.layer_norms(model, F.cross_entropy, loader, norm=norm) == pytest.approx(
            hl.layer_norms(model, F.cross_entropy, whole, norm=norm), rel=1e-7)
    with pytest.raises(ValueError, match="batch 1 of the loader.*labels"):
        hl.layer_norms(model, F.cross_entropy, [whole, (x, t + 5)])
    with pytest.raises(ValueError, match="no batch"):
        hl.layer_norms(model, F.cross_entropy, [])


# Losses other than those with closed forms

def _saturating(z, t):
    """Not convex: a bounded (Geman-McClure) error."""
    e = (z - F.one_hot(t, z.shape[1]).to(z.dtype)) ** 2
    return (e / (1 + e)).mean()


GENERAL = {
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]).double()),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.2),
    "plain module": nn.CrossEntropyLoss(),
    "ignore 1": nn.CrossEntropyLoss(ignore_index=1),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "smooth l1": lambda z, t: F.smooth_l1_loss(z, 0 * z, beta=5.0),
    "fourth power": lambda z, t: (z ** 4).mean(),
    "saturating": _saturating,
    "negative": lambda z, t: -F.cross_entropy(z, t),
    "linear": lambda z, t: z.mean(),
}


@pytest.mark.parametrize("name", GENERAL)
def test_general_losses(name):
    model, _, (x, _) = problem("tanh")
    batch, loss_fn = (x, torch.tensor([0, 1, 1, 0, 1])), GENERAL[name]
    if name == "linear":
        assert set(hl.layer_traces(model, loss_fn, batch).values()) == {0.0}
        assert set(hl.layer_norms(model, loss_fn, batch).values()) == {0.0}
    else:
        check_blocks(model, loss_fn, batch)


def test_the_saturating_loss_is_not_convex_and_its_signs_say_so():
    arguments = problem("tanh", seed=3)
    block = hl.layer_blocks(arguments[0], _saturating, arguments[2])["layers.1"]
    values = torch.linalg.eigvalsh(dense_of(block))
    assert values[0] < -1e-4 < 1e-4 < values[-1]
    assert (block.signs < 0).any()


def test_ignored_samples_and_soft_labels():
    model, _, (x, _) = problem("tanh")
    check_blocks(model, F.cross_entropy, (x, torch.tensor([-100, 1, 1, -100, 0])))
    soft = torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    check_blocks(model, F.cross_entropy, (x, soft / soft.sum(1, keepdim=True)))


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("loss", LOSSES)
def test_output_curvature_factors_the_outputs_hessian(loss, classes):
    z = torch.randn(4, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = targets_for(loss, 4, 1, classes, torch.Generator().manual_seed(1))[1]
    full = torch.autograd.functional.hessian(lambda z: LOSSES[loss](z, targets), z)
    for loss_fn in (LOSSES[loss], lambda z, t: LOSSES[loss](z, t)):  # closed form, general path
        s, signs = hl.output_curvature(loss_fn, z, targets)
        found = torch.einsum("cn,cnk,cnl->nkl", signs, s, s)
        for n in range(4):
            torch.testing.assert_close(found[n], full[n, :, n], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_that_couples_samples_is_refused(dtype):
    model, _, (x, t) = problem("tanh")

    def contrastive(z, t):
        return (z @ z.T).logsumexp(1).mean()

    with pytest.raises(ValueError, match="couples the samples"):
        hl.layer_norms(model.to(dtype), contrastive, (x.to(dtype), t))
    operator = hl.gauss_newton(model.double(), contrastive, (x, t))  # what the message advises
    torch.testing.assert_close(dense_of(operator), dense_gauss_newton(model, contrastive, (x, t)))


# What is left out, and bad input

def test_frozen_layers_are_left_out():
    model, loss_fn, batch = problem()
    model.layers[1].weight.requires_grad_(False)
    assert list(check_blocks(model, loss_fn, batch)) == ["layers.0", "layers.2"]
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        hl.layer_norms(model, loss_fn, batch)


def test_measuring_changes_nothing():
    model, loss_fn, batch = problem("relu")
    state = torch.get_rng_state()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    first = hl.layer_norms(model, loss_fn, batch)
    assert first == hl.layer_norms(model, loss_fn, batch)  # the same numbers, bit by bit
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in model.named_parameters())
    assert all(not m._forward_hooks for m in model.modules())


def test_no_hook_is_left_after_an_error():
    model, _, (x, t) = problem()
    with pytest.raises(ValueError, match="labels"):
        hl.layer_norms(model, F.cross_entropy, (x, t + 5))
    assert all(not m._forward_hooks for m in model.modules())


def test_unknown_norm_lists_the_known_ones():
    with pytest.raises(ValueError, match="spectral, frobenius, gradient"):
        hl.layer_norms(*problem(), norm="nuclear")


def test_outputs_that_are_no_matrix():
    """A place of its own for every output: products answer."""
    model = nn.Sequential(nn.Linear(3, 2)).double()
    batch = torch.randn(4, 5, 3, dtype=torch.float64), torch.zeros(4)
    check_blocks(model, lambda z, t: (z ** 2).mean(), batch, {"0": False})


def test_an_unused_layer_is_named():
    model = _net = nn.Sequential(nn.Linear(3, 2))
    model.add_module("spare", nn.Linear(2, 2))
    model.forward = lambda x: _net[0](x)
    with pytest.raises(ValueError, match="spare.weight"):
        hl.layer_norms(model, F.cross_entropy, (torch.randn(4, 3), torch.zeros(4).long()))


def test_blocks_refuse_wrong_vectors():
    block = hl.layer_blocks(*problem())["layers.1"]
    with pytest.raises(ValueError, match="P = 16"):
        block @ torch.zeros(15, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"a matrix \[P, K\]"):
        block.matmat(torch.zeros(16, dtype=torch.float64))
    with pytest.raises(TypeError, match="float32"):
        block @ torch.zeros(16)
    with pytest.raises(TypeError, match="Tensor"):
        block @ ([0.0] * 16)


def test_a_layer_without_gradient_has_gradient_norm_0():
    model = hl.MLP(3, 4, 2, 2)
    with torch.no_grad():
        model.layers[1].weight.zero_()
    norms = hl.layer_norms(model, F.cross_entropy, (torch.randn(4, 3), torch.zeros(4).long()), norm="gradient")
    assert norms["layers.0"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("norm", ["spectral", "frobenius", "gradient"])
def test_cuda_gives_the_same_norms(norm):
    model, loss_fn, batch = problem("relu")
    expected = hl.layer_norms(model, loss_fn, batch, norm=norm)
    found = hl.layer_norms(model.cuda(), loss_fn, tuple(x.cuda() for x in batch), norm=norm)
    assert found == pytest.approx(expected, rel=1e-6)


def test_no_grad_is_refused(digits):
    model = hl.MLP(64, 8, 2, 10)
    with torch.no_grad(), pytest.raises(ValueError, match="no_grad"):
        hl.layer_norms(model, F.cross_entropy, digits.batch(8))


def test_coupling_of_distant_pairs_is_seen():
    """Each sample is coupled with one other only, half a batch away."""
    def loss(outputs, targets):
        first, second = outputs.chunk(2)
        return (first * second).square().mean()

    model = hl.MLP(4, 5, 2, 3)
    with pytest.raises(ValueError, match="couples the samples"):
        hl.layer_norms(model, loss, (torch.randn(8, 4), torch.zeros(8)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_saturated_softmax_does_not_look_coupled(dtype):
    """A temperature hides the closed form; where the softmax is certain, all that is left is rounding."""
    targets = torch.arange(64) % 10
    outputs = 4 * F.one_hot(targets, 10) + 0.3 * torch.randn(64, 10, generator=torch.Generator().manual_seed(0),
                                                             dtype=dtype)
    s, signs = output_curvature(lambda z, t: F.cross_entropy(z / 0.25, t), outputs, targets)
    assert bool(torch.isfinite(s).all()) and s.shape[1:] == (64, 10) and signs.shape == s.shape[:2]


@pytest.mark.parametrize("power", [-440, 0, 440])
def test_a_block_of_any_size_that_float64_holds_has_its_norm(power):
    """Inputs times 2^power: the norm is 4^power times as large, to the last digits."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    inputs, curvature, signs = draw(16, 1, 12), draw(9, 16, 1, 24), torch.ones(9, 16, dtype=torch.float64)
    plain = LayerBlock(inputs, curvature, signs)
    scaled = LayerBlock(inputs * 2.0**power, curvature, signs)
    for question in ("norm", "trace", "frobenius"):
        wanted = getattr(plain, question)() * 4.0**power
        assert getattr(scaled, question)().item() == pytest.approx(wanted.item(), rel=1e-12)
