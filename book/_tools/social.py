"""Draw the picture that links to the book are shown with: python book/_tools/social.py

On the right, the curvature of real nets on real data (scikit-learn's digits), five seeds: median, and the range.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

import hessinit_lite as hl
from hessinit_lite.plots import BLUE, GREEN, ORANGE, PURPLE

ASSETS = Path(__file__).resolve().parent.parent / "_assets"
DEPTH, WIDTH, SAMPLES, SEEDS = 30, 64, 256, range(5)
STYLES = {
    "torch's default": (PURPLE, "s"), "LeCun": (ORANGE, "^"), "He": (BLUE, "o"),
    "every norm at 1": (GREEN, "D"),
}  # fmt: skip
INK, PAPER = "#1f2328", "#ffffff"


def measure(label, seed):
    """The norm of every layer's Hessian block."""
    generator = torch.Generator().manual_seed(seed)
    batch = hl.digits().to(torch.float64).batch(SAMPLES, generator)
    model = hl.MLP(64, WIDTH, DEPTH, 10, activation="relu").double()  # norms fall to 1e-20
    if label == "every norm at 1":
        report = hl.hessian_init_(model, F.cross_entropy, batch, target=1.0, generator=generator)
        assert report.converged, report
    else:
        hl.init_(model, {"torch's default": "torch", "LeCun": "lecun", "He": "he"}[label], generator=generator)
    return list(hl.layer_norms(model, F.cross_entropy, batch).values())


def social():
    figure = plt.figure(figsize=(12, 6.3), facecolor=PAPER)
    figure.text(0.05, 0.72, "From Variance\nto the Hessian", fontsize=40, weight="bold", color=INK, va="center")
    subtitle = "Weight initialization of deep networks,\none runnable step at a time"
    figure.text(0.05, 0.42, subtitle, fontsize=19, color=INK, va="center")
    logo = figure.add_axes((0.045, 0.06, 0.13, 0.24))
    t = np.linspace(-2.7, 2.7, 200)  # the logo: a parabola of curvature 1 and its circle
    logo.plot(np.cos(t * 2), 1 + np.sin(t * 2), color="#D55E00", lw=6)
    logo.plot(t, t**2 / 2, color="#0072B2", lw=6, solid_capstyle="round")
    logo.set(aspect="equal")
    logo.axis("off")
    ax = figure.add_axes((0.58, 0.14, 0.38, 0.74))
    layers = range(1, DEPTH + 1)
    for label, (color, marker) in STYLES.items():
        runs = np.array([measure(label, seed) for seed in SEEDS])
        ax.fill_between(layers, runs.min(0), runs.max(0), color=color, alpha=0.25, lw=0)
        ax.semilogy(layers, np.median(runs, 0), color=color, marker=marker, ms=7, markevery=3, lw=2.5, label=label)
    ax.set_xlabel("layer", fontsize=15)
    ax.set_title("norm of the layer's Hessian block", fontsize=16)
    ax.tick_params(labelsize=13)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=13, frameon=False, loc="lower right")
    return figure


if __name__ == "__main__":
    social().savefig(ASSETS / "social.png", dpi=100, facecolor=PAPER)
