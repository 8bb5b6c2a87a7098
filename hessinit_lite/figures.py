"""The figures of the book, one function a figure.

Each is called as `figure(depth, activation, ...)`, runs the real computation and returns a
matplotlib Figure. Colours are Okabe and Ito's, readable by colour-blind readers.
"""

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from .chain_rule import layer_blocks, layer_gradients, layer_norms
from .curvature import gauss_newton, hessian
from .data import digits
from .models import MLP, weight_layers
from .principle import hessian_init_
from .schemes import init_
from .spectrum import spectral_density
from .variance import gain, gradient_profile, variance_profile

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
