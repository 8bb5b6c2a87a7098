"""Figures of what the scale of the weights does: the principle, rates, embeddings.

Numbers are as measured; what a figure draws at the edge of its range is kept there by the drawing.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...chain_rule import layer_norms
from ...curvature import hessian
from ...models import MLP, weight_layers
from ...plots import (
    BLUE,
    CURVATURE,
    GREEN,
    ORANGE,
    band,
    legend_below,
    level,
    panels_in_a_row,
)
from ...principle import hessian_init_
from ...schemes import init_
from ...spectrum import top_eigenvalues
from ..corpus import docstrings
from ..data import digits


class Principle(NamedTuple):
    """Spectral norms of the layers' Gauss-Newton blocks (loss per unit step²)."""

    before: torch.Tensor  # [depth], under the scheme "forward"
    after: torch.Tensor | None  # [depth], after hessian_init_; None where it failed
    outcome: str  # how hessian_init_ ended, in words


def measure_principle(depth, activation, width=32, seed=0):
    """The numbers of `principle`, a Principle."""
    generator = torch.Generator().manual_seed(seed)
    model = MLP(64, width, depth, 10, activation=activation)
    init_(model, "forward", generator=generator)
    batch, loss_fn = digits().batch(64, generator), F.cross_entropy
    norms = list(layer_norms(model, loss_fn, batch, rtol=1e-2).values())
    before = torch.tensor(norms, dtype=torch.float64)
    try:
        report = hessian_init_(model, loss_fn, batch, scheme=None, max_steps=8)
    except ValueError as error:  # norms that underflow to zero: no scale to solve for
        return Principle(before, None, str(error).split(",")[0])
    after = torch.tensor(list(report.norms.values()), dtype=torch.float64)
    outcome = (
        f"within 1 % after {report.steps} measurements"
        if report.converged
        else f"target 1 not reached in {report.steps} measurements"
    )
    return Principle(before, after, outcome)


def draw_principle(numbers, depth, activation):
    """A Principle as a Figure."""
    figure, (axes,) = panels_in_a_row(yscale="log")
    level(axes)
    for norms, style, color, label in (
        (numbers.before, "o-", ORANGE, "before: forward init"),
        (numbers.after, "s-", BLUE, "after: hessian_init_"),
    ):
        if norms is not None:
            axes.plot(range(1, depth + 1), norms, style, color=color, markersize=4, label=label)
    axes.set(
        xlabel="layer k (1 = first)",
        ylabel=f"norm of the block ({CURVATURE})",
        title=f"{activation}, depth {depth}: {numbers.outcome}",
    )
    legend_below(figure, axes, 2)
    return figure


def principle(depth, activation, width=32, seed=0):
    """Spectral norms of the layers' Gauss-Newton blocks before and after hessian_init_.

    Digits, 64 samples, target 1, at most 8 measurements; before: the scheme "forward".
    """
    numbers = measure_principle(depth, activation, width, seed)
    return draw_principle(numbers, depth, activation)


class _BagOfWords(torch.nn.Module):
    """Four words' rows of an embedding table, summed and divided by √4, into a dense net."""

    def __init__(self, words, net):
        super().__init__()
        self.words = torch.nn.Embedding(words, net.layers[0].in_features)
        self.net = net

    def forward(self, inputs):
        return self.net(self.words(inputs).sum(1) / 2)


class EmbeddingScale(NamedTuple):
    """Norms of Gauss-Newton blocks (loss per unit step²) by the scale of an embedding table."""

    scales: torch.Tensor  # [9], standard deviation of the table's entries
    embedding: torch.Tensor  # [9], norm of the table's block
    first: torch.Tensor | None  # [9], of the first dense layer; None where that is the last one
    last: torch.Tensor  # [9], of the last dense layer


def measure_embedding_scale(depth, activation, width=16, seed=0, samples=64):
    """The numbers of `embedding_scale`, an EmbeddingScale."""
    generator = torch.Generator().manual_seed(seed)
    text = docstrings(("numpy",)).tokens
    windows = text[text < 200].unfold(0, 5, 1)
    windows = windows[windows[:, 2] < 10]
    windows = windows[torch.randint(len(windows), (samples,), generator=generator)]
    batch, loss_fn = (windows[:, [0, 1, 3, 4]], windows[:, 2]), F.cross_entropy
    net = MLP(width, width, depth, 10, activation=activation, bias=False)
    model = _BagOfWords(200, init_(net, "forward", generator=generator))
    table = torch.randn(200, width, generator=generator)
    first, last = "net.layers.0", f"net.layers.{depth - 1}"
    for name, layer in weight_layers(net).items():  # the others' norms are not asked for
        layer.weight.requires_grad_(f"net.{name}" in (first, last))
    scales, norms = torch.logspace(-3, 1, 9), []
    for scale in scales:
        with torch.no_grad():
            model.words.weight.copy_(scale * table)
        norms.append(layer_norms(model, loss_fn, batch, rtol=1e-2))

    def of(name):
        return torch.tensor([found[name] for found in norms], dtype=torch.float64)

    return EmbeddingScale(scales, of("words"), of(first) if depth > 1 else None, of(last))


def draw_embedding_scale(numbers, depth, activation):
    """An EmbeddingScale as a Figure."""
    figure, (axes,) = panels_in_a_row(xscale="log", yscale="log")
    level(axes)
    for norms, label, color, style in (
        (numbers.embedding, "embedding table", BLUE, "o-"),
        (numbers.first, "first dense layer", ORANGE, "s--"),
        (numbers.last, "last dense layer", GREEN, "^:"),
    ):
        if norms is not None:
            norms = norms.clamp(min=1e-12)
            axes.plot(numbers.scales, norms, style, color=color, markersize=4, label=label)
    axes.set(
        xlabel="standard deviation σ of the embedding's entries (its units)",
        ylabel=f"norm of the block\n({CURVATURE})",
        ylim=(3e-13, 1e13),
        title=f"{activation}, {depth} dense layers on an embedding",
    )
    legend_below(figure, axes, 3)
    return figure


def embedding_scale(depth, activation, width=16, seed=0, samples=64):
    """Norms of an embedding table's block and of dense layers' on top of it, by the table's scale.

    The task: which of the 10 most frequent words stands between four words, all among the 200 most
    frequent; NumPy's docstrings. Table: normal entries of deviation σ; dense layers (`depth` of
    them, without biases): scheme "forward", the same for all σ. Norms drawn at 1e-12 where they are
    smaller.
    """
    numbers = measure_embedding_scale(depth, activation, width, seed, samples)
    return draw_embedding_scale(numbers, depth, activation)


def _descend(weights, f, batch, rates, steps):
    """Gradient descent of R bias-free dense nets side by side: losses before [R] and after [R].

    weights: one tensor [R, out, in] a layer. rates(step): learning rates [R] of a step.
    """
    inputs, targets = batch
    weights = [w.detach().clone().requires_grad_() for w in weights]
    runs = len(weights[0])

    def losses():
        z = inputs.expand(runs, -1, -1)
        for w in weights[:-1]:
            z = f(z @ w.mT)
        outputs = (z @ weights[-1].mT).flatten(0, 1)
        return (
            F.cross_entropy(outputs, targets.repeat(runs), reduction="none").view(runs, -1).mean(1)
        )

    before = None
    for step in range(steps):
        now = losses()
        before = now.detach() if step == 0 else before
        gradients = torch.autograd.grad(now.sum(), weights)
        with torch.no_grad():
            for w, gradient in zip(weights, gradients):
                w.sub_(rates(step)[:, None, None] * gradient)
    return before, losses().detach()


class ScaleAndRate(NamedTuple):
    """Losses after some steps by learning rate, for norms divided by 10, as drawn and times 10."""

    rates: torch.Tensor  # [13], learning rates
    norms: torch.Tensor  # [3 scales], geometric mean of the layers' norms (loss per unit step²)
    losses: torch.Tensor  # [3 scales, 13] (nats); infinite where the run diverged


def measure_scale_and_rate(depth, activation, width=16, seed=0, steps=12):
    """The numbers of `scale_and_rate`, a ScaleAndRate."""
    generator = torch.Generator().manual_seed(seed)
    model = MLP(64, width, depth, 10, activation=activation, bias=False)
    init_(model, "forward", generator=generator)
    batch, rates = digits().batch(24, generator), torch.logspace(-3, 0.5, 13)
    drawn = [layer.weight.detach().clone() for layer in model.layers]
    means, found = [], []
    for factor in (0.1, 1, 10):
        for layer, weight in zip(model.layers, drawn):
            layer.weight.data.copy_(weight * factor ** (0.5 / (depth - 1)))
        norms = layer_norms(model, F.cross_entropy, batch, norm="frobenius").values()
        means.append(torch.tensor(list(norms), dtype=torch.float64).log().mean().exp())
        weights = [layer.weight.expand(len(rates), -1, -1) for layer in model.layers]
        _, losses = _descend(weights, model.activation, batch, lambda _: rates, steps)
        found.append(losses.nan_to_num(torch.inf, torch.inf))
    return ScaleAndRate(rates, torch.stack(means), torch.stack(found))


def draw_scale_and_rate(numbers, depth, activation, steps=12):
    """A ScaleAndRate, after that many steps, as a Figure."""
    rates = numbers.rates
    figure, (left, right) = panels_in_a_row(2, xscale="log", ylim=(0, 4.1))
    for norm, losses, color, style, label in zip(
        numbers.norms,
        numbers.losses.clamp(max=4),
        (BLUE, GREEN, ORANGE),
        (":", "--", "-"),
        ("norms / 10", "as drawn", "norms × 10"),
    ):
        left.plot(rates, losses, style, color=color, linewidth=2, label=label)
        right.plot(rates * norm, losses, style, color=color, linewidth=2)
    left.set(
        xlabel="learning rate η",
        ylabel=f"loss after {steps} steps (nats)",
        title=f"{activation}, depth {depth}",
    )
    right.set(
        xlabel="η × norm of a layer (number)",
        ylabel="the same loss (nats)",
        title="against rate × norm",
    )
    legend_below(figure, left, 3)
    return figure


def scale_and_rate(depth, activation, width=16, seed=0, steps=12):
    """
    Loss after some steps against the learning rate, and against rate times norm, for three scales.

    Gradient descent on one batch of 24 digits, nets without biases, scheme "forward", 13 rates side
    by side. All weights are scaled by 10^(±1/(2(depth - 1))), which the scaling law says changes
    every layer's norm by a factor 10. "Norm" is the geometric mean of the layers' Frobenius norms,
    measured. Losses above 4, and runs that diverged, are drawn at 4.
    """
    numbers = measure_scale_and_rate(depth, activation, width, seed, steps)
    return draw_scale_and_rate(numbers, depth, activation, steps)


class LargestRate(NamedTuple):
    """Loss after some steps over the loss at the start (ratio); infinite where it is not finite."""

    multiples: torch.Tensor  # [9], learning rate in units of 2/λ (ratio)
    constant: torch.Tensor  # [nets, 9], one rate throughout
    warmup: torch.Tensor  # [nets, 9], a rate that grows over the first half of the steps


def measure_largest_rate(depth, activation, width=16, seed=0, nets=3, samples=32, steps=24):
    """The numbers of `largest_rate`, a LargestRate."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = digits().batch(samples, generator)
    model = MLP(64, width, depth, 10, activation=activation, bias=False)
    multiples = 10 ** torch.linspace(-2, 2, 9)
    weights, rates = [], []
    for _ in range(nets):
        init_(model, "forward", generator=generator)
        operator = hessian(model, F.cross_entropy, (inputs, targets))
        (value,), _ = top_eigenvalues(operator, rtol=0.05, generator=generator)
        weights.append([layer.weight.detach().clone() for layer in model.layers])
        rates.append(multiples * 2 / value.abs())
    rates = torch.cat(rates)
    weights = [
        torch.stack(each).repeat_interleave(len(multiples), 0).repeat(2, 1, 1)
        for each in zip(*weights)
    ]

    def both(step):  # without and with warm-up
        return torch.cat([rates, rates * min(1, (step + 1) / max(1, steps // 2))])

    before, after = _descend(weights, model.activation, (inputs, targets), both, steps)
    ratios = (after / before).nan_to_num(torch.inf, torch.inf)
    return LargestRate(multiples, *ratios.view(2, nets, -1))


def draw_largest_rate(numbers, depth, activation, steps=24):
    """A LargestRate, after that many steps, as a Figure."""
    figure, (axes,) = panels_in_a_row(xscale="log", yscale="log")
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.axhline(1, color="gray", linewidth=0.8)
    for ratio, color, marker, label in (
        (numbers.constant, ORANGE, "s", "one rate throughout"),
        (numbers.warmup, BLUE, "o", "with warm-up"),
    ):
        style = dict(alpha=0.2, marker=marker, markersize=4, label=label)
        band(axes, numbers.multiples, ratio.clamp(0.03, 10), color, **style)
    axes.set(
        xlabel="learning rate · λ / 2 (ratio; 1 = predicted limit)",
        ylim=(0.025, 12),
        ylabel=f"loss after {steps} steps / loss at start",
        title=f"{activation}, depth {depth}",
    )
    # Plain text draws twice as fast.
    axes.set_xticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    axes.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes.minorticks_off()
    legend_below(figure, axes, 2)
    return figure


def largest_rate(depth, activation, width=16, seed=0, nets=3, samples=32, steps=24):
    """Loss after a few steps of full-batch gradient descent, for learning rates in units of 2/λ.

    Digits, cross-entropy, scheme "forward", bias-free; λ the Hessian's eigenvalue of largest
    magnitude at the start. Median and range over the nets of the loss after the steps over the loss
    at the start, for one rate throughout and for a rate that grows linearly over the first half of
    them. Ratios above 10 and losses that are not finite are drawn at 10, ratios below 0.03 at 0.03.
    """
    numbers = measure_largest_rate(depth, activation, width, seed, nets, samples, steps)
    return draw_largest_rate(numbers, depth, activation, steps)
