"""Figures of what the scale of the weights does: the principle, rates, embeddings."""

import torch
import torch.nn.functional as F

from ...chain_rule import layer_norms
from ...curvature import hessian
from ...models import MLP, weight_layers
from ...plots import BLUE, GREEN, ORANGE, legend_below, panels_in_a_row
from ...principle import hessian_init_
from ...schemes import init_
from ...spectrum import top_eigenvalues
from ..corpus import docstrings
from ..data import digits


def principle(depth, activation, width=32, seed=0):
    """Spectral norms of the layers' Gauss-Newton blocks before and after hessian_init_.

    Digits, 64 samples, target 1, at most 8 measurements; before: the scheme "forward".
    """
    generator = torch.Generator().manual_seed(seed)
    model = MLP(64, width, depth, 10, activation=activation)
    init_(model, "forward", generator=generator)
    batch, loss_fn = digits().batch(64, generator), F.cross_entropy
    before = list(layer_norms(model, loss_fn, batch, rtol=1e-2).values())
    figure, (axes,) = panels_in_a_row()
    layers = range(1, depth + 1)
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.semilogy(layers, before, "o-", color=ORANGE, markersize=4, label="before: forward init")
    try:
        report = hessian_init_(model, loss_fn, batch, scheme=None, max_steps=8)
        after = list(report.norms.values())
        axes.semilogy(layers, after, "s-", color=BLUE, markersize=4, label="after: hessian_init_")
        outcome = (
            f"within 1 % after {report.steps} measurements"
            if report.converged
            else f"target 1 not reached in {report.steps} measurements"
        )
    except ValueError as error:  # norms that underflow to zero: no scale to solve for
        outcome = str(error).split(",")[0]
    axes.set(
        xlabel="layer k (1 = first)",
        ylabel="‖H_w(k)‖ (loss per unit step²)",
        title=f"{activation}, depth {depth}: {outcome}",
    )
    legend_below(figure, axes, 2)
    return figure


class _BagOfWords(torch.nn.Module):
    """Four words' rows of an embedding table, summed and divided by √4, into a dense net."""

    def __init__(self, words, net):
        super().__init__()
        self.words = torch.nn.Embedding(words, net.layers[0].in_features)
        self.net = net

    def forward(self, inputs):
        return self.net(self.words(inputs).sum(1) / 2)


def embedding_scale(depth, activation, width=16, seed=0, samples=64):
    """Norms of an embedding table's block and of dense layers' on top of it, by the table's scale.

    The task: which of the 10 most frequent words stands between four words, all among the 200 most
    frequent; NumPy's docstrings. Table: normal entries of deviation σ; dense layers (`depth` of them,
    without biases): scheme "forward", the same for all σ. Norms drawn at 1e-12 where they are smaller.
    """
    generator = torch.Generator().manual_seed(seed)
    text = docstrings(("numpy",)).tokens
    windows = text[text < 200].unfold(0, 5, 1)
    windows = windows[windows[:, 2] < 10]
    windows = windows[torch.randint(len(windows), (samples,), generator=generator)]
    batch, loss_fn = (windows[:, [0, 1, 3, 4]], windows[:, 2]), F.cross_entropy
    net = MLP(width, width, depth, 10, activation=activation, bias=False)
    model = _BagOfWords(200, init_(net, "forward", generator=generator))
    table = torch.randn(200, width, generator=generator)
    ends = {
        "words": ("embedding table", BLUE, "o-"),
        "net.layers.0": ("first dense layer", ORANGE, "s--"),
        f"net.layers.{depth - 1}": ("last dense layer", GREEN, "^:"),
    }
    for name, layer in weight_layers(net).items():  # the others' norms are not asked for
        layer.weight.requires_grad_(f"net.{name}" in ends)
    scales, norms = torch.logspace(-3, 1, 9), {name: [] for name in ends}
    for scale in scales:
        with torch.no_grad():
            model.words.weight.copy_(scale * table)
        for name, norm in layer_norms(model, loss_fn, batch, rtol=1e-2).items():
            norms[name].append(max(1e-12, norm))
    figure, (axes,) = panels_in_a_row()
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    for name, (label, color, style) in ends.items():
        axes.loglog(scales, norms[name], style, color=color, markersize=4, label=label)
    axes.set(
        xlabel="standard deviation σ of the embedding's entries (its units)",
        ylabel="norm of the block\n(loss per unit step²)",
        ylim=(3e-13, 1e13),
        title=f"{activation}, {depth} dense layers on an embedding",
    )
    legend_below(figure, axes, 3)
    return figure


def _descend(weights, f, batch, rates, steps):
    """Gradient descent of R bias-free dense nets side by side: (losses before [R], losses after [R]).

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


def scale_and_rate(depth, activation, width=16, seed=0, steps=12):
    """Loss after some steps against the learning rate, and against rate times norm, for three scales.

    Gradient descent on one batch of 24 digits, nets without biases, scheme "forward", 13 rates side by side.
    All weights are scaled by 10^(±1/(2(depth - 1))), which the scaling law says changes every layer's norm
    by a factor 10. "Norm" is the geometric mean of the layers' Frobenius norms, measured. Losses above 4,
    and runs that diverged, are drawn at 4.
    """
    generator = torch.Generator().manual_seed(seed)
    model = MLP(64, width, depth, 10, activation=activation, bias=False)
    init_(model, "forward", generator=generator)
    batch, rates = digits().batch(24, generator), torch.logspace(-3, 0.5, 13)
    drawn = [layer.weight.detach().clone() for layer in model.layers]
    figure, (left, right) = panels_in_a_row(2)
    for factor, color, style, label in (
        (0.1, BLUE, ":", "norms / 10"),
        (1, GREEN, "--", "as drawn"),
        (10, ORANGE, "-", "norms × 10"),
    ):
        for layer, weight in zip(model.layers, drawn):
            layer.weight.data.copy_(weight * factor ** (0.5 / (depth - 1)))
        norms = layer_norms(model, F.cross_entropy, batch, norm="frobenius").values()
        norm = torch.tensor(list(norms), dtype=torch.float64).log().mean().exp()
        weights = [layer.weight.expand(len(rates), -1, -1) for layer in model.layers]
        _, losses = _descend(weights, model.activation, batch, lambda _: rates, steps)
        losses = losses.nan_to_num(5, 5).clamp(max=4)
        left.semilogx(rates, losses, style, color=color, linewidth=2, label=label)
        right.semilogx(rates * norm, losses, style, color=color, linewidth=2)
    left.set(
        xlabel="learning rate η",
        ylim=(0, 4.1),
        ylabel=f"loss after {steps} steps (nats)",
        title=f"{activation}, depth {depth}",
    )
    right.set(
        xlabel="η × norm of a layer (number)",
        ylim=(0, 4.1),
        ylabel="the same loss (nats)",
        title="against rate × norm",
    )
    legend_below(figure, left, 3)
    return figure


def largest_rate(depth, activation, width=16, seed=0, nets=3, samples=32, steps=24):
    """Loss after a few steps of full-batch gradient descent, for learning rates in units of 2/λ.

    Digits, cross-entropy, scheme "forward", bias-free; λ the Hessian's eigenvalue of largest magnitude at
    the start. Median and range over the nets of the loss after the steps over the loss at the start, for
    one rate throughout and for a rate that grows linearly over the first half of them. Ratios above 10 and
    losses that are not finite are drawn at 10, ratios below 0.03 at 0.03.
    """
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
    ratios = (after / before).nan_to_num(10, 10).clamp(0.03, 10).view(2, nets, -1)

    figure, (axes,) = panels_in_a_row()
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.axhline(1, color="gray", linewidth=0.8)
    for ratio, color, marker, label in zip(
        ratios, (ORANGE, BLUE), "so", ("one rate throughout", "with warm-up")
    ):
        axes.fill_between(
            multiples, ratio.amin(0), ratio.amax(0), color=color, alpha=0.2, linewidth=0
        )
        axes.loglog(
            multiples, ratio.median(0).values, marker + "-", color=color, markersize=4, label=label
        )
    axes.set(
        xlabel="learning rate · λ / 2 (ratio; 1 = predicted limit)",
        ylim=(0.025, 12),
        ylabel=f"loss after {steps} steps / loss at start",
        title=f"{activation}, depth {depth}",
    )
    axes.set_xticks(
        [0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"]
    )  # plain text draws twice as fast
    axes.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes.minorticks_off()
    legend_below(figure, axes, 2)
    return figure
