"""Figures of signals, gradients and correlations on their way through a net.

In the shapes L is the number of layers shown.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from ...chain_rule import layer_blocks
from ...models import MLP, activation_module, weight_layers
from ...plots import (
    BLUE,
    GRADIENT,
    GREEN,
    LAYER,
    ORANGE,
    PURPLE,
    RELATIVE_GRADIENT,
    RELATIVE_SIGNAL,
    SIGNAL,
    band,
    legend_below,
    panels_in_a_row,
    whole_layers,
)
from ...schemes import init_
from ...variance import fluctuation_profile, gain, gradient_profile, variance_profile
from ..correlation import correlation_map, correlation_profile
from ..data import digits
from .axes import some_layers, two_decades


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


def _relative_to_the_last(flows):
    """Signals and gradients (last layer = 1), each [..., depth], of flows [..., 2, depth]."""
    signal, gradient = flows.unbind(-2)
    return signal, gradient / gradient[..., -1:]


def _signal_and_gradient(depth, activation, signal=RELATIVE_SIGNAL, gradient=RELATIVE_GRADIENT):
    """A Figure, and its two panels by layer with the axes' words."""
    figure, (left, right) = panels_in_a_row(2, yscale="log", xlabel=LAYER)
    left.set(title=f"{activation}, depth {depth}: signal", ylabel=signal)
    right.set(title="gradient", ylabel=gradient)
    whole_layers(left, right)
    return figure, (left, right)


class VarianceFlow(NamedTuple):
    """Mean squares of u (input = 1) and of dL/du (last layer = 1); schemes: LeCun, He, torch's."""

    layers: torch.Tensor  # [L], from 1
    signal: torch.Tensor  # [3 schemes, nets, L]
    gradient: torch.Tensor  # [3 schemes, nets, L]
    predicted_signal: torch.Tensor  # [3 schemes, L]
    predicted_gradient: torch.Tensor  # [3 schemes, L]


def measure_variance_flow(depth, activation, width=128, seed=0, nets=5, samples=32):
    """The numbers of `variance_flow`, a VarianceFlow."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, width, generator=generator, dtype=torch.float64)
    model = MLP(width, width, depth, width, activation=activation).double()
    flows, predicted = [], []
    for scheme, weight_variance, bias_variance in (
        ("lecun", 1.0, 0.0),
        ("he", 2.0, 0.0),
        ("torch", 1 / 3, 1 / (3 * width)),
    ):
        for _ in range(nets):
            init_(model, scheme, generator=generator)
            flows.append(_layer_flow(model, inputs, generator))
        signal = variance_profile(activation, depth, weight_variance, bias_variance)
        predicted.append([signal, gradient_profile(activation, signal, weight_variance)])
    shown = some_layers(depth)
    measured = _relative_to_the_last(torch.stack(flows).unflatten(0, (3, nets)))
    flows = *measured, *torch.tensor(predicted).unbind(1)
    return VarianceFlow(shown, *(flow[..., shown - 1] for flow in flows))


def draw_variance_flow(numbers, depth, activation):
    """A VarianceFlow as a Figure."""
    figure, panels = _signal_and_gradient(depth, activation)
    for axes, measured, predicted in (
        (panels[0], numbers.signal, numbers.predicted_signal),
        (panels[1], numbers.gradient, numbers.predicted_gradient),
    ):
        for flow, line, label, color, marker in zip(
            measured,
            predicted,
            ("LeCun = Glorot", "He", "torch's default"),
            (ORANGE, BLUE, PURPLE),
            "^os",
        ):
            band(axes, numbers.layers, flow, color)
            axes.plot(numbers.layers, line, color=color, linewidth=1.2)
            axes.plot(numbers.layers, flow.mean(0), marker, color=color, markersize=4, label=label)
    legend_below(figure, panels[0], 3)
    return figure


def variance_flow(depth, activation, width=128, seed=0, nets=5, samples=32):
    """Variances through a net of equal widths: mean-field prediction (lines), real nets (dots).

    N(0, 1) inputs, float64. Dots: mean over the nets; bands: their range. Left: pre-activations.
    Right: gradients relative to the last layer's. Equal widths: Glorot is LeCun.
    """
    numbers = measure_variance_flow(depth, activation, width, seed, nets, samples)
    return draw_variance_flow(numbers, depth, activation)


class SignalByLayer(NamedTuple):
    """Mean squares of u and of dL/du (loss²) for three factors on the weights."""

    layers: torch.Tensor  # [L], from 1
    factors: tuple  # three
    signal: torch.Tensor  # [3 factors, L]
    gradient: torch.Tensor  # [3 factors, L]


def measure_signal_by_layer(depth, activation, width=64, seed=0):
    """The numbers of `signal_by_layer`, a SignalByLayer."""
    shown, factors = some_layers(depth), (0.5, 1.0, 1.5)
    found = []
    for factor in factors:
        generator = torch.Generator().manual_seed(seed)
        model = MLP(64, width, depth, 10, activation=activation).double()
        init_(model, "forward", generator=generator, factor=factor)
        inputs, targets = digits().batch(128, generator)
        signals = []
        for layer in model.layers:
            layer.register_forward_hook(lambda _, __, u: signals.append(u))
        loss = F.cross_entropy(model(inputs.double()), targets)
        for tensors in (signals, torch.autograd.grad(loss, signals)):
            found.append(torch.stack([tensors[k - 1].detach().square().mean() for k in shown]))
    return SignalByLayer(shown, factors, *torch.stack(found).unflatten(0, (3, 2)).unbind(1))


def draw_signal_by_layer(numbers, depth, activation):
    """A SignalByLayer as a Figure."""
    figure, panels = _signal_and_gradient(depth, activation, SIGNAL, f"{GRADIENT} (loss²)")
    for axes, by_factor in zip(panels, (numbers.signal, numbers.gradient)):
        for squares, factor, color, marker in zip(
            by_factor, numbers.factors, (ORANGE, BLUE, PURPLE), "vo^"
        ):
            style = dict(color=color, marker=marker, markersize=4)
            squares = squares.clamp(min=1e-30)
            axes.plot(numbers.layers, squares, **style, label=f"{factor:g} × the right scale")
    legend_below(figure, panels[0], 3)
    return figure


def signal_by_layer(depth, activation, width=64, seed=0):
    """Mean squares of signal and gradient by layer, for three scales of the weights.

    128 digits, cross-entropy, float64; the scheme "forward" and half and one and a half times its
    standard deviation. Values below 1e-30 are drawn there.
    """
    numbers = measure_signal_by_layer(depth, activation, width, seed)
    return draw_signal_by_layer(numbers, depth, activation)


class GainFlow(NamedTuple):
    """Mean squares of u (input = 1) and of dL/du (last layer = 1) under three gains."""

    layers: torch.Tensor  # [L], from 1
    gains: tuple  # the activation's forward gain, its backward gain, √2
    signal: torch.Tensor  # [3 gains, nets, L]
    gradient: torch.Tensor  # [3 gains, nets, L]


def measure_gain_flow(depth, activation, width=128, seed=0, nets=3, samples=32):
    """The numbers of `gain_flow`, a GainFlow."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, width, generator=generator, dtype=torch.float64)
    start = generator.get_state()
    model = MLP(width, width, depth, width, activation=activation).double()
    gains, flows = (gain(activation), gain(activation, "backward"), 2**0.5), []
    for g in gains:
        generator.set_state(start)
        for _ in range(nets):
            init_(model, "lecun", generator=generator, factor=g)
            with torch.no_grad():  # no activation comes before the first layer: gain 1
                model.layers[0].weight.div_(g)
            flows.append(_layer_flow(model, inputs, generator))
    shown = some_layers(depth)
    flows = _relative_to_the_last(torch.stack(flows).unflatten(0, (3, nets)))
    return GainFlow(shown, gains, *(flow[..., shown - 1] for flow in flows))


def draw_gain_flow(numbers, depth, activation):
    """A GainFlow as a Figure."""
    figure, panels = _signal_and_gradient(depth, activation)
    for axes, by_gain in zip(panels, (numbers.signal, numbers.gradient)):
        for flow, g, name, color, marker in zip(
            by_gain,
            numbers.gains,
            ("forward gain", "backward gain", "He"),
            (BLUE, ORANGE, GREEN),
            "os^",
        ):
            style = dict(color=color, marker=marker, markersize=4)
            band(axes, numbers.layers, flow, color)
            axes.plot(numbers.layers, flow.mean(0), **style, label=f"{name}: {g:.2f}")
        two_decades(axes)
    legend_below(figure, panels[0], 3)
    return figure


def gain_flow(depth, activation, width=128, seed=0, nets=3, samples=32):
    """
    Signal and gradient under the activation's forward gain, its backward gain, and He's root of 2.

    N(0, 1) inputs, equal widths, float64, the same draws for the three; means over the nets, bands
    their range. Right: relative to the last layer.
    """
    numbers = measure_gain_flow(depth, activation, width, seed, nets, samples)
    return draw_gain_flow(numbers, depth, activation)


class Fluctuations(NamedTuple):
    """What differs from net to net, and what mean-field theory says of it."""

    layers: torch.Tensor  # [L], from 1
    signal: torch.Tensor  # [L, nets], mean square of u
    mean_field: torch.Tensor  # [L], its prediction for infinite width
    spread: torch.Tensor  # [2, L], variance of log(mean square) of u, and of dL/du (last layer = 1)
    predicted_spread: torch.Tensor  # [L], of u


def measure_fluctuations(depth, activation, width=24, seed=0, nets=200):
    """The numbers of `fluctuations`, a Fluctuations."""
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
    mean_field = variance_profile(activation, depth, square, input_variance=1 / square)
    predicted = fluctuation_profile(activation, depth, width, square, input_variance=1 / square)
    return Fluctuations(
        layers=shown,
        signal=signal,
        mean_field=torch.tensor(mean_field)[shown - 1],
        spread=torch.stack([signal.log().var(1), (gradient / gradient[-1]).log().var(1)]),
        predicted_spread=torch.tensor(predicted)[shown - 1],
    )


def draw_fluctuations(numbers, depth, activation, width=24):
    """A Fluctuations, of nets of that width, as a Figure."""
    shown, signal = numbers.layers, numbers.signal.log10()
    figure, (left, right) = panels_in_a_row(2, xlabel=LAYER)
    most = signal.quantile(torch.tensor([0.1, 0.9], dtype=signal.dtype), dim=1)
    band(left, shown, most, BLUE)
    left.plot(shown, signal.quantile(0.5, dim=1), "o-", color=BLUE, markersize=4)
    left.plot(shown, numbers.mean_field.log10(), "--", color="black", linewidth=1)
    left.set(
        title=f"{activation}, depth {depth}, width {width}",
        ylabel="log10 of the mean square of u",
        ylim=(min(-2.0, 1.05 * float(most.min())), max(2.0, 1.05 * float(most.max()))),
    )
    predicted = numbers.predicted_spread
    predicted = torch.where(predicted < 100, predicted, torch.nan)
    right.plot(shown, numbers.spread[0], "o", color=BLUE, markersize=4, label="signal")
    right.plot(shown, predicted, color=BLUE, linewidth=1.2, label="signal, predicted")
    right.plot(shown, numbers.spread[1], "s", color=ORANGE, markersize=4, label="gradient")
    right.set(
        title=f"spread over {signal.shape[1]} nets",
        ylabel="variance of log(mean square)",
        ylim=(0, max(0.5, 1.15 * float(numbers.spread.max()))),
    )
    whole_layers(left, right)
    legend_below(figure, right, 3)
    return figure


def fluctuations(depth, activation, width=24, seed=0, nets=200):
    """How the mean square of the signal, and of the gradient, differs from net to net.

    N(0, 1) input, equal widths, scheme "forward", float64. Left: log10 of u's mean square; median,
    the band that holds 80 % of the nets, and dashed the mean-field prediction. Right: variance over
    the nets of the logarithm of the signal's mean square (with its prediction,
    `fluctuation_profile`, where that is below 100) and of the gradient's, relative to the last
    layer.
    """
    numbers = measure_fluctuations(depth, activation, width, seed, nets)
    return draw_fluctuations(numbers, depth, activation, width)


class Correlations(NamedTuple):
    """Correlations of the pre-activations of two inputs (numbers from -1 to 1)."""

    layers: torch.Tensor  # [L], from 1
    cosines: tuple  # of the three pairs of inputs
    measured: torch.Tensor  # [L, nets, 3 cosines]
    predicted: torch.Tensor  # [3 cosines, depth], every layer
    grid: torch.Tensor  # [21], correlations in one layer, 0 to 1
    map: torch.Tensor  # [21], and in the next
    slope: float  # of the map at 1


def measure_correlations(depth, activation, width=64, seed=0, nets=20):
    """The numbers of `correlations`, a Correlations."""
    generator = torch.Generator().manual_seed(seed)
    f, square = activation_module(activation), gain(activation) ** 2
    cosines = (0.0, 0.5, 0.9)
    basis = torch.linalg.qr(torch.randn(nets, width, 2, dtype=torch.float64, generator=generator)).Q
    one, other = basis.unbind(2)
    z = torch.stack([one] + [c * one + (1 - c * c) ** 0.5 * other for c in cosines], 2) * width**0.5
    measured = []
    for k in range(depth):
        w = torch.randn(nets, width, width, dtype=torch.float64, generator=generator)
        u = w @ z * ((square if k else 1.0) / width) ** 0.5
        measured.append(torch.cosine_similarity(u[:, :, :1], u[:, :, 1:], dim=1))
        z = f(u)
    shown, grid = some_layers(depth), torch.linspace(0, 1, 21)
    predicted = [
        correlation_profile(activation, depth, c, square, input_variance=1 / square)
        for c in cosines
    ]
    return Correlations(
        layers=shown,
        cosines=cosines,
        measured=torch.stack(measured)[shown - 1],
        predicted=torch.tensor(predicted),
        grid=grid,
        map=torch.tensor([correlation_map(activation, float(c)) for c in grid]),
        slope=square / gain(activation, "backward") ** 2,
    )


def draw_correlations(numbers, depth, activation, width=64):
    """A Correlations, of nets of that width, as a Figure."""
    shown, colors = numbers.layers, (BLUE, ORANGE, GREEN)
    figure, (left, right) = panels_in_a_row(2, height=3.4)
    left.plot((0, 1), (0, 1), ":", color="black", linewidth=0.8)
    left.plot(numbers.grid, numbers.map, color=PURPLE)
    for j in (0, 2):
        path = numbers.predicted[j, :12].repeat_interleave(2)
        left.plot(path[:-1], path[1:], color=colors[j], linewidth=1)
    left.set(
        title=f"{activation}: map, slope {numbers.slope:.2f} at 1",
        xlabel="correlation c in one layer",
        ylabel="c in the next layer",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    for c, color, measured, predicted in zip(
        numbers.cosines, colors, numbers.measured.unbind(2), numbers.predicted
    ):
        style = dict(color=color, markersize=4, label=f"inputs with cosine {c:g}")
        most = measured.quantile(torch.tensor([0.1, 0.9], dtype=measured.dtype), dim=1)
        band(right, shown, most, color)
        right.plot(shown, predicted[shown - 1], color=color, linewidth=1.2)
        right.plot(shown, measured.mean(1), "o", **style)
    right.set(
        title=f"depth {depth}, width {width}",
        xlabel=LAYER,
        ylabel="correlation of two inputs",
        ylim=(-1.05, 1.05),
    )
    whole_layers(right)
    legend_below(figure, right, 3)
    return figure


def correlations(depth, activation, width=64, seed=0, nets=20):
    """Whether two inputs stay apart: the correlation map, and its iteration in real nets.

    Scheme "forward", no biases, float64. Left: the map at unit variance, with the paths of two
    pairs of inputs through the first layers, at most 12. Right: correlation of the pre-activations
    of two inputs by layer, for three cosines of the inputs: predictions (lines), and real nets
    (mean, and the band that holds 80 % of them).
    """
    numbers = measure_correlations(depth, activation, width, seed, nets)
    return draw_correlations(numbers, depth, activation, width)


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


class ResidualFlow(NamedTuple):
    """By the kind of net, "plain", "z + branch", "z + branch / √depth" or "z + branch(norm z)"."""

    blocks: torch.Tensor  # [L], the blocks shown, from 1
    signal: dict  # kind: [L], mean square of z
    gradient: dict  # kind: [L], mean square of dL/dz (last block = 1)
    curvature: dict  # kind: [L], trace of the first matrix's Gauss-Newton block (loss / step²)


def measure_residual_flow(depth, activation, width=32, seed=0, samples=16):
    """The numbers of `residual_flow`, a ResidualFlow."""
    inputs, targets = digits().batch(samples, torch.Generator().manual_seed(seed))
    inputs, onehot = inputs.double(), F.one_hot(targets, 10).double()
    shown = some_layers(depth, most=6)
    numbers = ResidualFlow(shown, {}, {}, {})
    for kind, skip, scale, norm in (
        ("plain", 0, 1, False),
        ("z + branch", 1, 1, False),
        ("z + branch / √depth", 1, depth**-0.5, False),
        ("z + branch(norm z)", 1, 1, True),
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
        numbers.signal[kind] = signals[shown - 1]
        numbers.gradient[kind] = (gradients / gradients[-1])[shown - 1]
        numbers.curvature[kind] = torch.stack([block.trace() for block in blocks.values()])
    return numbers


def draw_residual_flow(numbers, depth, activation):
    """A ResidualFlow as a Figure."""
    figure = Figure(figsize=(7.2, 3.4))
    panels = figure.subplots(1, 3, subplot_kw=dict(yscale="log", xlabel="block (1 = first)"))
    # Fixed margins: finding them would take half of the drawing time.
    figure.subplots_adjust(left=0.1, right=0.99, bottom=0.26, top=0.83, wspace=0.52)
    for axes, by_kind, title, unit in zip(
        panels,
        (numbers.signal, numbers.gradient, numbers.curvature),
        ("signal", "gradient", "curvature"),
        ("mean square of z", "mean of (dL/dz)² (last = 1)", "trace of a block (loss / step²)"),
    ):
        for (kind, values), color, style in zip(
            by_kind.items(), (ORANGE, PURPLE, BLUE, GREEN), ("s-", "^--", "o-", "D:")
        ):
            values = values.clamp(1e-30, 1e30)
            axes.plot(numbers.blocks, values, style, color=color, markersize=3.5, label=kind)
        axes.set(title=title, ylabel=unit)
        axes.minorticks_off()
        axes.yaxis.get_major_locator().set_params(numticks=5)
        two_decades(axes)
    whole_layers(*panels)
    figure.suptitle(f"{activation}, {depth} blocks")
    legend_below(figure, panels[0], 4, loc="lower left")
    return figure


def residual_flow(depth, activation, width=32, seed=0, samples=16):
    """Signal, gradient and curvature by block: a plain net, and three kinds of residual nets.

    `depth` blocks of two weight matrices each, digits, float64, scheme "forward". Left: mean square
    of z behind a block. Middle: mean square of dL/dz for a random dL/doutput, independent N(0, 1)
    numbers, relative to the last block's. Right: trace of the Gauss-Newton block of the first
    matrix of a block, for outputs of constant curvature (half the squared error, summed over the
    classes). Values are drawn in 1e-30..1e30.
    """
    numbers = measure_residual_flow(depth, activation, width, seed, samples)
    return draw_residual_flow(numbers, depth, activation)
