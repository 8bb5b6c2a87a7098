"""The Hessian chain rule, layer by layer and exactly: Gauss-Newton blocks without products.

Theorem 1 of Skorski et al.: H_w(k)[g, g] ≈ vᵀ H_z v with v = B A g F, where F is the layer's input,
A the slope of its activation and B the Jacobian of what follows. Write H_z = S Σ Sᵀ per sample
(Σ a diagonal of signs, all +1 for a convex loss) and push the columns of S back through the
network, G = A Bᵀ S. Then the layer's Gauss-Newton block is a sum of rank-one matrices,

    H_w(k) ≈ Σ_cn ± r_cn r_cnᵀ,   r_cn = vec Σ_t G_cnt F_ntᵀ,

and trace, norm and spectrum follow from F and G alone: one forward pass and C backward passes for
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
from tqdm.auto import tqdm

from .curvature import check_batch, check_vectors, each_batch, gauss_newton, is_loader
from .losses import output_curvature
from .models import check_module, weight_layers
from .spectrum import gradient_quotient, top_eigenpairs

NORMS = ("spectral", "frobenius", "gradient")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CHANNEL_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)
_TRAILING_NORMS = (nn.LayerNorm, nn.RMSNorm) if hasattr(nn, "RMSNorm") else (nn.LayerNorm,)
_COVERED = (nn.Linear, nn.Embedding, *_CONVOLUTIONS, *_CHANNEL_NORMS, *_TRAILING_NORMS)


class LayerBlock:
    """One layer's Gauss-Newton block [P, P], P = d_out · d_in, held as its factors.

    `inputs` F [N, T, d_in], `curvature` G [C, N, T, d_out], `signs` [C, N] (±1).
    A symmetric operator like those of `curvature.py`: `.shape`, `@`, `.matmat`.
    """

    def __init__(self, inputs, curvature, signs):
        self.inputs, self.curvature, self.signs = inputs, curvature, signs
        self.shape = (inputs.shape[-1] * curvature.shape[-1],) * 2
        self.dtype, self.device = inputs.dtype, inputs.device

    def scaled(self, curvature, inputs=1):
        """The block times (curvature · inputs)²: the same with these factors on G and F."""
        return LayerBlock(self.inputs * inputs, self.curvature * curvature, self.signs)

    def _matrices(self, vectors):
        """Rows of [K, P] as directions [K, d_out, d_in]."""
        return vectors.reshape(len(vectors), self.curvature.shape[-1], self.inputs.shape[-1])

    def _vectors(self, matrices):
        return matrices.flatten(1)

    def project(self, direction):
        """The numbers v of Theorem 1 in the eigenbasis of H_z: Σ_t G_cntᵀ V F_nt, as [C, N].

        direction: V, in the shape of the weight or flat.
        """
        return self._project(self._matrices(direction.reshape(1, -1)))[0]

    def _project(self, matrices):
        images = torch.einsum("nti,koi->knto", self.inputs, matrices)
        return torch.einsum("cnto,knto->kcn", self.curvature, images)

    def quadratic_form(self, direction):
        """H_w(k)[V, V] of Theorem 1 for V in the shape of the weight: a tensor without dimension."""
        return (self.signs * self.project(direction) ** 2).sum()

    def combine(self, y):
        """The sums Σ_cn y_cn r_cn for each of y [K, C, N], as [K, P]."""
        pulled = torch.einsum("kcn,cnto->knto", y, self.curvature)
        return self._vectors(torch.einsum("knto,nti->koi", pulled, self.inputs))

    def _products(self, vectors):
        return self.combine(self.signs * self._project(self._matrices(vectors)))

    def __matmul__(self, vector):
        return self._products(check_vectors(self, vector, 1)[None])[0]

    def matmat(self, matrix, memory=2**28):
        """The product with a matrix [P, K], as [P, K]; memory: bytes that a chunk of columns may take."""
        columns = check_vectors(self, matrix, 2).T
        samples, places, width = self.curvature.shape[1:]
        chunk = max(1, memory // (2 * samples * places * width * self.inputs.element_size()))
        return torch.cat([self._products(part) for part in columns.split(chunk)]).T

    def gram(self):
        """A smaller operator with the same nonzero eigenvalues, or the block itself.

        The block is R Rᵀ with the terms r_cn as columns of R; RᵀR is only [CN, CN]. A loss that
        is not convex puts signs in between: then, and where CN > P, it is the block.
        """
        dual = (self.inputs.shape[1] == 1 and self.signs.numel() < self.shape[0]
                and bool((self.signs > 0).all()))
        return _Gram(self) if dual else self

    def trace(self):
        """Σ_cn ±‖r_cn‖²: exact, a tensor without dimension. ‖r_cn‖² = Σ_ts (G_cnt·G_cns)(F_nt·F_ns)."""
        if self.inputs.shape[1] == 1:
            sizes = (torch.linalg.vector_norm(self.curvature[:, :, 0], dim=-1)
                     * torch.linalg.vector_norm(self.inputs[:, 0], dim=-1)) ** 2
        else:
            places = self.inputs @ self.inputs.mT
            sizes = torch.stack([(g @ g.mT * places).sum((1, 2)) for g in self.curvature])
        return (self.signs * sizes).sum()

    def frobenius(self, memory=2**28):
        """‖H_w(k)‖_F: the Frobenius norm of the CN × CN Gram matrix r_cn·r_dm, in bands that fit memory.

        With T = 1 an entry is (F_n·F_m)(G_cn·G_dm): the Gram matrices of F and of G suffice.
        """
        classes, samples, places, _ = self.curvature.shape
        floats = memory // self.inputs.element_size()
        total = self.inputs.new_zeros(())
        if places == 1:
            rows, flat = self.inputs[:, 0], self.curvature[:, :, 0]
            for band in torch.arange(samples, device=self.device).split(
                    max(1, floats // (classes**2 * samples))):
                gram = torch.einsum("cbo,dmo->cbdm", flat[:, band], flat)
                gram *= (rows[band] @ rows.T)[:, None]
                total += torch.einsum("cbdm,cb,dm->", gram.square_(), self.signs[:, band], self.signs)
        else:
            bands = torch.arange(samples, device=self.device).split(
                max(1, floats // (3 * classes * self.shape[0])))
            for a in bands:
                left = self._rows(a)
                for b in bands:
                    gram = left @ self._rows(b).T
                    total += self.signs[:, a].flatten() @ gram.square_() @ self.signs[:, b].flatten()
        return total.clamp(min=0).sqrt()

    def _rows(self, band):
        """The terms r_cn of some samples, [C · band, d_out · d_in]."""
        return torch.einsum("cnto,nti->cnoi", self.curvature[:, band], self.inputs[band]).flatten(
            2).flatten(0, 1)


class EmbeddingBlock(LayerBlock):
    """The block of an embedding table [V, d]: rows of tokens that the batch lacks have no curvature.

    `inputs` is one-hot over the `tokens` that occur; a direction is V's transpose, restricted to them.
    """

    def __init__(self, inputs, curvature, signs, tokens, table):
        super().__init__(inputs, curvature, signs)
        self.tokens, self.table = tokens, table
        self.shape = (math.prod(table),) * 2

    def scaled(self, curvature, inputs=1):
        block = super().scaled(curvature, inputs)
        return EmbeddingBlock(block.inputs, block.curvature, block.signs, self.tokens, self.table)

    def _matrices(self, vectors):
        return vectors.view(-1, *self.table)[:, self.tokens].mT

    def _vectors(self, matrices):
        full = matrices.new_zeros(len(matrices), *self.table)
        full[:, self.tokens] = matrices.mT
        return full.flatten(1)


class _Gram:
    """RᵀR of a `LayerBlock`: entries (F_n·F_m)(G_cn·G_dm), never formed."""

    def __init__(self, block):
        self.inputs = block.inputs[:, 0]
        self.curvature = block.curvature[:, :, 0].transpose(0, 1).contiguous()  # [N, C, d_out]
        samples, width = self.inputs.shape
        # F Fᵀ times a matrix [N, d_out], in whichever order is cheaper.
        self.similarity = self.inputs @ self.inputs.T if samples < 2 * width else None
        self.shape = (block.signs.numel(),) * 2
        self.dtype, self.device = block.dtype, block.device

    def __matmul__(self, vector):
        y = vector.view(len(self.curvature), 1, -1)
        pulled = torch.bmm(y, self.curvature)[:, 0]
        if self.similarity is not None:
            mixed = self.similarity @ pulled
        else:
            mixed = self.inputs @ (self.inputs.T @ pulled)
        return torch.bmm(self.curvature, mixed[:, :, None]).flatten()


def curved_layers(model):
    """{name: module} of the dense, convolutional and embedding layers whose weight is trainable.

    Raises TypeError if `model` is no module, ValueError if it has no such layer or all are frozen.
    """
    check_module(model)
    embeddings = {name for name, m in model.named_modules() if isinstance(m, nn.Embedding)}
    layers = weight_layers(model) if not embeddings else {
        name: m for name, m in model.named_modules()
        if name in embeddings or isinstance(m, (nn.Linear, *_CONVOLUTIONS))}
    layers = {name: m for name, m in layers.items() if m.weight.requires_grad}
    if not layers:
        raise ValueError("every weight is frozen: set requires_grad=True on some")
    for name, m in layers.items():
        if not isinstance(m.weight, nn.Parameter):
            raise ValueError(f"the weight of {name!r} is computed from other parameters: undo the "
                             "parametrization (torch.nn.utils.parametrize.remove_parametrizations)")
    return layers


def _chosen(model, parameters):
    """{key: (module, attribute, parameter's name)} of what layer_blocks is to describe."""
    if parameters == "weights":
        return {name: (m, "weight", f"{name}.weight".lstrip("."))
                for name, m in curved_layers(model).items()}
    if parameters != "all":
        raise ValueError(f"unknown parameters {parameters!r}; known: weights, all")
    check_module(model)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if not names:
        raise ValueError("every parameter is frozen: set requires_grad=True on some")
    split = [name.rpartition(".") for name in names]
    return {"".join(parts): (model.get_submodule(parts[0]), parts[2], "".join(parts)) for parts in split}


def _uses(outputs):
    """How often each parameter is used on the way to `outputs`, as a Counter."""
    counts, seen, todo = Counter(), set(), [outputs.grad_fn]
    while todo:
        for node, _ in todo.pop().next_functions:
            if hasattr(node, "variable"):  # a parameter
                counts[node.variable] += 1
            elif node is not None and node not in seen:
                seen.add(node)
                todo.append(node)
    return counts


def _places(layer, tensor, lead):
    """What a layer returns, or its gradients, as [..., T, features]; the first `lead` axes stay."""
    if isinstance(layer, (*_CONVOLUTIONS, *_CHANNEL_NORMS)):  # [..., channels, *positions]
        return tensor.flatten(lead + 1).mT if tensor.ndim > lead + 1 else tensor.unsqueeze(lead)
    features = layer.weight.ndim if isinstance(layer, _TRAILING_NORMS) else 1
    return tensor.reshape(*tensor.shape[:lead], -1, math.prod(tensor.shape[tensor.ndim - features:]))


def _patches(layer, x):
    """The input of a convolution as its kernel sees it: [N, T, groups, d_in]."""
    same = layer.padding == "same"
    padding = [] if layer.padding != "valid" else [0, 0] * len(layer.kernel_size)
    for axis in reversed(range(len(layer.kernel_size) if not padding else 0)):
        total = layer.dilation[axis] * (layer.kernel_size[axis] - 1) if same else 2 * layer.padding[axis]
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

    fold turns gradients G [C, N, T, d_out] into the `curvature` to store beside F; tokens is None but
    for an embedding.
    """
    samples, like = len(inputs[0]), layer.weight
    ones = like.new_ones(samples, 1, 1)
    if attribute == "bias":
        return ones, lambda g: g.sum(2, keepdim=True), None
    if isinstance(layer, (*_CHANNEL_NORMS, *_TRAILING_NORMS)):
        bare = {name: torch.full_like(p, name == "weight") for name, p in layer.named_parameters()}
        normalized = _join([_places(layer, torch.func.functional_call(layer, bare, (x,)), 1).detach()
                            for x in inputs], 1)
        return ones, lambda g: (g * normalized).sum(2, keepdim=True), None
    if isinstance(layer, nn.Embedding):
        tokens, used = torch.cat([x.reshape(samples, -1) for x in inputs], dim=1).unique(return_inverse=True)
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

    def terms(g):  # the r_cn themselves: fewer numbers than F and G, and groups do not matter any more
        g = g.unflatten(3, (groups, -1))
        return torch.einsum("cntgo,ntgi->cngoi", g, seen).flatten(2)[:, :, None]

    return ones, terms, None


def _join(tensors, axis):
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=axis)


def _pull_back(outputs, us, s, memory):
    """Gradients of the columns of S in each of `us`, a chunk of classes at a time.

    Yields lists of (G [chunk, N, ...], apart) for each u. apart: do samples not see each other between u
    and the outputs? A column whose samples are weighted at random tells: so must its G be.
    """
    generator = torch.Generator(s.device).manual_seed(0)
    weights = torch.randn(s.shape[1], 1, dtype=s.dtype, device=s.device, generator=generator)
    columns = torch.cat([s[:1] * weights, s])
    chunk = max(2, memory // sum(2 * u.numel() * u.element_size() for u in us))
    apart = None
    for part in columns.split(chunk):
        gradients = torch.autograd.grad(outputs, us, part, is_grads_batched=True, retain_graph=True)
        if apart is None:
            errors = [torch.stack([(g[0].flatten(1) - weights * g[1].flatten(1)).norm(), g[1].norm()])
                      for g in gradients]
            tolerance = 4 * torch.finfo(s.dtype).eps ** 0.5
            apart = [error <= tolerance * norm for error, norm in torch.stack(errors).tolist()]
            gradients = [g[1:] for g in gradients]
        yield list(zip(gradients, apart))


def layer_blocks(model, loss_fn, batch, parameters="weights", memory=2**28):
    """{layer name: block} for every trainable weight of `model`: its Gauss-Newton block H_w(k).

    Dense, convolutional and embedding layers give a `LayerBlock` from one forward pass and a backward
    pass for each class; so do, with parameters="all" (keys are then the parameters' names), biases and
    the weights of norms. What this does not cover (other layers; a weight that is used in several
    modules or outside its own; layers that are not fed sample by sample, or samples that see each
    other) gives the matrix-free `gauss_newton` of the same block.

    batch: a pair (inputs, targets), or a loader of such pairs, whose blocks are joined; the factors of
        all samples are then in memory at once.
    memory: bytes that the backward passes may take beside the factors; classes are taken in chunks.

    Raises what `check_batch` raises, ValueError for a model whose weights are all frozen, for
    outputs that are not [N, classes], and under torch.no_grad().
    """
    if not torch.is_grad_enabled():
        raise ValueError("the layers' curvature is computed by backward passes: call this outside of "
                         "torch.no_grad()")
    chosen = _chosen(model, parameters)
    if is_loader(batch):
        return _joined_blocks(model, loss_fn, batch, parameters, memory, chosen)
    layers = {m for m, _, _ in chosen.values() if isinstance(m, _COVERED)}
    calls = {m: [] for m in layers}

    def capture(layer, args, output):
        calls[layer].append((args[0].detach(), output))
        return output.clone()  # so that an in-place activation leaves our u = W z + b alone

    hooks = [layer.register_forward_hook(capture) for layer in layers]
    try:
        outputs, _ = check_batch(model, loss_fn, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if outputs.ndim != 2:
        raise ValueError(f"outputs must be [N, classes], got shape {tuple(outputs.shape)}: use "
                         "gauss_newton(..., layer=...) for such a model")
    samples, uses = len(outputs), _uses(outputs)
    covered = {key: (m, attribute) for key, (m, attribute, _) in chosen.items()
               if calls.get(m) and uses[getattr(m, attribute)] == len(calls[m])  # else used elsewhere, too
               and all(_fits(m, x, samples) for x, _ in calls[m])}
    layers = dict.fromkeys(m for m, _ in covered.values())
    blocks = {}
    if layers:
        s, signs = output_curvature(loss_fn, outputs, batch[1])
        order = s.square().sum((1, 2)).argsort(descending=True)  # for the probe in _pull_back
        s, signs = s[order], signs[order]
        pulled = _pull_back(outputs, [u for m in layers for _, u in calls[m]], s, memory)
        factors = {key: _factors(m, attribute, [x for x, _ in calls[m]])
                   for key, (m, attribute) in covered.items()}
        stored = {key: [] for key in covered}
        for found in pulled:
            found = iter(found)
            of = {m: [next(found) for _ in calls[m]] for m in layers}
            places = {m: _join([_places(m, g, 2) for g, _ in of[m]], 2) for m in layers}
            for key, (m, _) in covered.items():
                stored[key].append(factors[key][1](places[m]))
        for key, (m, _) in covered.items():
            if all(apart for _, apart in of[m]):
                inputs, _, tokens = factors[key]
                curvature = _join(stored.pop(key), 0)
                blocks[key] = (LayerBlock(inputs, curvature, signs) if tokens is None else
                               EmbeddingBlock(inputs, curvature, signs, tokens, tuple(m.weight.shape)))
    for key, (_, _, name) in chosen.items():
        if key not in blocks:
            blocks[key] = gauss_newton(model, loss_fn, batch, layer=name)
    return {key: blocks[key] for key in chosen}


def _joined_blocks(model, loss_fn, loader, parameters, memory, chosen):
    """The blocks of all batches of a loader, joined along the samples."""
    def factored(batch):
        blocks = layer_blocks(model, loss_fn, batch, parameters, memory)
        return {key: b if type(b) is LayerBlock else None for key, b in blocks.items()}

    counts, parts = zip(*each_batch(loader, model, factored))
    shares = [(count / sum(counts)) ** 0.5 for count in counts]
    blocks = {}
    for key, (_, _, name) in chosen.items():
        found = [part[key] for part in parts]
        alike = None not in found and len({(b.inputs.shape[1:], b.curvature.shape[2:]) for b in found}) == 1
        if alike:
            blocks[key] = LayerBlock(torch.cat([b.inputs for b in found]),
                                     torch.cat([b.curvature * s for b, s in zip(found, shares)], dim=1),
                                     torch.cat([b.signs for b in found], dim=1))
        else:
            blocks[key] = gauss_newton(model, loss_fn, loader, layer=name)
    return blocks


def layer_gradients(model, loss_fn, batch):
    """{layer name: dL/dW}, for every trainable weight. batch: a pair or a loader."""
    weights = {name: m.weight for name, m in curved_layers(model).items()}

    def gradients(part):
        _, loss = check_batch(model, loss_fn, part)
        found = torch.autograd.grad(loss, list(weights.values()))
        return [g.to_dense() if g.is_sparse else g for g in found]

    if not is_loader(batch):
        return dict(zip(weights, gradients(batch)))
    counts, parts = zip(*each_batch(batch, model, gradients))
    return {name: sum(n * g for n, g in zip(counts, found)) / sum(counts)
            for name, found in zip(weights, zip(*parts))}


def _columns(block):
    """The unit vectors and their products, [P, 64] at a time: the whole block, in P products."""
    chunks = torch.arange(block.shape[0], device=block.device).split(64)
    for rows in tqdm(chunks, desc="columns", leave=False, delay=2):
        units = torch.zeros(block.shape[0], len(rows), dtype=block.dtype, device=block.device)
        units[rows, torch.arange(len(rows), device=block.device)] = 1
        yield units, block.matmat(units)


def _exact_trace(block):
    if isinstance(block, LayerBlock):
        return block.trace()
    return sum((units * products).sum() for units, products in _columns(block))


def _exact_frobenius(block):
    if isinstance(block, LayerBlock):
        return block.frobenius()
    return sum(products.square().sum() for _, products in _columns(block)).sqrt()


def _normalized(block):
    """The block divided by 4^power, and the power: a deep net's factors are so small or large that their
    squares under- or overflow. Both get entries of order 1, by powers of 2, which round nothing."""
    if not isinstance(block, LayerBlock):
        return block, torch.zeros((), dtype=block.dtype, device=block.device)
    # 2^±126 still has an inverse in float32.
    powers = [torch.frexp(f.abs().amax()).exponent.clamp(-126, 126) for f in (block.curvature, block.inputs)]
    power = sum(powers).to(block.dtype)
    return block.scaled(*(torch.exp2(-p.to(block.dtype)) for p in powers)), power


def _on_host(found):
    """{name: value · 4^power} as floats, of {name: (value, power)}: one transfer.

    Multiplied in float64 there: a norm may be smaller than float32 can hold.
    """
    pairs = torch.stack([torch.stack(pair) for pair in found.values()]).tolist()
    return {name: value * 4.0**power for name, (value, power) in zip(found, pairs)}


def _largest(block, k, rtol, near=None):
    """`(values, bounds, y)`: the k largest eigenvalues in magnitude, or all of a block with fewer.

    y [C, N] are the coordinates r_cn·x of the first eigenvector x, and `near` is a guess of them; both
    are None where the block has no factors.
    """
    factored = isinstance(block, LayerBlock)
    near = near if factored and near is not None and near.shape == block.signs.shape else None
    if block.shape[0] <= 128:  # small enough to be formed: exact, repeated eigenvalues included
        dense = block.matmat(torch.eye(block.shape[0], dtype=block.dtype, device=block.device))
        values, vectors = torch.linalg.eigh(dense.double())  # float32's often fails on matrices of low rank
        order = values.abs().argsort(descending=True)[:k]
        values, vectors = values[order].to(block.dtype), vectors[:, order].to(block.dtype)
        bounds = torch.full_like(values, torch.finfo(values.dtype).eps * len(dense)) * values[0].abs()
        return values, bounds, block.project(vectors[:, 0]) if factored else None
    operator = block.gram() if factored else block
    dual = operator is not block
    # A fixed start: the same model and batch give the same number.
    generator = torch.Generator(block.device).manual_seed(0)
    start = torch.randn(operator.shape[0], dtype=block.dtype, device=block.device, generator=generator)
    if near is not None:
        guess = near.T.flatten() if dual else block.combine(near[None])[0]
        length = torch.linalg.vector_norm(guess)
        start = 0.3 * start / torch.linalg.vector_norm(start) + guess / torch.where(length > 0, length, 1)
    values, vectors, bounds = top_eigenpairs(operator, min(k, len(start)), rtol, generator, start)
    if not factored:
        return values, bounds, None
    first = vectors[:, 0]
    return values, bounds, first.view(block.signs.shape[::-1]).T if dual else block.project(first)


def _spectra(blocks, k, rtol):
    """(name, normalized block, values, bounds, power) of each, the last layer first; the block and its
    eigenvalues in units of 4^power.

    All layers act on the loss through the same few outputs, so that in the coordinates [C, N] the top
    direction of one is near that of the next: as a start it saves a quarter of the products.
    """
    near = None
    for name, block in reversed(blocks.items()):
        block, power = _normalized(block)
        values, bounds, near = _largest(block, k, rtol, near)
        yield name, block, values, bounds, power


def layer_traces(model, loss_fn, batch, parameters="weights"):
    """{layer name: trace of its Gauss-Newton block}, exact, as floats; arguments as `layer_blocks`.

    Errors as `layer_blocks`.
    """
    blocks = layer_blocks(model, loss_fn, batch, parameters)
    found = {}
    for name, block in blocks.items():
        block, power = _normalized(block)
        found[name] = _exact_trace(block), power
    return _on_host(found)


def layer_spectra(model, loss_fn, batch, k=5, rtol=1e-4, parameters="weights"):
    """{layer name: (values, bounds)} of the k largest eigenvalues of its Gauss-Newton block.

    Lists of floats as `top_eigenvalues` returns them, largest magnitude first, fewer than k for a block
    that has fewer. Repeated eigenvalues may be missed in blocks of more than 128 weights. Errors as
    `layer_blocks`, and ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    blocks = layer_blocks(model, loss_fn, batch, parameters)
    found = {name: torch.stack([values, bounds, power.expand_as(values)])
             for name, _, values, bounds, power in _spectra(blocks, k, rtol)}
    columns = torch.cat(list(found.values()), dim=1).cpu().double()  # one transfer
    spectra = {}
    for name, part in zip(found, columns.split([each.shape[1] for each in found.values()], dim=1)):
        values, bounds, power = part
        spectra[name] = (values * 4.0**power).tolist(), (bounds * 4.0**power).tolist()
    return {name: spectra[name] for name in blocks}


def layer_norms(model, loss_fn, batch, norm="spectral", rtol=1e-4, parameters="weights"):
    """{layer name: norm of its Gauss-Newton block}, as floats.

    norm: "spectral", the largest eigenvalue in magnitude, by Lanczos on the implicit block until its
        residual is below rtol (the eigenvalue's own error is then of order rtol²);
        "frobenius"; or "gradient", |ĝᵀHĝ| for the layer's normalized gradient ĝ, the value the paper
        plots (weights only). For piecewise-linear activations the blocks equal the Hessian's (Remark 5).
    batch: a pair or a loader. parameters: "weights", or "all" for biases and norms, too.

    Errors as `layer_blocks`, and ValueError for an unknown norm.
    """
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")
    if norm == "gradient" and parameters != "weights":
        raise ValueError('norm="gradient" is defined for parameters="weights" only')
    blocks = layer_blocks(model, loss_fn, batch, parameters)
    if norm == "spectral":
        found = {name: (values[0].abs(), power) for name, _, values, _, power in _spectra(blocks, 1, rtol)}
    else:
        found = {}
        gradients = layer_gradients(model, loss_fn, batch) if norm == "gradient" else {}
        for name, block in blocks.items():
            block, power = _normalized(block)
            value = (_exact_frobenius(block) if norm == "frobenius" else
                     gradient_quotient(block, gradients[name].flatten()).abs())
            found[name] = value, power
    return _on_host({name: found[name] for name in blocks})
