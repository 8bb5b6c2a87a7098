"""The critical rate: how far one may step down before the loss is back where it was.

Forward passes and one gradient, no second derivative: it can be had for models that are compiled,
sharded, of half precision, or built on attention kernels that differentiate only once.
"""

import contextlib
import math
from dataclasses import dataclass, field

import torch
from torch import distributed as dist

from .autograd import call, map_tensors, nodes, random_states, set_random_states
from .curvature import check_pair, loss_of
from .models import original
from .preconditioner import direction, single

FARTHEST = 1e9  #: no return before so many times the rate at which the gradient promises loss 0


@dataclass
class CriticalRate:
    """What `critical_rate` found.

    Example:
        >>> hl.CriticalRate(rate=0.5, slope=3.0, path=[(0.0, 1.0), (0.4, 0.8), (0.5, 1.0)])
        critical rate 0.5, critical sharpness 4 (3 forward passes)
    """

    rate: float  #: at which the loss is back; 0 if it never falls, inf if it never comes back
    slope: float  #: by which it falls at first, for a unit of the rate
    path: list = field(default_factory=list)  #: (rate, loss) as tried, the first of rate 0

    @property
    def sharpness(self):
        """The curvature along the step if the loss were a quadratic, 2 / rate."""
        return 2 / self.rate if self.rate else math.inf

    @property
    def forwards(self):
        """Forward passes taken, beside the one of the gradient."""
        return len(self.path)

    def __repr__(self):
        said = f"critical rate {self.rate:.3g}, critical sharpness {self.sharpness:.3g}"
        if self.rate == 0:
            said = "critical rate 0: the optimizer's next step leads uphill from its start"
        if self.rate == math.inf:
            said = f"no critical rate: the loss is not back at any rate to {self.path[-1][0]:.3g}"
        return f"{said} ({self.forwards} forward passes)"


def critical_rate(model, loss_fn, batch, optimizer="sgd", rtol=0.05, max_forwards=40):
    """The rate η_c at which a step of the optimizer brings the loss back to where it was.

    Along the step −ηd the loss falls at first, by η g·d. On a quadratic it is back at η_c = 2 g·d /
    dᵀHd, so that the critical sharpness 2/η_c (Kalra et al. 2026) is the curvature along the step:
    for SGD the gradient quotient, never above λ; for Adam the quotient of P^-½HP^-½ along P^-½g,
    never above its largest eigenvalue. A rate above η_c raises the loss at once; one below need not
    be stable for many steps.

    The model is asked in the mode it is in: batch norm in train mode normalizes by the batch, and
    all passes draw the same dropout. Weights, buffers, gradients and random state are put back.
    Parameters sharded by FSDP2 (`fully_shard`) or as DTensors are taken, too: every rank calls with
    a batch of one size, and all get the answer for the mean of their losses.

    Args:
        batch: `(inputs, targets)`; a tuple or mapping of inputs is unpacked for the model.
        optimizer: "sgd": d is the gradient g. "adam": Adam's first step, `g / (abs(g) + 1e-8)`.
            Or a `torch.optim` optimizer of the model: its next step for this gradient, by a copy of
            its state (momentum, weight decay). The rate is that of its first group, and the
            others keep their proportion to it.
        rtol: of the rate.
        max_forwards: forward passes to spend; six to fourteen are used as a rule.

    Returns:
        A CriticalRate. Between two tried rates the loss may have come back earlier for a while.

    Raises:
        TypeError, ValueError: for a malformed batch, labels out of range, a loss or gradient that
            is not finite, a gradient that is zero, an optimizer that is unknown or holds none of
            the model's parameters, losses that differ by no more than their rounding, an rtol not
            between 0 and 1, and a model that is wrapped for data parallelism.

    Example:
        >>> model, inputs = nn.Linear(2, 1, bias=False), torch.diag(torch.tensor([2.0, 1.0]))
        >>> _ = nn.init.eye_(model.weight)  # weights (1, 0); the Hessian is diag(4, 1)
        >>> hl.critical_rate(model, F.mse_loss, (inputs, torch.zeros(2, 1)))
        critical rate 0.5, critical sharpness 4 (3 forward passes)
    """
    if not 0 < rtol < 1:
        raise ValueError(f"rtol must lie between 0 and 1, got {rtol!r}")
    if hasattr(original(model), "module") and "Parallel" in type(original(model)).__name__:
        raise ValueError("the model is wrapped for data parallelism: pass its .module")
    inputs, targets = check_pair(batch)
    with kept(model) as (parameters, start_again):

        def loss():
            start_again()
            outputs = call(model, map_tensors(inputs, torch.clone))  # it may change them in place
            return loss_of(loss_fn, single(outputs), single(targets))[1]

        gradients = gradients_of(loss(), parameters)
        steps = direction(optimizer, parameters, gradients)
        squares = [(single(g) * single(d)).sum() for g, d in zip(gradients * 2, steps + gradients)]
        sums = torch.stack([whole(x) for x in squares]).double().view(2, -1).sum(1)
        slope, square = sums.tolist()
        if not (math.isfinite(slope) and square):
            what = "not finite" if square else "zero (in this precision): no way is down"
            raise ValueError(f"the gradient is {what}; check the inputs and the weights' scale")
        del gradients
        weights, start = [p.data for p in parameters], [p.detach().clone() for p in parameters]

        @torch.no_grad()
        def loss_at(rate):
            for w, old, d in zip(weights, start, steps):
                w.copy_(old if rate == 0 else old - (rate * d).to(old.dtype))
            return _mean(loss(), parameters)

        try:
            return _search(loss_at, slope, rtol, max_forwards)
        finally:
            for w, old in zip(weights, start):
                w.copy_(old)


def _search(loss_at, slope, rtol, most):
    """The return of the loss: doubling, then Brent's method on (L(η) − L(0)) / η.

    That quotient is a straight line where the loss is a parabola, and at 0 it is −slope.
    """
    from scipy.optimize import brentq

    first, rounding = loss_at(0.0)
    if not math.isfinite(first):
        raise ValueError(f"the loss is {first}: check the inputs and the weights' scale")
    path, known = [(0.0, first)], {0.0: -slope}

    def quotient(rate):
        if rate not in known:
            if len(path) == most:
                spent = f"{most} forward passes"
                raise ValueError(f"the loss is not back after {spent}: raise max_forwards")
            path.append((rate, loss_at(rate)[0]))
            change = (path[-1][1] - first) / rate
            known[rate] = change if change < 3 * slope else 3 * slope  # also of an overflow
        return known[rate]

    if slope <= 0:
        return CriticalRate(0.0, slope, path)
    high = unit = (abs(first) or 1.0) / slope
    fall = 8 * rounding * abs(first) / slope  # a parabola falls by a quarter of rate * slope
    while quotient(high) >= 0 and high / 8 > fall:
        high /= 8
    while quotient(high) < 0 and high < FARTHEST * unit:
        straight = high * slope / max(slope + quotient(high), slope / 8)
        high = min(max(2 * high, straight * (1 + rtol)), 4 * high)
    if quotient(high) < 0:
        return CriticalRate(math.inf, slope, path)
    low = max(rate for rate in known if known[rate] < 0 and rate < high)
    rate = brentq(quotient, low, high, rtol=rtol / 2, xtol=1e-9 * high)
    if rate / 4 > fall:
        return CriticalRate(rate, slope, path)
    raise ValueError(
        f"along the step the loss {first:.6g} changes by no more than its rounding: ask in double "
        "precision, or on more samples"
    )


@contextlib.contextmanager
def kept(model):
    """(trainable parameters, a function that puts random state and buffers back), for a while."""
    sharded = [module for module in model.modules() if hasattr(module, "reshard")]  # by FSDP2
    for module in sharded:  # what the last pass may have gathered, it would not gather again
        module.reshard()
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("every parameter is frozen: set requires_grad=True on some")
    device, kept = parameters[0].device, [p.grad for p in parameters]
    buffers, states = [(b.data, b.clone()) for b in model.buffers()], random_states(device)

    def start_again():
        for module in sharded:
            module.reshard()
        torch.clear_autocast_cache()  # it holds the weights of another rate
        set_random_states(states, device)
        for buffer, old in buffers:
            buffer.copy_(old)

    try:
        yield parameters, start_again
    finally:
        start_again()
        for p, grad in zip(parameters, kept):
            p.grad = grad


def gradients_of(loss, parameters):
    """The gradient by parameter, zero where the loss does not depend on it."""
    if not loss.requires_grad:
        why = "is something detached, or computed under torch.no_grad()?"
        raise ValueError(f"the loss does not depend on any trainable parameter ({why})")
    hidden = any(node.name() == "CheckpointFunctionBackward" for node in nodes([loss]))
    if hidden or hasattr(parameters[0], "device_mesh"):  # these leave gradients only in .grad
        for p in parameters:
            p.grad = None
        loss.backward()
        found = [p.grad for p in parameters]
    else:
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
    found = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found)]
    return [g.to_dense() if g.is_sparse else g for g in found]


def _mean(loss, parameters):
    """(the loss, its relative rounding); the mean of all ranks where they share parameters."""
    mesh = getattr(parameters[0], "device_mesh", None)
    mean = whole(loss).double()
    for group in mesh.get_all_groups() if mesh is not None else ():
        dist.all_reduce(mean, group=group)
        mean /= dist.get_world_size(group)
    return float(mean), torch.finfo(loss.dtype).eps


def whole(number):
    """A number that is spread over processes, on each of them."""
    return number.full_tensor() if hasattr(number, "full_tensor") else number
