"""The other networks of the book: convolutional, word vectors, a Transformer; each also in tiny.

All of them use one activation, by name; weights start at torch's defaults and are drawn with
`hessinit_lite.init_` (an embedding's N(0, 1) it leaves alone). Everything is twice differentiable.
Every class raises ValueError for a size below 1 or an unknown activation, and for inputs of another
shape than its docstring says.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..models import activation_module, check_sizes


def _check_pictures(inputs, channels, size=None):
    """Raises ValueError if `inputs` are no pictures [N, channels, height, width]."""
    height, width = (size, size) if size else ("height", "width")
    fits = inputs.ndim == 4 and inputs.shape[1] == channels
    if not fits or (size and inputs.shape[2:] != (size, size)):
        raise ValueError(
            f"expected pictures [N, {channels}, {height}, {width}], got {tuple(inputs.shape)}; "
            "flat pictures can be reshaped: inputs.unflatten(1, (channels, height, width))"
        )


def _conv(d_in, d_out, kernel, norm=False, stride=1, groups=1):
    """A convolution that keeps the picture's size (divided by `stride`), and its batch norm."""
    conv = nn.Conv2d(d_in, d_out, kernel, stride, kernel // 2, groups=groups, bias=not norm)
    return nn.Sequential(conv, nn.BatchNorm2d(d_out)) if norm else conv


class LeNet5(nn.Module):
    """LeNet-5 (LeCun et al. 1998): two 5×5 convolutions with mean pooling, three dense layers.

    Inputs [N, in_channels, size, size], outputs [N, classes]. `width` is the number of channels of
    the first layer, 6 in the original; the others keep their proportion to it. Simpler than the
    original: all channels are connected, the last layer is dense, pooling has no weights.

    Raises:
        ValueError: also for pictures smaller than 16×16: nothing would be left of them.

    Example:
        >>> hl.LeNet5(in_channels=1, size=28)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels=3, classes=10, activation="tanh", size=32, width=6):
        super().__init__()
        check_sizes(in_channels=in_channels, classes=classes, size=size, width=width)
        if size < 16:
            raise ValueError(f"size must be at least 16, got {size}")
        self.in_channels, self.size = in_channels, size
        d_1, d_2, d_3, d_4 = width, 8 * width // 3, 20 * width, 14 * width
        left = ((size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, d_1, 5)
        self.conv2 = nn.Conv2d(d_1, d_2, 5)
        self.dense1 = nn.Linear(d_2 * left**2, d_3)
        self.dense2 = nn.Linear(d_3, d_4)
        self.dense3 = nn.Linear(d_4, classes)
        self.activation = activation_module(activation)

    def forward(self, inputs):
        _check_pictures(inputs, self.in_channels, self.size)
        z = F.avg_pool2d(self.activation(self.conv1(inputs)), 2)
        z = F.avg_pool2d(self.activation(self.conv2(z)), 2).flatten(1)
        return self.dense3(self.activation(self.dense2(self.activation(self.dense1(z)))))


class BasicBlock(nn.Module):
    """Residual block z' = f(g(z) + s(z)): g two 3×3 convolutions, s the identity or a 1×1 one."""

    def __init__(self, d_in, d_out, stride, activation, norm):
        super().__init__()
        self.conv1 = _conv(d_in, d_out, 3, norm, stride)
        self.conv2 = _conv(d_out, d_out, 3, norm)
        same = stride == 1 and d_in == d_out
        self.shortcut = nn.Identity() if same else _conv(d_in, d_out, 1, norm, stride)
        self.activation = activation_module(activation)

    def forward(self, z):
        return self.activation(self.conv2(self.activation(self.conv1(z))) + self.shortcut(z))


class ResNet18(nn.Module):
    """ResNet-18 with the stem for small pictures (He et al. 2016): 3×3, stride 1, no pooling.

    Inputs [N, in_channels, height, width] of any size, outputs [N, classes]. Four stages of two
    blocks with `width`, 2, 4 and 8 times as many channels, mean pooling, one dense layer. `norm`
    puts a batch norm behind every convolution, which then has no bias.

    Example:
        >>> hl.ResNet18(width=2)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(self, classes=10, width=64, in_channels=3, activation="relu", norm=False):
        super().__init__()
        check_sizes(classes=classes, width=width, in_channels=in_channels)
        self.in_channels = in_channels
        self.stem = _conv(in_channels, width, 3, norm)
        self.activation = activation_module(activation)
        self.blocks = nn.Sequential()
        d_in = width
        for d_out in (width, 2 * width, 4 * width, 8 * width):
            self.blocks.append(
                BasicBlock(d_in, d_out, 1 if d_out == width else 2, activation, norm)
            )
            self.blocks.append(BasicBlock(d_out, d_out, 1, activation, norm))
            d_in = d_out
        self.dense = nn.Linear(8 * width, classes)

    def forward(self, inputs):
        _check_pictures(inputs, self.in_channels)
        return self.dense(self.blocks(self.activation(self.stem(inputs))).mean((2, 3)))


class MBConv(nn.Module):
    """Inverted bottleneck (Sandler et al. 2018; Tan & Le 2019), [N, d_in, ...] -> [N, d_out, ...].

    1×1 up, depthwise k×k, squeeze-and-excitation, 1×1 down without an activation; the input is
    added where it has the output's shape.
    """

    def __init__(self, d_in, d_out, expand, kernel, stride, activation, norm):
        super().__init__()
        d_mid, squeezed = expand * d_in, max(1, d_in // 4)
        self.expand = _conv(d_in, d_mid, 1, norm)
        self.depthwise = _conv(d_mid, d_mid, kernel, norm, stride, groups=d_mid)
        self.squeeze = nn.Conv2d(d_mid, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, d_mid, 1)
        self.project = _conv(d_mid, d_out, 1, norm)
        self.activation = activation_module(activation)
        self.skip = stride == 1 and d_in == d_out

    def forward(self, inputs):
        z = self.activation(self.depthwise(self.activation(self.expand(inputs))))
        squeezed = self.activation(self.squeeze(z.mean((2, 3), keepdim=True)))
        # The gate is a function, not a module: the model's one activation stays readable off it.
        z = self.project(z * torch.sigmoid(self.excite(squeezed)))
        return z + inputs if self.skip else z


class EfficientNet(nn.Module):
    """A small EfficientNet (Tan & Le 2019): 3×3 stem, five MBConv blocks, 1×1 head, dense layer.

    Inputs [N, in_channels, height, width] of any size, outputs [N, classes]. The blocks follow the
    first ones of EfficientNet-B0 (expansion 1, then 6; kernels 3, then 5), with fewer strides, for
    pictures of 32×32. `width` is the stem's number of channels; `norm` as for `ResNet18`.

    Example:
        >>> hl.EfficientNet(width=2)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """

    #: channels (in widths), expansion, kernel, stride
    BLOCKS = ((1, 1, 3, 1), (2, 6, 3, 2), (2, 6, 3, 1), (4, 6, 5, 2), (4, 6, 5, 1))

    def __init__(self, classes=10, width=16, in_channels=3, activation="silu", norm=False):
        super().__init__()
        check_sizes(classes=classes, width=width, in_channels=in_channels)
        self.in_channels = in_channels
        self.stem = _conv(in_channels, width, 3, norm)
        self.blocks = nn.Sequential()
        d_in = width
        for channels, expand, kernel, stride in self.BLOCKS:
            d_out = channels * width
            self.blocks.append(MBConv(d_in, d_out, expand, kernel, stride, activation, norm))
            d_in = d_out
        self.head = _conv(d_in, 2 * d_in, 1, norm)
        self.dense = nn.Linear(2 * d_in, classes)
        self.activation = activation_module(activation)

    def forward(self, inputs):
        _check_pictures(inputs, self.in_channels)
        z = self.blocks(self.activation(self.stem(inputs)))
        return self.dense(self.activation(self.head(z)).mean((2, 3)))


class Inception(nn.Module):
    """Four branches side by side: 1×1; 1×1 and 3×3; 1×1 and 5×5; pooling and 1×1.

    Each has `d_out` outputs, so there are 4 · d_out. The 1×1 before a bigger kernel halves that.
    """

    def __init__(self, d_in, d_out, activation):
        super().__init__()
        reduced = max(1, d_out // 2)

        def branch(*convs):
            layers = [m for conv in convs for m in (conv, activation_module(activation))]
            return nn.Sequential(*layers)

        self.branch1 = branch(_conv(d_in, d_out, 1))
        self.branch3 = branch(_conv(d_in, reduced, 1), _conv(reduced, d_out, 3))
        self.branch5 = branch(_conv(d_in, reduced, 1), _conv(reduced, d_out, 5))
        self.pooled = branch(_conv(d_in, d_out, 1))

    def forward(self, z):
        pooled = self.pooled(F.max_pool2d(z, 3, stride=1, padding=1))
        return torch.cat([self.branch1(z), self.branch3(z), self.branch5(z), pooled], dim=1)


class GoogLeNet(nn.Module):
    """A simplified GoogLeNet (Szegedy et al. 2015): 3×3 stem, four Inception modules, dense layer.

    Inputs [N, in_channels, height, width] of any size, outputs [N, classes]. Max pooling halves the
    picture after every second module; branches are `width` channels wide in the first two modules
    and twice that in the others. No auxiliary classifiers, no dropout.

    Example:
        >>> hl.GoogLeNet(width=2)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(self, classes=10, width=16, in_channels=3, activation="relu"):
        super().__init__()
        check_sizes(classes=classes, width=width, in_channels=in_channels)
        self.in_channels = in_channels
        self.stem = _conv(in_channels, width, 3)
        self.activation = activation_module(activation)
        self.blocks = nn.Sequential(
            Inception(width, width, activation),
            Inception(4 * width, width, activation),
            nn.MaxPool2d(3, stride=2, padding=1),
            Inception(4 * width, 2 * width, activation),
            Inception(8 * width, 2 * width, activation),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.dense = nn.Linear(8 * width, classes)

    def forward(self, inputs):
        _check_pictures(inputs, self.in_channels)
        return self.dense(self.blocks(self.activation(self.stem(inputs))).mean((2, 3)))


class SkipGram(nn.Module):
    """Word vectors by skip-gram with negative sampling (Mikolov et al. 2013, eq. 4).

    Inputs are whole numbers [N, 2 + K] below `vocabulary`: a word, one from its context, K
    negatives (see `Corpus.batch`). Outputs are the logits [N, 1 + K]: scalar products of the word's
    row of `center` with the others' rows of `context`. The loss is
    `F.binary_cross_entropy_with_logits` against 1, 0, ..., 0: a mean over all N (1 + K) logits,
    where Mikolov's is a sum over a pair's.

    Args:
        sparse: gradients hold only the rows in use: for training with big vocabularies; curvature
            needs dense ones.

    Example:
        >>> hl.SkipGram(vocabulary=9, dim=4)(torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]])).shape
        torch.Size([2, 3])
    """

    def __init__(self, vocabulary, dim, sparse=False):
        super().__init__()
        check_sizes(vocabulary=vocabulary, dim=dim)
        self.center = nn.Embedding(vocabulary, dim, sparse=sparse)
        self.context = nn.Embedding(vocabulary, dim, sparse=sparse)

    def forward(self, inputs):
        if inputs.ndim != 2 or inputs.shape[1] < 2 or inputs.is_floating_point():
            raise ValueError(
                "expected whole numbers [N, 2 + K] (word, context word, K negatives), "
                f"got {inputs.dtype} of shape {tuple(inputs.shape)}"
            )
        return torch.einsum("nd,nkd->nk", self.center(inputs[:, 0]), self.context(inputs[:, 1:]))


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), z [N, T, width] -> [N, T, width].

    By plain matrix products: torch's fused attention has no second derivative on every device.
    """

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, z):
        q, k, v = (
            layer(z).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [N, heads, T, d]
            for layer in (self.q, self.k, self.v)
        )
        weights = F.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Pre-norm block: z + attention(norm(z)), then z + mlp(norm(z)), the MLP 4 widths wide."""

    def __init__(self, width, heads, activation, norm):
        super().__init__()
        self.norm1 = nn.LayerNorm(width) if norm else nn.Identity()
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width) if norm else nn.Identity()
        self.up = nn.Linear(width, 4 * width)
        self.activation = activation_module(activation)
        self.down = nn.Linear(4 * width, width)

    def forward(self, z):
        z = z + self.attention(self.norm1(z))
        return z + self.down(self.activation(self.up(self.norm2(z))))


def positions(z):
    """Sines and cosines [T, width] that tell places of z [N, T, width] apart (Vaswani et al.)."""
    length, width = z.shape[1:]
    place = torch.arange(length, dtype=z.dtype, device=z.device)
    rate = 1e4 ** (-torch.arange(0, width, 2, dtype=z.dtype, device=z.device) / width)
    angles = torch.outer(place, rate)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


class TinyTransformer(nn.Module):
    """Transformer encoder: `depth` pre-norm blocks, the mean over the sequence, a dense layer.

    Inputs [N, T, in_features], or with `tokens` whole numbers [N, T] below in_features (the size of
    the vocabulary then); outputs [N, classes]. `norm=False` leaves out every layer norm.

    Raises:
        ValueError: also if `heads` does not divide `width`.

    Example:
        >>> model = hl.TinyTransformer(3, width=8, depth=2, heads=2, classes=5)
        >>> model(torch.zeros(2, 7, 3)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self, in_features, width, depth, heads, classes, activation="gelu", norm=True, tokens=False
    ):
        super().__init__()
        check_sizes(in_features=in_features, width=width, depth=depth, heads=heads, classes=classes)
        if width % heads:
            raise ValueError(f"heads must divide width, got {heads} heads for width {width}")
        self.embed = (nn.Embedding if tokens else nn.Linear)(in_features, width)
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, heads, activation, norm) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.dense = nn.Linear(width, classes)

    def forward(self, inputs):
        if isinstance(self.embed, nn.Embedding):
            expected, fits = (
                "whole numbers [N, T]",
                inputs.ndim == 2 and not inputs.is_floating_point(),
            )
        else:
            features = self.embed.in_features
            expected, fits = f"sequences [N, T, {features}]", inputs.shape[2:] == (features,)
        if not fits:
            raise ValueError(
                f"expected {expected}, got {inputs.dtype} of shape {tuple(inputs.shape)}"
            )
        z = self.embed(inputs)
        return self.dense(self.norm(self.blocks(z + positions(z))).mean(1))
