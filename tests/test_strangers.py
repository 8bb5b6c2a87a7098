"""Models and losses as people bring them: what a stranger to the module found wrong, each mended."""

import functools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hessinit_lite as hl

BATCH = torch.randn(16, 4, generator=hl.seeded(0)), torch.randint(3, (16,), generator=hl.seeded(1))


class Pooled(nn.Module):
    """torch's encoder with padding, and a mean over padded places, too."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 8, padding_idx=0)
        layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 7)

    def forward(self, x):
        return self.head(self.encoder(self.embedding(x), src_key_padding_mask=x == 0).mean(1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_trial_steps_take_the_kernels_that_the_gradient_took():
    torch.manual_seed(4)
    model = Pooled().eval()
    batch = (
        torch.tensor([[1, 2, 3, 4, 0, 0], [2, 4, 0, 0, 0, 0], [3, 1, 2, 4, 5, 0]]),
        torch.tensor([0, 1, 2]),
    )
    before = torch.backends.mha.get_fastpath_enabled()
    found = hl.critical_rate(model, F.cross_entropy, batch, "adam", rtol=1e-3)
    assert torch.backends.mha.get_fastpath_enabled() == before
    loss = F.cross_entropy(model(batch[0]), batch[1])
    assert found.path[0] == (0, pytest.approx(loss.item(), rel=1e-5))
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for p, g in zip(model.parameters(), gradients):
            p -= found.rate * g / (g.abs() + 1e-8)
    assert F.cross_entropy(model(batch[0]), batch[1]).item() == pytest.approx(loss.item(), rel=1e-2)


LINEAR = {
    "log-probabilities": (nn.LogSoftmax(1), F.nll_loss, BATCH[1]),
    "absolute error": (nn.Identity(), F.l1_loss, torch.randn(16, 3, generator=hl.seeded(2))),
    "critic": (
        nn.Identity(),
        lambda outputs, targets: -(outputs * targets).mean(),
        torch.ones(16, 3),
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_loss_that_is_linear_in_the_outputs_is_not_called_saturated(name):
    end, loss_fn, targets = LINEAR[name]
    model = nn.Sequential(hl.init_(hl.MLP(4, 8, 2, 3), "he", generator=hl.seeded(0)), end)
    found = [
        each
        for each in hl.report(model, loss_fn, (BATCH[0], targets)).findings
        if "no curvature" in each.text
    ]
    assert (
        len(found) == 1 and found[0].level == "warning" and "linear in the outputs" in found[0].text
    )
    with pytest.raises(ValueError, match="linear in the outputs"):
        hl.hessian_init_(model, loss_fn, (BATCH[0], targets))


def test_as_many_places_as_classes_is_read_as_torch_does_with_a_warning():
    model = nn.Linear(4, 5)
    x, t = (
        torch.randn(3, 5, 4, generator=hl.seeded(0)),
        torch.randint(5, (3, 5), generator=hl.seeded(1)),
    )
    with pytest.warns(UserWarning, match="if classes come last"):
        found = hl.hessian(model, F.cross_entropy, (x, t)).loss
    assert float(found) == pytest.approx(float(F.cross_entropy(model(x), t)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none where it is clear, or said
        hl.hessian(model, F.cross_entropy, (x[:, :4], t[:, :4]))
        hl.hessian(model, lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()), (x, t))


def test_a_partial_of_torchs_loss_is_torchs_loss():
    model = nn.Linear(4, 3)
    x, t = (
        torch.randn(2, 5, 4, generator=hl.seeded(0)),
        torch.randint(3, (2, 5), generator=hl.seeded(1)),
    )
    smooth = functools.partial(F.cross_entropy, label_smoothing=0.1)
    module = nn.CrossEntropyLoss(label_smoothing=0.1)
    assert hl.layer_norms(model, smooth, (x, t)) == hl.layer_norms(model, module, (x, t))
    kind = type(hl.losses.output_hessian(functools.partial(F.mse_loss, reduction="mean"), x, x))
    assert kind is hl.losses.SquaredError


class Own(nn.CrossEntropyLoss):
    """Computes what torch's does, but might not."""

    def forward(self, outputs, targets):
        return super().forward(outputs, targets)


LOSSES = {
    "module": nn.CrossEntropyLoss(),
    "own": Own(ignore_index=1),
    "partial": functools.partial(F.cross_entropy, label_smoothing=0.0),
    "flat": lambda outputs, targets: F.cross_entropy(outputs, targets.flatten()),
    "likelihood": lambda outputs, targets: F.nll_loss(outputs.log_softmax(1), targets),
}


@pytest.mark.parametrize("loss_fn", LOSSES.values(), ids=LOSSES)
def test_ignored_labels_of_any_loss_count_nothing_in_a_loader(loss_fn):
    model, (x, t) = nn.Linear(4, 3).double(), BATCH
    x, t = x.double(), t.clone()
    t[:5] = getattr(loss_fn, "ignore_index", -100)
    loader = [(x[:8], t[:8]), (x[8:], t[8:])]
    for build in (hl.hessian, hl.gauss_newton):
        whole, parts = build(model, loss_fn, (x, t)), build(model, loss_fn, loader)
        assert float(parts.loss) == pytest.approx(float(whole.loss))
        v = torch.randn(whole.shape[0], dtype=torch.float64, generator=hl.seeded(0))
        torch.testing.assert_close(parts @ v, whole @ v)


def test_weighted_log_likelihood_in_a_loader():
    body, (x, t) = nn.Linear(4, 3).double(), BATCH
    model, x = nn.Sequential(body, nn.LogSoftmax(1)), x.double()
    loss_fn = nn.NLLLoss(weight=torch.tensor([1.0, 5, 0.2], dtype=torch.float64))
    whole, parts = (
        hl.hessian(model, loss_fn, each) for each in ((x, t), [(x[:4], t[:4]), (x[4:], t[4:])])
    )
    torch.testing.assert_close(parts.gradient, whole.gradient)


class Mixed(nn.Module):
    """Half of the work in bfloat16."""

    def __init__(self, back):
        super().__init__()
        self.a, self.b, self.back = nn.Linear(4, 8), nn.Linear(8, 3), back

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = self.b(F.gelu(self.a(x)))
        return outputs.float() if self.back else outputs


@pytest.mark.skipif(
    not hasattr(torch.ones(1, requires_grad=True).sum().grad_fn, "_input_metadata"),
    reason="the graph of this torch does not tell its dtypes",
)
@pytest.mark.parametrize(
    "ask", [hl.report, hl.layer_norms, hl.layer_traces, hl.hessian_init_, hl.hessian]
)
def test_autocast_is_refused_inside_and_outside_of_the_model(ask):
    for back in (False, True):
        with pytest.raises(ValueError, match="half precision"):
            ask(Mixed(back), F.cross_entropy, BATCH)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match="half precision"),
    ):
        ask(hl.MLP(4, 8, 2, 3), F.cross_entropy, BATCH)


class Counted(nn.Module):
    """Counts its calls in a buffer, whatever the mode, and draws random numbers in train mode."""

    def __init__(self, fails=False):
        super().__init__()
        self.layer, self.fails = nn.Linear(4, 3), fails
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        outputs = F.dropout(self.layer(x), 0.5, self.training)
        if self.fails:
            raise RuntimeError("on purpose")
        return outputs


@pytest.mark.parametrize("mode", ["eval", "train", "fails"])
def test_whatever_is_raised_buffers_and_random_numbers_are_as_they_were(mode):
    model, state = Counted(mode == "fails").train(mode != "eval"), torch.get_rng_state()
    words = {
        "eval": "calls changes .* must not in eval mode",
        "train": "use model.eval",
        "fails": "on purpose",
    }
    with pytest.raises((ValueError, RuntimeError), match=words[mode]):
        hl.hessian(model, F.cross_entropy, BATCH)
    assert model.calls == 0 and torch.equal(torch.get_rng_state(), state)


class Two(nn.Module):
    """Reads two inputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, u, v):
        return self.out(F.gelu(self.a(u) + self.b(v)))


@pytest.mark.parametrize(
    "inputs", [(BATCH[0], BATCH[0]), {"u": BATCH[0], "v": BATCH[0]}], ids=["tuple", "dict"]
)
def test_lsuv_reads_several_inputs(inputs):
    model = hl.init_(Two(), "lsuv", batch=(inputs, BATCH[1]), generator=hl.seeded(0))
    assert float(model.a(BATCH[0]).std()) == pytest.approx(1, rel=1e-4)
    with pytest.raises(ValueError, match="a pair"):
        hl.init_(Two(), "lsuv", batch={"u": BATCH[0], "v": BATCH[0]})


def test_lsuv_leaves_no_trace_and_refuses_what_is_not_finite():
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)
    )
    state = torch.get_rng_state()
    hl.init_(model, "lsuv", batch=BATCH, generator=hl.seeded(0))
    assert model[1].num_batches_tracked == 0 and torch.equal(torch.get_rng_state(), state)
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match="not finite"):
        hl.init_(model, "lsuv", batch=(BATCH[0] * torch.nan, BATCH[1]))
    assert torch.equal(model[0].weight, before)


class Stopped(nn.Module):
    """A tied head; through the layer's input the table gets no gradient."""

    def __init__(self):
        super().__init__()
        self.table, self.layer = nn.Embedding(7, 4), nn.Linear(4, 4)

    def forward(self, tokens):
        return torch.tanh(self.layer(self.table(tokens).detach())) @ self.table.weight.T


def test_a_use_that_is_detached_is_no_use():
    torch.manual_seed(0)
    model, tokens = Stopped().double(), torch.randint(7, (5,), generator=hl.seeded(0))
    norms = hl.layer_norms(model, F.cross_entropy, (tokens, tokens), rtol=1e-8)
    for name, norm in norms.items():
        operator = hl.gauss_newton(model, F.cross_entropy, (tokens, tokens), layer=name)
        dense = operator.matmat(torch.eye(operator.shape[0], dtype=torch.float64))
        assert norm == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-6)


def test_lazy_layers_and_no_grad_are_refused_in_words():
    lazy = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(3))
    for ask in (hl.hessian, hl.layer_norms, hl.report, hl.critical_rate):
        with pytest.raises(ValueError, match="run one batch through it"):
            ask(lazy, F.cross_entropy, BATCH)
    with pytest.raises(ValueError, match="run one batch through it"):
        hl.init_(lazy, "he")
    with torch.no_grad(), pytest.raises(ValueError, match="outside of torch.no_grad"):
        hl.layer_gradients(hl.MLP(4, 8, 2, 3), F.cross_entropy, BATCH)


def test_a_batch_that_settle_cannot_read_is_refused_in_words():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    with pytest.raises(TypeError, match="pair"):
        hl.report(model, F.cross_entropy, {"x": BATCH[0]}, settle=3)
    with pytest.raises(TypeError, match="stack several"):
        hl.hessian(model, F.cross_entropy, (BATCH[0], (BATCH[1], BATCH[1])))
