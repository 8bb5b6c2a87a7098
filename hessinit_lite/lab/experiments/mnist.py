"""Chapter 12: starts and learning rates of small dense nets on MNIST, digits and others.

A start is a scheme of `init_`, or a norm and its target for `hessian_init_`, as in "spectral 10",
or "normal 0.1", one standard deviation for all layers. Weights are drawn on the CPU, so that a seed
gives the same nets on every device.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ...chain_rule import NORMS, layer_norms
from ...models import MLP
from ...principle import hessian_init_
from ...schemes import init_
from ...tables import formatted
from ..data import Data
from ..probes import signals
from ..records import answered, available, fastest_device, opened, raw, rounded
from ..statistics import interval
from ..training import accuracy, train_together

BATCH = 32  #: samples of a mini-batch: Keras' default
SAMPLES = 128  #: on which norms are measured
PAPER = [("relu", "he"), ("relu", "orthogonal"), ("tanh", "glorot"), ("tanh", "orthogonal")]
OTHERS = [("relu", "torch"), ("relu", "lsuv")]
HESSIAN = [("relu", f"{norm} {target}") for norm in NORMS for target in (1, 3, 10, 30)]
HESSIAN += [("tanh", f"spectral {target}") for target in (1, 3, 10, 30)]
TARGETS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)  #: of the grids
#: Starts that are swept over the rates; He's and the targets' sweeps are in the first grid.
SWEPT = {
    "quick": [("relu", "torch")],
    "full": [*PAPER[:3], *OTHERS, ("tanh", "spectral 10")],
}
#: Starts that are judged, each at its own best rate.
JUDGED = {
    "quick": [("relu", "he"), ("relu", "torch"), ("relu", "spectral 1"), ("relu", "spectral 10")],
    "full": [*SWEPT["full"], *HESSIAN[:4]],
}
CHOOSE = {"quick": range(3), "full": range(1)}  #: seeds on which a rate is chosen
JUDGE = range(10, 20)  #: seeds on which it is judged
COMMON = (0.02, 0.03, 0.05, 0.07, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3)  #: one deviation for all layers
COMMON_PICTURES = (60_000, 42_000)


class Found(NamedTuple):
    """What the chapter draws from: `{(activation, start, rate): values}` by seed, and the grids."""

    table: dict  #: every start at rate 0.01
    shorter: dict  #: four starts of the paper, trained on 42,000 pictures
    swept: dict  #: every start and rate, on the seeds that choose the rate
    best: dict  #: every start at its own rate, on other seeds
    grids: dict  #: {name: [(setting, answer), ...]}: loss by target and rate
    common: dict  #: {pictures: as table}: one standard deviation for all layers; full size only
    stored: list  #: the Results behind it


@functools.lru_cache(maxsize=1)
def load(name, device="cpu"):
    """A data set on the device, inputs flat and in [0, 1].

    Raises:
        DataUnavailable: as the loaders of `hessinit_lite.lab.data`.
    """
    data = raw(name)
    train, test = ((inputs.flatten(1), targets) for inputs, targets in (data.train, data.test))
    return Data(data.name, train, test).to(device)


def fresh(data, depth, width, activation, start, seed):
    """A net at its start: `model, batch, off`, on the data's device.

    Args:
        data: a Data with flat inputs.
        depth: weight matrices.
        width: of the hidden layers.
        activation: a name in `ACTIVATIONS`.
        start: a scheme, or a norm and its target, as in "spectral 10", or "normal 0.1".
        seed: of the batch, on which norms are measured, and the weights.

    Returns:
        The net, the batch of 128 samples, and the factor by which its worst layer misses the target
        (1.0 without one).
    """
    generator = torch.Generator().manual_seed(seed)
    batch = data.batch(SAMPLES, generator)
    on_cpu = tuple(part.cpu() for part in batch)
    model = MLP(batch[0].shape[1], width, depth, 10, activation=activation).to(batch[0].dtype)
    norm, _, target = start.partition(" ")
    plain = norm == "normal"
    scheme = "forward" if target and not plain else norm
    std = float(target) if plain else None
    init_(model, scheme, generator=generator, batch=on_cpu, std=std)
    model.to(batch[0].device)
    if plain or not target:
        return model, batch, 1.0
    report = hessian_init_(model, F.cross_entropy, batch, float(target), norm, scheme=None)
    return model, batch, math.exp(min(report.history))


def mean_loss(model, batch):
    """Mean cross-entropy over a whole data set, in parts that fit the cache, as a float."""
    inputs, targets = batch
    with torch.no_grad():
        parts = [
            F.cross_entropy(model(x), t, reduction="sum")
            for x, t in zip(inputs.split(2000), targets.split(2000))
        ]
    return float(sum(parts) / len(targets))


def experiment(
    data,
    depth,
    width,
    activation,
    runs,
    seed,
    epochs,
    evaluate,
    pictures=None,
    device="cpu",
):
    """Train a net for each of `runs`, all on the same mini-batches of 32.

    Args:
        data: a name in `records.LOADERS`.
        depth: as `fresh`, like width, activation and seed.
        width: as `fresh`.
        activation: as `fresh`.
        runs: pairs (start, learning rate).
        seed: as `fresh`; also of the order of the samples.
        epochs: how long.
        evaluate: also evaluate the trained nets.
        pictures: so many of the training pictures, the first ones; None for all.
        device: where it runs.

    Returns:
        Lists with one number for each run: epoch, the mean loss of the last epoch (inf: diverged).
        If evaluate, afterwards: train, the loss on all training pictures, and accuracy on the test
        pictures. starts: {start: [smallest and largest spectral norm of a layer, `off` of
        `fresh`]}.
    """
    data = load(data, device)
    if pictures is not None:
        train = tuple(part[:pictures] for part in data.train)
        data = Data(data.name, train, data.test)
    starts, nets = {}, {}
    for start, _ in runs:
        if start not in nets:
            model, batch, off = fresh(data, depth, width, activation, start, seed)
            norms = layer_norms(model, F.cross_entropy, batch, rtol=1e-2).values()
            starts[start] = rounded([min(norms), max(norms), off])
            nets[start] = model
    models = []
    for start, _ in runs:
        model = MLP(data.train[0].shape[1], width, depth, 10, activation=activation)
        model.load_state_dict(nets[start].state_dict())
        models.append(model.to(device))
    epoch = len(data.train[0]) // BATCH
    rates = [rate for _, rate in runs]
    losses = train_together(models, data, rates, epochs * epoch, BATCH, seed=seed)
    last = losses[-epoch:].mean(0).nan_to_num(math.inf, math.inf)
    answer = {"starts": starts, "epoch": rounded(last.tolist())}
    if evaluate:
        answer["train"] = rounded([mean_loss(model, data.train) for model in models])
        answer["accuracy"] = rounded([accuracy(model, data.test) for model in models])
    return answer


def settings_of(size, runs, seeds, evaluate, **more):
    """Settings of three-layer nets, one for each seed and activation.

    Args:
        size: "full" for MNIST and two epochs, else digits and five.
        runs: triples (activation, start, rate).
        seeds: their seeds.
        evaluate: as `experiment`.
        more: into every setting.
    """
    small = {"data": "digits", "width": 64, "epochs": 5}
    kind = {"data": "mnist", "width": 128, "epochs": 2} if size == "full" else small
    return [
        {
            "depth": 3,
            "activation": activation,
            "seed": seed,
            "evaluate": evaluate,
            **kind,
            "runs": [[start, rate] for f, start, rate in runs if f == activation],
            **more,
        }
        for seed in seeds
        for activation in dict.fromkeys(f for f, _, _ in runs)
    ]


def grid_settings(data, depth, width, epochs, seeds, rates):
    """He's scheme and every target of TARGETS, at every rate."""
    starts = ["he", *(f"spectral {target}" for target in TARGETS)]
    runs = [[start, rate] for start in starts for rate in rates]
    same = {"data": data, "depth": depth, "width": width, "activation": "relu"}
    return [
        {**same, "seed": seed, "epochs": epochs, "evaluate": False, "runs": runs}
        for seed in range(seeds)
    ]


_RATES = [0.003, 0.01, 0.03, 0.1, 0.3]
_DEEP_RATES = [0.001, 0.003, 0.01, 0.03, 0.1]
#: The first grid of a size is the one on which rates are chosen and the rule is tuned.
GRIDS = {
    "quick": {"digits, 3 layers": grid_settings("digits", 3, 64, 5, 3, _RATES)},
    "full": {
        "MNIST, 3 layers": grid_settings("mnist", 3, 128, 2, 2, [*_RATES, 1.0]),
        "digits, 3 layers": grid_settings("digits", 3, 64, 5, 5, _RATES),
        "digits, 3 layers, 20 epochs": grid_settings("digits", 3, 64, 20, 1, _RATES),
        "digits, 10 layers": grid_settings("digits", 10, 64, 5, 5, _DEEP_RATES),
        "CIFAR-10, 3 layers": grid_settings("cifar10", 3, 128, 2, 1, _RATES[:4]),
        "digits, 30 layers": grid_settings("digits", 30, 64, 5, 5, _DEEP_RATES),
        "digits, 100 layers": grid_settings(
            "digits", 100, 64, 5, 3, [0.00003, 0.0001, 0.0003, 0.001, 0.003]
        ),
        "FashionMNIST, 3 layers": grid_settings("fashion_mnist", 3, 128, 2, 3, _RATES),
    },
}


def table_settings(size):
    """All starts at rate 0.01; in quick size some of them."""
    few = [*PAPER, OTHERS[0], ("relu", "spectral 1"), ("relu", "spectral 10")]
    starts = PAPER + OTHERS + HESSIAN if size == "full" else [*few, ("tanh", "spectral 10")]
    starts = [(*each, 0.01) for each in starts]
    return settings_of(size, starts, range(10 if size == "full" else 5), True)


def shorter_settings():
    """The paper's four starts on 42,000 of MNIST's pictures."""
    return settings_of("full", [(*each, 0.01) for each in PAPER], range(5), True, pictures=42_000)


def common_settings(pictures, seeds=3):
    """One standard deviation for all layers of the ReLU net, another reading of the paper's row."""
    starts = [("relu", f"normal {deviation}", 0.01) for deviation in COMMON]
    more = {} if pictures == 60_000 else {"pictures": pictures}
    return settings_of("full", starts, range(seeds), True, **more)


def sweep_settings(size):
    """The starts that are not in the first grid, at its rates."""
    rates = dict.fromkeys(rate for _, rate in next(iter(GRIDS[size].values()))[0]["runs"])
    starts = [each for each in SWEPT[size] if each != ("relu", "he")]
    return settings_of(size, [(*each, r) for each in starts for r in rates], CHOOSE[size], False)


def collected(records):
    """{(activation, start, rate): {"epoch": array over the seeds, ...}} of (setting, answer)s."""
    found = {}
    for setting, answer in records:
        for i, (start, rate) in enumerate(setting["runs"]):
            values = found.setdefault((setting["activation"], start, rate), {})
            for key in ("epoch", "train", "accuracy"):
                if key in answer:
                    values.setdefault(key, []).append(answer[key][i])
            for key, number in zip(("smallest", "largest", "off"), answer["starts"][start]):
                values.setdefault(key, []).append(number)
    return {
        run: {key: np.array(each) for key, each in values.items()} for run, values in found.items()
    }


def best_rates(swept, starts):
    """{(activation, start): rate of the smallest mean loss}; a diverged run counts as inf."""
    best = {}
    for start in starts:
        means = {run[2]: of["epoch"].mean() for run, of in swept.items() if run[:2] == start}
        best[start] = min(means, key=means.get)
    return best


def run(size="quick", progress=False):
    """Compute what is not stored yet, and return a Found.

    Grids on data that are not here and cannot be downloaded are left out, with a line that says so.

    Args:
        size: "quick" (digits) or "full" (MNIST, and grids on other data).
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
    names = "12-mnist", "12-mnist-shorter", "12-mnist-rates", "12-mnist-common"
    source = lambda setting: setting["data"]
    first, fewer, rates, common = (opened(name, size, compute, source) for name in names)
    function = functools.partial(experiment, device=device)

    def pairs(where, settings):
        if compute:
            settings = available(settings, source)
        return answered(where, function, settings, compute, device, progress)

    table = collected(pairs(first, table_settings(size)))
    shorter = collected(pairs(fewer, shorter_settings() if size == "full" else []))
    grids = {name: pairs(rates, settings) for name, settings in GRIDS[size].items()}
    of_first = next(iter(grids.values()))
    choosing = [each for each in of_first if each[0]["seed"] in CHOOSE[size]]
    swept = collected(choosing + pairs(rates, sweep_settings(size)))
    best = {}
    if set(JUDGED[size]) <= {run[:2] for run in swept}:
        runs = [(*start, rate) for start, rate in best_rates(swept, JUDGED[size]).items()]
        best = collected(pairs(rates, settings_of(size, runs, JUDGE, True)))
    by_pictures = {
        pictures: collected(pairs(common, common_settings(pictures) if size == "full" else []))
        for pictures in COMMON_PICTURES
    }
    return Found(table, shorter, swept, best, grids, by_pictures, [first, fewer, rates, common])


def best_targets(losses):
    """The best target at every rate, nan where it is at an edge. losses: [targets, rates].

    The lowest of a grid, refined by the parabola through it and its neighbours, in logarithms.
    """
    found = np.full(losses.shape[1], np.nan)
    for j, column in enumerate(losses.T):
        i = int(column.argmin())
        if 0 < i < len(column) - 1:
            found[j] = TARGETS[i]
            around = column[i - 1 : i + 2]
            if np.isfinite(around).all():
                a, b, _ = np.polyfit(np.log(TARGETS[i - 1 : i + 2]), np.log(around), 2)
                found[j] = math.exp(-b / (2 * a))
    return found


class Rule(NamedTuple):
    """What a grid says of the rule: best target = c / rate**b, rates up to 0.3."""

    rates: np.ndarray  #: [rates]
    losses: np.ndarray  #: [seeds, He and the targets, rates]
    best: np.ndarray  #: [seeds, rates], nan at an edge of the grid
    b: np.ndarray  #: of the seeds with three points at least
    c: np.ndarray  #: of each seed with a point, with b = 1


def fitted(pairs):
    """The Rule of one grid's [(setting, answer), ...]: a line in logarithms for each seed."""
    rates = np.array(list(dict.fromkeys(rate for _, rate in pairs[0][0]["runs"])))
    losses = np.array([answer["epoch"] for _, answer in pairs]).reshape(len(pairs), -1, len(rates))
    rates, losses = rates[rates <= 0.3], losses[:, :, rates <= 0.3]
    best = np.array([best_targets(each[1:]) for each in losses])
    b, c = [], []
    for targets in best:
        inside = np.isfinite(targets)
        x, y = np.log(rates[inside]), np.log(targets[inside])
        if len(x) > 2:
            b.append(-np.polyfit(x, y, 1)[0])
        if len(x):
            c.append(math.exp((x + y).mean()))
    return Rule(rates, losses, best, np.array(b), np.array(c))


def excess(rule, c):
    """{choice: loss over that of the grid's best target, [rates]}, means over the seeds.

    Choices: He's scheme, targets 1 and 10, and the target of the grid that is nearest to c / rate.
    """
    mean = rule.losses.mean(0)
    nearest = np.abs(np.log(np.array(TARGETS)[:, None] * rule.rates / c)).argmin(0)
    rows = {
        "He": 0 * nearest,
        "target 1": 0 * nearest + 1 + TARGETS.index(1),
        "target 10": 0 * nearest + 1 + TARGETS.index(10),
        "c / rate": 1 + nearest,
    }
    columns = range(len(rule.rates))
    with np.errstate(invalid="ignore"):  # at a rate where every target diverges: inf / inf
        return {choice: mean[row, columns] / mean[1:].min(0) for choice, row in rows.items()}


def _two(value):
    """A number with two significant digits as text, without an exponent where it is short."""
    return f"{float(f'{value:.2g}'):g}"


def loss_rows(found, comparisons=1):
    """Rows of a table from {(activation, start, rate): values}: dicts, one a start.

    Args:
        found: as `collected` gives it, losses and accuracies by seed.
        comparisons: intervals hold together at 95 % for so many of them (Bonferroni).
    """
    level, rows = 1 - 0.05 / comparisons, []
    for (activation, start, rate), of in found.items():
        lost = int((~np.isfinite(of["epoch"])).sum())
        missed = int((of["off"] > 1.011).sum())
        loss = str(interval(of["epoch"], level)) if not lost else f"{lost} diverge"
        rows.append(
            {
                "start": f"{activation} {start}",
                "norms": f"{_two(of['smallest'].mean())} to {_two(of['largest'].mean())}",
                "rate": rate,
                "loss": loss,
                "on all": float(of["train"].mean()),
                "accuracy": float(of["accuracy"].mean()),
                "missed": f"{missed}/{len(of['off'])}" if missed else "",
            }
        )
    return rows


def minus_he(found, key="epoch", comparisons=1):
    """{start: Interval of (start minus He), paired by seed} for the ReLU starts, each at its rate.

    Starts with a run that diverged are left out.
    """
    level = 1 - 0.05 / comparisons
    (he,) = [of[key] for run, of in found.items() if run[:2] == ("relu", "he")]
    return {
        start: interval(of[key] - he, level)
        for (activation, start, _), of in found.items()
        if activation == "relu" and start != "he" and np.isfinite(of[key]).all()
    }


class Walk(NamedTuple):
    """How signal and curvature spread over the layers of one net: as drawn, and with target 1."""

    decades: tuple  #: log10 of the largest over the smallest signal, (as drawn, target 1)
    bias: tuple  #: log10 of the largest norm of a bias's block, likewise
    missed: float  #: largest |log norm| of a weight's block with target 1
    off_law: float  #: spread over the layers of log(s_k² / h_k) / 2, 0 by the law s_k² ∝ h_k
    over_bound: float  #: largest norm of a weight's block over its bound, max |z|² times the bias's


def walk(depth, seed, width=64):
    """The Walk of a dense ReLU net for digits, drawn by the forward scheme, then scaled."""
    data, found = load("digits", fastest_device()), []
    for start in ("forward", "spectral 1"):
        model, batch, _ = fresh(data, depth, width, "relu", start, seed)
        blocks = layer_norms(model, F.cross_entropy, batch, rtol=1e-3, parameters="all")
        with torch.no_grad():
            u = [each.double() for each in signals(model, batch[0]).values()]
            z = [batch[0].double(), *(each.relu() for each in u[:-1])]
        weights = torch.stack([layer.weight.detach().double().norm() for layer in model.layers])
        size = torch.stack([each.norm() for each in u[:-1]])
        inputs = torch.stack([each.norm(dim=1).max() for each in z])
        norms, biases = (
            torch.tensor([blocks[f"layers.{k}.{of}"] for k in range(depth)], dtype=torch.float64)
            for of in ("weight", "bias")
        )
        bound = norms.log().cpu() - 2 * inputs.log().cpu() - biases.log()
        decades = float((size.max() / size.min()).log10())
        found.append((decades, float(biases.max().log10()), weights.cpu(), norms, bound.max()))
    drawn, scaled = found
    law = (scaled[2] / drawn[2]).log() - drawn[3].log() / 2
    return Walk(
        (drawn[0], scaled[0]),
        (drawn[1], scaled[1]),
        float(scaled[3].log().abs().max()),
        float(law.std()),
        float(max(drawn[4], scaled[4]).exp()),
    )


def signed(found):
    """The ends of an Interval of a difference as text, "" for None.

    Example:
        >>> from hessinit_lite.lab.experiments.mnist import signed
        >>> signed(hl.Interval(0.01, -0.01, 0.03))
        '-0.010 to +0.030'
    """
    return " to ".join(formatted(end, "+.3f") for end in found[1:]) if found else ""
