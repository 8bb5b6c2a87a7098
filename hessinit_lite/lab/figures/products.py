"""The figure of the chapter on products: differences of gradients against the exact product."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parameters_to_vector

from ...curvature import hessian
from ...plots import BLUE, ORANGE, legend_below, panels_in_a_row
from ..probes import digits_net, seeded


class DifferenceError(NamedTuple):
    """Relative errors of H v (ratios): a row for float32, a row for float64."""

    steps: torch.Tensor  # [S], h, the distance in weight space
    one_sided: torch.Tensor  # [2, S], of (∇L(w + hv) − ∇L(w)) / h
    central: torch.Tensor  # [2, S], of (∇L(w + hv) − ∇L(w − hv)) / 2h


def measure_difference_error(depth, activation, width=32, seed=0, samples=64):
    """The numbers of `difference_error`, a DifferenceError."""
    model, (inputs, targets) = digits_net(activation, depth, width, seed=seed, samples=samples)
    names, parameters = zip(*model.named_parameters())
    w = parameters_to_vector(parameters).detach()
    v = torch.randn(len(w), generator=seeded(seed + 100)).to(w)
    v = v / torch.linalg.vector_norm(v)
    exact = hessian(model, F.cross_entropy, (inputs, targets)) @ v
    steps = torch.logspace(-11, 1, 37, dtype=w.dtype)
    sizes = [p.numel() for p in parameters]

    def loss(w):
        parts = [part.view_as(p) for part, p in zip(w.split(sizes), parameters)]
        moved = dict(zip(names, parts))
        return F.cross_entropy(functional_call(model, moved, inputs.to(w)), targets)

    found = []
    for dtype in (torch.float32, torch.float64):
        at, along, h = w.to(dtype), v.to(dtype), steps.to(dtype)[:, None]
        moves = torch.cat((0 * h[:1], h, -h)) * along
        # All in one pass: the kernel for one net may round differently.
        here, ahead, behind = vmap(grad(loss))(at + moves).split((1, len(h), len(h)))
        for estimate in ((ahead - here) / h, (ahead - behind) / (2 * h)):
            error = torch.linalg.vector_norm(estimate.to(exact) - exact, dim=1)
            found.append(error / torch.linalg.vector_norm(exact))
    return DifferenceError(steps, torch.stack(found[::2]), torch.stack(found[1::2]))


def draw_difference_error(numbers, depth, activation):
    """A DifferenceError as a Figure."""
    figure, panels = panels_in_a_row(2, xscale="log", yscale="log", ylim=(1e-11, 1e7))
    for row, (axes, dtype) in enumerate(zip(panels, ("float32", "float64"))):
        axes.plot(numbers.steps, numbers.one_sided[row], "--", color=ORANGE, label="one-sided")
        axes.plot(numbers.steps, numbers.central[row], "-", color=BLUE, label="central")
        axes.set(xlabel="step h (distance in weight space)", ylabel="relative error of H v (ratio)")
        axes.set(title=f"{activation}, depth {depth}: {dtype}")
    legend_below(figure, panels[0], 2)
    return figure


def difference_error(depth, activation, width=32, seed=0, samples=64):
    """The error of differences of gradients, as H v along a random direction v of length 1.

    Digits, 64 samples, scheme "forward", the Hessian over all weights and biases. The reference is
    the exact product in float64. Left: gradients in float32; right: in float64.
    """
    numbers = measure_difference_error(depth, activation, width, seed, samples)
    return draw_difference_error(numbers, depth, activation)
