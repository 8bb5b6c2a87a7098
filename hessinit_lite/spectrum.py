"""Questions to a symmetric operator: its largest eigenvalues, its trace.

An operator is anything with `.shape`, `.dtype`, `.device`, `@` and, for the trace, `.matmat`.
"""

import math

import torch

from .models import check_generator


def top_eigenvalues(operator, k=1, rtol=1e-3, generator=None, start=None, max_products=200):
    """The k eigenvalues of largest magnitude, by Lanczos with full reorthogonalization.

    Returns `(values [k], bounds [k])`: largest magnitude first; there is an eigenvalue within
    bounds[i] of values[i] (the Ritz residual norm, Parlett 1998, section 4.5). Products stop once
    each bound is below rtol · |values[0]|. The error of a separated eigenvalue is then of order
    bound²/gap, far smaller.

    start: first vector [P], random if None (the gradient is a good one). Multiplicities may be
    missed: a Krylov space holds one vector of each eigenspace. Where it is exhausted before k
    eigenvalues are found, the search goes on from a random direction outside it.

    Raises ValueError for k outside 1..P, a zero start, or when max_products do not suffice.
    """
    size = operator.shape[0]
    if not 1 <= k <= size:
        raise ValueError(f"k must lie in 1..{size}, got {k}")
    if start is None:
        like = torch.empty(0, dtype=operator.dtype, device=operator.device)
        check_generator(generator, like)
        start = torch.randn(size, dtype=operator.dtype, device=operator.device, generator=generator)
    norm = torch.linalg.vector_norm(start)
    if not bool(norm > 0):
        raise ValueError("the start vector must not be zero")

    basis = (start / norm)[None]  # a row each; grown by doubling
    diagonal, off_diagonal = [], []
    for products in range(1, min(size, max_products) + 1):
        span = basis[:products]
        w = operator @ span[-1]
        diagonal.append(torch.dot(span[-1], w))
        for _ in range(2):  # twice is enough (Parlett's rule): orthogonal to working precision
            w = w - span.T @ (span @ w)
        off_diagonal.append(torch.linalg.vector_norm(w))
        # The small tridiagonal problem goes to the host: one transfer a product, for the decision.
        a = torch.stack(diagonal + off_diagonal).double().cpu()
        if not bool(torch.isfinite(a).all()):
            raise ValueError("a product with the operator is not finite: check the weights' scale")
        t = torch.diag(a[:products])
        t += torch.diag(a[products:-1], 1) + torch.diag(a[products:-1], -1)
        ritz, vectors = torch.linalg.eigh(t)
        order = ritz.abs().argsort(descending=True)[:k]
        values, beta = ritz[order], a[-1]
        bounds = beta * vectors[-1, order].abs()
        scale = ritz.abs().max()
        exhausted = beta <= torch.finfo(operator.dtype).eps * max(scale, a.abs().max()) * math.sqrt(size)
        if len(values) == k and (exhausted or products == size or bool((bounds <= rtol * scale).all())):
            break
        if exhausted:  # invariant, but smaller than k: go on from a random direction outside it
            w = torch.randn(size, dtype=operator.dtype, device=operator.device, generator=generator)
            for _ in range(2):
                w = w - span.T @ (span @ w)
            off_diagonal[-1] = torch.zeros_like(off_diagonal[-1])
        if products == len(basis):
            basis = torch.cat([basis, torch.empty_like(basis)])
        basis[products] = w / torch.linalg.vector_norm(w)
    else:
        raise ValueError(f"{max_products} products did not bring the residual below rtol={rtol}: "
                         "raise max_products or rtol")
    to = dict(dtype=operator.dtype, device=operator.device)
    return values.to(**to), bounds.to(**to)


def trace(operator, samples=32, generator=None):
    """Hutchinson's estimate of the trace: the mean of sᵀAs over random sign vectors s.

    Returns `(estimate, standard_error)`, tensors without dimension (Hutchinson 1990).
    All samples travel together through `operator.matmat`. Raises ValueError for fewer than 2 samples.
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2 for a standard error, got {samples}")
    like = torch.empty(operator.shape[0], samples, dtype=operator.dtype, device=operator.device)
    check_generator(generator, like)
    signs = like.bernoulli_(0.5, generator=generator) * 2 - 1
    quotients = (signs * operator.matmat(signs)).sum(0)
    return quotients.mean(), quotients.std() / math.sqrt(samples)


def gradient_quotient(operator, gradient):
    """ĝᵀAĝ for ĝ = gradient/‖gradient‖ [P]: the curvature along the gradient.

    The value the paper plots ("evaluated on normalized gradients"). It is 0 where the gradient is.
    """
    norm = torch.linalg.vector_norm(gradient)
    unit = gradient / torch.where(norm > 0, norm, torch.ones_like(norm))
    return torch.dot(unit, operator @ unit)
