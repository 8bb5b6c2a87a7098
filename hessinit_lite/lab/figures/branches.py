"""The figure of chapter 21: the stream of a small GPT, block by block, at four starts."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ...plots import BLUE, GREEN, ORANGE, PURPLE, legend_below, panels_in_a_row, whole_layers
from ...scaling import scale_branches_
from ...schemes import init_
from ..transformers import GPT

KINDS = {
    "branches as drawn": None,
    "ends over √(2L)": "1/sqrt(L)",
    "ends over 2L": "1/L",
    "post-norm": "post",
}


class BranchStarts(NamedTuple):
    """By kind of start; L is the number of blocks, `depth`."""

    signal: dict  #: {kind: mean square of z behind every block [L], that of the tables = 1}
    gradient: dict  #: {kind: mean square of the loss's gradient there [L], the last = 1}


def measure_branch_starts(depth, activation, width=32, seed=0, samples=4):
    """The numbers of `branch_starts`, a BranchStarts."""
    numbers = BranchStarts({}, {})
    for kind, factor in KINDS.items():
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(128, (samples, 17), generator=generator)
        order = "post" if factor == "post" else "pre"
        net = GPT(128, width, depth, 2, 16, activation=activation, order=order).double()
        init_(net, "lecun", generator=generator)
        for table in (net.tokens, net.places):
            nn.init.normal_(table.weight, std=0.02, generator=generator)
        if factor in ("1/sqrt(L)", "1/L"):
            scale_branches_(net, ("*.attention.out", "*.mlp.down"), factor)
        stream = []
        hook = lambda _, args, z: stream.append(z)
        for block in net.blocks:
            block.register_forward_hook(hook)
        before = []
        net.blocks[0].register_forward_pre_hook(lambda _, args: before.append(args[0].detach()))
        loss = F.cross_entropy(net(tokens[:, :-1]), tokens[:, 1:])
        gradients = torch.stack(torch.autograd.grad(loss, stream)).square().mean((1, 2, 3))
        signal = torch.stack([z.detach().square().mean() for z in stream])
        numbers.signal[kind] = signal / before[0].square().mean()
        numbers.gradient[kind] = gradients / gradients[-1]
    return numbers


def draw_branch_starts(numbers, depth, activation):
    """A BranchStarts as a Figure."""
    figure, panels = panels_in_a_row(2, yscale="log", xlabel="block (1 = first)")
    titles = f"{activation}, {depth} blocks: signal", "gradient"
    units = "mean square of z (tables = 1)", "mean of (dL/dz)² (last = 1)"
    for axes, by_kind, title, unit in zip(panels, numbers, titles, units):
        styles = zip((ORANGE, BLUE, GREEN, PURPLE), ("s-", "o--", "^-.", "D:"))
        for (kind, values), (color, style) in zip(by_kind.items(), styles):
            options = {"color": color, "markersize": 3, "label": kind}
            axes.plot(range(1, depth + 1), values.clamp(1e-12, 1e12), style, **options)
        axes.set(title=title, ylabel=unit)
        axes.minorticks_off()
    whole_layers(*panels)
    legend_below(figure, panels[0], 2)
    return figure


def branch_starts(depth, activation, width=32, seed=0, samples=4):
    """Signal and gradient behind the blocks of a small GPT, at four starts.

    Random tokens, float64, weights of variance 1/fan_in, tables N(0, 0.02²); pre-norm with the ends
    of its branches as drawn, over √(2L) or over 2L, and post-norm. `depth` counts blocks, of two
    branches each.
    """
    numbers = measure_branch_starts(depth, activation, width, seed, samples)
    return draw_branch_starts(numbers, depth, activation)
