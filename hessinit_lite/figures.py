"""The figures of the book, one function a figure.

Each is called as `figure(depth, activation, ...)`, runs the real computation and returns a
matplotlib Figure. Colours are Okabe and Ito's, readable by colour-blind readers.
"""

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from .chain_rule import layer_blocks, layer_gradients, layer_norms
from .corpus import docstrings
from .curvature import gauss_newton, hessian
from .data import digits
from .models import MLP, activation_module, weight_layers
from .principle import hessian_init_
from .schemes import init_
from .spectrum import spectral_density, top_eigenvalues
from .variance import (correlation_map, correlation_profile, fluctuation_profile, gain, gradient_profile,
                       variance_profile)

BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"


def _axes(columns=1, height=3.2):
    """A Figure outside pyplot (nothing to close), with `columns` axes side by side."""
    figure = Figure(figsize=(7.2, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _some_layers(depth, most=13):
    """At most `most` layers out of 1..depth, evenly spaced, the first and the last among them."""
    return torch.linspace(1, depth, min(depth, most)).round().long()


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
        error.append(max(1e-16, float(torch.linalg.vector_norm(h - g) / torch.linalg.vector_norm(h))))
    layers = [k + 1 for k in shown]
    figure, (left, right) = _axes(2)
    left.semilogy(layers, full, "o-", color=BLUE, label="Hessian")
    left.semilogy(layers, linear, "s--", color=ORANGE, label="Gauss-Newton")
    left.set(xlabel="layer k (1 = first)", ylabel="|ĝᵀ H ĝ| (loss per unit step²)",
             title=f"{activation}, depth {depth}: curvature")
    right.semilogy(layers, error, "o-", color=GREEN)
    right.set(xlabel="layer k (1 = first)", ylabel="‖(H − G) ĝ‖ / ‖H ĝ‖ (ratio)", ylim=(3e-17, 30),
              title="what Gauss-Newton leaves out")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
    return figure


def principle(depth, activation, width=32, seed=0):
    """Spectral norms of the layers' Gauss-Newton blocks before and after hessian_init_.

    Digits, 64 samples, target 1, at most 8 measurements; before: the scheme "forward".
    """
    generator = torch.Generator().manual_seed(seed)
    model = MLP(64, width, depth, 10, activation=activation)
    init_(model, "forward", generator=generator)
    batch, loss_fn = digits().batch(64, generator), F.cross_entropy
    before = list(layer_norms(model, loss_fn, batch, rtol=1e-2).values())
    figure, (axes,) = _axes()
    layers = range(1, depth + 1)
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.semilogy(layers, before, "o-", color=ORANGE, markersize=4, label="before: forward init")
    try:
        report = hessian_init_(model, loss_fn, batch, scheme=None, max_steps=8)
        after = list(report.norms.values())
        axes.semilogy(layers, after, "s-", color=BLUE, markersize=4, label="after: hessian_init_")
        outcome = (f"within 1 % after {report.steps} measurements" if report.converged
                   else f"target 1 not reached in {report.steps} measurements")
    except ValueError as error:  # norms that underflow to zero: no scale to solve for
        outcome = str(error).split(",")[0]
    axes.set(xlabel="layer k (1 = first)", ylabel="‖H_w(k)‖ (loss per unit step²)",
             title=f"{activation}, depth {depth}: {outcome}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
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
    figure, (axes,) = _axes(height=3.6)
    for name, steps, color, marker in (("power iteration", power, ORANGE, "s"),
                                       ("Lanczos", lanczos[:30], BLUE, "o")):
        errors = [max(1e-16, abs(value / truth - 1)) for value, _ in steps]
        bounds = [max(1e-16, residual / abs(truth)) for _, residual in steps]
        products = range(1, len(steps) + 1)
        axes.semilogy(products, errors, marker + "-", color=color, markersize=4,
                      label=f"{name}: error")
        axes.semilogy(products, bounds, "--", color=color, label=f"{name}: residual bound")
    axes.set(xlabel="Hessian-vector products", ylabel="relative to the eigenvalue (ratio)",
             ylim=(3e-17, 30),
             title=f"{activation}, depth {depth}, {layer}: largest eigenvalue {truth:.3g}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
    return figure


def _layer_flow(model, inputs, generator=None):
    """Mean squares by layer, [2, depth]: of the pre-activations u, and of the gradients in u.

    The gradient that enters at the output is drawn at random, independent N(0, 1) numbers, so that
    only the network's own effect is seen. Means are over samples and units.
    """
    signals = []
    hooks = [layer.register_forward_hook(lambda _, __, u: signals.append(u))
             for layer in weight_layers(model).values()]
    try:
        outputs = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    entering = torch.empty_like(outputs).normal_(generator=generator)
    gradients = torch.autograd.grad(outputs, signals, entering)
    return torch.stack([torch.stack([t.detach().square().mean() for t in tensors])
                        for tensors in (signals, gradients)])


def variance_flow(depth, activation, width=128, seed=0, nets=5, samples=32):
    """Variances through a net of equal widths: mean-field prediction (lines), real nets (dots).

    N(0, 1) inputs, float64. Dots: mean over the nets; bands: their range. Left: pre-activations.
    Right: gradients relative to the last layer's. Equal widths: Glorot is LeCun.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, width, generator=generator, dtype=torch.float64)
    model = MLP(width, width, depth, width, activation=activation).double()
    shown = _some_layers(depth)
    figure, panels = _axes(2)
    for scheme, label, color, marker, weight_variance, bias_variance in (
            ("lecun", "LeCun = Glorot", ORANGE, "^", 1.0, 0.0),
            ("he", "He", BLUE, "o", 2.0, 0.0),
            ("torch", "torch's default", PURPLE, "s", 1 / 3, 1 / (3 * width))):
        measured = torch.stack([_layer_flow(init_(model, scheme, generator=generator), inputs, generator)
                                for _ in range(nets)])
        measured[:, 1] /= measured[:, 1, -1:].clone()
        signal = variance_profile(activation, depth, weight_variance, bias_variance)
        gradient = gradient_profile(activation, signal, weight_variance)
        for axes, flow, predicted in zip(panels, measured.unbind(1), (signal, gradient)):
            flow, predicted = flow[:, shown - 1], torch.tensor(predicted)[shown - 1]
            axes.fill_between(shown, flow.amin(0), flow.amax(0), color=color, alpha=0.25, linewidth=0)
            axes.semilogy(shown, predicted, color=color, linewidth=1.2)
            axes.semilogy(shown, flow.mean(0), marker, color=color, markersize=4, label=label)
    left, right = panels
    left.set(title=f"{activation}, depth {depth}: signal", xlabel="layer (1 = first)",
             ylabel="mean square of u (input = 1)")
    right.set(title="gradient", xlabel="layer (1 = first)",
              ylabel="mean square of dL/du (last = 1)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    return figure


def signal_by_layer(depth, activation, width=64, seed=0):
    """Mean squares of signal and gradient by layer, for three scales of the weights.

    128 digits, cross-entropy, float64; the scheme "forward" and half and one and a half times its
    standard deviation. Values below 1e-30 are drawn there.
    """
    figure, panels = _axes(2)
    shown = _some_layers(depth)
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
            axes.semilogy(shown, squares, color=color, marker=marker, markersize=4,
                          label=f"{factor:g} × the right scale")
    left, right = panels
    left.set(title=f"{activation}, depth {depth}: signal", xlabel="layer (1 = first)",
             ylabel="mean square of u")
    right.set(title="gradient", xlabel="layer (1 = first)", ylabel="mean square of dL/du (loss²)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
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
    shown = _some_layers(depth)
    figure, panels = _axes(2)
    for label, g, color, marker in (("forward gain", gain(activation), BLUE, "o"),
                                    ("backward gain", gain(activation, "backward"), ORANGE, "s"),
                                    ("He", 2 ** 0.5, GREEN, "^")):
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
            axes.fill_between(shown, flow.amin(0), flow.amax(0), color=color, alpha=0.25, linewidth=0)
            axes.semilogy(shown, flow.mean(0), color=color, marker=marker, markersize=4,
                          label=f"{label}: {g:.2f}")
    left, right = panels
    left.set(title=f"{activation}, depth {depth}: signal", xlabel="layer (1 = first)",
             ylabel="mean square of u (input = 1)")
    right.set(title="gradient", xlabel="layer (1 = first)",
              ylabel="mean square of dL/du (last = 1)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
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
    figure, (axes,) = _axes()
    grid, largest = torch.linspace(-1.15, 1.15, 231, dtype=torch.float64), None
    for build, label, color, style in ((hessian, "Hessian", BLUE, "-"),
                                       (gauss_newton, "Gauss-Newton", ORANGE, "--")):
        operator = build(model, F.cross_entropy, (inputs.double(), targets))
        nodes, weights = spectral_density(operator, steps, samples, generator)
        largest = nodes.abs().max() if largest is None else largest
        bumps = torch.exp(-((grid[:, None] - nodes.flatten() / largest) / 0.01) ** 2 / 2)
        heights = bumps @ weights.flatten() / (samples * 0.01 * (2 * torch.pi) ** 0.5)
        axes.semilogy(grid, heights.clamp(min=1e-6), style, color=color, label=label)
    axes.set(xlabel="eigenvalue / largest magnitude (ratio)", ylabel="density of eigenvalues",
             title=f"{activation}, depth {depth}: largest magnitude {largest:.2g}", ylim=(1e-4, 100))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
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
    inputs, shown = inputs.double(), _some_layers(depth)
    drawn = []  # (pre-activations of the layers shown, loss gradient) of every net
    for _ in range(nets):
        model = init_(MLP(64, width, depth, 10, activation=activation).double(), "forward", generator=generator)
        signals = []
        for layer in model.layers:
            layer.register_forward_hook(lambda _, __, u: signals.append(u))
        outputs = model(inputs)
        drawn.append(([signals[k - 1] for k in shown], F.softmax(outputs.detach(), 1) - F.one_hot(targets, 10)))

    square = gain(activation) ** 2
    signal = variance_profile(activation, depth, square, input_variance=float(inputs.square().mean()) / square)
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

    figure, (left, right) = _axes(2)
    left.axhline(1, color="black", linewidth=0.8, linestyle=":")
    for ratio, label, color, marker in ((ratios[0], "own loss gradient", ORANGE, "o"),
                                        (ratios[1], "another net's", BLUE, "s")):
        left.fill_between(shown, ratio.amin(0), ratio.amax(0), color=color, alpha=0.25, linewidth=0)
        left.semilogy(shown, ratio.median(0).values, marker + "-", color=color, markersize=4, label=label)
    left.set(title=f"{activation}, depth {depth}", xlabel="layer (1 = first)", ylim=(0.02, 50),
             ylabel="mean square of dL/du\nmeasured / predicted (ratio)")
    right.axhline(samples ** -0.5, color="black", linewidth=0.8, linestyle=":")
    right.fill_between(shown, sizes.amin(0), sizes.amax(0), color=GREEN, alpha=0.25, linewidth=0)
    right.plot(shown, sizes.median(0).values, "^-", color=GREEN, markersize=4)
    right.set(title="components", xlabel="layer (1 = first)", ylim=(0, 1),
              ylabel="rms correlation of\ntwo components of dL/du")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
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
    shown = _some_layers(depth, most=9)
    figure, (left, right) = _axes(2, height=3.6)
    for factor, color, marker in ((0.8, ORANGE, "v"), (1.0, BLUE, "o"), (1.25, PURPLE, "^")):
        generator = torch.Generator().manual_seed(seed)
        model = MLP(64, width, depth, 10, activation=activation, bias=False).double()
        init_(model, "forward", generator=generator, factor=factor)
        inputs, targets = digits().batch(samples, generator)
        inputs, signals = inputs.double(), []
        hooks = [layer.register_forward_hook(lambda _, args, u: signals.append((args[0], u)))
                 for layer in model.layers]
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
    left.set(title="products: forward —, backward - -", xlabel="layer (1 = first)",
             ylabel="mean square (ratio)")
    right.set(title="norm —, bound of Theorem 7 - -", xlabel="layer (1 = first)",
              ylabel="‖H_w(k)‖ (loss per unit step²)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
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
    shown = _some_layers(depth)
    signal, gradient = (torch.stack([t.detach().square().mean((1, 2)) for t in tensors])[shown - 1]
                        for tensors in (signals, gradients))
    spreads = signal.log().var(1), (gradient / gradient[-1]).log().var(1)

    figure, (left, right) = _axes(2)
    low, middle, high = (signal.log10().quantile(p, dim=1) for p in (0.1, 0.5, 0.9))
    left.fill_between(shown, low, high, color=BLUE, alpha=0.25, linewidth=0)
    left.plot(shown, middle, "o-", color=BLUE, markersize=4)
    mean_field = torch.tensor(variance_profile(activation, depth, square, input_variance=1 / square))
    left.plot(shown, mean_field[shown - 1].log10(), "--", color="black", linewidth=1)
    left.set(title=f"{activation}, depth {depth}, width {width}", xlabel="layer (1 = first)",
             ylabel="log10 of the mean square of u",
             ylim=(min(-2.0, 1.05 * float(low.min())), max(2.0, 1.05 * float(high.max()))))
    left.xaxis.get_major_locator().set_params(integer=True)
    predicted = torch.tensor(fluctuation_profile(activation, depth, width, square, input_variance=1 / square))
    predicted = torch.where(predicted < 100, predicted, torch.nan)[shown - 1]
    right.plot(shown, spreads[0], "o", color=BLUE, markersize=4, label="signal")
    right.plot(shown, predicted, color=BLUE, linewidth=1.2, label="signal, predicted")
    right.plot(shown, spreads[1], "s", color=ORANGE, markersize=4, label="gradient")
    right.set(title=f"spread over {nets} nets", xlabel="layer (1 = first)",
              ylabel="variance of log(mean square)")
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set_ylim(0, max(0.5, 1.15 * float(torch.stack(spreads).max())))
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
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
    z = torch.stack([one] + [c * one + (1 - c * c) ** 0.5 * other for c in cosines], 2) * width ** 0.5
    measured = []
    for k in range(depth):
        w = torch.randn(nets, width, width, dtype=torch.float64, generator=generator)
        u = w @ z * ((square if k else 1.0) / width) ** 0.5
        measured.append(torch.cosine_similarity(u[:, :, :1], u[:, :, 1:], dim=1))
        z = f(u)
    shown = _some_layers(depth)
    measured = torch.stack(measured)[shown - 1]  # [layers, nets, cosines]
    predicted = [correlation_profile(activation, depth, c, square, input_variance=1 / square) for c in cosines]

    figure, (left, right) = _axes(2, height=3.4)
    grid = torch.linspace(0, 1, 21)
    left.plot((0, 1), (0, 1), ":", color="black", linewidth=0.8)
    left.plot(grid, [correlation_map(activation, float(c)) for c in grid], color=PURPLE)
    for j in (0, 2):
        path = torch.tensor(predicted[j][:12])
        left.plot(path.repeat_interleave(2)[:-1], path.repeat_interleave(2)[1:], color=colors[j], linewidth=1)
    left.set(title=f"{activation}: map, slope {square / gain(activation, 'backward') ** 2:.2f} at 1",
             xlabel="correlation c in one layer", ylabel="c in the next layer",
             xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for j, (c, color) in enumerate(zip(cosines, colors)):
        band = measured[..., j].quantile(torch.tensor([0.1, 0.9], dtype=torch.float64), dim=1)
        right.fill_between(shown, *band, color=color, alpha=0.25, linewidth=0)
        right.plot(shown, torch.tensor(predicted[j])[shown - 1], color=color, linewidth=1.2)
        right.plot(shown, measured[..., j].mean(1), "o", color=color, markersize=4,
                   label=f"inputs with cosine {c:g}")
    right.set(title=f"depth {depth}, width {width}", xlabel="layer (1 = first)",
              ylabel="correlation of two inputs", ylim=(-1.05, 1.05))
    right.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    return figure


def jacobian_spectrum(depth, activation, width=64, seed=0, nets=3):
    """Singular values of the Jacobian from input to output, Gaussian against orthogonal weights.

    Weights have the activation's forward gain at the variance q of the pre-activations, the random
    inputs mean square q, for q = 1 (solid) and 0.01 (dashed); no biases, float64. Left: all singular
    values of one net, largest first, over their root mean square; below 1e-4 they are drawn there.
    Right: the relative variance of their squares up to a layer, median and range over the nets.
    Dynamical isometry is 1 on the left and 0 on the right.
    """
    shown = _some_layers(depth).tolist()
    ranks = torch.linspace(0, width - 1, min(width, 33)).round().long()
    figure, (left, right) = _axes(2, height=3.6)
    for scheme, label, color, marker in (("lecun", "Gaussian", ORANGE, "o"),
                                         ("orthogonal", "orthogonal", BLUE, "s")):
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
            right.fill_between(shown, spreads.amin(0), spreads.amax(0), color=color, alpha=0.2, linewidth=0)
            right.semilogy(shown, spreads.median(0).values, marker + style, color=color, markersize=4,
                         label=f"{label}, q = {q:g}")
    left.axhline(1, color="black", linewidth=0.8, linestyle=":")
    left.set(title=f"{activation}, depth {depth}", xlabel="rank / width (largest first)",
             ylabel="singular value / rms (ratio)", ylim=(5e-5, 20), yticks=(1e-4, 1e-2, 1), xlim=(0, 1))
    right.set(title="spread by layer", xlabel="layer (1 = first)", ylim=(5e-6, 2 * width),
              yticks=(1e-4, 1e-2, 1, 100), ylabel="relative variance of\nsquared singular values")
    right.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):  # half of the drawing time
        axes.minorticks_off()
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
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
    figure, (left, right) = _axes(2)
    for dtype, color, marker in ((torch.float32, ORANGE, "s"), (torch.float64, BLUE, "o")):
        model.to(dtype)
        batch = inputs.to(dtype), targets
        whole = hessian(model, F.cross_entropy, batch)
        vector = whole.gradient.float().to(dtype)
        products[dtype] = product = whole @ vector
        differences = []
        for count in counts:
            operators = [hessian(model, F.cross_entropy, part) for part in zip(*(x.chunk(count) for x in batch))]
            mean = sum(operator @ vector for operator in operators) / count
            differences.append(max(1e-17, float((mean - product).norm() / product.norm())))
            own[count] = operators
        left.loglog(counts, differences, marker + "-", color=color, label=f"shards, {str(dtype)[6:]}")
    exact = products[torch.float64]
    rounding = float((products[torch.float32] - exact).norm() / exact.norm())
    left.axhline(rounding, color=ORANGE, linestyle=":", label="float32 against float64, no shards")
    (value,), _ = top_eigenvalues(whole, rtol=0.05, generator=generator)
    for count, operators in own.items():
        ratios = [float(top_eigenvalues(operator, rtol=0.05, generator=generator)[0] / value)
                  for operator in operators]
        right.plot([count] * count, ratios, "o", color=GREEN, alpha=0.6)
    right.axhline(1, color="black", linewidth=0.8, linestyle=":")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
    left.set(title=f"{activation}, depth {depth}: mean of shards", xlabel="shards", ylim=(5e-18, 1),
             ylabel="relative difference of H g (ratio)")
    right.set(title="each shard alone", xlabel="shards", ylabel="λ of shard / λ of all data (ratio)",
              xlim=(1.7, 9.5))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
    return figure


def _show_two_decades(axes):
    """A vertical axis from 0.1 to 10 at least, so that a level line looks level."""
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.1), max(high, 10.0))


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
        w = torch.randn(nets, width, width, dtype=torch.float64, generator=generator) / width ** 0.5
        mask = (torch.rand(start.shape, generator=generator) >= p) / (1 - p)
        if layer:
            signals = [f(u) * factor * (mask if drop else 1)
                       for u, factor, drop in zip(signals, factors, dropped)]
        signals = [z @ w for z in signals]
        squares.append(torch.stack([u.square().mean((1, 2)) for u in signals]))
    shown = _some_layers(depth, most=9)
    squares = torch.stack(squares)[shown - 1]  # [layers, 4, nets]
    figure, panels = _axes(2)
    for case, (axes, color, marker, label) in enumerate((
            (panels[0], BLUE, "o", "right side"), (panels[0], ORANGE, "s", "wrong side, as printed"),
            (panels[1], BLUE, "o", None), (panels[1], ORANGE, "s", None))):
        found = squares[:, case]
        axes.fill_between(shown, found.amin(1), found.amax(1), color=color, alpha=0.25, linewidth=0)
        axes.semilogy(shown, found.median(1).values, marker + "-", color=color, markersize=4, label=label)
    panels[0].set(title=f"{activation}, depth {depth}: σ·{g:.2f}, σ/{g:.2f}", xlabel="layer (1 = first)",
                  ylabel="mean square of u (input = 1)")
    panels[1].set(title=f"dropout {p:g}: ×√(1-p), /√(1-p)", xlabel="layer (1 = first)",
                  ylabel="mean square of u (input = 1)")
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)
        _show_two_decades(axes)
        axes.minorticks_off()  # half of the drawing time
        axes.yaxis.get_major_locator().set_params(numticks=6)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
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
    shown = _some_layers(depth, most=5)
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
        units = torch.block_diag(*(part[:, None] / torch.linalg.vector_norm(part) for part in gradients))
        signs = torch.block_diag(*(
            torch.empty_like(part[:, None]).bernoulli_(0.5, generator=generator) * 2 - 1 for part in gradients))
        # A layer's own block: the rows where its column is not zero.
        full, kept = (operator.matmat(torch.cat([units, signs], 1)) for operator in (h, g))
        (along, full), missing = full.split(len(shown), 1), (full - kept).split(len(shown), 1)
        errors[0, net] = (units * missing[0]).sum(0).abs() / (units * along).sum(0).abs()
        errors[1, net] = (signs * missing[1]).norm(dim=0) / (signs * full).norm(dim=0)
    errors = errors.clamp(1e-3, 1e3)
    figure, panels = _axes(2)
    for axes, error, color, label in zip(panels, errors, (BLUE, ORANGE), (
            "|ĝᵀ(H − G)ĝ| / |ĝᵀHĝ| (ratio)", "‖(H − G)s‖ / ‖Hs‖ (ratio)")):
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
    f(conv(f(conv(z))) + z), as in `BasicBlock` of architectures.py.
    """

    def __init__(self, depth, width, activation, shortcuts):
        super().__init__()
        sizes = [1] + [width] * (depth - 1)
        self.layers = torch.nn.ModuleList(
            torch.nn.Conv2d(d_in, d_out, 3, padding=1) for d_in, d_out in zip(sizes, sizes[1:]))
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
    shown = _some_layers(depth, 6)
    figure, panels = _axes(2)
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
            found.append([(float(block.quotient(gradients[name])), float(block.norm(rtol=0.05)))
                          for name, block in blocks.items()])
        found = torch.tensor(found).clamp(min=1e-12)  # [nets, layers, 2]
        axes.axhspan(1e-2, 10, color="gray", alpha=0.2, linewidth=0)
        for j, (label, color, marker) in enumerate((("along the gradient, ĝᵀHĝ", BLUE, "o"),
                                                    ("largest, ‖H‖", ORANGE, "s"))):
            values = found[..., j]
            axes.fill_between(shown, values.amin(0), values.amax(0), color=color, alpha=0.25, linewidth=0)
            axes.semilogy(shown, values.log().mean(0).exp(), marker + "-", color=color, markersize=4,
                          label=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.minorticks_off()
        axes.set_xlabel("layer (1 = first)")
    for axes, title in zip(panels, (f"{activation}, depth {depth}: plain", "with shortcuts")):
        axes.set(title=title, ylabel="curvature (loss per unit step²)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
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
    ends = {"words": ("embedding table", BLUE, "o-"), "net.layers.0": ("first dense layer", ORANGE, "s--"),
            f"net.layers.{depth - 1}": ("last dense layer", GREEN, "^:")}
    for name, layer in weight_layers(net).items():  # the others' norms are not asked for
        layer.weight.requires_grad_(f"net.{name}" in ends)
    scales, norms = torch.logspace(-3, 1, 9), {name: [] for name in ends}
    for scale in scales:
        with torch.no_grad():
            model.words.weight.copy_(scale * table)
        for name, norm in layer_norms(model, loss_fn, batch, rtol=1e-2).items():
            norms[name].append(max(1e-12, norm))
    figure, (axes,) = _axes()
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    for name, (label, color, style) in ends.items():
        axes.loglog(scales, norms[name], style, color=color, markersize=4, label=label)
    axes.set(xlabel="standard deviation σ of the embedding's entries (its units)",
             ylabel="norm of the block\n(loss per unit step²)", ylim=(3e-13, 1e13),
             title=f"{activation}, {depth} dense layers on an embedding")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
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
        return F.cross_entropy(outputs, targets.repeat(runs), reduction="none").view(runs, -1).mean(1)

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
    figure, (left, right) = _axes(2)
    for factor, color, style, label in ((0.1, BLUE, ":", "norms / 10"), (1, GREEN, "--", "as drawn"),
                                        (10, ORANGE, "-", "norms × 10")):
        for layer, weight in zip(model.layers, drawn):
            layer.weight.data.copy_(weight * factor ** (0.5 / (depth - 1)))
        norms = layer_norms(model, F.cross_entropy, batch, norm="frobenius").values()
        norm = torch.tensor(list(norms), dtype=torch.float64).log().mean().exp()
        weights = [layer.weight.expand(len(rates), -1, -1) for layer in model.layers]
        _, losses = _descend(weights, model.activation, batch, lambda _: rates, steps)
        losses = losses.nan_to_num(5, 5).clamp(max=4)
        left.semilogx(rates, losses, style, color=color, linewidth=2, label=label)
        right.semilogx(rates * norm, losses, style, color=color, linewidth=2)
    left.set(xlabel="learning rate η", ylim=(0, 4.1), ylabel=f"loss after {steps} steps (nats)",
             title=f"{activation}, depth {depth}")
    right.set(xlabel="η × norm of a layer (number)", ylim=(0, 4.1), ylabel="the same loss (nats)",
              title="against rate × norm")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False)
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
    weights = [torch.stack(each).repeat_interleave(len(multiples), 0).repeat(2, 1, 1) for each in zip(*weights)]

    def both(step):  # without and with warm-up
        return torch.cat([rates, rates * min(1, (step + 1) / max(1, steps // 2))])

    before, after = _descend(weights, model.activation, (inputs, targets), both, steps)
    ratios = (after / before).nan_to_num(10, 10).clamp(0.03, 10).view(2, nets, -1)

    figure, (axes,) = _axes()
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.axhline(1, color="gray", linewidth=0.8)
    for ratio, color, marker, label in zip(ratios, (ORANGE, BLUE), "so", ("one rate throughout", "with warm-up")):
        axes.fill_between(multiples, ratio.amin(0), ratio.amax(0), color=color, alpha=0.2, linewidth=0)
        axes.loglog(multiples, ratio.median(0).values, marker + "-", color=color, markersize=4, label=label)
    axes.set(xlabel="learning rate · λ / 2 (ratio; 1 = predicted limit)", ylim=(0.025, 12),
             ylabel=f"loss after {steps} steps / loss at start", title=f"{activation}, depth {depth}")
    axes.set_xticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])  # plain text draws twice as fast
    axes.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes.minorticks_off()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
    return figure


class _ResidualNet(torch.nn.Module):
    """A dense stem, `blocks` times z' = skip · z + scale · W₂ f(W₁ f(norm(z))), a dense layer."""

    def __init__(self, blocks, width, activation, skip, scale, norm):
        super().__init__()
        self.stem = torch.nn.Linear(64, width, bias=False)
        self.pairs = torch.nn.ModuleList(
            torch.nn.Linear(width, width, bias=False) for _ in range(2 * blocks))
        self.dense = torch.nn.Linear(width, 10, bias=False)
        self.activation, self.skip, self.scale = activation_module(activation), skip, scale
        self.norm = torch.nn.LayerNorm(width, elementwise_affine=False) if norm else torch.nn.Identity()

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
    shown = _some_layers(depth, most=6)
    figure = Figure(figsize=(7.2, 3.4))  # fixed margins: finding them would take half of the drawing time
    panels = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.1, right=0.99, bottom=0.26, top=0.83, wspace=0.52)
    for label, skip, scale, norm, color, style in (
            ("plain", 0, 1, False, ORANGE, "s-"), ("z + branch", 1, 1, False, PURPLE, "^--"),
            ("z + branch / √depth", 1, depth ** -0.5, False, BLUE, "o-"),
            ("z + branch(norm z)", 1, 1, True, GREEN, "D:")):
        generator = torch.Generator().manual_seed(seed)
        net = _ResidualNet(depth, width, activation, skip, scale, norm).double()
        init_(net, "forward", generator=generator).requires_grad_(False)
        for k in shown:  # curvature of the others is not needed
            net.pairs[2 * k - 2].weight.requires_grad_()
        outputs, stream = net(inputs)
        entering = torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype)
        gradients = torch.stack(torch.autograd.grad(outputs, stream[1:], entering)).square().mean((1, 2))
        signals = torch.stack([z.detach().square().mean() for z in stream[1:]])
        blocks = layer_blocks(_Outputs(net), lambda z, t: 5 * F.mse_loss(z, t), (inputs, onehot))
        traces = torch.stack([block.trace() for block in blocks.values()])
        for axes, values in zip(panels, (signals[shown - 1], (gradients / gradients[-1])[shown - 1], traces)):
            axes.semilogy(shown, values.clamp(1e-30, 1e30), style, color=color, markersize=3.5, label=label)
    for axes, title, unit in zip(panels, ("signal", "gradient", "curvature"), (
            "mean square of z", "mean of (dL/dz)² (last = 1)", "trace of a block (loss / step²)")):
        axes.set(title=title, xlabel="block (1 = first)", ylabel=unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.minorticks_off()
        axes.yaxis.get_major_locator().set_params(numticks=5)
        _show_two_decades(axes)
    figure.suptitle(f"{activation}, {depth} blocks")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower left", ncols=4, frameon=False)
    return figure
