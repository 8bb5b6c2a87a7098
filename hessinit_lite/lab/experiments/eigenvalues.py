"""Chapter 8's five Hessians: all their eigenvalues, for the live figure of Lanczos' steps.

Lanczos from a random start sees nothing of a symmetric matrix but its eigenvalues and the start's
components along the eigenvectors, and these are as random as the start. So the eigenvalues are all
that a page needs to do it again.
"""

import torch
import torch.nn.functional as F

from ...curvature import hessian
from ..probes import digits_net
from ..records import answered, opened

NAME = "08-eigenvalues"
WIDTHS = {"quick": 2, "full": 8}
SEEDS = range(5)


def experiment(seed, width):
    """Eigenvalues to 1e-6, lowest first, of the Hessian of the chapter's tanh net."""
    model, batch = digits_net("tanh", width=width, seed=seed)
    operator = hessian(model, F.cross_entropy, batch)
    dense = operator.matmat(torch.eye(operator.shape[0], dtype=operator.dtype))
    return [round(value, 6) + 0.0 for value in torch.linalg.eigvalsh(dense).tolist()]


def settings(size):
    """One setting for each net."""
    return [{"seed": seed, "width": WIDTHS[size]} for seed in SEEDS]


def run(size="quick", progress=False):
    """[(setting, answer)] of all nets; what is stored is not computed again."""
    results = opened(NAME, size, True, "digits")
    return answered(results, experiment, settings(size), progress=progress)


def stored():
    """[(setting, answer)] of the nets that come with the module: nothing is run."""
    results = opened(NAME, "full", False, "digits")
    return answered(results, experiment, settings("full"), compute=False)


def figure():
    """What the live figure draws: the eigenvalues of each net.

    Example:
        >>> from hessinit_lite.lab.experiments import eigenvalues
        >>> [len(values) for values in eigenvalues.figure()]
        [682, 682, 682, 682, 682]
    """
    return [answer for _, answer in stored()]
