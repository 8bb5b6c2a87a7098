"""The critical rate and Adam's coordinates: against dense float64 truth, real steps of optimizers, and counted."""

import copy
import math

import pytest
import torch
from dense import dense_gauss_newton, dense_hessian, dense_of, problem
from test_architectures import tiny
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import hessinit_lite as hl

FIVE = "MLP", "LeNet5", "ResNet18 with norms", "TinyTransformer", "SkipGram"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def case(net):
    return tiny(net, "logistic" if net == "SkipGram" else "cross_entropy", True)


def true_rate(model, loss_fn, batch, direction, rate):
    """The first of 400 rates up to twice `rate` at which the loss is back, to one part in 10,000 of `rate`."""
    weights = dict(model.named_parameters())
    parts = dict(zip(weights, direction.split([w.numel() for w in weights.values()])))

    def loss(eta):
        moved = {name: w - eta * parts[name].view_as(w) for name, w in weights.items()}
        return float(loss_fn(functional_call(model, moved, batch[0]), batch[1]))

    with torch.no_grad():
        start = loss(0)
        first = next(i for i in range(1, 401) if loss(i * rate / 200) >= start)
        return next(eta for eta in ((first - 1 + i / 50) * rate / 200 for i in range(51)) if loss(eta) >= start)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("net", FIVE)
def test_the_rate_is_where_the_loss_is_back(net, optimizer):
    model, loss_fn, batch = case(net)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    found = hl.critical_rate(model, loss_fn, batch, optimizer)
    assert sum(calls) == 1 and len(calls) == found.forwards + 1 <= 16  # one pass that is differentiated
    loss = loss_fn(model(batch[0]), batch[1])
    g = torch.cat([x.flatten() for x in torch.autograd.grad(loss, list(model.parameters()))])
    d = g if optimizer == "sgd" else g / (g.abs() + 1e-8)
    assert found.slope == pytest.approx(float(g @ d), rel=1e-12)
    assert found.path[0] == (0.0, float(loss.detach())) and found.sharpness == 2 / found.rate
    truth = true_rate(model, loss_fn, batch, d, found.rate)
    assert found.rate == pytest.approx(truth, rel=0.05)
    assert hl.critical_rate(model, loss_fn, batch, optimizer, rtol=1e-4).rate == pytest.approx(truth, rel=1e-3)


def quadratic(seed=0):
    """A loss that is a quadratic in the weights: its dense Hessian, gradient."""
    torch.manual_seed(seed)
    model, batch = nn.Linear(4, 3).double(), (torch.randn(6, 4).double(), torch.randn(6, 3).double())
    operator = hl.hessian(model, F.mse_loss, batch)
    return model, batch, dense_hessian(model, F.mse_loss, batch), operator.gradient


@pytest.mark.parametrize("seed", range(5))
def test_on_a_quadratic_the_sharpness_is_a_quotient(seed):
    model, batch, matrix, g = quadratic(seed)
    found = hl.critical_rate(model, F.mse_loss, batch)
    assert found.sharpness == pytest.approx(float(g @ matrix @ g / (g @ g)), rel=1e-9)
    assert found.forwards <= 6 and found.sharpness <= torch.linalg.eigvalsh(matrix)[-1]
    diagonal = g.abs() + 1e-8
    inner, along = matrix / diagonal.outer(diagonal).sqrt(), g / diagonal.sqrt()
    found = hl.critical_rate(model, F.mse_loss, batch, "adam")
    assert found.sharpness == pytest.approx(float(along @ inner @ along / (along @ along)), rel=1e-9)
    assert found.sharpness <= torch.linalg.eigvalsh(inner)[-1]


def scaled_step(optimizer, rate):
    """The optimizer's step with the first group's rate so, and the others in proportion."""
    first = optimizer.param_groups[0]["lr"]
    for group in optimizer.param_groups:
        group["lr"] *= rate / first
    optimizer.step()


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "nesterov and decay": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, nesterov=True, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-5, weight_decay=0.5),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "two groups": lambda p: torch.optim.AdamW([{"params": p[:2], "lr": 1e-4}, {"params": p[3:], "lr": 1e-3}]),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_step_is_that_of_the_optimizer(name):
    """After a step at the critical rate by the optimizer itself the loss is what it was; and after a small step, lower."""
    model, loss_fn, batch = problem(sizes=(3, 6, 3, 2), samples=20)
    optimizer = OPTIMIZERS[name](list(model.parameters()))

    def loss_and_gradient(net, its):
        its.zero_grad()
        loss = loss_fn(net(batch[0]), batch[1])
        loss.backward()
        return float(loss.detach())

    for _ in range(4):
        loss_and_gradient(model, optimizer)
        optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    found = hl.critical_rate(model, loss_fn, batch, optimizer, rtol=1e-6)
    assert 0 < found.rate < math.inf
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
    for share in (1, 1e-4):
        net = copy.deepcopy(model)
        twin = OPTIMIZERS[name](list(net.parameters()))
        twin.load_state_dict(copy.deepcopy(state))
        before = loss_and_gradient(net, twin)
        scaled_step(twin, share * found.rate)
        after = loss_and_gradient(net, twin)
        if share == 1:
            assert after == pytest.approx(before, abs=1e-5 * found.rate * found.slope)
        else:
            assert after < before


class Hard(nn.Module):
    """Dropout and batch norm in train mode, a buffer that counts, inputs that are changed in place, several inputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(4, 8), nn.Linear(3, 8), nn.BatchNorm1d(8)
        self.drop, self.head, self.idle = nn.Dropout(0.3), nn.Linear(8, 3), nn.Parameter(torch.ones(2))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, y):
        self.calls += 1
        x.mul_(2)
        return {"logits": self.head(self.drop(torch.relu(self.norm(self.a(x) + self.b(y)))))}


def test_nothing_is_left_changed_and_every_pass_is_the_same():
    torch.manual_seed(0)
    model = Hard().train()
    model.b.weight.requires_grad_(False)
    model.a.weight.grad = torch.ones(8, 4)
    batch = {"x": torch.randn(16, 4), "y": torch.randn(16, 3)}, torch.arange(16) % 3
    kept, grad = copy.deepcopy((model.state_dict(), batch)), model.a.weight.grad
    versions, modes = [p._version for p in model.parameters()], [m.training for m in model.modules()]
    random = torch.get_rng_state()
    found = [hl.critical_rate(model, F.cross_entropy, batch, how) for how in ("sgd", "adam")]
    torch.testing.assert_close((model.state_dict(), batch), kept, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random) and model.a.weight.grad is grad and bool((grad == 1).all())
    assert [p._version for p in model.parameters()] == versions and [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters() if p is not model.a.weight)
    again = [hl.critical_rate(model, F.cross_entropy, batch, how) for how in ("sgd", "adam")]
    assert [a.path for a in found] == [a.path for a in again] and 0 < found[0].rate < math.inf


def test_an_operator_stays_in_use():
    model, loss_fn, batch = problem()
    operator = hl.hessian(model, loss_fn, batch)
    before = operator @ operator.gradient
    hl.critical_rate(model, loss_fn, batch)
    assert torch.equal(operator @ operator.gradient, before)


def test_an_error_inside_leaves_the_weights():
    model, loss_fn, batch = problem()
    kept, calls = copy.deepcopy(model.state_dict()), []

    def failing(outputs, targets):
        calls.append(0)
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        return loss_fn(outputs, targets)

    with pytest.raises(RuntimeError, match="out of memory"):
        hl.critical_rate(model, failing, batch)
    torch.testing.assert_close(model.state_dict(), kept, rtol=0, atol=0)


@pytest.mark.parametrize("dtype, rel", [(torch.float32, 0.05), (torch.float16, 0.1), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "AdamW"])
def test_other_precisions(dtype, rel, optimizer):
    model = hl.init_(hl.MLP(64, 32, 3, 10).double(), "he", generator=seeded())
    inputs, labels = hl.digits().batch(128, seeded())

    def rate(net, x):
        how = torch.optim.AdamW(net.parameters(), lr=1e-4) if optimizer == "AdamW" else optimizer
        return hl.critical_rate(net, F.cross_entropy, (x, labels), how).rate

    expected = rate(model, inputs.double())
    assert rate(model.to(dtype), inputs.to(dtype)) == pytest.approx(expected, rel=rel)


def test_what_has_no_second_derivative():
    """Attention with a kernel of one derivative, a compiled model, autocast."""
    torch.manual_seed(0)
    model, tokens = hl.TinyTransformer(8, 16, 1, 2, 10), torch.randn(12, 6, 8)
    batch = tokens, torch.arange(12) % 10
    expected = hl.critical_rate(model, F.cross_entropy, batch).rate
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.FLASH_ATTENTION):
        assert hl.critical_rate(model, F.cross_entropy, batch).rate == pytest.approx(expected, rel=1e-2)
    compiled = torch.compile(model, backend="aot_eager")
    assert hl.critical_rate(compiled, F.cross_entropy, batch).rate == pytest.approx(expected, rel=1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        assert hl.critical_rate(model, F.cross_entropy, batch).rate == pytest.approx(expected, rel=0.1)


def test_a_reentrant_checkpoint_is_taken():
    model, loss_fn, batch = problem()
    expected = hl.critical_rate(model, loss_fn, batch)

    class Recomputing(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.net, x.requires_grad_(), use_reentrant=True)

    assert hl.critical_rate(Recomputing(), loss_fn, batch).rate == pytest.approx(expected.rate, rel=1e-9)


def test_sequences_and_sparse_tables():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 8, sparse=True), nn.Linear(8, 5)).double()
    tokens = torch.randint(5, (4, 6), generator=seeded())
    found = hl.critical_rate(model, F.cross_entropy, (tokens[:, :-1], tokens[:, 1:]))
    model[0].sparse = False
    assert hl.critical_rate(model, F.cross_entropy, (tokens[:, :-1], tokens[:, 1:])).path == found.path


def test_a_loss_that_never_comes_back():
    model, batch = nn.Linear(3, 1).double(), (torch.ones(4, 3).double(), torch.ones(4))
    found = hl.critical_rate(model, lambda outputs, _: outputs.mean(), batch)
    assert found.rate == math.inf and found.sharpness == 0
    assert "no critical rate: the loss is not back at any rate to" in str(found)
    separable = torch.tensor([[1.0], [2.0], [-1.0], [-2.0]]), torch.tensor([[1.0], [1], [0], [0]])
    found = hl.critical_rate(nn.Linear(1, 1, bias=False), F.binary_cross_entropy_with_logits, separable)
    assert found.rate == math.inf and found.forwards <= 40


def test_momentum_that_leads_uphill():
    model, loss_fn, batch = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss_fn(model(batch[0]), batch[1]).backward()
    for p in model.parameters():
        p.grad.mul_(-10)
    optimizer.step()
    found = hl.critical_rate(model, loss_fn, batch, optimizer)
    assert found.rate == 0 and found.sharpness == math.inf and found.slope < 0 and "leads uphill" in str(found)


def test_a_rate_of_zero_at_the_start_of_a_schedule():
    model, loss_fn, batch = problem()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert schedule.get_last_lr() == [0]
    expected = hl.critical_rate(model, loss_fn, batch, "adam").rate
    assert hl.critical_rate(model, loss_fn, batch, optimizer).rate == pytest.approx(expected, rel=1e-6)
    assert optimizer.param_groups[0]["lr"] == 0


def refused(kind, words, change=lambda model, batch: (model, batch), loss=F.cross_entropy, **options):
    model, _, batch = problem()
    model, batch = change(model, batch)
    with pytest.raises(kind, match=words):
        hl.critical_rate(model, loss, batch, **options)


def test_refusals():
    others = torch.optim.Adam(hl.MLP(2, 2, 2, 2).parameters())
    refused(ValueError, "'sgd', 'adam' or torch.optim's", optimizer="lion")
    refused(ValueError, "holds no parameter of the model", optimizer=others)
    refused(ValueError, "rtol must lie between", rtol=0)
    refused(ValueError, "raise max_forwards", max_forwards=2)
    refused(TypeError, "batch must be a pair", lambda m, b: (m, b[0]))
    refused(ValueError, "labels out of range", lambda m, b: (m, (b[0], b[1] + 5)))
    refused(ValueError, "gradient is not finite", lambda m, b: (m, (b[0] * math.nan, b[1])))
    refused(ValueError, "every parameter is frozen", lambda m, b: (m.requires_grad_(False), b))
    refused(ValueError, "gradient is zero", loss=lambda z, t: (z * 0).sum())
    refused(ValueError, "does not depend on any", loss=lambda z, t: z.detach().sum())
    refused(ValueError, "gradient is not finite", loss=lambda z, t: (z - z).sqrt().sum())
    refused(ValueError, "the loss is inf", loss=lambda z, t: z.square().mean() + math.inf)
    refused(ValueError, "by no more than its rounding", loss=lambda z, t: 1e9 + 1e-9 * z.square().mean())
    refused(TypeError, "must be a torch.nn.Module", lambda m, b: (F.relu, b))

    class DataParallel(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    refused(ValueError, "pass its .module", lambda m, b: (DataParallel(m), b))
    model, loss_fn, batch = problem()
    with pytest.raises(ValueError, match="LBFGS searches"):
        hl.critical_rate(model, loss_fn, batch, torch.optim.LBFGS(model.parameters()))


# Adam's coordinates

@pytest.mark.parametrize("net", FIVE)
def test_preconditioned_products(net):
    """Of the smallest parameters, some 80 weights: P of a random gradient's size, and Adam's own."""
    model, loss_fn, batch = case(net)
    left = 80
    for p in sorted(model.parameters(), key=torch.numel):
        left -= p.numel()
        p.requires_grad_(left >= 0)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    for build, dense_matrix in ((hl.hessian, dense_hessian), (hl.gauss_newton, dense_gauss_newton)):
        operator, dense = build(model, loss_fn, batch), dense_matrix(model, loss_fn, batch, names)
        diagonal = torch.rand(len(dense), generator=seeded(), dtype=torch.float64) + 0.01
        own = hl.adam_preconditioner(operator)
        assert torch.equal(own, operator.gradient.abs() + 1e-8)
        for each in (diagonal, own.clamp(min=1e-3)):
            truth = dense / each.outer(each).sqrt()
            found = hl.preconditioned(operator, each)
            scale = float(truth.abs().max())
            torch.testing.assert_close(dense_of(found), truth, rtol=1e-8, atol=1e-11 * scale)
            eye = torch.eye(len(dense), dtype=torch.float64)
            torch.testing.assert_close(found.matmat(eye, memory=1), truth, rtol=1e-8, atol=1e-11 * scale)
            torch.testing.assert_close(found.gradient, operator.gradient / each.sqrt())
            value = hl.top_eigenvalues(found, rtol=1e-6, generator=seeded())[0]
            torch.testing.assert_close(value.abs(), torch.linalg.eigvalsh(truth).abs().max()[None], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_preconditioner_of_an_optimizers_state(kind, amsgrad):
    """Its step is the rate times m̂ / P, for the m̂ it keeps."""
    model, loss_fn, batch = problem()
    optimizer = kind(model.parameters(), lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0, amsgrad=amsgrad)
    for _ in range(5):
        before = nn.utils.parameters_to_vector(model.parameters()).detach()
        optimizer.zero_grad()
        loss_fn(model(batch[0]), batch[1]).backward()
        optimizer.step()
    moved = before - nn.utils.parameters_to_vector(model.parameters()).detach()
    operator = hl.hessian(model, loss_fn, batch)
    mean = torch.cat([optimizer.state[p]["exp_avg"].flatten() for p in model.parameters()]) / (1 - 0.8**5)
    torch.testing.assert_close(0.01 * mean / hl.adam_preconditioner(operator, optimizer), moved, rtol=1e-10, atol=1e-14)
    layer = hl.hessian(model, loss_fn, batch, layer="layers.1")
    assert hl.adam_preconditioner(layer, optimizer).shape == (layer.shape[0],)


def test_refusals_of_preconditioners():
    model, loss_fn, batch = problem()
    operator = hl.hessian(model, loss_fn, batch)
    for bad, words in ((torch.ones(3).double(), "with P = "), (-operator.gradient.abs(), "must be positive"),
                       (operator.gradient * math.nan, "must be positive")):
        with pytest.raises(ValueError, match=words):
            hl.preconditioned(operator, bad)
    with pytest.raises(TypeError, match="expected torch.float64"):
        hl.preconditioned(operator, torch.ones(operator.shape[0]))
    rectangle = hl.hessian(model, loss_fn, batch, layer=("layers.0", "layers.1"))
    with pytest.raises(ValueError, match="must be a square"):
        hl.preconditioned(rectangle, torch.ones(rectangle.shape[1]).double())
    with pytest.raises(ValueError, match="no running mean of squares for layers.0.weight: step first"):
        hl.adam_preconditioner(operator, torch.optim.Adam(model.parameters()))
    with pytest.raises(ValueError, match="no running mean"):
        hl.adam_preconditioner(operator, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(TypeError, match="a torch.Tensor"):
        hl.preconditioned(operator, None)
    found = hl.preconditioned(operator, torch.ones(operator.shape[0]).double())
    with pytest.raises(ValueError, match="a vector"):
        found @ operator.gradient[1:]


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_adams_limit(beta):
    """torch's own Adam with its P held fixed (β₂ = 1 − 1e-16, no bias left): (2 + 2β₁) / ((1 − β₁) λ_P)."""
    model, batch, matrix, g = quadratic()
    diagonal = torch.rand(len(g), generator=seeded(), dtype=torch.float64) + 0.1
    operator = hl.preconditioned(hl.hessian(model, F.mse_loss, batch), diagonal)
    limit = (2 + 2 * beta) / (1 - beta) / float(hl.top_eigenvalues(operator, rtol=1e-8, generator=seeded())[0])
    for share, stable in ((0.99, True), (1.01, False)):
        net = copy.deepcopy(model)
        optimizer = torch.optim.Adam(net.parameters(), lr=share * limit, betas=(beta, 1 - 1e-16), eps=0)
        parts = diagonal.split([p.numel() for p in net.parameters()])
        for p, part in zip(net.parameters(), parts):  # far from the start, so that no bias is corrected
            optimizer.state[p] = {"step": torch.tensor(1e20), "exp_avg": torch.zeros_like(p),
                                  "exp_avg_sq": part.view_as(p).square()}
        losses = []
        for _ in range(400):  # too few for what grows to come into P
            optimizer.zero_grad()
            loss = F.mse_loss(net(batch[0]), batch[1])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert (max(losses) < 10 * losses[0]) == stable
