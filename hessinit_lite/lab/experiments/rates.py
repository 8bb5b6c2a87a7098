"""Chapter 11: does λ of the start give the best learning rate, in other nets and data sets too?

The grids of chapter 12 hold the losses of many starts at many rates, on digits, MNIST and CIFAR-10
and at several depths. Measured here is λ, the largest eigenvalue of the whole Hessian, of the same
starts.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ...curvature import hessian
from ...spectrum import top_eigenvalues
from ..probes import seeded
from ..records import answered, available, fastest_device, opened, rounded
from . import mnist

NAME = "11-rates"
TOO_DEEP = 100  #: layers: at this depth nearly all of a grid's runs are lost
LEARNED = 0.9  #: a start counts if its best loss is below this share of guessing, log(10)


def curvatures(data, depth, width, activation, starts, seed, device="cpu"):
    """λ of every start, on the batch of 128 that its norms were measured on: a list.

    Args:
        data: as `mnist.experiment`, like depth, width, activation and seed.
        depth: as above.
        width: as above.
        activation: as above.
        starts: as `mnist.fresh`.
        seed: as above.
        device: where it runs.
    """
    found = []
    for start in starts:
        model, batch, _ = mnist.fresh(
            mnist.load(data, device), depth, width, activation, start, seed
        )
        operator = hessian(model, F.cross_entropy, batch)
        generator = seeded(0, batch[0].device)
        found.append(top_eigenvalues(operator, rtol=1e-2, generator=generator)[0][0].abs())
    return rounded(torch.stack(found).tolist())


class Found(NamedTuple):
    """What the chapter draws from."""

    pairs: dict  #: {grid: [(start, λ, best rate)]}, of starts that learn, at rates inside the grid
    stored: list  #: the Results behind it


def setting_of(grid):
    """The setting of `curvatures` that belongs to a setting of a grid."""
    same = {key: grid[key] for key in ("data", "depth", "width", "activation", "seed")}
    return {**same, "starts": list(dict.fromkeys(start for start, _ in grid["runs"]))}


def best_rates(losses, rates):
    """The best rate of each start, None for one that does not learn or is best at the grid's edge.

    Args:
        losses: [starts, rates], inf where a run was lost.
        rates: in increasing order.

    Example:
        >>> import numpy as np
        >>> from hessinit_lite.lab.experiments.rates import best_rates
        >>> best_rates(np.array([[2.0, 0.5, 0.7], [2.0, 0.7, 0.5]]), [0.01, 0.03, 0.1])
        [0.03, None]
    """
    found = []
    for row in losses:
        best = int(row.argmin())
        learns = row[best] < LEARNED * np.log(10)
        found.append(rates[best] if learns and 0 < best < len(rates) - 1 else None)
    return found


def run(size="quick", progress=False):
    """Compute what is not stored yet, and return a Found.

    Args:
        size: "quick" (a seed of one grid, seconds) or "full" (minutes).
        progress: show a bar.

    Raises:
        ValueError: for an unknown size.
    """
    return _found(size, True, progress)


def stored():
    """What is stored of the full size, a Found; nothing is computed."""
    return _found("full", False, False)


def _found(size, compute, progress):
    device = fastest_device()
    where = opened(NAME, size, compute, lambda setting: setting["data"])
    function = functools.partial(curvatures, device=device)
    found = Found({}, [where])
    for name, grid in mnist.stored().grids.items():
        if size == "quick":
            grid = grid[:1] if name == "digits, 3 layers" else []
        grid = [each for each in grid if each[0]["depth"] < TOO_DEEP]
        settings = [setting_of(setting) for setting, _ in grid]
        if compute:
            settings = available(settings, lambda setting: setting["data"])
        of = answered(where, function, settings, compute, device, progress)
        if of and len(of) == len(grid):
            found.pairs[name] = pairs(grid, [curvature for _, curvature in of])
    return found


def pairs(grid, curvature):
    """[(start, λ, best rate)] of one grid: its medians and mean losses over the seeds.

    Args:
        grid: [(setting, answer)] of `mnist.experiment`.
        curvature: [seeds][starts].
    """
    runs = grid[0][0]["runs"]
    starts, rates = (list(dict.fromkeys(each)) for each in zip(*runs))
    losses = np.array([answer["epoch"] for _, answer in grid]).mean(0)
    best = best_rates(losses.reshape(len(starts), len(rates)), rates)
    middle = np.median(curvature, 0).tolist()
    return [each for each in zip(starts, middle, best) if each[2] is not None]
