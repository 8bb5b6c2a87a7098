"""Chapter 11: where does the principle pay? Starts compared, each at its own best learning rate.

A start is a base (`forward`, `orthogonal` times the gain, `lsuv`) and a change of it: none; every
layer's norm brought to a target; the control, one common factor that brings their geometric mean to
3; and the base with a learning rate of its own for each layer, in proportion to 1/norm. Rates are
chosen on three seeds, factors of 4 first and then of 2 around the best, and judged on ten others.
"""

import copy
import math
from functools import cache, lru_cache, partial

import torch
import torch.nn.functional as F

from ...chain_rule import layer_norms
from ...curvature import hessian
from ...models import MLP, weight_layers
from ...principle import hessian_init_
from ...schemes import init_
from ...spectrum import top_eigenvalues
from ...variance import gain
from ..data import digits, mnist
from ..probes import seeded
from ..records import answered, available, opened
from ..results import Results
from ..training import accuracy, final_losses, train_together

NAME = "11-starts"
BASES = "forward", "orthogonal", "lsuv"
CHANGES = "none", "target 1", "target 3", "target 10", "common 3", "rates"
TUNING, JUDGING = range(100, 103), range(10)  # seeds
RATES = {"sgd": [4.0**k for k in range(-5, 1)], "adamw": [4.0**k for k in range(-7, -2)]}
DATA = {"digits": digits, "mnist": mnist}
QUICK = {"depth": 10, "width": 32, "steps": 40}


class LayerRates(torch.optim.SGD):
    """SGD on stacked weights [models, ...] with a rate for each model and tensor.

    `factors` [tensors][models] multiply the rate.
    """

    def __init__(self, weights, lr, factors):
        super().__init__(weights, lr=lr)
        self.factors = factors

    @torch.no_grad()
    def step(self):
        for p, factor in zip(self.param_groups[0]["params"], self.factors):
            p.sub_(factor.view(-1, *[1] * (p.ndim - 1)) * p.grad)


def start(data, depth, width, activation, base, change, seed):
    """`model, batch, factors`: the net, what it was measured on, its layers' rates (or None)."""
    generator = seeded(seed)
    inputs, targets = data.train
    model = MLP(inputs[0].numel(), width, depth, int(targets.max()) + 1, activation=activation)
    batch = data.batch(128, generator)
    kind, _, number = change.partition(" ")
    factor = gain(activation) if base == "orthogonal" else 1.0
    init_(model, base, generator=generator, batch=batch, factor=factor)
    if kind == "target":
        hessian_init_(model, F.cross_entropy, batch, float(number), scheme=None)
    if kind == "common":
        scale_together_(model, batch, float(number))
    if kind == "rates":
        norms = torch.tensor(list(norms_of(model, batch).values()))
        return model, batch, norms.log().mean().exp() / norms
    return model, batch, None


def norms_of(model, batch):
    """Layers' norms to a percent."""
    return layer_norms(model, F.cross_entropy, batch, rtol=1e-2)


def scale_together_(model, batch, target):
    """One factor on all weights, in place, so that the geometric mean of the norms is the target.

    Regula falsi on logarithms between bounds that close in, within a factor of 1.05 or after twenty
    measurements. A scale at which the loss overflows counts as too large. Steps are
    short: where units saturate, a larger scale may mean a smaller norm.
    """
    drawn = {layer: layer.weight.detach().clone() for layer in weight_layers(model).values()}

    def off(log_factor):
        with torch.no_grad():
            for layer, weight in drawn.items():
                layer.weight.copy_(weight * math.exp(log_factor))
            if not F.cross_entropy(model(batch[0]), batch[1]).isfinite():
                return math.inf
        norms = norms_of(model, batch).values()
        return sum(math.log(max(norm, 1e-30)) for norm in norms) / len(norms) - math.log(target)

    at, value, slope = 0.0, off(0.0), 2.0 * (len(drawn) - 1)  # the scaling law, homogeneous nets
    low, high, best = -math.inf, math.inf, (math.inf, 0.0)  # bounds; (how far off, where)
    for _ in range(20):
        best = min(best, (abs(value), at))
        if best[0] < math.log(1.05):
            break
        low, high = (at, high) if value < 0 else (low, at)
        new = at + max(-0.1, min(0.1, -value / slope))
        if not low < new < high:
            new = (low + high) / 2
        found = off(new)
        if math.isfinite(found - value):
            slope = max(0.5, (found - value) / (new - at))  # of a saturating net it may vanish
        at, value = new, found
    if at != best[1]:
        off(best[1])


def outcome(models, data, rates, steps, seeds, optimizer, factors):
    """Final losses [models], trained in place; factors: [models] of [layers], or None."""
    kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD
    if factors is not None:
        by_layer = torch.stack(factors, 1)
        kind = partial(LayerRates, factors=[f for layer in by_layer for f in (layer, layer)])
    losses = train_together(models, data, rates, steps, seed=seeds, optimizer=kind)
    return final_losses(losses)


@cache
def loaded(name):
    """A data set, read once."""
    return DATA[name]()


@lru_cache(maxsize=len(TUNING) + len(JUDGING))  # both optimizers begin from the same nets
def drawn(data, *setting):
    """`start` of a data set's name; whoever trains the net takes a copy."""
    return start(loaded(data), *setting)


@lru_cache(maxsize=len(JUDGING))
def measured(*setting):
    """Norms of the layers and the whole net's largest eigenvalue, of a net of `drawn`."""
    model, batch, _ = drawn(*setting)
    operator = hessian(model, F.cross_entropy, batch)
    largest, _ = top_eigenvalues(operator, rtol=1e-2, generator=seeded(0))
    return list(norms_of(model, batch).values()), float(largest[0])


def compare(data, depth, width, activation, optimizer, base, change, steps):
    """One start at its best rate. Answers: plain numbers, lists over the judging seeds."""
    setting = data, depth, width, activation, base, change
    data, make = loaded(data), partial(drawn, *setting)
    tuned = {seed: make(seed) for seed in TUNING}

    def mean_loss(rates):
        """{rate: mean final loss over the tuning seeds; inf if one of them diverges}"""
        runs = [(rate, seed) for rate in rates for seed in TUNING]
        models = [copy.deepcopy(tuned[seed][0]) for _, seed in runs]
        factors = [tuned[seed][2] for _, seed in runs] if change == "rates" else None
        each, seeds = [rate for rate, _ in runs], [seed for _, seed in runs]
        found = outcome(models, data, each, steps, seeds, optimizer, factors)
        return dict(zip(rates, found.view(-1, len(TUNING)).mean(1).tolist()))

    tuning = mean_loss(RATES[optimizer])
    middle = min(tuning, key=tuning.get)
    tuning |= mean_loss([middle / 2, middle * 2])
    rate = min(tuning, key=tuning.get)

    models, _, factors = zip(*(make(seed) for seed in JUDGING))
    models = [copy.deepcopy(model) for model in models]
    norms, curvature = zip(*(measured(*setting, seed) for seed in JUDGING))
    factors = list(factors) if change == "rates" else None
    rates = [rate] * len(models)
    losses = outcome(models, data, rates, steps, list(JUDGING), optimizer, factors)
    return {
        "tuning": {f"{rate:g}": round(loss, 5) for rate, loss in sorted(tuning.items())},
        "rate": rate,
        "loss": [round(loss, 5) for loss in losses.tolist()],
        "accuracy": [round(accuracy(model, data.test), 5) for model in models],
        "smallest": [float(f"{min(each):.4g}") for each in norms],
        "largest": [float(f"{max(each):.4g}") for each in norms],
        "curvature": [float(f"{value:.4g}") for value in curvature],
    }


def settings(size):
    """What is compared, the most telling first; quick: a small net, three starts."""
    if size == "quick":
        return [
            {"data": "digits", "activation": "gelu", "optimizer": "sgd", "base": base}
            | {"change": change, **QUICK}
            for base, change in (("forward", "none"), ("lsuv", "none"), ("lsuv", "target 3"))
        ]
    nets = [("digits", 30, 64), ("digits", 10, 64), ("mnist", 30, 64), ("digits", 50, 64)]
    nets += [("digits", 30, 128), ("mnist", 10, 64), ("mnist", 30, 128), ("mnist", 50, 64)]
    return [
        {"data": data, "depth": depth, "width": width, "activation": activation}
        | {"optimizer": optimizer, "base": base, "change": change, "steps": 400}
        for data, depth, width in nets
        for activation in ("gelu", "relu", "silu", "tanh")
        for base in BASES
        for change in CHANGES
        for optimizer in RATES
        if not (optimizer == "adamw" and change == "rates")
    ]


def stored():
    """[(setting, answer)] of the full comparison as far as it is stored: nothing is run."""
    return Results(NAME, "full", fresh=False).items()


def losses_of(answer):
    """Losses of the judged runs, [seeds]: one that is lost counts as guessing, log(10)."""
    losses = torch.tensor(answer["loss"], dtype=torch.float64)
    return losses.nan_to_num(math.inf).clamp(max=math.log(10))


def factors_off(pairs, power, groups=None):
    """How far the rates c / λ^power are from the best ones: a factor ≥ 1 for each pair.

    Each pair is predicted by the c that the other groups ask for, the geometric mean of theirs.

    Args:
        pairs: [(λ, best rate)], three or more.
        power: of λ; 0 for one rate for all.
        groups: of each pair a name, such as its data set's; None: each pair is its own group.

    Raises:
        ValueError: if all pairs are of one group: nothing is left to predict them by.
    """
    groups = list(range(len(pairs))) if groups is None else list(groups)
    names = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    if len(names) < 2:
        raise ValueError("pairs of one group cannot be predicted by others: give two groups")
    group = torch.tensor([names[name] for name in groups])
    curvature, rate = torch.tensor(pairs, dtype=torch.float64).log().T
    wanted = rate + power * curvature  # log c, if this pair had its way
    others = (group[:, None] != group).double()
    return (wanted - others @ wanted / others.sum(1)).abs().exp().tolist()


def run(size="quick", progress=False):
    """[(setting, answer)] of all settings; what is stored is not computed again."""
    source = lambda setting: setting["data"]
    results = opened(NAME, size, True, source)
    return answered(results, compare, available(settings(size), source), progress=progress)
