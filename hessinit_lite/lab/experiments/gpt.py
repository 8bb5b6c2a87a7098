"""Chapter 21: published starts of small GPTs, on a GPT of 6 blocks and Python's help texts.

A start is a function of `starts`: how tables, blocks and head begin, and whether norms stand before
or behind. All nets are trained by AdamW with the same warm-up, each start at its own best rate.
"""

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ...scaling import scale_branches_
from ...schemes import init_
from ..corpus import python_text
from ..probes import seeded
from ..records import answered, fastest_device, fingerprint, rounded
from ..results import Results
from ..training import mini_batches
from ..transformers import GPT

SIZES = {"vocabulary": 128, "width": 32, "depth": 6, "heads": 2, "context": 32}
ENDS = "*.attention.out", "*.mlp.down"  #: the last layer of every branch
BATCH = 8  #: windows of a mini-batch
WARMUP = 10  #: steps
HELD_OUT = 64  #: windows of the test text on which a run is judged
#: 0.02 is published for width 768: in the blocks it is read as so many over the root of the width.
STD = 0.02 * math.sqrt(768 / SIZES["width"])
STARTS = {
    "0.02": f"blocks N(0, {STD:.2g}²), tables N(0, 0.02²)",
    "nanoGPT": "the same, ends of branches over √(2L)",
    "1/(2L)": "the same, ends of branches over 2L",
    "zero ends": "the same, ends of branches zero",
    "speed run": "spectral_condition, ends and untied head zero, tables N(0, 1)",
    "torch": "torch's layers, tables N(0, 0.02²)",
    "post-norm": "nanoGPT's weights, norms behind the sums",
}
RATES = {"quick": (0.003,), "full": (0.001, 0.003, 0.01, 0.03, 0.1)}
STEPS = {"quick": 30, "full": 100}
CHOOSE = {"quick": range(2), "full": range(3)}  #: seeds on which a rate is chosen
JUDGE = {"quick": (), "full": range(10, 20)}  #: seeds on which it is judged


class Found(NamedTuple):
    """What the chapter draws from: losses on held-out text, inf where a run diverged."""

    swept: dict  #: {start: losses [seeds, rates]}
    judged: dict  #: {start: losses [seeds] at the best rate}
    rates: tuple  #: of the sweep
    stored: list  #: the Results behind it


def start(name, seed, device="cpu"):
    """A GPT at one of STARTS, drawn on the CPU, on the device.

    Raises:
        ValueError: for an unknown start.
    """
    if name not in STARTS:
        raise ValueError(f"unknown start {name!r}; known: {', '.join(STARTS)}")
    generator, fast = seeded(seed), name == "speed run"
    order = "post" if name == "post-norm" else "pre"
    model = GPT(**SIZES, order=order, tied=not fast)
    schemes = {"speed run": ("spectral_condition", None), "torch": ("torch", None)}
    scheme, std = schemes.get(name, ("normal", STD))
    init_(model, scheme, generator=generator, std=std)
    for table in (model.tokens, model.places):  # what a tied head shares is drawn once more
        nn.init.normal_(table.weight, std=1.0 if fast else 0.02, generator=generator)
    factors = {"nanoGPT": "1/sqrt(L)", "post-norm": "1/sqrt(L)", "1/(2L)": "1/L"}
    factors |= {"zero ends": "zero", "speed run": "zero"}
    if name in factors:
        scale_branches_(model, ENDS, factors[name])
    if fast:
        scale_branches_(model, "head", "zero")
    return model.to(device)


def held_out_loss(model):
    """Mean loss a letter on the first windows of the test text, in nats, a float; inf for nan."""
    device = next(model.parameters()).device
    inputs, targets = (part[:HELD_OUT].to(device) for part in python_text().test)
    with torch.no_grad():
        loss = float(F.cross_entropy(model(inputs), targets))
    return loss if math.isfinite(loss) else math.inf


def trained(model, rate, steps, seed):
    """AdamW in place, β = (0.9, 0.95), no decay, a warm-up of 10 steps; losses [steps]."""
    device = next(model.parameters()).device
    inputs, targets = python_text().to(device).train
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    order, losses = mini_batches(len(inputs), BATCH, seed, device), []
    for step in range(steps):
        rows = next(order)
        loss = F.cross_entropy(model(inputs[rows]), targets[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / WARMUP)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def experiment(name, seed, rates, steps, device="cpu"):
    """{"losses": on held-out text after training at each of the rates, from the same weights}."""
    losses = []
    for rate in rates:
        model = start(name, seed, device)
        trained(model, rate, steps, seed)
        losses.append(held_out_loss(model))
    return {"losses": rounded(losses)}


@functools.cache
def text():
    """The label of this Python's help texts, which follow its version: what `Results` keeps."""
    return f"python_text sha256:{fingerprint(python_text())}"


def best_rate(losses, rates):
    """The rate of the smallest mean loss [seeds, rates]."""
    return rates[int(losses.mean(0).argmin())]


def run(size="quick", progress=False):
    """Compute what is not stored yet, and return a Found.

    Args:
        size: "quick" (one rate, 30 steps) or "full".
        progress: show bars.

    Raises:
        ValueError: for an unknown size.
    """
    return _found(size, True, progress)


def stored():
    """What is stored of the full size, a Found; nothing is computed."""
    return _found("full", False, False)


def _found(size, compute, progress):
    device = fastest_device()
    results = Results("21-gpt", size, fresh=None if compute else False)
    label = text() if compute else results.data()[0]
    results.data_of = lambda _: label
    function = functools.partial(experiment, device=device)
    found = Found({}, {}, RATES[size], [results])

    def losses(name, seeds, rates):
        same = {"name": name, "rates": list(rates), "steps": STEPS[size]}
        settings = [{**same, "seed": seed} for seed in seeds]
        pairs = answered(results, function, settings, compute, device, progress)
        return torch.tensor([answer["losses"] for _, answer in pairs], dtype=torch.float64)

    for name in STARTS:
        swept = losses(name, CHOOSE[size], RATES[size])
        if len(swept) < len(CHOOSE[size]):  # not stored
            continue
        found.swept[name] = swept
        if JUDGE[size]:
            judged = losses(name, JUDGE[size], [best_rate(swept, RATES[size])])
            found.judged[name] = judged.flatten()
    return found
