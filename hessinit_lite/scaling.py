"""Scaling with width and depth: learning rates that go with a width, factors on residual branches.

A net's width is what grows while its inputs and outputs stay. How a weight's rate must follow is
read off its shape, beside the shape that it has in a narrower `base` net of the same kind: fan_in
and fan_out are multiplied by r_in and r_out, 1 where that side does not grow.
"""

import math

import torch
from torch import nn

from .models import WEIGHT_LAYERS, matching, original, refuse_computed, token_tables, weight_layers
from .schemes import fans

#: {optimizer: multiplier of a parameter's rate}
_MULTIPLIERS = {"sgd": lambda r_in, r_out: r_out / r_in, "adam": lambda r_in, r_out: 1 / r_in}
#: {name: factor on each of L branches}, for `scale_branches_`.
BRANCHES = {
    "1/sqrt(L)": lambda branches: 1 / math.sqrt(branches),
    "1/L": lambda branches: 1 / branches,
    "zero": lambda branches: 0.0,
}


def mup_groups(model, base, lr, optimizer="sgd"):
    """Parameter groups whose learning rates follow the width as μP says, for torch's optimizers.

    Yang et al. 2022 (arXiv 2203.03466, table 3): with weights from `init_(model, "mup")`, or any
    with the same powers of the width, a rate that is good for `base` is good for `model`. In words
    of r_in and r_out (see above) the rates are multiplied by

    - "sgd": r_out / r_in. Input weights and biases learn faster with the width, output weights
      slower, hidden ones as they did;
    - "adam" (AdamW, and other optimizers whose steps do not follow the gradient's size): 1 / r_in.

    An embedding is an input weight (its input is one-hot: r_in = 1), and so are the weight and bias
    of a norm, and a parameter [1, places, width] or [1, 1, width] that is added to every sample.
    Other parameters that are of no layer of torch are read as [fan_out, fan_in, ...]: a bare
    [places, width] would pass for output weights, so make it an `nn.Embedding`; and matrices in one
    stack, [experts, in, out], are refused.

    A weight that embedding and head share is an input weight, too; μP then wants the net to divide
    its outputs by r_in of the head, as `GPT(output_scale=)` does. Attention's scores are to be
    divided by the head's size, not its root, where that size grows: that is the model's own
    business. The table is silent on momentum (keep it) and on AdamW's weight decay, which torch
    multiplies by the group's rate.

    Args:
        model: the net to train.
        base: the same net at the width at which `lr` was chosen; only its shapes are looked at.
        lr: the rate that was good there.
        optimizer: "sgd" or "adam".

    Returns:
        A list of dicts `{"params": [...], "lr": ...}`, one for each different rate, in the order of
        `model.named_parameters()`; frozen parameters are left out.

    Raises:
        TypeError: if one of the two is no module.
        ValueError: for an unknown optimizer, a rate that is not positive, a model whose parameters
            are not those of `base` by name, number of axes and kernel, or one that is all frozen.

    Example:
        >>> narrow, wide = (hl.MLP(64, width, 3, 10) for width in (64, 256))
        >>> groups = hl.mup_groups(wide, narrow, lr=0.1)
        >>> [(group["lr"], len(group["params"])) for group in groups]
        [(0.4, 3), (0.1, 2), (0.025, 1)]
        >>> optimizer = torch.optim.SGD(groups, momentum=0.9)
    """
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr must be finite and positive, got {lr!r}")
    multipliers = width_multipliers(model, base, optimizer)
    groups = {}
    for name, parameter in original(model).named_parameters():
        if parameter.requires_grad:
            groups.setdefault(multipliers[name], []).append(parameter)
    if not groups:
        raise ValueError("every parameter is frozen: set requires_grad=True on some")
    return [{"params": group, "lr": lr * multiplier} for multiplier, group in groups.items()]


def width_multipliers(model, base, optimizer="sgd"):
    """{name of a parameter: what `mup_groups` multiplies its rate by}; errors as there.

    With M their diagonal matrix, steps of gradient descent are stable up to 2 over the largest
    eigenvalue of M^½ H M^½.

    Example:
        >>> narrow, wide = (hl.MLP(64, width, 2, 10, bias=False) for width in (64, 256))
        >>> hl.width_multipliers(wide, narrow)
        {'layers.0.weight': 4.0, 'layers.1.weight': 0.25}
    """
    if optimizer not in _MULTIPLIERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; known: {', '.join(_MULTIPLIERS)}")
    wide, narrow = _fans_of_parameters(model), _fans_of_parameters(base)
    axes = [{name: found[2] for name, found in each.items()} for each in (wide, narrow)]
    differ = sorted(name for name, _ in axes[0].items() ^ axes[1].items())
    if differ:
        raise ValueError(
            f"base is no narrower copy of the model: {differ[0]!r} is not in both, has another "
            "number of axes, or grows in a third one: matrices in a stack must be layers, one each"
        )
    return {
        name: _MULTIPLIERS[optimizer](*(a / b for a, b in zip(wide[name][:2], narrow[name][:2])))
        for name in wide
    }


def _fans_of_parameters(model):
    """{name: (fan_in, fan_out, axes)} of all parameters; the fans of vectors are (1, size).

    So are those of what is added to every sample, [1, places, width] or [1, 1, width]. What else
    has two or more axes and belongs to no known layer is read as [fan_out, fan_in, kernel].
    """
    model = original(model)
    tables = token_tables(model)
    found = {}
    for name, parameter in model.named_parameters():
        layer = model.get_submodule(name.rpartition(".")[0])
        added = parameter.ndim > 2 and len(parameter) == 1 and not name.endswith("weight")
        kernel = () if added or isinstance(layer, nn.Bilinear) else parameter.shape[2:]
        if parameter.ndim < 2 or added:
            pair = (1, parameter.numel())
        elif parameter in tables:
            pair = (1, parameter.shape[1])
        elif isinstance(layer, WEIGHT_LAYERS) and name.endswith("weight"):
            pair = fans(layer)
        else:
            pair = (parameter[0].numel(), parameter.shape[0])
        found[name] = (*pair, (parameter.ndim, kernel))
    return found


def scale_branches_(model, layers, factor):
    """Multiply the last layer of every residual branch, weight and bias, in place.

    L in the factor's name is the number of layers that match, one a branch:

    - "1/sqrt(L)": the signal of z + branch stays bounded at any depth (Hayou et al. 2021). GPT-2
      does so to the layers that end its attentions and its MLPs (Radford et al. 2019), 2 a block;
    - "1/L": at its start the net is that of CompleteP (Dey et al. 2025, arXiv 2505.01618), which
      has the factor in the forward pass, where it acts on training, too. For the same training
      with the factor in the weights, multiply these layers' rates by factor² (SGD) or by factor
      (Adam);
    - "zero": the branches start at zero, as the last layers of the small-GPT speed runs do (and
      Fixup: Zhang et al. 2019). Their own gradients are not zero; those of the layers before them
      are, at the first step.

    Args:
        layers: names or patterns of the layers, such as ("*.attention.out", "*.mlp.down").
        factor: a name in `BRANCHES`, or a number.

    Returns:
        The names of the layers that were scaled.

    Raises:
        TypeError: if `model` is no module.
        ValueError: for a pattern that fits no dense or convolutional layer, one that is frozen
            (weight or bias) or whose weight is computed from others, or a factor that is not finite
            or unknown; the weights are then as they were.

    Example:
        >>> model = hl.TinyTransformer(3, width=8, depth=2, heads=2, classes=5)
        >>> hl.scale_branches_(model, ("blocks.*.out", "blocks.*.down"), "zero")
        ['blocks.0.attention.out', 'blocks.0.down', 'blocks.1.attention.out', 'blocks.1.down']
    """
    known = weight_layers(model)
    chosen = matching(known, layers)
    for name in chosen:
        refuse_computed(name, known[name])
        if not all(p.requires_grad for p in known[name].parameters(recurse=False)):
            raise ValueError(f"{name!r} is frozen: set requires_grad=True, or leave it out")
    if isinstance(factor, str):
        if factor not in BRANCHES:
            raise ValueError(f"unknown factor {factor!r}; known: {', '.join(BRANCHES)}, a number")
        factor = BRANCHES[factor](len(chosen))
    if not math.isfinite(factor):
        raise ValueError(f"factor must be finite, got {factor!r}")
    with torch.no_grad():
        for parameter in {p for name in chosen for p in known[name].parameters(recurse=False)}:
            parameter.mul_(factor)  # once, however many layers share it
    return chosen
