"""Chapter 16: one residual net at many depths. Does the best rate stay as blocks are added?

The net is 64 → n, L blocks z + α w₂ f(w₁ norm z), a norm, n → 10 on digits, ReLU, without biases,
trained by mini-batches on cross-entropy. At the base depth a factor in the forward pass is as large
as it would be at that depth, so nothing is set to be equal there.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import nn

from ...models import check_sizes
from ...scaling import scale_branches_
from ...schemes import init_
from ..data import digits
from ..probes import seeded
from ..records import answered, fastest_device, opened, rounded
from ..training import final_losses, train_together

WIDTH = 32
#: {name: (factor α in the forward pass for L blocks, what `scale_branches_` does to w₂)}
SCALINGS = {
    "none": (lambda blocks: 1.0, None),
    "w₂/√L": (lambda blocks: 1.0, "1/sqrt(L)"),
    "w₂ = 0": (lambda blocks: 1.0, "zero"),
    "α = 1/√L": (lambda blocks: blocks**-0.5, None),
    "α = 1/L": (lambda blocks: 1 / blocks, None),
}
OPTIMIZERS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}
#: What is run: of Adam less, whose steps do not feel a factor that is in the weights.
KINDS = [("SGD", scaling) for scaling in SCALINGS]
KINDS += [("Adam", scaling) for scaling in ("none", "α = 1/√L", "α = 1/L")]
DEPTHS = {"quick": (4, 16), "full": (4, 8, 16, 32, 64)}
#: {(size, optimizer): powers of 2 that are the rates}
POWERS = {
    ("quick", "SGD"): (-6, -4, -2),
    ("quick", "Adam"): (-10, -8, -6),
    ("full", "SGD"): range(-9, 4),
    ("full", "Adam"): range(-13, -2),
}
STEPS = {"quick": 40, "full": 100}
CHOOSE = {"quick": range(2), "full": range(3)}  #: seeds on which a rate is chosen
JUDGE = {"quick": (), "full": range(10, 18)}  #: seeds on which it is judged


class Found(NamedTuple):
    """What the chapter draws from: losses of the last tenth of the steps, inf where one diverged.

    Keys are (optimizer, scaling, blocks).
    """

    swept: dict  #: losses [seeds, rates]
    judged: dict  #: losses [seeds, (own best rate, that of the base depth)]
    rates: dict  #: {optimizer: those of the sweep}
    stored: list  #: the Results behind it


class Block(nn.Module):
    """z + α w₂ f(w₁ norm z)."""

    def __init__(self, width, alpha):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.w1 = nn.Linear(width, width, bias=False)
        self.w2 = nn.Linear(width, width, bias=False)
        self.f, self.alpha = nn.ReLU(), alpha

    def forward(self, z):
        return z + self.alpha * self.w2(self.f(self.w1(self.norm(z))))


class ResidualNet(nn.Module):
    """A dense layer, blocks with the factor α, a norm, a dense layer: [N, 64] to [N, 10].

    Example:
        >>> from hessinit_lite.lab.experiments.depth import ResidualNet
        >>> ResidualNet(blocks=2, alpha=0.5)(torch.zeros(3, 64)).shape
        torch.Size([3, 10])
    """

    def __init__(self, blocks, alpha, width=WIDTH):
        super().__init__()
        check_sizes(blocks=blocks, width=width)
        self.stem = nn.Linear(64, width, bias=False)
        self.blocks = nn.Sequential(*(Block(width, alpha) for _ in range(blocks)))
        self.norm, self.dense = nn.LayerNorm(width), nn.Linear(width, 10, bias=False)

    def forward(self, inputs):
        return self.dense(self.norm(self.blocks(self.stem(inputs))))


def start(scaling, blocks, seed, device="cpu"):
    """A net with He's weights, drawn on the CPU, on the device, under one of SCALINGS.

    Raises:
        ValueError: for an unknown scaling.
    """
    if scaling not in SCALINGS:
        raise ValueError(f"unknown scaling {scaling!r}; known: {', '.join(SCALINGS)}")
    alpha, factor = SCALINGS[scaling]
    model = init_(ResidualNet(blocks, alpha(blocks)), "forward", generator=seeded(seed))
    if factor:
        scale_branches_(model, "blocks.*.w2", factor)
    return model.to(device)


def experiment(optimizer, scaling, blocks, seeds, rates, steps, device="cpu"):
    """{"losses": for each seed those at the rates}, all nets trained at once.

    A seed stands for its first weights and its mini-batches.
    """
    pairs = [(seed, rate) for seed in seeds for rate in rates]
    models = [start(scaling, blocks, seed, device) for seed, _ in pairs]
    losses = train_together(
        models,
        digits().to(device),
        [rate for _, rate in pairs],
        steps,
        seed=[seed for seed, _ in pairs],
        optimizer=OPTIMIZERS[optimizer],
    )
    by_seed = final_losses(losses).view(len(seeds), -1).tolist()
    return {"losses": [rounded(row) for row in by_seed]}


def best_rate(losses, rates):
    """The rate of the smallest geometric mean of the losses [seeds, rates]; a lost run is inf."""
    return rates[int(losses.log().mean(0).argmin())]


def power_of_depth(found, optimizer, scaling):
    """The power p of the depth that the best rate follows, rate ~ depth^p, by least squares."""
    points = [
        (math.log(blocks), math.log(best_rate(losses, found.rates[optimizer])))
        for (*kind, blocks), losses in found.swept.items()
        if kind == [optimizer, scaling]
    ]
    x, y = torch.tensor(points, dtype=torch.float64).T
    return float((x - x.mean()) @ (y - y.mean()) / (x - x.mean()).square().sum())


def run(size="quick", progress=False):
    """Compute what is not stored yet, and return a Found.

    Args:
        size: "quick" (depths 4 and 16, three rates) or "full" (up to 64 blocks).
        progress: show bars.

    Raises:
        ValueError: for an unknown size.
    """
    return _found(size, True, progress)


def stored():
    """What is stored of the full size, a Found; nothing is computed."""
    return _found("full", False, False)


def _found(size, compute, progress):
    device = fastest_device()
    results = opened("16-depth", size, compute, "digits")
    function = functools.partial(experiment, device=device)
    rates = {name: [2.0**power for power in POWERS[size, name]] for name in OPTIMIZERS}
    found = Found({}, {}, rates, [results])

    def losses(key, seeds, rates):
        setting = dict(zip(("optimizer", "scaling", "blocks"), key))
        setting |= {"seeds": list(seeds), "rates": rates, "steps": STEPS[size]}
        pairs = answered(results, function, [setting], compute, device, progress)
        return torch.tensor(pairs[0][1]["losses"], dtype=torch.float64) if pairs else None

    for kind, blocks in [(kind, blocks) for kind in KINDS for blocks in DEPTHS[size]]:
        key, base = (*kind, blocks), (*kind, DEPTHS[size][0])
        swept = losses(key, CHOOSE[size], rates[kind[0]])
        if swept is None:  # not stored
            continue
        found.swept[key] = swept
        if JUDGE[size]:
            chosen = [best_rate(found.swept[each], rates[kind[0]]) for each in (key, base)]
            found.judged[key] = losses(key, JUDGE[size], chosen)
    return found
