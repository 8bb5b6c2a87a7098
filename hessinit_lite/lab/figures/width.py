"""The figure of chapter 19: curvature by layer at several widths, with one rate and with μP's."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...chain_rule import layer_traces
from ...models import MLP
from ...plots import (
    BLUE,
    CURVATURE,
    GREEN,
    LAYER,
    ORANGE,
    legend_below,
    panels_in_a_row,
    whole_layers,
)
from ...scaling import width_multipliers
from ...schemes import init_
from ..data import digits
from .axes import some_layers


class WidthCurvature(NamedTuple):
    """Traces of the layers' blocks, times the multipliers of their rates."""

    layers: torch.Tensor  # [L], from 1
    widths: tuple  # [W]
    one_rate: torch.Tensor  # [W, L]
    mup: torch.Tensor  # [W, L]


def measure_width_curvature(depth, activation, seed=0, widths=(16, 64, 256), samples=16):
    """The numbers of `width_curvature`, a WidthCurvature."""
    shown = some_layers(depth, 12)
    one_rate, mup = [], []
    base = MLP(64, widths[0], depth, 10, activation, bias=False)
    for width in widths:
        generator = torch.Generator().manual_seed(seed)
        inputs, targets = digits().batch(samples, generator)
        model = MLP(64, width, depth, 10, activation, bias=False).double()
        init_(model, "forward", generator=generator)
        names = [f"layers.{k - 1}" for k in shown.tolist()]
        batch = inputs.double(), F.one_hot(targets, 10).double()

        def traces(model=model, batch=batch, names=names):
            found = layer_traces(model, F.mse_loss, batch, layers=names)
            return torch.tensor([found[name] for name in names])

        one_rate.append(traces())
        with torch.no_grad():
            model.layers[-1].weight.mul_(math.sqrt(widths[0] / width))
        multipliers = width_multipliers(model, base)
        mup.append(traces() * torch.tensor([multipliers[f"{name}.weight"] for name in names]))
    return WidthCurvature(shown, tuple(widths), torch.stack(one_rate), torch.stack(mup))


def draw_width_curvature(numbers, depth, activation):
    """A WidthCurvature as a Figure."""
    figure, panels = panels_in_a_row(2, yscale="log", xlabel=LAYER, ylabel=f"trace ({CURVATURE})")
    styles = zip(numbers.widths, (BLUE, GREEN, ORANGE), ("o-", "s--", "^:"))
    for i, (width, color, style) in enumerate(styles):
        for axes, values in zip(panels, (numbers.one_rate[i], numbers.mup[i])):
            shown = values.clamp(min=1e-12)
            options = {"color": color, "markersize": 4, "label": f"width {width}"}
            axes.plot(numbers.layers, shown, style, **options)
    panels[0].set_title(f"{activation}, depth {depth}: one rate")
    panels[1].set_title("μP: times the rates' multipliers")
    low, high = zip(*(axes.get_ylim() for axes in panels))
    for axes in panels:
        axes.set_ylim(min(low), max(high))
        axes.minorticks_off()
    whole_layers(*panels)
    legend_below(figure, panels[0], 3)
    return figure


def width_curvature(depth, activation, seed=0, widths=(16, 64, 256), samples=16):
    """Curvature by layer of a dense net at three widths: one rate, and μP's.

    Digits, squared error, float64, scheme "forward", no biases; traces of the Gauss-Newton blocks
    of at most 12 layers. Left as they are; right with the last layer multiplied by √(narrowest /
    width), and every trace by the multiplier that μP puts on the layer's rate. Values below 1e-12
    are drawn there.
    """
    numbers = measure_width_curvature(depth, activation, seed, widths, samples)
    return draw_width_curvature(numbers, depth, activation)
