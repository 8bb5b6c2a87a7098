"""Remark 3 of the paper: what curvature costs, in units of a gradient.

Times are taken in turn, so that a busy machine slows all alike, and medians are kept.
"""

import statistics
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...chain_rule import layer_norms
from ...models import MLP
from ..networks import LeNet5, ResNet18
from ..probes import seeded
from ..records import answered
from ..results import Results
from .panels import SIX, values_along_gradients

NETS = {
    "128-128-10": (lambda: MLP(784, 128, 3, 10, "tanh"), (784,), ["layers.0"]),
    "LeNet5": (LeNet5, (3, 32, 32), ["conv1"]),
    "ResNet-18": (lambda: ResNet18(width=8, activation="selu"), (3, 32, 32), SIX[:1]),
}


def cost(net, samples, repeats):
    """{what: median time over that of a gradient}, on random inputs.

    Args:
        net: a name in NETS.
        samples: of the batch.
        repeats: how often each is timed.

    Returns:
        "one layer", Theorem 1's value along the gradient of one layer, the gradient included;
        "all layers", those of all layers by one call of `layer_norms`; and "seconds", the median
        time of the gradient itself.
    """
    make, shape, name = NETS[net]
    generator = seeded(0)
    model = make()
    batch = torch.randn(samples, *shape, generator=generator), torch.arange(samples) % 10

    def gradient():
        loss = F.cross_entropy(model(batch[0]), batch[1])
        return torch.autograd.grad(loss, list(model.parameters()))

    todo = {
        "seconds": gradient,
        "one layer": lambda: values_along_gradients(model, batch, name),
        "all layers": lambda: layer_norms(model, F.cross_entropy, batch, "gradient"),
    }
    times = {what: [] for what in todo}
    for i in range(repeats + 1):
        for what, function in todo.items():
            begin = time.perf_counter()
            function()
            if i:  # the first time warms up
                times[what].append(time.perf_counter() - begin)
    unit = statistics.median(times.pop("seconds"))
    answer = {what: statistics.median(each) / unit for what, each in times.items()}
    return {what: round(ratio, 3) for what, ratio in answer.items()} | {"seconds": round(unit, 6)}


class Found(NamedTuple):
    """What the pages draw from."""

    ratios: dict  #: {net: answer of `cost`}
    stored: list  #: the Results behind it


def settings_of(size):
    """Settings of `cost`."""
    full = size == "full"
    samples, repeats = (64, 7) if full else (16, 3)
    nets = NETS if full else list(NETS)[:2]
    return [{"net": net, "samples": samples, "repeats": repeats} for net in nets]


def run(size="quick", progress=False):
    """Compute what is not stored yet, and return a Found.

    Args:
        size: "quick" (a second) or "full" (a minute).
        progress: show a bar.

    Raises:
        ValueError: for an unknown size.
    """
    return _found(size, True, progress)


def stored():
    """What is stored of the full size, a Found; nothing is computed."""
    return _found("full", False, False)


def _found(size, compute, progress):
    where = Results("paper-cost", size, fresh=None if compute else False)
    found = answered(where, cost, settings_of(size), compute, progress=progress)
    return Found({setting["net"]: answer for setting, answer in found}, [where])
