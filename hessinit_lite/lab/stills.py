"""What a live figure shows where scripts do not run: its first setting, drawn with torch."""

import math

import torch
from torch.nn import functional as F

from ..chain_rule import layer_norms
from ..curvature import hessian
from ..models import MLP
from ..plots import BLUE, LAYER, ORANGE, level, panels_in_a_row, whole_layers
from ..principle import hessian_init_
from ..schemes import init_
from ..spectrum import top_eigenvalues
from ..variance import edge_of_chaos, gain, second_moments, variance_profile
from .data import digits
from .experiments import eigenvalues, sweep
from .probes import seeded, signals_and_gradients


def net_of(
    depth, width, activation, scheme, factor, biases, dropout, seed, balanced, rate, optimizer
):
    """The net of a setting before training, and the laboratory's batch of 128.

    Example:
        >>> from hessinit_lite.lab.stills import net_of
        >>> model, (inputs, _) = net_of(**hl.laboratory(depth=3).setting)
        >>> len(model.layers), inputs.shape
        (3, torch.Size([128, 64]))
    """
    generator = seeded(seed)
    data = digits().to(torch.float64)
    batch = tuple(each[:128] for each in data.train)
    model = MLP(64, width, depth, 10, activation=activation, dropout=dropout).double().eval()
    init_(model, scheme, generator=generator, factor=factor, batch=batch)
    if biases is not None:
        for layer in model.layers:
            torch.nn.init.normal_(layer.bias, 0.0, biases, generator=generator)
    if balanced:
        hessian_init_(model, F.cross_entropy, batch, scheme=None)
    return model, batch


def curves(**setting):
    """Signal, gradient and Hessian norm of every layer of one net."""
    model, batch = net_of(**setting)
    norms = torch.tensor(list(layer_norms(model, F.cross_entropy, batch).values()))
    figure, panels = _by_layer(_mean_squares(model, batch) | {"norm of Hessian block": norms})
    level(panels[2])
    return figure


def signal(**setting):
    """Mean square of the signal and of the gradient in every layer of one net."""
    return _by_layer(_mean_squares(*net_of(**setting)))[0]


def _mean_squares(model, batch):
    values = signals_and_gradients(model, batch)
    return dict(zip(("mean square of u", "mean square of ∂L/∂u"), values))


def _by_layer(shown):
    figure, panels = panels_in_a_row(len(shown), height=2.6, yscale="log", xlabel=LAYER)
    for axes, (title, values) in zip(panels, shown.items()):
        axes.plot(range(1, len(values) + 1), values, color=BLUE)
        axes.set_title(title, fontsize="medium")
    whole_layers(*panels)
    return figure, panels


def layers(**setting):
    """Hessian norm of every layer of one net, and the learning rate's budget."""
    model, batch = net_of(**setting)
    norms = torch.tensor(list(layer_norms(model, F.cross_entropy, batch).values()))
    figure, (left, right) = panels_in_a_row(2, height=2.6, xlabel=LAYER)
    numbers = range(1, len(norms) + 1)
    left.semilogy(numbers, norms, "o-", color=BLUE)
    left.set_title("norm of Hessian block", fontsize="medium")
    level(left)
    right.plot(numbers, setting["rate"] * norms.cumsum(0), "o-", color=BLUE)
    right.set_title(f"budget: η‖H‖ added up, η = {setting['rate']:g}", fontsize="medium")
    level(right, 2.0)
    whole_layers(left, right)
    return figure


def rate(**setting):
    """Loss and sharpness over 60 steps of gradient descent, and the limit 2/η."""
    model, batch = net_of(**setting)
    optimizer = torch.optim.SGD(model.parameters(), lr=setting["rate"])
    losses, sharpness, every = [], [], 5
    for step in range(60):
        if step % every == 0:
            curvature = hessian(model, F.cross_entropy, batch)
            options = {"which": "LA", "rtol": 1e-2, "generator": seeded(step)}
            sharpness.append(float(top_eigenvalues(curvature, **options)[0][0]))
        loss = F.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    figure, (left, right) = panels_in_a_row(2, height=2.6, xlabel="step")
    left.plot(losses, color=BLUE)
    left.set_title("loss of the whole batch", fontsize="medium")
    right.semilogy(range(0, 60, every), sharpness, ".-", color=BLUE)
    right.set_title("sharpness λ, dotted: 2/η", fontsize="medium")
    level(right, 2 / setting["rate"])
    return figure


def plane(**setting):
    """The edge of chaos in the plane of the standard deviations of weights and biases."""
    variances = [0.0004 * k**2 for k in range(1, 200)]
    pairs = [edge_of_chaos(setting["activation"], variance) for variance in variances]
    edge = torch.tensor([pair for pair in pairs if pair[1] >= 0]).reshape(-1, 2).sqrt()
    figure, (axes,) = panels_in_a_row(1, height=3.2, xlabel=r"$\sigma_w$", ylabel=r"$\sigma_b$")
    axes.plot(*edge.T, "--", color="black")
    axes.set(xlim=(0.5, 3), ylim=(0, 1))
    axes.text(0.7, 0.7, "ordered")
    axes.text(2.3, 0.2, "chaotic")
    return figure


def variance_map(**setting):
    """The variance map of an activation under its gain, and the variance by layer."""
    name = setting["activation"]
    factor = gain(name) ** 2
    q = torch.linspace(0.05, 4, 80, dtype=torch.float64)
    figure, (left, right) = panels_in_a_row(2, height=2.6)
    left.plot(q, [factor * second_moments(name, float(each))[0] for each in q], color=BLUE)
    left.plot([0, 4], [0, 4], color="black", linewidth=0.8)
    left.set(xlabel="q", ylabel="q one layer on")
    profile = variance_profile(name, 30, factor, input_variance=2 / factor)  # 2 in the first layer
    right.semilogy(range(1, 31), profile, ".-", color=BLUE)
    right.set(xlabel=LAYER, ylabel="variance of u")
    level(right)
    return figure


def singular(**setting):
    """Singular values of the Jacobians from the first layer to each one, for one digit."""
    model, (inputs, _) = net_of(**setting)
    activation, product, values = model.activation, None, []
    z = model.layers[0](inputs[:1])
    for layer in model.layers[1:-1]:
        u = layer(activation(z))
        z = u
        (slope,) = torch.autograd.grad(activation(u).sum(), u)
        product = slope.T * layer.weight if product is None else slope.T * (layer.weight @ product)
        values.append(torch.linalg.svdvals(product.detach()))
    figure, (axes,) = panels_in_a_row(1, height=2.8, yscale="log", xlabel=LAYER)
    dots = {"color": BLUE, "markersize": 3, "rasterized": True}  # a thousand of them
    axes.plot(range(2, len(values) + 2), torch.stack(values), ".", **dots)
    axes.set(ylabel="singular value", ylim=(1e-9, 1e3))
    level(axes)
    return figure


def _between(values):
    """Edges [n + 1] of n fields on a logarithmic axis."""
    logs = values.log()
    ends = 2 * logs[:1] - logs[1:2], logs, 2 * logs[-1:] - logs[-2:-1]
    logs = torch.cat(ends)
    return ((logs[1:] + logs[:-1]) / 2).exp().numpy()


def balance(**setting):
    """Norm of every layer as drawn, and with a factor 3 moved from a layer to the next."""
    model, batch = net_of(**setting)
    moved = len(model.layers) // 2
    found = []
    for layer in model.layers:
        torch.nn.init.zeros_(layer.bias)
    for factor in (1.0, 3.0):
        with torch.no_grad():
            model.layers[moved - 1].weight.div_(factor)
            model.layers[moved].weight.mul_(factor)
        found.append(list(layer_norms(model, F.cross_entropy, batch).values()))
    figure, (axes,) = panels_in_a_row(1, height=2.8, yscale="log", xlabel=LAYER)
    for values, color, label in zip(found, (BLUE, ORANGE), ("as drawn", "a factor 3 moved")):
        axes.plot(range(1, len(values) + 1), values, "o-", color=color, label=label)
    axes.set(ylabel="norm of Hessian block")
    axes.legend(frameon=False)
    whole_layers(axes)
    return figure


def ritz_values(**setting):
    """Ritz values of Lanczos on a stored Hessian's eigenvalues, product by product."""
    values = torch.tensor(eigenvalues.figure()[0], dtype=torch.float64)
    generator = seeded(setting["seed"])
    start = torch.randn(len(values), dtype=values.dtype, generator=generator)
    figure, (axes,) = panels_in_a_row(1, height=3.2, xlabel="products")
    ends = values[values.abs() > 2.0]
    axes.hlines(ends.tolist(), 0, 25, color="black", linewidth=0.4, alpha=0.5)
    basis, rows = [start / start.norm()], []
    for count in range(1, 25):
        new = values * basis[-1]
        for q in 2 * basis:
            new = new - (new @ q) * q
        q = torch.stack(basis)
        ritz = torch.linalg.eigvalsh(q @ (values * q).T)
        rows += [(count, float(value)) for value in ritz]
        basis.append(new / new.norm())
    axes.plot(*zip(*rows), ".", color=BLUE, markersize=4, rasterized=True)
    axes.set(ylabel="Ritz value; lines: eigenvalues", xlim=(0, 25))
    return figure


def targets_and_rates(**setting):
    """Median loss of stored trainings by target and learning rate, and the line ηλ = 2."""
    found = sweep.figure()
    ends = torch.tensor(
        [
            [[math.inf if run[-1] is None else run[-1] for run in runs] for runs in column]
            for column in found["losses"]
        ]
    )
    shown = ends.median(2).values.clamp(max=math.log(10))
    targets, rates = torch.tensor(found["targets"]), torch.tensor(found["rates"])
    figure, (axes,) = panels_in_a_row(1, height=3.2, xscale="log", yscale="log")
    edges = [_between(values) for values in (targets, rates)]
    mesh = axes.pcolormesh(*edges, shown.T.numpy(), cmap="cividis")
    mesh.set_rasterized(True)
    axes.plot(targets, 2 / torch.tensor(found["curvature"]), color=ORANGE, linewidth=2.5)
    axes.set(xlabel="target of every layer's norm", ylabel="learning rate η")
    figure.colorbar(mesh, ax=axes, label="loss after training")
    return figure


#: {view of `hl.laboratory`: its picture}.
STILLS = {
    "full": curves,
    "small": curves,
    "signal": signal,
    "layers": layers,
    "rate": rate,
    "plane": plane,
    "map": variance_map,
    "singular": singular,
    "balance": balance,
    "lanczos": ritz_values,
    "sweep": targets_and_rates,
}
