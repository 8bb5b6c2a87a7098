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
from .losses import mean_weight, output_curvature, output_root, pull_back
from .models import WEIGHT_LAYERS, is_computed, matching, original
from .spectrum import Estimate, frobenius_norm, gradient_quotient, top_eigenpairs, trace

NORMS = ("spectral", "frobenius", "gradient")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CHANNEL_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)
_TRAILING_NORMS = (nn.LayerNorm, nn.RMSNorm) if hasattr(nn, "RMSNorm") else (nn.LayerNorm,)
NORM_LAYERS = (*_CHANNEL_NORMS, *_TRAILING_NORMS)
#: The layers whose blocks have factors: torch's own classes. A subclass may compute anything.
_COVERED = {nn.Linear, nn.Embedding, *_CONVOLUTIONS, nn.GroupNorm, *_TRAILING_NORMS,
            nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
            nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d}
#: A block without factors that has more rows is not formed: its trace and Frobenius norm are estimated,
#: from so many products.
FORMED, ESTIMATED_FROM = 2048, 64


class Block:
    """A layer's Gauss-Newton block [P, P], known by its products: `.shape`, `@`, `.matmat`.

    Its numbers are float64 tensors without dimension: they hold where single precision would not.
    """

    def __init__(self, operator):
        self._operator = operator
        self.shape, self.dtype, self.device = operator.shape, operator.dtype, operator.device

    def __matmul__(self, vector):
        return self._operator @ vector

    def matmat(self, matrix, memory=None):
        return self._operator.matmat(matrix, memory)

    def _units(self):
        """The block divided by 4^power, as an operator."""
        return self._operator

    @property
    def is_large(self):
        """Whether to form it would take too many products: its trace and Frobenius norm are then estimated."""
        return self.shape[0] > FORMED

    def _scaled(self, value):
        """What was found for `_units`, for the block itself."""
        return value.double()

    def _columns(self):
        """The unit vectors and their products, [P, 64] at a time: the whole block, in P products."""
        chunks = torch.arange(self.shape[0], device=self.device).split(64)
        for rows in tqdm(chunks, desc="columns", leave=False, delay=2):
            units = torch.zeros(self.shape[0], len(rows), dtype=self.dtype, device=self.device)
            units[rows, torch.arange(len(rows), device=self.device)] = 1
            yield units, self._units().matmat(units)

    def trace(self):
        """The trace, exact; from P products where there are no factors."""
        return self._scaled(sum((units * products).sum() for units, products in self._columns()))

    def frobenius(self, memory=None):
        """The Frobenius norm, exact; from P products where there are no factors."""
        return self._scaled(sum(p.square().sum() for _, p in self._columns()).sqrt())

    def norm(self, rtol=1e-4):
        """The spectral norm: the largest magnitude of an eigenvalue."""
        return self.spectrum(1, rtol)[0][0].abs()

    def quotient(self, direction):
        """dᵀHd / dᵀd for a direction [P] or in the shape of the weight."""
        return self._scaled(gradient_quotient(self._units(), direction.flatten()))

    def spectrum(self, k=1, rtol=1e-4):
        """`(values, bounds)`, float64, of the k eigenvalues of largest magnitude (see `layer_spectra`)."""
        values, bounds, _ = self._largest(k, rtol, None)
        return values, bounds

    def _largest(self, k, rtol, near):
        """`(values, bounds, y)`: the k largest eigenvalues in magnitude, or all of a block with fewer.

        y [C, N] are the coordinates r_cn·x of the first eigenvector x, and `near` is a guess of them;
        both are None where the block has no factors.
        """
        if self.shape[0] <= 128:  # small enough to be formed: exact, repeated eigenvalues included
            values, vectors, bounds = self._formed(k)
            return values, bounds, self._coordinates(vectors[:, 0])
        operator, start, generator = self._start(near)
        values, vectors, bounds = top_eigenpairs(operator, min(k, len(start)), rtol, generator, start)
        return self._scaled(values), self._scaled(bounds), self._coordinates(vectors[:, 0], operator)

    def _formed(self, k):
        eye = torch.eye(self.shape[0], dtype=self.dtype, device=self.device)
        dense = self._units().matmat(eye).double()
        # Averaged: eigh reads one triangle. In double: float32's often fails on matrices of low rank.
        values, vectors = torch.linalg.eigh((dense + dense.T) / 2)
        order = values.abs().argsort(descending=True)[:k]
        values, vectors = values[order], vectors[:, order]
        rounding = torch.finfo(self.dtype).eps * (len(dense) + 8) * values[0].abs()
        return self._scaled(values), vectors.to(self.dtype), self._scaled(rounding).expand_as(values)

    def _start(self, near):
        """(operator, first vector, generator) for Lanczos. Fixed: the same input gives the same number."""
        operator, generator = self._gram(), torch.Generator(self.device).manual_seed(0)
        return operator, torch.randn(operator.shape[0], dtype=self.dtype, device=self.device,
                                     generator=generator), generator

    def _gram(self):
        """An operator with the same nonzero eigenvalues, over 4^power."""
        return self._units()

    def _coordinates(self, vector, operator=None):
        return None

    def rows(self, part, of):
        """The block of one of `of` equal parts of the weight's rows, such as the queries' of a fused projection."""
        size = self.shape[0] // of
        return Block(_Part(self._operator, slice(part * size, (part + 1) * size)))


class _Part:
    """A diagonal block of an operator: some of its rows, and the same columns."""

    def __init__(self, operator, kept):
        self.operator, self.kept, self.dtype, self.device = operator, kept, operator.dtype, operator.device
        self.shape = (kept.stop - kept.start,) * 2

    def matmat(self, matrix, memory=None):
        whole = matrix.new_zeros(self.operator.shape[1], matrix.shape[1])
        whole[self.kept] = matrix
        return self.operator.matmat(whole, memory)[self.kept]

    def __matmul__(self, vector):
        return self.matmat(vector[:, None])[:, 0]


def _balanced(factor):
    """The factor over 2^p, and p: with entries of order 1 its squares neither under- nor overflow.

    A power of 2 rounds nothing; 2^±126 still has an inverse in float32.
    """
    low, high = torch.aminmax(factor)
    power = torch.frexp(torch.maximum(high, -low)).exponent.clamp(-126, 126)
    return factor * torch.exp2(-power.to(factor.dtype)), power


class LayerBlock(Block):
    """One layer's Gauss-Newton block [P, P], P = d_out · d_in, held as its factors.

    `inputs` F [N, T, d_in], `curvature` G [C, N, T, d_out], `signs` [C, N] (±1).
    """

    def __init__(self, inputs, curvature, signs):
        (self._inputs, self._in_power), (self._curvature, self._out_power) = map(_balanced, (inputs, curvature))
        self._power, self.signs = self._in_power + self._out_power, signs
        self.shape = (inputs.shape[-1] * curvature.shape[-1],) * 2
        self.dtype, self.device = inputs.dtype, inputs.device

    @property
    def inputs(self):
        """F [N, T, d_in]."""
        return self._inputs * torch.exp2(self._in_power.to(self.dtype))

    @property
    def curvature(self):
        """G [C, N, T, d_out]."""
        return self._curvature * torch.exp2(self._out_power.to(self.dtype))

    is_large = False  # the factors give both exactly

    def _scaled(self, value):
        return value.double() * torch.exp2(2 * self._power.double())

    def _units(self):
        return _Units(self)

    def _matrices(self, vectors):
        """Rows of [K, P] as directions [K, d_out, d_in]."""
        return vectors.reshape(len(vectors), self._curvature.shape[-1], self._inputs.shape[-1])

    def _vectors(self, matrices):
        return matrices.flatten(1)

    def project(self, direction):
        """The numbers v of Theorem 1 in the eigenbasis of H_z: Σ_t G_cntᵀ V F_nt, as [C, N].

        direction: V, in the shape of the weight or flat.
        """
        return self._back(self._coordinates(direction.flatten()), 1)

    def _project(self, matrices):
        images = torch.einsum("nti,koi->knto", self._inputs, matrices)
        return torch.einsum("cnto,knto->kcn", self._curvature, images)

    def _back(self, tensor, times):
        """What was made with `times` pairs of balanced factors, times 2^(power · times)."""
        for _ in range(times):
            for power in (self._in_power, self._out_power):
                tensor = tensor * torch.exp2(power.to(self.dtype))
        return tensor

    def quadratic_form(self, direction):
        """H_w(k)[V, V] of Theorem 1 for V in the shape of the weight: a tensor without dimension."""
        return self._scaled((self.signs * self._coordinates(direction.flatten()) ** 2).sum())

    def combine(self, y):
        """The sums Σ_cn y_cn r_cn for each of y [K, C, N], as [K, P]."""
        return self._back(self._combine(y), 1)

    def _combine(self, y):
        pulled = torch.einsum("kcn,cnto->knto", y, self._curvature)
        return self._vectors(torch.einsum("knto,nti->koi", pulled, self._inputs))

    def _products(self, vectors):
        """Of rows [K, P], in units of 4^power."""
        return self._combine(self.signs * self._project(self._matrices(vectors)))

    def __matmul__(self, vector):
        return self._back(self._products(check_vectors(self, vector, 1)[None])[0], 2)

    def matmat(self, matrix, memory=None):
        """The product with a matrix [P, K], as [P, K]; memory: bytes that a chunk of columns may take."""
        return self._back(self._matmat(check_vectors(self, matrix, 2), memory), 2)

    def _matmat(self, matrix, memory=None):
        samples, places, width = self._curvature.shape[1:]
        chunk = max(1, (memory or 2**28) // (2 * samples * places * width * self._inputs.element_size()))
        return torch.cat([self._products(part) for part in matrix.T.split(chunk)]).T

    def _start(self, near):
        operator, start, generator = super()._start(near)
        if near is not None and near.shape == self.signs.shape:
            guess = near.T.flatten() if isinstance(operator, _Gram) else self._combine(near[None])[0]
            length = torch.linalg.vector_norm(guess)
            start = 0.3 * start / torch.linalg.vector_norm(start) + guess / torch.where(length > 0, length, 1)
        return operator, start, generator

    def _coordinates(self, vector, operator=None):
        if isinstance(operator, _Gram):
            return vector.view(self.signs.shape[::-1]).T
        return self._project(self._matrices(vector[None]))[0]

    def _gram(self):
        """A smaller operator with the same nonzero eigenvalues, or the block itself; both over 4^power.

        The block is R Rᵀ with the terms r_cn as columns of R; RᵀR is only [CN, CN]. A loss that
        is not convex puts signs in between: then, and where CN > P, it is the block.
        """
        dual = (self._inputs.shape[1] == 1 and self.signs.numel() < self.shape[0]
                and bool((self.signs > 0).all()))
        return _Gram(self) if dual else self._units()

    def trace(self):
        """Σ_cn ±‖r_cn‖²: exact. ‖r_cn‖² = Σ_ts (G_cnt·G_cns)(F_nt·F_ns)."""
        if self._inputs.shape[1] == 1:
            sizes = (torch.linalg.vector_norm(self._curvature[:, :, 0], dim=-1)
                     * torch.linalg.vector_norm(self._inputs[:, 0], dim=-1)) ** 2
        else:
            places = self._inputs @ self._inputs.mT
            sizes = torch.stack([(g @ g.mT * places).sum((1, 2)) for g in self._curvature])
        return self._scaled((self.signs * sizes).sum())

    def frobenius(self, memory=2**28):
        """‖H_w(k)‖_F: the Frobenius norm of the CN × CN Gram matrix r_cn·r_dm, in bands that fit memory.

        With T = 1 an entry is (F_n·F_m)(G_cn·G_dm): the Gram matrices of F and of G suffice.
        """
        classes, samples, places, _ = self._curvature.shape
        floats = memory // self._inputs.element_size()
        total = self._inputs.new_zeros(())
        if places == 1:
            rows, flat = self._inputs[:, 0], self._curvature[:, :, 0]
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
        return self._scaled(total.clamp(min=0).sqrt())

    def _rows(self, band):
        """The terms r_cn of some samples, [C · band, d_out · d_in]."""
        return torch.einsum("cnto,nti->cnoi", self._curvature[:, band], self._inputs[band]).flatten(
            2).flatten(0, 1)


    def rows(self, part, of):
        return LayerBlock(self.inputs, self.curvature.chunk(of, dim=-1)[part], self.signs)


class EmbeddingBlock(LayerBlock):
    """The block of an embedding table [V, d]: rows of tokens that the batch lacks have no curvature.

    `inputs` is one-hot over the `tokens` that occur; a direction is V's transpose, restricted to them.
    """

    def __init__(self, inputs, curvature, signs, tokens, table):
        super().__init__(inputs, curvature, signs)
        self.tokens, self.table = tokens, table
        self.shape = (math.prod(table),) * 2

    def _matrices(self, vectors):
        return vectors.view(-1, *self.table)[:, self.tokens].mT

    def _vectors(self, matrices):
        full = matrices.new_zeros(len(matrices), *self.table)
        full[:, self.tokens] = matrices.mT
        return full.flatten(1)


class _Units:
    """A `LayerBlock` over 4^power, as an operator."""

    def __init__(self, block):
        self.block, self.shape, self.dtype, self.device = block, block.shape, block.dtype, block.device

    def __matmul__(self, vector):
        return self.block._products(vector[None])[0]

    def matmat(self, matrix, memory=None):
        return self.block._matmat(matrix, memory)


class _Gram:
    """RᵀR of a `LayerBlock` over 4^power: entries (F_n·F_m)(G_cn·G_dm), never formed."""

    def __init__(self, block):
        self.inputs = block._inputs[:, 0]
        self.curvature = block._curvature[:, :, 0].transpose(0, 1).contiguous()  # [N, C, d_out]
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


def _key(parameter):
    """A weight is called as its module, any other parameter by its full name."""
    return parameter[:-len("weight")].rstrip(".") if parameter.rpartition(".")[2] == "weight" else parameter


def curved_weights(model, frozen=False):
    """{key: name} of every trainable weight: parameters of two or more dimensions that are not a norm's.

    The key is the module's name for `.weight`, else the parameter's full name (attention's
    "attn.in_proj_weight", "lstm.weight_ih_l0"). A weight that several modules share is listed once.
    frozen: list frozen ones, too.

    Raises TypeError if `model` is no module, ValueError where there is none, all are frozen, or a
    layer's weight is computed from other parameters.
    """
    model = original(model)
    for name, module in model.named_modules():
        if isinstance(module, (*WEIGHT_LAYERS, nn.Embedding)) and is_computed(module):
            raise ValueError(f"the weight of {name!r} is computed from other parameters: undo the parametrization "
                             "(torch.nn.utils.parametrize.remove_parametrizations, prune.remove), or ask for "
                             'parameters="all"')
    weights = {name: p for name, p in model.named_parameters()
               if p.ndim > 1 and not isinstance(_owner(model, name), NORM_LAYERS)}
    if not weights:
        raise ValueError("the model has no layers to initialize or to measure: it needs a parameter with two "
                         "dimensions or more, as those of Linear and Conv layers")
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
    return {key: (_owner(model, name), name.rpartition(".")[2], name) for key, name in names.items()}


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _is_plain(module):
    """Whether a module computes what its class in torch does: no subclass, patch, hook or compiled form."""
    return (type(module) in _COVERED and not any(getattr(module, hooks) for hooks in _HOOKS)
            and not {"forward", "__call__"} & vars(module).keys()
            and getattr(module, "_compiled_call_impl", None) is None
            and not any(getattr(nn.modules.module, f"_global{hooks}") for hooks in _HOOKS))


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
    if isinstance(layer, NORM_LAYERS):
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


def _factor_gradients(outputs, us, s, memory):
    """Gradients of the columns of S in each of `us`, a chunk of classes at a time.

    Yields lists of (G [chunk, N, ...], apart) for each u. apart: do samples not see each other between u
    and the outputs? Where they do not, a weight on each sample of any column is one on its G. The column
    that is tried is a random mix of all.
    """
    generator = torch.Generator(s.device).manual_seed(0)
    mix = torch.randn(len(s), 1, 1, dtype=s.dtype, device=s.device, generator=generator)
    weights = torch.randn(s.shape[1], 1, dtype=s.dtype, device=s.device, generator=generator)
    tried = (mix * s).sum(0, keepdim=True)
    columns = torch.cat([weights * tried, tried, s])
    chunk = max(3, memory // sum(2 * u.numel() * u.element_size() for u in us))
    apart = None
    for part in columns.split(chunk):
        gradients = pull_back([outputs], us, [part], batched=True)
        if apart is None:
            errors = [torch.stack([(g[0].flatten(1) - weights * g[1].flatten(1)).norm(), g[0].norm()])
                      for g in gradients]
            tolerance = 4 * torch.finfo(s.dtype).eps ** 0.5
            apart = [error <= tolerance * norm for error, norm in torch.stack(errors).tolist()]
            gradients = [g[2:] for g in gradients]
        yield list(zip(gradients, apart))


def layer_blocks(model, loss_fn, batch, parameters="weights", memory=2**28, layers=None):
    """{layer name: block} for every trainable weight of `model`: its Gauss-Newton block H_w(k).

    torch's dense, convolutional and embedding layers give a `LayerBlock` from one forward pass and a
    backward pass for each class; so do, with parameters="all" (keys are then the parameters' names),
    biases and the weights of norms. Everything else gives a `Block` of the same matrix, known by its
    products only: other layers (attention, recurrent, transposed convolutions) and any subclass; layers
    with hooks or a patched forward; a weight that is used in several modules or outside its own; layers
    that are not fed sample by sample, or samples that see each other; outputs that are not [N, classes];
    and so many classes that the factors of H_z would not fit into `memory`.

    batch: a pair (inputs, targets), or a loader of such pairs, whose blocks are joined; the factors of
        all samples are then in memory at once.
    memory: bytes for the factors of H_z, and again for the backward passes, beside the factors of the
        blocks; classes are taken in chunks.
    layers: keys, or patterns such as "blocks.*", if not all are wanted.

    Raises what `check_batch` raises, ValueError for a model whose weights are all frozen or computed
    from others, for patterns that fit none, and under torch.no_grad().
    """
    if not torch.is_grad_enabled():
        raise ValueError("the layers' curvature is computed by backward passes: call this outside of "
                         "torch.no_grad()")
    model = original(model)
    chosen = _chosen(model, parameters, layers)
    if is_loader(batch):
        return _joined_blocks(model, loss_fn, batch, memory, chosen)
    return _blocks_of_batch(model, loss_fn, batch, memory, chosen)[1]


def _blocks_of_batch(model, loss_fn, batch, memory, chosen):
    """(what the loss's mean divides by, {key: block}) of one batch."""
    outputs, calls = _run_and_listen(model, loss_fn, batch, {m for m, _, _ in chosen.values() if _is_plain(m)})
    samples, uses = len(outputs), _uses(outputs)
    covered = {key: (m, attribute) for key, (m, attribute, _) in chosen.items()
               if attribute in ("weight", "bias") and calls.get(m)
               and uses[getattr(m, attribute)] == len(calls[m])  # else used elsewhere, too
               and all(_fits(m, x, samples) for x, _ in calls[m])}
    fits = outputs.ndim == 2 and outputs.shape[1] * outputs.numel() * outputs.element_size() <= memory
    layers = dict.fromkeys(m for m, _ in covered.values()) if fits else {}
    blocks = {}
    if layers:
        s, signs = output_curvature(loss_fn, outputs, batch[1])
        factors = {key: _factors(m, attribute, [x for x, _ in calls[m]])
                   for key, (m, attribute) in covered.items()}
        stored = {key: [] for key in covered}
        for found in _factor_gradients(outputs, [u for m in layers for _, u in calls[m]], s, memory):
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
            blocks[key] = Block(gauss_newton(model, loss_fn, batch, layer=name))
    return mean_weight(loss_fn, outputs, batch[1]), {key: blocks[key] for key in chosen}


def _run_and_listen(model, loss_fn, batch, layers):
    """The outputs, and {layer: [(input, output) of each call]} of those that were fed one tensor each time."""
    calls, odd = {m: [] for m in layers}, set()

    def capture(layer, args, kwargs, output):
        if kwargs or len(args) != 1 or not isinstance(args[0], torch.Tensor):
            odd.add(layer)
            return None
        calls[layer].append((args[0].detach(), output))
        return output.clone()  # so that an in-place activation leaves our u = W z + b alone

    hooks = [layer.register_forward_hook(capture, with_kwargs=True) for layer in layers]
    try:
        outputs, _ = check_batch(model, loss_fn, batch)
    finally:
        for hook in hooks:
            hook.remove()
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
        alike = None not in found and len({(b._inputs.shape[1:], b._curvature.shape[2:], len(b.signs))
                                           for b in found}) == 1
        if alike:
            blocks[key] = LayerBlock(torch.cat([b.inputs for b in found]),
                                     torch.cat([b.curvature * s for b, s in zip(found, shares)], dim=1),
                                     torch.cat([b.signs for b in found], dim=1))
        else:
            blocks[key] = Block(gauss_newton(model, loss_fn, loader, layer=name))
    return blocks


def layer_gradients(model, loss_fn, batch, parameters="weights", layers=None):
    """{layer name: dL/dW}, for every trainable weight; arguments and errors as `layer_blocks`."""
    model = original(model)
    chosen = _chosen(model, parameters, layers)
    weights = {key: getattr(m, attribute) for key, (m, attribute, _) in chosen.items()}

    def gradients(part):
        outputs, loss = check_batch(model, loss_fn, part)
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        unused = [key for key, g in zip(weights, found) if g is None]
        if unused:
            raise ValueError(f"the loss does not depend on {', '.join(unused)}: freeze them "
                             "(requires_grad=False) or pick other layers")
        return mean_weight(loss_fn, outputs, part[1]), [g.to_dense() if g.is_sparse else g for g in found]

    if not is_loader(batch):
        return dict(zip(weights, gradients(batch)[1]))
    masses, parts = zip(*(result for _, result in each_batch(batch, model, gradients)))
    return {name: sum(mass * g for mass, g in zip(masses, found)) / sum(masses)
            for name, found in zip(weights, zip(*parts))}


def _spectra(blocks, k, rtol):
    """(name, values, bounds) of each block, the last layer first.

    All layers act on the loss through the same few outputs, so that in the coordinates [C, N] the top
    direction of one is near that of the next: as a start it saves a quarter of the products.
    """
    near = None
    for name, block in reversed(blocks.items()):
        values, bounds, near = block._largest(k, rtol, near)
        yield name, values, bounds


def _estimated_traces(model, loss_fn, batch, names):
    """{name: Estimate} of the traces of blocks from random columns of the root of H_z.

    H_z = S Sᵀ and random signs w give r = Jᵀ S w with E ‖r‖² = tr Jᵀ H_z J: one backward pass for all
    layers and each draw. None where the loss has no root in closed form.
    """
    parameters = [model.get_parameter(name) for name in names]

    def squares(part):
        outputs, _ = check_batch(model, loss_fn, part)
        root = output_root(loss_fn, outputs, part[1])
        if root is None:
            return None
        generator = torch.Generator(outputs.device).manual_seed(0)
        found = []
        for _ in range(ESTIMATED_FROM):
            w = torch.empty_like(outputs, requires_grad=False).bernoulli_(0.5, generator=generator) * 2 - 1
            gradients = pull_back([outputs], parameters, [root(w)], batched=False)
            found.append(torch.stack([g.double().square().sum() for g in gradients]))
        return mean_weight(loss_fn, outputs, part[1]), torch.stack(found)

    results = [result for _, result in each_batch(batch if is_loader(batch) else [batch], model, squares)]
    if None in results:
        return None
    total = sum(mass for mass, _ in results)
    values = sum(mass / total * found for mass, found in results)  # [draws, layers]
    errors = values.std(0) / len(values) ** 0.5
    return {name: Estimate(*pair) for name, pair in zip(names, torch.stack([values.mean(0), errors]).T.tolist())}


def layer_traces(model, loss_fn, batch, parameters="weights", layers=None):
    """{layer name: trace of its Gauss-Newton block}, as floats; arguments as `layer_blocks`.

    Exact, but for blocks without factors (`Block`) of more than 2,048 weights: these are estimated from
    64 random columns of the root of H_z (or, for a loss without one in closed form, 64 products), without
    bias, and are then an `Estimate`, a float with its standard error as `.error`.

    Errors as `layer_blocks`.
    """
    model = original(model)
    chosen, blocks = _chosen(model, parameters, layers), layer_blocks(model, loss_fn, batch, parameters, layers=layers)
    large = [key for key, block in blocks.items() if block.is_large]
    guesses = _estimated_traces(model, loss_fn, batch, [chosen[key][2] for key in large]) if large else {}
    guesses = guesses if guesses is not None else {
        chosen[key][2]: _estimate(trace, blocks[key]) for key in large}
    exact = _on_host({key: block.trace() for key, block in blocks.items() if key not in large})
    return {key: exact[key] if key in exact else guesses[chosen[key][2]] for key in blocks}


def _estimate(question, block):
    """What `trace` or `frobenius_norm` of `spectrum` find from products. The same input gives the same number."""
    generator = torch.Generator(block.device).manual_seed(0)
    return Estimate(*map(float, question(block, ESTIMATED_FROM, generator)))


def _on_host(found):
    """{name: float} of {name: float64 tensor}: one transfer."""
    return dict(zip(found, torch.stack(list(found.values())).tolist())) if found else {}


def layer_spectra(model, loss_fn, batch, k=5, rtol=1e-4, parameters="weights", layers=None):
    """{layer name: (values, bounds)} of the k largest eigenvalues of its Gauss-Newton block.

    Lists of floats as `top_eigenvalues` returns them, largest magnitude first, fewer than k for a block
    that has fewer. Repeated eigenvalues may be missed in blocks of more than 128 weights. Errors as
    `layer_blocks`, and ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    blocks = layer_blocks(model, loss_fn, batch, parameters, layers=layers)
    found = {name: torch.stack([values, bounds]) for name, values, bounds in _spectra(blocks, k, rtol)}
    columns = torch.cat(list(found.values()), dim=1).cpu()  # one transfer
    parts = dict(zip(found, columns.split([each.shape[1] for each in found.values()], dim=1)))
    return {name: tuple(parts[name].tolist()) for name in blocks}


def layer_norms(model, loss_fn, batch, norm="spectral", rtol=1e-4, parameters="weights", layers=None):
    """{layer name: norm of its Gauss-Newton block}, as floats.

    norm: "spectral", the largest eigenvalue in magnitude, by Lanczos on the implicit block until its
        residual is below rtol (the eigenvalue's own error is then of order rtol²);
        "frobenius" (for blocks without factors of more than 2,048 weights an `Estimate` from 64
        products); or "gradient", |ĝᵀHĝ| for the layer's normalized gradient ĝ, the value the paper
        plots (weights only). For piecewise-linear activations the blocks equal the Hessian's (Remark 5).
    batch: a pair or a loader. parameters: "weights", or "all" for biases and norms, too. layers: as in
        `layer_blocks`.

    Errors as `layer_blocks`, and ValueError for an unknown norm.
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
        estimates = {name: _estimate(frobenius_norm, block) for name, block in blocks.items() if block.is_large}
        found = {name: block.frobenius() for name, block in blocks.items() if name not in estimates}
    else:
        gradients = layer_gradients(model, loss_fn, batch, layers=layers)
        found = {name: block.quotient(gradients[name]).abs() for name, block in blocks.items()}
    found = {**_on_host(found), **estimates}
    return {name: found[name] for name in blocks}
