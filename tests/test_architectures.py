"""Every operator and every question on a tiny net of each kind, against dense float64 matrices."""

import pytest
import torch
from dense import LOSSES, dense_gauss_newton, dense_hessian, dense_of, targets_for
from torch import nn

import hessinit_lite as hl
from hessinit_lite.autograd import twice_differentiable
from hessinit_lite.chain_rule import LayerBlock, layer_gradients

SAMPLES, CLASSES = 4, 3


def _pictures(channels, size):
    return torch.randn(SAMPLES, channels, size, size, dtype=torch.float64)


NETS = {
    "MLP": lambda: (hl.MLP(3, 4, 3, CLASSES, activation="gelu"), torch.randn(SAMPLES, 3, dtype=torch.float64)),
    "LeNet5": lambda: (hl.LeNet5(1, CLASSES, "tanh", size=16, width=1), _pictures(1, 16)),
    "ResNet18": lambda: (hl.ResNet18(CLASSES, width=1, in_channels=1), _pictures(1, 8)),
    "ResNet18 with norms": lambda: (hl.ResNet18(CLASSES, width=1, in_channels=1, activation="selu", norm=True),
                                    _pictures(1, 8)),
    "EfficientNet": lambda: (hl.EfficientNet(CLASSES, width=1, in_channels=1), _pictures(1, 6)),
    "GoogLeNet": lambda: (hl.GoogLeNet(CLASSES, width=1, in_channels=1, activation="silu"), _pictures(1, 6)),
    "TinyTransformer": lambda: (hl.TinyTransformer(3, 4, 1, 2, CLASSES),
                                torch.randn(SAMPLES, 5, 3, dtype=torch.float64)),
    "TinyTransformer of words": lambda: (hl.TinyTransformer(7, 4, 1, 2, CLASSES, norm=False, tokens=True),
                                         torch.randint(7, (SAMPLES, 6))),
    "ViT": lambda: (hl.ViT(4, 2, 4, 1, 2, CLASSES, in_channels=1), _pictures(1, 4)),
    "SkipGram": lambda: (hl.SkipGram(9, 2), torch.randint(9, (SAMPLES, CLASSES + 1))),
}
NO_BIAS = ["MLP", "LeNet5", "ResNet18", "TinyTransformer"]
CASES = [(net, True) for net in NETS] + [(net, False) for net in NO_BIAS]


def tiny(net, loss, bias):
    torch.manual_seed(0)
    model, inputs = NETS[net]()
    if not bias:
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.bias = None
    model.double().eval()
    targets = targets_for(loss, SAMPLES, 1, CLASSES, torch.Generator().manual_seed(1))[1]
    return model, LOSSES[loss], (inputs, targets)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("net, bias", CASES)
def test_operators_and_questions(net, bias, loss):
    """Over the smallest parameters of the net, up to some 80 weights: a dense Hessian of all would take long."""
    model, loss_fn, batch = tiny(net, loss, bias)
    left = 80
    for p in sorted(model.parameters(), key=torch.numel):
        left -= p.numel()
        p.requires_grad_(left >= 0)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) >= 2
    for build, dense_matrix in ((hl.hessian, dense_hessian), (hl.gauss_newton, dense_gauss_newton)):
        operator = build(model, loss_fn, batch)
        with twice_differentiable(model):  # fused attention in its plain form
            dense = dense_matrix(model, loss_fn, batch, names)
        assert operator.names == names
        torch.testing.assert_close(dense_of(operator), dense, rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(operator.matmat(torch.eye(len(dense), dtype=torch.float64)), dense,
                                   rtol=1e-8, atol=1e-11)
        generator = torch.Generator().manual_seed(0)
        true = torch.linalg.eigvalsh(dense)
        value = hl.top_eigenvalues(operator, rtol=1e-6, generator=generator)[0]
        torch.testing.assert_close(value.abs(), true.abs().max()[None], rtol=1e-6, atol=1e-10)
        # Random signs s: sᵀAs has the variance 2(‖A‖² - Σ a_ii²), known here; so has ‖As‖² = sᵀA²s.
        deviation, deviation_of_square = (
            (2 * (a.square().sum() - a.diagonal().square().sum())).clamp(min=0).sqrt() for a in (dense, dense @ dense))
        estimate, _ = hl.trace(operator, 60, generator)
        assert abs(estimate - dense.trace()) <= 6 * deviation / 60 ** 0.5 + 1e-10
        # Of Hutch++ a third is random, on a projection of A, whose norm is no larger.
        estimate, _ = hl.trace(operator, 60, generator, "hutch++")
        assert abs(estimate - dense.trace()) <= 6 * (2 / 20) ** 0.5 * torch.linalg.norm(dense) + 1e-10
        norm, _ = hl.frobenius_norm(operator, 60, generator)
        square = dense.square().sum()
        assert abs(norm ** 2 - square) <= 6 * deviation_of_square / 60 ** 0.5 + 1e-10
        nodes, weights = hl.spectral_density(operator, 10, 40, generator)
        moments = (nodes ** 2 * weights).sum(1) * len(dense)  # each estimates the square of the Frobenius norm
        assert abs(moments.mean() - square) <= 6 * deviation_of_square / 40 ** 0.5 + 1e-10
        g = operator.gradient
        torch.testing.assert_close(hl.gradient_quotient(operator, g), g @ dense @ g / (g @ g))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("net, bias", CASES)
def test_blocks_of_all_parameters(net, bias, loss):
    """Traces, spectra and norms of every parameter's Gauss-Newton block; all are covered without products."""
    model, loss_fn, batch = tiny(net, loss, bias)
    blocks = hl.layer_blocks(model, loss_fn, batch, parameters="all")
    traces = hl.layer_traces(model, loss_fn, batch, parameters="all")
    norms = hl.layer_norms(model, loss_fn, batch, parameters="all")
    frobenius = hl.layer_norms(model, loss_fn, batch, norm="frobenius", parameters="all")
    spectra = hl.layer_spectra(model, loss_fn, batch, k=2, rtol=1e-6, parameters="all")
    largest = {}
    for name, block in blocks.items():
        assert isinstance(block, LayerBlock), name
        dense = dense_gauss_newton(model, loss_fn, batch, [name])
        v = torch.randn(len(dense), 2, dtype=torch.float64)
        torch.testing.assert_close(block.matmat(v), dense @ v, rtol=1e-8, atol=1e-12)
        true = torch.linalg.eigvalsh(dense).flip(0)
        largest[name] = true[0].item()
        assert traces[name] == pytest.approx(dense.trace().item(), rel=1e-8)
        assert norms[name] == pytest.approx(true[0].item(), rel=1e-5)
        assert frobenius[name] == pytest.approx(torch.linalg.norm(dense).item(), rel=1e-7)
        assert spectra[name][0] == pytest.approx(true[:2].tolist(), rel=1e-5, abs=1e-6 * true[0].item())
    weights = hl.layer_norms(model, loss_fn, batch)
    assert weights == pytest.approx({name: largest[f"{name}.weight"] for name in weights}, rel=1e-5)
    quotients = hl.layer_norms(model, loss_fn, batch, norm="gradient")
    for name, g in layer_gradients(model, loss_fn, batch).items():
        g = g.flatten()
        expected = g @ (blocks[f"{name}.weight"] @ g) / (g @ g) if g.any() else torch.zeros(())  # all units dead
        assert quotients[name] == pytest.approx(expected.item(), rel=1e-8)


@pytest.mark.parametrize("net", ["ResNet18", "GoogLeNet"])
def test_a_norm_can_be_brought_to_its_target(net):
    model, loss_fn, batch = tiny(net, "cross_entropy", True)
    report = hl.hessian_init_(model, loss_fn, batch, generator=torch.Generator().manual_seed(0))
    assert report.norms == pytest.approx(hl.layer_norms(model, loss_fn, batch), rel=1e-3)
    assert min(report.history) <= report.history[0]


def test_an_embedding_is_scaled_and_not_drawn():
    """A scheme leaves embeddings as they are; hessian_init_ scales them with the other layers."""
    model, loss_fn, batch = tiny("SkipGram", "mse", True)
    before = {name: p.clone() for name, p in model.named_parameters()}
    report = hl.hessian_init_(model, loss_fn, batch, target=0.1, scheme=None)
    assert report.converged and set(report.norms) == {"center", "context"}
    for name, scale in report.scales.items():
        torch.testing.assert_close(model.get_submodule(name).weight, before[f"{name}.weight"] * scale)
    model, loss_fn, batch = tiny("TinyTransformer of words", "mse", True)
    before = model.embed.weight.clone()
    hl.init_(model, "he")
    assert torch.equal(model.embed.weight, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("net", NETS)
def test_cuda_gives_the_same_answers(net):
    """Norms, traces, spectra and densities, from one seed on each device."""
    found = []
    for device in ("cpu", "cuda"):
        model, loss_fn, batch = tiny(net, "cross_entropy", True)
        arguments = model.to(device), loss_fn, tuple(x.to(device) for x in batch)
        found.append([hl.layer_norms(*arguments, parameters="all"), hl.layer_traces(*arguments, parameters="all"),
                      hl.layer_norms(*arguments, norm="frobenius"), hl.layer_norms(*arguments, norm="gradient")])
        operator = hl.hessian(*arguments)
        v = torch.ones(operator.shape[0], 3, dtype=torch.float64, device=device)
        found[-1].append(operator.matmat(v).cpu())
    for on_cpu, on_cuda in zip(*(answers[:-1] for answers in found)):
        assert on_cuda == pytest.approx(on_cpu, rel=1e-6)
    torch.testing.assert_close(found[1][-1], found[0][-1])
