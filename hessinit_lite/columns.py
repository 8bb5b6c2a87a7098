"""Columns of the root of H_z pushed back to the layers: Γ = A Bᵀ S, one half of every factor.

Autograd's batched backward pass does it for any network. Where the network is a chain, dense layers
with pointwise activations in between, Γ_k = f'(u_k) · (Γ_k+1 W_k+1) is one matrix product for all
columns and samples together, and nothing else is computed.
"""

import torch
from torch import nn

from .autograd import pull_back

#: Nodes of autograd's graph for functions of one tensor that act on each of its numbers alone.
_POINTWISE = "Clone Relu Tanh Sigmoid Gelu Silu Elu LeakyRelu Softplus Hardtanh Mish".split()
_POINTWISE = {f"{name}Backward" for name in _POINTWISE}  # and 0, or 1 for some in place


def factor_gradients(outputs, calls, us, s, memory):
    """Gradients of the columns of `s` [C, N, K] in each of `us`, a chunk of columns at a time.

    `calls` is {layer: [(x, u) of each call]}. Yields lists of (Γ [chunk, N, ...], apart), one for
    each u. apart: do samples not see each other between u and the outputs?
    """
    chunk = max(3, memory // sum(2 * u.numel() * u.element_size() for u in us))
    chain = _chain(outputs, calls, us)
    if chain is None:
        yield from _by_autograd(outputs, us, s, chunk)
        return
    for part in s.split(chunk):
        found = dict(_push(chain, part))
        yield [(found[u], True) for u in us]


def _chain(outputs, calls, us):
    """[(u, slope f'(u), weight of the layer that follows or None)], the last layer first.

    None where something else than pointwise functions follows one of the layers, or where a layer
    is no dense one.
    """
    of = {u.grad_fn: (layer, x, u) for layer, found in calls.items() for x, u in found}
    of.pop(None, None)  # frozen layers that come first
    chain, wanted, z, weight = [], set(us), outputs, None
    while wanted:
        node = z.grad_fn
        while node not in of:
            if node is None or node.name().rstrip("01") not in _POINTWISE:
                return None
            node = node.next_functions[0][0]
        layer, x, u = of[node]
        own = {"weight", "bias"} <= layer._parameters.keys()  # not computed from the data
        if not (type(layer) is nn.Linear and own and u.ndim == 2 and u.dtype == layer.weight.dtype):
            return None
        (slope,) = torch.autograd.grad(z, u, torch.ones_like(z), retain_graph=True)
        chain.append((u, slope, weight))
        wanted, z, weight = wanted - {u}, x, layer.weight.detach()
    return chain


def _push(chain, columns):
    """(u, Γ) of every u of the chain for `columns` [C, N, K] of the outputs."""
    g = columns.transpose(0, 1).contiguous()  # a sample's columns side by side, as _Gram reads them
    for u, slope, weight in chain:
        g = g * slope[:, None] if weight is None else (g @ weight).mul_(slope[:, None])
        yield u, g.transpose(0, 1)


def _by_autograd(outputs, us, s, chunk):
    """As `factor_gradients`, for any network.

    Where samples do not see each other, a weight on each sample of any column is one on its Γ. The
    column that is tried is a random mix of all.
    """
    generator = torch.Generator(s.device).manual_seed(0)
    mix = torch.randn(len(s), 1, 1, dtype=s.dtype, device=s.device, generator=generator)
    weights = torch.randn(s.shape[1], 1, dtype=s.dtype, device=s.device, generator=generator)
    tried = (mix * s).sum(0, keepdim=True)
    columns = torch.cat([weights * tried, tried, s])
    apart = None
    for part in columns.split(chunk):
        gradients = pull_back([outputs], us, [part], batched=True)
        if apart is None:
            scaled, plain = zip(*((g[0], g[1]) for g in gradients))
            apart = samples_apart(scaled, plain, weights)
            gradients = [g[2:] for g in gradients]
        yield list(zip(gradients, apart))


def samples_apart(scaled, plain, weights):
    """Whether samples do not see each other on the way to each of `plain`, gradients [N, ...].

    Those `scaled` are of the same column with `weights` [N, 1] on its samples.
    """
    differ = lambda a, b: (a.flatten(1) - weights * b.flatten(1)).norm()
    away = torch.stack([torch.stack([differ(a, b), a.norm()]) for a, b in zip(scaled, plain)])
    return (away[:, 0] <= 4 * torch.finfo(away.dtype).eps ** 0.5 * away[:, 1]).tolist()
