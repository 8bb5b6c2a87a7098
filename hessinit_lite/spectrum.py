"""Questions to a symmetric operator: its largest eigenvalues, trace, norm and density.

An operator is anything with `.shape`, `.dtype`, `.device`, `@` and, but for eigenvalues, `.matmat`.
"""

import math

import numpy as np
import torch

from .models import check_generator


class Estimate(float):
    """A number that was estimated: a float with its standard error as `.error`.

    Example:
        >>> hl.Estimate(12.345, error=0.25)
        12.35 ± 0.2
    """

    def __new__(cls, value, error):
        made = super().__new__(cls, value)
        made.error = float(error)
        return made

    def __repr__(self):
        return f"{float(self):.4g} ± {self.error:.1g}"

    __str__ = __repr__

    def __getnewargs__(self):  # for copies and pickles
        return float(self), self.error


_ORDER = {"LM": np.abs, "LA": np.positive, "SA": np.negative}


def top_eigenvalues(
    operator, k=1, rtol=1e-3, generator=None, start=None, max_products=200, which="LM"
):
    """The k eigenvalues at one end: `(values [k], bounds [k])`, all as in `top_eigenpairs`.

    Example:
        >>> matrix = torch.diag(torch.tensor([4.0, -9.0, 1.0]))  # any operator will do
        >>> values, bounds = hl.top_eigenvalues(matrix, k=2)
        >>> values.round().tolist(), bool((bounds < 0.01).all())
        ([-9.0, 4.0], True)
    """
    values, _, bounds = top_eigenpairs(operator, k, rtol, generator, start, max_products, which)
    return values, bounds


def top_eigenpairs(
    operator, k=1, rtol=1e-3, generator=None, start=None, max_products=200, which="LM"
):
    """The k eigenpairs at one end of the spectrum, by Lanczos with full reorthogonalization.

    Products stop once each residual is below rtol times the largest magnitude met. The error of a
    separated eigenvalue is then of order bound²/gap, far smaller. Multiplicities may be missed: a
    Krylov space holds one vector of each eigenspace. Where it is exhausted before k eigenvalues are
    found, the search goes on from a random direction outside it.

    Args:
        start: first vector [P]. If None, half a random direction and half the operator's
            `.gradient`, which leans on the large eigenvalues and saves a few products (random alone
            where it has none).
        which: "LM" for the largest magnitude, "LA" for the algebraically largest, "SA" for the
            smallest, as in SciPy's eigsh.

    Returns:
        `(values [k], vectors [P, k], bounds [k])`, the outermost first. bounds[i] is the residual
        ‖A x − θ x‖ of the unit vector x = vectors[:, i] with an allowance for rounding, and there
        is an eigenvalue within bounds[i] of θ = values[i] (Parlett 1998, section 4.5).

    Raises:
        ValueError: for k outside 1..P, an unknown `which`, a zero start, or when max_products do
            not suffice.

    Example:
        >>> matrix = torch.diag(torch.tensor([4.0, -9.0, 1.0]))  # any operator will do
        >>> values, vectors, bounds = hl.top_eigenpairs(matrix, which="LA")
        >>> values.round().tolist(), vectors.abs().round().T.tolist()
        ([4.0], [[1.0, 0.0, 0.0]])
    """
    if which not in _ORDER:
        raise ValueError(f"unknown which {which!r}; known: {', '.join(_ORDER)}")
    size = operator.shape[0]
    if not 1 <= k <= size:
        raise ValueError(f"k must lie in 1..{size}, got {k}")
    if start is None:
        start = _normal(operator, generator)
        gradient = getattr(operator, "gradient", None)
        if gradient is not None and len(gradient) == size:
            length = torch.linalg.vector_norm(gradient)
            leaning = start / torch.linalg.vector_norm(start) + gradient / length.clamp(min=1e-30)
            # For one weight the two may cancel.
            start = torch.where(torch.linalg.vector_norm(leaning) > 1e-3, leaning, start)
    largest = start.abs().amax()
    if not bool(torch.isfinite(largest) & (largest > 0)):
        raise ValueError("the start vector must be finite and must not be zero")
    # Squares of huge or tiny entries leave the range. A power of 2 rounds nothing.
    start = start * torch.exp2(-torch.frexp(largest).exponent.clamp(-126, 126).to(start.dtype))
    norm = torch.linalg.vector_norm(start)

    basis = (start / norm)[None]  # a row each; grown by doubling
    limit, eps = min(size, max_products), torch.finfo(operator.dtype).eps
    numbers = basis.new_zeros(2, limit)  # the diagonal and the off-diagonal
    for products in range(1, limit + 1):
        span = basis[:products]
        w = operator @ span[-1]
        numbers[0, products - 1] = torch.dot(span[-1], w)
        # But for rounding w meets the last two only; twice is enough (Parlett's rule).
        for part in (span[-2:], span):
            w = w - part.T @ (part @ w)
        numbers[1, products - 1] = torch.linalg.vector_norm(w)
        # The small tridiagonal problem goes to the host: one transfer a product, for the decision.
        a = numbers[:, :products].double().cpu().numpy()
        if not np.isfinite(a).all():
            raise ValueError("a product with the operator is not finite: check the weights' scale")
        # (eigh reads the lower triangle.)
        ritz, vectors = np.linalg.eigh(np.diag(a[0]) + np.diag(a[1, :-1], -1))
        order = (-_ORDER[which](ritz)).argsort()[:k]
        beta, scale = a[1, -1], np.abs(ritz).max()
        bounds = beta * np.abs(vectors[-1, order])
        exhausted = beta <= eps * max(scale, np.abs(a).max()) * math.sqrt(size)
        settled = exhausted or products == size or (bounds <= rtol * scale).all()
        if settled and len(order) == k:
            break
        if exhausted:  # invariant, but smaller than k: go on from a random direction outside it
            w = _normal(operator, generator)
            for _ in range(2):
                w = w - span.T @ (span @ w)
            numbers[1, products - 1] = 0
        if products == len(basis):
            basis = torch.cat([basis, torch.empty_like(basis)])
        basis[products] = w / torch.linalg.vector_norm(w)
    else:
        what = f"{max_products} products did not bring the residual below rtol={rtol}"
        raise ValueError(f"{what}: raise max_products or rtol")
    to = dict(dtype=operator.dtype, device=operator.device)
    # A product's sums of P terms are themselves rounded.
    bounds = bounds + eps * (8 + math.sqrt(size)) * scale
    values, chosen, bounds = (
        torch.tensor(x, **to) for x in (ritz[order], vectors[:, order], bounds)
    )
    return values, span.T @ chosen, bounds


def _random(operator, generator, draw, *columns):
    """A random array [P, *columns] for an operator, drawn on its device.

    An operator that is spread over processes has a method `agree`, which gives all one.
    """
    array = torch.empty(operator.shape[0], *columns, dtype=operator.dtype, device=operator.device)
    check_generator(generator, array)
    return getattr(operator, "agree", lambda x: x)(draw(array, generator))


def _normal(operator, generator):
    return _random(operator, generator, lambda x, g: x.normal_(generator=g))


def _signs(operator, samples, generator):
    draw = lambda x, g: x.bernoulli_(0.5, generator=g) * 2 - 1
    return _random(operator, generator, draw, samples)


def _mean_and_error(values):
    return values.mean(), values.std() / math.sqrt(len(values))


def trace(operator, samples=32, generator=None, method="hutchinson"):
    """A random estimate of the trace: `(estimate, standard_error)`, tensors without dimension.

    Args:
        samples: products in all, made together through `operator.matmat`.
        method: "hutchinson" is the mean of sᵀAs over random sign vectors s (Hutchinson 1990). In
            "hutch++" a third of the samples finds the range Q of the large eigenvalues, whose trace
            QᵀAQ is then exact; only the rest (I − QQᵀ)A(I − QQᵀ) is estimated (Meyer et al. 2021,
            algorithm 1).

    Raises:
        ValueError: for fewer than 2 samples (6 for "hutch++") and for an unknown method.

    Example:
        >>> model, inputs = nn.Linear(2, 1, bias=False), torch.diag(torch.tensor([2.0, 1.0]))
        >>> operator = hl.hessian(model, F.mse_loss, (inputs, torch.zeros(2, 1)))  # diag(4, 1)
        >>> estimate, error = hl.trace(operator, samples=3)
        >>> round(float(estimate), 3), round(float(error), 3)
        (5.0, 0.0)
    """
    if method not in ("hutchinson", "hutch++"):
        raise ValueError(f"unknown method {method!r}; known: hutchinson, hutch++")
    least = 2 if method == "hutchinson" else 6
    if samples < least:
        raise ValueError(f"samples must be at least {least} for a standard error, got {samples}")
    if method == "hutchinson":
        signs = _signs(operator, samples, generator)
        return _mean_and_error((signs * operator.matmat(signs)).sum(0))
    third = min(samples // 3, operator.shape[0])
    q, _ = torch.linalg.qr(operator.matmat(_signs(operator, third, generator)))
    signs = _signs(operator, samples - 2 * third, generator)
    rest = signs - q @ (q.T @ signs)
    estimate, error = _mean_and_error((rest * operator.matmat(rest)).sum(0))
    return (q * operator.matmat(q)).sum() + estimate, error


def frobenius_norm(operator, samples=32, generator=None):
    """A random estimate of ‖A‖_F = (E ‖As‖²)^½ over sign vectors s: `(estimate, standard_error)`.

    Raises:
        ValueError: for fewer than 2 samples.

    Example:
        >>> model, inputs = nn.Linear(2, 1, bias=False), torch.diag(torch.tensor([2.0, 1.0]))
        >>> operator = hl.hessian(model, F.mse_loss, (inputs, torch.zeros(2, 1)))  # diag(4, 1)
        >>> estimate, error = hl.frobenius_norm(operator, samples=3)
        >>> round(float(estimate) ** 2, 3), round(float(error), 3)
        (17.0, 0.0)
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2 for a standard error, got {samples}")
    products = operator.matmat(_signs(operator, samples, generator))
    square, error = _mean_and_error((products**2).sum(0))
    norm = square.sqrt()
    return norm, error / (2 * torch.where(norm > 0, norm, torch.ones_like(norm)))


def spectral_density(operator, steps=32, samples=8, generator=None, memory=2**30):
    """Stochastic Lanczos quadrature: `(nodes, weights)`, both [samples, steps].

    The weights of a row sum to 1. For any smooth f, the mean over the rows of Σ weights · f(nodes)
    estimates trace f(A) / P: the density of the eigenvalues is the sum of all weights at their
    nodes (Golub & Meurant 2010; Ubaru, Chen & Saad 2017). A Krylov space that is exhausted early
    fills its row with weights 0.

    Args:
        memory: bytes for the bases, steps · P numbers a sample; samples that fit run side by side,
            with one `operator.matmat` a step.

    Raises:
        ValueError: for fewer than 1 step or sample.

    Example:
        >>> model, inputs = nn.Linear(2, 1, bias=False), torch.diag(torch.tensor([2.0, 1.0]))
        >>> operator = hl.hessian(model, F.mse_loss, (inputs, torch.zeros(2, 1)))  # diag(4, 1)
        >>> nodes, weights = hl.spectral_density(operator, steps=2, samples=3)
        >>> nodes.round().tolist()[0], weights.sum(1).round(decimals=3).tolist()
        ([1.0, 4.0], [1.0, 1.0, 1.0])
    """
    if steps < 1 or samples < 1:
        raise ValueError(f"steps and samples must be at least 1, got {steps} and {samples}")
    steps = min(steps, operator.shape[0])
    starts = _signs(operator, samples, generator)
    chunk = max(1, memory // (steps * starts[:, 0].numel() * starts.element_size()))
    found = [_tridiagonal(operator, part, steps) for part in starts.split(chunk, dim=1)]
    diagonal, off_diagonal = (torch.cat(parts) for parts in zip(*found))
    t = torch.diag_embed(diagonal)
    t += torch.diag_embed(off_diagonal, 1) + torch.diag_embed(off_diagonal, -1)
    nodes, vectors = torch.linalg.eigh(t)
    return nodes, vectors[:, 0] ** 2


def _tridiagonal(operator, starts, steps):
    """Lanczos' diagonals from each column of `starts` [P, K]: [K, steps], [K, steps - 1].

    Nothing leaves the device. Where a Krylov space is exhausted the next vector is zero, and so is
    the rest of the matrix: these nodes 0 have weight 0.
    """
    size, columns = starts.shape
    basis = starts.new_zeros(columns, steps, size)
    basis[:, 0] = (starts / torch.linalg.vector_norm(starts, dim=0)).T
    diagonal, off_diagonal = starts.new_zeros(columns, steps), starts.new_zeros(columns, steps - 1)
    tiny = torch.finfo(starts.dtype).eps * math.sqrt(size)
    for k in range(steps):
        w = operator.matmat(basis[:, k].T).T
        length = torch.linalg.vector_norm(w, dim=1)
        diagonal[:, k] = (basis[:, k] * w).sum(1)
        if k + 1 == steps:
            break
        span = basis[:, : k + 1]
        for part in (span[:, -2:], span):  # as in top_eigenpairs
            w = w - torch.einsum("jk,jkp->jp", torch.einsum("jkp,jp->jk", part, w), part)
        beta = torch.linalg.vector_norm(w, dim=1)
        beta = torch.where(beta > tiny * length, beta, torch.zeros_like(beta))
        off_diagonal[:, k] = beta
        basis[:, k + 1] = torch.where(beta > 0, w.T / beta, torch.zeros_like(w.T)).T
    return diagonal, off_diagonal


def gradient_quotient(operator, gradient):
    """ĝᵀAĝ for ĝ = gradient/‖gradient‖ [P]: the curvature along the gradient.

    The value the paper plots ("evaluated on normalized gradients"). It is 0 where the gradient is.

    Example:
        >>> matrix, gradient = torch.diag(torch.tensor([4.0, 1.0])), torch.tensor([3.0, 4.0])
        >>> round(float(hl.gradient_quotient(matrix, gradient)), 3)  # (4 · 9 + 1 · 16) / 25
        2.08
    """
    unit = gradient
    # First by the largest entry: squares of a deep net's gradients may leave float32.
    for order in (math.inf, 2):
        norm = torch.linalg.vector_norm(unit, order)
        unit = unit / torch.where(norm > 0, norm, torch.ones_like(norm))
    return torch.dot(unit, operator @ unit)
