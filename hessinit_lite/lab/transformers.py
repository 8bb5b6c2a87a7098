"""Transformers of today in small: a GPT for text, a ViT for pictures, of the same blocks.

Weights start at torch's defaults, but for the tables of tokens and places; draw them with
`hessinit_lite.init_`. Attention is torch's fused one; the module's curvature operators take its
plain form where a second derivative is asked for.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ..models import activation_module, check_sizes

ORDERS = "pre", "post"
NORMS = ("layer", "rms")


def _norm(name, width):
    """A norm layer; ValueError for an unknown name, or "rms" on a torch that has none."""
    if name not in NORMS:
        raise ValueError(f"unknown norm {name!r}; known: {', '.join(NORMS)}")
    if name == "layer":
        return nn.LayerNorm(width)
    if not hasattr(nn, "RMSNorm"):
        raise ValueError(f"norm='rms' needs torch 2.4, this is {torch.__version__}: take 'layer'")
    return nn.RMSNorm(width)


class FusedAttention(nn.Module):
    """Multi-head self-attention, z [N, T, width] -> [N, T, width]; causal, or each place sees all.

    q, k, v and out are layers of their own, so that their curvature can be asked for one by one.
    """

    def __init__(self, width, heads, causal):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, z):
        q, k, v = (
            layer(z).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [N, heads, T, d]
            for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """down(f(up z)), or with a gate down(f(gate z) · up z): SwiGLU for silu (Shazeer 2020)."""

    def __init__(self, width, activation, gated):
        super().__init__()
        self.gate = nn.Linear(width, 4 * width, bias=False) if gated else None
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.activation = activation_module(activation)

    def forward(self, z):
        if self.gate is None:
            return self.down(self.activation(self.up(z)))
        return self.down(self.activation(self.gate(z)) * self.up(z))


class ResidualBlock(nn.Module):
    """Attention, then an MLP. Pre-norm: z + a·f(norm z); post-norm: norm(z + a·f(z))."""

    def __init__(self, width, heads, causal, activation, gated, norm, order, branch):
        super().__init__()
        self.attention = FusedAttention(width, heads, causal)
        self.mlp = GatedMLP(width, activation, gated)
        self.norm1, self.norm2 = _norm(norm, width), _norm(norm, width)
        self.order, self.branch = order, branch

    def forward(self, z):
        for norm, part in ((self.norm1, self.attention), (self.norm2, self.mlp)):
            if self.order == "pre":
                z = z + self.branch * part(norm(z))
            else:
                z = norm(z + self.branch * part(z))
        return z


def _blocks(width, depth, heads, causal, activation, gated, norm, order, branch):
    """`depth` blocks and the norm behind them (none for post-norm, which ends with one)."""
    if width % heads:
        raise ValueError(f"heads must divide width, got {heads} heads for width {width}")
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}; known: {', '.join(ORDERS)}")
    options = (width, heads, causal, activation, gated, norm, order, branch)
    blocks = nn.Sequential(*(ResidualBlock(*options) for _ in range(depth)))
    return blocks, _norm(norm, width) if order == "pre" else nn.Identity()


def _numbers(z):
    """0, 1, … of the places of z [N, T, ...], for each sample its own: [N, T]."""
    return torch.arange(z.shape[1], device=z.device).expand(z.shape[:2])


class GPT(nn.Module):
    """A small GPT: tables of tokens and places, `depth` blocks, a norm, a head; no biases.

    Inputs are whole numbers [N, T] below `vocabulary`, T at most `context`. Outputs are logits [N,
    vocabulary, T]: those of the next token at every place, classes on axis 1 as `F.cross_entropy`
    and the curvature of this module read them.

    Args:
        activation: a name in `hl.ACTIVATIONS`.
        gated: an MLP with a gate; with "silu" it is SwiGLU. Its layers are 4 widths wide, too.
        norm: "layer", or "rms" (torch 2.4).
        order: "pre" or "post".
        tied: the head's weight is the table of tokens (Press & Wolf 2017).
        branch: factor on each branch in the forward pass, such as 1/depth (CompleteP).
        output_scale: factor on the logits, such as base width / width (μP with a tied head).

    Raises:
        ValueError: for a size below 1, heads that do not divide the width, unknown names; for
            inputs of another shape or kind, or longer than `context`.

    Example:
        >>> model = hl.GPT(vocabulary=128, width=16, depth=2, heads=2, context=8)
        >>> model(torch.zeros(3, 5, dtype=torch.long)).shape
        torch.Size([3, 128, 5])
    """

    def __init__(
        self,
        vocabulary,
        width,
        depth,
        heads,
        context,
        activation="gelu",
        gated=False,
        norm="layer",
        order="pre",
        tied=True,
        branch=1.0,
        output_scale=1.0,
    ):
        super().__init__()
        sizes = {"vocabulary": vocabulary, "width": width, "depth": depth, "heads": heads}
        check_sizes(**sizes, context=context)
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks, self.norm = _blocks(
            width, depth, heads, True, activation, gated, norm, order, branch
        )
        self.head = nn.Linear(width, vocabulary, bias=False)
        for table in (self.tokens, self.places):  # GPT-2's; torch's N(0, 1) suits no tied head
            nn.init.normal_(table.weight, std=0.02)
        if tied:
            self.head.weight = self.tokens.weight
        self.output_scale = output_scale

    def forward(self, inputs):
        context = len(self.places.weight)
        fits = inputs.ndim == 2 and not inputs.is_floating_point() and inputs.shape[1] <= context
        if not fits:
            raise ValueError(
                f"expected whole numbers [N, T] with T at most {context}, got {inputs.dtype} of "
                f"shape {tuple(inputs.shape)}"
            )
        z = self.tokens(inputs) + self.places(_numbers(inputs))
        return self.output_scale * self.head(self.norm(self.blocks(z))).transpose(1, 2)


class ViT(nn.Module):
    """A small vision Transformer (Dosovitskiy et al. 2021): patches, pre-norm blocks, their mean.

    Inputs [N, in_channels, size, size], outputs [N, classes]. Simpler than the original: a mean
    over the patches instead of a class token. Digits: `size=8, patch=2, in_channels=1`, inputs as
    `inputs.unflatten(1, (1, 8, 8))`.

    Args:
        patch: side of a square patch; it divides `size`.
        activation, norm: as for `GPT`.

    Raises:
        ValueError: as `GPT`, and for a patch that does not divide the size.

    Example:
        >>> model = hl.ViT(size=8, patch=2, width=16, depth=2, heads=2, classes=10, in_channels=1)
        >>> model(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        size,
        patch,
        width,
        depth,
        heads,
        classes,
        in_channels=3,
        activation="gelu",
        norm="layer",
    ):
        super().__init__()
        sizes = {"size": size, "patch": patch, "width": width, "depth": depth, "heads": heads}
        check_sizes(**sizes, classes=classes, in_channels=in_channels)
        if size % patch:
            raise ValueError(f"patch must divide size, got patches of {patch} in {size}")
        self.shape = in_channels, size, size
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.places = nn.Embedding((size // patch) ** 2, width)
        nn.init.normal_(self.places.weight, std=0.02)
        self.blocks, self.norm = _blocks(
            width, depth, heads, False, activation, False, norm, "pre", 1.0
        )
        self.head = nn.Linear(width, classes)

    def forward(self, inputs):
        if inputs.shape[1:] != self.shape:
            raise ValueError(
                f"expected pictures {['N', *self.shape]}, got {tuple(inputs.shape)}; flat ones can "
                "be reshaped: inputs.unflatten(1, (channels, height, width))"
            )
        z = self.patches(inputs).flatten(2).mT
        z = z + self.places(_numbers(z))
        return self.head(self.norm(self.blocks(z)).mean(1))
