"""Traces from random columns of the root of H_z, and blocks of nets with many classes."""

import math

import pytest
import torch
from dense import dense_gauss_newton, problem, targets_for
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import hessinit_lite as hl
from hessinit_lite import losses, many_classes
from hessinit_lite.many_classes import ManyClassBlock

SEEDS = 150


class Coupled(nn.Module):
    """Samples see each other behind the first layer; the second does not know."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x):
        z = torch.tanh(self.first(x))
        return self.last(z - 0.5 * z.mean(0))


def drawn(model, seed=0):
    with torch.no_grad():
        for p in model.double().parameters():
            p.normal_(0, 0.5, generator=hl.seeded(seed))
    return model


def words(tied):
    model = drawn(hl.GPT(7, 4, 1, 2, 5, tied=tied))
    tokens = torch.randint(7, (6, 6), generator=hl.seeded(2))
    return model, F.cross_entropy, (tokens[:, :-1], tokens[:, 1:])


def convolutional():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3))
    x = torch.randn(8, 2, 3, 3, dtype=torch.float64, generator=hl.seeded(3))
    return drawn(model), F.cross_entropy, (x, torch.arange(8) % 3)


def weighted():
    model, _, (x, labels) = problem(sizes=(3, 5, 3, 4), samples=12)
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 2, 3, 0.5]).double(), label_smoothing=0.1)
    return model, loss, (x, labels.where(torch.arange(12) > 1, -100))


NETS = {
    "dense": lambda: problem(sizes=(3, 5, 3, 4), samples=12),
    "squared error": lambda: problem(loss="mse", sizes=(3, 5, 3, 4), samples=12),
    "logistic error": lambda: problem(loss="logistic", sizes=(3, 5, 3, 4), samples=12),
    "weights, ignored labels": weighted,
    "convolution in groups": convolutional,
    "GPT": lambda: words(False),
    "GPT, tied": lambda: words(True),
    "samples that see each other": lambda: (
        drawn(Coupled()), F.cross_entropy, targets_for("cross_entropy", 9, 3, 4, hl.seeded(4))),
}


@pytest.mark.parametrize("net", NETS)
def test_the_estimates_are_unbiased_and_their_errors_honest(net):
    """Every trainable parameter, against dense matrices: the mean, and the size of the errors."""
    model, loss_fn, batch = NETS[net]()
    found = [hl.layer_traces(model, loss_fn, batch, parameters="all", samples=8, generator=hl.seeded(seed))
             for seed in range(SEEDS)]
    for name in found[0]:
        truth = float(dense_gauss_newton(model, loss_fn, batch, [name]).trace())
        values = torch.tensor([float(each[name]) for each in found], dtype=torch.float64)
        errors = torch.tensor([each[name].error for each in found], dtype=torch.float64)
        if values.std() < 1e-10 * truth:  # no randomness, such as a diagonal H_z of a bias
            torch.testing.assert_close(values, torch.full_like(values, truth))
            continue
        assert abs(float(values.mean()) - truth) < 4.5 * float(values.std()) / math.sqrt(SEEDS), name
        # Squared errors are those promised: both are means over the seeds, with a spread of their own.
        promised, met = errors.square(), (values - truth).square()
        spread = float((met - promised).std()) / math.sqrt(SEEDS)
        assert abs(float((met - promised).mean())) < 4.5 * spread, name
        covered = ((values - truth).abs() < 2.5 * errors).double().mean()
        assert covered > 0.88, name  # Student's t with 7 degrees of freedom, the worst: 0.96


def test_terms_of_single_samples_are_told_apart():
    """Where samples do not see each other, errors are smaller than those of weight gradients."""
    model, loss_fn, batch = problem(sizes=(3, 5, 3, 4), samples=40)
    apart = hl.layer_traces(model, loss_fn, batch, samples=64)
    for module in model.layers:  # a hook hides the factors
        module.register_forward_hook(lambda m, x, y: y)
    mixed = hl.layer_traces(model, loss_fn, batch, samples=64)
    for name in apart:
        assert apart[name].error < 0.75 * mixed[name].error


def test_a_loader_is_the_sum_of_its_batches():
    model, loss_fn, (x, t) = problem(sizes=(3, 5, 3, 4), samples=12)
    truth = hl.layer_traces(model, loss_fn, (x, t))
    loader = [(x[:5], t[:5]), (x[5:], t[5:])]
    for seed in range(20):
        for name, found in hl.layer_traces(model, loss_fn, loader, samples=32, generator=hl.seeded(seed)).items():
            assert abs(found - truth[name]) < 6 * found.error


class Largest(TorchDispatchMode):
    """Counts the numbers of the largest tensor that is made, and the passes that pull back."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.numel())
        return made


def head(classes, samples=4):
    """64 inputs, 16 units, so many classes, in single precision."""
    model = hl.init_(hl.MLP(64, 16, 2, classes, "tanh"), "glorot", generator=hl.seeded(0))
    labels = torch.randint(classes, (samples,), generator=hl.seeded(1))
    return model, F.cross_entropy, (torch.randn(samples, 64, generator=hl.seeded(2)), labels)


def test_passes_and_memory_do_not_grow_with_the_classes_root(monkeypatch):
    """A draw is one backward pass; no tensor is larger than the outputs or the head's weight."""
    passes, pull_back = [], many_classes.pull_back
    monkeypatch.setattr(many_classes, "pull_back", lambda *a, **k: passes.append(1) or pull_back(*a, **k))
    counted = {}
    for classes in (10, 50_000):
        passes.clear()
        with Largest() as largest:
            hl.layer_traces(*head(classes), samples=6)
        counted[classes] = len(passes)
        assert largest.numbers <= 64 * max(16, classes)
    assert counted[10] == counted[50_000] == 6 + 2  # two to see whether samples are apart


def test_without_samples_traces_are_exact_where_the_factors_fit():
    few = hl.layer_traces(*head(200))
    assert all(type(value) is float for value in few.values())
    many = hl.layer_traces(*head(20_000))
    assert all(isinstance(value, hl.Estimate) for value in many.values())
    assert all(value.error < 0.05 * value for value in many.values())
    again = hl.layer_traces(*head(20_000))
    assert {k: (float(v), v.error) for k, v in many.items()} == {k: (float(v), v.error) for k, v in again.items()}


def test_draws_go_on_until_all_errors_are_below_a_percent(monkeypatch):
    monkeypatch.setattr(many_classes, "random_column", counting := Counting(many_classes.random_column))
    monkeypatch.setattr(many_classes, "FORMED_OUTPUTS", 0)  # nothing is small enough to be formed
    found = hl.layer_traces(*head(20_000, samples=2))
    few = counting.calls - 1
    assert few in many_classes.ROUNDS
    assert few == many_classes.ROUNDS[-1] or all(each.error <= 0.01 * each for each in found.values())
    assert few > 16  # two samples are too few for 16 draws
    counting.calls = 0
    hl.layer_traces(*head(5000, samples=300))
    assert counting.calls - 1 == 16


class Counting:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.function(*arguments)


@pytest.mark.parametrize("net", ["dense", "GPT", "GPT, tied", "convolution in groups"])
def test_blocks_of_many_classes_are_the_same_matrices(net):
    """`memory=1`: no factors fit. Products are exact; norms to rtol = 1e-2 within a percent."""
    model, loss_fn, batch = NETS[net]()
    for name, block in hl.layer_blocks(model, loss_fn, batch, parameters="all", memory=1).items():
        dense = dense_gauss_newton(model, loss_fn, batch, [name])
        assert isinstance(block, ManyClassBlock) and not block.is_large
        torch.testing.assert_close(block.matmat(torch.eye(len(dense)).double()), dense)
        assert float(block.trace()) == pytest.approx(float(dense.trace()), rel=1e-9)
        assert float(block.norm()) == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=0.01)


def test_norms_at_the_wide_end_come_from_products():
    model, loss_fn, batch = head(3000, samples=8)
    exact = hl.layer_norms(model, loss_fn, batch)  # 3,000² · 8 numbers: no factors
    blocks = hl.layer_blocks(model, loss_fn, batch)
    for name, block in blocks.items():
        assert isinstance(block, ManyClassBlock) and block.is_large == (name == "layers.1")
        assert float(block.norm()) == pytest.approx(exact[name], rel=0.01)
    whole = blocks["layers.1"]
    halves = [whole.rows(part, 2) for part in range(2)]
    assert all(isinstance(half, ManyClassBlock) and half.shape == (24_000, 24_000) for half in halves)
    v = torch.randn(48_000, generator=hl.seeded(5))
    v[24_000:] = 0
    torch.testing.assert_close((whole @ v)[:24_000], halves[0] @ v[:24_000])


def test_random_columns_give_no_norm():
    """Of 16 draws for 3,000 classes: the sum's largest eigenvalue is at least its longest term."""
    model, loss_fn, (x, t) = head(3000, samples=8)
    inputs = torch.tanh(model.layers[0](x)).detach()
    curve = losses.output_hessian(loss_fn, model(x), t)
    columns = [many_classes.random_column(curve, generator=hl.seeded(seed)) for seed in range(16)]
    terms = [many_classes.squared_lengths(inputs[:, None], column[:, None]) for column in columns]
    longest = float(torch.stack(terms).max()) / len(columns)
    assert longest > 2 * hl.layer_norms(model, loss_fn, (x, t), layers="layers.1")["layers.1"]


def test_blocks_without_factors_share_one_graph():
    model, loss_fn, batch = words(True)
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    blocks = hl.layer_blocks(model, loss_fn, batch)
    assert len(blocks) == 8 and len(passes) == 2  # one to see the layers' inputs, one for all products


def test_a_report_of_many_classes_estimates_and_says_so():
    model = hl.GPT(9000, 8, 1, 2, 4, tied=False)
    tokens = torch.randint(9000, (2, 5), generator=hl.seeded(0))
    found = hl.report(model, F.cross_entropy, (tokens[:, :-1], tokens[:, 1:]))
    layers = {layer.name: layer for layer in found.layers}
    exact = {"places", "blocks.0.attention.q", "blocks.0.mlp.up"}  # small enough to be formed
    assert all(layers[name].trace_error == 0 for name in exact)
    sampled = hl.layer_traces(model, F.cross_entropy, (tokens[:, :-1], tokens[:, 1:]), layers=["tokens", "head"])
    for name in ("tokens", "head"):
        assert layers[name].trace == pytest.approx(sampled[name], rel=1e-5)
        assert 0 < layers[name].trace_error < 0.2 * layers[name].trace
    h, p = features(model, tokens[:, :-1]), model(tokens[:, :-1]).softmax(1).detach()
    truth = float((h.square().sum(2) * (p * (1 - p)).sum(1)).mean())  # ‖h‖² tr(diag p − p pᵀ)
    # The mean over the places: terms of different places of a sample have signs of their own.
    assert layers["head"].trace == pytest.approx(truth, abs=6 * layers["head"].trace_error)


def features(model, tokens):
    """What the head is fed with, [N, T, width]."""
    seen = []
    handle = model.head.register_forward_pre_hook(lambda m, x: seen.append(x[0].detach()))
    model(tokens)
    handle.remove()
    return seen[0]


def test_parts_of_a_weight_are_estimated_from_products(monkeypatch):
    monkeypatch.setattr(many_classes, "FORMED_OUTPUTS", 0)
    model = hl.GPT(9000, 8, 1, 2, 4, tied=False)
    tokens = torch.randint(9000, (2, 5), generator=hl.seeded(0))
    batch = tokens[:, :-1], tokens[:, 1:]
    found = hl.report(model, F.cross_entropy, batch, layers="blocks.0.mlp.up", split={"blocks.0.mlp.up": 2})
    assert [layer.name for layer in found.layers] == ["blocks.0.mlp.up.0", "blocks.0.mlp.up.1"]
    (whole,) = hl.report(model, F.cross_entropy, batch, layers="blocks.0.mlp.up").layers
    error = math.hypot(*(layer.trace_error for layer in [whole, *found.layers]))
    assert all(layer.trace_error > 0 for layer in found.layers)
    assert sum(layer.trace for layer in found.layers) == pytest.approx(whole.trace, abs=5 * error)


@pytest.mark.parametrize("samples", [1, 0, -3, 2.5])
def test_too_few_samples_are_refused(samples):
    with pytest.raises(ValueError, match="samples must be 2 or more"):
        hl.layer_traces(*problem(), samples=samples)


def test_what_has_no_root_is_refused_and_left_alone():
    """A loss that is not convex has none; so has one that torch does not know. Without samples: exact."""
    model, _, batch = problem(loss="mse")
    loss = lambda z, t: torch.sin(z - t).mean()
    with pytest.raises(ValueError, match="samples need a loss whose H_z has a known root"):
        hl.layer_traces(model, loss, batch, samples=8)
    for name, value in hl.layer_traces(model, loss, batch).items():
        dense = dense_gauss_newton(model, loss, batch, [f"{name}.weight"])
        assert value == pytest.approx(float(dense.trace()), rel=1e-9)


def test_errors_say_what_to_change():
    model, loss_fn, batch = problem()
    with torch.no_grad(), pytest.raises(ValueError, match="outside of torch.no_grad"):
        hl.layer_traces(model, loss_fn, batch, samples=4)
    model.unused = nn.Linear(3, 3).double()
    with pytest.raises(ValueError, match="does not depend on unused: freeze them"):
        hl.layer_traces(model, loss_fn, batch, samples=4)


def test_sparse_tables_are_no_exception():
    model = drawn(hl.GPT(7, 4, 1, 2, 5))
    batch = words(True)[2]
    plain = hl.layer_traces(model, F.cross_entropy, batch, samples=4)
    model.tokens.sparse = True
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    model.tokens.register_forward_hook(lambda m, x, y: y)
    found = hl.layer_traces(model, F.cross_entropy, batch, layers="tokens", samples=4)
    assert found["tokens"] > 0 and math.isfinite(found["tokens"]) and "tokens" in plain
