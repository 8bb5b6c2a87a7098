"""Figures of signals, gradients and correlations on their way through a net."""

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from ...chain_rule import layer_blocks
from ...models import MLP, activation_module, weight_layers
from ...plots import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    legend_below,
    panels_in_a_row,
    some_layers,
    two_decades,
)
from ...schemes import init_
from ...variance import (
    correlation_map,
    correlation_profile,
    fluctuation_profile,
    gain,
    gradient_profile,
    variance_profile,
)
from ..data import digits


def _layer_flow(model, inputs, generator=None):
    """Mean squares by layer, [2, depth]: of the pre-activations u, and of the gradients in u.

    The gradient that enters at the output is drawn at random, independent N(0, 1) numbers, so that
    only the network's own effect is seen. Means are over samples and units.
    """
    signals = []
    hooks = [
        layer.register_forward_hook(lambda _, __, u: signals.append(u))
        for layer in weight_layers(model).values()
    ]
    try:
        outputs = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    entering = torch.empty_like(outputs).normal_(generator=generator)
    gradients = torch.autograd.grad(outputs, signals, entering)
    return torch.stack(
        [
            torch.stack([t.detach().square().mean() for t in tensors])
            for tensors in (signals, gradients)
        ]
    )


def variance_flow(depth, activation, width=128, seed=0, nets=5, samples=32):
    """Variances through a net of equal widths: mean-field prediction (lines), real nets (dots).

    N(0, 1) inputs, float64. Dots: mean over the nets; bands: their range. Left: pre-activations.
    Right: gradients relative to the last layer's. Equal widths: Glorot is LeCun.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, width, generator=generator, dtype=torch.float64)
    model = MLP(width, width, depth, width, activation=activation).double()
    shown = some_layers(depth)
    figure, panels = panels_in_a_row(2)
    for scheme, label, color, marker, weight_variance, bias_variance in (
        ("lecun", "LeCun = Glorot", ORANGE, "^", 1.0, 0.0),
        ("he", "He", BLUE, "o", 2.0, 0.0),
        ("torch", "torch's default", PURPLE, "s", 1 / 3, 1 / (3 * width)),
    ):
        measured = torch.stack(
            [
                _layer_flow(init_(model, scheme, generator=generator), inputs, generator)
                for _ in range(nets)
            ]
        )
        measured[:, 1] /= measured[:, 1, -1:].clone()
        signal = variance_profile(activation, depth, weight_variance, bias_variance)
        gradient = gradient_profile(activation, signal, weight_variance)
        for axes, flow, predicted in zip(panels, measured.unbind(1), (signal, gradient)):
            flow, predicted = flow[:, shown - 1], torch.tensor(predicted)[shown - 1]
            axes.fill_between(
                shown, flow.amin(0), flow.amax(0), color=color, alpha=0.25, linewidth=0
            )
            axes.semilogy(shown, predicted, color=color, linewidth=1.2)
            axes.semilogy(shown, flow.mean(0), marker, color=color, markersize=4, label=label)
    left, right = panels
    left.set(
        title=f"{activation}, depth {depth}: signal",
        xlabel="layer (1 = first)",
        ylabel="mean square of u (input = 1)",
    )
    right.set(
        title="gradient", xlabel="layer (1 = first)", ylabel="mean square of dL/du (last = 1)"
    )
    legend_below(figure, left, 3)
    return figure


def signal_by_layer(depth, activation, width=64, seed=0):
    """Mean squares of signal and gradient by layer, for three scales of the weights.

    128 digits, cross-entropy, float64; the scheme "forward" and half and one and a half times its
    standard deviation. Values below 1e-30 are drawn there.
    """
    figure, panels = panels_in_a_row(2)
    shown = some_layers(depth)
    for factor, color, marker in ((0.5, ORANGE, "v"), (1.0, BLUE, "o"), (1.5, PURPLE, "^")):
        generator = torch.Generator().manual_seed(seed)
        model = MLP(64, width, depth, 10, activation=activation).double()
        init_(model, "forward", generator=generator, factor=factor)
        inputs, targets = digits().batch(128, generator)
        signals = []
        for layer in model.layers:
            layer.register_forward_hook(lambda _, __, u: signals.append(u))
        loss = F.cross_entropy(model(inputs.double()), targets)
        gradients = torch.autograd.grad(loss, signals)
        for axes, tensors in zip(panels, (signals, gradients)):
            squares = [max(1e-30, float(tensors[k - 1].detach().square().mean())) for k in shown]
            axes.semilogy(
                shown,
                squares,
                color=color,
                marker=marker,
                markersize=4,
                label=f"{factor:g} × the right scale",
            )
    left, right = panels
    left.set(
        title=f"{activation}, depth {depth}: signal",
        xlabel="layer (1 = first)",
        ylabel="mean square of u",
    )
    right.set(title="gradient", xlabel="layer (1 = first)", ylabel="mean square of dL/du (loss²)")
    legend_below(figure, left, 3)
    return figure


def gain_flow(depth, activation, width=128, seed=0, nets=3, samples=32):
    """Signal and gradient under the activation's forward gain, its backward gain, and He's root of 2.

    N(0, 1) inputs, equal widths, float64, the same draws for the three; means over the nets, bands
    their range. Right: relative to the last layer.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, width, generator=generator, dtype=torch.float64)
    start = generator.get_state()
    model = MLP(width, width, depth, width, activation=activation).double()
    shown = some_layers(depth)
    figure, panels = panels_in_a_row(2)
    for label, g, color, marker in (
        ("forward gain", gain(activation), BLUE, "o"),
        ("backward gain", gain(activation, "backward"), ORANGE, "s"),
        ("He", 2**0.5, GREEN, "^"),
    ):
        flows = []
        generator.set_state(start)
        for _ in range(nets):
            init_(model, "lecun", generator=generator, factor=g)
            with torch.no_grad():  # no activation comes before the first layer: gain 1
                model.layers[0].weight.div_(g)
            flows.append(_layer_flow(model, inputs, generator))
        flows = torch.stack(flows)
        flows[:, 1] /= flows[:, 1, -1:].clone()
        for axes, flow in zip(panels, flows.unbind(1)):
            flow = flow[:, shown - 1]
            axes.fill_between(
                shown, flow.amin(0), flow.amax(0), color=color, alpha=0.25, linewidth=0
            )
            axes.semilogy(
                shown,
                flow.mean(0),
                color=color,
                marker=marker,
                markersize=4,
                label=f"{label}: {g:.2f}",
            )
    left, right = panels
    left.set(
        title=f"{activation}, depth {depth}: signal",
        xlabel="layer (1 = first)",
        ylabel="mean square of u (input = 1)",
    )
    right.set(
        title="gradient", xlabel="layer (1 = first)", ylabel="mean square of dL/du (last = 1)"
    )
    legend_below(figure, left, 3)
    return figure


def fluctuations(depth, activation, width=24, seed=0, nets=200):
    """How the mean square of the signal, and of the gradient, differs from net to net.

    N(0, 1) input, equal widths, scheme "forward", float64. Left: log10 of u's mean square; median,
    the band that holds 80 % of the nets, and dashed the mean-field prediction. Right: variance over the nets
    of the logarithm of the signal's mean square (with its prediction, `fluctuation_profile`, where
    that is below 100) and of the gradient's, relative to the last layer.
    """
    generator = torch.Generator().manual_seed(seed)
    f, square = activation_module(activation), gain(activation) ** 2
    z = torch.randn(nets, width, 1, dtype=torch.float64, generator=generator)
    z = z / z.square().mean(1, keepdim=True).sqrt()
    signals = []
    for k in range(depth):
        w = torch.randn(nets, width, width, dtype=torch.float64, generator=generator)
        w *= ((square if k else 1.0) / width) ** 0.5
        signals.append((w @ z).requires_grad_() if k == 0 else w @ z)
        z = f(signals[-1])
    entering = torch.randn(signals[-1].shape, dtype=torch.float64, generator=generator)
    gradients = torch.autograd.grad(signals[-1], signals, entering)
    shown = some_layers(depth)
    signal, gradient = (
        torch.stack([t.detach().square().mean((1, 2)) for t in tensors])[shown - 1]
        for tensors in (signals, gradients)
    )
    spreads = signal.log().var(1), (gradient / gradient[-1]).log().var(1)

    figure, (left, right) = panels_in_a_row(2)
    low, middle, high = (signal.log10().quantile(p, dim=1) for p in (0.1, 0.5, 0.9))
    left.fill_between(shown, low, high, color=BLUE, alpha=0.25, linewidth=0)
    left.plot(shown, middle, "o-", color=BLUE, markersize=4)
    mean_field = torch.tensor(
        variance_profile(activation, depth, square, input_variance=1 / square)
    )
    left.plot(shown, mean_field[shown - 1].log10(), "--", color="black", linewidth=1)
    left.set(
        title=f"{activation}, depth {depth}, width {width}",
        xlabel="layer (1 = first)",
        ylabel="log10 of the mean square of u",
        ylim=(min(-2.0, 1.05 * float(low.min())), max(2.0, 1.05 * float(high.max()))),
    )
    left.xaxis.get_major_locator().set_params(integer=True)
    predicted = torch.tensor(
        fluctuation_profile(activation, depth, width, square, input_variance=1 / square)
    )
    predicted = torch.where(predicted < 100, predicted, torch.nan)[shown - 1]
    right.plot(shown, spreads[0], "o", color=BLUE, markersize=4, label="signal")
    right.plot(shown, predicted, color=BLUE, linewidth=1.2, label="signal, predicted")
    right.plot(shown, spreads[1], "s", color=ORANGE, markersize=4, label="gradient")
    right.set(
        title=f"spread over {nets} nets",
        xlabel="layer (1 = first)",
        ylabel="variance of log(mean square)",
    )
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set_ylim(0, max(0.5, 1.15 * float(torch.stack(spreads).max())))
    legend_below(figure, right, 3)
    return figure


def correlations(depth, activation, width=64, seed=0, nets=20):
    """Whether two inputs stay apart: the correlation map, and its iteration in real nets.

    Scheme "forward", no biases, float64. Left: the map at unit variance, with the paths of two pairs
    of inputs through the first layers, at most 12. Right: correlation of the pre-activations of two
    inputs by layer, for three cosines of the inputs: predictions (lines), and real nets (mean, and
    the band that holds 80 % of them).
    """
    generator = torch.Generator().manual_seed(seed)
    f, square = activation_module(activation), gain(activation) ** 2
    cosines, colors = (0.0, 0.5, 0.9), (BLUE, ORANGE, GREEN)
    basis = torch.linalg.qr(torch.randn(nets, width, 2, dtype=torch.float64, generator=generator)).Q
    one, other = basis.unbind(2)
    z = torch.stack([one] + [c * one + (1 - c * c) ** 0.5 * other for c in cosines], 2) * width**0.5
    measured = []
    for k in range(depth):
        w = torch.randn(nets, width, width, dtype=torch.float64, generator=generator)
        u = w @ z * ((square if k else 1.0) / width) ** 0.5
        measured.append(torch.cosine_similarity(u[:, :, :1], u[:, :, 1:], dim=1))
        z = f(u)
    shown = some_layers(depth)
    measured = torch.stack(measured)[shown - 1]  # [layers, nets, cosines]
    predicted = [
        correlation_profile(activation, depth, c, square, input_variance=1 / square)
        for c in cosines
    ]

    figure, (left, right) = panels_in_a_row(2, height=3.4)
    grid = torch.linspace(0, 1, 21)
    left.plot((0, 1), (0, 1), ":", color="black", linewidth=0.8)
    left.plot(grid, [correlation_map(activation, float(c)) for c in grid], color=PURPLE)
    for j in (0, 2):
        path = torch.tensor(predicted[j][:12])
        left.plot(
            path.repeat_interleave(2)[:-1],
            path.repeat_interleave(2)[1:],
            color=colors[j],
            linewidth=1,
        )
    left.set(
        title=f"{activation}: map, slope {square / gain(activation, 'backward') ** 2:.2f} at 1",
        xlabel="correlation c in one layer",
        ylabel="c in the next layer",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    for j, (c, color) in enumerate(zip(cosines, colors)):
        band = measured[..., j].quantile(torch.tensor([0.1, 0.9], dtype=torch.float64), dim=1)
        right.fill_between(shown, *band, color=color, alpha=0.25, linewidth=0)
        right.plot(shown, torch.tensor(predicted[j])[shown - 1], color=color, linewidth=1.2)
        right.plot(
            shown,
            measured[..., j].mean(1),
            "o",
            color=color,
            markersize=4,
            label=f"inputs with cosine {c:g}",
        )
    right.set(
        title=f"depth {depth}, width {width}",
        xlabel="layer (1 = first)",
        ylabel="correlation of two inputs",
        ylim=(-1.05, 1.05),
    )
    right.xaxis.get_major_locator().set_params(integer=True)
    legend_below(figure, right, 3)
    return figure


class _ResidualNet(torch.nn.Module):
    """A dense stem, `blocks` times z' = skip · z + scale · W₂ f(W₁ f(norm(z))), a dense layer."""

    def __init__(self, blocks, width, activation, skip, scale, norm):
        super().__init__()
        self.stem = torch.nn.Linear(64, width, bias=False)
        self.pairs = torch.nn.ModuleList(
            torch.nn.Linear(width, width, bias=False) for _ in range(2 * blocks)
        )
        self.dense = torch.nn.Linear(width, 10, bias=False)
        self.activation, self.skip, self.scale = activation_module(activation), skip, scale
        self.norm = (
            torch.nn.LayerNorm(width, elementwise_affine=False) if norm else torch.nn.Identity()
        )

    def forward(self, inputs):
        """Outputs and the list of all z that go into and come out of the blocks."""
        stream = [self.stem(inputs)]
        for first, second in zip(self.pairs[::2], self.pairs[1::2]):
            branch = second(self.activation(first(self.activation(self.norm(stream[-1])))))
            stream.append(self.skip * stream[-1] + self.scale * branch)
        return self.dense(self.norm(stream[-1])), stream


class _Outputs(torch.nn.Module):
    """The same net without the list: what losses and curvature want to see."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, inputs):
        return self.net(inputs)[0]


def residual_flow(depth, activation, width=32, seed=0, samples=16):
    """Signal, gradient and curvature by block: a plain net, and three kinds of residual nets.

    `depth` blocks of two weight matrices each, digits, float64, scheme "forward". Left: mean square of z
    behind a block. Middle: mean square of dL/dz for a random dL/doutput, independent N(0, 1) numbers,
    relative to the last block's. Right: trace of the Gauss-Newton block of the first matrix of a block, for
    outputs of constant curvature (half the squared error, summed over the classes). Values are kept in
    1e-30..1e30.
    """
    inputs, targets = digits().batch(samples, torch.Generator().manual_seed(seed))
    inputs, onehot = inputs.double(), F.one_hot(targets, 10).double()
    shown = some_layers(depth, most=6)
    figure = Figure(
        figsize=(7.2, 3.4)
    )  # fixed margins: finding them would take half of the drawing time
    panels = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.1, right=0.99, bottom=0.26, top=0.83, wspace=0.52)
    for label, skip, scale, norm, color, style in (
        ("plain", 0, 1, False, ORANGE, "s-"),
        ("z + branch", 1, 1, False, PURPLE, "^--"),
        ("z + branch / √depth", 1, depth**-0.5, False, BLUE, "o-"),
        ("z + branch(norm z)", 1, 1, True, GREEN, "D:"),
    ):
        generator = torch.Generator().manual_seed(seed)
        net = _ResidualNet(depth, width, activation, skip, scale, norm).double()
        init_(net, "forward", generator=generator).requires_grad_(False)
        for k in shown:  # curvature of the others is not needed
            net.pairs[2 * k - 2].weight.requires_grad_()
        outputs, stream = net(inputs)
        entering = torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype)
        gradients = (
            torch.stack(torch.autograd.grad(outputs, stream[1:], entering)).square().mean((1, 2))
        )
        signals = torch.stack([z.detach().square().mean() for z in stream[1:]])
        blocks = layer_blocks(_Outputs(net), lambda z, t: 5 * F.mse_loss(z, t), (inputs, onehot))
        traces = torch.stack([block.trace() for block in blocks.values()])
        for axes, values in zip(
            panels, (signals[shown - 1], (gradients / gradients[-1])[shown - 1], traces)
        ):
            axes.semilogy(
                shown, values.clamp(1e-30, 1e30), style, color=color, markersize=3.5, label=label
            )
    for axes, title, unit in zip(
        panels,
        ("signal", "gradient", "curvature"),
        ("mean square of z", "mean of (dL/dz)² (last = 1)", "trace of a block (loss / step²)"),
    ):
        axes.set(title=title, xlabel="block (1 = first)", ylabel=unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.minorticks_off()
        axes.yaxis.get_major_locator().set_params(numticks=5)
        two_decades(axes)
    figure.suptitle(f"{activation}, {depth} blocks")
    legend_below(figure, panels[0], 4, loc="lower left")
    return figure
