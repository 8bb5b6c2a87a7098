"""A curvature report: what a model's curvature says about how it will train, layer by layer.

One forward pass for the signals, one set of factors for the Gauss-Newton blocks (`chain_rule`), and
Lanczos on the Hessian of all weights for the learning rate. The model is left as it was.
"""

import contextlib
import copy
import html
import math
import textwrap
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import nn
from tqdm.auto import tqdm

from .chain_rule import ESTIMATED_FROM, NORM_LAYERS, layer_blocks
from .curvature import call, check_batch, hessian, map_tensors
from .explore import Explorable, _draw
from .figures import BLUE, GREEN, ORANGE, PURPLE, SKY, _axes
from .losses import closed_form
from .models import matching, original, unsettled_batch_norms
from .spectrum import gradient_quotient, top_eigenvalues, trace

#: A layer whose norm is below this share of the whole Hessian's hardly moves at any stable learning
#: rate: an error along an eigenvector of curvature h shrinks by 1 − ηh a step, and η < 2/λ.
SLOW = 1e-4
#: A net whose outputs differ between samples by a smaller share of their size has lost its signal. Its λ
#: is small for that reason and grows once training brings the signal back. Dense ReLU nets that were looked
#: at have 0.3 or more from He's rule or hessian_init_, at most 0.1 from torch's default at depth 5 or more.
#: Nets with norms are not judged by it: a vision Transformer starts with less, and trains.
VARIES = 0.15
SPAN = 1e3  #: norms or signals whose largest and smallest differ by more are worth a warning


@dataclass
class LayerCurvature:
    """One weight. norm, trace, quotient: of its Gauss-Newton block, in loss per unit step²."""

    name: str
    kind: str            #: class of the layer
    shape: tuple
    std: float           #: standard deviation of the weights
    signal: float | None  #: root mean square of the layer's outputs; None if it is not called as a module
    gradient: float      #: root mean square of dL/dW
    norm: float          #: largest eigenvalue in magnitude
    trace: float
    trace_error: float   #: standard error of the trace; 0 where it is exact
    quotient: float      #: ĝᵀHĝ for the weight's normalized gradient ĝ: the paper's "Hessian value"
    idle: float          #: share of the rows of the weight (units) that get no gradient at all


@dataclass
class Finding:
    """One observation in plain words, and what to do about it. level: problem, warning or note."""

    level: str
    text: str
    advice: str = ""


@dataclass
class CurvatureReport:
    """What `report` measured. `print` it, take its `.figure()` or `.to_dict()`; a notebook shows both."""

    model: str
    parameters: int
    samples: int
    device: str
    dtype: str
    loss: float
    chance: float | None        #: the loss of outputs that ignore the input; None if that is not known
    gradient_norm: float        #: of all trainable parameters together
    quotient: float             #: curvature along the gradient, gᵀHg / gᵀg
    eigenvalue: float           #: largest (algebraically) of the Hessian of all trainable parameters
    eigenvalue_bound: float     #: its residual: an eigenvalue lies within this distance
    variation: float            #: share of the outputs' root mean square that differs between samples
    layers: list = field(default_factory=list, repr=False)
    findings: list = field(default_factory=list, repr=False)

    @property
    def best_step(self):
        """1/λ: the learning rate of gradient descent with the best guaranteed decrease of the loss."""
        return 1 / self.eigenvalue if self.eigenvalue > 0 else math.inf

    @property
    def stability_limit(self):
        """2/λ: above it, full-batch gradient descent runs away along the steepest direction."""
        return 2 * self.best_step

    def _head(self):
        chance = "" if self.chance is None else f" (ignoring the input: {self.chance:.4g})"
        return [
            f"{self.model}: {self.parameters:,} trainable parameters, {self.samples} samples, "
            f"{self.device}, {self.dtype}",
            f"loss {self.loss:.4g}{chance}; gradient norm {self.gradient_norm:.3g}; curvature along the "
            f"gradient {self.quotient:.3g}",
            f"largest eigenvalue λ of the Hessian {self.eigenvalue:.4g} ± {self.eigenvalue_bound:.1g}",
            f"learning rate of plain gradient descent: best guarantee 1/λ = {self.best_step:.3g}, "
            f"stability limit 2/λ = {self.stability_limit:.3g}",
        ]

    _COLUMNS = ("#", "layer", "kind", "shape", "weight std", "signal", "gradient", "norm", "trace", "quotient")
    _UNITS = ("signal: rms of the layer's outputs; gradient: rms of dL/dW; norm, trace, quotient along the "
              "gradient: of the layer's Gauss-Newton block, in loss per unit step² (~: estimated)")

    def _rows(self):
        for number, layer in enumerate(self.layers, 1):
            yield (str(number), layer.name, layer.kind, "×".join(map(str, layer.shape)), f"{layer.std:.3g}",
                   "–" if layer.signal is None else f"{layer.signal:.3g}", f"{layer.gradient:.3g}",
                   f"{layer.norm:.3g}", ("~" if layer.trace_error else "") + f"{layer.trace:.3g}",
                   f"{layer.quotient:.3g}")

    def __str__(self):
        table = [self._COLUMNS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*table)]
        findings = []
        lines = ["  ".join(cell.ljust(width) if 0 < i < 4 else cell.rjust(width)
                           for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in table]
        for f in self.findings:
            findings += textwrap.wrap(f"{f.level}: {f.text}", 100, subsequent_indent="    ")
            findings += textwrap.wrap(f.advice, 100, initial_indent="    -> ", subsequent_indent="       ")
        return "\n".join([*self._head(), "", *lines, "", *textwrap.wrap(self._UNITS, 100), "", *findings])

    def figure(self):
        """Curvature, signal and gradient of every layer.

        A matplotlib Figure with logarithmic axes; numbers that are 0 or not known are left out.
        """
        figure, (left, right) = _axes(2, height=3.4)
        numbers = range(1, len(self.layers) + 1)
        for axes, series in ((left, (("norm", BLUE, "o"), ("trace", ORANGE, "s"), ("quotient", GREEN, "^"))),
                             (right, (("signal", SKY, "o"), ("gradient", PURPLE, "s")))):
            for name, color, marker in series:
                values = [getattr(layer, name) or math.nan for layer in self.layers]
                axes.plot(numbers, [v if v > 0 else math.nan for v in values], marker + "-", color=color,
                          markersize=4, label=name)
            axes.set_yscale("log")
            axes.minorticks_off()  # half of the drawing time
            axes.set_xlabel("layer (number in the table)")
            axes.xaxis.get_major_locator().set_params(integer=True)
        if self.eigenvalue > 0:
            left.axhline(self.eigenvalue, color="black", linewidth=0.8, linestyle=":",
                         label="λ of all weights")
        left.set(title="curvature of the layers", ylabel="Gauss-Newton block\n(loss per unit step²)")
        right.set(title="signal and gradient", ylabel="root mean square")
        handles, labels = (a + b for a, b in zip(left.get_legend_handles_labels(),
                                                 right.get_legend_handles_labels()))
        figure.legend(handles, labels, loc="outside lower left", ncols=6, frameon=False, fontsize=9,
                      columnspacing=1.2, handletextpad=0.4)
        return figure

    def to_dict(self):
        """Everything as plain values for JSON; what is not finite becomes None."""
        def plain(value):
            if isinstance(value, float):
                return value if math.isfinite(value) else None
            if isinstance(value, dict):
                return {key: plain(each) for key, each in value.items()}
            return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value

        return plain({**asdict(self), "best_step": self.best_step, "stability_limit": self.stability_limit})

    def _repr_mimebundle_(self, include=None, exclude=None):
        drawing = self._drawing()._repr_mimebundle_()
        return {"text/html": self._html(drawing["text/html"]), "image/png": drawing["image/png"],
                "text/plain": str(self)}

    def _repr_html_(self):
        return self._repr_mimebundle_()["text/html"]

    def _drawing(self):
        """The figure as an explorable without sliders: its text follows the page's light or dark theme."""
        def draw(view):
            """Curvature, signal and gradient of every layer."""
            return self.figure()

        shown = {"view": "report"}
        return Explorable(draw, {"view": ["report"]}, shown, [_draw(draw, shown, "svg")])

    def _html(self, picture):
        cell = 'style="text-align:right; padding:0.1em 0.6em"'
        head = "".join(f'<th scope="col" {cell}>{name}</th>' for name in self._COLUMNS)
        rows = "".join("<tr>" + "".join(f"<td {cell}>{html.escape(value)}</td>" for value in row) + "</tr>\n"
                       for row in self._rows())
        findings = "".join(f"<li><strong>{f.level}:</strong> {html.escape(f.text)}"
                           + (f"<br>→ <em>{html.escape(f.advice)}</em>" if f.advice else "") + "</li>\n"
                           for f in self.findings)
        return (
            '<div class="hessinit-report">\n<p>' + "<br>\n".join(map(html.escape, self._head())) + "</p>\n"
            '<div role="region" aria-label="curvature by layer" tabindex="0" style="overflow-x:auto">\n'
            f'<table style="font-size:0.85em">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n'
            f"</table>\n</div>\n<p><small>{html.escape(self._UNITS)}</small></p>\n<ul>\n{findings}</ul>\n"
            f"{picture}\n</div>")


def report(model, loss_fn, batch, *, layers=None, split=None, lr=None, optimizer="sgd", settle=0, rtol=1e-3,
           progress=False):
    """Measure the curvature of `model` on a batch and say what it means: a CurvatureReport.

    model: torch.nn.Module; weights, gradients, modes and hooks are left as they are. It is measured in
        eval mode (the report says so where that matters); a half-precision model as a float32 copy.
    loss_fn(outputs, targets): a mean over the batch; batch: `(inputs, targets)`, moved to the model's
        device and, where they are floating-point, to its dtype; outputs as `check_batch` takes them.
    layers: names of layers, or patterns such as "blocks.*", if not all are to be listed: a big model
        then needs less time and memory. The Hessian is that of all trainable parameters, anyway.
    split: {pattern: parts} for weights whose rows are several projections, {"*.qkv": 3}: each part is then
        listed as a layer of its own. torch's attention is split into queries, keys and values anyway.
    lr: a learning rate to judge, for the optimizer "sgd"; for "adam" and "adamw", whose steps are
        rescaled weight by weight, 2/λ says nothing, and the report says so.
    settle: passes of the batch through a copy whose batch norm is in train mode, before it is measured.
        A fresh batch norm has averages that do not normalize, and curvature that is not that of training.
    rtol: of the eigenvalue's residual. progress: show a bar.

    A layer is a trainable parameter with two dimensions or more. Its norm and trace are exact
    (`layer_norms`, `layer_traces`), but for weights that `layer_blocks` has no factors of (such as
    those of attention and recurrent layers in torch.nn) and that have more than 2,048 entries: their
    traces are estimated from 64 products, with a standard error.

    Raises what `check_batch` raises, and ValueError for no trainable weight, for patterns that fit none
    or an empty list of them, an lr that is not positive, an unknown optimizer, a negative settle, or a
    path that cannot be differentiated twice.
    """
    model = original(model)
    if lr is not None and not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr must be finite and positive, got {lr!r}")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; known: {', '.join(OPTIMIZERS)}")
    if int(settle) != settle or settle < 0:
        raise ValueError(f"settle must be a whole number of passes, got {settle!r}")
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    notes = []
    if dtypes & {torch.float16, torch.bfloat16}:
        model = copy.deepcopy(model).float()
        half = _short(min(dtypes, key=str))
        notes.append(Finding("note", f"the weights are {half}: measured on a float32 copy"))
    if settle:
        model, settled = _settled(model, batch, settle)
        notes += settled
    with _as_it_was(model):
        notes += _put_to_eval(model)
        return _measure(model, loss_fn, batch, layers, split or {}, lr, optimizer, rtol, progress, notes)


OPTIMIZERS = ("sgd", "adam", "adamw")


def _short(dtype):
    return str(dtype).removeprefix("torch.")


def _batch_norms(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


def _settled(model, batch, passes):
    """A copy whose batch norms have seen the batch `passes` times, and a note that says so."""
    if not _batch_norms(model):
        return model, []
    model = copy.deepcopy(model).eval()
    for norm in _batch_norms(model).values():
        norm.train()
    inputs = _to_model(batch, next(model.parameters()))[0]
    with torch.no_grad():
        for _ in range(passes):
            call(model, inputs)
    return model, [Finding("note", f"measured on a copy whose batch norm has averaged over {passes} passes of "
                           "this batch")]


@contextlib.contextmanager
def _as_it_was(model):
    """Afterwards modes and requires_grad are what they were, whatever happened inside.

    Flags are set one by one: `.eval()` of a module may do more, such as merging adapters into weights.
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


def _put_to_eval(model):
    """Eval mode, and notes on what that changes."""
    notes = []
    drops = [name for name, m in model.named_modules() if m.training and (
        isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0
        or isinstance(m, (nn.RNNBase, nn.MultiheadAttention)) and m.dropout > 0)]
    norms = _batch_norms(model)
    mixing = [name for name, m in norms.items() if m.training]
    fresh = unsettled_batch_norms(model)
    for module in model.modules():
        module.training = False
    if drops:
        notes.append(Finding("note", f"dropout ({_names(drops)}) was in train mode: measured in eval mode, "
                             "without it", "with dropout the curvature changes from call to call"))
    if mixing:
        notes.append(Finding("note", f"batch norm ({_names(mixing)}) was in train mode: measured in eval mode, "
                             "with its running statistics"))
    if fresh:
        notes.append(Finding(
            "warning", f"batch norm ({_names(fresh)}) has seen no batch: its running mean 0 and variance 1 do "
            "not normalize anything, so this is not the curvature of training, and nothing else is said of it",
            "run a few batches through the model in train mode and ask again, or ask with settle=50"))
    return notes


def _names(names, most=4):
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _layer_name(parameter):
    return parameter.removesuffix(".weight") if parameter != "weight" else parameter


def _selected(trainable, layers):
    """Names of the weights to list; ValueError where a pattern fits none."""
    weights = [name for name, p in trainable.items() if p.ndim >= 2]
    if not weights:
        raise ValueError("no trainable weight: the model needs a trainable parameter with two dimensions or "
                         "more (set requires_grad=True on some)")
    if layers is None:
        return weights
    wanted = set(matching([_layer_name(name) for name in weights], layers))
    return [name for name in weights if _layer_name(name) in wanted]


def _parts(name, owner, weight, split):
    """[(label, number of parts)] of the projections that a weight's rows hold: mostly one, itself."""
    label = _layer_name(name)
    if isinstance(owner, nn.MultiheadAttention) and name.endswith("in_proj_weight"):
        return [(f"{label}.{which}", 3) for which in ("q", "k", "v")]
    for pattern, of in split.items():
        if fnmatchcase(label, pattern):
            if int(of) != of or of < 1 or len(weight) % of:
                raise ValueError(f"{label} has {len(weight)} rows: they cannot be split into {of!r} equal parts")
            return [(f"{label}.{which}" if of > 1 else label, of)
                    for which in (("q", "k", "v") if of == 3 else range(of))]
    return [(label, 1)]


def _to_model(batch, like):
    """The batch on the model's device, floating-point parts in its dtype; what is no pair is passed on."""
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
        return batch
    return map_tensors(batch, lambda part: part.to(
        like.device, like.dtype if part.is_floating_point() else part.dtype))


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
    """The loss of the best outputs that are the same for all inputs and classes alike, if it is known."""
    kind = closed_form(loss_fn, outputs, targets)
    if kind == "cross-entropy" and not targets.is_floating_point():
        return math.log(outputs.shape[1])
    if kind == "squared error":
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
    """(names of weights that are exactly zero but have a gradient, of those that a step of these wakes).

    A zero head or LoRA's B hides everything behind it from the gradient, for one step.
    """
    some = torch.stack([torch.stack([p.any(), gradients[name].any()]) for name, p in trainable.items()]).tolist()
    zeros = [name for name, (weight, gradient) in zip(trainable, some)
             if gradient and not weight and trainable[name].ndim > 1]
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
    awake = torch.stack([torch.zeros_like(loss, dtype=torch.bool) if g is None else g.any() for g in found]).tolist()
    return zeros, [name for name, wakes in zip(asleep, awake) if wakes]


def _measure(model, loss_fn, batch, patterns, split, lr, optimizer, rtol, progress, notes):
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    chosen = _selected(trainable, patterns)
    for pattern in split:
        if not any(fnmatchcase(_layer_name(name), pattern) for name in chosen):
            raise ValueError(f"no layer to split is called {pattern!r}; known: {', '.join(map(_layer_name, chosen))}")
    like = trainable[chosen[0]]
    batch = _to_model(batch, like)
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in chosen}
    outputs, loss, squares = _forward(model, loss_fn, batch, set(owners.values()))
    if not loss.requires_grad:
        raise ValueError("the loss does not depend on any trainable parameter (is something detached, or "
                         "computed under torch.no_grad()?)")
    found = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True, retain_graph=False)
    unused = [name for name, g in zip(trainable, found) if g is None]
    if unused:
        notes.append(Finding("warning", f"the loss does not depend on {_names(unused)}: not listed",
                             "freeze them (requires_grad=False), or use them in forward()"))
        for name in unused:
            trainable[name].requires_grad_(False)
        chosen = [name for name in chosen if name not in unused]
        if not chosen:
            raise ValueError(f"the loss does not depend on {_names(unused)}: nothing is left to measure")

    generator = torch.Generator(like.device).manual_seed(0)  # the same model and batch give the same report
    operator = hessian(model, loss_fn, batch)
    gradient = operator.gradient
    extreme, eigenvalue, bound = _eigenvalues(operator, rtol, generator)
    gradients = dict(zip(operator.names, gradient.split([trainable[name].numel() for name in operator.names])))
    overall = torch.stack([loss.detach(), torch.linalg.vector_norm(gradient),
                           gradient_quotient(operator, gradient)]).tolist()
    operator_names = operator.names
    del operator  # its graph

    zeros, waking = _waking(model, loss_fn, batch, {n: trainable[n] for n in operator_names}, gradients)
    blocks = layer_blocks(model, loss_fn, batch, parameters="all", layers=chosen)
    parts = [(name, label, part, of) for name in chosen
             for part, (label, of) in enumerate(_parts(name, owners[name], trainable[name], split))]
    rows = {}
    for name, label, part, of in tqdm(parts, desc="layers", disable=not progress, leave=False):
        block = blocks[name] if of == 1 else blocks[name].rows(part, of)
        g, weight = gradients[name].chunk(of)[part], trainable[name].detach().chunk(of)[part]
        total, error = (trace(block, ESTIMATED_FROM, generator) if block.is_large
                        else (block.trace(), torch.zeros_like(loss)))
        idle = (g.view_as(weight).flatten(1) == 0).all(1).to(g.dtype).mean()
        numbers = (weight.std(correction=0), g.square().mean().sqrt(), block.norm(), total, error,
                   block.quotient(g), idle)
        rows[label] = torch.stack([number.double() for number in numbers])
    table = dict(zip(rows, torch.stack(list(rows.values())).tolist()))  # to the host in one go
    measured = []
    for name, label, part, of in parts:
        std, slope, norm, total, error, quotient, idle = table[label]
        calls, shape = squares.get(owners[name]), trainable[name].shape
        measured.append(LayerCurvature(
            label, type(owners[name]).__name__, (shape[0] // of, *shape[1:]), std,
            float(torch.stack(calls).mean().sqrt()) if calls else None, slope, norm, total, error, quotient,
            0.0 if isinstance(owners[name], nn.Embedding) else idle))

    outputs, chance = outputs.detach(), _chance(loss_fn, outputs, batch[1])
    if outputs.ndim > 2:  # every place is a sample
        outputs = outputs.movedim(1, -1).flatten(0, -2)
    varying = ((outputs - outputs.mean(0)).square().mean() / outputs.square().mean().clamp(min=1e-30)).sqrt()
    result = CurvatureReport(
        type(model).__name__, sum(p.numel() for p in trainable.values() if p.requires_grad), len(batch[1]),
        str(like.device), _short(like.dtype), overall[0], chance, overall[1],
        overall[2], eigenvalue, bound, float(varying), measured)
    if unsettled_batch_norms(model):
        result.findings = notes
    else:
        normed = any(isinstance(m, NORM_LAYERS) for m in model.modules())
        result.findings = notes + _findings(result, extreme, lr, optimizer, [_layer_name(n) for n in zeros],
                                            {label for name, label, _, _ in parts if name in waking}, normed)
    result.findings.sort(key=lambda f: ("problem", "warning", "note").index(f.level))
    return result


def _findings(result, extreme, lr, optimizer, zeros, waking, normed):
    """What the numbers mean, in words.

    extreme: the eigenvalue of largest magnitude; zeros, waking: as of `_waking`; normed: are there norms?
    """
    findings, layers, scale, best = [], result.layers, result.eigenvalue, result.best_step
    plain = optimizer == "sgd"
    solve = "hl.hessian_init_(model, loss_fn, batch) levels the norms before training"

    def say(level, text, advice=""):
        findings.append(Finding(level, text, advice))

    behind = sorted(waking & {layer.name for layer in layers})
    if zeros and (behind or result.variation < VARIES):
        text = f"{_names(zeros)} is exactly zero"
        if behind:
            text += f", so that {_names(behind)} has no gradient yet: it wakes after one step"
        say("note", text + "; λ and the norms are those of this moment, and change with the first steps",
            "nothing to mend; train a few steps and ask again")
    dead = [layer for layer in layers if layer.idle == 1 and layer.name not in waking]
    if dead:
        say("problem", f"no gradient at all in {_names(each.name for each in dead)}: dead, nothing there can be "
            "learnt", "a dead ReLU, a detached path or weights of zero: draw new weights "
            "(hl.init_(model, 'he')), lower the biases or use leaky_relu")
    layers = [layer for layer in layers if layer.name not in waking]
    flat = [layer for layer in layers if layer.norm == 0 and layer not in dead]
    if flat:
        say("problem", f"a gradient but no curvature in {_names(each.name for each in flat)}: the loss is "
            "saturated, a probability of 1 for one class", "smaller weights: " + solve)
    alive = [layer for layer in layers if layer not in dead and layer not in flat]
    slow = [layer for layer in alive if scale > 0 and layer.norm < SLOW * scale]
    if slow:
        least = min(layer.norm for layer in slow)
        end = "it will not move" if plain else f"{optimizer} moves it all the same, since it rescales the steps"
        say("problem" if plain else "note", f"{_names(each.name for each in slow)}: norm down to {least:.1g}, that "
            f"of the whole Hessian is {scale:.2g}; in plain gradient descent at the best safe rate 1/λ an error "
            f"there shrinks by {least / scale:.0e} of itself a step: {end}", solve if plain else "")
    if len(alive) > 1:
        span = max(layer.norm for layer in alive) / min(layer.norm for layer in alive)
        if span > SPAN:
            say("warning" if plain else "note", f"the layers' norms span {math.log10(span):.1f} orders of magnitude: "
                "no single learning rate of plain gradient descent suits them all",
                solve + "; Adam-like optimizers hide part of it" if plain else "")
    idle = [f"{layer.name} ({layer.idle:.0%})" for layer in alive if layer.idle > 0.5]
    if idle:
        say("warning", f"more than half of the units get no gradient on this batch in {_names(idle)}",
            "units that are off for every sample: smaller biases, another seed, leaky_relu")
    signals = [layer for layer in layers if layer.signal]
    if len(signals) > 1:
        low, high = min(signals, key=lambda layer: layer.signal), max(signals, key=lambda layer: layer.signal)
        if high.signal > SPAN * low.signal:
            say("warning", f"the signal spans {math.log10(high.signal / low.signal):.1f} orders of magnitude, "
                f"from {low.signal:.1g} ({low.name}) to {high.signal:.1g} ({high.name})",
                "a scheme with the activation's gain: hl.init_(model, 'forward')")
    if result.variation < VARIES and result.samples > 1 and not zeros and not normed:
        say("warning", f"the outputs hardly depend on the input: only {result.variation:.1g} of their size "
            "differs between samples; λ is small for that reason and grows in training, so that 2/λ is too bold",
            "the signal is lost on the way (biases may hide that); " + solve)
    if result.chance:
        if result.loss > 3 * result.chance:
            say("warning", f"the loss {result.loss:.3g} is far above {result.chance:.3g}, that of outputs that "
                "ignore the input: confident and wrong",
                "smaller weights in the last layer, or standardized inputs")
        elif abs(result.loss / result.chance - 1) < 0.02:
            say("note", f"the loss {result.loss:.3g} is at chance ({result.chance:.3g}): as it should be before "
                "training; after training it means that nothing was learnt")
    if extreme < 0 < scale:
        say("note", f"the Hessian's eigenvalue of largest magnitude is negative ({extreme:.3g}): a saddle; λ "
            "above is the largest positive one")
    elif extreme < 0:
        say("note", f"the Hessian has no positive eigenvalue (the largest in magnitude is {extreme:.3g}): no rate "
            "is unstable by curvature alone")
    if lr is not None and not plain:
        say("note", f"lr = {lr:g} is not judged: {optimizer} rescales the steps weight by weight, so that its limit "
            "is one on the rescaled Hessian, and 2/λ is that of plain gradient descent")
    elif lr is not None and lr > result.stability_limit:
        say("problem", f"lr = {lr:g} is above 2/λ = {result.stability_limit:.3g}: plain full-batch gradient "
            "descent is unstable here; the loss rises at first, and then finds flatter ground or diverges",
            f"lr near 1/λ = {best:.3g}, a warm-up, or hl.hessian_init_ with a smaller target")
    elif lr is not None and lr < 0.01 * best < math.inf:
        say("note", f"lr = {lr:g} is {best / lr:.0f} times below 1/λ = {best:.3g}: safe and slow",
            "a larger rate, or a larger target of hl.hessian_init_")
    if not any(finding.level in ("problem", "warning") for finding in findings):
        say("note", "nothing in the curvature speaks against training")
    return findings
