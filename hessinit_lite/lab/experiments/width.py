"""Chapter 19: one net at many widths, under four ways to follow the width.

The net is dense, ReLU, without biases, 64 → n → n → n → 10 on digits, trained by plain SGD on the
squared error, and on cross-entropy at fewer widths. At the base width all scalings but "principle"
are the same net with the same rates. Weights are drawn on
the CPU, so that a seed gives the same nets on every device.
"""

import copy
import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...curvature import hessian
from ...models import MLP
from ...preconditioner import preconditioned
from ...principle import hessian_init_
from ...scaling import width_multipliers
from ...schemes import init_
from ...spectrum import top_eigenvalues
from ..data import digits
from ..probes import seeded
from ..records import answered, fastest_device, opened, rounded
from ..training import mini_batches

BASE = 64  #: the narrowest width
BATCH = 32  #: samples of a mini-batch
SAMPLES = 256  #: on which curvature is measured
SCALINGS = "standard", "NTK", "μP", "principle"
#: {(size, loss): widths}
WIDTHS = {
    ("quick", "squares"): (64, 256),
    ("quick", "cross-entropy"): (),
    ("full", "squares"): (64, 128, 256, 512, 1024),
    ("full", "cross-entropy"): (64, 128, 256),
}
#: {(size, loss): powers of 2 that are the rates}
POWERS = {
    ("quick", "squares"): (-8, -6, -4, -2),
    ("full", "squares"): range(-9, 2),
    ("full", "cross-entropy"): range(-9, 3),
}
STEPS = {"quick": 40, "full": 100}
CHOOSE = range(3)  #: seeds on which a rate is chosen
JUDGE = {"quick": (), "full": range(10, 18)}  #: seeds on which it is judged
MARKS = (0, 3, 10, 30, 99)  #: steps at which sharpness is measured, in full size


def squares(outputs, labels):
    """Half the squared error against 1 and 0, summed over classes: curvature 1 in every output."""
    targets = F.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
    return outputs.shape[1] / 2 * F.mse_loss(outputs, targets)


LOSSES = {"squares": squares, "cross-entropy": F.cross_entropy}


class Found(NamedTuple):
    """What the chapter draws from. Losses are those of the whole training set, inf: diverged."""

    swept: dict  #: {(loss, scaling, width): losses [seeds, rates]}
    judged: dict  #: {(loss, scaling, width): losses [seeds, (own best rate, the base width's)]}
    followed: dict  #: {(loss, scaling, width): λ in the rates' coordinates [seeds, marks]}
    rates: dict  #: {loss: those of the sweep}
    stored: list  #: the Results behind it


def dense(width):
    """The net of this chapter, torch's weights."""
    return MLP(64, width, 4, 10, bias=False)


def start(scaling, width, seed, loss="squares", device="cpu"):
    """A net and `{parameter's name: multiplier of its rate}`.

    "standard" is He's rule and one rate. "NTK" has the same weights and rates over the fan-in, as
    if all weights were drawn from N(0, 1) and divided in the forward pass. "μP" also multiplies the
    last layer by √(BASE / width), and has the rates of `width_multipliers`. "principle" brings the
    norm of every layer's block to 1, with one rate.

    Args:
        scaling: one of SCALINGS.
        width: of the hidden layers.
        seed: of weights and of the batch that "principle" looks at.
        loss: a name in LOSSES, for "principle".
        device: where the net ends.
    """
    generator = seeded(seed)
    model = init_(dense(width), "forward", generator=generator)
    multipliers = dict.fromkeys((name for name, _ in model.named_parameters()), 1.0)
    if scaling == "NTK":
        multipliers = width_multipliers(model, dense(BASE), "adam")  # 1 / r_in, too
    elif scaling == "μP":
        multipliers = width_multipliers(model, dense(BASE), "sgd")
        with torch.no_grad():
            model.layers[-1].weight.mul_(math.sqrt(BASE / width))
    elif scaling == "principle":
        hessian_init_(model, LOSSES[loss], digits().batch(SAMPLES, generator), scheme=None)
    elif scaling != "standard":
        raise ValueError(f"unknown scaling {scaling!r}; known: {', '.join(SCALINGS)}")
    return model.to(device), multipliers


def sharpness(model, multipliers, batch, loss="squares"):
    """Largest eigenvalue of the Hessian in the coordinates in which all rates are one, a float."""
    named = model.named_parameters()
    over = torch.cat([p.new_full((p.numel(),), 1 / multipliers[name]) for name, p in named])
    operator = preconditioned(hessian(model, LOSSES[loss], batch), over)
    generator = seeded(0, operator.device)
    return float(top_eigenvalues(operator, rtol=0.03, which="LA", generator=generator)[0])


def trained(model, multipliers, rate, steps, seed, marks=(), loss="squares"):
    """SGD in place; the loss on all training data and the sharpness before the marked steps.

    Returns:
        The loss, a float, inf where the run diverged, and a list, nan from there on.
    """
    device, loss_fn = next(model.parameters()).device, LOSSES[loss]
    inputs, targets = digits().to(device).train
    look = inputs[:SAMPLES], targets[:SAMPLES]
    groups = [{"params": [p], "lr": rate * multipliers[n]} for n, p in model.named_parameters()]
    optimizer, order = torch.optim.SGD(groups), mini_batches(len(inputs), BATCH, seed, device)
    seen = []
    for step in range(steps):
        if step in marks:
            seen.append(sharpness(model, multipliers, look, loss))
        rows = next(order)
        now = loss_fn(model(inputs[rows]), targets[rows])
        if step % 20 == 19 and not bool(torch.isfinite(now)):
            break
        optimizer.zero_grad(set_to_none=True)
        now.backward()
        optimizer.step()
    with torch.no_grad():
        last = float(loss_fn(model(inputs), targets))
    lost = len(marks) - len(seen)
    return last if math.isfinite(last) else math.inf, seen + [math.nan] * lost


def experiment(scaling, width, seed, rates, steps, marks=(), loss="cross-entropy", device="cpu"):
    """A net trained at each of the rates, from the same weights on the same mini-batches.

    Returns:
        {"losses": one for each rate, "sharpness": a list for each rate, one for each mark}.
    """
    losses, followed = [], []
    first, multipliers = start(scaling, width, seed, loss, device)
    for rate in rates:
        model = copy.deepcopy(first)
        last, seen = trained(model, multipliers, rate, steps, seed, marks, loss)
        losses.append(last)
        followed.append(rounded(seen))
    return {"losses": rounded(losses), "sharpness": followed}


def settings_of(size, loss, scaling, width, seeds, rates, marks=()):
    """One setting for each seed; those of cross-entropy do not name it."""
    same = {"scaling": scaling, "width": width, "rates": list(rates), "steps": STEPS[size]}
    same |= {} if loss == "cross-entropy" else {"loss": loss}
    return [{**same, "seed": seed, "marks": list(marks)} for seed in seeds]


def best_rate(losses, rates):
    """The rate of the smallest geometric mean of the losses [seeds, rates]; a lost run is inf."""
    return rates[int(losses.log().mean(0).argmin())]


def run(size="quick", progress=False):
    """Compute what is not stored yet, and return a Found.

    Args:
        size: "quick" (widths 64 and 256, four rates) or "full" (up to 1,024).
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
    results = opened("19-width", size, compute, "digits")
    function = functools.partial(experiment, device=device)
    found = Found({}, {}, {}, {}, [results])

    def answers(key, seeds, rates, marks=()):
        settings = settings_of(size, *key, seeds, rates, marks)
        pairs = answered(results, function, settings, compute, device, progress)
        return [answer for _, answer in pairs]

    def losses(of):
        return torch.tensor([answer["losses"] for answer in of], dtype=torch.float64)

    for loss, width in [(loss, width) for loss in LOSSES for width in WIDTHS[size, loss]]:
        rates = found.rates[loss] = [2.0**k for k in POWERS[size, loss]]
        for key in [(loss, scaling, width) for scaling in SCALINGS]:
            swept = answers(key, CHOOSE, rates)
            if len(swept) < len(CHOOSE):  # not stored
                continue
            found.swept[key] = losses(swept)
            if (loss, key[1], BASE) not in found.swept:
                continue
            own = best_rate(found.swept[key], rates)
            at_base = best_rate(found.swept[loss, key[1], BASE], rates)
            if JUDGE[size]:
                found.judged[key] = losses(answers(key, JUDGE[size], [own, at_base]))
                seen = [each["sharpness"][0] for each in answers(key, CHOOSE, [own], MARKS)]
                found.followed[key] = torch.tensor(seen, dtype=torch.float64)
    return found
