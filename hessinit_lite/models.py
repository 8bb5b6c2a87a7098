"""Dense networks, and what every other file needs to know about a network.

Notation (chapter "Notation"): layer k computes u = W z + b and passes z' = f(u) on; `depth` counts
weight matrices. The other networks of the book are in `lab/networks.py`.
"""

from fnmatch import fnmatchcase

from torch import nn


class NoActivation(nn.Identity):
    """No activation, on purpose: a plain nn.Identity may stand for anything that was left out."""


#: name -> module class. "linear" is the identity: the deep linear net of chapters 1 and 2.
ACTIVATIONS = {
    "linear": NoActivation,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}

#: Activations of torch without a gain here, as functions are called.
OTHER_ACTIVATIONS = set(
    "celu elu glu hardshrink hardsigmoid hardswish hardtanh mish prelu relu6 rrelu softplus "
    "softshrink softsign tanhshrink threshold".split()
)

#: Layers with one weight that an initialization scheme draws.
WEIGHT_LAYERS = nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d
WEIGHT_LAYERS += nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
NO_LAYERS = "the model has no layers to initialize: it needs at least one Linear or Conv layer"


def activation_module(name):
    """The activation called `name`, as a module; ValueError for an unknown name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def check_sizes(**sizes):
    """ValueError, with its name, for a size that is no whole number of at least 1."""
    for name, value in sizes.items():
        if int(value) != value or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


class MLP(nn.Module):
    """Dense network: `depth` weight matrices with an activation between neighbours.

    Inputs of shape [N, ...] are flattened to [N, in_features]; outputs are [N, out_features].
    Weights start at torch's defaults; draw them with `init_`.

    Args:
        activation: a name in `hl.ACTIVATIONS`.
        dropout: above 0, an (inverted, as torch's) dropout follows every activation.

    Raises:
        ValueError: for a size below 1, an unknown activation or a dropout outside [0, 1).

    Example:
        >>> model = hl.MLP(64, width=32, depth=3, out_features=10, activation="tanh")
        >>> model(torch.zeros(5, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self, in_features, width, depth, out_features, activation="relu", bias=True, dropout=0.0
    ):
        super().__init__()
        check_sizes(in_features=in_features, width=width, depth=depth, out_features=out_features)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout!r}")
        sizes = [in_features] + [width] * (depth - 1) + [out_features]
        self.layers = nn.ModuleList(nn.Linear(*pair, bias=bias) for pair in zip(sizes, sizes[1:]))
        self.activation = activation_module(activation)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, inputs):
        z = inputs.flatten(1)
        for layer in self.layers[:-1]:
            z = self.dropout(self.activation(layer(z)))
        return self.layers[-1](z)


def original(model):
    """`model`, or what `torch.compile` wrapped, whose graphs differentiate only once.

    Raises:
        TypeError: if `model` is no torch.nn.Module.
        ValueError: if a lazy layer has not seen a batch.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(map(nn.parameter.is_lazy, model.parameters())):
        raise ValueError("the model has lazy layers: run one batch through it, for their shapes")
    return getattr(model, "_orig_mod", model)


def refuse_computed(name, layer, instead=""):
    """ValueError if a weight is made from others (weight_norm, spectral_norm, pruning).

    Asked without reading it: spectral_norm changes its buffers whenever it is read in train mode.
    """
    if "weight" not in layer._parameters:
        raise ValueError(
            f"the weight of {name!r} is computed from other parameters: undo the parametrization "
            f"(torch.nn.utils.parametrize.remove_parametrizations, prune.remove){instead}"
        )


def unsettled_batch_norms(model):
    """Names of the batch norms that have seen no batch: their averages normalize nothing."""
    norm = nn.modules.batchnorm._BatchNorm
    seen = {n: m.num_batches_tracked for n, m in model.named_modules() if isinstance(m, norm)}
    return [name for name, count in seen.items() if count is not None and not int(count)]


def matching(names, patterns):
    """Those of `names` that are, or match, one of `patterns` (one or several, such as "blocks.*").

    Raises:
        ValueError: for no pattern, and for one that fits none.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise ValueError("layers is empty: name at least one, or leave it out for all")
    fits = {p: [n for n in names if n == p or fnmatchcase(n, p)] for p in patterns}
    if strange := [pattern for pattern, found in fits.items() if not found]:
        raise ValueError(f"no layer is called {strange[0]!r}; known: {', '.join(names)}")
    return [name for name in names if any(name in found for found in fits.values())]


def token_tables(model):
    """The weights of the model's embeddings, a set."""
    return {m.weight for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}


def weight_layers(model):
    """{name: module} of the dense and (transposed) convolutional layers, in the model's order.

    Raises:
        TypeError: if `model` is no module.
        ValueError: if it has no such layer.

    Example:
        >>> list(hl.weight_layers(hl.MLP(64, width=32, depth=3, out_features=10)))
        ['layers.0', 'layers.1', 'layers.2']
    """
    model = original(model)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, WEIGHT_LAYERS)}
    if not layers:
        raise ValueError(NO_LAYERS)
    return layers


def activation_name(model, called=None):
    """The one activation of `model`, "linear" where it has none.

    Read off the modules; where no module is one, off the functions that are called.

    Args:
        called: names of functions that the forward pass calls; None if that is not known.

    Raises:
        ValueError: for several activations, one without a gain, or none as far as is known.
    """
    classes = {cls: name for name, cls in ACTIVATIONS.items()}
    kinds = {type(m) for m in model.modules()}
    found = {classes[kind] for kind in kinds if kind in classes}
    found |= {kind.__name__.lower() for kind in kinds if kind.__module__ == nn.ReLU.__module__}
    known = {*ACTIVATIONS, *OTHER_ACTIVATIONS}
    if not found & known and called is None:
        raise ValueError(
            "none of the model's modules is an activation, and functions such as F.gelu are not "
            'seen there: name it, activation="gelu" ("linear" for none), or pass batch=(inputs, '
            "targets) to have the forward pass looked at"
        )
    found = (found & known or set(called) & known) - {"linear"}
    if len(found) > 1:
        found = ", ".join(sorted(found))
        raise ValueError(f"the model mixes activations ({found}); say which with activation=")
    if found & OTHER_ACTIVATIONS:
        raise ValueError(
            f"the gain of {found.pop()} is not known here: name an activation that is near to it, "
            f"activation= one of {', '.join(ACTIVATIONS)}"
        )
    return found.pop() if found else "linear"


def check_generator(generator, tensor):
    """ValueError if `generator` draws on another device than `tensor`'s: a hidden host transfer."""
    if generator is not None and generator.device.type != tensor.device.type:
        where = f"the generator draws on {generator.device}, the model is on {tensor.device}"
        raise ValueError(f"{where}: use torch.Generator('{tensor.device}')")
