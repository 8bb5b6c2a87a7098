"""The figures of the book, one function a figure.

Each is called as `figure(depth, activation, ...)`, runs the real computation and returns a
matplotlib Figure. Colours are Okabe and Ito's, readable by colour-blind readers.
"""

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from .chain_rule import layer_blocks, layer_gradients, layer_norms
from .curvature import hessian
from .data import digits
from .models import MLP
from .principle import hessian_init_
from .schemes import init_
from .spectrum import top_eigenvalues, trace
from .variance import gain, gradient_profile, variance_profile

BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"


def _axes(columns=1, height=3.2):
    """A Figure outside pyplot (nothing to close), with `columns` axes side by side."""
    figure = Figure(figsize=(7.2, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


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


def principle(depth, activation, width=64, seed=0):
    """Spectral norms of the layers' Gauss-Newton blocks before and after hessian_init_.

    Digits, 128 samples, target 1, at most 8 measurements; before: the scheme "forward".
    """
    generator = torch.Generator().manual_seed(seed)
    model = MLP(64, width, depth, 10, activation=activation)
    init_(model, "forward", generator=generator)
    batch, loss_fn = digits().batch(128, generator), F.cross_entropy
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
