"""What `report` says of networks that people use, and that following it does no harm."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hessinit_lite as hl


@pytest.fixture(scope="module")
def digits():
    return hl.digits()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def words(found, *levels):
    return " | ".join(f"{f.level}: {f.text} -> {f.advice}" for f in found.findings if not levels or f.level in levels)


class Adapted(nn.Linear):
    """A frozen Linear with an adapter of rank 4 as LoRA starts it: A drawn, B zero."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.A, self.B = nn.Parameter(torch.empty(4, sizes[0])), nn.Parameter(torch.zeros(sizes[1], 4))
        nn.init.normal_(self.A, 0, 0.1, generator=seeded())
        for p in (self.weight, self.bias):
            p.requires_grad_(False)

    def forward(self, x):
        return super().forward(x) + x @ self.A.T @ self.B.T


class Backwards(nn.Module):
    """Reads both directions of an LSTM at the last step: the backward one has made a single step there."""

    def __init__(self, both_ends):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 6, batch_first=True, bidirectional=True), nn.Linear(12, 10)
        self.both_ends = both_ends

    def forward(self, x):
        z, (h, _) = self.lstm(x.view(-1, 8, 8))
        return self.head(torch.cat([*h], 1) if self.both_ends else z[:, -1])


def test_a_direction_that_is_read_after_one_step_is_named_as_such(digits):
    """And what the advice says mends it; new weights would not."""
    found = [hl.report(Backwards(ends), F.cross_entropy, digits.batch(32, seeded())) for ends in (False, True)]
    problems = words(found[0], "problem")
    assert "no gradient at all in lstm.weight_hh_l0_reverse" in problems and "or h_n" in problems
    assert "new weights" not in problems
    assert not words(found[1], "problem")


class Experts(nn.Module):
    """Top-1 routing by the sign of the first feature."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, 3) for _ in range(2))

    def forward(self, x):
        out = x.new_zeros(len(x), 3)
        for expert, rows in zip(self.experts, (x[:, 0] > 0, x[:, 0] <= 0)):
            if rows.any():
                out[rows] = expert(x[rows])
        return out


def test_an_expert_without_samples_asks_for_a_larger_batch():
    x, y = torch.randn(16, 8, generator=seeded()), torch.arange(16) % 3
    x[:, 0] = x[:, 0].abs() + 0.1
    found = hl.report(Experts(), F.cross_entropy, (x, y), optimizer="adam")
    assert [layer.name for layer in found.layers] == ["experts.0"]
    assert "does not depend on experts.1.weight" in words(found, "warning")
    assert "larger batch" in words(found, "warning")
    x[8:, 0] *= -1
    found = hl.report(Experts(), F.cross_entropy, (x, y), optimizer="adam")
    assert [layer.name for layer in found.layers] == ["experts.0", "experts.1"]
    assert "larger batch" not in words(found)


def test_a_zero_head_is_no_fault(digits):
    """Everything behind it has no gradient yet; plain descent wakes it."""
    model = hl.init_(hl.MLP(64, 32, 3, 10), "he", generator=seeded())
    with torch.no_grad():
        model.layers[2].weight.zero_()
    before = copy.deepcopy(model.state_dict())
    found = hl.report(model, F.cross_entropy, digits.batch(64, seeded()))
    assert "layers.2 is exactly zero, so that layers.0, layers.1 has no gradient yet" in words(found, "note")
    assert not words(found, "problem", "warning")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    hl.train(model, digits, 0.1, 3, seed=0)
    found = hl.report(model, F.cross_entropy, digits.batch(64, seeded()))
    assert all(layer.gradient > 0 for layer in found.layers) and "exactly zero" not in words(found)


def test_adapters_are_no_fault_and_frozen_weights_stay(digits):
    model = nn.Sequential(Adapted(64, 32), nn.ReLU(), Adapted(32, 10))
    frozen = [p.clone() for p in model.parameters() if not p.requires_grad]
    found = hl.report(model, F.cross_entropy, digits.batch(64, seeded()))
    assert "0.B, 2.B is exactly zero, so that 0.A, 2.A has no gradient yet" in words(found, "note")
    assert not words(found, "problem")
    assert {layer.name for layer in found.layers} == {"0.A", "0.B", "2.A", "2.B"}
    with pytest.raises(ValueError, match="every weight of torch's layers is frozen"):
        hl.init_(model, "he")
    assert all(torch.equal(p, q) for p, q in zip(frozen, (p for p in model.parameters() if not p.requires_grad)))


class Branch(nn.Module):
    """z + a branch that starts at zero: by the scale of its norm, or by a factor."""

    def __init__(self, by):
        super().__init__()
        self.dense, self.norm = nn.Linear(64, 64), nn.BatchNorm1d(64)
        self.factor = nn.Parameter(torch.tensor(0.0 if by == "factor" else 1.0))
        if by == "norm":
            nn.init.zeros_(self.norm.weight)

    def forward(self, z):
        return z + self.factor * self.norm(self.dense(z))


@pytest.mark.parametrize("by", ["norm", "factor"])
def test_a_branch_that_starts_at_zero_is_no_fault(by, digits):
    """ResNet's zero scale of the last norm, ReZero's factor: neither is a matrix, both wake."""
    model = nn.Sequential(Branch(by), nn.Linear(64, 10))
    nn.init.zeros_(model[1].bias)
    batch = digits.batch(64, seeded())
    before = copy.deepcopy(model.state_dict())
    found = hl.report(model, F.cross_entropy, batch, settle=5)
    zero = "0.norm" if by == "norm" else "0.factor"
    assert f"{zero} is exactly zero, so that 0.dense has no gradient yet" in words(found, "note")
    assert not words(found, "problem") and "1.bias" not in words(found)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_dead_net_is_still_dead(digits):
    """Zero weights that nothing wakes, and ReLUs that are off: draw new weights."""
    model = hl.init_(hl.MLP(64, 32, 3, 10), "he", generator=seeded())
    with torch.no_grad():
        model.layers[1].weight.zero_()
        model.layers[1].bias.fill_(-1)
    found = hl.report(model, F.cross_entropy, digits.batch(64, seeded()))
    assert "no gradient at all in layers.0" in words(found, "problem")


class Convolutional(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8),
                         nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Flatten(), nn.Linear(512, 10))


def test_batch_norm_that_has_seen_no_batch(digits):
    """Nothing else is said until it is settled, on a copy if one asks so."""
    model = hl.init_(Convolutional(), "he", generator=seeded())
    batch = digits.batch(64, seeded())
    before = copy.deepcopy(model.state_dict())
    fresh = hl.report(model.eval(), F.cross_entropy, batch, lr=1e-6)
    assert [f.level for f in fresh.findings] == ["warning"] and "settle=50" in words(fresh)
    settled = hl.report(model, F.cross_entropy, batch, settle=50)
    assert "averaged over 50 passes" in words(settled, "note") and "seen no batch" not in words(settled)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    for norm in (model[2], model[5]):
        norm.train()
    with torch.no_grad():
        for _ in range(50):
            model(batch[0])
    itself = hl.report(model.eval(), F.cross_entropy, batch)
    assert itself.eigenvalue == pytest.approx(settled.eigenvalue, rel=1e-3)
    assert not pytest.approx(fresh.eigenvalue, rel=0.5) == settled.eigenvalue


class VisionTransformer(nn.Module):
    """Patches of 2×2 pixels, a class token, torch's encoder and its default start."""

    def __init__(self, width=16):
        super().__init__()
        self.patches, self.token = nn.Linear(4, width), nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 17, width, generator=seeded()))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = x.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(len(x), 16, 4)
        x = torch.cat([self.token.expand(len(x), -1, -1), self.patches(x)], 1) + self.places
        return self.head(self.norm(self.encoder(x)[:, 0]))


@pytest.mark.parametrize("seed", range(3))
def test_a_vision_transformer_is_not_called_dead(digits, seed):
    torch.manual_seed(seed)
    model = VisionTransformer()
    found = hl.report(model, F.cross_entropy, digits.batch(32, seeded()), lr=1e-3, optimizer="adamw")
    assert "hardly depend" not in words(found) and "no gradient" not in words(found)
    assert "lr = 0.001 is below the critical rate" in words(found, "note")
    assert "a larger rate" not in words(found)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.one, self.two = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.one(x)).chunk(3, 2))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.two(x))))


class Gpt(nn.Module):
    def __init__(self, vocabulary=20, width=32, layers=2, context=8):
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens):
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return {"logits": self.head(self.norm(self.blocks(x)))}


def test_a_small_gpt_in_single_precision():
    """Tokens in, logits [N, T, V] in a dict out, as a user has it; measured and scaled."""
    torch.manual_seed(0)
    model, tokens = Gpt(), torch.randint(20, (8, 9), generator=seeded())
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, 0, 0.02, generator=seeded())
    batch = tokens[:, :-1], tokens[:, 1:]
    found = hl.report(model, F.cross_entropy, batch, layers=["blocks.*", "words"], lr=3e-4, optimizer="adamw")
    assert len(found.layers) == 9 and not words(found, "problem")
    assert found.chance == pytest.approx(3.0, rel=0.01)  # log 20
    before = copy.deepcopy(model.state_dict())
    result = hl.hessian_init_(model, F.cross_entropy, batch, scheme=None, max_steps=3, generator=seeded())
    assert len(result.norms) == 10 and result.left == []
    assert max(result.history) < float("inf") and not all(
        torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_merging_adapters_are_not_merged(digits):
    """As loralib's: `.eval()` merges them into the weight, which a report must not do."""
    class Merging(Adapted):
        merged = False

        def train(self, mode=True):
            super().train(mode)
            if not mode and not self.merged:
                self.weight.data += self.B @ self.A
                self.merged = True
            return self

    model = nn.Sequential(Merging(64, 32), nn.ReLU(), nn.Linear(32, 10)).train()
    before = copy.deepcopy(model.state_dict())
    hl.report(model, F.cross_entropy, digits.batch(64, seeded()))
    assert not model[0].merged and all(m.training for m in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_fused_projections_are_listed_apart():
    """Queries and keys of a GPT curve the loss far less than values: what a fused norm hides."""
    torch.manual_seed(0)
    model, tokens = Gpt(layers=1).double(), torch.randint(20, (8, 9), generator=seeded())
    batch = tokens[:, :-1], tokens[:, 1:]
    found = hl.report(model, F.cross_entropy, batch, layers="blocks.0.qkv", split={"*.qkv": 3})
    assert [layer.name for layer in found.layers] == [f"blocks.0.qkv.{part}" for part in "qkv"]
    whole = hl.gauss_newton(model, F.cross_entropy, batch, layer="blocks.0.qkv")
    units = torch.eye(whole.shape[0], dtype=torch.float64)
    for layer, part in zip(found.layers, range(3)):
        rows = slice(part * 1024, (part + 1) * 1024)
        dense = whole.matmat(units[:, rows])[rows]
        assert layer.norm == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-6)
        assert abs(layer.trace - dense.trace().item()) < 4 * layer.trace_error and layer.shape == (32, 32)
    query, key, value = (layer.norm for layer in found.layers)
    assert max(query, key) < 0.5 * value
    with pytest.raises(ValueError, match="96 rows: they cannot be split into 5"):
        hl.report(model, F.cross_entropy, batch, split={"*.qkv": 5})
    with pytest.raises(ValueError, match="no layer to split is called 'qqv'"):
        hl.report(model, F.cross_entropy, batch, split={"qqv": 3})


def test_factored_rows_are_those_of_the_block():
    model = hl.MLP(4, 6, 2, 3).double()
    batch = torch.randn(5, 4, dtype=torch.float64, generator=seeded()), torch.tensor([0, 1, 2, 0, 1])
    conv = nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 6, 2), nn.Flatten(), nn.Linear(18, 3)).double()
    for net, name in ((model, "layers.0"), (conv, "1")):
        block = hl.layer_blocks(net, F.cross_entropy, batch)[name]
        dense, size = block.matmat(torch.eye(block.shape[0], dtype=torch.float64)), block.shape[0] // 3
        for part in range(3):
            rows = block.rows(part, 3)
            own = dense[part * size:(part + 1) * size, part * size:(part + 1) * size]
            torch.testing.assert_close(rows.matmat(torch.eye(size, dtype=torch.float64)), own)
            torch.testing.assert_close(rows.trace(), own.trace())


@pytest.mark.parametrize("options, message", [
    ({"optimizer": "lion"}, "known: sgd, adam, adamw"), ({"settle": -1}, "whole number of passes"),
    ({"layers": []}, "layers is empty")])
def test_bad_options(digits, options, message):
    with pytest.raises(ValueError, match=message):
        hl.report(hl.MLP(64, 8, 2, 10), F.cross_entropy, digits.batch(8, seeded()), **options)


def test_the_command_line_asks_the_same(tmp_path, monkeypatch, capsys):
    from hessinit_lite.__main__ import main
    (tmp_path / "their_net.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), "
        "nn.Linear(8, 10))\n")
    monkeypatch.chdir(tmp_path)
    arguments = ["diagnose", "their_net:net", "--data", "digits", "--batch", "32", "--lr", "1e-3"]
    assert main(arguments) == 0
    assert "has seen no batch" in capsys.readouterr().out
    assert main([*arguments, "--settle", "20", "--optimizer", "adamw"]) == 0
    shown = capsys.readouterr().out
    assert "averaged over 20 passes" in shown and "lr = 0.001 is below the critical rate" in shown


LANGUAGE_MODEL = '''
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, tokens, scale):
        return {"logits": self.head(torch.tanh(scale * self.table(tokens)))}


def net():
    return Net()


def text():
    tokens = torch.arange(40).reshape(4, 10) % 11
    targets = (tokens + 1) % 11
    targets[0, :3] = -100
    return {"tokens": tokens, "scale": torch.ones(4, 1, 1)}, targets
'''


def test_the_command_line_reads_named_inputs_and_sequences(tmp_path, monkeypatch, capsys):
    from hessinit_lite.__main__ import main
    (tmp_path / "their_text.py").write_text(LANGUAGE_MODEL)
    monkeypatch.chdir(tmp_path)
    arguments = ["diagnose", "their_text:net", "--data", "their_text:text"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "table" in shown and "head" in shown and "4 samples" in shown
    for wrong, words in ((["--shape", "2,5"], "--shape is for one tensor"),
                         (["--loss", "mse"], "targets in the shape of the outputs (4, 10, 11)")):
        assert main([*arguments, *wrong]) == 2
        assert words in capsys.readouterr().err
