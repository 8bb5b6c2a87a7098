"""Chapter 13: curvature of ResNet-18 and LeNet5 at the start, and their training.

Quick: scikit-learn's digits as 8×8 pictures and a ResNet-18 of width 4. Full: CIFAR-10, width 64,
ten epochs; and LeNet5 on MNIST. The full training of ResNet-18 takes a GPU; see `stored` for what
of it was run.
"""

import functools
import math
import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...chain_rule import layer_blocks, layer_gradients, layer_norms, layer_traces
from ...curvature import gauss_newton, hessian
from ...models import weight_layers
from ...principle import hessian_init_
from ...schemes import init_
from ...spectrum import gradient_quotient
from ..data import Data, cifar10, digits, mnist
from ..networks import LeNet5, ResNet18
from ..records import answered, available, fastest_device, opened, rounded
from ..training import train

SCHEMES = ("hessian 1", "hessian 10", "lecun", "glorot", "orthogonal", "he")
#: Of plain normal weights: the paper's three and some more.
DEVIATIONS = {
    "quick": (0.0001, 0.1, 0.2, 0.25),
    "full": (0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.25),
}
#: Names of the data, by size; LeNet5 has MNIST in full size, too.
NAMES = {"quick": "digits", "full": "cifar10", "mnist": "mnist"}


class Found(NamedTuple):
    """What the chapter draws from. Of ResNet-18: `{(activation, scheme): {key: tensor [runs, …]}}`.

    Keys: gradient and spectral [runs, layers], factor [runs] (nan: no target), curve [runs, 10]
    and end [runs] of trained nets, sum of the values and number of steps.
    """

    densities: dict  #: at the start
    trainings: dict  #: of the same width, trained
    first_steps: dict  #: stored: width 64, a few steps
    narrow: dict  #: stored: width 16, 100 steps
    lenet: list  #: answers of `lenet_run` on the size's own pictures
    lenet_mnist: list  #: the same on MNIST, batches of 64, one epoch; full size only
    stored: list  #: the Results behind it


@functools.lru_cache(maxsize=4)
def pictures(kind, standardize=True, device="cpu"):
    """Pictures [N, channels, height, width] on the device, a Data.

    Args:
        kind: "quick" (digits), "full" (CIFAR-10) or "mnist".
        standardize: to mean 0 and variance 1, or in [0, 1].
        device: where they go.

    Raises:
        DataUnavailable: as the loaders of `hessinit_lite.lab.data`.
    """
    if kind == "full":
        with warnings.catch_warnings():  # of unofficial files: the data's name says so, too
            warnings.simplefilter("ignore")
            return cifar10(allow_unverified=True, standardize=standardize).to(device)
    data, side = (mnist(standardize), 28) if kind == "mnist" else (digits(standardize), 8)
    parts = [(inputs.unflatten(1, (1, side, side)), t) for inputs, t in (data.train, data.test)]
    return Data(f"{data.name} as pictures", *parts).to(device)


def layer_values(model, batch):
    """Two dicts of floats by layer, |ĝᵀHĝ| and ‖H‖ of the layers' Gauss-Newton blocks."""
    gradients = layer_gradients(model, F.cross_entropy, batch)
    blocks = layer_blocks(model, F.cross_entropy, batch)
    quotients = {name: float(block.quotient(gradients[name])) for name, block in blocks.items()}
    norms = {name: float(block.norm(rtol=1e-2)) for name, block in blocks.items()}
    return quotients, norms


def start(data, activation, scheme, seed, width, samples):
    """A ResNet-18 drawn by `scheme`, another batch than it was drawn with, factor off the target.

    Args:
        data: a Data of pictures.
        activation: a name in `ACTIVATIONS`.
        scheme: a scheme of `init_`; "hessian 1" scales every layer to a spectral norm of 1,
            "normal 0.1" draws with that deviation.
        seed: of batches and weights.
        width: channels of the first stage.
        samples: in each batch.
    """
    inputs = data.train[0]
    generator = torch.Generator(inputs.device).manual_seed(seed)
    model = ResNet18(width=width, in_channels=inputs.shape[1], activation=activation)
    model.to(inputs.device)
    batch, other = data.batch(samples, generator), data.batch(samples, generator)
    kind, *number = scheme.split()
    if kind == "hessian":
        options = {"generator": generator, "tolerance": 0.1, "max_steps": 8}
        report = hessian_init_(model, F.cross_entropy, batch, float(*number), **options)
        return model, other, math.exp(min(report.history))
    init_(model, kind, generator=generator, std=float(*number) if number else None)
    return model, other, None


def experiment(lr, steps, data=None, progress=False, **setting):
    """Curvature of all layers at the start; then SGD, batches of 32.

    Args:
        lr: learning rate.
        steps: 0 for no training.
        data: a Data of pictures.
        progress: show a bar.
        setting: for `start`.

    Returns:
        Lists by layer: gradient, spectral; factor; if trained, curve, the mean loss of each tenth
        of the steps, and end, that of the last fifth (inf: diverged).
    """
    model, batch, factor = start(data, **setting)
    quotients, norms = layer_values(model, batch)
    answer = {
        "gradient": rounded(quotients.values()),
        "spectral": rounded(norms.values()),
        "factor": factor,
    }
    if steps:
        run = train(model, data, lr, steps, seed=setting["seed"], progress=progress)
        end = math.inf if run.diverged else float(run.losses[-(steps // 5) :].mean())
        tenths = [part.nanmean() for part in run.losses.chunk(10)]
        answer |= {"curve": rounded(tenths), "end": end}
    return answer


def cases(size):
    """Pairs (activation, scheme): schemes with relu and selu, plain normal weights with selu."""
    normals = [f"normal {deviation:g}" for deviation in DEVIATIONS[size]]
    return [("relu", s) for s in SCHEMES] + [("selu", s) for s in (*SCHEMES, *normals)]


def settings_of(size):
    """Settings of the densities, and of the trainings; in quick size they are the same."""

    def settings(seeds, width, samples, steps):
        return [
            {
                "activation": activation,
                "scheme": scheme,
                "seed": seed,
                "width": width,
                "samples": samples,
                "lr": 0.01,
                "steps": steps,
            }
            for seed in range(seeds)
            for activation, scheme in cases(size)
        ]

    if size == "quick":
        return settings(5, 4, 32, 30), settings(5, 4, 32, 30)
    return settings(10, 64, 8, 0), settings(3, 64, 8, 10 * (50_000 // 32))


def collected(records):
    """{(activation, scheme): {key: tensor [runs, …]}} of (setting, answer)s."""
    lists = {}
    for setting, answer in records:
        found = lists.setdefault((setting["activation"], setting["scheme"]), {})
        factor = math.nan if answer["factor"] is None else answer["factor"]
        total = sum(answer["gradient"])
        for key, value in {
            **answer,
            "factor": factor,
            "sum": total,
            "steps": setting["steps"],
        }.items():
            found.setdefault(key, []).append(value)
    return {
        case: {key: torch.tensor(each, dtype=torch.float64) for key, each in found.items()}
        for case, found in lists.items()
    }


def larger(data, size=16):
    """The same pictures, enlarged where they are too small for LeNet5's unpadded convolutions."""
    if data.train[0].shape[-1] >= size:
        return data
    parts = [
        (F.interpolate(inputs, size=(size, size), mode="bilinear"), targets)
        for inputs, targets in (data.train, data.test)
    ]
    return Data(data.name, *parts)


def lenet_run(
    seed,
    lr,
    points,
    every,
    samples,
    standardize=True,
    batch_size=32,
    kind="quick",
    device="cpu",
):
    """LeNet5, tanh, Glorot: curvature of its layers before every `every` steps of training.

    Args:
        seed: of weights, batch and order.
        lr: learning rate of SGD.
        points: how often curvature is measured.
        every: steps between.
        samples: of the batch that it is measured on.
        standardize: as `pictures`.
        batch_size: of SGD.
        kind: as `pictures`.
        device: where it runs.

    Returns:
        layers and steps, then lists by time and layer: gradient and hessian, ĝᵀHĝ of Gauss-Newton
        blocks and of the exact Hessian, spectral, ‖H‖; loss, the mean of these steps.
    """
    shown = larger(pictures(kind, standardize, device))
    channels, size = shown.train[0].shape[1], shown.train[0].shape[-1]
    generator = torch.Generator(device).manual_seed(seed)
    model = LeNet5(in_channels=channels, size=size, activation="tanh").to(device)
    init_(model, "glorot", generator=generator)
    batch, loss_fn = shown.batch(samples, generator), F.cross_entropy
    layers, steps = list(weight_layers(model)), [every * i for i in range(points)]
    record = {"layers": layers, "steps": steps}
    record |= {"gradient": [], "hessian": [], "spectral": [], "loss": []}
    for i in range(points):
        along = layer_norms(model, loss_fn, batch, "gradient")
        blocks = [hessian(model, loss_fn, batch, layer=name) for name in layers]
        exact = [float(gradient_quotient(block, block.gradient)) for block in blocks]
        options = {"seed": 1000 * seed + i, "track_every": every, "track_batch": batch}
        run = train(model, shown, lr, every, batch_size, **options)
        record["gradient"].append(rounded(along.values()))
        record["hessian"].append(rounded(exact))
        record["spectral"].append(rounded(run.norms[0].values()))
        record["loss"].append(float(run.losses.mean()))
    return record


#: LeNet5's settings on the size's own pictures, and on MNIST: one epoch of batches of 64.
LENET = {
    "quick": [
        {"seed": seed, "lr": 0.01, "points": 6, "every": 45, "samples": 128} for seed in range(5)
    ],
    "full": [
        {"seed": 0, "lr": 0.01, "points": 20, "every": 312, "samples": 128, **scale}
        for scale in ({}, {"standardize": False})
    ],
}
LENET_MNIST = [
    {
        "seed": seed,
        "lr": 0.01,
        "points": 24,
        "every": 39,
        "samples": 128,
        "batch_size": 64,
        "standardize": standardize,
        "kind": "mnist",
    }
    for standardize, seeds in ((False, 10), (True, 3))
    for seed in range(seeds)
]


def run(size="quick", progress=False):
    """Compute what is not stored yet, and return a Found.

    Experiments on data that are not here and cannot be downloaded are left out, with a line that
    says so.

    Args:
        size: "quick" or "full".
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
    names = "13-cifar", "13-cifar-lenet", "13-cifar-lenet-mnist"
    resnet, lenet, on_mnist = (
        opened(name, size, compute, lambda setting, kind=kind: NAMES[kind])
        for name, kind in zip(names, (size, size, "mnist"))
    )

    def pairs(where, function, settings, kind):
        if compute:
            settings = available(settings, lambda setting: NAMES[kind])
        return answered(where, function, settings, compute, device, progress)

    def resnets(**setting):
        data = pictures(size, device=device)
        return experiment(data=data, progress=progress, **setting)

    lenets = functools.partial(lenet_run, device=device)
    own = lenets if size == "quick" else functools.partial(lenets, kind="full")
    on_digits_or_cifar = pairs(lenet, own, LENET[size], size)
    of_mnist = pairs(on_mnist, lenets, LENET_MNIST if size == "full" else [], "mnist")
    densities, trainings = settings_of(size)
    at_start = pairs(resnet, resnets, densities, size)
    trained = pairs(resnet, resnets, trainings, size)
    others = resnet.items() if size == "full" else []
    return Found(
        collected(at_start),
        collected(trained),
        collected(each for each in others if each[0]["width"] == 64 and 0 < each[0]["steps"] < 100),
        collected(each for each in others if each[0]["width"] == 16 and each[0]["steps"] == 100),
        [answer for _, answer in on_digits_or_cifar],
        [{**answer, "standardize": setting["standardize"]} for setting, answer in of_mnist],
        [resnet, lenet, on_mnist],
    )


def in_band(values, low=1.0, high=10.0):
    """Share of the values inside the band, in percent, as a float."""
    inside = (values >= low) & (values <= high)
    return 100 * float(inside.double().mean())


def density(values, grid, bandwidth=0.2):
    """Density of log10(values) on `grid`, as a tensor: the mean of Gaussian bumps.

    Values that are 0 count as 1e-60.
    """
    logs = values.flatten().clamp(min=1e-60).log10()
    bumps = torch.exp(-(((grid[:, None] - logs) / bandwidth) ** 2) / 2)
    return bumps.mean(1) / (bandwidth * math.sqrt(2 * math.pi))


class Bounds(NamedTuple):
    """Of one net: the value of the whole gradient and its bounds, and where values lie."""

    whole: float  #: ĝᵀGĝ of the gradient in all weights together
    bound: float  #: (Σ a_k √v_k)², with a_k the layers' shares of the gradient
    total: float  #: Σ v_k
    over_mean: float  #: median layer's v_k over the block's mean eigenvalue
    below_norm: float  #: median layer's ‖H‖ over v_k
    largest: float  #: largest v_k / ‖H‖, at most 1


def bounds(model, batch):
    """The Bounds of a net on a batch, in float64."""
    model, batch = model.double(), (batch[0].double(), batch[1])
    values, norms = layer_values(model, batch)
    gradients = layer_gradients(model, F.cross_entropy, batch)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("weight"))
    operator = gauss_newton(model, F.cross_entropy, batch)
    traces = layer_traces(model, F.cross_entropy, batch)
    v, norm, mean = (
        torch.tensor([float(each[name]) for name in values], dtype=torch.float64)
        for each in (values, norms, traces)
    )
    mean = mean / torch.tensor([gradients[name].numel() for name in values])
    sizes = torch.stack([gradients[name].norm().cpu() for name in values])
    return Bounds(
        float(gradient_quotient(operator, operator.gradient)),
        float((sizes / sizes.norm()) @ v.sqrt()) ** 2,
        float(v.sum()),
        float((v / mean).median()),
        float((norm / v).median()),
        float((v / norm).max()),
    )
