"""The Hessian chain rule, layer by layer and exactly: Gauss-Newton blocks without products.

Theorem 1 of Skorski et al.: H_w(k)[g, g] ≈ vᵀ H_z v with v = B A g F, where F is the layer's input,
A the slope of its activation and B the Jacobian of what follows. Write H_z = S Σ Sᵀ per sample
(Σ a diagonal of signs, all +1 for a convex loss) and push the columns of S back through the
network, G = A Bᵀ S. Then the layer's Gauss-Newton block is a sum of rank-one matrices,

    H_w(k) ≈ Σ_cn ±(G_cn F_nᵀ) ⊗ (G_cn F_nᵀ),

and trace, norm and spectrum follow from F and G alone: one forward pass and one batched backward
pass for all layers at once. A layer that is applied at T places of a sample (a sequence) sums its
G Fᵀ over them.
"""

from collections import Counter

import torch
from torch import nn
from torch.nn import functional as F

from .curvature import check_batch, check_vectors, gauss_newton, refuse_once_differentiable, seed_of
from .models import weight_layers
from .spectrum import top_eigenvalues

NORMS = ("spectral", "frobenius", "gradient")


class LayerBlock:
    """One layer's Gauss-Newton block [P, P], P = d_out · d_in, held as its factors.

    `inputs` F [N, T, d_in], `curvature` G [C, N, T, d_out], `signs` [C, N] (±1).
    A symmetric operator like those of `curvature.py`: `.shape`, `@`, `.matmat`.
    """

    def __init__(self, inputs, curvature, signs):
        self.inputs, self.curvature, self.signs = inputs, curvature, signs
        self.shape = (inputs.shape[-1] * curvature.shape[-1],) * 2
        self.dtype, self.device = inputs.dtype, inputs.device

    def project(self, direction):
        """The numbers v of Theorem 1 in the eigenbasis of H_z: Σ_t G_cntᵀ V F_nt, as [C, N].

        direction: V, a matrix [d_out, d_in] in the shape of the weight.
        """
        return torch.einsum("cnto,nto->cn", self.curvature, self.inputs @ direction.T)

    def quadratic_form(self, direction):
        """H_w(k)[V, V] of Theorem 1 for a matrix V [d_out, d_in]: a tensor without dimension."""
        return (self.signs * self.project(direction) ** 2).sum()

    def __matmul__(self, vector):
        d_out, d_in = self.curvature.shape[-1], self.inputs.shape[-1]
        vector = check_vectors(self, vector, 1)
        y = self.signs * self.project(vector.reshape(d_out, d_in))
        pulled = torch.einsum("cn,cnto->nto", y, self.curvature)
        return torch.einsum("nto,nti->oi", pulled, self.inputs).flatten()

    def matmat(self, matrix):
        """The product with a matrix [P, K], as [P, K]."""
        columns = check_vectors(self, matrix, 2).T
        return torch.stack([self @ column for column in columns], dim=1)

    def _rows(self):
        """The rank-one terms G_cn F_nᵀ as matrices, one sample at a time: [C, d_out, d_in]."""
        for n in range(self.inputs.shape[0]):
            yield torch.einsum("cto,ti->coi", self.curvature[:, n], self.inputs[n])

    def gram(self):
        """A smaller operator with the same nonzero eigenvalues, or the block itself.

        The block is R Rᵀ with the terms G_cn F_nᵀ as columns of R; RᵀR is only [CN, CN]. A loss that
        is not convex puts signs in between: then, and where CN > P, it is the block.
        """
        dual = (self.inputs.shape[1] == 1 and self.signs.numel() < self.shape[0]
                and bool((self.signs > 0).all()))
        return _Gram(self) if dual else self

    def trace(self):
        """Σ_cn ±‖G_cn F_nᵀ‖²: exact, a tensor without dimension."""
        if self.inputs.shape[1] == 1:
            sizes = (self.curvature[:, :, 0] ** 2).sum(-1) * (self.inputs[:, 0] ** 2).sum(-1)
        else:
            sizes = torch.stack([(rows ** 2).sum((1, 2)) for rows in self._rows()], dim=1)
        return (self.signs * sizes).sum()

    def frobenius(self):
        """‖H_w(k)‖_F from the NC × NC Gram matrix of the rank-one terms, a sample's rows at a time.

        With T = 1 an entry is (F_n·F_m)(G_cn·G_dm): the Gram matrices of F and of G suffice.
        """
        total = self.inputs.new_zeros(())
        if self.inputs.shape[1] == 1:
            gram_f = self.inputs[:, 0] @ self.inputs[:, 0].T
            flat = self.curvature[:, :, 0]
            for n in range(len(gram_f)):
                gram = torch.einsum("co,dmo->cdm", flat[:, n], flat) * gram_f[n]
                total += torch.einsum("cdm,c,dm->", gram ** 2, self.signs[:, n], self.signs)
        else:
            rows = torch.stack(list(self._rows()), dim=1).flatten(2)
            for n in range(rows.shape[1]):
                gram = torch.einsum("cp,dmp->cdm", rows[:, n], rows)
                total += torch.einsum("cdm,c,dm->", gram ** 2, self.signs[:, n], self.signs)
        return total.clamp(min=0).sqrt()


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


def output_curvature(loss_fn, outputs, targets):
    """Factors of H_z: `(S [C, N, K], signs [C, N])` with D²_{z_n} L = Σ_c signs_cn S_cn S_cnᵀ.

    Closed forms for cross-entropy, where S = (diag √p − p √pᵀ)/√N (so S Sᵀ = (diag p − p pᵀ)/N),
    and for the squared error; any other twice differentiable loss by autograd and an eigenvalue
    decomposition per sample. outputs: [N, K].

    Raises ValueError for a loss that couples samples (its H_z has no per-sample blocks).
    """
    samples, classes = outputs.shape
    z = outputs.detach()
    plain = loss_fn in (F.cross_entropy, F.mse_loss) or (
        isinstance(loss_fn, (nn.CrossEntropyLoss, nn.MSELoss)) and loss_fn.reduction == "mean"
        and getattr(loss_fn, "weight", None) is None)
    if plain and (loss_fn is F.mse_loss or isinstance(loss_fn, nn.MSELoss)):
        s = torch.eye(classes, dtype=z.dtype, device=z.device) * (2 / z.numel()) ** 0.5
        return s[:, None, :].expand(-1, samples, -1), z.new_ones(classes, samples)
    ignored = getattr(loss_fn, "ignore_index", -100)
    if plain and not (targets.ndim == 1 and bool((targets == ignored).any())):
        p = F.softmax(z, dim=1)
        root = p.sqrt()
        s = torch.diag_embed(root) - root[:, :, None] * p[:, None, :]  # [N, c, K]
        return s.transpose(0, 1) / samples ** 0.5, z.new_ones(classes, samples)

    z.requires_grad_()
    loss = loss_fn(z, targets)
    (gradient,) = torch.autograd.grad(loss, z, seed_of(loss), create_graph=True)
    refuse_once_differentiable([gradient])
    basis = torch.eye(classes, dtype=z.dtype, device=z.device)[:, None, :].expand(-1, samples, -1)
    (blocks,) = torch.autograd.grad(gradient, z, basis, is_grads_batched=True, retain_graph=True,
                                    allow_unused=True)
    if blocks is None:  # a loss linear in z has no curvature
        return z.new_zeros(classes, samples, classes), z.new_ones(classes, samples)
    probe = torch.linspace(-1, 1, z.numel(), dtype=z.dtype, device=z.device).view_as(z)
    (product,) = torch.autograd.grad(gradient, z, probe)
    expected = torch.einsum("cnk,nk->nc", blocks, probe)
    if not torch.allclose(product, expected, rtol=1e-3, atol=1e-5 * float(blocks.abs().max())):
        raise ValueError("this loss couples the samples of a batch, so its curvature is no sum over "
                         "samples: use gauss_newton(...) and top_eigenvalues(...)")
    values, vectors = torch.linalg.eigh(blocks.transpose(0, 1))
    s = vectors.transpose(1, 2) * values.abs().sqrt()[:, :, None]
    return s.transpose(0, 1), torch.where(values < 0, -1.0, 1.0).to(z.dtype).T


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


def layer_blocks(model, loss_fn, batch):
    """{layer name: block} for every trainable weight of `model`: its Gauss-Newton block H_w(k).

    Dense layers give a `LayerBlock` from one forward and one batched backward pass, in memory of
    C · N · Σ d_out numbers; other layers (convolutions; layers that are not fed sample by sample,
    or whose weight is used in several modules) the matrix-free `gauss_newton` of the same block.

    Raises what `check_batch` raises, ValueError for a model whose weights are all frozen or
    for outputs that are not [N, classes].
    """
    layers = {name: m for name, m in weight_layers(model).items() if m.weight.requires_grad}
    if not layers:
        raise ValueError("every weight is frozen: set requires_grad=True on some")
    calls = {name: [] for name, m in layers.items() if isinstance(m, nn.Linear)}

    def capture(name):
        def hook(layer, args, output):
            calls[name].append((args[0].detach(), output))
            return output.clone()  # so that an in-place activation leaves our u = W z + b alone
        return hook

    hooks = [layers[name].register_forward_hook(capture(name)) for name in calls]
    try:
        outputs, _ = check_batch(model, loss_fn, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if outputs.ndim != 2:
        raise ValueError(f"outputs must be [N, classes], got shape {tuple(outputs.shape)}: use "
                         "gauss_newton(..., layer=...) for such a model")
    samples, uses = len(outputs), _uses(outputs)
    captured = {name: found for name, found in calls.items()
                if found and uses[layers[name].weight] == len(found)  # else used elsewhere, too
                and all(x.ndim > 1 and len(x) == samples for x, _ in found)}

    blocks = {}
    if captured:
        s, signs = output_curvature(loss_fn, outputs, batch[1])
        us = [u for found in captured.values() for _, u in found]
        pulled = iter(torch.autograd.grad(outputs, us, s, is_grads_batched=True))
        for name, found in captured.items():
            inputs = torch.cat([x.reshape(samples, -1, x.shape[-1]) for x, _ in found], dim=1)
            parts = [(g, u) for (_, u), g in zip(found, pulled)]
            curvature = torch.cat([g.reshape(len(s), samples, -1, u.shape[-1]) for g, u in parts],
                                  dim=2)
            blocks[name] = LayerBlock(inputs, curvature, signs)
    for name in layers:
        if name not in blocks:
            blocks[name] = gauss_newton(model, loss_fn, batch, layer=name)
    return {name: blocks[name] for name in layers}


def layer_gradients(model, loss_fn, batch):
    """{layer name: dL/dW}, for every trainable weight."""
    layers = {name: m.weight for name, m in weight_layers(model).items() if m.weight.requires_grad}
    _, loss = check_batch(model, loss_fn, batch)
    return dict(zip(layers, torch.autograd.grad(loss, list(layers.values()))))


def _exact_trace(block):
    """Trace of an operator from its diagonal: P products, 64 at a time."""
    if isinstance(block, LayerBlock):
        return block.trace()
    total = torch.zeros((), dtype=block.dtype, device=block.device)
    for rows in torch.arange(block.shape[0], device=block.device).split(64):
        units = torch.zeros(block.shape[0], len(rows), dtype=block.dtype, device=block.device)
        units[rows, torch.arange(len(rows), device=block.device)] = 1
        total += (units * block.matmat(units)).sum()
    return total


def _frobenius(block):
    if isinstance(block, LayerBlock):
        return block.frobenius()
    total = torch.zeros((), dtype=block.dtype, device=block.device)
    for rows in torch.arange(block.shape[0], device=block.device).split(64):
        units = torch.zeros(block.shape[0], len(rows), dtype=block.dtype, device=block.device)
        units[rows, torch.arange(len(rows), device=block.device)] = 1
        total += (block.matmat(units) ** 2).sum()
    return total.sqrt()


def layer_traces(model, loss_fn, batch):
    """{layer name: trace of its Gauss-Newton block}, exact, as floats; weights only.

    Errors as `layer_blocks`.
    """
    blocks = layer_blocks(model, loss_fn, batch)
    traces = torch.stack([_exact_trace(block) for block in blocks.values()])
    return dict(zip(blocks, traces.tolist()))


def layer_norms(model, loss_fn, batch, norm="spectral", rtol=1e-4):
    """{layer name: norm of its Gauss-Newton block}, as floats; weights only.

    norm: "spectral", the largest eigenvalue in magnitude, by Lanczos on the implicit block until its
        residual is below rtol (the eigenvalue's own error is then of order rtol²);
        "frobenius"; or "gradient", |ĝᵀHĝ| for the layer's normalized gradient ĝ, the value the paper
        plots. For piecewise-linear activations the blocks equal the Hessian's (Remark 5).

    Errors as `layer_blocks`, and ValueError for an unknown norm.
    """
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")
    blocks = layer_blocks(model, loss_fn, batch)
    gradients = layer_gradients(model, loss_fn, batch) if norm == "gradient" else {}
    found = []
    for name, block in blocks.items():
        unit_of_curvature = torch.ones((), dtype=torch.float64, device=block.device)
        if isinstance(block, LayerBlock):  # squares of small factors would underflow
            size = block.curvature.abs().amax()
            size = torch.where(size > 0, size, torch.ones_like(size))
            unit_of_curvature = size.double() ** 2
            block = LayerBlock(block.inputs, block.curvature / size, block.signs)
        if norm == "spectral":
            # A fixed start: the same model and batch give the same number.
            generator = torch.Generator(block.device).manual_seed(0)
            operator = block.gram() if isinstance(block, LayerBlock) else block
            value = top_eigenvalues(operator, rtol=rtol, generator=generator)[0][0]
        elif norm == "frobenius":
            value = _frobenius(block)
        else:
            g = gradients[name].flatten()
            size = torch.linalg.vector_norm(g)
            unit = g / torch.where(size > 0, size, torch.ones_like(size))
            value = torch.dot(unit, block @ unit)
        found.append(value.abs() * unit_of_curvature)
    return dict(zip(blocks, torch.stack(found).tolist()))
