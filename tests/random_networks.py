"""Random small networks, their dense curvature by torch's tools, and how far the module is from it.

    OMP_NUM_THREADS=1 PYTHONPATH=tests python -m random_networks 17 focal

prints network 17 and every disagreement with that loss. The truth uses nothing of hessinit_lite.
"""

import itertools
import math
import random
import sys
from functools import partial
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, parametrize, prune

import hessinit_lite as hl

MOST_WEIGHTS, CLASSES, SAMPLES, VOCABULARY = 150, 3, 5, 6
WIDE = 48  # a block of more than 128 weights is not formed


# Layers that are not what their class's name says, and layers without a class in torch

class ScaledLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, 0.3 * self.weight, self.bias)


class LowRank(nn.Linear):
    """A dense layer with a low-rank addition, as in LoRA."""

    def __init__(self, d_in, d_out):
        super().__init__(d_in, d_out)
        self.A, self.B = nn.Parameter(torch.empty(1, d_in)), nn.Parameter(torch.empty(d_out, 1))

    def forward(self, x):
        return super().forward(x) + 0.5 * x @ self.A.T @ self.B.T


def _standardized(w):
    w = w - w.mean(dim=tuple(range(1, w.ndim)), keepdim=True)
    return w / (w.square().sum(dim=tuple(range(1, w.ndim)), keepdim=True) + 0.1).sqrt()


class Standardized1d(nn.Conv1d):
    def forward(self, x):
        return self._conv_forward(x, _standardized(self.weight), self.bias)


class Standardized2d(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, _standardized(self.weight), self.bias)


class ShiftedNorm(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, 1 + self.weight, self.bias, self.eps)


class ScaledEmbedding(nn.Embedding):
    def forward(self, tokens):
        return super().forward(tokens) * self.embedding_dim ** 0.5


class Residual(nn.Module):
    def __init__(self, *inner):
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x):
        return x + self.inner(x)


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Outside(nn.Module):
    """A layer whose weight is used once more, without its forward."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return F.linear(torch.tanh(self.layer(x)), self.layer.weight.T)


class Scale(nn.Module):
    """A parameter without dimension, as the temperature of CLIP."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, x):
        return self.scale.exp() * x


class Positions(nn.Module):
    """A parameter with two dimensions in no layer."""

    def __init__(self, length, d):
        super().__init__()
        self.table = nn.Parameter(torch.empty(length, d))

    def forward(self, x):
        return x + torch.sin(self.table)


class Bounded(nn.Module):
    """A parametrization."""

    def forward(self, weight):
        return torch.tanh(weight)


class Called(nn.Module):
    """A layer, called in some other way than layer(x)."""

    WAYS = {
        "by keyword": lambda layer, x: layer(input=x),
        "time first": lambda layer, x: layer(x.transpose(0, 1)).transpose(0, 1),
        "folded": lambda layer, x: layer(x.flatten(0, 1)).unflatten(0, x.shape[:2]),
        "samples flipped": lambda layer, x: layer(x.flip(0)).flip(0),
        "samples split": lambda layer, x: torch.cat([layer(x[:1]), layer(x[1:])]),
        "places split": lambda layer, x: torch.cat([layer(x[:, :1]), layer(x[:, 1:])], dim=1),
        "input detached": lambda layer, x: x[..., :1] + layer(x.detach()),
        "with and without gradient": lambda layer, x: layer(x) + Called.without(layer, x),
        "samples meet": lambda layer, x: layer(x) - layer(x).mean(0),
        "first sample for all": lambda layer, x: layer(x) + layer(x[:1].expand_as(x)),
    }

    def __init__(self, way, layer):
        super().__init__()
        self.way, self.layer = way, layer

    @staticmethod
    @torch.no_grad()
    def without(layer, x):
        return layer(x)

    def forward(self, x):
        return self.WAYS[self.way](self.layer, x)


class _Cube(torch.autograd.Function):
    """torch cannot batch it, only differentiate it again and again."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x ** 3 / 3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x ** 2


class Cube(nn.Module):
    def forward(self, x):
        return _Cube.apply(x)


class Squared(nn.Bilinear):
    def forward(self, x):
        return super().forward(x, x)


class Attention(nn.Module):
    """torch's attention, weighted or not (another path of the same module)."""

    def __init__(self, d, heads, weights):
        super().__init__()
        self.attention, self.weights = nn.MultiheadAttention(d, heads, batch_first=True), weights

    def forward(self, x):
        return self.attention(x, x, x, need_weights=self.weights)[0]


class HandAttention(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x):
        return self.out(F.scaled_dot_product_attention(*self.qkv(x).chunk(3, dim=-1)))


class Recurrent(nn.Module):
    """A recurrent layer; time first unless batch_first."""

    def __init__(self, kind, d, batch_first):
        super().__init__()
        self.cell, self.batch_first = kind(d, d, batch_first=batch_first), batch_first

    def forward(self, x):
        if self.batch_first:
            return self.cell(x)[0]
        return self.cell(x.transpose(0, 1))[0].transpose(0, 1)


class Reduce(nn.Module):
    """What a head is fed: everything, the mean over the places, or each place (channels last)."""

    def __init__(self, how, channels_first):
        super().__init__()
        self.how, self.channels_first = how, channels_first

    def forward(self, x):
        if self.how == "flatten" or x.ndim == 2:
            return x.flatten(1)
        x = x.flatten(2).mT if self.channels_first else x
        return x.mean(1) if self.how == "mean" else x


class ClassesFirst(nn.Module):
    """[N, T, K] as torch's losses want it, [N, K, T]."""

    def forward(self, x):
        return x.mT if x.ndim == 3 else x


# The parts that networks are drawn from: functions of the random source and the activations so far.

def _hooked(layer):
    layer.register_forward_hook(lambda module, args, output: 3 * output)
    return layer


def _pre_hooked(layer):
    layer.register_forward_pre_hook(lambda module, args: (0.5 * args[0],))
    return layer


def _frozen(layer):
    layer.weight.requires_grad_(False)
    return layer


def _transposed_in_memory(layer):
    layer.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)
    return layer


def _parametrized(layer):
    return parametrize.register_parametrization(layer, "weight", Bounded())


def _pruned(layer):
    return prune.random_unstructured(layer, "weight", 0.3)


def _convolution(r, x, kind=None):
    """A convolution of a random form that fits x [N, channels, *size]."""
    axes, c = x.ndim - 2, x.shape[1]
    size = min(x.shape[2:])
    out = r.choice([2, 4]) if c % 2 == 0 else r.choice([2, 3])
    form = {"groups": r.choice([1, 2]) if c % 2 == out % 2 == 0 else 1, "bias": r.random() < 0.7}
    kernel = r.choice([k for k in (1, 2, 2, 3) if k <= size])
    if size >= 3:
        form["padding_mode"] = r.choice(["zeros", "reflect", "circular", "replicate"])
        form["padding"] = r.choice([0, 1, "same"])
    if form.get("padding", 0) != 0 or (kernel - 1) * 2 < size:
        form["dilation"] = r.choice([1, 2]) if kernel == 2 or size >= 5 else 1
    if form.get("padding") == "same":  # the padding must be smaller than what it reflects
        form["dilation"] = 1
    else:
        form["stride"] = r.choice([1, 2])
    kind = kind or (nn.Conv1d if axes == 1 else nn.Conv2d)
    return kind(c, out, kernel, **form)


def _transposed(r, x):
    kind = nn.ConvTranspose1d if x.ndim == 3 else nn.ConvTranspose2d
    return kind(x.shape[1], 2, 2, stride=r.choice([1, 2]), padding=r.choice([0, 1]),
                bias=r.random() < 0.7)


def _group_norm(r, x):
    channels = x.shape[1]
    return nn.GroupNorm(r.choice([g for g in (1, 2, channels) if channels % g == 0]), channels)


def _instance_norm(r, x):
    kind = nn.InstanceNorm1d if x.ndim == 3 else nn.InstanceNorm2d
    return kind(x.shape[1], affine=True) if math.prod(x.shape[2:]) > 1 else None


def _batch_norm(r, x):
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    return kinds[x.ndim](x.shape[1])


DENSE = {
    "dense": lambda d, k, r: nn.Linear(d, k, bias=r.random() < 0.7),
    "scaled dense": lambda d, k, r: ScaledLinear(d, k),
    "low rank": lambda d, k, r: LowRank(d, k),
    "weight norm": lambda d, k, r: parametrizations.weight_norm(nn.Linear(d, k)),
    "hooked dense": lambda d, k, r: _hooked(nn.Linear(d, k)),
    "pre-hooked dense": lambda d, k, r: _pre_hooked(nn.Linear(d, k)),
    "frozen dense": lambda d, k, r: _frozen(nn.Linear(d, k)),
    "parametrized dense": lambda d, k, r: _parametrized(nn.Linear(d, k)),
    "pruned dense": lambda d, k, r: _pruned(nn.Linear(d, k)),
    "dense with strides": lambda d, k, r: _transposed_in_memory(nn.Linear(d, k)),
}


def _called(way):
    return lambda r, x: Called(way, nn.Linear(x.shape[-1], r.choice([2, 3])))


OF_PLACES = ("time first", "folded", "places split")  # these need an axis of places
LAST_AXIS = {  # for [N, d] and [N, T, d]
    **{name: lambda r, x, make=make: make(x.shape[-1], r.choice([2, 3, 4]), r)
       for name, make in DENSE.items()},
    "dense twice": lambda r, x: Twice(nn.Linear(x.shape[-1], x.shape[-1])),
    "tied dense": lambda r, x: Tied(*(nn.Linear(x.shape[-1], x.shape[-1]) for _ in "ab")),
    "weight used outside": lambda r, x: Outside(nn.Linear(x.shape[-1], 3)),
    "residual": lambda r, x: Residual(nn.Linear(x.shape[-1], 2), nn.SiLU(inplace=True),
                                      nn.Linear(2, x.shape[-1])),
    "layer norm": lambda r, x: nn.LayerNorm(x.shape[r.choice([-1, 1]):]),
    "shifted norm": lambda r, x: ShiftedNorm(x.shape[-1]),
    "rms norm": lambda r, x: getattr(nn, "RMSNorm", nn.LayerNorm)(x.shape[-1]),  # torch 2.3 has none
    "bilinear": lambda r, x: Squared(x.shape[-1], x.shape[-1], 2),
    "scale": lambda r, x: Scale(),
    "cube": lambda r, x: Cube(),
    **{way: _called(way) for way in Called.WAYS if way not in OF_PLACES},
}
SEQUENCE = {  # for [N, T, d]
    "attention": lambda r, x: Attention(x.shape[-1], 1 + (x.shape[-1] % 2 == 0), r.random() < 0.5),
    "hand attention": lambda r, x: HandAttention(x.shape[-1]),
    "lstm": lambda r, x: Recurrent(nn.LSTM, x.shape[-1], r.random() < 0.5),
    "gru": lambda r, x: Recurrent(nn.GRU, x.shape[-1], r.random() < 0.5),
    "positions": lambda r, x: Positions(*x.shape[1:]),
    **{way: _called(way) for way in OF_PLACES},
}
CHANNELS = {  # for [N, channels, *size]
    "convolution": _convolution,
    "another convolution": _convolution,  # their forms are many
    "standardized convolution": lambda r, x: _convolution(
        r, x, Standardized1d if x.ndim == 3 else Standardized2d),
    "hooked convolution": lambda r, x: _hooked(_convolution(r, x)),
    "weight-normed convolution": lambda r, x: parametrizations.weight_norm(_convolution(r, x)),
    "convolution twice": lambda r, x: Twice(
        (nn.Conv1d if x.ndim == 3 else nn.Conv2d)(x.shape[1], x.shape[1], 1)),
    "transposed convolution": _transposed,
    "residual convolution": lambda r, x: Residual((nn.Conv1d if x.ndim == 3 else nn.Conv2d)(
        x.shape[1], x.shape[1], 2, padding="same")),
    "group norm": _group_norm,
    "instance norm": _instance_norm,
    "batch norm": _batch_norm,
    "scale": lambda r, x: Scale(),
}
EMBEDDINGS = {
    "embedding": lambda d: nn.Embedding(VOCABULARY, d),
    "embedding with padding": lambda d: nn.Embedding(VOCABULARY, d, padding_idx=1),
    "scaled embedding": lambda d: ScaledEmbedding(VOCABULARY, d),
    "hooked embedding": lambda d: _hooked(nn.Embedding(VOCABULARY, d)),
}
ACTIVATIONS = [nn.Tanh, nn.Sigmoid, nn.GELU, nn.Identity, lambda: nn.ReLU(inplace=True),
               lambda: nn.SiLU(inplace=True), lambda: nn.ELU(inplace=True)]
FEATURES = {
    **LAST_AXIS,
    "batch norm": _batch_norm,
    "wide": lambda r, x: nn.Sequential(nn.Linear(x.shape[-1], WIDE), nn.Tanh(), nn.Linear(WIDE, 2)),
    # With a layer before it: in eval mode it hands on its input, which may be changed in place.
    "dropout": lambda r, x: nn.Sequential(nn.Linear(x.shape[-1], 3), nn.Dropout(0.5)),
}
PARTS_OF = {"features": FEATURES, "sequence": {**LAST_AXIS, **SEQUENCE},
            "tokens": {**LAST_AXIS, **SEQUENCE}, "signal": CHANNELS, "image": CHANNELS}
#: Every name that may occur in a description.
PARTS = sorted({*FEATURES, *SEQUENCE, *CHANNELS, *EMBEDDINGS, "tied head", "hooked model", "frozen",
                "channels last", "inputs with gradient"})


# Losses: {name: (loss function, targets for outputs of a shape)}

class WeightedMSE(nn.MSELoss):
    """Counts the classes differently: what torch's own MSELoss does not."""

    def forward(self, outputs, targets):
        weight = torch.arange(1.0, outputs.shape[1] + 1, dtype=outputs.dtype)
        return super().forward(outputs * weight.view(-1, *[1] * (outputs.ndim - 2)), targets)


def focal(outputs, targets):
    """Not convex in the outputs."""
    logp = F.log_softmax(outputs, 1).gather(1, targets[:, None])
    return -((1 - logp.exp()) ** 2 * logp).mean()


def _labels(shape):
    return torch.randint(shape[1], (shape[0], *shape[2:]))


def _some_ignored(shape):
    labels = _labels(shape)
    labels.view(-1)[::3], labels.view(-1)[1::3] = 0, 1  # some are ignored, not all
    return labels


def coupled(outputs, targets):
    """Samples see each other: no sum over samples."""
    return F.mse_loss(torch.tanh(outputs - outputs.mean(0)), targets)


def _normal(shape):
    return torch.randn(shape, dtype=torch.float64)


def _uniform(shape):
    return torch.rand(shape, dtype=torch.float64)


LOSSES = {
    "cross_entropy": (lambda classes: F.cross_entropy, _labels),
    "smoothing": (lambda classes: nn.CrossEntropyLoss(label_smoothing=0.2), _labels),
    "class weights": (lambda classes: nn.CrossEntropyLoss(
        weight=torch.linspace(0.3, 2, classes, dtype=torch.float64)), _labels),
    "ignored": (lambda classes: nn.CrossEntropyLoss(ignore_index=1), _some_ignored),
    "mse": (lambda classes: F.mse_loss, _normal),
    "logistic": (lambda classes: nn.BCEWithLogitsLoss(), _uniform),
    "weighted mse": (lambda classes: WeightedMSE(), _normal),
    "focal": (lambda classes: focal, _labels),
    "soft labels": (lambda classes: nn.CrossEntropyLoss(label_smoothing=0.1),
                    lambda shape: torch.softmax(_normal(shape), dim=1)),
    "positive weight": (lambda classes: nn.BCEWithLogitsLoss(
        pos_weight=torch.tensor(2.0, dtype=torch.float64)), _uniform),
    "partial": (lambda classes: partial(F.cross_entropy, label_smoothing=0.2), _labels),
    "coupled": (lambda classes: coupled, _normal),
}


def network(seed, loss="cross_entropy"):
    """`(description, model, loss_fn, batch)`, float64, the same each time for a seed."""
    python = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        for attempt in itertools.count():
            r = random.Random(f"{seed} {attempt}")
            torch.manual_seed(r.randrange(2 ** 31))
            description, model, inputs = _draw(r, seed)
            weights = sum(p.numel() for p in model.parameters())
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                outputs = _evaluated(model, inputs)
            # Where a softmax is saturated or all samples come to the same the truth is rounding.
            saturated = (outputs.amax(1) - outputs.amin(1)).max() > 10
            constant = (outputs - outputs.mean(0)).abs().max() < 1e-3
            most = MOST_WEIGHTS + 4 * WIDE * ("wide" in description)
            if weights <= most and not saturated and not constant:
                break
        shape = outputs.shape
        make, targets = LOSSES[loss]
        batch = inputs, targets(shape)
    random.setstate(python[0])
    np.random.set_state(python[1])
    return description, model, make(shape[1]), batch


def _evaluated(model, x):
    modes = {m: m.training for m in model.modules()}
    model.eval()
    x = model(x)
    for m, mode in modes.items():
        m.training = mode
    return x


def _draw(r, seed):
    """`(description, model, inputs)`. The seed says the first part, so that each has its turn."""
    kind = list(PARTS_OF)[seed % len(PARTS_OF)]
    d = r.choice([2, 3, 4])
    length = r.choice([2, 3, SAMPLES])
    size = {"features": (d,), "sequence": (length, d), "tokens": (length,), "signal": (d, 5),
            "image": (d, 4, 4)}[kind]
    inputs = (torch.randint(VOCABULARY, (SAMPLES, *size)) if kind == "tokens"
              else _normal((SAMPLES, *size)))
    names, model, x = [], nn.Sequential(), inputs

    def add(name, module):
        nonlocal x
        if module is None:  # a part that does not fit these activations
            return
        names.append(name)
        model.append(_random_weights(module.double()))
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            x = _evaluated(module, x.clone())  # it may work in place

    if kind == "tokens":
        name = list(EMBEDDINGS)[seed // len(PARTS_OF) % len(EMBEDDINGS)]
        add(name, EMBEDDINGS[name](d))
    parts = list(PARTS_OF[kind])
    for number in range(r.choice([1, 2, 2, 3])):
        name = r.choice(parts) if number else parts[seed // len(PARTS_OF) % len(parts)]
        add(name, PARTS_OF[kind][name](r, x))
        model.append(r.choice(ACTIVATIONS)())
        x = torch.tanh(x)  # only its shape matters from here on
    how = r.choice(["flatten", "mean", "mean", "each place"])
    add(how, Reduce(how, kind in ("signal", "image")))
    if kind == "tokens" and x.shape[-1] == d and r.random() < 0.5:
        head = nn.Linear(d, VOCABULARY).double()
        add("tied head", head)
        head.weight = model[0].weight
    else:
        name = r.choice([name for name in DENSE if name != "frozen dense"])
        add(name, DENSE[name](x.shape[-1], CLASSES, r))
    model.append(ClassesFirst())
    if r.random() < 0.1:
        names.append("hooked model")
        model.register_forward_hook(lambda module, args, output: output + 0.1 * output ** 2)
    # torch's group norm crashes in channels_last where its input needs no gradient.
    if kind == "image" and "group norm" not in names and r.random() < 0.3:
        names.append("channels last")
        model.to(memory_format=torch.channels_last)
    if inputs.is_floating_point() and r.random() < 0.1:
        names.append("inputs with gradient")
        inputs.requires_grad_()
    parameters = list(model.parameters())
    if r.random() < 0.25:
        names.append("frozen")
        for p in r.sample(parameters[:-2], len(parameters[:-2]) // 2):
            p.requires_grad_(False)
    for p in r.sample(parameters, len(parameters) // 2):  # to be left as it is
        p.grad = torch.randn_like(p) if p.requires_grad else None
    model.train(r.random() < 0.3)
    return f"{kind}: {', '.join(names)} ({'train' if model.training else 'eval'})", model, inputs


@torch.no_grad()
def _random_weights(module):
    for m in module.modules():
        norm = hasattr(m, "eps")
        for name, p in m.named_parameters(recurse=False):
            p.normal_(float(norm and name == "weight"), 0.3 if norm or p.ndim == 0 else 0.7)
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 1.5)
    return module


# The truth

class Truth(NamedTuple):
    """Matrices [P, P] and the gradient [P]."""
    hessian: torch.Tensor
    gauss_newton: torch.Tensor
    gradient: torch.Tensor
    loss: torch.Tensor
    places: dict  # {parameter: its slice of the vector}


def _weight_norm(v, g, dim):
    rest = [axis for axis in range(v.ndim) if axis != dim]
    return v * (g / v.square().sum(dim=rest, keepdim=True).sqrt())


def dense_truth(model, loss_fn, batch):
    """Everything over all trainable parameters, in the order of `named_parameters`, by torch."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in named.values()]
    vector = torch.cat([p.detach().flatten() for p in named.values()])

    def outputs_of(vector):
        parts = {n: v.view(p.shape) for (n, p), v in zip(named.items(), vector.split(sizes))}
        return functional_call(model, parts, (batch[0],))

    def loss_of(outputs):
        return loss_fn(outputs, batch[1])

    # Attention's other kernels have no second derivative, torch's fused weight_norm a wrong one.
    with sdpa_kernel(SDPBackend.MATH), mock.patch.object(torch, "_weight_norm", _weight_norm):
        hessian = torch.autograd.functional.hessian(lambda v: loss_of(outputs_of(v)), vector)
        jacobian = torch.autograd.functional.jacobian(outputs_of, vector).flatten(0, -2)
        outputs = outputs_of(vector).detach()
    h_z = torch.autograd.functional.hessian(loss_of, outputs).view(outputs.numel(), -1)
    slope = torch.autograd.functional.jacobian(loss_of, outputs).flatten()
    ends = list(itertools.accumulate(sizes))
    places = {p: slice(end - size, end) for p, size, end in zip(named.values(), sizes, ends)}
    return Truth(hessian, jacobian.T @ h_z @ jacobian, jacobian.T @ slope, loss_of(outputs), places)


# What a call must leave alone

def state(model, batch):
    """Everything that a measurement could change, as comparable values."""
    def bits(tensor):
        return None if tensor is None else tensor.detach().numpy().tobytes()

    numpys = np.random.get_state()
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "weights": [bits(p) for p in model.parameters()],
        "buffers": [bits(b) for b in model.buffers()],
        "batch": [bits(t) for t in batch],
        "grad fields": [bits(p.grad) for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "parameters": [(name, id(p)) for name, p in model.named_parameters(remove_duplicate=False)],
        "modes": [m.training for m in model.modules()],
        "hooks": [[len(getattr(m, kind)) for kind in hooks] for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "torch's random state": bits(torch.get_rng_state()),
        "Python's random state": random.getstate(),
        "NumPy's random state": (numpys[1].tobytes(), numpys[2:]),
        "settings": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
    }


# The comparison

class Outcome(NamedTuple):
    """worst: the largest relative disagreement; the rest: {what was asked: number or message}."""
    worst: float
    numbers: dict
    refusals: dict
    faults: dict


def _distance(found, true, scale):
    found = torch.as_tensor(found, dtype=torch.float64)
    if found.shape != true.shape:
        return math.inf
    difference = (found - true).abs().max().item() / scale if found.numel() else 0.0
    return difference if difference == difference else math.inf  # a NaN agrees with nothing


def parameter_of(model, key):
    """The parameter that is called `key`: its full name, or a module's name for its weight."""
    known = dict(model.named_parameters(remove_duplicate=False))
    return known[key] if key in known else known[f"{key}.weight".lstrip(".")]


def disagreement(seed, loss):
    """The `Outcome` of every question about network `seed`."""
    _, model, loss_fn, batch = network(seed, loss)
    return compare(model, loss_fn, batch)


def compare(model, loss_fn, batch):
    """The `Outcome` of every question: operators, blocks, norms, traces, spectra against the truth.

    Relative to the largest entry of the block; to 1e-5 of the whole matrix's, or 1e-6, where it has
    (almost) none, as the bias before a norm: the truth is rounding then. ValueError and TypeError
    are refusals; the tests say which may be.
    """
    truth = dense_truth(model, loss_fn, batch)
    numbers, refusals, faults, before = {}, {}, {}, state(model, batch)

    def ask(what, question, check):
        nonlocal before
        try:
            found = question()
            for part, number in check(found).items():
                numbers[f"{what} {part}".strip()] = number
        except (ValueError, TypeError) as error:
            refusals[what] = f"{type(error).__name__}: {error}"
        except Exception as error:  # whatever it is: that is what is looked for
            faults[what] = f"{type(error).__name__}: {error}"
        after = state(model, batch)
        changed = [name for name in before if before[name] != after[name]]
        if changed:
            faults[f"{what} changes"] = ", ".join(changed)
        before = after

    size = len(truth.gradient)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(size, 3, dtype=torch.float64, generator=generator)
    floor = 1e-5 * truth.gauss_newton.abs().max().item() + 1e-6

    def check_operator(true):
        scale = max(true.abs().max().item(), 1e-6)

        def check(operator):
            return {
                "@": _distance(operator @ vectors[:, 0], true @ vectors[:, 0], scale),
                "matmat": _distance(operator.matmat(vectors), true @ vectors, scale),
                "gradient": _distance(operator.gradient, truth.gradient,
                                      max(truth.gradient.abs().max().item(), 1e-6)),
                "loss": _distance(operator.loss, truth.loss, abs(truth.loss.item()) + 1e-30)}
        return check

    ask("hessian", lambda: hl.hessian(model, loss_fn, batch), check_operator(truth.hessian))
    ask("gauss_newton", lambda: hl.gauss_newton(model, loss_fn, batch),
        check_operator(truth.gauss_newton))

    # A rectangle of two parameters, which may be one; a tied one may go by either name.
    known = [(name, p) for name, p in model.named_parameters(remove_duplicate=False)
             if p.requires_grad]
    drawn = torch.randint(len(known), (2,), generator=generator)
    (first, p), (second, q) = (known[i] for i in drawn)
    for name, function, true in [("hessian", hl.hessian, truth.hessian),
                                 ("gauss_newton", hl.gauss_newton, truth.gauss_newton)]:
        block, some = true[truth.places[p], truth.places[q]], vectors[truth.places[q]]
        ask(f"{name}(layer=pair)",
            lambda function=function: function(model, loss_fn, batch, layer=(first, second)),
            lambda operator, block=block, some=some: {"": _distance(
                operator.matmat(some), block @ some, max(block.abs().max().item(), floor))})

    def per_layer(of):
        """A check of {key: answer}: `of` compares an answer with that parameter's dense block."""
        def check(found):
            numbers = {}
            for key, value in found.items():
                p = parameter_of(model, key)
                block = truth.gauss_newton[truth.places[p], truth.places[p]]
                scale = max(block.abs().max().item(), floor)
                numbers[key or "(model)"] = of(value, block, p, scale)
            return numbers
        return check

    def of_block(found, block, p, scale):
        some = vectors[truth.places[p]]
        return max(_distance(found.matmat(some), block @ some, scale),
                   _distance(found @ some[:, 0], block @ some[:, 0], scale))

    def of_trace(found, block, p, scale):
        return _distance(found, block.trace(), scale)

    def of_norm(found, block, p, scale):
        return _distance(found, torch.linalg.eigvalsh(block).abs().max(), scale)

    def of_frobenius(found, block, p, scale):
        return _distance(found, torch.linalg.norm(block), scale)

    def of_quotient(found, block, p, scale):
        g = truth.gradient[truth.places[p]]
        if g.norm() <= 1e-6 * truth.gradient.norm() + 1e-8:  # rounding: it has no direction
            return 0.0
        return _distance(found, (g @ block @ g / (g @ g)).abs(), scale)

    def of_spectrum(found, block, p, scale):
        values, true = torch.tensor(found[0], dtype=torch.float64), torch.linalg.eigvalsh(block)
        largest = true.abs().sort(descending=True).values[:2]
        # ±v may come in either order: magnitudes in order, and each value is an eigenvalue.
        away = (values[:, None] - true).abs().amin(1)
        return max(_distance(values.abs(), largest, scale), away.max().item() / scale)

    for which in ("weights", "all"):
        asked = {
            "layer_blocks": (hl.layer_blocks, {}, of_block),
            "layer_traces": (hl.layer_traces, {}, of_trace),
            "layer_norms": (hl.layer_norms, {"rtol": 1e-8}, of_norm),
            "layer_norms(frobenius)": (hl.layer_norms, {"norm": "frobenius"}, of_frobenius),
            "layer_norms(gradient)": (hl.layer_norms, {"norm": "gradient"}, of_quotient),
            "layer_spectra": (hl.layer_spectra, {"k": 2, "rtol": 1e-8}, of_spectrum)}
        if which == "weights":  # whatever else is asked of these is made of the same blocks
            names = ["layer_blocks", "layer_spectra", "layer_norms(gradient)"]
        else:  # the gradient's norm is for weights only
            names = [name for name in asked if name != "layer_norms(gradient)"]
        for name in names:
            function, options, of = asked[name]

            def answered(function=function, options=options, name=name, which=which):
                found = function(model, loss_fn, batch, parameters=which, **options)
                missing = missing_parameters(model, found, which)
                if missing:
                    faults[f"{name}, {which}: missing"] = ", ".join(missing)
                return found
            ask(f"{name}, {which}:", answered, per_layer(of))
    return Outcome(max(numbers.values(), default=0.0), numbers, refusals, faults)


def missing_parameters(model, keys, which):
    """Trainable parameters without a key: of all, or of two dimensions or more but a norm's."""
    found = {parameter_of(model, key) for key in keys}
    norms = {p for m in model.modules() if hasattr(m, "eps") for p in m.parameters(recurse=False)}
    return [name for name, p in model.named_parameters() if p.requires_grad and p not in found
            and (which == "all" or p.ndim > 1 and p not in norms)]


def is_computed(model):
    """Whether some weight is computed from other parameters."""
    weights = [getattr(m, "weight", None) for m in model.modules()]
    return any(isinstance(w, torch.Tensor) and not isinstance(w, nn.Parameter) for w in weights)


def is_in_train_mode(model):
    """Whether a batch norm or a dropout is: the same call would give something else."""
    return any(m.training and isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.Dropout))
               for m in model.modules())


def main(seed, loss):
    torch.set_num_threads(1)
    description, model, loss_fn, batch = network(int(seed), loss)
    print(description, model, sep="\n")
    outcome = compare(model, loss_fn, batch)
    for title, part in outcome._asdict().items():
        for what, message in (part.items() if isinstance(part, dict) else [("", part)]):
            print(f"{title[:8]:9}{what:60}{message}")


if __name__ == "__main__":
    main(*sys.argv[1:])
