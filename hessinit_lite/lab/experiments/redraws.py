"""Table 1 of the paper: are factors of the chain rule dependent when the weights are drawn anew?

A net of three dense layers, one picture, Glorot's scheme drawn many times. Both rows: components of
the loss's gradient in the outputs with one another, and such a component with a weight of the last
layer, the derivative of that output in the unit before it.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...models import activation_module
from ..probes import seeded
from ..records import answered, available, opened, raw
from ..statistics import correlations

CHUNK = 5000  #: nets drawn at once
CLASSES, OUTPUT, UNIT = 10, 5, 4  #: the sixth output and the fifth unit, as "Output6", "Output5"


def redrawn(size, targets_of, activation, draws, width, seed):
    """Gradients in the outputs and weights of the last layer, over drawn nets.

    One input of norm `size` and many nets: the first layer's pre-activations are independent normal
    numbers of variance size² times the weights' variance, so its matrix need not be drawn.

    Args:
        size: (norm of the picture, number of its pixels).
        targets_of: the picture's class.
        activation: a name in `ACTIVATIONS`.
        draws: how many nets.
        width: of both hidden layers.
        seed: of the draws.

    Returns:
        D_z L [draws, classes], and the weights from every hidden unit to output OUTPUT,
        [draws, width].
    """
    (norm, pixels), generator, f = size, seeded(seed), activation_module(activation)
    gradients, weights = [], []
    for begin in range(0, draws, CHUNK):
        many = min(CHUNK, draws - begin)
        first = torch.randn(many, width, 1, generator=generator)
        z = f(first * norm * math.sqrt(2 / (pixels + width)))
        second = torch.randn(many, width, width, generator=generator)
        z = f(second @ z * math.sqrt(1 / width))
        last = torch.randn(many, CLASSES, width, generator=generator)
        last = last * math.sqrt(2 / (width + CLASSES))
        p = (last @ z)[:, :, 0].softmax(1)
        gradients.append(p - F.one_hot(torch.tensor(targets_of), CLASSES))
        weights.append(last[:, OUTPUT])
    return torch.cat(gradients), torch.cat(weights)


def p_values(r, samples):
    """Two-sided p-values of Pearson's correlations, from Student's t with samples - 2 degrees."""
    from scipy import stats  # loading it takes longer than what follows

    t = r * ((samples - 2) / (1 - r**2)).sqrt()
    return torch.as_tensor(2 * stats.t.sf(t.abs().numpy(), samples - 2))


def tests(activation, width, few, many, seed, data="mnist"):
    """Both rows for one picture: correlations and p-values, as plain numbers.

    Args:
        activation: a name in `ACTIVATIONS`.
        width: of both hidden layers.
        few: draws of the first row.
        many: draws of the second row.
        seed: of the picture and the draws.
        data: a name in `records.LOADERS`.

    Returns:
        "row 1": [median r of the pairs of components, largest p of a pair times the number of
        pairs]; "row 2": [r of the sixth component with its weight from the fifth unit, its p];
        "row 2, all units": [mean r, smallest p times the number of units].
    """
    inputs, targets = raw(data).train
    at = int(torch.randint(len(inputs), (1,), generator=seeded(seed)))
    picture, target = inputs[at].double().flatten(), int(targets[at])
    size = float(picture.norm()), len(picture)
    gradient, _ = redrawn(size, target, activation, few, width, seed)
    pairs = torch.triu(torch.ones(CLASSES, CLASSES, dtype=torch.bool), 1)
    r = correlations(gradient.double(), gradient.double())[pairs]
    first = [float(r.median()), float(p_values(r, few).max()) * len(r)]
    gradient, weights = redrawn(size, target, activation, many, width, seed + 1000)
    r = correlations(gradient[:, OUTPUT, None].double(), weights.double())[0]
    p = p_values(r, many)
    second = [float(r[UNIT]), float(p[UNIT])]
    return {
        "row 1": first,
        "row 2": second,
        "row 2, all units": [float(r.mean()), float(p.min()) * width],
    }


class Found(NamedTuple):
    """What the pages draw from."""

    rows: dict  #: {activation: {row: tensor [seeds, 2]}}: correlation, p-value
    stored: list  #: the Results behind it


def settings_of(size):
    """Settings of `tests`."""
    full = size == "full"
    draws = {"few": 10_000, "many": 100_000} if full else {"few": 1000, "many": 4000}
    common = {"width": 32, **draws, "data": "mnist" if full else "digits"}
    return [
        {"activation": activation, "seed": seed, **common}
        for activation in ("relu", "tanh")
        for seed in range(10 if full else 2)
    ]


def run(size="quick", progress=False):
    """Compute what is not stored yet, and return a Found.

    Args:
        size: "quick" (digits, a second) or "full" (MNIST, the paper's numbers of draws, minutes).
        progress: show bars.

    Raises:
        ValueError: for an unknown size.
    """
    return _found(size, True, progress)


def stored():
    """What is stored of the full size, a Found; nothing is computed."""
    return _found("full", False, False)


def _found(size, compute, progress):
    settings, source = settings_of(size), lambda setting: setting["data"]
    if compute:
        settings = available(settings, source)
    where = opened("paper-table-1", size, compute, source)
    rows = {}
    for setting, answer in answered(where, tests, settings, compute, progress=progress):
        of = rows.setdefault(setting["activation"], {})
        for row, pair in answer.items():
            of.setdefault(row, []).append(pair)
    doubles = {
        activation: {row: torch.tensor(each, dtype=torch.float64) for row, each in of.items()}
        for activation, of in rows.items()
    }
    return Found(doubles, [where])
