"""Curvature of the loss in the outputs, H_z = D²_z L: its products, its root and its factors.

A class for each loss whose H_z is known in closed form, torch's mean cross-entropy (class weights,
ignored labels, label smoothing and probabilities as targets included), squared error and logistic
error; `ByAutograd` for any other twice differentiable loss.
"""

import functools

import torch
from torch import nn
from torch.nn import functional as F

from .autograd import differentiate, refuse_once_differentiable, seed_of


def ignored_label(loss_fn):
    """The label of places that a loss leaves out: torch's default where it does not say."""
    label = getattr(loss_fn, "ignore_index", None)
    return -100 if label is None else label


class OutputHessian:
    """H_z of a loss at `outputs` [N, K, ...] (or any shape, for losses without classes).

    `product(v)` and `root(w)` take v, w `[..., *outputs.shape]`. Of random signs w, `root` makes
    random columns of S in H_z = S Sᵀ: E (S w)(S w)ᵀ = H_z. `mass` is what the mean over the batch
    divides by: how much the batch counts beside others; a float, or a tensor without dimension.
    """

    def __init__(self, loss_fn, outputs, targets):
        self.loss_fn, self.z, self.targets = loss_fn, outputs.detach(), targets

    @property
    def mass(self):
        return float(self.targets.numel())

    def gradient(self):
        """The gradient of the loss in the outputs."""
        z = self.z.detach().requires_grad_()
        loss = self.loss_fn(z, self.targets)
        return torch.autograd.grad(loss, z, seed_of(loss))[0]

    def factors(self):
        """`(S [C, N, K], signs [C, N])` with D²_{z_n} L = Σ_c signs_cn S_cn S_cnᵀ, for z [N, K]."""
        raise NotImplementedError


class Diagonal(OutputHessian):
    """A loss that is a mean over single outputs: H_z is its `diagonal`, of the outputs' shape."""

    @classmethod
    def fits(cls, loss_fn, outputs, targets):
        weights = (getattr(loss_fn, attribute, None) for attribute in ("weight", "pos_weight"))
        return targets.shape == outputs.shape and all(w is None for w in weights)

    def product(self, v):
        return v * self.diagonal

    def root(self, w):
        return w * self.diagonal.sqrt()

    def factors(self):
        s = torch.diag_embed(self.diagonal.sqrt())
        return s.transpose(0, 1), self.z.new_ones(self.z.shape[::-1])


class SquaredError(Diagonal):
    """Σ (z − t)² / M over all M outputs: H_z = 2/M."""

    of = F.mse_loss, nn.MSELoss

    @functools.cached_property
    def diagonal(self):
        return torch.full_like(self.z, 2 / self.z.numel())


class LogisticError(Diagonal):
    """−Σ log σ(±z) / M over all M outputs: H_z = σ(z) σ(−z) / M."""

    of = F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss

    @functools.cached_property
    def diagonal(self):
        return torch.sigmoid(self.z) * torch.sigmoid(-self.z) / self.z.numel()


class CrossEntropy(OutputHessian):
    """Σ_n w_n (−log p_n) / mass, p = softmax z: H_z = a_n (diag p − p pᵀ) with a_n = w_n / mass.

    Every −log p_c has the same Hessian, so that label smoothing and soft targets only change how
    much a place counts. The classes are axis 1; every place in the other axes is a sample.
    """

    of = F.cross_entropy, nn.CrossEntropyLoss

    @classmethod
    def fits(cls, loss_fn, outputs, targets):
        return outputs.ndim > 1

    @functools.cached_property
    def counts_and_mass(self):
        classes, targets = self.z.shape[1], self.targets
        weight = getattr(self.loss_fn, "weight", None)
        smoothing = getattr(self.loss_fn, "label_smoothing", 0.0)
        weight = self.z.new_ones(classes) if weight is None else weight.to(self.z)
        if targets.is_floating_point():
            q = targets.to(self.z) * (1 - smoothing) + smoothing / classes
            counts = torch.einsum("nc...,c->n...", q, weight)
            return counts, torch.full_like(counts[:1].sum(), counts.numel())
        kept = targets != ignored_label(self.loss_fn)
        own = weight[targets.where(kept, torch.zeros_like(targets))] * kept
        return (1 - smoothing) * own + smoothing * weight.mean() * kept, own.sum()

    @property
    def mass(self):
        return self.counts_and_mass[1]

    @functools.cached_property
    def _a(self):
        counts, mass = self.counts_and_mass
        return (counts / mass).unsqueeze(1)

    @functools.cached_property
    def _p(self):
        return F.softmax(self.z, dim=1)

    @functools.cached_property
    def _likeliest(self):
        return self._p.argmax(1, keepdim=True)

    @functools.cached_property
    def _roots(self):
        """(√p, √a)."""
        return self._p.sqrt(), self._a.sqrt()

    def product(self, v):
        # H_z 1 = 0, so v may be shifted: without the likeliest class nothing cancels in p·v.
        p, top, axis = self._p, self._likeliest, 1 - self.z.ndim
        v = v - v.gather(axis, top.expand(*v.shape[: v.ndim - self.z.ndim], *top.shape))
        return p * (v - (p * v).sum(axis, keepdim=True)) * self._a

    def root(self, w):
        """S = √a (diag q − p qᵀ) with q = √p."""
        (q, root_a), axis = self._roots, 1 - self.z.ndim
        found = q * w  # in place from here: with many classes memory is what takes the time
        return found.addcmul_(self._p, found.sum(axis, keepdim=True), value=-1).mul_(root_a)

    def factors(self):
        """H_z = a D (I − q qᵀ) D with D = diag q: K − 1 columns, since its rank is K − 1.

        q = √p is a unit vector. The Householder reflection that takes it to −e_j turns the
        projector into K − 1 columns; with j the likeliest class no digits cancel.
        """
        q, root_a = self._roots
        if q.shape[1] == 1:
            return torch.zeros_like(q)[None], torch.ones_like(q).T
        j, rows = self._likeliest[:, 0], torch.arange(len(q), device=q.device)
        v = q.clone()
        v[rows, j] += 1
        s = -v[:, :, None] * v[:, None, :] / v[rows, j][:, None, None]  # [N, c, K]
        s.diagonal(dim1=1, dim2=2).add_(1)
        s[rows, j] = s[:, -1].clone()  # column j is left out
        s = s[:, :-1] * q[:, None, :] * root_a[:, :, None]
        return s.transpose(0, 1), q.new_ones(s.shape[1], len(s))


class ByAutograd(OutputHessian):
    """Any loss that can be differentiated twice: H_z v is the derivative of (D_z L)·v."""

    root = None

    @property
    def mass(self):
        """For want of better knowledge: the samples; of labels, those that torch's losses count."""
        if self.targets.is_floating_point():
            return float(len(self.targets))
        return (self.targets != ignored_label(self.loss_fn)).sum(dtype=self.z.dtype)

    @functools.cached_property
    def _gradient(self):
        """With its graph, in `self.z`."""
        self.z.requires_grad_()
        loss = self.loss_fn(self.z, self.targets)
        (gradient,) = torch.autograd.grad(loss, self.z, seed_of(loss), create_graph=True)
        refuse_once_differentiable([gradient])
        return gradient

    def gradient(self):
        return self._gradient.detach()

    def product(self, v):
        return differentiate([self._gradient], [self.z], [v], batched=v.ndim > self.z.ndim)[0]

    def factors(self):
        """From the eigenvectors of every sample's own block."""
        samples, classes = self.z.shape
        basis = torch.eye(classes, dtype=self.z.dtype, device=self.z.device)[:, None, :]
        # A probe on some samples must leave the others alone. Bits of their numbers tell all apart.
        numbers = torch.arange(samples, device=self.z.device)
        bits = range(max(1, (samples - 1).bit_length()))
        some = torch.stack([(numbers >> bit) % 2 == 1 for bit in bits])
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(samples, classes, generator=generator, dtype=torch.float64).to(self.z)
        vectors = torch.cat([basis.expand(-1, samples, -1), probe * some[:, :, None]])
        blocks, probed = self.product(vectors).split([classes, len(some)])
        if bool(probed[~some].abs().sum() > 1e-6 * probed.abs().sum()):
            what = "this loss couples the samples of a batch, so its curvature is no sum over them"
            raise ValueError(f"{what}: use gauss_newton(...) and top_eigenvalues(...)")
        values, vectors = torch.linalg.eigh(blocks.transpose(0, 1))
        s = vectors.transpose(1, 2) * values.abs().sqrt()[:, :, None]
        return s.transpose(0, 1), torch.where(values < 0, -1.0, 1.0).to(self.z.dtype).T


class LogLikelihood(ByAutograd):
    """−Σ_n w_n z_n / mass of log-probabilities z: linear in them, so H_z = 0."""

    of = F.nll_loss, nn.NLLLoss
    fits, mass, counts_and_mass = CrossEntropy.fits, CrossEntropy.mass, CrossEntropy.counts_and_mass


KNOWN = CrossEntropy, SquaredError, LogisticError, LogLikelihood


def as_module(loss_fn):
    """A partial of one of torch's functions as the module, which says what it was given."""
    if isinstance(loss_fn, functools.partial) and not loss_fn.args:
        modules = dict(known.of for known in KNOWN)
        return modules[loss_fn.func](**loss_fn.keywords) if loss_fn.func in modules else loss_fn
    return loss_fn


def is_torchs(loss_fn, function, kind):
    """Whether `loss_fn` is torch's function or module itself: a subclass may compute anything."""
    return loss_fn is function or (type(loss_fn) is kind and "forward" not in vars(loss_fn))


def output_hessian(loss_fn, outputs, targets):
    """H_z as an object of the class above that knows `loss_fn`; a sum is left to `ByAutograd`."""
    loss_fn = as_module(loss_fn)
    for known in KNOWN:
        is_mean = getattr(loss_fn, "reduction", "mean") == "mean"
        if is_torchs(loss_fn, *known.of) and is_mean and known.fits(loss_fn, outputs, targets):
            return known(loss_fn, outputs, targets)
    return ByAutograd(loss_fn, outputs, targets)


def output_curvature(loss_fn, outputs, targets):
    """Factors of H_z: `(S [C, N, K], signs [C, N])` with D²_{z_n} L = Σ_c signs_cn S_cn S_cnᵀ.

    C = K columns, for the cross-entropy one fewer, since its H_z ∝ diag p − p pᵀ has rank K − 1.
    Where there is no closed form, from an eigenvalue decomposition per sample. `outputs` are [N,
    K].

    Raises:
        ValueError: for a loss that couples samples (its H_z has no per-sample blocks) or that
            cannot be differentiated twice.

    Example:
        >>> outputs, targets = torch.zeros(2, 3), torch.tensor([0, 2])
        >>> s, signs = hl.output_curvature(F.cross_entropy, outputs, targets)
        >>> s.shape, signs.shape
        (torch.Size([2, 2, 3]), torch.Size([2, 2]))
    """
    return output_hessian(loss_fn, outputs, targets).factors()
