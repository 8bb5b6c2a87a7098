"""Draw the figure of the landing page and the README: python book/_tools/hero.py

Real data (scikit-learn's digits), real nets, five seeds: median, and the range over the seeds.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

import hessinit_lite as hl
from hessinit_lite.lab.explorable import draw
from hessinit_lite.plots import BLUE, GREEN, ORANGE, PURPLE, panels_in_a_row, to_svg

DEPTH, WIDTH, SAMPLES, SEEDS = 30, 64, 256, range(5)
ASSETS = Path(__file__).resolve().parent.parent / "_assets"
STYLES = {
    "torch's default": (PURPLE, "s"), "LeCun": (ORANGE, "^"), "He": (BLUE, "o"),
    "every norm at 1": (GREEN, "D"),
}  # fmt: skip


def measure(label, seed):
    """Mean square of every layer's pre-activations, and the norm of every layer's Hessian block."""
    generator = torch.Generator().manual_seed(seed)
    batch = hl.digits().to(torch.float64).batch(SAMPLES, generator)
    model = hl.MLP(64, WIDTH, DEPTH, 10, activation="relu").double()  # norms fall to 1e-20
    if label == "every norm at 1":
        report = hl.hessian_init_(model, F.cross_entropy, batch, target=1.0, generator=generator)
        assert report.converged, report
    else:
        hl.init_(model, {"torch's default": "torch", "LeCun": "lecun", "He": "he"}[label], generator=generator)
    squares = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: squares.append(float(out.detach().square().mean())))
        for layer in hl.weight_layers(model).values()
    ]
    model(batch[0])
    for hook in hooks:
        hook.remove()
    return squares, list(hl.layer_norms(model, F.cross_entropy, batch).values())


def hero():
    figure, axes = panels_in_a_row(2, height=3.3)
    layers = torch.arange(1, DEPTH + 1)
    for label, (color, marker) in STYLES.items():
        runs = torch.tensor([measure(label, seed) for seed in SEEDS])  # [seeds, 2, layers]
        for k, ax in enumerate(axes):
            ax.fill_between(layers, runs[:, k].amin(0), runs[:, k].amax(0), color=color, alpha=0.25, lw=0)
            middle = runs[:, k].median(0).values
            ax.semilogy(layers, middle, color=color, marker=marker, ms=3.5, markevery=3, label=label)
    axes[0].set(title="The signal", xlabel="layer", ylabel="mean square of its values")
    axes[1].set(title="The curvature", xlabel="layer", ylabel="norm of Hessian block")
    for ax in axes:
        ax.grid(alpha=0.25)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    svg = draw(hero, {}, to_svg)
    (ASSETS / "hero.svg").write_text(svg.replace("currentColor", "#1f2328"))
    (ASSETS / "hero-dark.svg").write_text(svg.replace("currentColor", "#d6d9dd"))
