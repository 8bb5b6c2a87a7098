"""Blocks of nets with so many classes that not every column of the root of H_z can be pushed back.

Per sample H_z = S Sᵀ with as many columns as classes. Random signs w make S w of them, one random
column for which E (S w)(S w)ᵀ = H_z. Pushed back through the network, Γ = A Bᵀ S w, it gives the
traces of all layers in one backward pass, whatever the number of classes, and without bias:

    E Σ_n ‖Σ_t Γ_nt F_ntᵀ‖² = tr H_w(k)

(Hutchinson 1990; Dangel et al. 2020 sample the root for diagonals and Kronecker factors). Samples
have signs of their own, so their terms are independent: the variances of all N, from a few draws,
add up to the mean's.

Norms cannot be had so: a single random term is as long as its sample's whole trace, so that the
largest eigenvalue of a sum of few draws is far too large. They come from products with the block
itself, whose cost does not depend on the number of columns either.
"""

import torch

from .autograd import pull_back
from .blocks import Block
from .columns import samples_apart

#: Draws after which the standard errors are looked at, and what they are to be below.
ROUNDS, PRECISION = (16, 32, 64), 0.01
#: Numbers that the products may take in the outputs if a small block is to be formed.
FORMED_OUTPUTS = 2**26


class ManyClassBlock(Block):
    """A `Block` of a net with many classes: its norm to 1e-2 unless asked for more.

    It is formed only where that is cheap, by P products with `outputs` numbers each.

    Example:
        >>> batch = torch.ones(4, 2), torch.arange(4)
        >>> block = hl.layer_blocks(hl.MLP(2, 3, 2, 9000), F.cross_entropy, batch)["layers.1"]
        >>> type(block).__name__, block.shape, block.is_large
        ('ManyClassBlock', (27000, 27000), True)
    """

    def __init__(self, operator, outputs):
        super().__init__(operator)
        self.outputs = outputs

    @property
    def is_large(self):
        """Whether it is too large to be formed; trace and Frobenius norm are then estimated."""
        return super().is_large or self.shape[0] * self.outputs > FORMED_OUTPUTS

    def norm(self, rtol=1e-2):
        """The spectral norm; at rtol = 1e-2 of the residual its own error is far smaller."""
        return super().norm(rtol)

    def rows(self, part, of):
        """See `Block.rows`."""
        return ManyClassBlock(super().rows(part, of)._operator, self.outputs)


def random_column(curve, generator):
    """S w for random signs w, of the outputs' shape."""
    # Whole numbers of 8 bits: for millions of outputs `bernoulli_` takes longer than all the rest.
    signs = torch.randint(
        2, curve.z.shape, dtype=torch.int8, device=curve.z.device, generator=generator
    )
    return curve.root(signs.mul_(2).sub_(1).to(curve.z.dtype))


def squared_lengths(inputs, gradients):
    """‖Σ_t Γ_nt F_ntᵀ‖² of F [N, T, d_in] and Γ [N, T, d_out], as [N] in float64."""
    inputs, gradients = inputs.double(), gradients.double()  # squares may leave single precision
    if inputs.shape[1] == 1:
        return (inputs.square().sum(2) * gradients.square().sum(2))[:, 0]
    return (inputs @ inputs.mT * (gradients @ gradients.mT)).sum((1, 2))


def _apart(outputs, us, column, generator):
    """Whether samples do not see each other between each of `us` and the outputs.

    Where they do not, a weight on each sample of a column is one on its gradients.
    """
    weights = torch.randn(len(column), 1, generator=generator, device=column.device).to(column)
    columns = (weights * column.flatten(1)).view_as(column), column
    pulled = (pull_back([outputs], us, [each], batched=False) for each in columns)
    return samples_apart(*pulled, weights)


def sampled_traces(outputs, curve, layers, samples, generator):
    """(means, variances of the means), float64 [layers], of the layers' traces from random columns.

    Args:
        layers: {name: (weight, us, fold)}: `us` are the layer's outputs, one a call, and
            `fold(gradients in us)` returns (F, Γ). Without `us`, and where samples see each other,
            from the weight's gradient: then the terms of different samples mix, and only the draws
            are independent.
        samples: draws; None to stop at the first of `ROUNDS` with all errors below `PRECISION`.
    """
    us = list(dict.fromkeys(u for _, ends, _ in layers.values() for u in ends))
    apart = _apart(outputs, us, random_column(curve, generator), generator) if us else []
    apart = {u for u, alone in zip(us, apart) if alone}
    kept = {name for name, (_, ends, _) in layers.items() if ends and apart.issuperset(ends)}
    us = list(dict.fromkeys(u for name in kept for u in layers[name][1]))
    mixed = [weight for name, (weight, _, _) in layers.items() if name not in kept]

    def draw():
        column = random_column(curve, generator)
        found = dict(zip([*us, *mixed], pull_back([outputs], [*us, *mixed], [column], False)))
        unused = [name for name, (weight, _, _) in layers.items() if found.get(weight, 0) is None]
        if unused:
            how = "freeze them (requires_grad=False) or pick other layers"
            raise ValueError(f"the loss does not depend on {', '.join(unused)}: {how}")
        for name, (weight, ends, fold) in layers.items():
            if name in kept:
                yield squared_lengths(*fold([found[u] for u in ends]))
            else:
                yield found[weight].to_dense().double().square().sum()[None]

    draws = []
    for count in ROUNDS if samples is None else (samples,):
        draws += [list(draw()) for _ in range(count - len(draws))]
        terms = [torch.stack(each) for each in zip(*draws)]  # [draws, N] or [draws, 1] of a layer
        means = torch.stack([each.mean(0).sum() for each in terms])
        variances = torch.stack([each.var(0).sum() / count for each in terms])
        if bool((variances.sqrt() <= PRECISION * means).all()):
            break
    return means, variances
