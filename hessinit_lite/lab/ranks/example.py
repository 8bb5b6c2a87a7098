"""A small net and the questions that chapter 18 asks it, on one process or several."""

import torch

from ...spectrum import frobenius_norm, top_eigenvalues, trace
from ..probes import digits_net, seeded


def problem(seed, samples=301):
    """A tanh net and a batch of digits in float64: `model, (inputs, targets)`."""
    return digits_net("tanh", depth=4, width=32, seed=seed, samples=samples)


def answers(operator, seed):
    """Loss, ‖gradient‖, two largest eigenvalues, trace, its standard error, Frobenius norm."""
    generator = seeded(seed, operator.device)
    values, _ = top_eigenvalues(operator, 2, rtol=1e-6, generator=generator)
    estimate, error = trace(operator, 30, generator)
    norm, _ = frobenius_norm(operator, 30, generator)
    numbers = operator.loss, operator.gradient.norm(), *values, estimate, error, norm
    return torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in numbers]).tolist()
