"""The principle ‖H_w(k)‖ ≈ 1: scale every layer until the norm of its Hessian block is the target.

Skorski et al. 2020 state the goal, not a solver. Ours rests on a scaling law: in a bias-free
piecewise-linear net, multiplying layer j by s_j multiplies ‖H_w(k)‖ by Π_{j≠k} s_j² as long as the
outputs' curvature H_z stays. In logarithms that is a linear system with matrix 2(11ᵀ − I), which
Newton's method solves in a few measurements; elsewhere it is a Broyden iteration's first guess.
"""

import math
from dataclasses import dataclass, field

import torch

from .chain_rule import NORMS, curved_weights, layer_norms
from .curvature import check_batch
from .models import original, token_tables, unsettled_batch_norms
from .schemes import drawn_weights, init_, restored_on_error


@dataclass
class InitReport:
    """What `hessian_init_` found. Printing it shows one line a layer.

    Example:
        >>> model, batch = hl.MLP(8, 32, 3, 2, "tanh"), (torch.eye(8), torch.arange(8) % 2)
        >>> generator = torch.Generator().manual_seed(0)
        >>> report = hl.hessian_init_(model, F.cross_entropy, batch, generator=generator)
        >>> report.converged, list(report.scales), report.left
        (True, ['layers.0', 'layers.1', 'layers.2'], [])
    """

    target: float
    norm: str
    norms: dict = field(repr=False)  #: by layer, of its block with the final weights
    scales: dict = field(repr=False)  #: by layer, on the weights that the scheme drew
    converged: bool = False  #: is every norm within the tolerance of the target?
    steps: int = 0  #: measurements of all layers' norms
    history: list = field(default_factory=list, repr=False)  #: largest `|log(norm/target)|` of each
    message: str = ""
    left: list = field(default_factory=list, repr=False)
    #: weights that were neither drawn nor scaled: frozen, or of no layer that has a scale

    def __str__(self):
        width = max(map(len, self.norms))
        lines = [f"{self.norm} norms, target {self.target:g}: {self.message}"]
        lines.append(f"  {'layer':<{width}}  {'norm':>10}  {'scale':>10}")
        for name, norm in self.norms.items():
            lines.append(f"  {name:<{width}}  {norm:10.4g}  {self.scales[name]:10.4g}")
        if self.left:
            lines.append(f"left as they were: {', '.join(self.left)}")
        return "\n".join(lines)


def _log_errors(norms, target):
    """log(norm/target) by layer, float64; None where a norm is 0 or not finite."""
    values = torch.tensor(list(norms.values()), dtype=torch.float64)
    if not bool((torch.isfinite(values) & (values > 0)).all()):
        return None
    return (values / target).log()


def hessian_init_(
    model,
    loss_fn,
    batch,
    target=1.0,
    norm="spectral",
    generator=None,
    *,
    scheme="forward",
    activation=None,
    tolerance=0.01,
    max_steps=20,
):
    """Draw the weights of `model` and scale each layer in place until its Hessian norm is `target`.

    Scaled are the trainable weights of torch's dense, convolutional, recurrent, attention and
    embedding layers (and of their subclasses); the report's `.left` names the others. Only the
    weights are looked at. In very deep nets (about 100 layers) equal norms cost the level signal
    and let the biases' curvature go anywhere (chapter 12).

    Args:
        batch: `(inputs, targets)`, used for nothing but measuring curvature.
        target: wanted norm of every layer's block. The principle says 1; which target trains
            fastest depends on the learning rate, the depth and the data, and c / learning rate is
            no safe rule for it (chapter 12).
        norm: "spectral", "frobenius" or "gradient" (see `layer_norms`), of the Gauss-Newton block.
        generator, activation: as in `init_`.
        scheme: as in `init_`; None keeps the weights as they are and only scales them. The default
            draws every kind of layer. For dense and convolutional ones "lsuv" is the better base:
            at depth 30 nets that start from it end lower by half or more (chapter 11).
        tolerance: relative, on every norm.
        max_steps: measurements of all layers' norms.

    Returns:
        An InitReport. If the target cannot be reached (a saturating net may have no such scales),
        the report says so and the model holds the best weights met: smallest worst
        `|log(norm/target)|`.

    Raises:
        ValueError: for bad arguments, non-finite weights, a network whose curvature is zero, batch
            norm that has seen no batch (in eval mode it normalizes nothing, so its net's curvature
            is not that of training), and as `init_` and `layer_norms`; the weights are then as they
            were.

    Example:
        >>> model, batch = hl.MLP(8, 32, 3, 2, "tanh"), (torch.eye(8), torch.arange(8) % 2)
        >>> generator = torch.Generator().manual_seed(0)
        >>> report = hl.hessian_init_(model, F.cross_entropy, batch, generator=generator)
        >>> norms = hl.layer_norms(model, F.cross_entropy, batch)
        >>> all(0.98 < norm < 1.02 for norm in norms.values())
        True
    """
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"target must be finite and positive, got {target!r}")
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")
    if max_steps < 1 or not tolerance > 0:
        got = f"{max_steps!r} and {tolerance!r}"
        raise ValueError(f"max_steps must be at least 1 and tolerance positive, got {got}")
    model = original(model)
    weights, left = _scaled_weights(model)
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(f"the weight of {name!r} is not finite: initialize the model first")
    with restored_on_error(model):
        with torch.no_grad():
            check_batch(model, loss_fn, batch)  # before anything is drawn
        fresh = unsettled_batch_norms(model)
        if fresh:
            what = f"batch norm ({fresh[0]}) has seen no batch"
            raise ValueError(f"{what}: run some batches through the model in train mode first")
        if scheme is not None:
            init_(model, scheme, activation, generator, batch=batch)
        found = _solve_(model, weights, loss_fn, batch, target, norm, tolerance, max_steps)
    found.left = left
    return found


def _scaled_weights(model):
    """({key: parameter} of the weights with a scale, the keys of all other weights)."""
    known = {each.weight for each in drawn_weights(model).values()} | token_tables(model)
    weights = {key: model.get_parameter(name) for key, name in curved_weights(model).items()}
    weights = {key: p for key, p in weights.items() if p in known}
    if not weights:
        raise ValueError("every weight of torch's layers is frozen: set requires_grad=True on some")
    names = [key for key, name in curved_weights(model, frozen=True).items() if key not in weights]
    return weights, names


def _damped_step(jacobian, error, radius):
    """Newton's step for `error`, damped (Levenberg-Marquardt) until no entry is above `radius`."""
    step = torch.linalg.lstsq(jacobian, -error[:, None]).solution[:, 0]
    damping, eye = 1e-3, torch.eye(len(error), dtype=error.dtype)
    while not step.abs().max() <= radius and math.isfinite(damping):
        step = torch.linalg.solve(jacobian.T @ jacobian + damping * eye, -jacobian.T @ error)
        damping *= 2
    return step


def _solve_(model, layers, loss_fn, batch, target, norm, tolerance, max_steps):
    """Levenberg-Marquardt on the logarithms of the layers' scales, with Broyden's Jacobian.

    `layers` is {key: parameter}.
    """
    drawn = [weight.detach().clone() for weight in layers.values()]
    n, history = len(layers), []
    eye = torch.eye(n, dtype=torch.float64)

    def put(position):
        with torch.no_grad():
            for weight, start, factor in zip(layers.values(), drawn, position.exp().tolist()):
                weight.copy_(start * factor)

    def measure(position):
        """(norms, log errors) at these scales; errors are None where a norm is 0 or not finite."""
        put(position)
        norms = layer_norms(model, loss_fn, batch, norm=norm, rtol=1e-3, layers=list(layers))
        error = _log_errors(norms, target)
        history.append(math.inf if error is None else float(error.abs().max()))
        return norms, error

    position = torch.zeros(n, dtype=torch.float64)
    norms, error = measure(position)
    if error is None:
        dead = [name for name, h in norms.items() if not (math.isfinite(h) and h > 0)]
        empty = [name for name, weight in layers.items() if not bool(weight.any())]
        why = f" ({', '.join(empty)} holds only zeros)" if empty else ""
        raise ValueError(
            f"the curvature of {', '.join(dead)} is zero or not finite{why}, so no scale "
            "brings it to the target: try another scheme or batch, freeze weights that are zero on "
            "purpose and those behind them, or, if the loss is linear in the outputs (nll_loss of "
            "log-probabilities), give logits to F.cross_entropy"
        )
    best = history[0], position, norms
    # The scaling law. With one layer it is empty (the scale does not matter): then try 1.
    jacobian = 2 * (torch.ones_like(eye) - eye) if n > 1 else eye
    radius = limit = 1.5  # at most a factor e^1.5 = 4.5 on a layer in one step

    while best[0] > math.log1p(tolerance) and len(history) < max_steps:
        step = _damped_step(jacobian, error, radius)
        length = float(step.abs().max())
        if not 1e-6 <= length <= radius:
            break
        try:
            trial_norms, trial = measure(position + step)
        except ValueError:  # the loss overflowed at these scales: not a place to go
            history.append(math.inf)
            trial = None
        if trial is None:
            radius = length / 4
            continue
        predicted = error.norm() - (error + jacobian @ step).norm()
        gained = error.norm() - trial.norm()
        jacobian = jacobian + torch.outer(trial - error - jacobian @ step, step) / step.dot(step)
        if history[-1] < best[0]:
            best = history[-1], position + step, trial_norms
        if gained > 0:
            position, error = position + step, trial
        if gained > predicted / 2:
            radius = min(limit, max(radius, 2 * length))
        elif gained < predicted / 10:
            radius = length / 2

    worst, position, norms = best
    put(position)
    converged = worst <= math.log1p(tolerance)
    steps, scales = len(history), dict(zip(layers, position.exp().tolist()))
    message = f"reached within {tolerance:.1%} after {steps} measurements"
    if not converged:
        message = f"not reached in {steps} measurements: the worst layer is a factor "
        message += f"{math.exp(worst):.3g} away; these are the best weights met"
    return InitReport(target, norm, norms, scales, converged, steps, history, message)
