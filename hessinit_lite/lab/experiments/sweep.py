"""Chapter 11's map: every layer at a target, trained at a rate, for many targets and rates.

ReLU nets of ten layers on 128 fixed digits, full batches: so the quadratic that 2/λ speaks of is
that of the loss which is trained. `figure` is what the live figure draws of it.
"""

import copy
import statistics

import torch.nn.functional as F

from ...curvature import hessian
from ...models import MLP
from ...principle import hessian_init_
from ...spectrum import top_eigenvalues
from ..data import Data, digits
from ..probes import seeded
from ..records import answered, opened
from ..training import train_together

NAME = "11-sweep"
TARGETS = {"quick": (0.1, 1.0, 10.0), "full": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)}
RATES = {"quick": (0.01, 0.1, 1.0), "full": (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)}
SEEDS = {"quick": range(2), "full": range(5)}
STEPS, EVERY = 100, 5  #: full-batch steps; of which every fifth is kept
DRAWS = 30  #: of weights, at most, until the target is reached


def start(data, target, seed, depth=10, width=32):
    """`model, draws`: a net whose layers are at the target, and how often it was drawn.

    Raises:
        RuntimeError: if none of 30 draws reaches the target.
    """
    generator = seeded(seed)
    for draws in range(1, DRAWS + 1):
        model = MLP(64, width, depth, 10)
        report = hessian_init_(model, F.cross_entropy, data.train, target, generator=generator)
        if report.converged:
            return model, draws
    raise RuntimeError(f"target {target:g} was not reached in {DRAWS} draws")


def experiment(target, rates, seeds, steps=STEPS):
    """Nets at one target, trained with every rate.

    Returns:
        `draws` and `curvature` by seed: how often weights were drawn, and λ, the largest eigenvalue
        of the whole Hessian at the start; `losses` by rate and seed: every fifth step's and the
        last one's, three digits, None from where a run has overflowed.
    """
    batch = digits().batch(128, seeded(0))
    data = Data("128 digits", batch, batch)
    models, draws = zip(*(start(data, target, seed) for seed in seeds))
    curvature = [_largest(model, batch, seed) for model, seed in zip(models, seeds)]
    copies = [copy.deepcopy(model) for _ in rates for model in models]
    each = [rate for rate in rates for _ in seeds]
    losses = train_together(copies, data, each, steps + 1, batch_size=len(batch[1]))
    kept = losses[::EVERY].T.view(len(rates), len(seeds), -1).tolist()
    return {
        "draws": list(draws),
        "curvature": curvature,
        "losses": [[_until_it_overflows(run) for run in runs] for runs in kept],
    }


def _largest(model, batch, seed):
    operator = hessian(model, F.cross_entropy, batch)
    options = {"which": "LA", "rtol": 1e-4, "generator": seeded(seed)}
    return float(f"{float(top_eigenvalues(operator, **options)[0]):.4g}")


def _until_it_overflows(losses):
    shown, lost = [], False
    for loss in losses:
        lost = lost or not loss < float("inf")
        shown.append(None if lost else float(f"{loss:.3g}"))
    return shown


def settings(size):
    """One setting for each target."""
    return [
        {"target": target, "rates": list(RATES[size]), "seeds": list(SEEDS[size])}
        for target in TARGETS[size]
    ]


def run(size="quick", progress=False):
    """[(setting, answer)] of all targets; what is stored is not computed again."""
    results = opened(NAME, size, True, "digits")
    return answered(results, experiment, settings(size), progress=progress)


def stored():
    """[(setting, answer)] of the full map that comes with the module: nothing is run."""
    results = opened(NAME, "full", False, "digits")
    return answered(results, experiment, settings("full"), compute=False)


def figure():
    """What the live figure draws: targets, rates, every how many steps, λ and the losses.

    Example:
        >>> from hessinit_lite.lab.experiments import sweep
        >>> drawn = sweep.figure()
        >>> len(drawn["targets"]), len(drawn["rates"]), len(drawn["losses"][0])
        (9, 9, 9)
    """
    found = stored()
    return {
        "targets": [setting["target"] for setting, _ in found],
        "rates": found[0][0]["rates"],
        "every": EVERY,
        "curvature": [statistics.median(answer["curvature"]) for _, answer in found],
        "losses": [answer["losses"] for _, answer in found],
    }
