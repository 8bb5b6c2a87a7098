"""The figure of steps: the loss along the first step of SGD and of Adam."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...critical import critical_rate
from ...curvature import hessian
from ...models import MLP
from ...plots import BLUE, ORANGE, legend_below, panels_in_a_row
from ...preconditioner import adam_preconditioner, preconditioned
from ...schemes import init_
from ...spectrum import gradient_quotient
from ..data import digits


class AlongTheStep(NamedTuple):
    """Of the first step of SGD and of Adam; rates in units of the critical one."""

    rates: torch.Tensor  # [R]
    losses: torch.Tensor  # [2 optimizers, R]
    parabolas: torch.Tensor  # [2, R], with the slope and curvature of the loss at 0
    critical: list  # [2], the critical rates


def measure_along_the_step(depth, activation, width=16, seed=0, samples=64):
    """The numbers of `along_the_step`, an AlongTheStep."""
    generator = torch.Generator().manual_seed(seed)
    batch = digits().batch(samples, generator)
    batch = batch[0].double(), batch[1]
    model = MLP(64, width, depth, 10, activation).double()
    init_(model, "forward", generator=generator)
    operator = hessian(model, F.cross_entropy, batch)
    gradient, rates, rows, critical = operator.gradient, torch.linspace(0, 1.5, 31), [], []
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    for name, diagonal in (
        ("sgd", torch.ones_like(gradient)),
        ("adam", adam_preconditioner(operator)),
    ):
        step = gradient / diagonal
        curvature = gradient_quotient(preconditioned(operator, diagonal), diagonal.sqrt() * step)
        slope = gradient @ step
        found = critical_rate(model, F.cross_entropy, batch, name).rate
        critical.append(found)
        parabola = operator.loss - found * rates * slope * (1 - found * rates * curvature / 2)
        losses = []
        with torch.no_grad():
            for rate in rates:
                weights = (start - found * rate * step).split(
                    [p.numel() for p in operator.parameters]
                )
                parts = {
                    n: w.view_as(p) for n, w, p in zip(operator.names, weights, model.parameters())
                }
                outputs = torch.func.functional_call(model, parts, (batch[0],))
                losses.append(F.cross_entropy(outputs, batch[1]))
        rows.append((torch.stack(losses), parabola))
    return AlongTheStep(rates, *map(torch.stack, zip(*rows)), critical)


def draw_along_the_step(numbers, depth, activation):
    """An AlongTheStep as a Figure."""
    figure, panels = panels_in_a_row(2, xlabel="rate / critical rate", ylabel="loss")
    rows = zip(panels, numbers.losses, numbers.parabolas, numbers.critical, ("SGD", "Adam"))
    for axes, losses, parabola, critical, name in rows:
        top = 2 * float(losses[0]) - float(losses.min())
        axes.plot(numbers.rates, losses, color=BLUE, label="loss along the first step")
        axes.plot(numbers.rates, parabola, "--", color=ORANGE, label="its parabola at 0")
        axes.axhline(float(losses[0]), color="black", linewidth=0.8, linestyle=":")
        axes.set_ylim(float(losses.min()) - 0.1, top if math.isfinite(top) else None)
        axes.set_title(f"{name}: critical rate {critical:.3g}")
    legend_below(figure, panels[0], 2)
    return figure


def along_the_step(depth, activation, width=16, seed=0, samples=64):
    """The loss along the first step of SGD and of Adam, and the parabola that it starts as.

    64 digits, cross-entropy, float64, scheme "forward". Where the parabola comes back is 2 over the
    curvature along the step; where the loss does is the critical rate.
    """
    return draw_along_the_step(
        measure_along_the_step(depth, activation, width, seed, samples), depth, activation
    )
