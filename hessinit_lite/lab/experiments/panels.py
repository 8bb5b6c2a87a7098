"""Figures 1, 2 and 4 of the paper: values of six layers over redrawn weights, losses, training.

ResNet-18 of small width on CIFAR-10, an epoch of batches of 64; EfficientNet for Figure 4. Values
are those of Theorem 1 along the layer's normalized gradient.
"""

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.func import functional_call, jvp

from ...schemes import init_
from ..networks import EfficientNet
from ..records import answered, available, fastest_device, opened, rounded
from ..training import train
from .cifar import NAMES, pictures, start

#: Five convolutions on the way and the dense layer: ours for the paper's conv1 ... conv5, dense.
SIX = ("stem", *(f"blocks.{i}.conv2" for i in (1, 3, 5, 7)), "dense")
FOUR = ("stem", "blocks.1.expand", "blocks.3.depthwise", "head")  #: of the EfficientNet
FIGURE_1 = {  #: panel: (activation, scheme)
    "a": ("relu", "hessian 1"),
    "b": ("relu", "lecun"),
    "c": ("selu", "glorot"),
    "d": ("selu", "hessian 1"),
    "e": ("selu", "orthogonal"),
}
FIGURE_2 = {"0.25": ("selu", "normal 0.25"), "0.1": ("selu", "normal 0.1")}
FIGURE_2 |= {"0.0001": ("selu", "normal 0.0001")}
#: Plain deviations between those of Figure 2, to see which of them look like Figure 1's panels.
BETWEEN = [("selu", f"normal {std}") for std in (0.01, 0.02, 0.03)]
BETWEEN += [("relu", f"normal {std}") for std in (0.01, 0.02)]
PART = 10  #: steps of which a mean loss is kept
STEPS = {
    "normal 0.1": 320
}  #: an epoch; 200 for other starts. This panel is compared up to step 300


def values_along_gradients(model, batch, names):
    """ĝᵀGĝ of some layers' weights, [layers]; ĝ is the layer's normalized gradient.

    G is Gauss-Newton's block, of the cross-entropy, so this is Theorem 1 of Skorski et al.
    (arXiv:2004.09506) with g = ĝ:
    a forward derivative for each layer. 0 for a layer without gradient.

    Args:
        model: a net whose outputs are logits.
        batch: (inputs [N, ...], targets [N]).
        names: of layers with a `weight`.

    Example:
        >>> from hessinit_lite.lab.experiments.panels import values_along_gradients
        >>> model, batch = hl.digits_net(depth=3, width=8)
        >>> values_along_gradients(model, batch, ["layers.0", "layers.1"]).shape
        torch.Size([2])
    """
    inputs, targets = batch
    weights = [model.get_submodule(name).weight for name in names]
    outputs = model(inputs)
    gradients = torch.autograd.grad(F.cross_entropy(outputs, targets), weights)
    p, found = outputs.detach().softmax(1), []
    for name, weight, g in zip(names, weights, gradients):
        g = g / g.abs().max().clamp(min=torch.finfo(g.dtype).tiny)  # its square may underflow
        unit = g / torch.linalg.vector_norm(g).clamp(min=torch.finfo(g.dtype).tiny)

        def outputs_of(w, name=name):
            return functional_call(model, {f"{name}.weight": w}, (inputs,))

        v = jvp(outputs_of, (weight.detach(),), (unit,))[1].detach()
        v = v - (p * v).sum(1, keepdim=True)
        found.append((p * v.square()).sum(1).mean())
    return torch.stack(found)


def densities(activation, scheme, width, samples, draws, data=None):
    """Values of SIX for redrawn weights: {"values": [draws][layers], "off": [draws]}.

    Args:
        activation: as `cifar.start`, like scheme, width and samples.
        scheme: as above.
        width: as above.
        samples: as above.
        draws: seeds 0, 1, ...
        data: a Data of pictures.
    """
    values, off = [], []
    for seed in range(draws):
        model, batch, factor = start(data, activation, scheme, seed, width, samples)
        model, batch = model.double(), (batch[0].double(), batch[1])  # values go down to 1e-50
        values.append(rounded(values_along_gradients(model, batch, SIX).tolist()))
        off.append(factor)
    return {"values": values, "off": off}


def losses(activation, scheme, width, samples, seed, steps, batch_size, data=None):
    """SGD with rate 0.01: {"curve": mean losses of PART steps each, "end": of the last fifth}."""
    model, _, _ = start(data, activation, scheme, seed, width, samples)
    run = train(model, data, 0.01, steps, batch_size, seed=seed)
    end = math.inf if run.diverged else float(run.losses[-(steps // 5) :].mean())
    return {"curve": rounded(part.mean() for part in run.losses.split(PART)), "end": end}


def tracked(activation, scheme, width, samples, seed, steps, data=None):
    """EfficientNet: values of FOUR on each step's own batch, before the step, rate 0.01.

    Returns:
        {"values": [steps][layers], "loss": [steps]}.
    """
    inputs = data.train[0]
    generator = torch.Generator(inputs.device).manual_seed(seed)
    model = EfficientNet(10, width, inputs.shape[1], activation, norm=False).to(inputs.device)
    init_(model, scheme, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = {"values": [], "loss": []}
    for _ in range(steps):
        batch = data.batch(samples, generator)
        found["values"].append(rounded(values_along_gradients(model, batch, FOUR).tolist()))
        loss = F.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found["loss"].append(float(loss.detach()))
    return found


class Found(NamedTuple):
    """What the pages draw from; only what was computed or stored is in it."""

    values: dict  #: {(activation, scheme, width): tensor [draws, 6]}
    off: dict  #: {likewise: factors by which the worst layer misses its target, or None}
    curves: dict  #: {likewise: tensor [seeds, parts]}
    ends: dict  #: {likewise: tensor [seeds], inf for a run that diverged}
    tracked: object  #: of Figure 4: tensor [seeds, steps, 4]
    stored: list  #: the Results behind it


def settings_of(size):
    """Settings of `densities`, `losses` and `tracked`."""
    full = size == "full"

    def drawn(cases, width, draws):
        common = {"width": width, "samples": 32 if full else 16, "draws": draws}
        return [{"activation": f, "scheme": scheme, **common} for f, scheme in cases]

    def run_once(cases, width, seeds):
        batches = {"samples": 32, "batch_size": 64} if full else {"samples": 16, "batch_size": 32}
        return [
            {"activation": f, "scheme": scheme, "width": width, "seed": seed, **batches}
            | {"steps": STEPS.get(scheme, 200) if full else 20}
            for seed in range(seeds)
            for f, scheme in cases
        ]

    schemes = [case for case in FIGURE_1.values() if "hessian" not in case[1]]
    hessian = [case for case in FIGURE_1.values() if "hessian" in case[1]]
    plain = list(FIGURE_2.values())
    if not full:
        common = {"activation": "tanh", "scheme": "glorot", "width": 4, "samples": 16}
        steps = [{**common, "seed": seed, "steps": 3} for seed in range(2)]
        return drawn(schemes + plain, 2, 3), run_once(schemes + plain, 2, 1), steps
    of_draws = drawn(plain, 4, 50) + drawn(plain, 8, 10) + drawn(schemes, 8, 15)
    of_draws += drawn(BETWEEN, 8, 5) + drawn(hessian, 8, 3)
    runs = run_once(schemes + hessian, 8, 2) + run_once(plain, 4, 2) + run_once(plain, 8, 1)
    common = {"activation": "tanh", "scheme": "glorot", "width": 8, "samples": 64}
    return of_draws, runs, [{**common, "seed": seed, "steps": 16} for seed in range(3)]


def run(size="quick", progress=False):
    """Compute what is not stored yet, and return a Found; without the data, what is stored.

    Args:
        size: "quick" (digits, seconds) or "full" (CIFAR-10, half an hour on a CPU).
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
    source = lambda setting: NAMES[size]
    asked = settings_of(size)
    if compute:
        asked = [available(each, source) for each in asked]
    data = pictures(size, device=device) if compute and asked[0] else None
    results, pairs = [], []
    for name, function, settings in zip(
        ("paper-densities", "paper-losses", "paper-tracked"), (densities, losses, tracked), asked
    ):
        where = opened(name, size, compute, source)
        function = functools.partial(function, data=data)
        pairs.append(answered(where, function, settings, compute, device, progress))
        results.append(where)
    return Found(*collected(*pairs), results)


def collected(drawn, trained, steps):
    """The first five fields of Found from lists of (setting, answer)."""

    def case(setting):
        return setting["activation"], setting["scheme"], setting["width"]

    doubles = functools.partial(torch.tensor, dtype=torch.float64)
    curves, ends = {}, {}
    for setting, answer in trained:
        curves.setdefault(case(setting), []).append(answer["curve"])
        ends.setdefault(case(setting), []).append(answer["end"])
    values = [answer["values"] for _, answer in steps]
    return (
        {case(setting): doubles(answer["values"]) for setting, answer in drawn},
        {case(setting): answer["off"] for setting, answer in drawn},
        {key: doubles(each) for key, each in curves.items()},
        {key: doubles(each) for key, each in ends.items()},
        doubles(values) if values else None,
    )
