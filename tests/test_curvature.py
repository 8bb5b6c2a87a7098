"""Every operator against dense float64 matrices on tiny models."""

import copy

import pytest
import torch
from dense import LOSSES, dense_gauss_newton, dense_hessian, dense_of, problem
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

import hessinit_lite as hl

DENSE = {"hessian": (hl.hessian, dense_hessian), "gauss_newton": (hl.gauss_newton, dense_gauss_newton)}
activations = st.sampled_from(list(hl.ACTIVATIONS))
losses = st.sampled_from(list(LOSSES))
builders = st.sampled_from([hl.hessian, hl.gauss_newton])
seeds = st.integers(0, 10 ** 6)


def _vectors(operator, seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(operator.shape[0], *shape, dtype=operator.dtype, generator=g)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", hl.ACTIVATIONS)
@pytest.mark.parametrize("kind", DENSE)
def test_operators_equal_dense_matrices(kind, activation, loss, bias):
    build, dense = DENSE[kind]
    arguments = problem(activation, loss, bias)
    operator = build(*arguments)
    assert operator.names == [n for n, _ in arguments[0].named_parameters()]
    torch.testing.assert_close(dense_of(operator), dense(*arguments), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layer", ["layers.0", "layers.1", "layers.2"])
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
@pytest.mark.parametrize("kind", DENSE)
def test_blocks_of_one_layer(kind, activation, layer):
    build, dense = DENSE[kind]
    arguments = problem(activation)
    operator = build(*arguments, layer=layer)
    assert operator.names == [f"{layer}.weight"]
    torch.testing.assert_close(dense_of(operator), dense(*arguments, [f"{layer}.weight"]),
                               rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("pair", [("layers.0", "layers.2"), ("layers.2", "layers.1"), ("layers.1", "layers.1")])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("kind", DENSE)
def test_blocks_between_two_layers(kind, activation, pair):
    build, dense = DENSE[kind]
    arguments = problem(activation)
    operator = build(*arguments, layer=pair)
    rows, columns = (arguments[0].get_submodule(name).weight.numel() for name in pair)
    assert operator.shape == (rows, columns) and operator.names == [f"{pair[1]}.weight"]
    if pair[0] == pair[1]:
        expected = dense(*arguments, [f"{pair[0]}.weight"])
    else:
        expected = dense(*arguments, [f"{name}.weight" for name in pair])[:rows, rows:]
    torch.testing.assert_close(dense_of(operator), expected, rtol=1e-9, atol=1e-11)
    matrix = torch.randn(columns, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(operator.matmat(matrix), expected @ matrix, rtol=1e-9, atol=1e-11)
    with pytest.raises(ValueError, match="a pair"):
        build(*arguments, layer=("layers.0",))


@given(builders, activations, losses, seeds)
def test_symmetry(build, activation, loss, seed):
    operator = build(*problem(activation, loss, seed=seed))
    u, v = _vectors(operator, seed), _vectors(operator, seed + 1)
    torch.testing.assert_close(u @ (operator @ v), v @ (operator @ u), rtol=1e-9, atol=1e-10)


@given(builders, activations, losses, seeds, st.floats(-5, 5))
def test_linearity(build, activation, loss, seed, factor):
    operator = build(*problem(activation, loss, seed=seed))
    u, v = _vectors(operator, seed), _vectors(operator, seed + 1)
    torch.testing.assert_close(operator @ (u + factor * v), operator @ u + factor * (operator @ v),
                               rtol=1e-9, atol=1e-10)


@given(builders, activations, losses, seeds, st.integers(1, 5))
def test_matmat_stacks_products(build, activation, loss, seed, columns):
    operator = build(*problem(activation, loss, seed=seed))
    v = _vectors(operator, seed, columns)
    torch.testing.assert_close(operator.matmat(v), torch.stack([operator @ c for c in v.T], 1),
                               rtol=1e-9, atol=1e-11)


@given(activations, losses, seeds)
def test_gauss_newton_is_positive_for_a_convex_loss(activation, loss, seed):
    operator = hl.gauss_newton(*problem(activation, loss, seed=seed))
    v = _vectors(operator, seed)
    assert v @ (operator @ v) >= -1e-10


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "linear"])
def test_diagonal_blocks_agree_for_piecewise_linear_nets_and_cross_blocks_do_not(activation):
    """Remark 5 holds for the diagonal blocks; the whole matrix keeps a curvature effect."""
    arguments = problem(activation)
    for layer in ("layers.0", "layers.1", "layers.2"):
        torch.testing.assert_close(dense_of(hl.hessian(*arguments, layer=layer)),
                                   dense_of(hl.gauss_newton(*arguments, layer=layer)))
    difference = dense_hessian(*arguments) - dense_gauss_newton(*arguments)
    assert difference.abs().max() > 1e-3


def test_products_leave_no_gradient_behind_and_may_be_repeated():
    model, loss_fn, batch = problem()
    operator = hl.hessian(model, loss_fn, batch)
    v = _vectors(operator, 0)
    assert torch.equal(operator @ v, operator @ v)
    assert not (operator @ v).requires_grad
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("build", [hl.hessian, hl.gauss_newton])
def test_frozen_parameters_are_left_out(build):
    model, loss_fn, batch = problem()
    model.layers[0].weight.requires_grad_(False)
    operator = build(model, loss_fn, batch)
    assert operator.names == [n for n, _ in model.named_parameters() if n != "layers.0.weight"]
    dense = DENSE[build.__name__][1]
    torch.testing.assert_close(dense_of(operator), dense(model, loss_fn, batch))
    with pytest.raises(ValueError, match="layers.0.weight is frozen"):
        build(model, loss_fn, batch, layer="layers.0")
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        build(model, loss_fn, batch)


@pytest.mark.parametrize("build", [hl.hessian, hl.gauss_newton])
def test_a_linear_loss_has_a_hessian_too(build):
    """Constant derivatives leave no graph behind: products are then zero, not an error."""
    model, _, batch = problem("linear", sizes=(3, 4, 1, 2))
    operator = build(model, lambda outputs, targets: outputs.mean(), batch)
    assert not (operator @ _vectors(operator, 0)).any()


@pytest.mark.parametrize("build", [hl.hessian, hl.gauss_newton])
def test_inplace_activation_convolution_and_losses_as_modules(build):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3),
                          nn.Tanh(), nn.Linear(3, 3)).double()
    batch = torch.randn(4, 1, 3, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    dense = DENSE[build.__name__][1]
    for loss_fn in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=torch.tensor([1, 2, 3.0]).double()),
                    nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(ignore_index=1)):
        torch.testing.assert_close(dense_of(build(model, loss_fn, batch)), dense(model, loss_fn, batch),
                                   rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("build", [hl.hessian, hl.gauss_newton])
def test_weights_that_changed_are_noticed(build):
    model, loss_fn, batch = problem()
    operator = build(model, loss_fn, batch)
    hl.init_(model, "he")
    with pytest.raises(RuntimeError, match="build a new one"):
        operator @ _vectors(operator, 0)
    with pytest.raises(RuntimeError, match="build a new one"):
        operator.matmat(_vectors(operator, 0, 2))


@pytest.mark.parametrize("build", [hl.hessian, hl.gauss_newton])
def test_wrong_vectors(build):
    operator = build(*problem())
    size = operator.shape[0]
    with pytest.raises(ValueError, match=f"P = {size}"):
        operator @ torch.zeros(size + 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"a vector \[P\]"):
        operator @ torch.zeros(size, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"a matrix \[P, K\]"):
        operator.matmat(torch.zeros(size, dtype=torch.float64))
    with pytest.raises(TypeError, match="float64.*float32"):
        operator @ torch.zeros(size)
    with pytest.raises(TypeError, match="meta"):
        operator @ torch.zeros(size, dtype=torch.float64, device="meta")
    with pytest.raises(TypeError, match="torch.Tensor"):
        operator @ ([0.0] * size)


class _Once(torch.autograd.Function):
    """x² whose backward refuses to be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x ** 2

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


def test_a_path_that_cannot_be_differentiated_twice():
    class Squares(nn.Module):
        def forward(self, x):
            return _Once.apply(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), Squares(), nn.Linear(4, 2))
    batch = torch.randn(5, 3), torch.zeros(5).long()
    for build in (hl.hessian, hl.gauss_newton):  # torch would give wrong products without a word
        with pytest.raises(ValueError, match="cannot be differentiated twice"):
            build(model, F.cross_entropy, batch)
    model = nn.Linear(3, 2)
    for measure in (hl.hessian, hl.gauss_newton, hl.layer_norms):
        with pytest.raises(ValueError, match="cannot be differentiated twice"):
            measure(model, lambda z, t: _Once.apply(z).mean(), batch)


def test_a_function_of_torch_without_second_derivative():
    def loss_fn(outputs, targets):
        return F.ctc_loss(outputs.view(6, 1, 4).log_softmax(2), torch.tensor([[1, 2]]),
                          torch.tensor([6]), torch.tensor([2]))

    operator = hl.hessian(nn.Linear(3, 24), loss_fn, (torch.ones(1, 3), torch.zeros(1)))
    with pytest.raises(ValueError, match="cannot be differentiated twice; write it in functions that can: .*ctc_loss"):
        operator @ torch.ones(operator.shape[0])
    with pytest.raises(ValueError, match="cannot be differentiated twice"):
        operator.matmat(torch.ones(operator.shape[0], 2))


X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 1, 0, 1])


def _net(*extra):
    return nn.Sequential(nn.Linear(3, 4), *extra, nn.ReLU(), nn.Linear(4, 2))


MEASURES = [hl.hessian, hl.gauss_newton, hl.layer_blocks, hl.layer_norms, hl.layer_traces,
            lambda *arguments: hl.hessian_init_(*arguments, scheme="he")]


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: getattr(m, "__name__", "?"))
@pytest.mark.parametrize("arguments, error, message", [
    (lambda: (_net(), F.cross_entropy, (X[:0], Y[:0])), ValueError, "batch is empty"),
    (lambda: (_net(), F.cross_entropy, (X, Y + 1)), ValueError, r"labels must lie in 0\.\.1"),
    (lambda: (_net(), F.cross_entropy, (X, Y - 1)), ValueError, r"labels must lie in 0\.\.1"),
    (lambda: (_net(), F.cross_entropy, (X * torch.nan, Y)), ValueError, "loss is nan"),
    (lambda: (_net(), lambda z, t: z.exp().sum() * torch.inf, (X, Y)), ValueError, "loss is inf"),
    (lambda: (_net(nn.Dropout(0.5)), F.cross_entropy, (X, Y)), ValueError, r"1 \(Dropout\).*eval"),
    (lambda: (_net(nn.BatchNorm1d(4)), F.cross_entropy, (X, Y)), ValueError, r"BatchNorm1d.*eval"),
    (lambda: (_net(), nn.CrossEntropyLoss(reduction="none"), (X, Y)), ValueError, "one number"),
    (lambda: (_net(), F.cross_entropy, X), TypeError, "pair"),
    (lambda: (_net(), F.cross_entropy, (X, Y, Y)), TypeError, "pair"),
    (lambda: (lambda x: x, F.cross_entropy, (X, Y)), TypeError, "Module"),
    (lambda: (nn.Sequential(nn.ReLU()), F.cross_entropy, (X, Y)), ValueError,
     "no layers|every parameter is frozen"),
])
def test_bad_input(measure, arguments, error, message):
    with pytest.raises(error, match=message):
        measure(*arguments())


# Mini-batches, chunks of columns, other forms of the same operator

def _loader(batch, size):
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch), batch_size=size)


@pytest.mark.parametrize("layer", [None, "layers.1", "layers.0.bias", ("layers.0", "layers.2")])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", DENSE)
def test_a_loader_gives_what_one_batch_gives(kind, loss, layer):
    """Uneven batches: 5 samples by twos."""
    build = DENSE[kind][0]
    model, loss_fn, batch = problem("tanh", loss)
    whole, parts = build(model, loss_fn, batch, layer), build(model, loss_fn, _loader(batch, 2), layer)
    assert parts.shape == whole.shape and parts.names == whole.names and parts.samples == 5
    torch.testing.assert_close(parts.loss, whole.loss)
    torch.testing.assert_close(parts.gradient, whole.gradient)
    torch.testing.assert_close(dense_of(parts), dense_of(whole), rtol=1e-9, atol=1e-11)
    matrix = torch.randn(whole.shape[1], 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(parts.matmat(matrix), whole.matmat(matrix), rtol=1e-9, atol=1e-11)
    if layer != ("layers.0", "layers.2"):
        torch.testing.assert_close(hl.top_eigenvalues(parts)[0], hl.top_eigenvalues(whole)[0], rtol=1e-5, atol=0)


def test_a_list_of_batches_is_a_loader_and_bad_loaders_are_refused():
    model, loss_fn, (x, t) = problem()
    parts = [(x[:2], t[:2]), (x[2:], t[2:])]
    torch.testing.assert_close(dense_of(hl.hessian(model, loss_fn, parts)),
                               dense_of(hl.hessian(model, loss_fn, (x, t))))
    with pytest.raises(ValueError, match="no batch"):
        hl.hessian(model, loss_fn, [])
    with pytest.raises(TypeError, match="read only once"):
        hl.hessian(model, loss_fn, iter(parts))
    with pytest.raises(ValueError, match="batch 1 of the loader: labels"):
        hl.hessian(model, loss_fn, [parts[0], (x, t + 7)])
    with pytest.raises(ValueError, match="batch 0 of the loader: the batch is empty"):
        hl.hessian(model, loss_fn, [(x[:0], t[:0])])
    operator = hl.hessian(model, loss_fn, parts)
    parts[0] = x[:2] + 1, t[:2]
    with pytest.raises(ValueError, match="data changed between two passes"):
        operator @ _vectors(operator, 0)
    hl.init_(model, "he")
    with pytest.raises(RuntimeError, match="build a new one"):
        operator @ _vectors(operator, 0)


@pytest.mark.parametrize("data", [False, True], ids=["batch", "loader"])
def test_edits_of_data_are_noticed(data):
    """As averages of weights and `vector_to_parameters` make them: torch's version does not count them."""
    model, loss_fn, (x, t) = problem()
    operator = hl.hessian(model, loss_fn, [(x, t)] if data else (x, t))
    model.layers[0].weight.data.mul_(1.0001)
    for product in (lambda: operator @ _vectors(operator, 0), lambda: operator.matmat(_vectors(operator, 0, 3))):
        with pytest.raises(RuntimeError, match="build a new one"):
            product()


def test_a_loader_whose_order_is_shuffled_is_fine_and_one_that_loses_samples_is_not():
    model, loss_fn, batch = problem(samples=9)
    data = torch.utils.data.TensorDataset(*batch)
    shuffled = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(dense_of(hl.hessian(model, loss_fn, shuffled)),
                               dense_of(hl.hessian(model, loss_fn, batch)))
    shrinking = [torch.utils.data.DataLoader(data, batch_size=2, sampler=range(n)) for n in (9, 7)]

    class Losing:
        def __iter__(self):
            return iter(shrinking.pop(0))

    operator = hl.hessian(model, loss_fn, Losing())
    with pytest.raises(ValueError, match="9 samples.*then 7"):
        operator @ _vectors(operator, 0)


@pytest.mark.parametrize("memory", [1, 10_000, 2**30])
@pytest.mark.parametrize("build", [hl.hessian, hl.gauss_newton])
def test_chunks_of_columns(build, memory):
    operator = build(*problem())
    v = _vectors(operator, 0, 7)
    torch.testing.assert_close(operator.matmat(v, memory=memory), torch.stack([operator @ c for c in v.T], 1))


@pytest.mark.parametrize("kind", DENSE)
def test_gradient_and_loss_of_the_batch(kind):
    model, loss_fn, batch = problem()
    operator = DENSE[kind][0](model, loss_fn, batch)
    loss = loss_fn(model(batch[0]), batch[1])
    torch.testing.assert_close(operator.loss, loss.detach())
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(operator.gradient, expected)


def test_scipys_view():
    from scipy.sparse.linalg import eigsh
    operator = hl.hessian(*problem())
    view, v = operator.as_scipy(), _vectors(operator, 0, 3)
    assert view.shape == operator.shape and view.dtype == "float64"
    torch.testing.assert_close(torch.from_numpy(view @ v.numpy()), operator.matmat(v))
    torch.testing.assert_close(torch.from_numpy(view.T @ v[:, 0].numpy()), operator @ v[:, 0])
    largest = eigsh(view, k=1, which="LM", return_eigenvectors=False)
    torch.testing.assert_close(torch.from_numpy(largest), hl.top_eigenvalues(operator, rtol=1e-6)[0])
    rectangle = hl.hessian(*problem(), layer=("layers.0", "layers.1")).as_scipy()
    assert (rectangle @ torch.ones(rectangle.shape[1]).double().numpy()).shape == (rectangle.shape[0],)


def test_blocks_of_biases_by_name():
    arguments = problem()
    operator = hl.hessian(*arguments, layer="layers.1.bias")
    torch.testing.assert_close(dense_of(operator), dense_hessian(*arguments, ["layers.1.bias"]))


def test_a_model_that_is_one_layer():
    model = nn.Linear(3, 2).double()
    batch = X.double(), Y
    for name, block in hl.layer_blocks(model, F.cross_entropy, batch).items():
        torch.testing.assert_close(dense_of(block), dense_of(hl.gauss_newton(model, F.cross_entropy, batch, layer=name)))


def test_a_sparse_embedding_has_no_second_gradient():
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Linear(6, 2))
    batch = torch.tensor([[0, 1], [2, 3]]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="sparse=False"):
        hl.hessian(model, F.cross_entropy, batch)


CLOSED = {
    "cross-entropy": (F.cross_entropy, Y), "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.3), Y),
    "weighted": (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3])), Y),
    "ignored": (nn.CrossEntropyLoss(ignore_index=1), Y),
    "all three": (nn.CrossEntropyLoss(torch.tensor([1.0, 3]), ignore_index=5, label_smoothing=0.2),
                  torch.tensor([0, 5, 1, 0, 5])),
    "soft": (nn.CrossEntropyLoss(torch.tensor([1.0, 3]), label_smoothing=0.2), torch.rand(5, 2).softmax(1)),
    "squared error": (nn.MSELoss(), torch.randn(5, 2)), "logistic": (nn.BCEWithLogitsLoss(), torch.rand(5, 2)),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_are_what_autograd_finds(name):
    loss_fn, targets = CLOSED[name]
    targets = targets.double() if targets.is_floating_point() else targets
    loss_fn = copy.deepcopy(loss_fn).double() if isinstance(loss_fn, nn.Module) else loss_fn
    model = _net().double()
    assert not isinstance(hl.losses.output_hessian(loss_fn, model(X.double()), targets), hl.losses.ByAutograd)
    closed = dense_of(hl.gauss_newton(model, loss_fn, (X.double(), targets)))
    general = dense_of(hl.gauss_newton(model, lambda z, t: loss_fn(z, t), (X.double(), targets)))
    torch.testing.assert_close(closed, general)


class _Weighted(nn.MSELoss):
    def forward(self, z, t):
        return 100 * super().forward(z, t)


@pytest.mark.parametrize("loss_fn", [
    nn.CrossEntropyLoss(reduction="sum"), _Weighted(), nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 1])),
    lambda z, t: F.cross_entropy(z, t)], ids=["sum", "subclass", "pos_weight", "function"])
def test_other_losses_have_no_closed_form(loss_fn):
    assert isinstance(hl.losses.output_hessian(loss_fn, torch.zeros(5, 2), Y), hl.losses.ByAutograd)


@pytest.mark.parametrize("saturated, error", [(False, 1e-5), (True, 1e-4)])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("kind", DENSE)
def test_float32_error(kind, activation, saturated, error):
    """Products in single precision, by the length of the difference. Saturated: logits of size 100, whose
    own rounding moves the small probabilities by 1e-5."""
    model, loss_fn, batch = problem(activation, sizes=(20, 30, 4, 5), samples=40)
    if not saturated:
        hl.init_(model, "forward", generator=torch.Generator().manual_seed(0))
    exact = DENSE[kind][0](model, loss_fn, batch)
    assert (exact.loss > 2.5) == saturated  # knowing nothing costs log 5 = 1.6
    v = _vectors(exact, 0)
    expected = exact @ v
    found = DENSE[kind][0](model.float(), loss_fn, (batch[0].float(), batch[1])) @ v.float()
    assert torch.linalg.vector_norm(found - expected) <= error * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("extra", [nn.Dropout(0.5), nn.BatchNorm1d(4)])
def test_eval_mode_is_accepted(extra):
    model = _net(extra).eval()
    operator = hl.hessian(model, F.cross_entropy, (X, Y))
    v = torch.ones(operator.shape[0])
    assert torch.equal(operator @ v, operator @ v)
    assert set(hl.layer_norms(model, F.cross_entropy, (X, Y))) == {"0", "3"}


def test_the_ignored_label_is_in_range():
    assert hl.hessian(_net(), F.cross_entropy, (X, torch.tensor([0, -100, 1, 1, 0]))).shape


def test_unknown_layer_lists_the_known_ones():
    with pytest.raises(ValueError, match="known: 0, 2"):
        hl.hessian(_net(), F.cross_entropy, (X, Y), layer="7")


def test_parameters_that_the_loss_does_not_reach_are_named():
    model = _net()
    model.spare = nn.Linear(2, 2)
    model.forward = lambda x: model[2](model[1](model[0](x)))
    with pytest.raises(ValueError, match="spare.weight, spare.bias"):
        hl.hessian(model, F.cross_entropy, (X, Y))
    with torch.no_grad(), pytest.raises(ValueError, match="no_grad"):
        hl.hessian(_net(), F.cross_entropy, (X, Y))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("build", [hl.hessian, hl.gauss_newton])
def test_cuda_gives_the_same_products(build):
    model, loss_fn, batch = problem()
    operator = build(model, loss_fn, batch)
    v = _vectors(operator, 0)
    expected = operator @ v
    on_gpu = build(model.cuda(), loss_fn, tuple(x.cuda() for x in batch))
    torch.testing.assert_close((on_gpu @ v.cuda()).cpu(), expected)
    with pytest.raises(TypeError, match="cuda"):
        on_gpu @ v


@pytest.mark.parametrize("layer", [None, ("layers.0", "layers.1")], ids=["square", "rectangle"])
def test_columns_of_large_layers_are_taken_one_by_one(layer):
    """On a CPU, where a batched pass costs more. The matrix that was given is not written to."""
    generator = torch.Generator().manual_seed(0)
    model = hl.init_(hl.MLP(256, 512, 2, 10, "tanh"), "glorot", generator=generator).double()
    batch = torch.randn(512, 256, generator=generator).double(), torch.arange(512) % 10
    operator = hl.hessian(model, F.cross_entropy, batch, layer)
    matrix = torch.randn(operator.shape[1], 3, generator=generator).double()
    before, rows = matrix.clone(), matrix.T.contiguous()
    assert not operator._batch_pays
    expected = torch.stack([operator @ column for column in matrix.T], 1)
    torch.testing.assert_close(operator.matmat(matrix), expected)
    torch.testing.assert_close(operator.matmat(rows.T), expected)
    assert torch.equal(matrix, before) and torch.equal(rows.T, before)
    operator._batch_pays = True
    torch.testing.assert_close(operator.matmat(matrix), expected)
