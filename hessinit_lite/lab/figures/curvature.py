"""Figures of curvature: spectra, the chain rule, a Jacobian's spectrum, convolutions.

In the shapes L is the number of layers shown. Numbers are as measured; what a figure draws at the
edge of its range is kept there by the drawing.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...chain_rule import layer_blocks, layer_gradients
from ...curvature import gauss_newton, hessian
from ...models import MLP, activation_module
from ...plots import (
    BLUE,
    CURVATURE,
    GREEN,
    LAYER,
    ORANGE,
    RELATIVE_SIGNAL,
    band,
    legend_below,
    level,
    panels_in_a_row,
    whole_layers,
)
from ...schemes import init_
from ...spectrum import spectral_density, top_eigenvalues
from ...variance import gain, gradient_profile, variance_profile
from ..data import digits
from .axes import some_layers, two_decades


class ChainRuleError(NamedTuple):
    """Along a layer's normalized gradient ĝ, at the layers shown."""

    layers: list  # [L], from 1
    hessian: torch.Tensor  # [L], |ĝᵀHĝ| (loss per unit step²)
    gauss_newton: torch.Tensor  # [L], |ĝᵀGĝ| (loss per unit step²)
    error: torch.Tensor  # [L], ‖(H − G)ĝ‖ / ‖Hĝ‖ (ratio)


def measure_chain_rule_error(depth, activation, width=32, seed=0):
    """The numbers of `chain_rule_error`, a ChainRuleError."""
    generator = torch.Generator().manual_seed(seed)
    model = MLP(64, width, depth, 10, activation=activation).double()
    init_(model, "forward", generator=generator)
    inputs, targets = digits().batch(128, generator)
    batch, loss_fn = (inputs.double(), targets), F.cross_entropy
    blocks = layer_blocks(model, loss_fn, batch)
    gradients = layer_gradients(model, loss_fn, batch)
    names = list(blocks)
    shown = sorted({round(i * (depth - 1) / 5) for i in range(6)})
    found = []
    for k in shown:
        unit = gradients[names[k]].flatten()
        unit = unit / torch.linalg.vector_norm(unit)
        h, g = hessian(model, loss_fn, batch, layer=names[k]) @ unit, blocks[names[k]] @ unit
        error = torch.linalg.vector_norm(h - g) / torch.linalg.vector_norm(h)
        found.append(torch.stack([(unit @ h).abs(), (unit @ g).abs(), error]))
    return ChainRuleError([k + 1 for k in shown], *torch.stack(found, 1))


def draw_chain_rule_error(numbers, depth, activation):
    """A ChainRuleError as a Figure."""
    figure, (left, right) = panels_in_a_row(2, yscale="log", xlabel="layer k (1 = first)")
    left.plot(numbers.layers, numbers.hessian, "o-", color=BLUE, label="Hessian")
    left.plot(numbers.layers, numbers.gauss_newton, "s--", color=ORANGE, label="Gauss-Newton")
    left.set(ylabel=f"|ĝᵀ H ĝ| ({CURVATURE})", title=f"{activation}, depth {depth}: curvature")
    right.plot(numbers.layers, numbers.error.clamp(min=1e-16), "o-", color=GREEN)
    right.set(
        ylabel="‖(H − G) ĝ‖ / ‖H ĝ‖ (ratio)",
        ylim=(3e-17, 30),
        title="what Gauss-Newton leaves out",
    )
    whole_layers(left, right)
    legend_below(figure, left, 2)
    return figure


def chain_rule_error(depth, activation, width=32, seed=0):
    """The Gauss-Newton block against the Hessian's, along the gradient, at six layers of a net.

    Digits, 128 samples, float64, scheme "forward". Left: |ĝᵀHĝ| of both blocks, ĝ the layer's
    normalized gradient. Right: ‖(H − G)ĝ‖/‖Hĝ‖, drawn at 1e-16 where it is smaller.
    """
    numbers = measure_chain_rule_error(depth, activation, width, seed)
    return draw_chain_rule_error(numbers, depth, activation)


class LanczosConvergence(NamedTuple):
    """Errors and residual bounds, relative to the eigenvalue (ratios), after 1, 2, ... products."""

    layer: str  # whose Hessian block it is
    largest: float  # the eigenvalue of largest magnitude, by 40 products (loss per unit step²)
    power_error: torch.Tensor  # [30], of power iteration
    power_bound: torch.Tensor  # [30]
    lanczos_error: torch.Tensor  # [30], of Lanczos
    lanczos_bound: torch.Tensor  # [30]


def measure_lanczos_convergence(depth, activation, width=32, seed=0):
    """The numbers of `lanczos_convergence`, a LanczosConvergence."""
    generator = torch.Generator().manual_seed(seed)
    model = MLP(64, width, depth, 10, activation=activation).double()
    init_(model, "forward", generator=generator)
    inputs, targets = digits().batch(64, generator)
    layer = f"layers.{depth // 2}"
    block = hessian(model, F.cross_entropy, (inputs.double(), targets), layer=layer)
    x = torch.randn(block.shape[0], 1, dtype=block.dtype, generator=generator)
    x /= torch.linalg.vector_norm(x)

    def best_of(basis, images):
        """Rayleigh-Ritz: the largest eigenvalue seen in span(basis), and its residual norm."""
        values, vectors = torch.linalg.eigh(basis.T @ images)
        top = values.abs().argmax()
        residual = images @ vectors[:, top] - values[top] * (basis @ vectors[:, top])
        return torch.stack([values[top], torch.linalg.vector_norm(residual)])

    power, lanczos = [], []
    basis, images = x, block.matmat(x)
    for _ in range(40):
        lanczos.append(best_of(basis, images))
        new = images[:, -1:]
        for _ in range(2):
            new = new - basis @ (basis.T @ new)
        basis = torch.cat([basis, new / torch.linalg.vector_norm(new)], dim=1)
        images = torch.cat([images, block.matmat(basis[:, -1:])], dim=1)
    for _ in range(30):
        y = block.matmat(x)
        power.append(best_of(x, y))
        x = y / torch.linalg.vector_norm(y)

    truth = lanczos[-1][0]
    curves = []
    for steps in (power, lanczos[:30]):
        value, residual = torch.stack(steps, 1)
        curves += [(value / truth - 1).abs(), residual / truth.abs()]
    return LanczosConvergence(layer, float(truth), *curves)


def draw_lanczos_convergence(numbers, depth, activation):
    """A LanczosConvergence as a Figure."""
    figure, (axes,) = panels_in_a_row(height=3.6, yscale="log")
    for name, error, bound, color, marker in (
        ("power iteration", numbers.power_error, numbers.power_bound, ORANGE, "s"),
        ("Lanczos", numbers.lanczos_error, numbers.lanczos_bound, BLUE, "o"),
    ):
        products = range(1, len(error) + 1)
        error, bound = error.clamp(min=1e-16), bound.clamp(min=1e-16)
        axes.plot(products, error, marker + "-", color=color, markersize=4, label=f"{name}: error")
        axes.plot(products, bound, "--", color=color, label=f"{name}: residual bound")
    title = f"{activation}, depth {depth}, {numbers.layer}"
    axes.set(
        xlabel="Hessian-vector products",
        ylabel="relative to the eigenvalue (ratio)",
        ylim=(3e-17, 30),
        title=f"{title}: largest eigenvalue {numbers.largest:.3g}",
    )
    legend_below(figure, axes, 2)
    return figure


def lanczos_convergence(depth, activation, width=32, seed=0):
    """Error and residual bound of the largest Hessian eigenvalue, by power iteration and Lanczos.

    Digits, 64 samples, float64, scheme "forward", the Hessian block of the middle layer; both start
    from one random vector. Relative to the value of Lanczos after 40 products; at least 1e-16.
    """
    numbers = measure_lanczos_convergence(depth, activation, width, seed)
    return draw_lanczos_convergence(numbers, depth, activation)


class Density(NamedTuple):
    """Densities of eigenvalues in units of the Hessian's largest magnitude."""

    grid: torch.Tensor  # [231], where they are evaluated, -1.15 to 1.15
    largest: float  # the Hessian's largest magnitude (loss per unit step²)
    hessian: torch.Tensor  # [231]
    gauss_newton: torch.Tensor  # [231]


def measure_density(depth, activation, width=24, seed=0, steps=30, samples=2):
    """The numbers of `density`, a Density."""
    generator = torch.Generator().manual_seed(seed)
    model = MLP(64, width, depth, 10, activation=activation).double()
    init_(model, "forward", generator=generator)
    inputs, targets = digits().batch(64, generator)
    grid, largest, heights = torch.linspace(-1.15, 1.15, 231, dtype=torch.float64), None, []
    for build in (hessian, gauss_newton):
        operator = build(model, F.cross_entropy, (inputs.double(), targets))
        nodes, weights = spectral_density(operator, steps, samples, generator)
        largest = nodes.abs().max() if largest is None else largest
        bumps = torch.exp(-(((grid[:, None] - nodes.flatten() / largest) / 0.01) ** 2) / 2)
        heights.append(bumps @ weights.flatten() / (samples * 0.01 * (2 * torch.pi) ** 0.5))
    return Density(grid, float(largest), *heights)


def draw_density(numbers, depth, activation):
    """A Density as a Figure."""
    figure, (axes,) = panels_in_a_row(yscale="log")
    for heights, label, color, style in (
        (numbers.hessian, "Hessian", BLUE, "-"),
        (numbers.gauss_newton, "Gauss-Newton", ORANGE, "--"),
    ):
        axes.plot(numbers.grid, heights.clamp(min=1e-6), style, color=color, label=label)
    axes.set(
        xlabel="eigenvalue / largest magnitude (ratio)",
        ylabel="density of eigenvalues",
        title=f"{activation}, depth {depth}: largest magnitude {numbers.largest:.2g}",
        ylim=(1e-4, 100),
    )
    legend_below(figure, axes, 2)
    return figure


def density(depth, activation, width=24, seed=0, steps=30, samples=2):
    """Spectral density of the Hessian and of Gauss-Newton over all weights, by Lanczos quadrature.

    64 digits, float64, scheme "forward". Eigenvalues in units of the Hessian's largest, smoothed
    with a Gaussian of standard deviation 0.01.
    """
    numbers = measure_density(depth, activation, width, seed, steps, samples)
    return draw_density(numbers, depth, activation)


class GradientDependence(NamedTuple):
    """Ratios and correlations (pure numbers) by net and layer."""

    layers: torch.Tensor  # [L], from 1
    own: torch.Tensor  # [nets, L], mean square of dL/du (last = 1) over its prediction
    other: torch.Tensor  # [nets, L], the same with the loss gradient of another net
    correlation: torch.Tensor  # [nets, L], rms over the pairs of components of dL/du
    independent: float  # the correlation that independent components would show


def measure_gradient_dependence(depth, activation, width=64, seed=0, nets=5, samples=128):
    """The numbers of `gradient_dependence`, a GradientDependence."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = digits().batch(samples, generator)
    inputs, shown = inputs.double(), some_layers(depth)
    drawn = []  # (pre-activations of the layers shown, loss gradient) of every net
    for _ in range(nets):
        model = init_(
            MLP(64, width, depth, 10, activation=activation).double(),
            "forward",
            generator=generator,
        )
        signals = []
        for layer in model.layers:
            layer.register_forward_hook(lambda _, __, u: signals.append(u))
        outputs = model(inputs)
        drawn.append(
            (
                [signals[k - 1] for k in shown],
                F.softmax(outputs.detach(), 1) - F.one_hot(targets, 10),
            )
        )

    square = gain(activation) ** 2
    signal = variance_profile(
        activation, depth, square, input_variance=float(inputs.square().mean()) / square
    )
    predicted = torch.tensor(gradient_profile(activation, signal, square))
    predicted[:-1] *= 10 / width  # the last layer's fan-out is 10
    ratios, sizes = torch.empty(2, nets, len(shown)), torch.empty(nets, len(shown))
    for i, (signals, own) in enumerate(drawn):
        for j, entering in enumerate((own, drawn[i - 1][1])):
            gradients = torch.autograd.grad(signals[-1], signals, entering, retain_graph=True)
            squares = torch.stack([g.square().mean() for g in gradients])
            ratios[j, i] = squares / squares[-1] / predicted[shown - 1]
            if j == 0:
                sizes[i] = torch.stack([_rms_correlation(g) for g in gradients])
    return GradientDependence(shown, *ratios, sizes, samples**-0.5)


def _rms_correlation(columns):
    """Root mean square correlation of different columns of [N, d]; constant ones are left out."""
    centred = columns - columns.mean(0)
    size = torch.linalg.vector_norm(centred, dim=0)
    unit = centred[:, size > 0] / size[size > 0]
    r, d = unit.T @ unit, unit.shape[1]
    return ((r.square().sum() - d) / (d * (d - 1))).sqrt()


def draw_gradient_dependence(numbers, depth, activation):
    """A GradientDependence as a Figure."""
    figure, (left, right) = panels_in_a_row(2, xlabel=LAYER)
    left.set_yscale("log")
    level(left)
    for ratio, label, color, marker in (
        (numbers.own, "own loss gradient", ORANGE, "o"),
        (numbers.other, "another net's", BLUE, "s"),
    ):
        band(left, numbers.layers, ratio, color, marker=marker, markersize=4, label=label)
    left.set(
        title=f"{activation}, depth {depth}",
        ylim=(0.02, 50),
        ylabel="mean square of dL/du\nmeasured / predicted (ratio)",
    )
    level(right, numbers.independent)
    band(right, numbers.layers, numbers.correlation, GREEN, marker="^", markersize=4)
    right.set(
        title="components",
        ylim=(0, 1),
        ylabel="rms correlation of\ntwo components of dL/du",
    )
    whole_layers(left, right)
    legend_below(figure, left, 2)
    return figure


def gradient_dependence(depth, activation, width=64, seed=0, nets=5, samples=128):
    """
    What the dependence of the loss gradient on the weights, and among its components, amounts to.

    Digits, cross-entropy, float64, scheme "forward". Left: mean square of dL/du over its prediction
    (`gradient_profile`, which assumes independence), relative to the last layer, with each net's
    own loss gradient and with the gradient of another net drawn independently; median and range
    over the nets. Right: root mean square of the correlation between two components of dL/du over
    the samples; dotted: what independent components would show, 1/√samples.
    """
    numbers = measure_gradient_dependence(depth, activation, width, seed, nets, samples)
    return draw_gradient_dependence(numbers, depth, activation)


class JacobianSpectrum(NamedTuple):
    """Singular values of the Jacobian from input to output, by scheme and variance q."""

    layers: list  # [L], from 1
    cases: tuple  # four pairs (scheme, q)
    values: torch.Tensor  # [4 cases, width], largest first, rms 1, of the first net
    spread: torch.Tensor  # [4 cases, nets, L], relative variance of their squares up to a layer


def measure_jacobian_spectrum(depth, activation, width=64, seed=0, nets=3):
    """The numbers of `jacobian_spectrum`, a JacobianSpectrum."""
    shown = some_layers(depth).tolist()
    cases = tuple((scheme, q) for scheme in ("Gaussian", "orthogonal") for q in (1.0, 0.01))
    values, spreads = [], torch.empty(len(cases), nets, len(shown))
    for i, (scheme, q) in enumerate(cases):
        generator, g = torch.Generator().manual_seed(seed), gain(activation, variance=q)
        for net in range(nets):
            model = MLP(width, width, depth, width, activation=activation, bias=False).double()
            init_(
                model,
                "lecun" if scheme == "Gaussian" else scheme,
                generator=generator,
                factor=g,
            )
            with torch.no_grad():  # no activation comes before the first layer: gain 1
                model.layers[0].weight.div_(g)
            z = torch.randn(width, dtype=torch.float64, generator=generator)
            z *= (q / z.square().mean()).sqrt()
            product = torch.eye(width, dtype=torch.float64)
            for k, layer in enumerate(model.layers):
                product = layer.weight.detach() @ product
                if k + 1 in shown:
                    spreads[i, net, shown.index(k + 1)] = _spread_of_squares(product)
                u = layer(z).detach().requires_grad_()
                z = model.activation(u)
                if k < depth - 1:
                    product = torch.autograd.grad(z.sum(), u)[0][:, None] * product
                z = z.detach()
            if net == 0:
                found = torch.linalg.svdvals(product)
                values.append(found / found.square().mean().sqrt())
    return JacobianSpectrum(shown, cases, torch.stack(values), spreads)


def _spread_of_squares(matrix):
    """Var s² / (mean s²)² over the singular values s of a square matrix, without computing them."""
    gram = matrix @ matrix.T
    gram = gram / gram.diagonal().mean()
    return gram.square().sum() / len(gram) - 1


def draw_jacobian_spectrum(numbers, depth, activation):
    """A JacobianSpectrum as a Figure."""
    width = numbers.values.shape[1]
    ranks = torch.linspace(0, width - 1, min(width, 33)).round().long()
    figure, (left, right) = panels_in_a_row(2, height=3.6, yscale="log")
    for (scheme, q), values, spread in zip(numbers.cases, numbers.values, numbers.spread):
        color, marker = (ORANGE, "o") if scheme == "Gaussian" else (BLUE, "s")
        style = dict(color=color, linestyle="-" if q == 1 else "--")
        left.plot((ranks + 1) / width, values[ranks].clamp(min=1e-4), **style)
        style |= dict(marker=marker, markersize=4, label=f"{scheme}, q = {q:g}")
        band(right, numbers.layers, spread.clamp(min=1e-5), alpha=0.2, **style)
    level(left)
    left.set(
        title=f"{activation}, depth {depth}",
        xlabel="rank / width (largest first)",
        ylabel="singular value / rms (ratio)",
        ylim=(5e-5, 20),
        yticks=(1e-4, 1e-2, 1),
        xlim=(0, 1),
    )
    right.set(
        title="spread by layer",
        xlabel=LAYER,
        ylim=(5e-6, 2 * width),
        yticks=(1e-4, 1e-2, 1, 100),
        ylabel="relative variance of\nsquared singular values",
    )
    whole_layers(right)
    for axes in (left, right):  # half of the drawing time
        axes.minorticks_off()
    legend_below(figure, right, 2)
    return figure


def jacobian_spectrum(depth, activation, width=64, seed=0, nets=3):
    """Singular values of the Jacobian from input to output, Gaussian against orthogonal weights.

    Weights have the activation's forward gain at the variance q of the pre-activations, the random
    inputs mean square q, for q = 1 (solid) and 0.01 (dashed); no biases, float64. Left: all
    singular values of one net, largest first, over their root mean square; below 1e-4 they are
    drawn there. Right: the relative variance of their squares up to a layer, median and range over
    the nets. Dynamical isometry is 1 on the left and 0 on the right.
    """
    numbers = measure_jacobian_spectrum(depth, activation, width, seed, nets)
    return draw_jacobian_spectrum(numbers, depth, activation)


class Shards(NamedTuple):
    """Hessian products and eigenvalues of shards against those of all data (ratios)."""

    counts: tuple  # how many shards, three
    float32: torch.Tensor  # [3 counts], relative difference of H g
    float64: torch.Tensor  # [3 counts]
    rounding: float  # relative difference of H g in float32 and float64, without shards
    eigenvalues: dict  # count: [count], largest of each shard over that of all data


def measure_shards(depth, activation, width=16, seed=0, samples=64):
    """The numbers of `shards`, a Shards."""
    generator = torch.Generator().manual_seed(seed)
    model = init_(MLP(64, width, depth, 10, activation=activation), "forward", generator=generator)
    inputs, targets = digits().batch(samples, generator)
    counts, products, differences, own = (2, 4, 8), [], [], {}
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)
        batch = inputs.to(dtype), targets
        whole = hessian(model, F.cross_entropy, batch)
        vector = whole.gradient.float().to(dtype)
        product = whole @ vector
        products.append(product)
        for count in counts:
            own[count] = [
                hessian(model, F.cross_entropy, part)
                for part in zip(*(x.chunk(count) for x in batch))
            ]
            mean = sum(operator @ vector for operator in own[count]) / count
            differences.append(float((mean - product).norm() / product.norm()))
    single, exact = products
    rounding = float((single - exact).norm() / exact.norm())
    (value,), _ = top_eigenvalues(whole, rtol=0.05, generator=generator)
    ratios = {
        count: torch.cat(
            [top_eigenvalues(each, rtol=0.05, generator=generator)[0] / value for each in operators]
        )
        for count, operators in own.items()
    }
    differences = torch.tensor(differences, dtype=torch.float64).view(2, 3)
    return Shards(counts, *differences, rounding, ratios)


def draw_shards(numbers, depth, activation):
    """A Shards as a Figure."""
    counts = numbers.counts
    figure, (left, right) = panels_in_a_row(2, xscale="log", xlabel="shards")
    left.set_yscale("log")
    for differences, dtype, color, marker in (
        (numbers.float32, "float32", ORANGE, "s"),
        (numbers.float64, "float64", BLUE, "o"),
    ):
        differences = differences.clamp(min=1e-17)
        left.plot(counts, differences, marker + "-", color=color, label=f"shards, {dtype}")
    without = "float32 against float64, no shards"
    left.axhline(numbers.rounding, color=ORANGE, linestyle=":", label=without)
    for count, ratios in numbers.eigenvalues.items():
        right.plot([count] * count, ratios, "o", color=GREEN, alpha=0.6)
    level(right)
    for axes in (left, right):
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
    left.set(
        title=f"{activation}, depth {depth}: mean of shards",
        ylim=(5e-18, 1),
        ylabel="relative difference of H g (ratio)",
    )
    right.set(
        title="each shard alone",
        ylabel="λ of shard / λ of all data (ratio)",
        xlim=(1.7, 9.5),
    )
    legend_below(figure, left, 3)
    return figure


def shards(depth, activation, width=16, seed=0, samples=64):
    """Hessian of all weights from 2, 4 and 8 shards of the data against all data at once.

    Digits, scheme "forward", weights drawn in float32. Left: relative difference
    ‖(mean of the shards' H) g − H g‖/‖H g‖ along the gradient g in float32 and float64, drawn at
    1e-17 where it is smaller; dotted: H g in float32 against float64 without shards. Right: the
    largest eigenvalue (by magnitude) of each shard alone, float64, over that of all data.
    """
    numbers = measure_shards(depth, activation, width, seed, samples)
    return draw_shards(numbers, depth, activation)


class Misprints(NamedTuple):
    """Mean squares of u (input = 1) with a factor on the right side and on the other one."""

    layers: torch.Tensor  # [L], from 1
    gain: float  # the activation's forward gain g
    right: torch.Tensor  # [nets, L], standard deviation σ·g
    wrong: torch.Tensor  # [nets, L], σ/g
    dropout_right: torch.Tensor  # [nets, L], σ·g·√(1-p), dropout with probability p
    dropout_wrong: torch.Tensor  # [nets, L], σ·g/√(1-p)


def measure_misprints(depth, activation, width=64, seed=0, nets=3, samples=8, p=0.5):
    """The numbers of `misprints`, a Misprints."""
    generator = torch.Generator().manual_seed(seed)
    f, g, keep = activation_module(activation), gain(activation), (1 - p) ** 0.5
    start = torch.randn(nets, samples, width, dtype=torch.float64, generator=generator)
    factors, dropped = (g, 1 / g, g * keep, g / keep), (False, False, True, True)
    signals, squares = [start] * 4, []
    for layer in range(depth):
        w = torch.randn(nets, width, width, dtype=torch.float64, generator=generator) / width**0.5
        mask = (torch.rand(start.shape, generator=generator) >= p) / (1 - p)
        if layer:
            signals = [
                f(u) * factor * (mask if drop else 1)
                for u, factor, drop in zip(signals, factors, dropped)
            ]
        signals = [z @ w for z in signals]
        squares.append(torch.stack([u.square().mean((1, 2)) for u in signals]))
    shown = some_layers(depth, most=9)
    return Misprints(shown, g, *torch.stack(squares, 2)[..., shown - 1])


def draw_misprints(numbers, depth, activation, p=0.5):
    """A Misprints, with dropout probability p, as a Figure."""
    g, shown = numbers.gain, numbers.layers
    figure, panels = panels_in_a_row(2, yscale="log", xlabel=LAYER, ylabel=RELATIVE_SIGNAL)
    for axes, squares, color, marker, label in (
        (panels[0], numbers.right, BLUE, "o", "right side"),
        (panels[0], numbers.wrong, ORANGE, "s", "wrong side, as printed"),
        (panels[1], numbers.dropout_right, BLUE, "o", None),
        (panels[1], numbers.dropout_wrong, ORANGE, "s", None),
    ):
        band(axes, shown, squares, color, marker=marker, markersize=4, label=label)
    panels[0].set_title(f"{activation}, depth {depth}: σ·{g:.2f}, σ/{g:.2f}")
    panels[1].set_title(f"dropout {p:g}: ×√(1-p), /√(1-p)")
    for axes in panels:
        two_decades(axes)
        axes.minorticks_off()  # half of the drawing time
        axes.yaxis.get_major_locator().set_params(numticks=6)
    whole_layers(*panels)
    legend_below(figure, panels[0], 2)
    return figure


def misprints(depth, activation, width=64, seed=0, nets=3, samples=8, p=0.5):
    """The signal with a correction of the weights' scale on the right side, and on the other one.

    N(0, 1) inputs, equal widths, float64, the same draws for both. Left: standard deviation σ·g and
    σ/g behind each activation, σ² = 1/width and g the forward gain (ReLU: √2; Corollary 13 of
    Skorski et al. prints σ/√2). Right: the gain on the right side and inverted dropout with
    probability p on top, in training mode, corrected by √(1-p) and, as Corollary 12 prints, by
    1/√(1-p). Median and range of the mean square of u over the nets.
    """
    numbers = measure_misprints(depth, activation, width, seed, nets, samples, p)
    return draw_misprints(numbers, depth, activation, p)


class ApproximationError(NamedTuple):
    """Relative errors (ratios) of Gauss-Newton at the layers shown."""

    layers: torch.Tensor  # [L], from 1
    along: torch.Tensor  # [nets, L], |ĝᵀ(H − G)ĝ| / |ĝᵀHĝ|
    whole: torch.Tensor  # [nets, L], ‖(H − G)s‖ / ‖Hs‖


def measure_approximation_error(depth, activation="tanh", width=24, seed=0, nets=3, samples=64):
    """The numbers of `approximation_error`, an ApproximationError."""
    generator = torch.Generator().manual_seed(seed)
    model = MLP(64, width, depth, 10, activation=activation).double()
    shown = some_layers(depth, most=5)
    weights = [model.layers[k - 1].weight for k in shown]
    errors = torch.empty(2, nets, len(shown))
    for net in range(nets):
        init_(model.requires_grad_(), "forward", generator=generator).requires_grad_(False)
        for weight in weights:
            weight.requires_grad_()
        inputs, targets = digits().batch(samples, generator)
        batch = inputs.double(), targets
        h, g = (build(model, F.cross_entropy, batch) for build in (hessian, gauss_newton))
        gradients = h.gradient.split([w.numel() for w in weights])
        units = torch.block_diag(
            *(part[:, None] / torch.linalg.vector_norm(part) for part in gradients)
        )
        signs = torch.block_diag(
            *(
                torch.empty_like(part[:, None]).bernoulli_(0.5, generator=generator) * 2 - 1
                for part in gradients
            )
        )
        # A layer's own block: the rows where its column is not zero.
        full, kept = (operator.matmat(torch.cat([units, signs], 1)) for operator in (h, g))
        (along, full), missing = full.split(len(shown), 1), (full - kept).split(len(shown), 1)
        errors[0, net] = (units * missing[0]).sum(0).abs() / (units * along).sum(0).abs()
        errors[1, net] = (signs * missing[1]).norm(dim=0) / (signs * full).norm(dim=0)
    return ApproximationError(shown, *errors)


def draw_approximation_error(numbers, depth, activation):
    """An ApproximationError as a Figure."""
    figure, panels = panels_in_a_row(2, yscale="log", xlabel=LAYER, ylim=(5e-4, 2e3))
    for axes, error, color, label in (
        (panels[0], numbers.along, BLUE, "|ĝᵀ(H − G)ĝ| / |ĝᵀHĝ| (ratio)"),
        (panels[1], numbers.whole, ORANGE, "‖(H − G)s‖ / ‖Hs‖ (ratio)"),
    ):
        level(axes)
        band(axes, numbers.layers, error.clamp(1e-3, 1e3), color, marker="o", markersize=4)
        axes.set_ylabel(label)
        axes.minorticks_off()
    panels[0].set_title(f"{activation}, depth {depth}: along the gradient")
    panels[1].set_title("all directions")
    whole_layers(*panels)
    return figure


def approximation_error(depth, activation="tanh", width=24, seed=0, nets=3, samples=64):
    """
    Relative error of Theorem 1 at five layers of dense nets: along the gradient, and of the block.

    Digits, cross-entropy, float64, scheme "forward"; H and G the layer's blocks of the Hessian and
    of Gauss-Newton, ĝ its normalized gradient. Left: |ĝᵀ(H − G)ĝ| / |ĝᵀHĝ|. Right:
    ‖(H − G)s‖ / ‖Hs‖ for a random sign vector s, which estimates ‖H − G‖_F / ‖H‖_F. Median and
    range over the nets; values below 1e-3 and above 1e3 are drawn there.
    """
    numbers = measure_approximation_error(depth, activation, width, seed, nets, samples)
    return draw_approximation_error(numbers, depth, activation)


class _ConvNet(torch.nn.Module):
    """depth - 1 convolutions 3×3 of grey pictures, mean pooling, a dense layer.

    With `shortcuts` the second and third convolution are a block, the next two another one, and so
    on: f(conv(f(conv(z))) + z), as in `BasicBlock` of networks.py.
    """

    def __init__(self, depth, width, activation, shortcuts):
        super().__init__()
        sizes = [1] + [width] * (depth - 1)
        self.layers = torch.nn.ModuleList(
            torch.nn.Conv2d(d_in, d_out, 3, padding=1) for d_in, d_out in zip(sizes, sizes[1:])
        )
        self.layers.append(torch.nn.Linear(sizes[-1], 10))
        self.activation, self.shortcuts = activation_module(activation), shortcuts

    def forward(self, z):
        skipped = 0.0
        for k, layer in enumerate(self.layers[:-1]):
            ends_block = self.shortcuts and k and k % 2 == 0
            z = self.activation(layer(z) + skipped if ends_block else layer(z))
            if k % 2 == 0:
                skipped = z
        return self.layers[-1](z.mean((2, 3)))


class ConvolutionCurvature(NamedTuple):
    """Of a layer's Gauss-Newton block (loss per unit step²); kinds: plain, with shortcuts."""

    layers: torch.Tensor  # [L], from 1
    along: torch.Tensor  # [2 kinds, nets, L], ĝᵀHĝ along the normalized gradient
    norm: torch.Tensor  # [2 kinds, nets, L], ‖H‖


def measure_convolution_curvature(depth, activation, width=8, seed=0, nets=2, samples=8):
    """The numbers of `convolution_curvature`, a ConvolutionCurvature."""
    shown = some_layers(depth, 6)
    found = []
    for shortcuts in (False, True):
        generator = torch.Generator().manual_seed(seed)
        inputs, targets = digits().batch(samples, generator)
        batch = inputs.double().unflatten(1, (1, 8, 8)), targets
        model = _ConvNet(depth, width, activation, shortcuts).double()
        wanted = [f"layers.{k - 1}" for k in shown.tolist()]
        for _ in range(nets):
            init_(model, "forward", generator=generator)
            gradients = layer_gradients(model, F.cross_entropy, batch, layers=wanted)
            blocks = layer_blocks(model, F.cross_entropy, batch, layers=wanted)
            found.append(
                [
                    (float(block.quotient(gradients[name])), float(block.norm(rtol=0.05)))
                    for name, block in blocks.items()
                ]
            )
    found = torch.tensor(found).unflatten(0, (2, nets))  # [2 kinds, nets, L, 2]
    return ConvolutionCurvature(shown, *found.unbind(3))


def draw_convolution_curvature(numbers, depth, activation):
    """A ConvolutionCurvature as a Figure."""
    ylabel = f"curvature ({CURVATURE})"
    figure, panels = panels_in_a_row(2, yscale="log", xlabel=LAYER, ylabel=ylabel)
    titles = f"{activation}, depth {depth}: plain", "with shortcuts"
    for axes, along, norm, title in zip(panels, numbers.along, numbers.norm, titles):
        axes.axhspan(1, 10, color="gray", alpha=0.2, linewidth=0)
        for values, label, color, marker in (
            (along, "along the gradient, ĝᵀHĝ", BLUE, "o"),
            (norm, "largest, ‖H‖", ORANGE, "s"),
        ):
            values = values.clamp(min=1e-12)
            mean = values.log().mean(0).exp()
            band(axes, numbers.layers, values, color)
            style = dict(marker=marker, color=color, markersize=4, label=label)
            axes.plot(numbers.layers, mean, **style)
        axes.minorticks_off()
        axes.set_title(title)
    whole_layers(*panels)
    legend_below(figure, panels[0], 2)
    return figure


def convolution_curvature(depth, activation, width=8, seed=0, nets=2, samples=8):
    """Hessian values by layer of a plain convolutional net, and of one with shortcuts.

    Digits as 8×8 pictures, float64, scheme "forward", Gauss-Newton blocks of at most 6 layers: ĝᵀHĝ
    along the layer's normalized gradient ĝ, and ‖H‖; geometric mean and range over the nets. Values
    below 1e-12 are drawn there. Shaded: 1 to 10, where the paper's text puts good deviations.
    """
    numbers = measure_convolution_curvature(depth, activation, width, seed, nets, samples)
    return draw_convolution_curvature(numbers, depth, activation)
