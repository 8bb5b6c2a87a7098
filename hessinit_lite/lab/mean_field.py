"""The curvature that mean-field theory predicts from pairs of inputs, with no weights drawn.

In a wide dense net the pre-activations of inputs i and j are Gaussian, and their covariance K_ij
goes from layer to layer by itself. So do Φ_ij = F_i · F_j, of a layer's inputs, and Ψ_ij, the inner
product of one output's gradients in the pre-activations of i and of j. They give the inner products
of the vectors that a layer's Gauss-Newton block is made of,

    r_ci · r_dj = (S_iᵀ S_j)_cd Ψ_ij Φ_ij,   H_z(i) = S_i S_iᵀ,

and with them its eigenvalues, for Gaussian outputs of covariance K. (The largest one of the Fisher
matrix: Karakida, Akaho and Amari 2019. Σ_layers Ψ_ij Φ_ij is the neural tangent kernel.)
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ..losses import output_curvature
from ..models import activation_module


class Prediction(NamedTuple):
    """What `mean_field_blocks` predicts, layer by layer.

    Example:
        >>> from hessinit_lite.lab.mean_field import mean_field_blocks
        >>> found = mean_field_blocks("tanh", torch.eye(4), [64, 64, 10], weight_variance=1.0)
        >>> found.signal.shape, found.traces.shape, found.norms.shape
        (torch.Size([3]), torch.Size([10, 3]), torch.Size([10, 3]))
    """

    signal: torch.Tensor  #: mean square of the pre-activations [layers]
    traces: torch.Tensor  #: of the blocks, for each draw of the outputs [draws, layers]
    norms: torch.Tensor  #: their largest eigenvalues [draws, layers]


def pair_moments(activation, covariance, terms=96):
    """(E f(u_i) f(u_j), E f'(u_i) f'(u_j)) of Gaussians u with this covariance, both [N, N].

    By Mehler's formula, Σ_n a_n(q_i) a_n(q_j) cⁿ with c the correlation and a_n the coefficients of
    f(√q z) in normalized Hermite polynomials; the diagonal is exact. For `hl.cross_moments` the two
    variances are one.

    Args:
        covariance: [N, N], of positive variances.
        terms: of the series. Smooth activations need few; the slope of one with a kink is off by
            some per cent between inputs of a correlation above 0.99.

    Example:
        >>> from hessinit_lite.lab.mean_field import pair_moments
        >>> f, slopes = pair_moments("relu", torch.eye(2))  # 1/2 and 1/2π; 1/2 and 1/4
        >>> f[0].numpy().round(4).tolist(), slopes[0].numpy().round(4).tolist()
        ([0.5, 0.1592], [0.5, 0.25])
    """
    covariance = covariance.double()
    q = covariance.diagonal()
    correlation = (covariance / (q[:, None] * q).sqrt()).clamp(-1, 1)
    z, hermite = _hermite_rule(terms)
    z, hermite = z.to(q.device), hermite.to(q.device)
    u = (q.sqrt()[:, None] * z).requires_grad_()
    with torch.enable_grad():
        f = activation_module(activation)(u)
        (slope,) = torch.autograd.grad(f.sum(), u)
    moments = []
    for values in (f.detach(), slope):
        total, power = torch.zeros_like(covariance), torch.ones_like(covariance)
        for a in (values @ hermite.T).T:
            total, power = total + power * a[:, None] * a, power * correlation
        total.diagonal().copy_(values.square() @ hermite[0])
        moments.append(total)
    return tuple(moments)


def mean_field_blocks(
    activation, inputs, widths, weight_variance, bias_variance=0.0, draws=10, generator=None
):
    """Traces and norms of the layers' Gauss-Newton blocks for the cross-entropy, a Prediction.

    For a dense net of infinite width, at these inputs; float64, on the inputs' device.

    Args:
        inputs: [N, d_0].
        widths: outputs of every layer, [d_1, …, d_n]; the last are the classes.
        weight_variance: fan_in · Var w; one number, or one a layer.
        bias_variance: likewise.
        draws: how often the net's outputs are drawn, nothing else is.
        generator: where they come from, on the inputs' device.

    Raises:
        ValueError: for an unknown activation.

    Example:
        >>> from hessinit_lite.lab.mean_field import mean_field_blocks
        >>> inputs, _ = hl.digits().batch(32, hl.seeded(0))
        >>> found = mean_field_blocks("relu", inputs, [64] * 4 + [10], weight_variance=2.0)
        >>> bool((found.norms < found.traces).all())
        True
    """
    layers, inputs = len(widths), inputs.double()
    w, b = (torch.as_tensor(v).expand(layers).tolist() for v in (weight_variance, bias_variance))
    forward, slopes, covariance = [inputs @ inputs.T], [], []
    for k, width in enumerate(widths):  # forward: inner products of a layer's inputs
        fan_in = widths[k - 1] if k else inputs.shape[1]
        covariance.append(w[k] * forward[k] / fan_in + b[k])
        if k < layers - 1:
            moments = pair_moments(activation, covariance[k])
            forward.append(width * moments[0])
            slopes.append(moments[1])
    backward = [torch.ones_like(covariance[0])]
    for k in reversed(range(layers - 1)):
        backward.insert(0, backward[0] * w[k + 1] * slopes[k])
    pairs = torch.stack([f * g for f, g in zip(forward, backward)])  # [layers, N, N]
    values, vectors = torch.linalg.eigh(covariance[-1])
    like = {"dtype": torch.float64, "device": inputs.device, "generator": generator}
    traces, norms = [], []
    for _ in range(draws):
        noise = torch.randn(len(inputs), widths[-1], **like)
        outputs = vectors @ (values.clamp(min=0).sqrt()[:, None] * noise)
        targets = torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)  # any will do
        s, _ = output_curvature(F.cross_entropy, outputs, targets)  # [C, N, K], mean over N in it
        traces.append(pairs.diagonal(dim1=1, dim2=2) @ s.square().sum((0, 2)))
        norms.append(_largest(pairs, s, torch.randn(layers, *s.shape[:2], **like)))
    signal = torch.stack([k.diagonal().mean() for k in covariance])
    return Prediction(signal, torch.stack(traces), torch.stack(norms))


def _largest(pairs, s, start, steps=200):
    """Largest eigenvalues [layers] of Sᵀ (pairs ⊗ 1) S, by the power iteration from `start`."""
    v = start / start.flatten(1).norm(dim=1)[:, None, None]
    for _ in range(steps):
        v = torch.einsum("cnk,lcn->lnk", s, v)
        v = torch.einsum("cnk,lnk->lcn", s, pairs @ v)
        value = v.flatten(1).norm(dim=1)
        v = v / value[:, None, None]
    return value


def _hermite_rule(terms, nodes=128, cut=12.0):
    """z, and h [terms, nodes] with h_n·g(z) = E g(z) He_n(z)/√n!, g smooth on each side of 0."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    x, w = cut * (x + 1) / 2, cut * w / 2
    z = torch.from_numpy(np.concatenate([-x[::-1], x]))
    w = torch.from_numpy(np.concatenate([w[::-1], w]))
    h = [torch.ones_like(z), z]
    for n in range(2, terms):
        h.append((z * h[-1] - math.sqrt(n - 1) * h[-2]) / math.sqrt(n))
    return z, torch.stack(h) * w * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
