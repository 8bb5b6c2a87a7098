"""Figures of Jacobian products (chapter 10): Theorem 7's bound, balance, what a rule keeps.

In the shapes L is the number of layers shown.
"""

from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ...chain_rule import layer_blocks, layer_norms, layer_traces
from ...models import activation_module
from ...plots import (
    BLUE,
    CURVATURE,
    GREEN,
    LAYER,
    ORANGE,
    PURPLE,
    legend_below,
    level,
    panels_in_a_row,
    whole_layers,
)
from ...variance import gain
from ..probes import digits_net, signals
from .axes import some_layers


def _squared_norm(matrices):
    return torch.linalg.matrix_norm(matrices, 2) ** 2


def _jacobians(model, inputs):
    """Slopes of A [N, d_k+1] and Jacobians J_k [N, d_k+1, d_k] of every layer."""
    us = [u.detach().requires_grad_() for u in signals(model, inputs).values()]
    outputs = sum(model.activation(u).sum() for u in us[:-1])
    slopes = [*torch.autograd.grad(outputs, us[:-1])]
    slopes.append(torch.ones_like(us[-1]))  # no activation behind the last
    return slopes, [
        slope[:, :, None] * layer.weight.detach() for slope, layer in zip(slopes, model.layers)
    ]


class JacobianBound(NamedTuple):
    """Theorem 7 for a batch, by layer: a norm and the three bounds on it."""

    layers: torch.Tensor  # [L], from 1
    norm: torch.Tensor  # [L], ‖H_w(k)‖ (loss per unit step²)
    bounds: torch.Tensor  # [3, L], behind the steps (1), (2), (3)
    kept: torch.Tensor  # [3, L], what each step keeps of the bound before it (ratio)


def measure_jacobian_bound(depth, activation, width=64, seed=0, samples=16):
    """The numbers of `jacobian_bound`, a JacobianBound."""
    shown = some_layers(depth, most=9)
    options = {"bias": False, "seed": seed, "samples": samples}
    model, batch = digits_net(activation, depth, width, **options)
    inputs = batch[0]
    slopes, jacobians = _jacobians(model, inputs)
    blocks = list(layer_blocks(model, F.cross_entropy, batch).values())
    root = _squared_norm(blocks[-1].curvature[:, :, 0].transpose(0, 1))  # ‖S‖² / N, by sample
    found = []
    for k in (shown - 1).tolist():
        eye = torch.eye(10, dtype=inputs.dtype)
        behind = _squared_norm(reduce(torch.matmul, reversed(jacobians[k + 1 :]), eye))
        before = _squared_norm(reduce(lambda a, b: b @ a, jacobians[:k], torch.eye(64).to(inputs)))
        gamma = _squared_norm(blocks[k].curvature[:, :, 0].transpose(0, 1))
        fed = blocks[k].inputs[:, 0].square().sum(1)
        tail = slopes[k].abs().amax(1) ** 2 * behind * root
        bounds = fed * gamma, fed * tail, before * inputs.square().sum(1) * tail
        found.append([blocks[k].norm(), *(float(bound.sum()) for bound in bounds)])
    sizes = torch.tensor(found, dtype=torch.float64).T
    return JacobianBound(shown, sizes[0], sizes[1:], sizes[:-1] / sizes[1:])


def draw_jacobian_bound(numbers, depth, activation):
    """A JacobianBound as a Figure."""
    figure, (left, right) = panels_in_a_row(2, height=3.6, yscale="log", xlabel=LAYER)
    left.plot(
        numbers.layers, numbers.norm, "o-", color=BLUE, markersize=4, label="norm of the block"
    )
    names = "(1) all samples agree", "(2) A, B, S line up", "(3) x is the worst input"
    styles = ("v--", GREEN), ("s--", PURPLE), ("^--", ORANGE)
    for bound, kept, name, (style, color) in zip(numbers.bounds, numbers.kept, names, styles):
        options = {"color": color, "markersize": 4, "markerfacecolor": "none"}
        left.plot(numbers.layers, bound, style, label=name, **options)
        right.plot(numbers.layers, kept, style, **options)
    left.set(title=f"{activation}, depth {depth}: norm —, bounds - -", ylabel=CURVATURE)
    right.set(title="what each step keeps", ylabel="kept by the step (ratio)")
    level(right)
    whole_layers(left, right)
    legend_below(figure, left, 2)
    return figure


def jacobian_bound(depth, activation, width=64, seed=0, samples=16):
    """Theorem 7 by layer: the norm and its three bounds (left), what each step keeps (right).

    Digits, cross-entropy, float64, no biases, the scheme "forward". Left: ‖H_w(k)‖ (solid), and
    means over the samples of ‖F‖² ‖Γ‖², of ‖F‖² ‖A‖² ‖B‖² ‖H_z‖ and of the same with
    ‖J_k-1 … J_0‖² ‖x‖² for ‖F‖² (dashed). Right: each of the four over the next; above 1 (dotted)
    the inequality is false.
    """
    numbers = measure_jacobian_bound(depth, activation, width, seed, samples)
    return draw_jacobian_bound(numbers, depth, activation)


class JacobianProducts(NamedTuple):
    """Both products and the norm by layer, for three factors on the weights."""

    layers: torch.Tensor  # [L], from 1
    factors: tuple  # three
    forward: torch.Tensor  # [3 factors, L], ‖F‖² / ‖x‖² (ratio)
    backward: torch.Tensor  # [3 factors, L], ‖Γ‖² / ‖S‖² (ratio)
    norm: torch.Tensor  # [3 factors, L], ‖H_w(k)‖ (loss per unit step²)


def measure_jacobian_products(depth, activation, width=32, seed=0, samples=8):
    """The numbers of `jacobian_products`, a JacobianProducts."""
    shown, factors = some_layers(depth, most=9), (0.8, 1.0, 1.25)
    found = []
    for factor in factors:
        options = {"bias": False, "seed": seed, "samples": samples, "factor": factor}
        model, batch = digits_net(activation, depth, width, **options)
        for k, layer in enumerate(model.layers):
            layer.weight.requires_grad_(k + 1 in shown)
        blocks = list(layer_blocks(model, F.cross_entropy, batch).values())
        norms = layer_norms(model, F.cross_entropy, batch, rtol=1e-2).values()
        sizes = batch[0].square().sum(), blocks[-1].curvature.square().sum()
        found.append(
            [
                (
                    float(block.inputs.square().sum() / sizes[0]),
                    float(block.curvature.square().sum() / sizes[1]),
                    norm,
                )
                for block, norm in zip(blocks, norms)
            ]
        )
    found = torch.tensor(found, dtype=torch.float64)  # [3 factors, L, 3]
    return JacobianProducts(shown, factors, *found.unbind(2))


def draw_jacobian_products(numbers, depth, activation):
    """A JacobianProducts as a Figure."""
    shown = numbers.layers
    figure, (left, right) = panels_in_a_row(2, height=3.6, yscale="log", xlabel=LAYER)
    for i, (factor, color, marker) in enumerate(
        zip(numbers.factors, (ORANGE, BLUE, PURPLE), "vo^")
    ):
        style = dict(color=color, marker=marker, markersize=4)
        left.plot(shown, numbers.forward[i], **style, label=f"{factor:g} × the forward scale")
        left.plot(shown, numbers.backward[i], "--", **style, markerfacecolor="none")
        right.plot(shown, numbers.norm[i], **style)
    figure.suptitle(f"{activation}, depth {depth}")
    left.set(title="products: forward —, backward - -", ylabel="mean square (ratio)")
    right.set(title="norm of the layer's block", ylabel=f"norm ({CURVATURE})")
    ends = [axes.get_ylim() for axes in (left, right)]
    decades = max(100.0, *(high / low for low, high in ends))
    for axes, (low, high) in zip((left, right), ends):  # as many decades on both sides
        middle = (low * high) ** 0.5
        axes.set_ylim(middle / decades**0.5, middle * decades**0.5)
    whole_layers(left, right)
    legend_below(figure, left, 3)
    return figure


def jacobian_products(depth, activation, width=32, seed=0, samples=8):
    """Balance by layer: the two products of Jacobians (left), the norm made of both (right).

    Digits, cross-entropy, float64, no biases; the scheme "forward" with 0.8, 1 and 1.25 times its
    standard deviation. Left: ‖F‖² / ‖x‖², the forward product on the inputs (solid), and
    ‖Γ‖² / ‖S‖², the transposed backward product on the root S of the loss's curvature (dashed), in
    squared Frobenius norms over the samples. Right: ‖H_w(k)‖, over as many decades.
    """
    numbers = measure_jacobian_products(depth, activation, width, seed, samples)
    return draw_jacobian_products(numbers, depth, activation)


class FanRules(NamedTuple):
    """What four rules keep in a net that narrows, by layer."""

    layers: torch.Tensor  # [L], from 1
    rules: tuple  # four names
    signal: torch.Tensor  # [4 rules, nets, L], mean square of u per unit
    trace: torch.Tensor  # [4 rules, nets, L], of the Gauss-Newton block (loss per unit step²)


def measure_fan_rules(depth, activation, seed=0, nets=5, samples=8):
    """The numbers of `fan_rules`, a FanRules."""
    shown = some_layers(depth, most=9)
    widths = torch.logspace(7, 4, depth + 1, base=2).round().int().tolist()
    before, behind = torch.tensor(widths[:-1]).double(), torch.tensor(widths[1:]).double()
    gains = torch.full((depth,), gain(activation) ** 2, dtype=torch.float64)
    gains[0] = 1  # no activation comes before the first layer
    variances = {"fan-in": gains / before, "fan-out": gains / behind}
    variances["Glorot"] = 2 * gains / (before + behind)
    one = variances["fan-in"].log().mean().exp()
    variances["one variance"] = one.expand(depth)
    found = []
    for of in variances.values():
        for net in range(nets):
            generator = torch.Generator().manual_seed(1000 * seed + net)
            model = _chain(widths, of, activation, generator)
            like = dict(dtype=torch.float64, generator=generator)
            x, y = torch.randn(samples, widths[0], **like), torch.randn(samples, widths[-1], **like)
            traces = torch.tensor([*layer_traces(model, F.mse_loss, (x, y)).values()])
            squares = [u.detach().square().mean() for u in signals(model, x).values()]
            found.append(torch.stack([torch.stack(squares), traces.double()])[:, shown - 1])
    signal, trace = torch.stack(found).view(4, nets, 2, -1).unbind(2)
    return FanRules(shown, tuple(variances), signal, trace)


def _chain(widths, variances, activation, generator):
    """A dense net without biases of these widths, a variance a layer, float64."""
    parts = []
    for columns, rows, variance in zip(widths, widths[1:], variances.tolist()):
        parts += [nn.Linear(columns, rows, bias=False, dtype=torch.float64)]
        nn.init.normal_(parts[-1].weight, 0, variance**0.5, generator=generator)
        parts += [activation_module(activation)]
    return nn.Sequential(*parts[:-1])


def draw_fan_rules(numbers, depth, activation):
    """A FanRules as a Figure."""
    figure, (left, right) = panels_in_a_row(2, height=3.6, yscale="log", xlabel=LAYER)
    styles = ("o-", BLUE), ("v--", ORANGE), ("s:", PURPLE), ("^-.", GREEN)
    for i, (rule, (style, color)) in enumerate(zip(numbers.rules, styles)):
        options = {"color": color, "markersize": 4}
        trace = numbers.trace[i].log().mean(0)
        left.plot(
            numbers.layers, numbers.signal[i].log().mean(0).exp(), style, label=rule, **options
        )
        right.plot(numbers.layers, (trace - trace.mean()).exp(), style, **options)
    left.set(title=f"{activation}, depth {depth}: signal", ylabel="mean square of u, per unit")
    right.set(title="curvature", ylabel="trace (layers' mean = 1)")
    for axes in (left, right):
        level(axes)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.05), max(high, 20))
    whole_layers(left, right)
    legend_below(figure, left, 4)
    return figure


def fan_rules(depth, activation, seed=0, nets=5, samples=8):
    """What four rules for the variance keep in nets that narrow from 128 units to 16.

    Normal inputs and targets, squared error, float64, no biases; widths fall by one factor a layer.
    Each rule carries the squared forward gain; "one variance" is the geometric mean of fan-in's.
    Left: mean square of u, per unit; right: trace of each layer's Gauss-Newton block over the
    layers' geometric mean; geometric means over the nets.
    """
    return draw_fan_rules(
        measure_fan_rules(depth, activation, seed, nets, samples), depth, activation
    )
