"""The Hessian chain rule, layer by layer and exactly: Gauss-Newton blocks without products.

Theorem 1 of Skorski et al.: H_w(k)[g, g] ≈ vᵀ H_z v with v = B A g F, where F is the layer's input,
A the slope of its activation and B the Jacobian of what follows. Write H_z = S Σ Sᵀ per sample
(Σ a diagonal of signs, all +1 for a convex loss) and push the columns of S back through the
network, Γ = A Bᵀ S. Then the layer's Gauss-Newton block is a sum of rank-one matrices,

    H_w(k) ≈ Σ_cn ± r_cn r_cnᵀ,   r_cn = vec Σ_t Γ_cnt F_ntᵀ,

and trace, norm and spectrum follow from F and Γ alone: one forward pass and C backward passes for
all layers at once. A layer that is applied at T places of a sample sums over them: the places of a
sequence, the positions of a convolution (F is then the patch under the kernel), the calls of a
layer that is used several times. F of an embedding is one-hot, of a bias 1, of a norm's weight the
normalized input.
"""

import math
from collections import Counter

import torch
from torch import nn
from torch.nn import functional as F

from .autograd import nodes
from .blocks import Block, EmbeddingBlock, LayerBlock
from .columns import factor_gradients
from .curvature import check_batch, each_batch, gauss_newton, gauss_newton_blocks, is_loader
from .losses import output_hessian
from .many_classes import ManyClassBlock, sampled_traces
from .models import WEIGHT_LAYERS, check_generator, matching, original, refuse_computed
from .spectrum import Estimate, frobenius_norm, trace

NORMS = ("spectral", "frobenius", "gradient")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORM, _INSTANCE_NORM = nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm
_CHANNEL_NORMS = (_BATCH_NORM, _INSTANCE_NORM, nn.GroupNorm)
_TRAILING_NORMS = (nn.LayerNorm, nn.RMSNorm) if hasattr(nn, "RMSNorm") else (nn.LayerNorm,)
NORM_LAYERS = (*_CHANNEL_NORMS, *_TRAILING_NORMS)
#: The layers whose blocks have factors: torch's own classes. A subclass may compute anything.
_COVERED = {nn.Linear, nn.Embedding, *_CONVOLUTIONS, nn.GroupNorm, *_TRAILING_NORMS}
_COVERED |= {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d}
_COVERED |= {nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d}
#: Products that estimate the trace and the Frobenius norm of a large block without factors.
ESTIMATED_FROM = 64


def _key(parameter):
    """A weight is called as its module, any other parameter by its full name."""
    module, _, name = parameter.rpartition(".")
    return module if name == "weight" else parameter


def curved_weights(model, frozen=False):
    """{key: name} of every trainable weight: parameters of two or more dimensions, but for norms'.

    The key is the module's name for `.weight`, else the parameter's full name (attention's
    "attn.in_proj_weight", "lstm.weight_ih_l0"). A weight that several modules share is listed once.

    Args:
        frozen: list frozen ones, too.

    Raises:
        TypeError: if `model` is no module.
        ValueError: where there is none, all are frozen, or a layer's weight is computed from
            others.
    """
    model = original(model)
    for name, module in model.named_modules():
        if isinstance(module, (*WEIGHT_LAYERS, nn.Embedding)):
            refuse_computed(name, module, ', or ask for parameters="all"')
    matrices = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    is_norm = lambda name: isinstance(_owner(model, name), NORM_LAYERS)
    weights = {name: p for name, p in matrices.items() if not is_norm(name)}
    if not weights:
        raise ValueError(
            "the model has no layers to initialize or to measure: it needs a parameter with two "
            "dimensions or more, as those of Linear and Conv layers"
        )
    found = {_key(name): name for name, p in weights.items() if frozen or p.requires_grad}
    if not found:
        raise ValueError("every weight is frozen: set requires_grad=True on some")
    return found


def _owner(model, parameter):
    return model.get_submodule(parameter.rpartition(".")[0])


def _chosen(model, parameters, layers):
    """{key: (module, attribute, parameter's name)} of what layer_blocks is to describe."""
    if parameters == "weights":
        names = curved_weights(model)
    elif parameters == "all":
        names = {name: name for name, p in model.named_parameters() if p.requires_grad}
        if not names:
            raise ValueError("every parameter is frozen: set requires_grad=True on some")
    else:
        raise ValueError(f"unknown parameters {parameters!r}; known: weights, all")
    if layers is not None:
        names = {key: names[key] for key in matching(names, layers)}
    attribute = lambda name: name.rpartition(".")[2]
    return {key: (_owner(model, name), attribute(name), name) for key, name in names.items()}


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _is_plain(module):
    """Whether a module computes what torch's does: no subclass, patch, hook or compiled form."""
    everywhere = nn.modules.module
    hooked = any(getattr(module, h) or getattr(everywhere, f"_global{h}") for h in _HOOKS)
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    patched = bool({"forward", "__call__"} & vars(module).keys())
    return type(module) in _COVERED and not (hooked or compiled or patched)


def _places(layer, tensor, lead):
    """What a layer returns, or its gradients, as [..., T, features]; the first `lead` axes stay."""
    if isinstance(layer, (*_CONVOLUTIONS, *_CHANNEL_NORMS)):  # [..., channels, *positions]
        return tensor.flatten(lead + 1).mT if tensor.ndim > lead + 1 else tensor.unsqueeze(lead)
    features = layer.weight.ndim if isinstance(layer, _TRAILING_NORMS) else 1
    size = math.prod(tensor.shape[tensor.ndim - features :])
    return tensor.reshape(*tensor.shape[:lead], -1, size)


def _patches(layer, x):
    """The input of a convolution as its kernel sees it: [N, T, groups, d_in]."""
    padding = []
    for axis in reversed(range(len(layer.kernel_size))):
        if layer.padding == "same":
            total = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        else:
            total = 0 if layer.padding == "valid" else 2 * layer.padding[axis]
        padding += [total // 2, total - total // 2]
    x = F.pad(x, padding, "constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    for axis, (k, stride, gap) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation)):
        x = x.unfold(axis + 2, gap * (k - 1) + 1, stride)[..., ::gap]
    samples, channels, groups = x.shape[0], x.shape[1], layer.groups
    x = x.reshape(samples, groups, channels // groups, -1, math.prod(layer.kernel_size))
    return x.permute(0, 3, 1, 2, 4).flatten(3)


def _fits(layer, x, samples):
    """Whether a layer is fed sample by sample, in a way that this file describes."""
    if isinstance(layer, nn.Embedding):
        return len(x) == samples and layer.max_norm is None and not layer.scale_grad_by_freq
    least = len(layer.kernel_size) + 2 if isinstance(layer, _CONVOLUTIONS) else 2
    return x.ndim >= least and len(x) == samples


def _factors(layer, attribute, inputs):
    """(F, fold, tokens) of one parameter of `layer`, which was called with each of `inputs`.

    fold turns gradients Γ [C, N, T, d_out] into the `curvature` to store beside F; tokens is None
    but for an embedding.
    """
    samples, like = len(inputs[0]), layer.weight
    ones = like.new_ones(samples, 1, 1)
    if attribute == "bias":
        return ones, lambda g: g.sum(2, keepdim=True), None
    if isinstance(layer, NORM_LAYERS):
        bare = {name: torch.full_like(p, name == "weight") for name, p in layer.named_parameters()}
        plain = [torch.func.functional_call(layer, bare, (x,)).detach() for x in inputs]
        normalized = _join([_places(layer, x, 1) for x in plain], 1)
        return ones, lambda g: (g * normalized).sum(2, keepdim=True), None
    if isinstance(layer, nn.Embedding):
        seen = torch.cat([x.reshape(samples, -1) for x in inputs], dim=1)
        tokens, used = seen.unique(return_inverse=True)
        onehot = F.one_hot(used, len(tokens)).to(like.dtype)
        if layer.padding_idx is not None:  # this row gets no gradient
            onehot[..., tokens == layer.padding_idx] = 0
        return onehot, lambda g: g, tokens
    if isinstance(layer, nn.Linear):
        seen = _join([_places(layer, x, 1) for x in inputs], 1)[:, :, None]
    else:
        seen = _join([_patches(layer, x) for x in inputs], 1)
    _, places, groups, width = seen.shape
    if groups == 1 and (places == 1 or places <= width):
        return seen[:, :, 0], lambda g: g, None

    def terms(g):  # the r_cn: fewer numbers than F and Γ, and groups do not matter any more
        g = g.unflatten(3, (groups, -1))
        return torch.einsum("cntgo,ntgi->cngoi", g, seen).flatten(2)[:, :, None]

    return ones, terms, None


def _join(tensors, axis):
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=axis)


def _check_gradients():
    if not torch.is_grad_enabled():
        why = "the layers' curvature is computed by backward passes"
        raise ValueError(f"{why}: call this outside of torch.no_grad()")


def layer_blocks(model, loss_fn, batch, parameters="weights", memory=2**28, layers=None):
    """{layer name: block} for every trainable weight of `model`: its Gauss-Newton block H_w(k).

    torch's dense, convolutional and embedding layers give a `LayerBlock` from one forward pass and
    a backward pass for each class; so do, with parameters="all" (keys are then the parameters'
    names), biases and the weights of norms. Everything else gives a `Block` of the same matrix,
    known by its products only: other layers (attention, recurrent, transposed convolutions) and any
    subclass; layers with hooks or a patched forward; a weight that is used in several modules or
    outside its own; layers that are not fed sample by sample, or samples that see each other;
    outputs that are not [N, classes]; and so many classes that the factors of H_z would not fit
    into `memory`.

    Args:
        batch: a pair (inputs, targets), or a loader of such pairs, whose blocks are joined; the
            factors of all samples are then in memory at once.
        parameters: "weights", or "all".
        memory: bytes for the factors of H_z, and again for the backward passes, beside the factors
            of the blocks; classes are taken in chunks.
        layers: keys, or patterns such as "blocks.*", if not all are wanted.

    Raises:
        TypeError, ValueError: as `check_batch`; also for a model whose weights are all frozen or
            computed from others, for patterns that fit none, and under torch.no_grad().

    Example:
        >>> model, batch = hl.MLP(2, 3, 2, 2), (torch.zeros(4, 2), torch.zeros(4, 2))
        >>> blocks = hl.layer_blocks(model, F.mse_loss, batch, parameters="all", layers="*.bias")
        >>> {name: block.shape for name, block in blocks.items()}
        {'layers.0.bias': (3, 3), 'layers.1.bias': (2, 2)}
    """
    _check_gradients()
    model = original(model)
    chosen = _chosen(model, parameters, layers)
    if is_loader(batch):
        return _joined_blocks(model, loss_fn, batch, memory, chosen)
    return _blocks_of_batch(model, loss_fn, batch, memory, chosen)[1]


def _blocks_of_batch(model, loss_fn, batch, memory, chosen):
    """(what the loss's mean divides by, {key: block}) of one batch."""
    plain = {m for m, _, _ in chosen.values() if _is_plain(m)}
    # Dense layers in between are not asked for, but the columns pass through them.
    plain |= {m for m in model.modules() if type(m) is nn.Linear and _is_plain(m)}
    outputs, calls = _run_and_listen(model, loss_fn, batch, plain)
    curve = output_hessian(loss_fn, outputs, batch[1])
    covered = _covered(chosen, calls, outputs)
    many = outputs.ndim > 1 and outputs.shape[1] * outputs.nbytes > memory
    fits = outputs.ndim == 2 and not many
    layers = dict.fromkeys(m for m, _ in covered.values()) if fits else {}
    blocks = {}
    if layers:
        s, signs = curve.factors()
        fed = {m: [x.detach() for x, _ in calls[m]] for m in layers}
        factors = {key: _factors(m, name, fed[m]) for key, (m, name) in covered.items()}
        stored, done = {}, 0
        us = [u for m in layers for _, u in calls[m]]
        for found in map(iter, factor_gradients(outputs, calls, us, s, memory)):
            of = {m: [next(found) for _ in calls[m]] for m in layers}
            places = {m: _join([_places(m, g, 2) for g, _ in of[m]], 2) for m in layers}
            for key, (m, _) in covered.items():
                g = factors[key][1](places[m])
                if key not in stored:  # a sample's columns side by side, as its block reads them
                    stored[key] = g.new_empty(g.shape[1], len(s), *g.shape[2:]).transpose(0, 1)
                stored[key][done : done + len(g)] = g
            done += len(g)
        for key, (m, _) in covered.items():
            if all(apart for _, apart in of[m]):
                inputs, _, tokens = factors[key]
                held = inputs, stored.pop(key), signs
                table = (tokens, tuple(m.weight.shape))
                blocks[key] = LayerBlock(*held) if tokens is None else EmbeddingBlock(*held, *table)
    rest = {key: name for key, (_, _, name) in chosen.items() if key not in blocks}
    products = gauss_newton_blocks(model, loss_fn, batch, rest.values()) if rest else {}
    for key, found in zip(rest, products.values()):
        blocks[key] = ManyClassBlock(found, outputs.numel()) if many else Block(found)
    return curve.mass, {key: blocks[key] for key in chosen}


def _covered(chosen, calls, outputs):
    """{key: (module, attribute)} of what is `chosen` and has factors."""
    way = set(nodes([outputs]))
    following = (each for node in way for each, _ in node.next_functions)
    uses = Counter(each.variable for each in following if hasattr(each, "variable"))
    return {
        key: (m, attribute)
        for key, (m, attribute, _) in chosen.items()
        if attribute in ("weight", "bias")
        and calls.get(m)
        and uses[getattr(m, attribute)] == len(calls[m])  # else used elsewhere, too
        and all(u.grad_fn in way for _, u in calls[m])  # else a call is lost, such as by detach
        and all(_fits(m, x, len(outputs)) for x, _ in calls[m])
    }


def _run_and_listen(model, loss_fn, batch, layers):
    """The outputs, and {layer: [(input, output) of each call]} if one tensor each time."""
    calls, odd, versions = {m: [] for m in layers}, set(), {}

    def capture(layer, args, kwargs, output):
        if kwargs or len(args) != 1 or not isinstance(args[0], torch.Tensor):
            odd.add(layer)
            return None
        calls[layer].append((args[0], output))
        versions[args[0]] = args[0]._version
        return output.clone()  # so that an in-place activation leaves our u = W z + b alone

    hooks = [layer.register_forward_hook(capture, with_kwargs=True) for layer in layers]
    try:
        outputs, _ = check_batch(model, loss_fn, batch)
    finally:
        for hook in hooks:
            hook.remove()
    changed = {x for x, version in versions.items() if x._version != version}  # F is lost
    odd |= {m for m, found in calls.items() if any(x in changed for x, _ in found)}
    return outputs, {m: found for m, found in calls.items() if m not in odd}


def _joined_blocks(model, loss_fn, loader, memory, chosen):
    """The blocks of all batches of a loader, joined along the samples."""

    def factored(batch):
        mass, blocks = _blocks_of_batch(model, loss_fn, batch, memory, chosen)
        return mass, {key: b if type(b) is LayerBlock else None for key, b in blocks.items()}

    masses, parts = zip(*(result for _, result in each_batch(loader, model, factored)))
    shares = [(mass / sum(masses)) ** 0.5 for mass in masses]
    blocks = {}
    for key, (_, _, name) in chosen.items():
        found = [part[key] for part in parts]
        shapes = {b and (b._inputs.shape[1:], b._curvature.shape[2:], len(b.signs)) for b in found}
        if None not in found and len(shapes) == 1:
            blocks[key] = LayerBlock(
                torch.cat([b.inputs for b in found]),
                torch.cat([b.curvature * s for b, s in zip(found, shares)], dim=1),
                torch.cat([b.signs for b in found], dim=1),
            )
        else:
            blocks[key] = Block(gauss_newton(model, loss_fn, loader, layer=name))
    return blocks


def layer_gradients(model, loss_fn, batch, parameters="weights", layers=None):
    """{layer name: dL/dW} for every trainable weight; arguments and errors as `layer_blocks`.

    Example:
        >>> model, batch = hl.MLP(2, 3, 2, 2), (torch.zeros(4, 2), torch.zeros(4, 2))
        >>> {name: g.shape for name, g in hl.layer_gradients(model, F.mse_loss, batch).items()}
        {'layers.0': torch.Size([3, 2]), 'layers.1': torch.Size([2, 3])}
    """
    _check_gradients()
    model = original(model)
    chosen = _chosen(model, parameters, layers)
    weights = {key: getattr(m, attribute) for key, (m, attribute, _) in chosen.items()}

    def gradients(part):
        outputs, loss = check_batch(model, loss_fn, part)
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        unused = [key for key, g in zip(weights, found) if g is None]
        if unused:
            how = "freeze them (requires_grad=False) or pick other layers"
            raise ValueError(f"the loss does not depend on {', '.join(unused)}: {how}")
        mass = output_hessian(loss_fn, outputs, part[1]).mass
        return mass, [g.to_dense() for g in found]

    if not is_loader(batch):
        return dict(zip(weights, gradients(batch)[1]))
    masses, parts = zip(*(result for _, result in each_batch(batch, model, gradients)))
    mean = lambda found: sum(mass * g for mass, g in zip(masses, found)) / sum(masses)
    return {name: mean(found) for name, found in zip(weights, zip(*parts))}


def _spectra(blocks, k, rtol):
    """(name, values, bounds) of each block, the last layer first.

    All layers act on the loss through the same few outputs, so that in the coordinates [C, N] the
    top direction of one is near that of the next: as a start it saves a quarter of the products.
    """
    near = None
    for name, block in reversed(blocks.items()):
        values, bounds, near = block._largest(k, rtol, near)
        yield name, values, bounds


def _sampled_traces(model, loss_fn, batch, chosen, samples, generator):
    """{key: Estimate} of traces from random columns of the root of H_z (see `many_classes`).

    None where the loss has no root in closed form.
    """
    plain = {m for m, _, _ in chosen.values() if _is_plain(m)}

    def of_batch(part):
        outputs, calls = _run_and_listen(model, loss_fn, part, plain)
        curve = output_hessian(loss_fn, outputs, part[1])
        covered = _covered(chosen, calls, outputs)

        def layer(key, m, attribute):
            if key not in covered:
                return getattr(m, attribute), (), None
            inputs, fold, _ = _factors(m, attribute, [x.detach() for x, _ in calls[m]])
            places = lambda gradients: _join([_places(m, g[None], 2) for g in gradients], 2)
            ends = tuple(u for _, u in calls[m])
            return getattr(m, attribute), ends, lambda found: (inputs, fold(places(found))[0])

        if curve.root is None:
            return None
        layers = {key: layer(key, m, attribute) for key, (m, attribute, _) in chosen.items()}
        return curve.mass, *sampled_traces(outputs, curve, layers, samples, generator)

    batches = each_batch(batch, model, of_batch) if is_loader(batch) else [(0, of_batch(batch))]
    found = [each for _, each in batches]
    if None in found:
        return None
    total = sum(mass for mass, _, _ in found)
    means = sum(mass / total * mean for mass, mean, _ in found)
    errors = sum((mass / total) ** 2 * variance for mass, _, variance in found).sqrt()
    pairs = torch.stack([means, errors]).T.tolist()
    return {key: Estimate(*pair) for key, pair in zip(chosen, pairs)}


def layer_traces(
    model, loss_fn, batch, parameters="weights", layers=None, samples=None, generator=None
):
    """{layer name: trace of its Gauss-Newton block}, as floats.

    Exact from factors, and from products for small blocks without them (`Block`). All others are
    estimated without bias, and are then an `Estimate`, a float with its standard error as `.error`:
    blocks without factors of more than 2,048 weights, and nearly all where the factors of H_z do
    not fit into 256 MB, with a thousand classes and more. They take random columns of the root of
    H_z, a backward pass each for all layers (`many_classes`), or 64 products a layer for a loss
    without such a root in closed form. Other arguments and errors as `layer_blocks`.

    Args:
        samples: estimate all traces, from so many columns. None: only where it must be, from 16 to
            64 columns, until all standard errors are below a percent (of each batch of a loader).
        generator: of the columns; by default one that gives the same numbers every time.

    Raises:
        TypeError, ValueError: as `layer_blocks`; also for fewer than 2 samples, or samples for a
            loss without a root.

    Example:
        >>> model, inputs = nn.Linear(2, 1, bias=False), torch.diag(torch.tensor([2.0, 1.0]))
        >>> traces = hl.layer_traces(model, F.mse_loss, (inputs, torch.zeros(2, 1)))
        >>> round(traces[""], 3)  # of diag(4, 1); the model itself has no name
        5.0
        >>> words, labels = hl.MLP(8, 16, 2, 20_000), torch.arange(32)
        >>> batch = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), labels
        >>> found = hl.layer_traces(words, F.cross_entropy, batch, samples=8)
        >>> type(found["layers.1"]).__name__, 0 < found["layers.1"].error < 0.01 * found["layers.1"]
        ('Estimate', True)
    """
    if samples is not None and not (int(samples) == samples and samples > 1):
        raise ValueError(f"samples must be 2 or more for a standard error, got {samples!r}")
    _check_gradients()
    model, exact = original(model), {}
    chosen = _chosen(model, parameters, layers)
    if samples is None:
        blocks = layer_blocks(model, loss_fn, batch, parameters, layers=layers)
        exact = _on_host({key: b.trace() for key, b in blocks.items() if not b.is_large})
        del blocks  # and their graph: another follows
    rest, guesses = {key: chosen[key] for key in chosen if key not in exact}, {}
    if rest:
        like = next(model.parameters())
        generator = generator or torch.Generator(like.device).manual_seed(0)
        check_generator(generator, like)
        guesses = _sampled_traces(model, loss_fn, batch, rest, samples, generator)
    if guesses is None and samples is not None:
        need = "cross-entropy, squared and logistic error as torch has them, a mean over the batch"
        raise ValueError(f"samples need a loss whose H_z has a known root: {need}; leave them out")
    if guesses is None:
        blocks = layer_blocks(model, loss_fn, batch, parameters, layers=list(rest))
        guesses = {key: _estimate(trace, block) for key, block in blocks.items()}
    return {key: exact[key] if key in exact else guesses[key] for key in chosen}


def _estimate(question, block):
    """What `trace` or `frobenius_norm` find from products; the same input gives the same number."""
    generator = torch.Generator(block.device).manual_seed(0)
    return Estimate(*map(float, question(block, ESTIMATED_FROM, generator)))


def _on_host(found):
    """{name: float} of {name: float64 tensor}: one transfer."""
    return dict(zip(found, torch.stack(list(found.values())).tolist())) if found else {}


def layer_spectra(model, loss_fn, batch, k=5, rtol=1e-4, parameters="weights", layers=None):
    """{layer name: (values, bounds)} of the k largest eigenvalues of its Gauss-Newton block.

    Lists of floats as `top_eigenvalues` returns them, largest magnitude first, fewer than k for a
    block that has fewer. Repeated eigenvalues may be missed in blocks of more than 128 weights.
    Arguments as `layer_blocks`.

    Raises:
        TypeError, ValueError: as `layer_blocks`, and for k < 1.

    Example:
        >>> model, inputs = nn.Linear(2, 1, bias=False), torch.diag(torch.tensor([2.0, 1.0]))
        >>> spectra = hl.layer_spectra(model, F.mse_loss, (inputs, torch.zeros(2, 1)))
        >>> [round(value, 3) for value in spectra[""][0]]
        [4.0, 1.0]
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    blocks = layer_blocks(model, loss_fn, batch, parameters, layers=layers)
    found = {name: torch.stack(pair) for name, *pair in _spectra(blocks, k, rtol)}
    columns = torch.cat(list(found.values()), dim=1).cpu()  # one transfer
    parts = dict(zip(found, columns.split([each.shape[1] for each in found.values()], dim=1)))
    return {name: tuple(parts[name].tolist()) for name in blocks}


def layer_norms(
    model, loss_fn, batch, norm="spectral", rtol=1e-4, parameters="weights", layers=None
):
    """{layer name: norm of its Gauss-Newton block}, as floats.

    For piecewise-linear activations the blocks equal the Hessian's (Remark 5). Other arguments as
    `layer_blocks`.

    Args:
        norm: "spectral", the largest eigenvalue in magnitude, by Lanczos on the implicit block
            until its residual is below rtol (the eigenvalue's own error is then of order rtol²;
            with thousands of classes rtol=1e-2 saves most of the time and gives it to a percent);
            "frobenius" (for blocks without factors of more than 2,048 weights an `Estimate` from 64
            products); or "gradient", `|ĝᵀHĝ|` for the layer's normalized gradient ĝ, the value the
            paper plots (weights only).

    Raises:
        TypeError, ValueError: as `layer_blocks`, and for an unknown norm.

    Example:
        >>> model, inputs = nn.Linear(2, 1, bias=False), torch.diag(torch.tensor([2.0, 1.0]))
        >>> norms = hl.layer_norms(model, F.mse_loss, (inputs, torch.zeros(2, 1)))
        >>> round(norms[""], 3)
        4.0
    """
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")
    if norm == "gradient" and parameters != "weights":
        raise ValueError('norm="gradient" is defined for parameters="weights" only')
    blocks = layer_blocks(model, loss_fn, batch, parameters, layers=layers)
    estimates = {}
    if norm == "spectral":
        found = {name: values[0].abs() for name, values, _ in _spectra(blocks, 1, rtol)}
    elif norm == "frobenius":
        large = {name: block for name, block in blocks.items() if block.is_large}
        estimates = {name: _estimate(frobenius_norm, block) for name, block in large.items()}
        found = {name: block.frobenius() for name, block in blocks.items() if name not in large}
    else:
        gradients = layer_gradients(model, loss_fn, batch, layers=layers)
        found = {name: block.quotient(gradients[name]).abs() for name, block in blocks.items()}
    found = {**_on_host(found), **estimates}
    return {name: found[name] for name in blocks}
