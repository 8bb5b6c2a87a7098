"""Curvature of parameters that are spread over processes (FSDP2's `fully_shard`), by differences.

Such a model gathers its weights layer by layer and spreads its gradients as they come, which cannot
be differentiated again. But the gradient can be taken at two places: with a short step h along v,

    H v ≈ (∇L(w + h v) − ∇L(w − h v)) / 2h,    J v ≈ (z(w + h v) − z(w − h v)) / 2h

up to terms of order h², and Jᵀ H_z (J v) is one more gradient. Weights, gradients and graphs stay
spread; the vectors, [P], do not.
"""

import contextlib

import torch
from torch import distributed as dist

from .critical import gradients_of, kept, whole
from .curvature import check_batch, check_vectors
from .losses import output_hessian


class ShardedOperator:
    """The Hessian, or the Gauss-Newton matrix, of the mean loss over all ranks' samples.

    Made by `parallel.hessian` and `parallel.gauss_newton`. Every rank asks for the same, with the
    same vectors. A product costs two gradients, or two forward passes and a gradient; a graph is
    not kept. Known as a CurvatureOperator is, and by `.error`: about how much of a product's length
    is wrong, as seen on one random vector at h and 2h. In double precision it is 1e-9 or so, in
    single precision 1e-4 to 1e-3, which trace and largest eigenvalue bear.

    Example:
        >>> # after parallel.start() and fully_shard(model), on every rank
        >>> operator = hl.parallel.hessian(model, loss_fn, shard)  # doctest: +SKIP
        >>> operator.error < 1e-2  # doctest: +SKIP
        True
    """

    def __init__(self, model, loss_fn, shard, linear):
        self._model, self._loss_fn, self._shard, self._linear = model, loss_fn, shard, linear
        with kept(model) as (parameters, start_again):
            self.names = [name for name, p in model.named_parameters() if p.requires_grad]
            self.parameters = parameters
            start_again()
            outputs, loss = check_batch(model, loss_fn, shard)
            mass = float(output_hessian(loss_fn, outputs, shard[1]).mass)
            sums = loss.new_tensor([mass, mass * loss.detach(), len(shard[1])], dtype=torch.float64)
            dist.all_reduce(sums)
            squares = torch.stack([whole(p.detach().square().sum()) for p in parameters])
        total, lost, samples = sums.tolist()
        # fully_shard takes the mean over ranks, whatever they hold.
        self._share = mass / total * dist.get_world_size()
        self.shape = (sum(p.numel() for p in parameters),) * 2
        self.dtype, self.device = parameters[0].dtype, parameters[0].device
        self.loss, self.samples = torch.tensor(lost / total, dtype=self.dtype), int(samples)
        # Where rounding, eps/h, and what is left out, h², are about alike.
        size = 1 + float(squares.sum().sqrt())
        self._length = 0.2 * size * torch.finfo(self.dtype).eps ** (1 / 3)
        self.gradient = self._gradient_at(None)
        generator = torch.Generator(self.device).manual_seed(0)
        tried = torch.randn(self.shape[1], device=self.device, generator=generator).to(self.dtype)
        near, far = self @ tried, self._product(tried, 2 * self._length)
        self.error = float((far - near).norm() / near.norm().clamp(min=1e-30))

    def __matmul__(self, vector):
        return self._product(check_vectors(self, vector, 1), self._length)

    def matmat(self, matrix, memory=None):
        """The product with a matrix [P, K], column by column; `memory` is not needed."""
        columns = check_vectors(self, matrix, 2).T
        return torch.stack([self @ column for column in columns], 1) if len(columns) else matrix

    def agree(self, vectors):
        """`vectors` of rank 0, on all ranks."""
        vectors = vectors.contiguous()
        dist.broadcast(vectors, 0)
        return vectors

    def _product(self, vector, length):
        h = float(length / vector.norm().clamp(min=1e-30))
        if not self._linear:
            return (self._gradient_at(h * vector) - self._gradient_at(-h * vector)) / (2 * h)
        with torch.no_grad():
            ahead, behind = self._outputs_at(h * vector), self._outputs_at(-h * vector)
        return self._gradient_at(None, (ahead - behind) / (2 * h))

    def _gradient_at(self, step, jv=None):
        """∇L at the weights moved by a step [P], or Jᵀ H_z jv there, on every rank."""
        with self._moved(step) as parameters:
            outputs, loss = check_batch(self._model, self._loss_fn, self._shard)
            if jv is not None:
                curve = output_hessian(self._loss_fn, outputs, self._shard[1])
                loss = (outputs * curve.product(jv).detach()).sum()
            found = gradients_of(self._share * loss, parameters)
            return torch.cat([whole(g).flatten() for g in found])

    def _outputs_at(self, step):
        with self._moved(step):
            return check_batch(self._model, self._loss_fn, self._shard)[0]

    @contextlib.contextmanager
    def _moved(self, step):
        """The trainable parameters, moved by a step [P] for a while."""
        from torch.distributed.tensor import distribute_tensor

        with kept(self._model) as (parameters, start_again):
            start = [p.detach().clone() for p in parameters]
            parts = [] if step is None else step.split([p.numel() for p in parameters])
            try:
                for p, part in zip(parameters, parts):
                    part = part.view(p.shape)
                    if hasattr(p, "device_mesh"):
                        part = distribute_tensor(part, p.device_mesh, p.placements)
                    p.data.add_(part)
                start_again()
                yield parameters
            finally:
                for p, old in zip(parameters, start):
                    p.data.copy_(old)
