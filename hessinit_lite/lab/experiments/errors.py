"""Figures 5 and 6 of the paper: Theorem 1's relative error along the gradient.

At the start over many restarts, with the softmax outside the net and inside it; and along a
training, on the step's own batch. Single precision: errors below 1e-5 are rounding.
"""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.func import functional_call, jvp

from ...schemes import init_
from ..networks import EfficientNet, GoogLeNet, ResNet18
from ..records import answered, available, fastest_device, opened, rounded
from .approximation import SIDES, chosen_layers, drawn, pictures

KINDS = {"ResNet-18": ResNet18, "EfficientNet": EfficientNet, "GoogLeNet": GoogLeNet}
#: Where the softmax is. "outside": the net's outputs are logits. "inside": they are probabilities,
#: and the loss is -log p.
SOFTMAX = ("outside", "inside")


def relative_errors(model, batch, names):
    """|ĝᵀHĝ - ĝᵀGĝ| / |ĝᵀHĝ| of some layers' weights: H exact, G by Theorem 1.

    Where the net ends, and the loss begins, decides what Theorem 1 leaves out. With the softmax
    inside, H is the same, and G is the mean of the squared derivatives of the samples' losses.

    Args:
        model: a net whose outputs are logits.
        batch: (inputs [N, ...], targets [N]).
        names: of layers with a `weight`.

    Returns:
        [2, layers]: with the softmax outside and inside, as SOFTMAX says.

    Example:
        >>> from hessinit_lite.lab.experiments.errors import relative_errors
        >>> model, batch = hl.digits_net("tanh", depth=3, width=8)
        >>> relative_errors(model, batch, ["layers.0", "layers.2"]).shape
        torch.Size([2, 2])
    """
    inputs, targets = batch
    weights = [model.get_submodule(name).weight for name in names]
    logits = model(inputs)
    loss = F.cross_entropy(logits, targets)
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    p, found = logits.detach().softmax(1), []
    for name, weight, gradient in zip(names, weights, gradients):
        unit = gradient.detach() / torch.linalg.vector_norm(gradient.detach())
        (product,) = torch.autograd.grad((gradient * unit).sum(), weight, retain_graph=True)
        exact = (product * unit).sum()

        def logits_of(w, name=name):
            return functional_call(model, {f"{name}.weight": w}, (inputs,))

        v = jvp(logits_of, (weight.detach(),), (unit,))[1].detach()
        v = v - (p * v).sum(1, keepdim=True)  # p * v is the velocity of the probabilities
        outside = (p * v.square()).sum(1).mean()
        inside = v.gather(1, targets[:, None]).square().mean()
        found.append((exact - torch.stack([outside, inside])).abs() / exact.abs())
    return torch.stack(found, 1)


def restarts(data, net, activation, width, samples, norm, draws, device="cpu"):
    """{place of the softmax: errors [draws][layers]} of five layers, weights and batch redrawn.

    Args:
        data: as `approximation.drawn`, like net, activation, width, samples and norm.
        net: as above.
        activation: as above.
        width: as above.
        samples: as above.
        norm: as above.
        draws: seeds 0, 1, ...
        device: where it runs.
    """
    found = {softmax: [] for softmax in SOFTMAX}
    for seed in range(draws):
        model, batch, _ = drawn(
            data, net, activation, width, seed, samples, "float32", norm, device
        )
        errors = relative_errors(model, batch, chosen_layers(net, model))
        for softmax, each in zip(SOFTMAX, errors.tolist()):
            found[softmax].append(rounded(each))
    return found


def in_steps(data, net, activation, width, samples, seed, steps, every, device="cpu"):
    """Errors of five layers during SGD, rate 0.01, softmax outside.

    Args:
        data: a name in `approximation.SIDES`.
        net: a name in KINDS.
        activation: a name in `ACTIVATIONS`.
        width: of the net.
        samples: of each batch.
        seed: of weights and batches.
        steps: how many.
        every: before so many steps the errors are measured, on the step's batch.
        device: where it runs.

    Returns:
        {"step": [times], "errors": [times][5], "loss": [steps]}.
    """
    source = pictures(data, SIDES[data], device)
    generator = torch.Generator(device).manual_seed(seed)
    model = KINDS[net](10, width, source.train[0].shape[1], activation).to(source.train[0])
    init_(model, "forward", generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = {"step": list(range(0, steps, every)), "errors": [], "loss": []}
    for step in range(steps):
        batch = source.batch(samples, generator)
        if step % every == 0:
            errors = relative_errors(model, batch, chosen_layers(net, model))[0]
            found["errors"].append(rounded(errors.tolist()))
        loss = F.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found["loss"] += rounded([float(loss.detach())])
    return found


class Found(NamedTuple):
    """What the pages draw from."""

    starts: dict  #: {(data, net, norm, softmax): tensor [draws, 5]}
    steps: dict  #: {net: tensor [seeds, times, 5]}, softmax outside
    stored: list  #: the Results behind it


def settings_of(size):
    """Settings of `restarts` and of `in_steps`."""
    if size != "full":
        small = {"data": "digits", "activation": "selu", "width": 2, "samples": 8}
        start = [{**small, "net": "ResNet-18", "norm": False, "draws": 3}]
        return start, [{**small, "net": "GoogLeNet", "seed": 0, "steps": 4, "every": 2}]
    common = {"activation": "selu", "width": 8, "samples": 16}
    starts = [
        {"data": data, "net": net, **common, "norm": norm, "draws": draws}
        for data, net, norm, draws in (
            ("mnist", "ResNet-18", False, 20),
            ("mnist", "ResNet-18", True, 5),
            ("cifar10", "EfficientNet", False, 5),
        )
    ]
    steps = [
        {"data": "cifar10", "net": net, **common, "seed": seed, "steps": 100, "every": 10}
        for seed in range(2)
        for net in KINDS
    ]
    return starts, steps


def run(size="quick", progress=False):
    """Compute what is not stored yet, and return a Found.

    Args:
        size: "quick" (digits, seconds) or "full" (MNIST and CIFAR-10, a quarter of an hour).
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
    source = lambda setting: setting["data"]
    results, pairs = [], []
    for name, function, settings in zip(
        ("paper-errors", "paper-errors-training"), (restarts, in_steps), settings_of(size)
    ):
        if compute:
            settings = available(settings, source)
        where = opened(name, size, compute, source)
        function = functools.partial(function, device=device)
        pairs.append(answered(where, function, settings, compute, device, progress))
        results.append(where)
    doubles, steps = functools.partial(torch.tensor, dtype=torch.float64), {}
    starts = {
        (setting["data"], setting["net"], setting["norm"], softmax): doubles(answer[softmax])
        for setting, answer in pairs[0]
        for softmax in SOFTMAX
    }
    for setting, answer in pairs[1]:
        steps.setdefault(setting["net"], []).append(answer["errors"])
    return Found(starts, {net: doubles(each) for net, each in steps.items()}, results)
