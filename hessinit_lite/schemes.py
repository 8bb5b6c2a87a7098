"""Initialization schemes: how to draw the first weights.

Every scheme draws zero-mean weights with Var w = g²/fan and sets biases to zero; they differ in g
and in the fan. `init_` checks everything before it touches a weight.
"""

import math

import torch
from torch import nn

from .models import activation_module, activation_name, check_generator, weight_layers
from .variance import dropout_factor, gain

SCHEMES = {
    "lecun": "normal, Var w = 1/fan_in (LeCun et al. 1998)",
    "glorot": "normal, Var w = 2/(fan_in + fan_out) (Glorot & Bengio 2010, eq. 12)",
    "he": "normal, Var w = 2/fan_in (He et al. 2015, eq. 10), whatever the activation",
    "forward": "normal, Var w = g²/fan_in, g the activation's forward gain",
    "backward": "normal, Var w = g²/fan_out, g the activation's backward gain",
    "orthogonal": "random orthogonal rows or columns (Saxe et al. 2014)",
    "delta_orthogonal": "convolutions: zero but for an orthogonal matrix at the kernel's centre "
                        "(Xiao et al. 2018); dense layers: orthogonal",
    "torch": "what torch's own layers start with: uniform, Var w = 1/(3 fan_in), random biases",
    "normal": "normal with the standard deviation std=, the same in every layer",
    "lsuv": "orthogonal, then each layer scaled to unit output variance on batch= "
            "(Mishkin & Matas 2016)",
}


def fans(layer):
    """(fan_in, fan_out) of a dense or convolutional layer with weight [out, in / groups, kernel ...].

    How many weights each output adds up, and how many outputs each input goes to (stride 1): inputs
    and outputs of a group times the kernel's size. torch's own count of fan_out leaves the groups out.
    """
    weight, groups = layer.weight, getattr(layer, "groups", 1)
    kernel = weight[0, 0].numel()
    return weight.shape[1] * kernel, weight.shape[0] // groups * kernel


def init_(model, scheme, activation=None, generator=None, *, factor=1.0, dropout=None, std=None,
          batch=None):
    """Draw the weights of all dense and convolutional layers of `model` in place.

    model: torch.nn.Module. Weights stay on its device and in its dtype.
    scheme: one of SCHEMES. "orthogonal" reads a convolution's weight as one matrix
        [out, in · kernel], as torch does, and that keeps no norms; "delta_orthogonal" keeps them
        exactly, group by group, at stride 1 with "same" or circular padding. Where a layer narrows
        (out < in) no matrix keeps the norms of all inputs: rows are then orthonormal, which keeps
        those of gradients instead.
    activation: name of the activation between the layers; read off the model if None. Only
        "forward" and "backward" depend on it. "forward" uses gain 1 in the first layer (no
        activation comes before it), "backward" in the last (none comes after).
    generator: torch.Generator on the model's device.
    factor: multiplies every layer's standard deviation, for instance `gain("relu")` to go
        with "orthogonal".
    dropout: probability of the inverted dropout in front of every layer but the first; their
        standard deviation is multiplied by sqrt(1 - dropout).
    std: the standard deviation for "normal". batch: `(inputs, targets)` for "lsuv".

    Returns the model. Raises ValueError for an unknown scheme or activation, a model without
    layers to initialize or with lazy ones, a missing std or batch; weights are then as they were.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    layers = list(weight_layers(model).values())
    check_generator(generator, layers[0].weight)
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"factor must be finite and positive, got {factor!r}")
    if scheme == "normal" and (std is None or not (math.isfinite(std) and std > 0)):
        raise ValueError(f"scheme 'normal' needs a positive standard deviation std=, got {std!r}")
    if scheme == "lsuv" and batch is None:
        raise ValueError("scheme 'lsuv' needs batch=(inputs, targets)")
    if activation is not None:
        activation_module(activation)  # refuses an unknown name, whatever the scheme
    sizes = [fans(layer) for layer in layers]  # refuses lazy layers
    if scheme == "lsuv":
        with torch.no_grad():
            model(batch[0])  # refuses a batch that does not fit
    g = 1.0
    if scheme in ("forward", "backward"):
        g = gain(activation or activation_name(model), scheme)
    dropped = 1.0 if dropout is None else dropout_factor(dropout)

    for index, (layer, (fan_in, fan_out)) in enumerate(zip(layers, sizes)):
        ungained = index == (0 if scheme == "forward" else len(layers) - 1)
        deviation = {
            "lecun": 1 / math.sqrt(fan_in),
            "glorot": math.sqrt(2 / (fan_in + fan_out)),
            "he": math.sqrt(2 / fan_in),
            "forward": (1.0 if ungained else g) / math.sqrt(fan_in),
            "backward": (1.0 if ungained else g) / math.sqrt(fan_out),
            "normal": std,
        }
        scale = factor * (dropped if index else 1.0)
        bound = 1 / math.sqrt(fan_in)  # torch's Linear and Conv: U(-bound, bound), biases too
        with torch.no_grad():
            if scheme in deviation:
                layer.weight.normal_(0.0, deviation[scheme] * scale, generator=generator)
            elif scheme == "torch":
                layer.weight.uniform_(-bound, bound, generator=generator).mul_(scale)
            elif scheme == "delta_orthogonal" and layer.weight.ndim > 2:
                _delta_orthogonal_(layer, scale, generator)
            else:  # orthogonal, lsuv
                nn.init.orthogonal_(layer.weight, gain=scale, generator=generator)
            if layer.bias is not None:
                if scheme == "torch":
                    layer.bias.uniform_(-bound, bound, generator=generator)
                else:
                    layer.bias.zero_()
    if scheme == "lsuv":
        _unit_output_variance_(model, layers, batch[0])
    return model


def _delta_orthogonal_(layer, scale, generator):
    """Algorithm 2 of Xiao et al. 2018 for every group of a convolution.

    An even kernel has no centre: the tap left of the middle is the one that reads a pixel's own
    place under torch's padding="same".
    """
    layer.weight.zero_()
    groups = layer.weight.unflatten(0, (layer.groups, -1))  # [groups, out, in, kernel ...]
    for kernel in groups:
        centre = tuple((size - 1) // 2 for size in kernel.shape[2:])
        nn.init.orthogonal_(kernel[(..., *centre)], gain=scale, generator=generator)


def _unit_output_variance_(model, layers, inputs):
    """Scale each layer to unit output variance, in order, in one forward pass.

    A hook corrects a layer before the next one sees its output, so one pass is enough where each
    layer is called once. A layer whose output has no variance keeps its weights.
    """
    def rescale(layer, _, output):  # biases are zero here
        deviation = output.std()
        scale = torch.where(deviation > 0, 1 / deviation, torch.ones_like(deviation))
        layer.weight.mul_(scale)
        return output * scale

    hooks = [layer.register_forward_hook(rescale) for layer in layers]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
