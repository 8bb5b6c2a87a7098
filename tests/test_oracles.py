"""Curvature in closed form, written by hand in NumPy: oracles without automatic differentiation.

A model with outputs z_n has dL = Σ_n J_nᵀ g_n, the Gauss-Newton matrix Σ_n J_nᵀ C_n J_n and the
Hessian that adds Σ_nk g_nk D²z_nk (the curvature effect), with g_n and C_n the loss's gradient and
Hessian in z_n. J_n, D²z_n, g_n and C_n are what is derived by hand below.
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hessinit_lite as hl

#: (samples, inputs, outputs); the last has a block of more than 128 weights, which is not formed.
SIZES = [(1, 1, 2), (4, 3, 2), (9, 2, 3), (3, 5, 4), (6, 12, 12)]
SEEDS = [0, 1]


class Oracle(NamedTuple):
    loss: float
    gradient: np.ndarray
    hessian: np.ndarray
    gauss_newton: np.ndarray


def assemble(loss, g, c, jacobian, second=None):
    """g [N, K], c [N, K, K], jacobian [N, K, P], second [N, K, P, P] (None: z is linear)."""
    gauss_newton = np.einsum("nkp,nkl,nlq->pq", jacobian, c, jacobian)
    curvature = 0 if second is None else np.einsum("nk,nkpq->pq", g, second)
    return Oracle(loss, np.einsum("nk,nkp->p", g, jacobian), gauss_newton + curvature, gauss_newton)


# The losses: (value, gradient [N, K], Hessian [N, K, K]) in the outputs z [N, K]

def squared_error(z, t):
    return np.mean((z - t) ** 2), 2 * (z - t) / z.size, np.broadcast_to(
        2 / z.size * np.eye(z.shape[1]), (*z.shape, z.shape[1]))


def logistic_error(z, t):
    s = 1 / (1 + np.exp(-z))
    value = -np.mean(t * np.log(s) + (1 - t) * np.log(1 - s))
    return value, (s - t) / z.size, np.eye(z.shape[1]) * (s * (1 - s) / z.size)[:, :, None]


def cross_entropy(z, labels, weight=None, smoothing=0.0, ignored=-100):
    """Σ_n [(1 − ε) w_y (−log p_y) + ε/K Σ_c w_c (−log p_c)] / Σ_n w_y over labels y that count."""
    classes = z.shape[1]
    weight, kept = np.ones(classes) if weight is None else weight, labels != ignored
    onehot = np.eye(classes)[np.where(kept, labels, 0)]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    mass = (kept * (onehot @ weight)).sum()
    # How much each −log p_c counts.
    q = kept[:, None] * ((1 - smoothing) * onehot + smoothing / classes) * weight / mass
    counts = q.sum(1)
    spread = np.eye(classes) * p[:, :, None] - p[:, :, None] * p[:, None, :]
    return -(q * np.log(p)).sum(), counts[:, None] * p - q, counts[:, None, None] * spread


# The models: outputs, J [N, K, P] and D²z [N, K, P, P]. Weights in torch's order, matrices by rows.

def dense(x, w, b):
    """z = Wx + b. Weights are W, b."""
    n, (outputs, inputs) = len(x), w.shape
    rows = np.einsum("kl,ni->nkli", np.eye(outputs), x).reshape(n, outputs, outputs * inputs)
    to_b = np.broadcast_to(np.eye(outputs), (n, outputs, outputs))
    return x @ w.T + b, np.concatenate([rows, to_b], 2)


def one_hidden_layer(x, w, b, v, c, f, f1, f2):
    """z = V f(Wx + b) + c, with f, f' and f''. Weights are W, b, V, c."""
    n, (hidden, inputs), outputs = len(x), w.shape, len(v)
    a = x @ w.T + b
    extended = np.concatenate([x, np.ones((n, 1))], 1)  # so that W and b are one matrix [W b]
    own = np.einsum("ki,ni,nj->nkij", v, f1(a), extended)  # dz_k / d[W b]_ij = V_ki f'_i x_j
    size = hidden * (inputs + 1)
    second = np.zeros((n, outputs, size + outputs * (hidden + 1), size + outputs * (hidden + 1)))
    blocks = np.zeros((n, outputs, hidden, inputs + 1, hidden, inputs + 1))
    cross = np.zeros((n, outputs, hidden, inputs + 1, outputs, hidden))
    for i in range(hidden):
        # d²z_k / d[W b]_ij d[W b]_il = V_ki f''_i x_j x_l; units of different i do not meet.
        blocks[:, :, i, :, i] = np.einsum(
            "k,n,nj,nl->nkjl", v[:, i], f2(a)[:, i], extended, extended)
        for k in range(outputs):  # d²z_k / d[W b]_ij dV_ki = f'_i x_j
            cross[:, k, i, :, k, i] = f1(a)[:, i, None] * extended
    to_v = slice(size, size + outputs * hidden)
    second[:, :, :size, :size] = blocks.reshape(n, outputs, size, size)
    second[:, :, :size, to_v] = cross.reshape(n, outputs, size, outputs * hidden)
    second[:, :, to_v, :size] = np.swapaxes(second[:, :, :size, to_v], 2, 3)
    z, last = dense(f(a), v, c)
    jacobian = np.concatenate([own.reshape(n, outputs, size), last], 2)
    # From [W b] by rows to W, then b.
    places = np.arange(size).reshape(hidden, inputs + 1)
    rest = np.arange(size, jacobian.shape[2])
    order = np.concatenate([places[:, :-1].ravel(), places[:, -1], rest])
    return z, jacobian[:, :, order], second[:, :, order][:, :, :, order]


LINEAR = (lambda a: a, np.ones_like, np.zeros_like)
TANH = (np.tanh, lambda a: 1 - np.tanh(a) ** 2, lambda a: -2 * np.tanh(a) * (1 - np.tanh(a) ** 2))


# The comparison

def check(model, loss_fn, batch, oracle, rtol=1e-12):
    """Everything the module says about a model of dense layers, against the oracle."""
    named, end, places = dict(model.named_parameters()), 0, {}
    for name, p in named.items():
        places[name] = slice(end, end := end + p.numel())
    vectors = np.random.default_rng(0).normal(size=(end, 2))

    def near(found, true):
        found = np.asarray(found.detach() if isinstance(found, torch.Tensor) else found)
        assert found.shape == np.shape(true)
        assert np.abs(found - true).max() <= rtol * np.abs(true).max() + 1e-15

    for build, true in [(hl.hessian, oracle.hessian), (hl.gauss_newton, oracle.gauss_newton)]:
        operator = build(model, loss_fn, batch)
        assert operator.loss.item() == pytest.approx(oracle.loss, rel=1e-13)
        assert operator.names == list(named)
        near(operator.gradient, oracle.gradient)
        near(operator.matmat(torch.eye(end, dtype=torch.float64)), true)
        near(operator @ torch.tensor(vectors[:, 0]), true @ vectors[:, 0])
        for row in places:
            near(build(model, loss_fn, batch, layer=row).matmat(
                torch.eye(named[row].numel(), dtype=torch.float64)), true[places[row], places[row]])
            for column in places:
                rectangle = build(model, loss_fn, batch, layer=(row, column))
                near(rectangle.matmat(torch.eye(named[column].numel(), dtype=torch.float64)),
                     true[places[row], places[column]])

    answers = {norm: {which: hl.layer_norms(model, loss_fn, batch, norm, 1e-8, which)
                      for which in ("weights", "all")} for norm in ("spectral", "frobenius")}
    traces, spectra, blocks = (
        {which: f(model, loss_fn, batch, parameters=which) for which in ("weights", "all")}
        for f in (hl.layer_traces, hl.layer_spectra, hl.layer_blocks))
    quotients = hl.layer_norms(model, loss_fn, batch, "gradient")
    for name, place in places.items():
        block, g = oracle.gauss_newton[place, place], oracle.gradient[place]
        values = np.linalg.eigvalsh(block)
        # A block that is not formed may hide its repeated eigenvalues.
        largest = np.sort(np.abs(values))[::-1][:5 if len(block) <= 128 else 1]
        layer = name.removesuffix(".weight")
        for which, key in [("all", name)] + [("weights", layer)] * (layer != name):
            near(blocks[which][key].matmat(torch.tensor(vectors[place])), block @ vectors[place])
            near(traces[which][key], np.trace(block))
            near(answers["spectral"][which][key], largest[0])
            near(answers["frobenius"][which][key], np.linalg.norm(block))
            near(np.abs(spectra[which][key][0][:len(largest)]), largest)
        if layer != name:
            near(quotients[layer], g @ block @ g / (g @ g))


def draw(seed, samples, inputs, outputs, hidden=None):
    """(generator, x, a float64 model of one dense layer, or of two with `hidden` units between)."""
    numbers = np.random.default_rng(seed)
    sizes = [inputs, outputs] if hidden is None else [inputs, hidden, outputs]
    model = nn.Sequential(*(nn.Linear(*pair) for pair in zip(sizes, sizes[1:]))).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.tensor(numbers.normal(size=p.shape)))
    return numbers, numbers.normal(size=(samples, inputs)), model


def arrays(model):
    return [p.detach().numpy() for p in model.parameters()]


def batch_of(*parts):
    return tuple(torch.tensor(part) for part in parts)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("samples, inputs, outputs", [*SIZES, (5, 3, 1)])
def test_linear_regression(samples, inputs, outputs, seed):
    numbers, x, model = draw(seed, samples, inputs, outputs)
    t = numbers.normal(size=(samples, outputs))
    z, jacobian = dense(x, *arrays(model))
    oracle = assemble(*squared_error(z, t), jacobian)
    check(model, F.mse_loss, batch_of(x, t), oracle)
    # The textbook's formula: a block 2/(NK) Σ_n x xᵀ for every output.
    weight = outputs * inputs
    np.testing.assert_allclose(oracle.hessian[:weight, :weight], np.kron(
        np.eye(outputs), 2 / (samples * outputs) * x.T @ x), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("samples, inputs, outputs", [*SIZES, (5, 3, 1)])
def test_logistic_regression(samples, inputs, outputs, seed):
    numbers, x, model = draw(seed, samples, inputs, outputs)
    t = numbers.integers(2, size=(samples, outputs)).astype(float)
    z, jacobian = dense(x, *arrays(model))
    check(model, nn.BCEWithLogitsLoss(), batch_of(x, t), assemble(*logistic_error(z, t), jacobian))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["plain", "smoothing", "weight", "ignored", "all three"])
@pytest.mark.parametrize("samples, inputs, outputs", SIZES)
def test_softmax_regression(samples, inputs, outputs, kind, seed):
    numbers, x, model = draw(seed, samples, inputs, outputs)
    with torch.no_grad():
        model[0].weight.div_(inputs ** 0.5)  # 1 − p of a saturated softmax would have fewer digits
    labels = numbers.integers(outputs, size=samples)
    labels[::3], labels[1::3] = 0, 1
    options = {}
    if kind in ("smoothing", "all three"):
        options["smoothing"] = 0.2
    if kind in ("weight", "all three"):
        options["weight"] = np.linspace(0.3, 2, outputs)
    if kind in ("ignored", "all three"):
        options["ignored"] = 1
    loss_fn = nn.CrossEntropyLoss(
        weight=torch.tensor(options["weight"]) if "weight" in options else None,
        label_smoothing=options.get("smoothing", 0.0), ignore_index=options.get("ignored", -100))
    z, jacobian = dense(x, *arrays(model))
    oracle = assemble(*cross_entropy(z, labels, **options), jacobian)
    check(model, loss_fn if options else F.cross_entropy, batch_of(x, labels), oracle)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("hidden", [1, 3])
@pytest.mark.parametrize("samples, inputs, outputs", SIZES[:-1])
def test_two_linear_layers(samples, inputs, outputs, hidden, seed):
    numbers, x, model = draw(seed, samples, inputs, outputs, hidden)
    t = numbers.normal(size=(samples, outputs))
    z, jacobian, second = one_hidden_layer(x, *arrays(model), *LINEAR)
    oracle = assemble(*squared_error(z, t), jacobian, second)
    check(model, F.mse_loss, batch_of(x, t), oracle)
    # The curvature effect lives between the layers alone: not in a layer's own block.
    effect, own = oracle.hessian - oracle.gauss_newton, hidden * (inputs + 1)
    assert np.abs(effect[:own, :own]).max() <= 1e-14 and np.abs(effect[own:, own:]).max() <= 1e-14
    assert np.abs(effect[:own, own:]).max() > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("hidden", [1, 4])
@pytest.mark.parametrize("samples, inputs, outputs", [(1, 2, 1), (5, 3, 1), (4, 2, 3)])
def test_one_hidden_layer_of_tanh(samples, inputs, outputs, hidden, seed):
    numbers, x, model = draw(seed, samples, inputs, outputs, hidden)
    model.insert(1, nn.Tanh())
    t = numbers.normal(size=(samples, outputs))
    z, jacobian, second = one_hidden_layer(x, *arrays(model), *TANH)
    check(model, F.mse_loss, batch_of(x, t), assemble(*squared_error(z, t), jacobian, second))


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_oracles_themselves_by_complex_steps(outputs):
    """Im ∇L(w + i h v) / h is H v up to rounding: there is no difference that could cancel."""
    numbers, x, model = draw(0, 5, 3, outputs, 4)
    t, w = numbers.normal(size=(5, outputs)), np.concatenate([a.ravel() for a in arrays(model)])

    def oracle(vector):
        ends = np.cumsum([a.size for a in arrays(model)])[:-1]
        parts = [part.reshape(a.shape) for part, a in zip(np.split(vector, ends), arrays(model))]
        z, jacobian, second = one_hidden_layer(x, *parts, *TANH)
        return assemble(*squared_error(z, t), jacobian, second)

    v, h = numbers.normal(size=len(w)), 1e-100

    def complex_outputs(vector):  # of its own: the parts above keep real arrays
        a, b = vector[:12].reshape(4, 3), vector[12:16]
        c, d = vector[16:16 + 4 * outputs].reshape(outputs, 4), vector[16 + 4 * outputs:]
        return np.tanh(x @ a.T + b) @ c.T + d

    z = complex_outputs(w + 1j * h * v)
    slope = np.mean((z - t) ** 2).imag / h
    assert oracle(w).gradient @ v == pytest.approx(slope, rel=1e-13)
    _, g, _ = squared_error(z, t)  # the hand-written gradient, at a complex point
    f = np.tanh(x @ (w + 1j * h * v)[:12].reshape(4, 3).T + (w + 1j * h * v)[12:16])
    c = (w + 1j * h * v)[16:16 + 4 * outputs].reshape(outputs, 4)
    back = (g @ c) * (1 - f ** 2)
    gradient = np.concatenate([(back.T @ x).ravel(), back.sum(0), (g.T @ f).ravel(), g.sum(0)])
    np.testing.assert_allclose(oracle(w).hessian @ v, gradient.imag / h, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("inputs", [3, 60])  # of the second the block is not formed
@pytest.mark.parametrize("power", [-40, 3, 40])
def test_powers_of_two_scale_exactly(inputs, power):
    """Inputs times 2^k, weights over 2^k: the same outputs, 4^k times the block, bit for bit."""
    numbers, x, model = draw(0, 5, inputs, 4)
    x, labels = batch_of(x / inputs ** 0.5, numbers.integers(4, size=5))
    v = torch.tensor(numbers.normal(size=inputs * 4))

    def answers(x):
        asked = model, F.cross_entropy, (x, labels)
        return [hl.layer_traces(*asked)["0"],
                *(hl.layer_norms(*asked, norm)["0"]
                  for norm in ("spectral", "frobenius", "gradient")),
                hl.hessian(*asked, layer="0") @ v, hl.gauss_newton(*asked, layer="0") @ v,
                hl.layer_blocks(*asked)["0"] @ v]

    before = answers(x)
    with torch.no_grad():
        model[0].weight.mul_(2.0 ** -power)
    for old, new in zip(before, answers(x * 2.0 ** power), strict=True):
        assert torch.equal(torch.as_tensor(old) * 4.0 ** power, torch.as_tensor(new))
