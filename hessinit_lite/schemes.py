"""Initialization schemes: how to draw the first weights.

Every scheme draws zero-mean weights with Var w = g²/fan and sets biases to zero; they differ in g
and in the fan. `init_` checks everything before it touches a weight. Learning rates that go with a
width, and what is done to residual branches, are in `scaling.py`.
"""

import contextlib
import copy
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .autograd import call, map_tensors, traceless
from .models import (
    NO_LAYERS,
    WEIGHT_LAYERS,
    activation_module,
    activation_name,
    check_generator,
    original,
    refuse_computed,
    token_tables,
)
from .variance import dropout_factor, gain

#: Schemes that draw from a normal distribution: (Var w, where from).
NORMAL = {
    "lecun": ("1 / fan_in", "LeCun et al. 1998"),
    "glorot": ("2 / (fan_in + fan_out)", "Glorot & Bengio 2010, eq. 12"),
    "he": ("2 / fan_in", "He et al. 2015, eq. 10; whatever the activation"),
    "forward": ("g**2 / fan_in", "g: the activation's forward gain"),
    "backward": ("g**2 / fan_out", "g: the activation's backward gain"),
    "spectral_condition": ("min(1, fan_out / fan_in) / fan_in", "Yang et al. 2023"),
    "mup": ("1 / fan_in", "1/fan_in² in the last layer; Yang et al. 2022, table 3"),
    "normal": ("std**2", "std=, the same in every layer"),
}
_VARIANCE = {
    name: eval(f"lambda fan_in, fan_out, g, std: {formula}")  # so that what is said is what is done
    for name, (formula, _) in NORMAL.items()
}
#: {name: what it draws}, in words.
SCHEMES = {
    name: f"normal, Var w = {formula.replace('**2', '²')} ({source})"
    for name, (formula, source) in NORMAL.items()
} | {
    "orthogonal": "random orthogonal rows or columns (Saxe et al. 2014)",
    "delta_orthogonal": "convolutions: zero but for an orthogonal matrix at the kernel's centre "
    "(Xiao et al. 2018); dense layers: orthogonal",
    "torch": "what torch's own layers start with: uniform, Var w = 1/(3 fan_in), random biases",
    "lsuv": "orthogonal, then each layer scaled to unit output variance on batch= "
    "(Mishkin & Matas 2016)",
}


@dataclass
class Weight:
    """A weight that a scheme draws: `parts` matrices of the same fans, along the first axis."""

    layer: nn.Module
    weight: nn.Parameter
    biases: list  #: parameters, none that is frozen
    fan_in: int
    fan_out: int
    bound: float  #: torch's own start is uniform in ± this
    bias_bound: float
    parts: int = 1


def fans(layer):
    """(fan_in, fan_out) of a dense or (transposed) convolutional layer.

    How many weights each output adds up, and how many outputs each input goes to (stride 1): inputs
    and outputs of a group times the kernel's size. torch's own count of fan_out leaves the groups
    out, and it takes the inputs and outputs of a transposed convolution for each other.

    Example:
        >>> hl.schemes.fans(nn.Conv2d(4, 8, kernel_size=3, groups=2))
        (18, 36)
    """
    weight, groups = layer.weight, getattr(layer, "groups", 1)
    kernel = weight[0, 0].numel()
    first, second = weight.shape[0] // groups * kernel, weight.shape[1] * kernel
    return (first, second) if getattr(layer, "transposed", False) else (second, first)


def drawn_weights(model):
    """{key: Weight} of what a scheme draws: dense, convolutional, recurrent and attention layers.

    Of attention, the projections of queries, keys and values are matrices of their own (fans: the
    size of what they read, and of what they make); so are the gates of LSTM and GRU, with fans
    (inputs, hidden) and (hidden, hidden). Embeddings and parameters of other layers are not drawn.

    Raises:
        TypeError: if `model` is no module.
        ValueError: for lazy layers and for weights that are computed from other parameters.
    """
    model, found = original(model), {}

    def add(name, layer, weight, bias, *numbers):
        biases = [] if bias is None or not bias.requires_grad else [bias]
        found.setdefault(weight, (name, Weight(layer, weight, biases, *numbers)))

    for name, layer in model.named_modules():
        inside = f"{name}." if name else ""
        if isinstance(layer, WEIGHT_LAYERS):
            refuse_computed(name, layer)
            fan_in, fan_out = fans(layer)  # refuses lazy layers
            bound = 1 / math.sqrt(layer.weight[0].numel())
            of_attention = isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear)
            bias_bound = 0.0 if of_attention else bound
            add(name, layer, layer.weight, layer.bias, fan_in, fan_out, bound, bias_bound)
        elif isinstance(layer, nn.MultiheadAttention):
            for key, weight in layer.named_parameters(recurse=False):
                if key.endswith("proj_weight"):
                    width, made = weight.shape[1], layer.embed_dim
                    numbers = width, made, math.sqrt(6 / (width + len(weight))), 0.0
                    parts = len(weight) // made
                    add(f"{inside}{key}", layer, weight, layer.in_proj_bias, *numbers, parts)
        elif isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
            for key, weight in layer.named_parameters(recurse=False):
                if key.startswith("weight"):
                    parts = 1 if "_hr_" in key else len(weight) // layer.hidden_size  # gates
                    bound = 1 / math.sqrt(layer.hidden_size)
                    bias = getattr(layer, key.replace("weight", "bias"), None)
                    numbers = weight.shape[1], len(weight) // parts, bound, bound, parts
                    add(f"{inside}{key}", layer, weight, bias, *numbers)
    return dict(found.values())


def init_(
    model,
    scheme,
    activation=None,
    generator=None,
    *,
    factor=1.0,
    dropout=None,
    std=None,
    batch=None,
):
    """Draw the trainable weights of `model`, those of `drawn_weights`, in place; set their biases.

    Weights stay on the model's device and in its dtype. Frozen weights and biases, embeddings and
    norms are left as they are. What sources say of embeddings: standard deviation of order 1
    whatever the width ("mup", "spectral_condition": an input is one-hot, so its fan is 1), which is
    torch's own N(0, 1), 0.02 in GPT-2 (Radford et al. 2019). A weight that an embedding shares with
    a dense layer is drawn as the layer's; but "mup" leaves it as it is, for there it is an input
    weight, whose size must not follow the width, and the net must divide its outputs (see
    `mup_groups`).

    Args:
        scheme: one of SCHEMES. "orthogonal" reads a convolution's weight as one matrix [out, in ·
            kernel], as torch does, and that keeps no norms; "delta_orthogonal" keeps them exactly,
            group by group, at stride 1 with "same" or circular padding. Where a layer narrows (out
            < in) no matrix keeps the norms of all inputs: rows are then orthonormal, which keeps
            those of gradients instead.
            "mup" is for a net whose last layer in `named_modules()` is its output; to have it zero
            there, as the source recommends, follow with `scale_branches_(model, name, "zero")`.
            Its "1/fan_in" leaves width-independent factors free, see `mup_groups`.
        activation: name of the activation between the layers. Only "forward" and "backward" depend
            on it. If None it is read off the modules; of activations that are functions (F.gelu)
            off a forward pass of `batch`, and there a hand-written one is not seen. "forward" uses
            gain 1 in the first layer (no activation comes before it), "backward" in the last (none
            comes after).
        generator: torch.Generator on the model's device.
        factor: multiplies every layer's standard deviation, for instance `gain("relu")` to go with
            "orthogonal".
        dropout: probability of the inverted dropout in front of every layer but the first; their
            standard deviation is multiplied by sqrt(1 - dropout).
        std: the standard deviation for "normal".
        batch: `(inputs, targets)` for "lsuv", and for an activation that is a function.

    Returns:
        The model.

    Raises:
        ValueError: for an unknown scheme or activation, one that cannot be read off the model (none
            is seen, several are, or its gain is not known), a missing std or batch, and for a model
            without layers to initialize, all frozen, with lazy layers, or with weights that are
            computed from other parameters (weight_norm, spectral_norm, pruning). After any error
            the weights are as they were.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> model = hl.init_(hl.MLP(64, 64, 3, 10), "orthogonal", generator=generator)
        >>> weight = model.layers[0].weight
        >>> torch.allclose(weight @ weight.T, torch.eye(64), atol=1e-4)
        True
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    weights = list(drawn_weights(model).values())
    if not weights:
        raise ValueError(NO_LAYERS)
    if not any(each.weight.requires_grad for each in weights):
        raise ValueError("every weight of torch's layers is frozen: set requires_grad=True on some")
    check_generator(generator, weights[0].weight)
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"factor must be finite and positive, got {factor!r}")
    if scheme == "normal" and (std is None or not (math.isfinite(std) and std > 0)):
        raise ValueError(f"scheme 'normal' needs a positive standard deviation std=, got {std!r}")
    if scheme == "lsuv":
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise ValueError("scheme 'lsuv' needs batch=(inputs, targets), a pair")
        if any(not isinstance(each.layer, WEIGHT_LAYERS) for each in weights):
            known = "scheme 'lsuv' is for dense and convolutional layers"
            raise ValueError(f"{known}: take another for attention and recurrent ones")
    if activation is not None:
        activation_module(activation)  # refuses an unknown name, whatever the scheme
    g = 1.0
    if scheme in ("forward", "backward"):
        if activation is None and len(weights) > 1:  # else there is no between
            activation = activation_name(model, batch and _functions_called(model, batch[0]))
        g = gain(activation or "linear", scheme)
    dropped = 1.0 if dropout is None else dropout_factor(dropout)

    with torch.no_grad(), restored_on_error(model):
        if scheme == "lsuv":
            outputs = _look(model, batch[0])  # refuses a batch that does not fit
            if not bool(outputs.isfinite().all()):
                raise ValueError("the outputs are not finite: check the inputs")
        kept = token_tables(model) if scheme == "mup" else set()
        for index, each in enumerate(weights):
            if each.weight.requires_grad and each.weight not in kept:
                ungained = index == (0 if scheme == "forward" else len(weights) - 1)
                scale = factor * (dropped if index else 1.0)
                if scheme == "mup" and index == len(weights) - 1:
                    scale /= math.sqrt(each.fan_in)
                _draw_(each, scheme, 1.0 if ungained else g, scale, std, generator)
        if scheme == "lsuv":
            layers = [each.layer for each in weights if each.weight.requires_grad]
            _unit_output_variance_(model, layers, batch[0])
    return model


class _Names(TorchFunctionMode):
    """Collects the names of torch's functions that are called."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.found.add(getattr(function, "__name__", "").rstrip("_"))  # also of those in place
        return function(*args, **(kwargs or {}))


def _functions_called(model, inputs):
    """Names of functions that a forward pass calls; of a copy in eval mode: no trace is left."""
    twin = copy.deepcopy(model).eval()
    with _Names() as names:
        call(twin, inputs)
    return names.found


@contextlib.contextmanager
def restored_on_error(model):
    """Whatever is raised inside, Ctrl-C included: parameters and buffers are then as they were."""
    state = [*model.parameters(), *model.buffers()]
    before = [tensor.detach().clone() for tensor in state]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, old in zip(state, before):
                tensor.copy_(old)
        raise


def _draw_(each, scheme, g, scale, std, generator):
    """Draw one weight, part by part, and its biases."""
    if scheme in _VARIANCE:
        deviation = math.sqrt(_VARIANCE[scheme](each.fan_in, each.fan_out, g, std))
        each.weight.normal_(0.0, deviation * scale, generator=generator)
    elif scheme == "torch":
        each.weight.uniform_(-each.bound, each.bound, generator=generator).mul_(scale)
    elif scheme == "delta_orthogonal" and each.weight.ndim > 2:
        _delta_orthogonal_(each.layer, scale, generator)
    else:  # orthogonal, lsuv
        for part in each.weight.chunk(each.parts):
            nn.init.orthogonal_(part, gain=scale, generator=generator)
    for bias in each.biases:
        if scheme == "torch":
            bias.uniform_(-each.bias_bound, each.bias_bound, generator=generator)
        else:
            bias.zero_()


def _delta_orthogonal_(layer, scale, generator):
    """Algorithm 2 of Xiao et al. 2018 for every group of a convolution.

    An even kernel has no centre: the tap left of the middle is the one that reads a pixel's own
    place under torch's padding="same".
    """
    # [groups, out, in, kernel ...], or in before out
    for kernel in layer.weight.zero_().unflatten(0, (layer.groups, -1)):
        centre = tuple((size - 1) // 2 for size in kernel.shape[2:])
        nn.init.orthogonal_(kernel[(..., *centre)], gain=scale, generator=generator)


def _look(model, inputs):
    """The outputs, by a forward pass that leaves no trace."""
    with traceless(model, next(model.parameters()).device):
        return call(model, map_tensors(inputs, torch.clone))


def _unit_output_variance_(model, layers, inputs):
    """Scale each layer to unit output variance, in order, in one forward pass.

    A hook corrects a layer before the next one sees its output, so one pass is enough where each
    layer is called once. A layer whose output has no variance keeps its weights; where a bias is
    frozen the variance is about one.
    """

    def rescale(layer, args, output):  # biases are zero here, but for those that are frozen
        scale = (1 / output.std()).nan_to_num(nan=1.0, posinf=1.0)
        layer.weight.mul_(scale)
        frozen = layer.bias is not None and not layer.bias.requires_grad
        return layer.forward(*args) if frozen else output * scale

    hooks = [layer.register_forward_hook(rescale) for layer in layers]
    try:
        _look(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
