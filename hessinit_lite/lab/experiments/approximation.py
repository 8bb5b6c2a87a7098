"""What Gauss-Newton leaves out of a layer's Hessian block: five nets, at the start and in training.

The measurements of chapter 15. `run` computes what is not stored; the rest is what it consists of.
"""

import functools
import math

import torch
import torch.nn.functional as F

from ...curvature import gauss_newton, hessian
from ...models import MLP, weight_layers
from ...schemes import init_
from ...spectrum import top_eigenvalues
from ..data import Data, cifar10, digits, mnist
from ..networks import EfficientNet, GoogLeNet, LeNet5, ResNet18
from ..probes import digits_net, seeded
from ..records import answered, label, rounded
from ..results import Results
from ..statistics import interval
from ..training import train

ACTIVATIONS = ("relu", "tanh", "sigmoid", "selu", "gelu", "silu")
SIDES = {"digits": 8, "mnist": 28, "cifar10": 32}  #: of the pictures; LeNet5 needs 16
LAYERS = {  #: four layers on the way and the last one, which is dense
    "ResNet-18": ("stem", "blocks.1.conv2", "blocks.3.conv2", "blocks.6.conv1", "dense"),
    "EfficientNet": ("stem", "blocks.1.expand", "blocks.3.depthwise", "head", "dense"),
    "GoogLeNet": (
        "stem",
        "blocks.0.branch3.2",
        "blocks.3.branch3.2",
        "blocks.4.branch1.0",
        "dense",
    ),
    "LeNet5": ("conv1", "conv2", "dense1", "dense2", "dense3"),
    "dense": tuple(f"layers.{k}" for k in range(5)),
}
NETS = ("ResNet-18", "EfficientNet", "GoogLeNet", "LeNet5", "dense")
SCALES = torch.logspace(-3, -2, 3, dtype=torch.float64)  #: sizes c of the inputs


class Difference:
    """The operator H - G, for the eigenvalue of largest magnitude.

    Args:
        h: an operator, as is g, of the same shape.
    """

    def __init__(self, h, g):
        self.h, self.g, self.shape, self.dtype, self.device = h, g, h.shape, h.dtype, h.device

    def __matmul__(self, vector):
        return self.h @ vector - self.g @ vector


def blocks(model, batch, layer):
    """The Hessian's block of one layer, or of a pair, and that of Gauss-Newton: two operators."""
    return tuple(
        build(model, F.cross_entropy, batch, layer=layer) for build in (hessian, gauss_newton)
    )


def random_signs(like, generator):
    """A vector of random signs, of the length and kind of `like`."""
    return torch.empty_like(like).bernoulli_(0.5, generator=generator) * 2 - 1


def theorem_1(model, batch, layer, generator):
    """[3]: ĝᵀHĝ, ĝᵀGĝ and ‖(H − G)s‖ / ‖Hs‖ for one layer.

    ĝ is the layer's normalized gradient of the cross-entropy, s random signs from `generator`.
    """
    h, g = blocks(model, batch, layer)
    unit = h.gradient / torch.linalg.vector_norm(h.gradient)
    signs = random_signs(unit, generator)
    full = h @ signs
    missing = torch.linalg.vector_norm(full - g @ signs) / torch.linalg.vector_norm(full)
    return torch.stack([torch.dot(unit, h @ unit), torch.dot(unit, g @ unit), missing])


def two_errors(found):
    """Errors e_ĝ (along the gradient) and e_F (of the block), of `theorem_1`'s [..., 3]."""
    return (found[..., 0] - found[..., 1]).abs() / found[..., 0].abs(), found[..., 2]


def small_net(activation, depth, seed, c=1.0, mirrored=False, **options):
    """`hl.digits_net` without biases, its inputs times c: `model, batch`.

    Args:
        c: size of the inputs.
        mirrored: the batch holds every picture with its negative, which has the same label.
        options: for `hl.digits_net`; width is 32 and samples 64 unless they say otherwise.
    """
    options = {"width": 32, "samples": 64, "bias": False, **options}
    model, (inputs, targets) = digits_net(activation, depth, seed=seed, **options)
    if mirrored:
        inputs, targets = torch.cat([inputs, -inputs]), torch.cat([targets, targets])
    return model, (c * inputs, targets)


def errors_of_seeds(activation, depth, layers, seeds, **options):
    """e_ĝ and e_F, each [seeds, layers], of layers (numbers from 0) of a `small_net` a seed."""
    found = []
    for seed in seeds:
        model, batch = small_net(activation, depth, seed, **options)
        for k in layers:
            found.append(theorem_1(model, batch, f"layers.{k}", seeded(seed)))
    return two_errors(torch.stack(found).view(-1, len(layers), 3))


def slope(values, at=SCALES):
    """Exponent p where values ∝ at^p: the slope of logarithms, an Interval over seeds.

    Args:
        values: [seeds, at], positive.
        at: [at].
    """
    x = at.to(values.dtype).log()
    x = x - x.mean()
    return interval(values.log() @ x / (x @ x))


def order_in_c(activation, depth, layer, seeds, **options):
    """The errors e_ĝ and e_F of one layer by size of the inputs: two tensors [seeds, SCALES]."""
    found = [
        errors_of_seeds(activation, depth, [layer], seeds, c=float(c), **options) for c in SCALES
    ]
    return tuple(torch.cat(errors, 1) for errors in zip(*found))


def frobenius(model, batch, pair, generator, signs=1):
    """Estimates of ‖B‖_F and ‖B − G‖_F, [2]: B the Hessian's block between two layers, G its like.

    By products with random signs, of which `signs` are drawn.
    """
    b, g = blocks(model, batch, tuple(pair))
    like, total = torch.empty(b.shape[1], dtype=b.dtype, device=b.device), 0.0
    for _ in range(signs):
        s = random_signs(like, generator)
        full = b @ s
        total = total + torch.stack([full.square().sum(), (full - g @ s).square().sum()])
    return (total / signs).sqrt()


def along_gradient_and_at_random(activation, seeds, depth=5, **options):
    """Quotients vᵀHv and vᵀGv of layers 1 to depth - 1 of a `small_net` a seed.

    Returns:
        [seeds, depth - 1, 2, 2]: along ĝ and along a random direction; of H and of G.
    """
    found = []
    for seed in seeds:
        model, batch = small_net(activation, depth, seed, **options)
        generator = seeded(1000 + seed)
        for k in range(depth - 1):
            h, g = blocks(model, batch, f"layers.{k}")
            gradient = h.gradient
            random = torch.randn(len(gradient), dtype=gradient.dtype, generator=generator)
            v = F.normalize(torch.stack([gradient, random], 1), dim=0)
            found.append(torch.stack([(v * h.matmat(v)).sum(0), (v * g.matmat(v)).sum(0)], 1))
    return torch.stack(found).view(len(seeds), depth - 1, 2, 2)


def norms_by_width(activation, width, seed, depth=4, layer=1):
    """Largest |eigenvalue| of H, G and H − G, [3], for one layer of a `small_net` of this width."""
    h, g = blocks(*small_net(activation, depth, seed, width=width), f"layers.{layer}")
    generator = seeded(seed)
    found = [
        top_eigenvalues(operator, rtol=0.02, generator=generator)[0][0].abs()
        for operator in (h, g, Difference(h, g))
    ]
    return torch.stack(found)


@functools.lru_cache
def pictures(name, side, device="cpu"):
    """Data as pictures [N, channels, side, side], enlarged where its own are smaller."""
    sources = {"digits": digits, "mnist": mnist, "cifar10": lambda: cifar10(allow_unverified=True)}
    source = sources[name]()

    def shaped(inputs, targets):
        if inputs.ndim == 2:
            inputs = inputs.unflatten(1, (1, math.isqrt(inputs.shape[1]), -1))
        return (inputs if inputs.shape[-1] == side else F.interpolate(inputs, size=side)), targets

    return Data(source.name, shaped(*source.train), shaped(*source.test)).to(device)


def chosen_layers(net, model):
    """The five layers' names; behind a batch norm a convolution is the first of two modules."""
    return [name if name in weight_layers(model) else f"{name}.0" for name in LAYERS[net]]


def drawn(data, net, activation, width, seed, samples, dtype, norm=True, device="cpu"):
    """A new net in eval mode, a batch of pictures, and the generator that drew both.

    Batch norms get the mean and variance of that batch, and keep them while curvature is measured.

    Args:
        data: a name in `SIDES`.
        net: a name in `NETS`.
        dtype: "float32" or "float64".
        norm: has the net batch norms?
    """
    generator = seeded(seed, device)
    side = max(SIDES[data], 16) if net == "LeNet5" else SIDES[data]
    inputs, targets = pictures(data, side, device).batch(samples, generator)
    inputs, channels = inputs.to(getattr(torch, dtype)), inputs.shape[1]
    if net == "dense":
        model = MLP(channels * side**2, width, 5, 10, activation)
    elif net == "LeNet5":
        model = LeNet5(channels, 10, activation, side, width)
    elif net == "GoogLeNet":
        model = GoogLeNet(10, width, channels, activation)
    else:
        kind = {"ResNet-18": ResNet18, "EfficientNet": EfficientNet}[net]
        model = kind(10, width, channels, activation, norm=norm)
    model = init_(model.to(inputs), "forward", generator=generator)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for m in norms:
            m.momentum = 1.0
        model.train()(inputs)
        for m in norms:
            m.momentum = 0.1
    return model.eval(), (inputs, targets), generator


def at_start(data, net, activation, width, seed, samples, dtype, norm=True, device="cpu"):
    """{"hessian", "kept", "block"}: `theorem_1`'s three numbers for five layers of a new net."""
    model, batch, generator = drawn(
        data, net, activation, width, seed, samples, dtype, norm, device
    )
    layers = chosen_layers(net, model)
    found = torch.stack([theorem_1(model, batch, layer, generator) for layer in layers])
    return dict(zip(("hessian", "kept", "block"), map(rounded, found.T.tolist())))


def in_training(
    data,
    net,
    activation,
    width,
    seed,
    samples,
    dtype,
    epochs,
    measures,
    lr=0.01,
    device="cpu",
):
    """`at_start`, and every block's largest |eigenvalue|, before SGD and `measures` times in it.

    Returns:
        Lists by time of measurement: "step", "loss", and "hessian", "kept", "block" and "norm",
        which have a list of five numbers at each time.
    """
    model, batch, generator = drawn(
        data, net, activation, width, seed, samples, dtype, device=device
    )
    source = pictures(data, batch[0].shape[-1], device).to(batch[0].dtype)
    steps = epochs * (len(source.train[0]) // 32) // measures
    found = {key: [] for key in ("step", "loss", "hessian", "kept", "block", "norm")}
    for i in range(measures + 1):
        if i:
            run_ = train(model.train(), source, lr, steps, seed=1000 * seed + i)
            if run_.diverged:
                break
        model.eval()
        measured, norms = [], []
        for name in chosen_layers(net, model):
            measured.append(theorem_1(model, batch, name, generator))
            block = hessian(model, F.cross_entropy, batch, layer=name)
            norms.append(top_eigenvalues(block, rtol=0.05, generator=generator)[0][0].abs())
        columns = torch.stack(measured).T.tolist() + [torch.stack(norms).tolist()]
        for key, column in zip(("hessian", "kept", "block", "norm"), columns):
            found[key].append(rounded(column))
        found["step"].append(i * steps)
        found["loss"] += rounded([float(block.loss)])
    return found


def start_settings(size="quick"):
    """The settings of `at_start`: in "quick" size narrow nets and digits."""
    full = size == "full"
    widths = dict(zip(NETS, (64, 16, 16, 6, 128) if full else (4, 4, 4, 6, 32)))
    restarts = dict.fromkeys(NETS, 10) if full else {**dict.fromkeys(NETS, 3), "LeNet5": 6}
    if not full:
        restarts["dense"] = 6
    common = {"samples": 32, "dtype": "float32"} if full else {"samples": 16, "dtype": "float64"}
    return [
        {"data": data, "net": net, "activation": activation, "width": width, "seed": seed, **common}
        for seed in range(10)
        for activation in ACTIVATIONS
        for data in (("cifar10", "mnist") if full else ("digits",))
        for net, width in widths.items()
        if seed < restarts[net]
    ]


def training_settings(size="quick"):
    """The settings of `in_training`."""
    if size == "full":
        nets, seeds = {"ResNet-18": 64, "EfficientNet": 16, "GoogLeNet": 16, "LeNet5": 6}, range(3)
        common = {"data": "cifar10", "samples": 32, "dtype": "float32", "epochs": 5, "measures": 10}
    else:
        nets, seeds = {"LeNet5": 6, "GoogLeNet": 3}, range(8)
        common = {"data": "digits", "samples": 16, "dtype": "float64", "epochs": 3, "measures": 3}
    return [
        {"net": net, "activation": "selu", "width": width, "seed": seed, **common}
        for seed in seeds
        for net, width in nets.items()
    ]


def run(size="quick", progress=False, device="cpu", folder=None):
    """Compute what is not stored yet; two `Results`: of the starts, and of training.

    Args:
        size: "quick" (half a minute) or "full" (hours).
        progress: show bars.
        device: where the nets live.
        folder: as for `Results`.

    Returns:
        The `Results` of "15-approximation" and "15-approximation-training"; `errors` and
        `histories` put their records together.
    """
    done = []
    for name, function, settings in (
        ("15-approximation", at_start, start_settings(size)),
        ("15-approximation-training", in_training, training_settings(size)),
    ):
        results = Results(name, size, folder, data_of=lambda setting: label(setting["data"]))
        function = functools.partial(function, device=device)
        answered(results, function, settings, True, device, progress)
        done.append(results)
    return tuple(done)


def errors(results, keys=("data", "net", "activation")):
    """{values of keys: (e_ĝ, e_F, ĝᵀHĝ), stacked as [3, restarts, layers]}, nets in their order."""
    found = {}
    for setting, answer in results.items():
        full, kept, block = (
            torch.tensor(answer[key], dtype=torch.float64) for key in ("hessian", "kept", "block")
        )
        own = torch.stack([(full - kept).abs() / full.abs(), block, full])
        found.setdefault(tuple(setting[key] for key in keys), []).append(own)
    order = sorted(found, key=lambda key: (key[0], NETS.index(key[1])))
    return {key: torch.stack(found[key], 1) for key in order}


def histories(results):
    """{(data, net, activation, width): what was measured in training}, runs to the end alone.

    Each value is a dict: "step" [times], "loss" [runs, times], and, [runs, times, layers], "along"
    (e_ĝ), "block" (e_F), "quotient" (|ĝᵀHĝ|) and "norm".
    """
    found = {}
    for setting, answer in results.items():
        key = tuple(setting[name] for name in ("data", "net", "activation", "width"))
        found.setdefault(key, []).append(answer)
    stacked = {}
    for key, answers in found.items():
        longest = max(len(answer["step"]) for answer in answers)
        whole = [answer for answer in answers if len(answer["step"]) == longest]
        full, kept, block, norm, loss = (
            torch.tensor([answer[name] for answer in whole], dtype=torch.float64)
            for name in ("hessian", "kept", "block", "norm", "loss")
        )
        stacked[key] = {
            "step": whole[0]["step"],
            "loss": loss,
            "along": (full - kept).abs() / full.abs(),
            "block": block,
            "quotient": full.abs(),
            "norm": norm,
        }
    return stacked


def cross_blocks(net, activation, seed, device="cpu"):
    """Sizes of all blocks between a net's five layers, and what Gauss-Newton leaves out: [2, 5, 5].

    First ‖H_jk‖_F / (‖H_jj‖_F ‖H_kk‖_F)^½, then ‖H_jk − G_jk‖_F / ‖H_jk‖_F; NaN for k > j. Digits,
    16 samples, float64.
    """
    width = {"LeNet5": 6, "ResNet-18": 4}[net]
    model, batch, generator = drawn(
        "digits", net, activation, width, seed, 16, "float64", device=device
    )
    names, found = chosen_layers(net, model), torch.full((2, 5, 5), math.nan)
    for j in range(5):
        for k in range(j + 1):
            full, missing = frobenius(model, batch, (names[j], names[k]), generator)
            found[:, j, k] = torch.stack([full, missing / full])
    scale = found[0].diagonal().clone().sqrt()
    found[0] /= scale[:, None] * scale
    return found
