"""Every public function on a device that is not the CPU: the same answers, nothing mixed, waits counted.

The device is imitated (second_device.py), so this runs everywhere; tests marked CUDA elsewhere need a GPU.
"""

import inspect

import pytest
import second_device
import torch
from second_device import SecondTensor
from test_architectures import NETS, tiny
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten

import hessinit_lite as hl

LOSS = F.cross_entropy


def ones(operator, *columns):
    return torch.ones(operator.shape[0], *columns, dtype=operator.dtype, device=operator.device)


def hessian(case):
    return hl.hessian(case.model, LOSS, case.batch)


def gauss_newton(case):
    return hl.gauss_newton(case.model, LOSS, case.batch)


class Case:
    """What a question is asked about: a net of the given depth, a batch and a generator on one device."""

    def __init__(self, device, depth):
        self.generator = torch.Generator(device).manual_seed(0)
        self.model = hl.init_(hl.MLP(64, 12, depth, 10, activation="tanh").double().to(device), "forward",
                              generator=self.generator)
        self.data = hl.digits().to(torch.float64).to(device)
        self.batch = self.data.batch(32, self.generator)
        torch.manual_seed(0)
        self.gpt = hl.GPT(7, 4, depth, 2, 5).double().to(device)
        self.text = torch.arange(30, device=device).view(6, 5) % 7, torch.arange(1, 31, device=device).view(6, 5) % 7


# {name: (question to a case, waits allowed)}: waits however deep the net. The name's first word is the function's.
QUESTIONS = {
    "hessian": (lambda c: (h := hessian(c)) @ ones(h), 2),
    "hessian's gradient and loss": (lambda c: (hessian(c).gradient, hessian(c).loss), 4),
    "hessian of a loader": (lambda c: (h := hl.hessian(c.model, LOSS, [c.batch, c.batch])) @ ones(h), 8),
    "gauss_newton": (lambda c: (g := gauss_newton(c)) @ ones(g), 3),
    "gauss_newton times a matrix": (lambda c: (g := gauss_newton(c)).matmat(ones(g, 3)), 3),
    "gauss_newton of a GPT": (lambda c: (g := hl.gauss_newton(c.gpt, LOSS, c.text)) @ ones(g), 3),
    "hessian of a GPT": (lambda c: (h := hl.hessian(c.gpt, LOSS, c.text)) @ ones(h), 3),
    "trace": (lambda c: hl.trace(hessian(c), generator=c.generator), 2),
    "trace by Hutch++": (lambda c: hl.trace(hessian(c), generator=c.generator, method="hutch++"), 2),
    "frobenius_norm": (lambda c: hl.frobenius_norm(hessian(c), generator=c.generator), 2),
    "spectral_density": (lambda c: hl.spectral_density(hessian(c), 10, 4, generator=c.generator), 2),
    "gradient_quotient": (lambda c: hl.gradient_quotient(h := hessian(c), h.gradient), 2),
    "preconditioned": (lambda c: (h := hl.preconditioned(hessian(c), c.data.train[0].new_ones(hessian(c).shape[0]))).matmat(ones(h, 2)), 6),
    "adam_preconditioner": (lambda c: hl.adam_preconditioner(hessian(c)), 2),
    "output_curvature": (lambda c: hl.output_curvature(LOSS, c.model(c.batch[0]), c.batch[1]), 1),
    "layer_blocks": (lambda c: [b @ ones(b) for b in hl.layer_blocks(c.model, LOSS, c.batch).values()], 4),
    "layer_traces": (lambda c: hl.layer_traces(c.model, LOSS, c.batch), 5),
    "layer_gradients": (lambda c: hl.layer_gradients(c.model, LOSS, c.batch), 3),
    "layer_norms of Frobenius": (lambda c: hl.layer_norms(c.model, LOSS, c.batch, norm="frobenius"), 5),
    "layer_norms of the gradient": (lambda c: hl.layer_norms(c.model, LOSS, c.batch, norm="gradient"), 7),
    "signals": (lambda c: hl.signals(c.model, c.batch[0]), 0),
    "signals_and_gradients": (lambda c: hl.signals_and_gradients(c.model, c.batch, LOSS), 1),
    "many_nets": (lambda c: hl.many_nets([8, 8, 8], 5, generator=c.generator), 0),
    "scale_branches_": (lambda c: (hl.scale_branches_(c.model, "layers.*", "1/L"), c.model(c.batch[0])), 0),
    "mup_groups": (lambda c: [(g["lr"], g["params"]) for g in hl.mup_groups(c.model, hl.MLP(64, 6, len(c.model.layers), 10), 0.1)], 0),
    "correlations": (lambda c: hl.correlations(c.batch[0][:, 2:4], c.batch[0][:, 4:7]), 0),
    "accuracy": (lambda c: hl.accuracy(c.model, c.batch), 1),
    "draw_negatives": (lambda c: hl.draw_negatives(c.batch[1].bincount(minlength=10), (40,), c.generator), 1),
    "docstrings' batch": (lambda c: hl.docstrings(("numpy",)).to(c.batch[0].device).batch(20, 3, 4, c.generator), 0),
    "digits' batch": (lambda c: c.data.batch(10, c.generator), 0),
    "train_together": (lambda c: hl.train_together([c.model], hl.Data("batch", c.batch, c.batch), 0.1, 20, 16), 1),
    "final_losses": (lambda c: hl.final_losses(c.data.train[0][:40]), 0),
    "train": (lambda c: hl.train(c.model, hl.Data("batch", c.batch, c.batch), 0.1, 20, 16).losses, 1),
    **{f"init_ of {scheme}": (
        lambda c, scheme=scheme: list(hl.init_(c.model, scheme, generator=c.generator, std=0.1, batch=c.batch).parameters()),
        int(scheme == "lsuv")) for scheme in hl.SCHEMES},  # whether its outputs are finite
}
# Lanczos decides after every product, on the host. {name: (question, other waits, other waits a layer)}
LANCZOS = {
    "top_eigenvalues": (lambda c: hl.top_eigenvalues(hessian(c), 2, generator=c.generator), 3, 0),
    "top_eigenpairs": (lambda c: hl.top_eigenpairs(hessian(c), 2, generator=c.generator), 3, 0),
    "layer_norms": (lambda c: hl.layer_norms(c.model, LOSS, c.batch), 5, 1),
    "layer_spectra": (lambda c: hl.layer_spectra(c.model, LOSS, c.batch, k=3), 5, 1),
    "report": (lambda c: str(hl.report(c.model, LOSS, c.batch)).replace("second:0", "cpu"), 20, 2),
    "critical_rate": (lambda c: hl.critical_rate(c.model, LOSS, c.batch).path, None, None),  # two waits a forward pass
    "hessian_init_": (lambda c: (str(report := hl.hessian_init_(c.model, LOSS, c.batch, generator=c.generator)),
                                 report.history), None, None),  # measures layer_norms a few times
    "sweep": (lambda c: hl.sweep(lambda seed: c.model, hl.Data("batch", c.batch, c.batch), [0.1, 0.2], [0], 20), None, None),
}
NO_TENSORS = {  # numbers in, numbers out, or what is read from files; data move with `.to`
    "weight_layers", "width_multipliers", "explore", "correlation_map", "correlation_profile", "cross_moments", "dropout_factor",
    "edge_of_chaos", "fixed_point", "fluctuation_profile", "gain", "gradient_profile", "second_moments",
    "table", "laboratory", "variance_profile", "seeded", "digits_net", "spread", "interval", "mnist", "fashion_mnist", "cifar10",
    "text8", "python_text",
}


@pytest.fixture
def device():
    try:
        with second_device.available():
            yield second_device.NAME
    except second_device.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def products(monkeypatch):
    """A list that grows with every product of an operator with a vector."""
    made = []
    for kind in (hl.curvature.CurvatureOperator, hl.blocks._Units, hl.blocks._Gram):
        def counted(self, vector, multiply=kind.__matmul__):
            made.append(kind)
            return multiply(self, vector)

        monkeypatch.setattr(kind, "__matmul__", counted)
    return made


def assert_same(found, expected):
    found, expected = tree_flatten(found)[0], tree_flatten(expected)[0]
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected):
        if isinstance(theirs, str):
            assert ours == theirs
        else:
            ours = ours.raw if isinstance(ours, SecondTensor) else ours
            torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), rtol=1e-9, atol=1e-12)


def test_every_public_function_is_asked():
    public = {name for name in hl.__all__ if inspect.isfunction(inspect.unwrap(getattr(hl, name)))}
    asked = {name.split()[0].removesuffix("'s").removesuffix("'") for name in (*QUESTIONS, *LANCZOS)}
    assert public == asked | NO_TENSORS


@pytest.mark.parametrize("name", QUESTIONS)
def test_same_answers_and_no_waiting_in_loops(name, device):
    question, allowed = QUESTIONS[name]
    counts = []
    for depth in (3, 6):
        expected = question(Case("cpu", depth))
        case = Case(device, depth)
        with second_device.counted() as waits:
            found = question(case)
        assert_same(found, expected)
        counts.append(waits)
    assert counts[0] == counts[1], "what is waited for grows with the depth"
    assert counts[0].total() <= allowed


@pytest.mark.parametrize("name", LANCZOS)
def test_lanczos_moves_one_small_thing_a_product(name, device, products):
    question, fixed, by_layer = LANCZOS[name]
    depth = 4
    expected = question(Case("cpu", depth))
    case = Case(device, depth)
    del products[:]
    with second_device.counted() as waits:
        found = question(case)
    assert_same(found, expected)
    if fixed is not None:
        assert waits["_to_copy"] <= len(products) + 1
        assert waits.total() - waits["_to_copy"] <= fixed + by_layer * depth


@pytest.mark.parametrize("net", NETS)
def test_every_net_of_the_module(net, device):
    model, loss_fn, batch = tiny(net, "cross_entropy", True)

    def answers(model, batch):
        norms = [hl.layer_norms(model, loss_fn, batch, norm=norm) for norm in hl.chain_rule.NORMS]
        operator = hl.hessian(model, loss_fn, batch)
        return *norms, hl.layer_traces(model, loss_fn, batch), operator @ ones(operator)

    expected = answers(model, batch)
    assert_same(answers(model.to(device), tuple(part.to(device) for part in batch)), expected)


class TestTheDevice:
    """It could let everything pass."""

    def test_mixing_is_refused(self, device):
        with pytest.raises(RuntimeError, match="one device"):
            torch.ones(2, device=device) + torch.ones(2)
        with pytest.raises(RuntimeError, match="one device"):
            torch.nn.Linear(2, 2)(torch.ones(1, 2, device=device))
        assert torch.equal((torch.ones(2, device=device) * torch.tensor(2.0)).cpu(), torch.full((2,), 2.0))  # as on a GPU

    @pytest.mark.parametrize("draw", [
        lambda on, other: torch.randn(3, device=on, generator=torch.Generator(other)),
        lambda on, other: torch.empty(3, device=on).normal_(generator=torch.Generator(other)),
        lambda on, other: torch.randperm(3, device=on, generator=torch.Generator(other)),
    ], ids=["randn", "normal_", "randperm"])
    def test_generators_draw_on_their_own_device(self, draw, device):
        for on, other in ((device, "cpu"), ("cpu", device)):
            with pytest.raises(RuntimeError, match="device type for generator"):
                draw(on, other)
        assert draw(device, device).device.type == device

    def test_numpy_is_refused(self, device):
        with pytest.raises(TypeError, match="numpy"):
            torch.ones(2, device=device).numpy()

    def test_waits_are_counted(self, device):
        x = torch.arange(3.0, device=device)
        with second_device.counted() as waits:
            x.sum() + x.max()
            assert not waits
            float(x[0]), x.tolist(), x.cpu(), x[x > 1], bool((x > 0).all())
        assert waits == {"_local_scalar_dense": 2, "tolist": 1, "_to_copy": 1, "index by a mask": 1}

    def test_shapes_change_in_place(self, device):
        x = torch.arange(6.0, device=device).view(1, 2, 3)
        assert x.squeeze_().t_().shape == (3, 2) and x.unsqueeze_(0).shape == (1, 3, 2)
        assert (torch.ones(2, device=device) @ torch.ones(2, 3, device=device)).shape == (3,)


def test_nothing_of_the_device_is_left_outside():
    own = torch.Generator, torch.eye
    try:
        with second_device.available():
            assert torch.Generator is not own[0] and torch.eye is not own[1]
    except second_device.Unavailable as error:
        pytest.skip(str(error))
    assert (torch.Generator, torch.eye) == own
    assert torch.randn(2, generator=torch.Generator()).device.type == "cpu"
