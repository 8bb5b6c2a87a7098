"""Networks: shapes, sizes, parameters, clear errors, and that all can be differentiated twice."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import hessinit_lite as hl
from hessinit_lite.lab import networks
from hessinit_lite.models import activation_name


@pytest.fixture(autouse=True)
def one_thread():
    """The networks are tiny: two threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("activation", hl.ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_shapes_and_depth(activation, depth):
    model = hl.MLP(6, 4, depth, 3, activation)
    assert len(model.layers) == depth
    assert model(torch.randn(7, 6)).shape == (7, 3)
    assert model(torch.randn(7, 2, 3)).shape == (7, 3)


def test_forward_is_the_recursion_of_the_notation():
    model = hl.MLP(3, 4, 3, 2, "tanh")
    z = x = torch.randn(5, 3)
    for layer in model.layers[:-1]:
        z = torch.tanh(z @ layer.weight.T + layer.bias)
    torch.testing.assert_close(model(x), z @ model.layers[-1].weight.T + model.layers[-1].bias)


def test_without_bias():
    assert all(layer.bias is None for layer in hl.MLP(3, 4, 3, 2, bias=False).layers)


@pytest.mark.parametrize("arguments", [
    dict(in_features=0), dict(width=-1), dict(depth=0), dict(out_features=2.5), dict(dropout=1.0),
    dict(dropout=-0.1)])
def test_impossible_sizes(arguments):
    sizes = dict(in_features=3, width=4, depth=2, out_features=2)
    with pytest.raises(ValueError, match=next(iter(arguments))):
        hl.MLP(**{**sizes, **arguments})


def test_unknown_activation_lists_the_known_ones():
    with pytest.raises(ValueError, match="swosh") as caught:
        hl.MLP(3, 4, 2, 2, "swosh")
    assert all(name in str(caught.value) for name in hl.ACTIVATIONS)


def test_dropout_acts_in_train_mode_only():
    model, x = hl.MLP(3, 50, 3, 2, dropout=0.5), torch.randn(5, 3)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_weight_layers_keep_the_names_of_named_modules():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    assert list(hl.weight_layers(model)) == ["0", "3"]


def test_models_without_layers_and_non_models():
    with pytest.raises(ValueError, match="no layers"):
        hl.weight_layers(nn.Sequential(nn.ReLU()))
    with pytest.raises(TypeError, match="Module"):
        hl.weight_layers([nn.Linear(2, 2)])


def test_activation_is_read_off_the_model():
    assert activation_name(hl.MLP(3, 4, 2, 2, "selu")) == "selu"
    assert activation_name(hl.MLP(3, 4, 2, 2, "linear")) == "linear"
    with pytest.raises(ValueError, match="relu, tanh"):
        activation_name(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Tanh()))


def test_an_activation_that_is_not_seen_is_no_linear_one():
    hidden = nn.Sequential(nn.Linear(2, 2), nn.Identity(), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r'activation="gelu" \("linear" for none\), or pass batch='):
        activation_name(hidden)
    assert activation_name(hidden, called={"linear", "add"}) == "linear"
    assert activation_name(hidden, called={"linear", "gelu"}) == "gelu"
    assert activation_name(nn.Sequential(hidden, nn.SiLU()), called={"silu", "sigmoid"}) == "silu"  # a gate's
    with pytest.raises(ValueError, match="relu, sigmoid"):
        activation_name(hidden, called={"relu", "sigmoid"})


@pytest.mark.parametrize("kind", [nn.ELU, nn.PReLU, nn.ReLU6, nn.Hardswish, nn.Mish, nn.Softplus])
def test_an_activation_without_a_gain_is_named(kind):
    with pytest.raises(ValueError, match=f"the gain of {kind.__name__.lower()} is not known"):
        activation_name(nn.Sequential(nn.Linear(2, 2), kind(), nn.Linear(2, 2)))


PICTURES = (5, 3, 8, 8)
#: tiny networks: (how to build one, for an activation; the shape of its inputs)
TINY = {
    "LeNet5": (lambda f="tanh": hl.LeNet5(3, 4, f, size=16, width=1), (5, 3, 16, 16)),
    "ResNet18": (lambda f="relu": hl.ResNet18(4, 2, activation=f), PICTURES),
    "ResNet18, norm": (lambda f="relu": hl.ResNet18(4, 2, activation=f, norm=True), PICTURES),
    "EfficientNet": (lambda f="silu": hl.EfficientNet(4, 2, activation=f), PICTURES),
    "EfficientNet, norm": (lambda f="silu": hl.EfficientNet(4, 2, activation=f, norm=True), PICTURES),
    "GoogLeNet": (lambda f="relu": hl.GoogLeNet(4, 2, activation=f), PICTURES),
    "TinyTransformer": (lambda f="gelu": hl.TinyTransformer(6, 4, 2, 2, 4, f), (5, 7, 6)),
    "TinyTransformer, no norm": (lambda f="gelu": hl.TinyTransformer(6, 5, 2, 1, 4, f, norm=False),
                                 (5, 7, 6)),
    "TinyTransformer, tokens": (lambda f="gelu": hl.TinyTransformer(6, 4, 1, 4, 4, f, tokens=True),
                                (5, 7)),
}
TARGETS = torch.tensor([0, 1, 2, 3, 0])


def tiny_case(name, *activation):
    """(model, batch) with seeded weights and inputs; whole numbers below 6 where those are wanted."""
    torch.manual_seed(0)
    build, shape = TINY[name]
    inputs = torch.randint(6, shape) if "tokens" in name else torch.randn(shape)
    return build(*activation), (inputs, TARGETS)


@pytest.mark.parametrize("name", TINY)
def test_outputs_and_gradients_of_every_parameter(name):
    model, (inputs, targets) = tiny_case(name, "silu")  # smooth: no unit is dead
    outputs = model(inputs)
    assert outputs.shape == (5, 4) and bool(torch.isfinite(outputs).all())
    F.cross_entropy(outputs, targets).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("activation", hl.ACTIVATIONS)
def test_every_activation_is_used_and_read_off_the_model(name, activation):
    model, (inputs, _) = tiny_case(name, activation)
    assert model(inputs).shape == (5, 4)
    assert activation_name(model) == activation
    assert not any(getattr(m, "inplace", False) for m in model.modules())


@pytest.mark.parametrize("name", TINY)
def test_activation_changes_the_outputs(name):
    (one, (inputs, _)), (other, _) = (tiny_case(name, f) for f in ("silu", "tanh"))
    other.load_state_dict(one.state_dict())
    assert not torch.allclose(one(inputs), other(inputs))


@pytest.mark.parametrize("name", TINY)
def test_weights_follow_the_seed(name):
    model, _ = tiny_case(name)

    def drawn(seed):
        hl.init_(model, "he", generator=torch.Generator().manual_seed(seed))
        return torch.cat([m.weight.detach().flatten() for m in hl.weight_layers(model).values()])

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", TINY)
def test_second_derivatives_are_those_of_finite_differences(name):
    model, (inputs, targets) = tiny_case(name, "tanh")
    model, inputs = model.double().eval(), inputs if "tokens" in name else inputs.double()
    operator = hl.hessian(model, F.cross_entropy, (inputs, targets))
    v = torch.randn(operator.shape[1], 2, dtype=torch.float64)
    at = parameters_to_vector(model.parameters()).detach()

    def gradient(weights):
        vector_to_parameters(weights, model.parameters())
        loss = F.cross_entropy(model(inputs), targets)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    products = torch.stack([operator @ v[:, 0], operator @ v[:, 1]], dim=1)
    torch.testing.assert_close(operator.matmat(v), products)
    step = 1e-7 * v[:, 0]  # larger ones may cross a kink of a maximum pool
    expected = (gradient(at + step) - gradient(at - step)) / 2e-7
    torch.testing.assert_close(products[:, 0], expected, rtol=1e-5, atol=1e-5 * expected.abs().max())


def conv(d_in, d_out, kernel):
    """Weights and biases of a convolution."""
    return d_out * (d_in * kernel**2 + 1)


def inception(d_in, d_out):
    half = d_out // 2
    return (2 * conv(d_in, d_out, 1) + 2 * conv(d_in, half, 1) + conv(half, d_out, 3)
            + conv(half, d_out, 5))


def mbconv(d_in, d_out, expand, kernel):
    d_mid, squeezed = expand * d_in, max(1, d_in // 4)
    return (conv(d_in, d_mid, 1) + d_mid * conv(1, 1, kernel) + conv(d_mid, squeezed, 1)
            + conv(squeezed, d_mid, 1) + conv(d_mid, d_out, 1))


# The first two numbers are well known: LeNet-5 as usually coded, ResNet-18 for CIFAR-10.
@pytest.mark.parametrize("model, parameters, weights", [
    (hl.LeNet5(in_channels=1), 61_706, 5),
    (hl.ResNet18(norm=True), 11_173_962, 21),
    (hl.EfficientNet(width=2), conv(3, 2, 3) + mbconv(2, 2, 1, 3) + mbconv(2, 4, 6, 3)
     + mbconv(4, 4, 6, 3) + mbconv(4, 8, 6, 5) + mbconv(8, 8, 6, 5) + conv(8, 16, 1) + 170, 28),
    (hl.GoogLeNet(width=2), conv(3, 2, 3) + inception(2, 2) + inception(8, 2) + inception(8, 4)
     + inception(16, 4) + 170, 26),
    (hl.TinyTransformer(5, 8, 3, 2, 4), (5 * 8 + 8) + 3 * (12 * 64 + 8 + 32 + 8 + 4 * 8) + 2 * 8 + 36,
     20),
], ids=lambda value: type(value).__name__)
def test_numbers_of_parameters_and_layers(model, parameters, weights):
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(hl.weight_layers(model)) == weights


def test_norm_layers_are_there_only_if_asked_for():
    def norms(model):
        return sum(isinstance(m, (nn.BatchNorm2d, nn.LayerNorm)) for m in model.modules())

    assert norms(hl.ResNet18(width=1)) == norms(hl.EfficientNet(width=1)) == 0
    assert norms(hl.ResNet18(width=1, norm=True)) == 20
    assert norms(hl.EfficientNet(width=1, norm=True)) == 17
    assert norms(hl.TinyTransformer(3, 4, 2, 2, 2)) == 5
    assert norms(hl.TinyTransformer(3, 4, 2, 2, 2, norm=False)) == 0


def test_a_residual_block_without_weights_passes_its_input_on():
    model, (inputs, _) = tiny_case("ResNet18")
    block = model.blocks[1]  # two identical shapes: the shortcut is the identity
    for p in block.parameters():
        nn.init.zeros_(p)
    z = model.blocks[0](model.activation(model.stem(inputs)))
    assert torch.equal(block(z), z)


def test_mbconv_skips_where_shapes_allow():
    skips = [block.skip for block in hl.EfficientNet(width=2).blocks]
    assert skips == [True, False, True, False, True]
    block, z = hl.EfficientNet(width=2).blocks[2], torch.randn(2, 4, 5, 5)
    for p in block.parameters():
        nn.init.zeros_(p)
    assert torch.equal(block(z), z)


def test_attention_is_torchs():
    torch.manual_seed(0)
    ours = hl.TinyTransformer(6, 8, 1, 2, 4).blocks[0].attention
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    z = torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(z), theirs(z, z, z, need_weights=False)[0])


def test_a_transformer_sees_the_order_of_its_inputs():
    model, (inputs, _) = tiny_case("TinyTransformer")
    assert not torch.allclose(model(inputs), model(inputs.flip(1)))


def test_positions_differ_and_stay_bounded_for_odd_widths():
    positions = networks.positions(torch.zeros(1, 50, 7))
    assert positions.shape == (50, 7) and positions.abs().max() <= 1
    assert torch.cdist(positions, positions).add(torch.eye(50)).min() > 0.1


@pytest.mark.parametrize("build, words", [
    (lambda: hl.LeNet5(size=15), "size must be at least 16"),
    (lambda: hl.LeNet5(classes=0), "classes"),
    (lambda: hl.ResNet18(width=0), "width"),
    (lambda: hl.EfficientNet(in_channels=1.5), "in_channels"),
    (lambda: hl.GoogLeNet(width=-1), "width"),
    (lambda: hl.SkipGram(0, 3), "vocabulary"),
    (lambda: hl.TinyTransformer(3, 4, 0, 2, 2), "depth"),
    (lambda: hl.TinyTransformer(3, 6, 1, 4, 2), "heads must divide width, got 4 heads for width 6"),
    (lambda: hl.ResNet18(width=1, activation="swosh"), "unknown activation"),
    (lambda: hl.TinyTransformer(3, 4, 1, 2, 2, "swosh"), "unknown activation"),
])
def test_impossible_networks(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize("name, inputs, words", [
    ("LeNet5", torch.zeros(5, 768), r"pictures \[N, 3, 16, 16\], got \(5, 768\).*unflatten"),
    ("LeNet5", torch.zeros(5, 3, 32, 32), r"pictures \[N, 3, 16, 16\]"),
    ("ResNet18", torch.zeros(3, 8, 8), r"pictures \[N, 3, height, width\]"),
    ("EfficientNet", torch.zeros(5, 1, 8, 8), r"pictures \[N, 3, height, width\]"),
    ("GoogLeNet", torch.zeros(5, 192), "unflatten"),
    ("TinyTransformer", torch.zeros(5, 6), r"sequences \[N, T, 6\]"),
    ("TinyTransformer, tokens", torch.zeros(5, 7), r"whole numbers \[N, T\], got torch.float32"),
])
def test_inputs_of_another_shape(name, inputs, words):
    model, _ = tiny_case(name)
    with pytest.raises(ValueError, match=words):
        model(inputs)


@pytest.mark.parametrize("sparse", [False, True])
def test_skip_gram_logits_are_scalar_products(sparse):
    torch.manual_seed(0)
    model = hl.SkipGram(9, 4, sparse=sparse)
    inputs = torch.randint(9, (6, 5))
    outputs = model(inputs)
    assert outputs.shape == (6, 4)
    n, k = 3, 2
    expected = model.center.weight[inputs[n, 0]] @ model.context.weight[inputs[n, 1 + k]]
    torch.testing.assert_close(outputs[n, k], expected)
    F.binary_cross_entropy_with_logits(outputs, torch.eye(4)[[0] * 6]).backward()
    for p in model.parameters():
        assert p.grad.is_sparse == sparse and p.grad.to_dense().any()


def test_skip_gram_learns_which_words_go_together():
    torch.manual_seed(0)
    model = hl.SkipGram(4, 3)  # 0 goes with 1, 2 with 3
    inputs, targets = torch.tensor([[0, 1, 3], [2, 3, 1]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(inputs), targets).backward()
        optimizer.step()
    assert torch.equal(model(inputs) > 0, targets > 0)


@pytest.mark.parametrize("inputs", [
    torch.zeros(5, 3), torch.zeros(5, 1, dtype=torch.long), torch.zeros(5, dtype=torch.long)])
def test_skip_gram_wants_rows_of_whole_numbers(inputs):
    with pytest.raises(ValueError, match=r"whole numbers \[N, 2 \+ K\]"):
        hl.SkipGram(4, 3)(inputs)
