"""Lanczos and Hutchinson against dense eigenvalues."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hessinit_lite as hl


class Matrix:
    """A dense symmetric matrix as an operator that counts its products."""

    def __init__(self, matrix):
        self.matrix, self.products = matrix, 0
        self.shape, self.dtype, self.device = matrix.shape, matrix.dtype, matrix.device

    def __matmul__(self, vector):
        self.products += 1
        return self.matrix @ vector

    def matmat(self, matrix):
        return self.matrix @ matrix


def symmetric(size, seed, values=None):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(size, size, dtype=torch.float64, generator=g)
    if values is None:
        return a + a.T
    q, _ = torch.linalg.qr(a)
    return q @ torch.diag(torch.as_tensor(values, dtype=a.dtype)) @ q.T


@given(st.integers(1, 30), st.integers(0, 10 ** 6), st.sampled_from([1e-1, 1e-3, 1e-6]), st.data())
def test_each_interval_holds_a_true_eigenvalue(size, seed, rtol, data):
    a = symmetric(size, seed)
    k = data.draw(st.integers(1, size))
    values, bounds = hl.top_eigenvalues(Matrix(a), k, rtol, torch.Generator().manual_seed(seed))
    true = torch.linalg.eigvalsh(a)
    distance = (values[:, None] - true).abs().min(1).values
    scale = true.abs().max()
    assert (distance <= bounds + 1e-12 * scale).all()
    assert (bounds <= rtol * scale * (1 + 1e-9)).all()
    assert (values.abs().diff() <= 0).all()


@given(st.integers(2, 30), st.integers(0, 10 ** 6))
def test_the_largest_eigenvalues_are_found(size, seed):
    a = symmetric(size, seed)
    values, _ = hl.top_eigenvalues(Matrix(a), size, 1e-10, torch.Generator().manual_seed(seed))
    true = torch.linalg.eigvalsh(a)
    torch.testing.assert_close(values, true[true.abs().argsort(descending=True)], rtol=0,
                               atol=1e-10 * true.abs().max().item())


@given(st.integers(1, 12), st.integers(0, 3), st.integers(0, 10 ** 6), st.data())
def test_repeated_and_zero_eigenvalues(distinct, zeros, seed, data):
    """With a Krylov space smaller than k the intervals still hold eigenvalues."""
    eigenvalues = [2.0 ** (i // 2) * (-1) ** i for i in range(distinct)] * 2 + [0.0] * zeros
    a = symmetric(len(eigenvalues), seed, eigenvalues)
    k = data.draw(st.integers(1, len(eigenvalues)))
    values, bounds = hl.top_eigenvalues(Matrix(a), k, 1e-8, torch.Generator().manual_seed(seed))
    true = torch.linalg.eigvalsh(a)
    scale = true.abs().max()
    assert values.shape == bounds.shape == (k,)
    assert ((values[:, None] - true).abs().min(1).values <= bounds + 1e-10 * scale).all()
    assert values[0].abs().item() == pytest.approx(scale.item(), rel=1e-8)


@pytest.mark.parametrize("a", [torch.eye(6), torch.zeros(6, 6), 3 * torch.eye(6)])
def test_multiples_of_the_identity(a):
    values, bounds = hl.top_eigenvalues(Matrix(a), 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(values, a.diagonal()[:3])
    assert (bounds <= 1e-5).all()


@given(st.integers(1, 30), st.integers(0, 10 ** 6), st.data())
def test_eigenpairs_have_the_residuals_they_report(size, seed, data):
    a = symmetric(size, seed)
    k = data.draw(st.integers(1, size))
    values, vectors, bounds = hl.top_eigenpairs(Matrix(a), k, 1e-4, torch.Generator().manual_seed(seed))
    assert vectors.shape == (size, k)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(k, dtype=a.dtype), rtol=0, atol=1e-9)
    residuals = torch.linalg.vector_norm(a @ vectors - vectors * values, dim=0)
    torch.testing.assert_close(residuals, bounds, rtol=1e-6, atol=1e-10 * float(a.abs().max()))


def test_random_vectors_are_agreed_on():
    """An operator spread over processes has them all start from the same vectors."""
    a = Matrix(symmetric(20, 0))
    a.agree = lambda x: torch.ones_like(x)
    assert hl.trace(a)[0] == pytest.approx(float(a.matrix.sum()))
    plain = hl.top_eigenvalues(Matrix(a.matrix), start=torch.ones(20, dtype=torch.float64))
    assert torch.equal(hl.top_eigenvalues(a)[0], plain[0])


def test_few_products_for_a_separated_eigenvalue(generator):
    a = Matrix(symmetric(300, 0, [50.0] + [i / 299 for i in range(299)]))
    values, bounds = hl.top_eigenvalues(a, rtol=1e-3, generator=generator)
    assert a.products <= 8
    gap = 49
    assert abs(values[0] - 50) <= bounds[0] ** 2 / gap + 1e-12  # far below the bound itself


def test_the_start_vector_is_used():
    a = Matrix(symmetric(50, 1))
    vector = torch.linalg.eigh(a.matrix).eigenvectors[:, -1]
    hl.top_eigenvalues(a, start=vector)
    assert a.products == 1


def test_same_seed_same_numbers():
    a = Matrix(symmetric(40, 2))
    runs = [hl.top_eigenvalues(a, 3, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])
    traces = [hl.trace(a, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert traces[0] == traces[1]


def test_float32_operators_give_float32():
    values, bounds = hl.top_eigenvalues(Matrix(symmetric(30, 3).float()), 2)
    assert values.dtype == bounds.dtype == torch.float32


@pytest.mark.parametrize("samples", [2, 32, 500])
def test_hutchinson_lies_within_four_standard_errors(samples, generator):
    a = symmetric(60, 4)
    estimate, error = hl.trace(Matrix(a), samples, generator)
    # With 2 samples the standard error is itself uncertain; use the known variance 2 Σ_{i≠j} a_ij².
    exact = math.sqrt(2 * (a ** 2).sum() - 2 * (a.diagonal() ** 2).sum()) / math.sqrt(samples)
    assert abs(estimate - a.trace()) <= 4 * exact
    if samples > 2:
        assert abs(estimate - a.trace()) <= 4 * error
        assert error.item() == pytest.approx(exact, rel=4 / math.sqrt(2 * samples) + 0.05)


def test_hutchinson_is_exact_for_a_diagonal_matrix(generator):
    estimate, error = hl.trace(Matrix(torch.diag(torch.arange(5.0))), 4, generator)
    assert (estimate, error) == (10, 0)


def test_gradient_quotient():
    a, g = symmetric(9, 6), torch.randn(9, dtype=torch.float64)
    expected = (g @ a @ g) / (g @ g)
    torch.testing.assert_close(hl.gradient_quotient(Matrix(a), 7 * g), expected)
    assert hl.gradient_quotient(Matrix(a), 0 * g) == 0


def test_impossible_questions():
    a = Matrix(symmetric(5, 7))
    for k in (0, 6):
        with pytest.raises(ValueError, match=r"k must lie in 1\.\.5"):
            hl.top_eigenvalues(a, k)
    with pytest.raises(ValueError, match="zero"):
        hl.top_eigenvalues(a, start=torch.zeros(5, dtype=torch.float64))
    with pytest.raises(ValueError, match="max_products"):
        hl.top_eigenvalues(Matrix(symmetric(50, 7)), rtol=1e-12, max_products=3)
    with pytest.raises(ValueError, match="not finite"):
        hl.top_eigenvalues(Matrix(torch.full((3, 3), math.inf)))
    with pytest.raises(ValueError, match="at least 2"):
        hl.trace(a, samples=1)


def test_a_generator_of_another_device_is_refused():
    class Meta:
        shape, dtype, device = (3, 3), torch.float32, torch.device("meta")
    for question in (hl.top_eigenvalues, hl.trace):
        with pytest.raises(ValueError, match="meta"):
            question(Meta(), generator=torch.Generator())


def test_hutch_plus_plus_beats_hutchinson_where_few_eigenvalues_are_large(generator):
    a = symmetric(200, 0, [100.0, 50.0, 25.0, 10.0] + [0.01] * 196)
    errors = {}
    for method in ("hutchinson", "hutch++"):
        estimates = [hl.trace(Matrix(a), 24, generator, method)[0] - a.trace() for _ in range(50)]
        errors[method] = torch.stack(estimates).square().mean().sqrt()
    assert errors["hutch++"] < errors["hutchinson"] / 100


def test_hutch_plus_plus_lies_within_its_standard_error():
    a, hits = symmetric(40, 1), 0
    for seed in range(200):
        estimate, error = hl.trace(Matrix(a), 60, torch.Generator().manual_seed(seed), "hutch++")
        hits += bool(abs(estimate - a.trace()) <= 2 * error)
    assert hits >= 180  # 95 % of 200 expected


def test_hutch_plus_plus_is_exact_for_a_small_rank(generator):
    a = symmetric(30, 2, [3.0, -2.0, 1.0] + [0.0] * 27)
    estimate, error = hl.trace(Matrix(a), 12, generator, "hutch++")
    assert float(estimate) == pytest.approx(2.0) and float(error) < 1e-10


def test_frobenius_norm_lies_within_its_standard_error():
    a, hits = symmetric(40, 3), 0
    for seed in range(200):
        norm, error = hl.frobenius_norm(Matrix(a), 32, torch.Generator().manual_seed(seed))
        hits += bool(abs(norm - torch.linalg.matrix_norm(a)) <= 2 * error)
    assert hits >= 180


@given(st.integers(1, 25), st.integers(0, 10 ** 6))
def test_full_quadrature_gives_exact_quadratic_forms(size, seed):
    """With P steps the rule is exact for its start vectors: Σ w f(node) = sᵀf(A)s/P."""
    a = symmetric(size, seed)
    nodes, weights = hl.spectral_density(Matrix(a), size, 2, torch.Generator().manual_seed(seed))
    signs = torch.empty(size, 2, dtype=torch.float64).bernoulli_(
        0.5, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    for power in (0, 1, 2, 3):
        expected = (signs * (torch.linalg.matrix_power(a, power) @ signs)).mean(0)
        torch.testing.assert_close((weights * nodes ** power).sum(1), expected, rtol=1e-7, atol=1e-7)


def test_a_density_of_few_distinct_eigenvalues_ends_early(generator):
    """An exhausted Krylov space: the nodes are the eigenvalues, the weights their shares."""
    nodes, weights = hl.spectral_density(Matrix(symmetric(60, 4, [2.0] * 30 + [-1.0] * 30)), 12, 40, generator)
    for value in (2.0, -1.0):
        share = torch.where((nodes - value).abs() < 1e-8, weights, 0).sum(1)
        assert float(share.mean()) == pytest.approx(0.5, abs=4 * float(share.std()) / 40 ** 0.5)
    assert float(weights.sum(1).min()) == pytest.approx(1)


def test_a_density_in_little_memory_is_the_same():
    a = Matrix(symmetric(20, 3))
    all_at_once, one_by_one = (hl.spectral_density(a, 8, 5, torch.Generator().manual_seed(0), memory=memory)
                               for memory in (2**30, 1))
    torch.testing.assert_close(one_by_one, all_at_once)


def test_a_density_of_zero():
    nodes, weights = hl.spectral_density(Matrix(torch.zeros(5, 5)), 3, 2)
    assert torch.equal(nodes, torch.zeros(2, 3)) and torch.allclose(weights.sum(1), torch.ones(2))


def test_impossible_estimates():
    a = Matrix(symmetric(5, 0))
    for call, message in [(lambda: hl.trace(a, method="guess"), "known: hutchinson, hutch"),
                          (lambda: hl.trace(a, 5, method="hutch++"), "at least 6"),
                          (lambda: hl.frobenius_norm(a, 1), "at least 2"),
                          (lambda: hl.spectral_density(a, 0), "steps and samples"),
                          (lambda: hl.spectral_density(a, 3, 0), "steps and samples")]:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_a_start_of_any_size(size):
    """Its square leaves single precision."""
    operator = hl.hessian(hl.MLP(3, 4, 2, 2), nn.functional.mse_loss, (torch.ones(5, 3), torch.ones(5, 2)))
    start = torch.ones(operator.shape[0])
    plain, scaled = (hl.top_eigenvalues(operator, start=s)[0] for s in (start, size * start))
    torch.testing.assert_close(plain, scaled)
    for bad in (0 * start, torch.nan * start):
        with pytest.raises(ValueError, match="must be finite and must not be zero"):
            hl.top_eigenvalues(operator, start=bad)
