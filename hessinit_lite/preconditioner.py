"""Adam's coordinates: the step of an optimizer, and the curvature that it meets.

Adam divides a step by a diagonal P, w' = w − η P⁻¹ m. In the coordinates P^½ w this is momentum
with the matrix P^-½ H P^-½, whose largest eigenvalue must stay below (2 + 2β₁) / ((1 − β₁) η), 38/η
at β₁ = 0.9 (Cohen et al. 2022).
"""

import copy

import torch
from torch import nn

from .curvature import check_vectors


class Preconditioned:
    """P^-½ A P^-½ for a diagonal P, known by its products: see `preconditioned`."""

    def __init__(self, operator, diagonal):
        self.operator, self.root = operator, diagonal.rsqrt()
        for name in ("shape", "dtype", "device", "names", "loss", "agree"):
            if hasattr(operator, name):
                setattr(self, name, getattr(operator, name))

    @property
    def gradient(self):
        """The gradient in the coordinates P^½ w, [P]."""
        return self.root * self.operator.gradient

    def __matmul__(self, vector):
        return self.root * (self.operator @ (self.root * check_vectors(self, vector, 1)))

    def matmat(self, matrix, memory=None):
        """The product with a matrix [P, K], as [P, K]; `memory` as a CurvatureOperator's."""
        options, root = {} if memory is None else {"memory": memory}, self.root[:, None]
        return root * self.operator.matmat(root * check_vectors(self, matrix, 2), **options)


def preconditioned(operator, diagonal):
    """P^-½ A P^-½ as an operator, whose eigenvalues are those of P⁻¹A.

    Args:
        operator: a square operator [P, P], such as `hessian`'s, of one process or several.
        diagonal: the entries of P, [P], all positive: such as `adam_preconditioner`'s.

    Raises:
        TypeError, ValueError: for a diagonal of another length, dtype or device than the operator,
            with entries that are not positive and finite, or for an operator that is no square.

    Example:
        >>> matrix, diagonal = torch.diag(torch.tensor([4.0, 9.0])), torch.tensor([1.0, 3.0])
        >>> values, _ = hl.top_eigenvalues(hl.preconditioned(matrix, diagonal), k=2)
        >>> values.round().tolist()
        [4.0, 3.0]
    """
    check_vectors(operator, diagonal, 1)
    if operator.shape[0] != operator.shape[1]:
        raise ValueError(f"the operator must be a square, it is {list(operator.shape)}")
    if not bool((torch.isfinite(diagonal) & (diagonal > 0)).all()):
        raise ValueError("the diagonal must be positive and finite in every entry")
    return Preconditioned(operator, diagonal)


def adam_preconditioner(operator, optimizer=None, eps=1e-8):
    """Adam's diagonal P = v̂^½ + ε for the parameters of an operator, in their order: [P].

    Args:
        operator: a curvature operator, for its parameters and gradient.
        optimizer: a `torch.optim` Adam or AdamW that has made a step: v̂ is its running mean of
            squared gradients without the bias of its start (the largest so far with amsgrad), ε its
            own. By default that of Adam's first step, v̂ = g² for the operator's gradient.
        eps: ε for the first step.

    Raises:
        ValueError: for an optimizer without such a state for one of the parameters.

    Example:
        >>> model, batch = hl.MLP(2, 3, 2, 2), (torch.ones(4, 2), torch.ones(4, 2))
        >>> operator = hl.hessian(model, F.mse_loss, batch)
        >>> diagonal = hl.adam_preconditioner(operator)
        >>> bool(torch.equal(diagonal, operator.gradient.abs() + 1e-8))
        True
    """
    if optimizer is None:
        return operator.gradient.abs() + eps
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    parts = []
    for name, p in zip(operator.names, operator.parameters):
        state, group = optimizer.state.get(p, {}), groups.get(id(p))
        square = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
        if square is None:
            raise ValueError(f"the optimizer has no running mean of squares for {name}: step first")
        share = 1 - group["betas"][1] ** float(state["step"])
        parts.append(((square / share).sqrt() + group["eps"]).flatten())
    return torch.cat(parts)


def direction(optimizer, parameters, gradients):
    """The optimizer's next step at rate 1, with the sign turned, by parameter.

    Arguments and errors as `critical_rate`'s.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        if optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer must be 'sgd', 'adam' or torch.optim's, got {optimizer!r}")
        first = (single(g) for g in gradients)
        return gradients if optimizer == "sgd" else [g / (g.abs() + 1e-8) for g in first]
    groups = optimizer.param_groups
    rate = "lr" if float(groups[0]["lr"]) else "initial_lr"  # 0 at the start of a warm-up
    rates = [float(group.get(rate, 0)) for group in groups]
    own = {id(p): nn.Parameter(single(p.detach()).clone()) for g in groups for p in g["params"]}
    moving = [(own.get(id(p)), g) for p, g in zip(parameters, gradients)]
    if not rates[0] or all(q is None for q, _ in moving):
        raise ValueError("the optimizer's rate is 0, or it holds no parameter of the model")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("LBFGS searches along its step by itself: there is no rate to find")
    tensors = [t for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
    twin = copy.deepcopy(optimizer, {id(t): single(t).clone() for t in tensors} | own)
    for group, each in zip(twin.param_groups, rates):
        group["lr"] = each / rates[0]
    start = [None if q is None else q.detach().clone() for q, _ in moving]
    for q, g in moving:
        if q is not None:
            q.grad = single(g)
    twin.step()  # of weights and a state of its own: nothing else is moved
    pairs = zip(moving, start)
    return [torch.zeros_like(g) if q is None else old - q.detach() for (q, g), old in pairs]


def single(value):
    """A tensor of half precision in single precision; anything else as it is."""
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value
