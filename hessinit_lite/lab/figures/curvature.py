"""Figures of curvature: products, spectra, the chain rule, Jacobians, convolutions."""

import torch
import torch.nn.functional as F

from ...chain_rule import layer_blocks, layer_gradients, layer_norms
from ...curvature import gauss_newton, hessian
from ...models import MLP, activation_module
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
from ...spectrum import spectral_density, top_eigenvalues
from ...variance import gain, gradient_profile, variance_profile
from ..data import digits


def chain_rule_error(depth, activation, width=32, seed=0):
    """The Gauss-Newton block against the Hessian's, along the gradient, at six layers of a net.

    Digits, 128 samples, float64, scheme "forward". Left: |ĝᵀHĝ| of both blocks, ĝ the layer's
    normalized gradient. Right: ‖(H − G)ĝ‖/‖Hĝ‖, drawn at 1e-16 where it is smaller.
    """
    generator = torch.Generator().manual_seed(seed)
    model = MLP(64, width, depth, 10, activation=activation).double()
    init_(model, "forward", generator=generator)
    inputs, targets = digits().batch(128, generator)
    batch, loss_fn = (inputs.double(), targets), F.cross_entropy
    blocks = layer_blocks(model, loss_fn, batch)
    gradients = layer_gradients(model, loss_fn, batch)
    names = list(blocks)
    shown = sorted({round(i * (depth - 1) / 5) for i in range(6)})
    full, linear, error = [], [], []
    for k in shown:
        unit = gradients[names[k]].flatten()
        unit = unit / torch.linalg.vector_norm(unit)
        h, g = hessian(model, loss_fn, batch, layer=names[k]) @ unit, blocks[names[k]] @ unit
        full.append(float((unit @ h).abs()))
        linear.append(float((unit @ g).abs()))
        error.append(
            max(1e-16, float(torch.linalg.vector_norm(h - g) / torch.linalg.vector_norm(h)))
        )
    layers = [k + 1 for k in shown]
    figure, (left, right) = panels_in_a_row(2)
    left.semilogy(layers, full, "o-", color=BLUE, label="Hessian")
    left.semilogy(layers, linear, "s--", color=ORANGE, label="Gauss-Newton")
    left.set(
        xlabel="layer k (1 = first)",
        ylabel="|ĝᵀ H ĝ| (loss per unit step²)",
        title=f"{activation}, depth {depth}: curvature",
    )
    right.semilogy(layers, error, "o-", color=GREEN)
    right.set(
        xlabel="layer k (1 = first)",
        ylabel="‖(H − G) ĝ‖ / ‖H ĝ‖ (ratio)",
        ylim=(3e-17, 30),
        title="what Gauss-Newton leaves out",
    )
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    legend_below(figure, left, 2)
    return figure


def lanczos_convergence(depth, activation, width=32, seed=0):
    """Error and residual bound of the largest Hessian eigenvalue, by power iteration and Lanczos.

    Digits, 64 samples, float64, scheme "forward", the Hessian block of the middle layer; both start
    from one random vector. Relative to the value of Lanczos after 40 products; at least 1e-16.
    """
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
        return float(values[top]), float(torch.linalg.vector_norm(residual))

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
    figure, (axes,) = panels_in_a_row(height=3.6)
    for name, steps, color, marker in (
        ("power iteration", power, ORANGE, "s"),
        ("Lanczos", lanczos[:30], BLUE, "o"),
    ):
        errors = [max(1e-16, abs(value / truth - 1)) for value, _ in steps]
        bounds = [max(1e-16, residual / abs(truth)) for _, residual in steps]
        products = range(1, len(steps) + 1)
        axes.semilogy(
            products, errors, marker + "-", color=color, markersize=4, label=f"{name}: error"
        )
        axes.semilogy(products, bounds, "--", color=color, label=f"{name}: residual bound")
    axes.set(
        xlabel="Hessian-vector products",
        ylabel="relative to the eigenvalue (ratio)",
        ylim=(3e-17, 30),
        title=f"{activation}, depth {depth}, {layer}: largest eigenvalue {truth:.3g}",
    )
    legend_below(figure, axes, 2)
    return figure


def density(depth, activation, width=24, seed=0, steps=30, samples=2):
    """Spectral density of the Hessian and of Gauss-Newton over all weights, by Lanczos quadrature.

    64 digits, float64, scheme "forward". Eigenvalues in units of the Hessian's largest, smoothed
    with a Gaussian of standard deviation 0.01.
    """
    generator = torch.Generator().manual_seed(seed)
    model = MLP(64, width, depth, 10, activation=activation).double()
    init_(model, "forward", generator=generator)
    inputs, targets = digits().batch(64, generator)
    figure, (axes,) = panels_in_a_row()
    grid, largest = torch.linspace(-1.15, 1.15, 231, dtype=torch.float64), None
    for build, label, color, style in (
        (hessian, "Hessian", BLUE, "-"),
        (gauss_newton, "Gauss-Newton", ORANGE, "--"),
    ):
        operator = build(model, F.cross_entropy, (inputs.double(), targets))
        nodes, weights = spectral_density(operator, steps, samples, generator)
        largest = nodes.abs().max() if largest is None else largest
        bumps = torch.exp(-(((grid[:, None] - nodes.flatten() / largest) / 0.01) ** 2) / 2)
        heights = bumps @ weights.flatten() / (samples * 0.01 * (2 * torch.pi) ** 0.5)
        axes.semilogy(grid, heights.clamp(min=1e-6), style, color=color, label=label)
    axes.set(
        xlabel="eigenvalue / largest magnitude (ratio)",
        ylabel="density of eigenvalues",
        title=f"{activation}, depth {depth}: largest magnitude {largest:.2g}",
        ylim=(1e-4, 100),
    )
    legend_below(figure, axes, 2)
    return figure


def gradient_dependence(depth, activation, width=64, seed=0, nets=5, samples=128):
    """What the dependence of the loss gradient on the weights, and among its components, amounts to.

    Digits, cross-entropy, float64, scheme "forward". Left: mean square of dL/du over its prediction
    (`gradient_profile`, which assumes independence), relative to the last layer, with each net's own
    loss gradient and with the gradient of another net drawn independently; median and range over the
    nets. Right: root mean square of the correlation between two components of dL/du over the samples;
    dotted: what independent components would show, 1/√samples.
    """
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

    figure, (left, right) = panels_in_a_row(2)
    left.axhline(1, color="black", linewidth=0.8, linestyle=":")
    for ratio, label, color, marker in (
        (ratios[0], "own loss gradient", ORANGE, "o"),
        (ratios[1], "another net's", BLUE, "s"),
    ):
        left.fill_between(shown, ratio.amin(0), ratio.amax(0), color=color, alpha=0.25, linewidth=0)
        left.semilogy(
            shown, ratio.median(0).values, marker + "-", color=color, markersize=4, label=label
        )
    left.set(
        title=f"{activation}, depth {depth}",
        xlabel="layer (1 = first)",
        ylim=(0.02, 50),
        ylabel="mean square of dL/du\nmeasured / predicted (ratio)",
    )
    right.axhline(samples**-0.5, color="black", linewidth=0.8, linestyle=":")
    right.fill_between(shown, sizes.amin(0), sizes.amax(0), color=GREEN, alpha=0.25, linewidth=0)
    right.plot(shown, sizes.median(0).values, "^-", color=GREEN, markersize=4)
    right.set(
        title="components",
        xlabel="layer (1 = first)",
        ylim=(0, 1),
        ylabel="rms correlation of\ntwo components of dL/du",
    )
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    legend_below(figure, left, 2)
    return figure


def _rms_correlation(columns):
    """Root mean square of the correlations between different columns of [N, d]; constant ones left out."""
    centred = columns - columns.mean(0)
    size = torch.linalg.vector_norm(centred, dim=0)
    unit = centred[:, size > 0] / size[size > 0]
    r, d = unit.T @ unit, unit.shape[1]
    return ((r.square().sum() - d) / (d * (d - 1))).sqrt()


def jacobian_products(depth, activation, width=32, seed=0, samples=8):
    """Theorem 7 by layer: the two products of Jacobians (left), the norm and its bound (right).

    Digits, cross-entropy, float64, no biases; the scheme "forward" with 0.8, 1 and 1.25 times its
    standard deviation. Left: ‖F‖² / ‖x‖², the forward product on the inputs (solid), and
    ‖Γ‖² / ‖S‖², the transposed backward product on the root S of the loss's curvature (dashed), in
    squared Frobenius norms over the samples. Right: ‖H_w(k)‖ (solid) and the mean over the samples
    of ‖J_n-1 … J_k+1 A‖² ‖H_z‖ ‖J_k-1 … J_0‖² ‖x‖² (dashed).
    """
    shown = some_layers(depth, most=9)
    figure, (left, right) = panels_in_a_row(2, height=3.6)
    for factor, color, marker in ((0.8, ORANGE, "v"), (1.0, BLUE, "o"), (1.25, PURPLE, "^")):
        generator = torch.Generator().manual_seed(seed)
        model = MLP(64, width, depth, 10, activation=activation, bias=False).double()
        init_(model, "forward", generator=generator, factor=factor)
        inputs, targets = digits().batch(samples, generator)
        inputs, signals = inputs.double(), []
        hooks = [
            layer.register_forward_hook(lambda _, args, u: signals.append((args[0], u)))
            for layer in model.layers
        ]
        outputs = model(inputs)
        for hook in hooks:
            hook.remove()
        zs, us = zip(*signals)
        # Rows of the backward products times A, for every unit output at once: [K, N, d_k+1].
        units = torch.eye(10, dtype=outputs.dtype)[:, None].expand(-1, samples, -1)
        backward = torch.autograd.grad(outputs, us, units, is_grads_batched=True, retain_graph=True)
        slopes = [torch.autograd.grad(z.sum(), u, retain_graph=True)[0] for z, u in zip(zs[1:], us)]
        product = torch.eye(64, dtype=outputs.dtype).expand(samples, -1, -1)
        forward = [product]
        for slope, layer in zip(slopes, model.layers):
            forward.append(slope[:, :, None] * (layer.weight.detach() @ product))
            product = forward[-1]
        for k, layer in enumerate(model.layers):
            layer.weight.requires_grad_(k + 1 in shown)
        batch, loss_fn = (inputs, targets), F.cross_entropy
        blocks = layer_blocks(model, loss_fn, batch).values()
        norms = list(layer_norms(model, loss_fn, batch, rtol=1e-2).values())
        root = list(blocks)[-1].curvature[:, :, 0].transpose(0, 1)  # S / √N: [N, C, K]
        sizes, curvature = inputs.square().sum(1), torch.linalg.matrix_norm(root, 2) ** 2
        signal, gradient, bounds = [], [], []
        for k, block in zip(shown - 1, blocks):
            signal.append(float(block.inputs.square().sum() / sizes.sum()))
            gradient.append(float(block.curvature.square().sum() / root.square().sum()))
            behind = torch.linalg.matrix_norm(backward[k].transpose(0, 1), 2) ** 2
            before = torch.linalg.matrix_norm(forward[k], 2) ** 2
            bounds.append(float((before * behind * sizes * curvature).sum()))
        style = dict(color=color, marker=marker, markersize=4)
        left.semilogy(shown, signal, **style, label=f"{factor:g} × the forward scale")
        left.semilogy(shown, gradient, "--", **style, markerfacecolor="none")
        right.semilogy(shown, norms, **style)
        right.semilogy(shown, bounds, "--", color=color)
    figure.suptitle(f"{activation}, depth {depth}")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    left.set(
        title="products: forward —, backward - -",
        xlabel="layer (1 = first)",
        ylabel="mean square (ratio)",
    )
    right.set(
        title="norm —, bound of Theorem 7 - -",
        xlabel="layer (1 = first)",
        ylabel="‖H_w(k)‖ (loss per unit step²)",
    )
    legend_below(figure, left, 3)
    return figure


def jacobian_spectrum(depth, activation, width=64, seed=0, nets=3):
    """Singular values of the Jacobian from input to output, Gaussian against orthogonal weights.

    Weights have the activation's forward gain at the variance q of the pre-activations, the random
    inputs mean square q, for q = 1 (solid) and 0.01 (dashed); no biases, float64. Left: all singular
    values of one net, largest first, over their root mean square; below 1e-4 they are drawn there.
    Right: the relative variance of their squares up to a layer, median and range over the nets.
    Dynamical isometry is 1 on the left and 0 on the right.
    """
    shown = some_layers(depth).tolist()
    ranks = torch.linspace(0, width - 1, min(width, 33)).round().long()
    figure, (left, right) = panels_in_a_row(2, height=3.6)
    for scheme, label, color, marker in (
        ("lecun", "Gaussian", ORANGE, "o"),
        ("orthogonal", "orthogonal", BLUE, "s"),
    ):
        for q, style in ((1.0, "-"), (0.01, "--")):
            generator, g = torch.Generator().manual_seed(seed), gain(activation, variance=q)
            spreads = torch.empty(nets, len(shown))
            for net in range(nets):
                model = MLP(width, width, depth, width, activation=activation, bias=False).double()
                init_(model, scheme, generator=generator, factor=g)
                with torch.no_grad():  # no activation comes before the first layer: gain 1
                    model.layers[0].weight.div_(g)
                z = torch.randn(width, dtype=torch.float64, generator=generator)
                z *= (q / z.square().mean()).sqrt()
                product = torch.eye(width, dtype=torch.float64)
                for k, layer in enumerate(model.layers):
                    product = layer.weight.detach() @ product
                    if k + 1 in shown:
                        spreads[net, shown.index(k + 1)] = _spread_of_squares(product)
                    u = layer(z).detach().requires_grad_()
                    z = model.activation(u)
                    if k < depth - 1:
                        product = torch.autograd.grad(z.sum(), u)[0][:, None] * product
                    z = z.detach()
                if net == 0:
                    values = torch.linalg.svdvals(product)
                    values = (values / values.square().mean().sqrt()).clamp(min=1e-4)
                    left.semilogy((ranks + 1) / width, values[ranks], style, color=color)
            spreads = spreads.clamp(min=1e-5)
            right.fill_between(
                shown, spreads.amin(0), spreads.amax(0), color=color, alpha=0.2, linewidth=0
            )
            right.semilogy(
                shown,
                spreads.median(0).values,
                marker + style,
                color=color,
                markersize=4,
                label=f"{label}, q = {q:g}",
            )
    left.axhline(1, color="black", linewidth=0.8, linestyle=":")
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
        xlabel="layer (1 = first)",
        ylim=(5e-6, 2 * width),
        yticks=(1e-4, 1e-2, 1, 100),
        ylabel="relative variance of\nsquared singular values",
    )
    right.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):  # half of the drawing time
        axes.minorticks_off()
    legend_below(figure, right, 2)
    return figure


def _spread_of_squares(matrix):
    """Var s² / (mean s²)² over the singular values s of a square matrix, without computing them."""
    gram = matrix @ matrix.T
    gram = gram / gram.diagonal().mean()
    return gram.square().sum() / len(gram) - 1


def shards(depth, activation, width=16, seed=0, samples=64):
    """Hessian of all weights from 2, 4 and 8 shards of the data against all data at once.

    Digits, scheme "forward", weights drawn in float32. Left: relative difference ‖(mean of the shards'
    H) g − H g‖/‖H g‖ along the gradient g in float32 and float64, drawn at 1e-17 where it is smaller;
    dotted: H g in float32 against float64 without shards. Right: the largest eigenvalue (by magnitude)
    of each shard alone, float64, over that of all data.
    """
    generator = torch.Generator().manual_seed(seed)
    model = init_(MLP(64, width, depth, 10, activation=activation), "forward", generator=generator)
    inputs, targets = digits().batch(samples, generator)
    counts, products, own = (2, 4, 8), {}, {}
    figure, (left, right) = panels_in_a_row(2)
    for dtype, color, marker in ((torch.float32, ORANGE, "s"), (torch.float64, BLUE, "o")):
        model.to(dtype)
        batch = inputs.to(dtype), targets
        whole = hessian(model, F.cross_entropy, batch)
        vector = whole.gradient.float().to(dtype)
        products[dtype] = product = whole @ vector
        differences = []
        for count in counts:
            operators = [
                hessian(model, F.cross_entropy, part)
                for part in zip(*(x.chunk(count) for x in batch))
            ]
            mean = sum(operator @ vector for operator in operators) / count
            differences.append(max(1e-17, float((mean - product).norm() / product.norm())))
            own[count] = operators
        left.loglog(
            counts, differences, marker + "-", color=color, label=f"shards, {str(dtype)[6:]}"
        )
    exact = products[torch.float64]
    rounding = float((products[torch.float32] - exact).norm() / exact.norm())
    left.axhline(rounding, color=ORANGE, linestyle=":", label="float32 against float64, no shards")
    (value,), _ = top_eigenvalues(whole, rtol=0.05, generator=generator)
    for count, operators in own.items():
        ratios = [
            float(top_eigenvalues(operator, rtol=0.05, generator=generator)[0] / value)
            for operator in operators
        ]
        right.plot([count] * count, ratios, "o", color=GREEN, alpha=0.6)
    right.axhline(1, color="black", linewidth=0.8, linestyle=":")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
    left.set(
        title=f"{activation}, depth {depth}: mean of shards",
        xlabel="shards",
        ylim=(5e-18, 1),
        ylabel="relative difference of H g (ratio)",
    )
    right.set(
        title="each shard alone",
        xlabel="shards",
        ylabel="λ of shard / λ of all data (ratio)",
        xlim=(1.7, 9.5),
    )
    legend_below(figure, left, 3)
    return figure


def misprints(depth, activation, width=64, seed=0, nets=3, samples=8, p=0.5):
    """The signal with a correction of the weights' scale on the right side, and on the other one.

    N(0, 1) inputs, equal widths, float64, the same draws for both. Left: standard deviation σ·g and σ/g
    behind each activation, σ² = 1/width and g the forward gain (ReLU: √2; Corollary 13 of Skorski et
    al. prints σ/√2). Right: the gain on the right side and inverted dropout with probability p on top,
    in training mode, corrected by √(1-p) and, as Corollary 12 prints, by 1/√(1-p). Median and range of
    the mean square of u over the nets.
    """
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
    squares = torch.stack(squares)[shown - 1]  # [layers, 4, nets]
    figure, panels = panels_in_a_row(2)
    for case, (axes, color, marker, label) in enumerate(
        (
            (panels[0], BLUE, "o", "right side"),
            (panels[0], ORANGE, "s", "wrong side, as printed"),
            (panels[1], BLUE, "o", None),
            (panels[1], ORANGE, "s", None),
        )
    ):
        found = squares[:, case]
        axes.fill_between(shown, found.amin(1), found.amax(1), color=color, alpha=0.25, linewidth=0)
        axes.semilogy(
            shown, found.median(1).values, marker + "-", color=color, markersize=4, label=label
        )
    panels[0].set(
        title=f"{activation}, depth {depth}: σ·{g:.2f}, σ/{g:.2f}",
        xlabel="layer (1 = first)",
        ylabel="mean square of u (input = 1)",
    )
    panels[1].set(
        title=f"dropout {p:g}: ×√(1-p), /√(1-p)",
        xlabel="layer (1 = first)",
        ylabel="mean square of u (input = 1)",
    )
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)
        two_decades(axes)
        axes.minorticks_off()  # half of the drawing time
        axes.yaxis.get_major_locator().set_params(numticks=6)
    legend_below(figure, panels[0], 2)
    return figure


def approximation_error(depth, activation="tanh", width=24, seed=0, nets=3, samples=64):
    """Relative error of Theorem 1 at five layers of dense nets: along the gradient, and of the block.

    Digits, cross-entropy, float64, scheme "forward"; H and G the layer's blocks of the Hessian and of
    Gauss-Newton, ĝ its normalized gradient. Left: |ĝᵀ(H − G)ĝ| / |ĝᵀHĝ|. Right: ‖(H − G)s‖ / ‖Hs‖ for a
    random sign vector s, which estimates ‖H − G‖_F / ‖H‖_F. Median and range over the nets; values below
    1e-3 and above 1e3 are drawn there.
    """
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
    errors = errors.clamp(1e-3, 1e3)
    figure, panels = panels_in_a_row(2)
    for axes, error, color, label in zip(
        panels,
        errors,
        (BLUE, ORANGE),
        ("|ĝᵀ(H − G)ĝ| / |ĝᵀHĝ| (ratio)", "‖(H − G)s‖ / ‖Hs‖ (ratio)"),
    ):
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.fill_between(shown, error.amin(0), error.amax(0), color=color, alpha=0.25, linewidth=0)
        axes.semilogy(shown, error.median(0).values, "o-", color=color, markersize=4)
        axes.set(xlabel="layer (1 = first)", ylabel=label, ylim=(5e-4, 2e3))
        axes.minorticks_off()
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_title(f"{activation}, depth {depth}: along the gradient")
    panels[1].set_title("all directions")
    return figure


class _ConvNet(torch.nn.Module):
    """depth - 1 convolutions 3×3 of grey pictures, mean pooling, a dense layer.

    With `shortcuts` the second and third convolution are a block, the next two another one, and so on:
    f(conv(f(conv(z))) + z), as in `BasicBlock` of networks.py.
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


def convolution_curvature(depth, activation, width=8, seed=0, nets=2, samples=8):
    """Hessian values by layer of a plain convolutional net, and of one with shortcuts.

    Digits as 8×8 pictures, float64, scheme "forward", Gauss-Newton blocks of at most 6 layers: ĝᵀHĝ
    along the layer's normalized gradient ĝ, and ‖H‖; geometric mean and range over the nets. Values below
    1e-12 are drawn there. Shaded: 0.01 to 10, where the paper sees good schemes.
    """
    shown = some_layers(depth, 6)
    figure, panels = panels_in_a_row(2)
    for axes, shortcuts in zip(panels, (False, True)):
        generator = torch.Generator().manual_seed(seed)
        inputs, targets = digits().batch(samples, generator)
        batch = inputs.double().unflatten(1, (1, 8, 8)), targets
        model = _ConvNet(depth, width, activation, shortcuts).double()
        wanted = [f"layers.{k - 1}" for k in shown.tolist()]
        found = []
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
        found = torch.tensor(found).clamp(min=1e-12)  # [nets, layers, 2]
        axes.axhspan(1e-2, 10, color="gray", alpha=0.2, linewidth=0)
        for j, (label, color, marker) in enumerate(
            (("along the gradient, ĝᵀHĝ", BLUE, "o"), ("largest, ‖H‖", ORANGE, "s"))
        ):
            values = found[..., j]
            axes.fill_between(
                shown, values.amin(0), values.amax(0), color=color, alpha=0.25, linewidth=0
            )
            axes.semilogy(
                shown,
                values.log().mean(0).exp(),
                marker + "-",
                color=color,
                markersize=4,
                label=label,
            )
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.minorticks_off()
        axes.set_xlabel("layer (1 = first)")
    for axes, title in zip(panels, (f"{activation}, depth {depth}: plain", "with shortcuts")):
        axes.set(title=title, ylabel="curvature (loss per unit step²)")
    legend_below(figure, panels[0], 2)
    return figure
