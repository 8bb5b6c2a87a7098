"""Dense float64 curvature matrices: the reference that every operator is tested against."""

import torch
from torch.func import functional_call
from torch.nn import functional as F

import hessinit_lite as hl

LOSSES = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss, "logistic": F.binary_cross_entropy_with_logits}


def problem(activation="tanh", loss="cross_entropy", bias=True, seed=0, sizes=(3, 4, 3, 2), samples=5):
    """A tiny float64 `(model, loss_fn, batch)`. sizes: inputs, width, depth, outputs."""
    generator = torch.Generator().manual_seed(seed)
    model = hl.MLP(*sizes, activation=activation, bias=bias).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.7, generator=generator)
    return model, LOSSES[loss], targets_for(loss, samples, sizes[0], sizes[3], generator)


def targets_for(loss, samples, inputs, classes, generator):
    x = torch.randn(samples, inputs, dtype=torch.float64, generator=generator)
    if loss == "logistic":
        return x, torch.rand(samples, classes, dtype=torch.float64, generator=generator)
    if loss == "mse":
        return x, torch.randn(samples, classes, dtype=torch.float64, generator=generator)
    return x, torch.randint(classes, (samples,), generator=generator)


def _function_of_vector(model, names, of):
    """(of(outputs) as a function of the named parameters in one vector, that vector)."""
    parameters = dict(model.named_parameters())
    chosen = [parameters[n] for n in names]

    def function(vector):
        parts = vector.split([p.numel() for p in chosen])
        values = {n: part.view_as(p) for n, part, p in zip(names, parts, chosen)}
        return of(lambda x: functional_call(model, {**parameters, **values}, (x,)))

    return function, torch.cat([p.detach().flatten() for p in chosen])


def dense_hessian(model, loss_fn, batch, names=None):
    """The Hessian over the named parameters (all trainable ones if None), from torch's own tool."""
    names = names or [n for n, p in model.named_parameters() if p.requires_grad]
    function, vector = _function_of_vector(
        model, names, lambda call: loss_fn(call(batch[0]), batch[1]))
    return torch.autograd.functional.hessian(function, vector)


def dense_gauss_newton(model, loss_fn, batch, names=None):
    """Jᵀ H_z J with J and H_z formed as matrices."""
    names = names or [n for n, p in model.named_parameters() if p.requires_grad]
    function, vector = _function_of_vector(model, names, lambda call: call(batch[0]))
    outputs = function(vector).detach()
    jacobian = torch.autograd.functional.jacobian(function, vector).flatten(0, -2)
    h_z = torch.autograd.functional.hessian(lambda z: loss_fn(z, batch[1]), outputs)
    return jacobian.T @ h_z.reshape(outputs.numel(), -1) @ jacobian


def dense_of(operator):
    """The matrix of an operator, column by column."""
    eye = torch.eye(operator.shape[1], dtype=operator.dtype)
    return torch.stack([operator @ e for e in eye], dim=1)
