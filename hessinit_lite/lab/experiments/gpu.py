"""The paper's full sizes of Figures 1, 2 and 6, and text8: for a GPU and half an hour.

Planned, and tried in its quick size only: no GPU was at hand. Answers are stored as they come, the
most telling first; no new setting is begun when the time is up, and the next call goes on.
"""

import functools
import time
from typing import NamedTuple

import torch

from ..corpus import text8
from ..data import DataUnavailable
from ..records import available, label
from ..results import Results
from . import errors, panels, words
from .cifar import NAMES, pictures


class Part(NamedTuple):
    """One kind of answers: the file's name, the function, its settings."""

    name: str
    function: object
    settings: list


def settings_of(size):
    """{file: settings} of a size.

    Args:
        size: "full", as in the paper: width 64, ten epochs of batches of 64 (7,820 steps), 100
            redraws, five epochs for Figure 6; or "quick": the same with tiny nets on digits.
    """
    full = size == "full"
    cases = [*panels.FIGURE_2.values(), *panels.FIGURE_1.values()]
    width, draws, steps, seeds = (64, 100, 7820, 3) if full else (2, 2, 4, 1)
    common = {"width": width, "samples": 64 if full else 8}
    drawn = [{"activation": f, "scheme": s, **common, "draws": draws} for f, s in cases]
    trained = [
        {"activation": f, "scheme": s, **common, "seed": seed, "steps": steps, "batch_size": 64}
        for seed in range(seeds)
        for f, s in cases
    ]
    widths = {"ResNet-18": 64, "EfficientNet": 16, "GoogLeNet": 16} if full else {"GoogLeNet": 2}
    length = {"steps": 3910, "every": 39} if full else {"steps": 2, "every": 1}
    of_errors = [
        {"data": NAMES[size], "net": net, "activation": "selu", "width": w, **length}
        | {"samples": 64 if full else 8, "seed": seed}
        for seed in range(seeds)
        for net, w in widths.items()
    ]
    return {"paper-densities": drawn, "paper-losses": trained, "paper-errors-training": of_errors}


def plan(size, device):
    """The Parts of a size, in the order in which they run.

    Args:
        size: as `settings_of`.
        device: where the data go.
    """
    data = pictures(size, device=device)
    functions = {
        "paper-densities": functools.partial(panels.densities, data=data),
        "paper-losses": functools.partial(panels.losses, data=data),
        "paper-errors-training": functools.partial(errors.in_steps, device=device),
    }
    return [Part(name, functions[name], settings) for name, settings in settings_of(size).items()]


def run(size="quick", progress=False, minutes=30.0):
    """Run the plan until the time is up; text8 comes last. Returns how many answers are missing.

    Args:
        size: "quick" (on any device) or "full" (on a GPU).
        progress: print what comes next.
        minutes: after which no new setting is begun.

    Raises:
        RuntimeError: for the full size without a GPU: it would take days.
        ValueError: for an unknown size, or minutes that are not positive.
    """
    if not minutes > 0:
        raise ValueError(f"minutes must be positive, got {minutes!r}")
    if size == "full" and not torch.cuda.is_available():
        raise RuntimeError(
            "the full size of the paper's figures needs a GPU: use --size quick, or the "
            "experiments 'panels' and 'errors', whose full size is made for a CPU"
        )
    end, device = time.monotonic() + 60 * minutes, "cuda" if size == "full" else "cpu"
    if not available([{}], lambda _: NAMES[size]):
        return 0
    missing = 0
    for part in plan(size, device):
        results = Results(part.name, size, data_of=lambda _: label(NAMES[size]))
        for setting in part.settings:
            if setting in results:
                continue
            if time.monotonic() > end:
                missing += 1
                continue
            if progress:
                print(part.name, setting, flush=True)
            results.run(part.function, [setting], device, progress=False)
    if size == "full" and time.monotonic() < end:
        try:
            text8()
            words.run("full", progress, device)
        except DataUnavailable as error:
            print(f"left out: {error}")
    return missing
