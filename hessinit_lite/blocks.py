"""A layer's Gauss-Newton block: known by its products (`Block`), or held as factors (`LayerBlock`).

Per sample H_z = S Σ Sᵀ (Σ: signs, all +1 for a convex loss). With F the layer's input and Γ = A Bᵀ
S the columns of S pushed back through the network, the block is a sum of rank-one matrices,

    H_w(k) ≈ Σ_cn ± r_cn r_cnᵀ,   r_cn = vec Σ_t Γ_cnt F_ntᵀ,

and trace, norm and spectrum follow from F and Γ. (`chain_rule` makes the factors, and says why.)
"""

import math

import torch
from tqdm import tqdm

from .curvature import check_vectors
from .spectrum import gradient_quotient, top_eigenpairs

#: A block without factors that has more rows is not formed.
FORMED = 2048


class Block:
    """A layer's Gauss-Newton block [P, P], known by its products: `.shape`, `@`, `.matmat`.

    Its numbers are float64 tensors without dimension: they hold where single precision would not.

    Example:
        >>> inputs, targets = (torch.ones(4, 2), torch.ones(4, 2)), torch.ones(4, 3)
        >>> block = hl.layer_blocks(nn.Bilinear(2, 2, 3), F.mse_loss, (inputs, targets))[""]
        >>> type(block).__name__, block.shape, round(float(block.trace()), 3)
        ('Block', (12, 12), 8.0)
    """

    def __init__(self, operator):
        self._operator = operator
        self.shape, self.dtype, self.device = operator.shape, operator.dtype, operator.device

    def __matmul__(self, vector):
        return self._operator @ vector

    def matmat(self, matrix, memory=None):
        """The product with a matrix [P, K], as [P, K]."""
        return self._operator.matmat(matrix, memory)

    def _units(self):
        """The block divided by 4^power, as an operator."""
        return self._operator

    @property
    def is_large(self):
        """Whether it is too large to be formed; trace and Frobenius norm are then estimated."""
        return self.shape[0] > FORMED

    def _scaled(self, value):
        """What was found for `_units`, for the block itself."""
        return value.double()

    def _columns(self):
        """The unit vectors and their products, [P, 64] at a time: the block, in P products."""
        chunks = torch.arange(self.shape[0], device=self.device).split(64)
        for rows in tqdm(chunks, desc="columns", leave=False, delay=2, disable=len(chunks) <= 4):
            units = torch.zeros(self.shape[0], len(rows), dtype=self.dtype, device=self.device)
            units[rows, torch.arange(len(rows), device=self.device)] = 1
            yield units, self._units().matmat(units)

    def trace(self):
        """The trace, exact; from P products where there are no factors."""
        return self._scaled(sum((units * products).sum() for units, products in self._columns()))

    def frobenius(self, memory=None):
        """The Frobenius norm, exact; from P products where there are no factors."""
        return self._scaled(sum(p.square().sum() for _, p in self._columns()).sqrt())

    def norm(self, rtol=1e-4):
        """The spectral norm: the largest magnitude of an eigenvalue."""
        return self.spectrum(1, rtol)[0][0].abs()

    def quotient(self, direction):
        """dᵀHd / dᵀd for a direction [P] or in the shape of the weight."""
        return self._scaled(gradient_quotient(self._units(), direction.flatten()))

    def spectrum(self, k=1, rtol=1e-4):
        """`(values, bounds)`, float64, of the k largest eigenvalues, as `layer_spectra`."""
        values, bounds, _ = self._largest(k, rtol, None)
        return values, bounds

    def _largest(self, k, rtol, near):
        """`(values, bounds, y)` of the k largest eigenvalues in magnitude, or of all if fewer.

        y [C, N] are the coordinates r_cn·x of the first eigenvector x, and `near` is a guess of
        them; both are None where the block has no factors.
        """
        if self.shape[0] <= 128:  # small enough to be formed: exact, repeated eigenvalues included
            values, vectors, bounds = self._formed(k)
            return values, bounds, self._coordinates(vectors[:, 0])
        operator, start, generator = self._start(near)
        k = min(k, len(start))
        values, vectors, bounds = top_eigenpairs(operator, k, rtol, generator, start)
        y = self._coordinates(vectors[:, 0], operator)
        return self._scaled(values), self._scaled(bounds), y

    def _formed(self, k):
        eye = torch.eye(self.shape[0], dtype=self.dtype, device=self.device)
        dense = self._units().matmat(eye).double()
        # Averaged: eigh reads one triangle. In double: float32's often fails at low rank.
        values, vectors = torch.linalg.eigh((dense + dense.T) / 2)
        order = values.abs().argsort(descending=True)[:k]
        values, vectors = values[order], vectors[:, order].to(self.dtype)
        rounding = torch.finfo(self.dtype).eps * (len(dense) + 8) * values[0].abs()
        return self._scaled(values), vectors, self._scaled(rounding).expand_as(values)

    def _start(self, near):
        """(operator, first vector, generator) for Lanczos: the same input gives the same number."""
        operator, generator = self._gram(), torch.Generator(self.device).manual_seed(0)
        start = torch.empty(operator.shape[0], dtype=self.dtype, device=self.device)
        return operator, start.normal_(generator=generator), generator

    def _gram(self):
        """An operator with the same nonzero eigenvalues, over 4^power."""
        return self._units()

    def _coordinates(self, vector, operator=None):
        return None

    def rows(self, part, of):
        """The block of one of `of` equal parts of the weight's rows, such as the queries' part."""
        size = self.shape[0] // of
        return Block(_Part(self._operator, slice(part * size, (part + 1) * size)))


class _Part:
    """A diagonal block of an operator: some of its rows, and the same columns."""

    def __init__(self, operator, kept):
        self.operator, self.kept, self.shape = operator, kept, (kept.stop - kept.start,) * 2
        self.dtype, self.device = operator.dtype, operator.device

    def matmat(self, matrix, memory=None):
        whole = matrix.new_zeros(self.operator.shape[1], matrix.shape[1])
        whole[self.kept] = matrix
        return self.operator.matmat(whole, memory)[self.kept]

    def __matmul__(self, vector):
        return self.matmat(vector[:, None])[:, 0]


def _balanced(factor):
    """The factor over 2^p, and p: with entries of order 1 its squares neither under- nor overflow.

    A power of 2 rounds nothing, and within the limit it has an inverse (2^±126 in float32).
    """
    low, high = torch.aminmax(factor)
    limit = math.frexp(torch.finfo(factor.dtype).max)[1] - 2
    power = torch.frexp(torch.maximum(high, -low)).exponent.clamp(-limit, limit)
    # Entries near 1 need no copy; only a CPU can be asked without waiting for it.
    if factor.device.type == "cpu" and abs(int(power)) <= 10:
        return factor, torch.zeros_like(power)
    return factor * torch.exp2(-power.to(factor.dtype)), power


class LayerBlock(Block):
    """One layer's Gauss-Newton block [P, P], P = d_out · d_in, held as its factors.

    `inputs` F [N, T, d_in], `curvature` Γ [C, N, T, d_out], `signs` [C, N] (±1).

    Example:
        >>> model, batch = hl.MLP(2, 3, 2, 2), (torch.zeros(4, 2), torch.zeros(4, 2))
        >>> block = hl.layer_blocks(model, F.mse_loss, batch)["layers.1"]
        >>> block.inputs.shape, block.curvature.shape, block.shape
        (torch.Size([4, 1, 3]), torch.Size([2, 4, 1, 2]), (6, 6))
    """

    def __init__(self, inputs, curvature, signs):
        self._inputs, self._in_power = _balanced(inputs)
        self._curvature, self._out_power = _balanced(curvature)
        self._power, self.signs = self._in_power + self._out_power, signs
        self.shape = (inputs.shape[-1] * curvature.shape[-1],) * 2
        self.dtype, self.device = inputs.dtype, inputs.device

    @property
    def inputs(self):
        """F [N, T, d_in]."""
        return self._inputs * torch.exp2(self._in_power.to(self.dtype))

    @property
    def curvature(self):
        """Γ [C, N, T, d_out]."""
        return self._curvature * torch.exp2(self._out_power.to(self.dtype))

    is_large = False  # the factors give both exactly

    def _scaled(self, value):
        return value.double() * torch.exp2(2 * self._power.double())

    def _units(self):
        return _Units(self)

    def _matrices(self, vectors):
        """Rows of [K, P] as directions [K, d_out, d_in]."""
        return vectors.reshape(len(vectors), self._curvature.shape[-1], self._inputs.shape[-1])

    def _vectors(self, matrices):
        return matrices.flatten(1)

    def project(self, direction):
        """The numbers v of Theorem 1 in the eigenbasis of H_z: Σ_t Γ_cntᵀ V F_nt, as [C, N].

        `direction` is V, in the shape of the weight or flat.
        """
        return self._back(self._coordinates(direction.flatten()), 1)

    def _by_sample(self):
        """Γ as [N, C, T · d_out], a sample's columns side by side in memory.

        Batched products with a vector read it fastest so, the vector on the left.
        """
        columns = self._curvature.transpose(0, 1).contiguous()
        self._curvature = columns.transpose(0, 1)
        return columns.flatten(2)

    def _project(self, matrices):
        images = torch.einsum("nti,koi->nkto", self._inputs, matrices).flatten(2)
        return torch.bmm(images, self._by_sample().mT).permute(1, 2, 0)

    def _back(self, tensor, times):
        """What was made with `times` pairs of balanced factors, times 2^(power · times)."""
        for _ in range(times):
            for power in (self._in_power, self._out_power):
                tensor = tensor * torch.exp2(power.to(self.dtype))
        return tensor

    def quadratic_form(self, direction):
        """H_w(k)[V, V] of Theorem 1 for V in the weight's shape: a tensor without dimension."""
        return self._scaled((self.signs * self._coordinates(direction.flatten()) ** 2).sum())

    def _combine(self, y):
        """The sums Σ_cn y_cn r_cn for each of y [K, C, N], as [K, P]."""
        pulled = torch.bmm(y.permute(2, 0, 1).contiguous(), self._by_sample())
        pulled = pulled.unflatten(2, self._curvature.shape[2:])
        return self._vectors(torch.einsum("nkto,nti->koi", pulled, self._inputs))

    def _products(self, vectors):
        """Of rows [K, P], in units of 4^power."""
        return self._combine(self.signs * self._project(self._matrices(vectors)))

    def __matmul__(self, vector):
        return self._back(self._products(check_vectors(self, vector, 1)[None])[0], 2)

    def matmat(self, matrix, memory=None):
        """The product with a matrix [P, K], as [P, K]; `memory`: bytes for a chunk of columns."""
        return self._back(self._matmat(check_vectors(self, matrix, 2), memory), 2)

    def _matmat(self, matrix, memory=None):
        samples, places, width = self._curvature.shape[1:]
        column = 2 * samples * places * width * self._inputs.element_size()
        chunk = max(1, (memory or 2**28) // column)
        return torch.cat([self._products(part) for part in matrix.T.split(chunk)]).T

    def _start(self, near):
        operator, start, generator = super()._start(near)
        if near is not None and near.shape == self.signs.shape:
            dual = isinstance(operator, _Gram)
            guess = near.T.flatten() if dual else self._combine(near[None])[0]
            length = torch.linalg.vector_norm(guess)
            guess = guess / torch.where(length > 0, length, 1)
            start = 0.3 * start / torch.linalg.vector_norm(start) + guess
        return operator, start, generator

    def _coordinates(self, vector, operator=None):
        if isinstance(operator, _Gram):
            return vector.view(self.signs.shape[::-1]).T
        return self._project(self._matrices(vector[None]))[0]

    def _gram(self):
        """A smaller operator with the same nonzero eigenvalues, or the block; both over 4^power.

        The block is R Rᵀ with the terms r_cn as columns of R; RᵀR is only [CN, CN]. A loss that is
        not convex puts signs in between: then, and where CN > P, it is the block.
        """
        dual = self._inputs.shape[1] == 1 and self.signs.numel() < self.shape[0]
        return _Gram(self) if dual and bool((self.signs > 0).all()) else self._units()

    def trace(self):
        """Σ_cn ±‖r_cn‖²: exact. ‖r_cn‖² = Σ_ts (Γ_cnt·Γ_cns)(F_nt·F_ns)."""
        if self._inputs.shape[1] == 1:
            sizes = torch.linalg.vector_norm(self._curvature[:, :, 0], dim=-1)
            sizes = (sizes * torch.linalg.vector_norm(self._inputs[:, 0], dim=-1)) ** 2
        else:
            places = self._inputs @ self._inputs.mT
            sizes = torch.stack([(g @ g.mT * places).sum((1, 2)) for g in self._curvature])
        return self._scaled((self.signs * sizes).sum())

    def frobenius(self, memory=2**28):
        """‖H_w(k)‖_F, that of the CN × CN Gram matrix r_cn·r_dm, in bands that fit `memory` bytes.

        With T = 1 an entry is (F_n·F_m)(Γ_cn·Γ_dm): the Gram matrices of F and of Γ suffice.
        """
        classes, samples, places, _ = self._curvature.shape
        floats, signs = memory // self._inputs.element_size(), self.signs
        size = classes**2 * samples if places == 1 else 3 * classes * self.shape[0]
        bands = torch.arange(samples, device=self.device).split(max(1, floats // size))
        total = self._inputs.new_zeros(())
        if places == 1:
            rows, flat = self._inputs[:, 0], self._curvature[:, :, 0]
            for band in bands:
                gram = torch.einsum("cbo,dmo->cbdm", flat[:, band], flat)
                gram *= (rows[band] @ rows.T)[:, None]
                total += torch.einsum("cbdm,cb,dm->", gram.square_(), signs[:, band], signs)
        else:
            for a in bands:
                left = self._rows(a)
                for b in bands:
                    gram = left @ self._rows(b).T
                    total += signs[:, a].flatten() @ gram.square_() @ signs[:, b].flatten()
        return self._scaled(total.clamp(min=0).sqrt())

    def _rows(self, band):
        """The terms r_cn of some samples, [C · band, d_out · d_in]."""
        terms = torch.einsum("cnto,nti->cnoi", self._curvature[:, band], self._inputs[band])
        return terms.flatten(2).flatten(0, 1)

    def rows(self, part, of):
        """See `Block.rows`."""
        return LayerBlock(self.inputs, self.curvature.chunk(of, dim=-1)[part], self.signs)


class EmbeddingBlock(LayerBlock):
    """The block of an embedding table [V, d]: tokens that the batch lacks have no curvature.

    `inputs` is one-hot over the `tokens` that occur; a direction is V's transpose, restricted to
    them.
    """

    def __init__(self, inputs, curvature, signs, tokens, table):
        super().__init__(inputs, curvature, signs)
        self.tokens, self.table = tokens, table
        self.shape = (math.prod(table),) * 2

    def _matrices(self, vectors):
        return vectors.view(-1, *self.table)[:, self.tokens].mT

    def _vectors(self, matrices):
        full = matrices.new_zeros(len(matrices), *self.table)
        full[:, self.tokens] = matrices.mT
        return full.flatten(1)


class _Units:
    """A `LayerBlock` over 4^power, as an operator."""

    def __init__(self, block):
        self.block, self.shape = block, block.shape
        self.dtype, self.device = block.dtype, block.device

    def __matmul__(self, vector):
        return self.block._products(vector[None])[0]

    def matmat(self, matrix, memory=None):
        return self.block._matmat(matrix, memory)


class _Gram:
    """RᵀR of a `LayerBlock` over 4^power: entries (F_n·F_m)(Γ_cn·Γ_dm), never formed."""

    def __init__(self, block):
        self.inputs, self.curvature = block._inputs[:, 0], block._by_sample()  # [N, C, d_out]
        samples, width = self.inputs.shape
        # F Fᵀ times a matrix [N, d_out], in whichever order is cheaper.
        self.similarity = self.inputs @ self.inputs.T if samples < 2 * width else None
        self.shape = (block.signs.numel(),) * 2
        self.dtype, self.device = block.dtype, block.device

    def __matmul__(self, vector):
        pulled = torch.bmm(vector.view(len(self.curvature), 1, -1), self.curvature)[:, 0]
        if self.similarity is not None:
            mixed = self.similarity @ pulled
        else:
            mixed = self.inputs @ (self.inputs.T @ pulled)
        return torch.bmm(mixed[:, None], self.curvature.mT).flatten()
