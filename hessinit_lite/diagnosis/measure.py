"""What a report measures: signal, gradient and curvature of every layer, and of the whole net."""

import contextlib
import copy
import math
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import nn

from ..autograd import call, map_tensors
from ..blocks import LayerBlock
from ..chain_rule import ESTIMATED_FROM, NORM_LAYERS, layer_blocks, layer_traces
from ..curvature import check_batch, check_pair, hessian
from ..losses import CrossEntropy, SquaredError, output_hessian
from ..many_classes import ROUNDS, ManyClassBlock
from ..models import matching, unsettled_batch_norms
from ..spectrum import gradient_quotient, top_eigenvalues, trace
from .adam import (
    AdamCurvature,
    curvature_density,
    first_step,
    mean_distance,
    parts_of,
    proposed_rate,
)
from .findings import Finding, listed

#: Layers that are known by products alone, about a hundred each: no more are measured unasked.
MOST = 48
#: Such a layer's trace is exact up to so many weights; beyond, products for each cost too much.
EXACT = 256


@dataclass
class LayerCurvature:
    """One weight; norm, trace, quotient: of its Gauss-Newton block, in loss per unit step².

    Example:
        >>> model, batch = hl.MLP(64, width=16, depth=3, out_features=10), hl.digits().batch(100)
        >>> found = hl.report(model, F.cross_entropy, batch, lr=1e3)
        >>> found.layers[0].kind, found.layers[0].shape
        ('Linear', (16, 64))
    """

    name: str
    kind: str  #: class of the layer
    shape: tuple
    std: float  #: standard deviation of the weights
    signal: float | None  #: root mean square of its outputs; None if not called as a module
    gradient: float  #: root mean square of dL/dW
    norm: float  #: largest eigenvalue in magnitude
    trace: float
    trace_error: float  #: standard error of the trace; 0 where it is exact
    quotient: float  #: ĝᵀHĝ for the weight's normalized gradient ĝ: the paper's "Hessian value"
    idle: float  #: share of the rows of the weight (units) that get no gradient at all


@dataclass
class Measurement:
    """All numbers of a report. Curvature in loss per unit step²."""

    model: str
    parameters: int
    samples: int
    device: str
    dtype: str
    loss: float
    chance: float | None  #: the loss of outputs that ignore the input; None if that is not known
    gradient_norm: float  #: of all trainable parameters together
    quotient: float  #: curvature along the gradient, gᵀHg / gᵀg
    eigenvalue: float  #: largest (algebraically) of the Hessian of all trainable parameters
    eigenvalue_bound: float  #: its residual: an eigenvalue lies within this distance
    variation: float  #: share of the outputs' root mean square that differs between samples
    extreme: float  #: the Hessian's eigenvalue of largest magnitude, with its sign
    zeros: list = field(repr=False)  #: weights that are exactly zero but have a gradient
    waking: list = field(repr=False)  #: layers without a gradient that a step of these gives one
    normed: bool = field(repr=False)  #: does the model have norms?
    layers: list = field(repr=False)
    notes: list = field(repr=False)  #: what measuring it met, as findings
    adam: AdamCurvature | None = field(repr=False)  #: what Adam meets; None for plain descent

    @property
    def best_step(self):
        """1/λ, the learning rate of gradient descent with the best guaranteed decrease."""
        return 1 / self.eigenvalue if self.eigenvalue > 0 else math.inf

    @property
    def stability_limit(self):
        """2/λ, the rate above which full-batch gradient descent runs away."""
        return 2 * self.best_step


def _batch_norms(model):
    return {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm)
    }


def settled(model, batch, passes):
    """A copy whose batch norms have seen the batch `passes` times, and a note that says so."""
    if not _batch_norms(model):
        return model, []
    model = copy.deepcopy(model).eval()
    for norm in _batch_norms(model).values():
        norm.train()
    inputs, _ = check_pair(to_model(batch, next(model.parameters())))
    with torch.no_grad():
        for _ in range(passes):
            call(model, inputs)
    return model, [
        Finding(
            "note",
            f"measured on a copy whose batch norm has averaged over {passes} passes of this batch",
        )
    ]


@contextlib.contextmanager
def as_it_was(model):
    """Afterwards modes and requires_grad are what they were, whatever happened inside.

    Flags are set one by one: `.eval()` of a module may do more, such as merging adapters.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for p, flag in flags:
            p.requires_grad_(flag)


def put_to_eval(model):
    """Eval mode, and notes on what that changes."""
    notes = []
    drops = [
        name
        for name, m in model.named_modules()
        if m.training
        and (
            isinstance(m, nn.modules.dropout._DropoutNd)
            and m.p > 0
            or isinstance(m, (nn.RNNBase, nn.MultiheadAttention))
            and m.dropout > 0
        )
    ]
    norms = _batch_norms(model)
    mixing = [name for name, m in norms.items() if m.training]
    fresh = unsettled_batch_norms(model)
    for module in model.modules():
        module.training = False
    if drops:
        notes.append(
            Finding(
                "note",
                f"dropout ({listed(drops)}) was in train mode: measured in eval mode, without it",
                "with dropout the curvature changes from call to call",
            )
        )
    if mixing:
        notes.append(
            Finding(
                "note",
                f"batch norm ({listed(mixing)}) was in train mode: measured in eval mode, "
                "with its running statistics",
            )
        )
    if fresh:
        notes.append(
            Finding(
                "warning",
                f"batch norm ({listed(fresh)}) has seen no batch: its running mean 0 and variance "
                "1 do not normalize anything, so this is not the curvature of training, and "
                "nothing else is said of it",
                "run a few batches through the model in train mode and ask again, or ask with "
                "settle=50",
            )
        )
    return notes


def short_name(dtype):
    """A dtype's name as it is said, "float32" and the like."""
    return str(dtype).removeprefix("torch.")


def _layer_name(parameter):
    return parameter.removesuffix(".weight") if parameter != "weight" else parameter


def _selected(trainable, layers):
    """Names of the weights to list; ValueError where a pattern fits none."""
    weights = [name for name, p in trainable.items() if p.ndim >= 2]
    if not weights:
        raise ValueError(
            "no trainable weight: the model needs a trainable parameter with two dimensions or "
            "more (set requires_grad=True on some)"
        )
    if layers is None:
        return weights
    wanted = set(matching([_layer_name(name) for name in weights], layers))
    return [name for name in weights if _layer_name(name) in wanted]


def _evenly(items, count):
    """`count` of the items, or all if fewer: first and last, and others evenly between."""
    if len(items) <= count:
        return items
    step = (len(items) - 1) / max(1, count - 1)
    return [items[round(step * i)] for i in range(count)]


def samples_of(names, most):
    """The set of at most `most` of the names, evenly from those alike but for their numbers."""
    kinds = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    chosen = _evenly(list(kinds.values()), most)
    return {name for kind in chosen for name in _evenly(kind, max(1, most // len(chosen)))}


def _parts(name, owner, weight, split):
    """[(label, number of parts)] of the projections that a weight's rows hold: mostly itself."""
    label = _layer_name(name)
    if isinstance(owner, nn.MultiheadAttention) and name.endswith("in_proj_weight"):
        return [(f"{label}.{which}", 3) for which in ("q", "k", "v")]
    for pattern, of in split.items():
        if label == pattern or fnmatchcase(label, pattern):
            if int(of) != of or of < 1 or len(weight) % of:
                raise ValueError(
                    f"{label} has {len(weight)} rows: they cannot be split into {of!r} equal parts"
                )
            return [
                (f"{label}.{which}" if of > 1 else label, of)
                for which in (("q", "k", "v") if of == 3 else range(of))
            ]
    return [(label, 1)]


def to_model(batch, like):
    """The batch on the model's device, floating-point parts in its dtype; no pair: as it is."""
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
        return batch
    return map_tensors(
        batch,
        lambda part: part.to(like.device, like.dtype if part.is_floating_point() else part.dtype),
    )


def _forward(model, loss_fn, batch, owners):
    """(outputs, loss, {module: mean squares of its outputs, one a call})."""
    squares = {module: [] for module in owners if next(module.children(), None) is None}

    def listen(module, _, output):
        output = output[0] if isinstance(output, tuple) else output
        if isinstance(output, torch.Tensor):
            squares[module].append(output.detach().square().mean())

    hooks = [module.register_forward_hook(listen) for module in squares]
    try:
        outputs, loss = check_batch(model, loss_fn, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, loss, squares


def _chance(loss_fn, outputs, targets):
    """The loss of the best outputs that are alike for all inputs and classes, if known."""
    kind = type(output_hessian(loss_fn, outputs, targets))
    if kind is CrossEntropy and not targets.is_floating_point():
        return math.log(outputs.shape[1])
    if kind is SquaredError:
        return float((targets - targets.mean(0)).square().mean())
    return None


def _eigenvalues(operator, rtol, generator):
    """(the eigenvalue of largest magnitude, the algebraically largest, the latter's residual)."""
    (value,), (bound,) = top_eigenvalues(operator, 1, rtol, generator, max_products=500)
    if value >= 0:
        return float(value), float(value), float(bound)
    (above,), (bound,) = top_eigenvalues(operator, 1, rtol, generator, max_products=500, which="LA")
    return float(value), float(above), float(bound)


def _waking(model, loss_fn, batch, trainable, gradients):
    """(names of weights that are zero but have a gradient, of those that a step of them wakes).

    A zero head, LoRA's B or a branch's zero factor hides what is behind it from the gradient, for
    one step. Biases hide nothing.
    """
    some = torch.stack(
        [torch.stack([p.any(), gradients[name].any()]) for name, p in trainable.items()]
    ).tolist()
    zeros = [
        name
        for name, (weight, gradient) in zip(trainable, some)
        if gradient and not weight and "bias" not in name.rpartition(".")[2]
    ]
    asleep = [name for name, (_, gradient) in zip(trainable, some) if not gradient]
    if not zeros or not asleep:
        return zeros, []
    with torch.no_grad():
        for name in zeros:
            step = gradients[name].view_as(trainable[name])
            trainable[name].sub_(step / step.abs().max())
    try:
        _, loss = check_batch(model, loss_fn, batch)
        found = torch.autograd.grad(loss, [trainable[name] for name in asleep], allow_unused=True)
    finally:
        with torch.no_grad():
            for name in zeros:
                trainable[name].zero_()
    awake = torch.stack(
        [torch.zeros_like(loss, dtype=torch.bool) if g is None else g.any() for g in found]
    ).tolist()
    return zeros, [name for name, wakes in zip(asleep, awake) if wakes]


def measure(model, loss_fn, batch, patterns, split, rtol, bar, optimizer):
    """A Measurement of a model in eval mode; arguments as `report`'s, `bar` a tqdm of its own.

    Gradients, flags and modes may be changed: call it inside `as_it_was`.
    """
    bar.set_description("gradient")
    notes = []
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    chosen = _selected(trainable, patterns)
    labels = list(map(_layer_name, chosen))
    for pattern in split:
        if pattern not in labels and not any(fnmatchcase(label, pattern) for label in labels):
            raise ValueError(f"no layer to split is called {pattern!r}; known: {', '.join(labels)}")
    like = trainable[chosen[0]]
    batch = to_model(batch, like)
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in chosen}
    outputs, loss, squares = _forward(model, loss_fn, batch, set(owners.values()))
    if not loss.requires_grad:
        raise ValueError(
            "the loss does not depend on any trainable parameter (is something detached, or "
            "computed under torch.no_grad()?)"
        )
    found = torch.autograd.grad(
        loss, list(trainable.values()), allow_unused=True, retain_graph=False
    )
    unused = [name for name, g in zip(trainable, found) if g is None]
    if unused:
        notes.append(
            Finding(
                "warning",
                f"the loss does not depend on {listed(unused)}: not listed",
                "use them in forward(), or freeze them (requires_grad=False); experts that no "
                "sample was sent to need a larger batch",
            )
        )
        for name in unused:
            trainable[name].requires_grad_(False)
        chosen = [name for name in chosen if name not in unused]
        if not chosen:
            raise ValueError(
                f"the loss does not depend on {listed(unused)}: nothing is left to measure"
            )

    # Fixed: the same model and batch give the same report.
    generator = torch.Generator(like.device).manual_seed(0)
    bar.set_description("largest eigenvalue")
    operator = hessian(model, loss_fn, batch)
    gradient = operator.gradient
    extreme, eigenvalue, bound = _eigenvalues(operator, rtol, generator)
    gradients = dict(
        zip(operator.names, gradient.split([trainable[name].numel() for name in operator.names]))
    )
    overall = torch.stack(
        [loss.detach(), torch.linalg.vector_norm(gradient), gradient_quotient(operator, gradient)]
    ).tolist()
    operator_names, adam = operator.names, optimizer != "sgd"
    if adam:
        bar.set_description("Adam's first step")
        sharpness, critical, found = first_step(model, loss_fn, batch, operator, generator)
        notes += found
    del operator  # its graph

    zeros, waking = _waking(
        model, loss_fn, batch, {n: trainable[n] for n in operator_names}, gradients
    )
    bar.set_description("factors of layers")
    blocks = layer_blocks(model, loss_fn, batch, parameters="all", layers=chosen)
    most = samples_of(chosen, MOST) if patterns is None else chosen
    taken = [name for name in chosen if name in most or isinstance(blocks[name], LayerBlock)]
    pieces = {name: _parts(name, owners[name], trainable[name], split) for name in taken}
    many = {name for name in taken if isinstance(blocks[name], ManyClassBlock)}
    together = [name for name in many if blocks[name].is_large and len(pieces[name]) == 1]
    rows, densities, parts = {}, [], []
    bar.reset(len(taken))
    for name in taken:
        bar.set_description(f"layers: {name}")
        whole = blocks.pop(name)  # what has been measured needs no memory
        for part, (label, of) in enumerate(pieces[name]):
            block = whole if of == 1 else whole.rows(part, of)
            g, weight = gradients[name].chunk(of)[part], trainable[name].detach().chunk(of)[part]
            exact = isinstance(whole, LayerBlock) or block.shape[0] <= EXACT
            if name in together:  # all of them at once, below
                total = error = torch.zeros_like(loss)
            elif exact and not block.is_large:
                total, error = block.trace(), torch.zeros_like(loss)
            else:
                products = ROUNDS[0] if name in many else ESTIMATED_FROM
                total, error = trace(block, products, generator)
            idle = (g.view_as(weight).flatten(1) == 0).all(1).to(g.dtype).mean()
            if adam:
                densities.append(curvature_density(block, generator))
            numbers = (
                weight.std(correction=0),
                g.square().mean().sqrt(),
                block.norm(),
                total,
                error,
                block.quotient(g),
                idle,
            )
            rows[label] = torch.stack([number.double() for number in numbers])
            parts.append((name, label, of))
        del whole, block
        bar.update()
    left = [name for name in chosen if name not in taken]
    if left:
        notes.append(
            Finding(
                "note",
                f"{listed(map(_layer_name, left))} not measured: {len(chosen)} layers are many, "
                f"these are known by products alone, and {MOST} of their kinds were taken",
                'ask for them by name: layers=["' + _layer_name(left[0]) + '"]',
            )
        )
    table = dict(zip(rows, torch.stack(list(rows.values())).tolist()))  # to the host in one go
    if together:
        bar.set_description("traces of layers")
        blocks.clear()  # the last of them holds a graph, and the columns need one of their own
        for name, total in layer_traces(model, loss_fn, batch, "all", together).items():
            table[pieces[name][0][0]][3:5] = total, total.error
    measured = []
    for name, label, of in parts:
        std, slope, norm, total, error, quotient, idle = table[label]
        calls, shape = squares.get(owners[name]), trainable[name].shape
        measured.append(
            LayerCurvature(
                label,
                type(owners[name]).__name__,
                (shape[0] // of, *shape[1:]),
                std,
                float(torch.stack(calls).mean().sqrt()) if calls else None,
                slope,
                norm,
                total,
                error,
                quotient,
                0.0 if isinstance(owners[name], nn.Embedding) else idle,
            )
        )

    outputs, chance = outputs.detach(), _chance(loss_fn, outputs, batch[1])
    if outputs.ndim > 2:  # every place is a sample
        outputs = outputs.movedim(1, -1).flatten(0, -2)
    varying = (
        (outputs - outputs.mean(0)).square().mean() / outputs.square().mean().clamp(min=1e-30)
    ).sqrt()
    loss, gradient_norm, quotient = overall
    if adam:
        sizes = {layer.name: layer.norm for layer in measured}
        spans = {
            part: (min(sizes[name] for name in names), max(sizes[name] for name in names))
            for part, names in parts_of(measured).items()
        }
        distance = mean_distance([d for d in densities if d.sum() > 0])
        moved = [p for p in trainable.values() if p.requires_grad and p.ndim >= 2]
        rate = proposed_rate(critical, moved, loss, chance)
        adam = AdamCurvature(sharpness, critical, rate, distance, spans)
    return Measurement(
        model=type(model).__name__,
        parameters=sum(p.numel() for p in trainable.values() if p.requires_grad),
        samples=len(batch[1]),
        device=str(like.device),
        dtype=short_name(like.dtype),
        loss=loss,
        chance=chance,
        gradient_norm=gradient_norm,
        quotient=quotient,
        eigenvalue=eigenvalue,
        eigenvalue_bound=bound,
        variation=float(varying),
        extreme=extreme,
        zeros=[_layer_name(name) for name in zeros],
        waking=sorted(label for name, label, _ in parts if name in waking),
        normed=any(isinstance(m, NORM_LAYERS) for m in model.modules()),
        layers=measured,
        notes=notes,
        adam=adam or None,
    )
