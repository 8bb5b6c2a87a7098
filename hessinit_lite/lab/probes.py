"""Small nets to look into: drawn with a batch, their signals and gradients, many at once."""

from itertools import pairwise

import torch
import torch.nn.functional as F

from ..models import MLP, activation_module, weight_layers
from ..schemes import init_
from ..variance import gain
from .data import digits


def seeded(seed, device="cpu"):
    """A torch.Generator with this seed, on `device`.

    Example:
        >>> a, b = (torch.randn(3, generator=hl.seeded(0)) for _ in range(2))
        >>> torch.equal(a, b)
        True
    """
    return torch.Generator(device).manual_seed(seed)


def digits_net(
    activation="relu", depth=3, width=64, scheme="forward", seed=0, samples=128, **options
):
    """A dense net for digits drawn with a scheme, and a batch: `model, (inputs, targets)`.

    All in float64.

    Args:
        scheme: a name in `hl.SCHEMES`.
        seed: of the weights and of the batch.
        samples: N; inputs are [N, 64], targets [N].
        options: for `hl.init_` (factor=, nonlinearity= …); `bias=False` goes to the net.

    Raises:
        ValueError: as `hl.MLP` and `hl.init_`.

    Example:
        >>> model, (inputs, targets) = hl.digits_net("tanh", depth=10, seed=1)
        >>> model(inputs).shape
        torch.Size([128, 10])
    """
    generator = seeded(seed)
    bias = options.pop("bias", True)
    model = MLP(64, width, depth, 10, activation=activation, bias=bias).double()
    init_(model, scheme, generator=generator, **options)
    inputs, targets = digits().batch(samples, generator)
    return model, (inputs.double(), targets)


def signals(model, inputs):
    """What every weight layer puts out, `{name: tensor}` in the order of the layers' calls.

    In a dense net these are the pre-activations u of chapter "Notation". A layer that is called
    twice is listed with its last output. Part of the graph: gradients in them can be taken.

    Example:
        >>> model, (inputs, _) = hl.digits_net(depth=2)
        >>> {name: tuple(u.shape) for name, u in hl.signals(model, inputs).items()}
        {'layers.0': (128, 64), 'layers.1': (128, 10)}
    """
    found, hooks = {}, []
    for name, layer in weight_layers(model).items():
        keep = lambda _module, _inputs, output, name=name: found.__setitem__(name, output)
        hooks.append(layer.register_forward_hook(keep))
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def signals_and_gradients(model, batch, loss_fn=F.cross_entropy):
    """Mean squares by layer, each [layers]: of the signals u, and of the loss's gradient in them.

    The loss is a mean over the batch, so dL/du holds a factor 1/N. Units: u's squared; (loss/u)².

    Example:
        >>> model, batch = hl.digits_net(depth=5)
        >>> forward, backward = hl.signals_and_gradients(model, batch)
        >>> forward.shape, backward.shape
        (torch.Size([5]), torch.Size([5]))
    """
    inputs, targets = batch
    outputs = {}
    hook = model.register_forward_hook(lambda _module, _inputs, output: outputs.update(net=output))
    try:
        u = list(signals(model, inputs).values())
    finally:
        hook.remove()
    gradients = torch.autograd.grad(loss_fn(outputs["net"], targets), u)
    return tuple(torch.stack([t.detach().square().mean() for t in ts]) for ts in (u, gradients))


def many_nets(widths, nets, activation="relu", weight_variance=None, generator=None):
    """Mean squares by layer of many random dense nets at once, each with an input of its own.

    Pre-activations u, and the gradient in them if what enters at the last layer has mean square 1.
    The input has mean square 1; the first layer's weights have variance 1/fan-in, all others
    weight_variance/fan-in. Float64, no biases.

    Args:
        widths: of the input and of every layer, e.g. [50] * 11 for ten layers.
        nets: how many.
        weight_variance: times 1/fan-in; None for the square of the activation's forward gain.
        generator: where the draws come from; its device is where the nets live.

    Returns:
        Two tensors [nets, layers]: signal, gradient.

    Raises:
        ValueError: for an unknown activation.

    Example:
        >>> signal, gradient = hl.many_nets([50] * 11, nets=400, generator=hl.seeded(0))
        >>> signal.shape
        torch.Size([400, 10])
    """
    f = activation_module(activation)
    scale = gain(activation) ** 2 if weight_variance is None else weight_variance
    like = {"dtype": torch.float64, "device": generator.device if generator else None}

    def normal(*shape):
        return torch.randn(*shape, generator=generator, **like)

    def unit(t):
        return t / t.square().mean(1, keepdim=True).sqrt()

    z, u = unit(normal(nets, widths[0], 1)), []
    for fan_in, fan_out in pairwise(widths):
        w = normal(nets, fan_out, fan_in) * ((scale if u else 1) / fan_in) ** 0.5
        u.append(w @ z)
        if len(u) == 1:
            u[0].requires_grad_()
        z = f(u[-1])
    gradients = torch.autograd.grad(u[-1], u, unit(normal(*u[-1].shape)))
    return tuple(
        torch.stack([t.detach().square().mean((1, 2)) for t in ts], 1) for ts in (u, gradients)
    )


class Shifted:
    """The operator A - shift·I of a symmetric operator A, for Lanczos at the other end.

    Example:
        >>> model, batch = hl.digits_net(depth=2)
        >>> h = hl.hessian(model, torch.nn.functional.cross_entropy, batch)
        >>> hl.Shifted(h, 10.0).shape == h.shape
        True
    """

    def __init__(self, operator, shift):
        self.operator, self.shift = operator, shift
        self.shape, self.dtype, self.device = operator.shape, operator.dtype, operator.device

    @property
    def gradient(self):
        """The operator's: Lanczos starts with it."""
        return self.operator.gradient

    def __matmul__(self, vector):
        return self.operator @ vector - self.shift * vector

    def matmat(self, vectors):
        """The product with the columns of [P, n]."""
        return self.operator.matmat(vectors) - self.shift * vectors
