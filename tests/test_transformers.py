"""The small GPT and vision Transformer: what they compute, against plain formulas; curvature, refusals; their text."""

import math

import pytest
import torch
from dense import dense_gauss_newton, dense_hessian, dense_of
from torch import nn
from torch.nn import functional as F

import hessinit_lite as hl

needs_rms = pytest.mark.skipif(not hasattr(nn, "RMSNorm"), reason="nn.RMSNorm came with torch 2.4")
VARIANTS = {
    "GPT-2's": {},
    "gated": {"activation": "silu", "gated": True},
    "RMS norm": {"norm": "rms"},
    "post-norm": {"order": "post"},
    "untied": {"tied": False},
    "scaled": {"branch": 0.3, "output_scale": 0.5},
}


def gpt(width=4, depth=1, vocabulary=5, context=6, **options):
    torch.manual_seed(0)
    model = hl.GPT(vocabulary, width, depth, 2, context, **options).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def text(samples=3, length=4, vocabulary=5):
    tokens = torch.randint(vocabulary, (samples, length + 1), generator=hl.seeded(1))
    return tokens[:, :-1], tokens[:, 1:]


def variant(name):
    return pytest.param(VARIANTS[name], id=name, marks=needs_rms if name == "RMS norm" else ())


def plainly(model, inputs):
    """The GPT once more, from its weights, place by place."""
    block = model.blocks[0]
    z = model.tokens.weight[inputs] + model.places.weight[: inputs.shape[1]]

    def attend(z):
        a, rows = block.attention, []
        q, k, v = z @ a.q.weight.T, z @ a.k.weight.T, z @ a.v.weight.T
        for t in range(z.shape[1]):
            heads = []
            for part in torch.arange(z.shape[2]).chunk(2):
                scores = torch.einsum("nd,nsd->ns", q[:, t, part], k[:, : t + 1, part]) / math.sqrt(len(part))
                heads.append(torch.einsum("ns,nsd->nd", scores.softmax(1), v[:, : t + 1, part]))
            rows.append(torch.cat(heads, 1))
        return torch.stack(rows, 1) @ a.out.weight.T

    def mlp(z):
        up, f = z @ block.mlp.up.weight.T, block.mlp.activation
        hidden = f(up) if block.mlp.gate is None else f(z @ block.mlp.gate.weight.T) * up
        return hidden @ block.mlp.down.weight.T

    for norm, part in ((block.norm1, attend), (block.norm2, mlp)):
        pre = block.order == "pre"
        z = z + block.branch * part(norm(z)) if pre else norm(z + block.branch * part(z))
    return (model.output_scale * model.norm(z) @ model.head.weight.T).mT


@pytest.mark.parametrize("options", [variant(name) for name in VARIANTS])
def test_a_gpt_is_what_its_weights_say(options):
    model, (inputs, _) = gpt(**options), text()
    torch.testing.assert_close(model(inputs), plainly(model, inputs))


@pytest.mark.parametrize("options", [variant(name) for name in VARIANTS])
def test_products_and_layers_equal_dense_matrices(options):
    model, (inputs, targets) = gpt(vocabulary=3, **options), text(2, 3, 3)
    for name, p in model.named_parameters():
        p.requires_grad_(name in ("blocks.0.attention.q.weight", "blocks.0.attention.out.weight", "places.weight"))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    batch = inputs, targets
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        full, gauss = (f(model, F.cross_entropy, batch, names) for f in (dense_hessian, dense_gauss_newton))
    torch.testing.assert_close(dense_of(hl.hessian(model, F.cross_entropy, batch)), full, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(dense_of(hl.gauss_newton(model, F.cross_entropy, batch)), gauss, rtol=1e-8, atol=1e-11)
    norms = hl.layer_norms(model, F.cross_entropy, batch, rtol=1e-6)
    sizes = [model.get_parameter(name).numel() for name in names]
    for name, rows in zip(names, torch.arange(sum(sizes)).split(sizes)):
        largest = torch.linalg.eigvalsh(gauss[rows][:, rows])[-1].item()
        assert norms[name.removesuffix(".weight")] == pytest.approx(largest, rel=1e-5)


def test_no_place_sees_what_comes_later():
    model, (inputs, _) = gpt(depth=2), text()
    changed = inputs.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 5
    before, after = model(inputs), model(changed)
    torch.testing.assert_close(before[:, :, :-1], after[:, :, :-1])
    assert not torch.allclose(before[:, :, -1], after[:, :, -1])


def test_a_tied_head_is_the_table():
    model = gpt()
    assert model.head.weight is model.tokens.weight
    model = gpt(tied=False)
    assert model.head.weight is not model.tokens.weight


def test_mup_leaves_a_tied_table_and_draws_a_head_of_its_own():
    """The tied table is an input weight of μP, and its size does not follow the width."""
    for tied in (True, False):
        model = gpt(tied=tied)
        tokens, head, q = (p.detach().clone() for p in (model.tokens.weight, model.head.weight,
                                                        model.blocks[0].attention.q.weight))
        hl.init_(model, "mup", generator=torch.Generator().manual_seed(0))
        assert torch.equal(model.tokens.weight, tokens)
        assert torch.equal(model.head.weight, head) == tied
        assert not torch.equal(model.blocks[0].attention.q.weight, q)


def test_zero_branches_leave_tables_and_head():
    model, (inputs, _) = gpt(depth=3), text()
    hl.scale_branches_(model, ("*.out", "*.down"), "zero")
    z = model.tokens.weight[inputs] + model.places.weight[:4]
    torch.testing.assert_close(model(inputs), (model.norm(z) @ model.head.weight.T).mT)


def test_a_gpt_learns_its_text():
    data = hl.python_text(16)
    model = hl.GPT(128, 16, 1, 2, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        inputs, targets = data.batch(16, hl.seeded(step))
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(128), rel=0.1) and losses[-1] < 3.3


def test_a_vit_reads_patches_in_their_places():
    """A mean over patches: without places their order does not matter, with them it does."""
    torch.manual_seed(0)
    model = hl.ViT(4, 2, 8, 2, 2, 3, in_channels=1).double()
    pictures = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    turned = torch.cat([pictures[:, :, 2:], pictures[:, :, :2]], 2)
    with torch.no_grad():
        model.places.weight.normal_()
        assert not torch.allclose(model(pictures), model(turned))
        model.places.weight.zero_()
        torch.testing.assert_close(model(pictures), model(turned))


@pytest.mark.parametrize("make", [
    lambda: hl.GPT(0, 4, 1, 2, 6), lambda: hl.GPT(5, 4, 1, 3, 6), lambda: hl.GPT(5, 4, 1, 2, 6, activation="swish"),
    lambda: hl.GPT(5, 4, 1, 2, 6, norm="batch"), lambda: hl.GPT(5, 4, 1, 2, 6, order="sandwich"),
    lambda: hl.ViT(5, 2, 4, 1, 2, 3), lambda: hl.ViT(4, 2, 4, 1, 3, 3), lambda: hl.ViT(4, 2, 4, 1, 2, 0),
    lambda: gpt()(torch.zeros(2, 7, dtype=torch.long)), lambda: gpt()(torch.zeros(2, 3)), lambda: gpt()(torch.zeros(3)),
    lambda: hl.ViT(4, 2, 4, 1, 2, 3)(torch.zeros(2, 48)), lambda: hl.python_text(0), lambda: hl.python_text(10**6),
])
def test_refusals(make):
    with pytest.raises(ValueError):
        make()


def test_the_text_is_python_s_and_its_parts_do_not_overlap():
    data = hl.python_text(50)
    (inputs, targets), (later, _) = data.train, data.test
    assert inputs.dtype == torch.int64 and 0 <= inputs.min() and inputs.max() < 128
    torch.testing.assert_close(inputs.flatten()[1:], targets.flatten()[:-1])
    assert targets[-1, -1] == later[0, 0] and len(later) == pytest.approx(len(inputs) / 9, rel=0.01)
    said = bytes(inputs[:2000].flatten().tolist()).decode()
    assert "statement" in said and "Python" in data.name


def test_a_python_without_the_text_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match="pydoc_data"):
        hl.python_text(51)
