"""Cookbook: rates that `report` proposes for three nets of other people's making, tried by AdamW.

The nets are made of torch's own parts under the names that are usual for them: fused queries, keys
and values, activations that are functions, torch's encoder, batch norm. Each is trained at the
proposed rate and warm-up, and at rates that many take unseen.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ...diagnosis.report import report
from ...schemes import init_
from ..corpus import python_text
from ..data import digits
from ..probes import seeded
from ..records import answered, fastest_device, label, rounded
from ..results import Results
from ..training import mini_batches
from .gpt import text

WIDTH, HEADS, DEPTH, CONTEXT, VOCABULARY = 32, 4, 2, 32, 128
#: {name: (rate, steps of linear warm-up)}
USUAL = {"3e-4": (3e-4, 100), "3e-3": (3e-3, 100)}
MARKS = {"quick": (20,), "full": (100, 400)}  #: steps after which the held-out loss is taken
SEEDS = {"quick": range(1), "full": range(5)}
SETTLE = 20  #: passes of a batch through batch norm, before it is measured


class Found(NamedTuple):
    """What the page shows."""

    answers: dict  #: {net: [answer of `experiment`, one a seed]}
    marks: tuple  #: of the losses
    stored: list  #: the Results behind it


class TextBlock(nn.Module):
    """Pre-norm block, as in teaching GPTs: fused q, k, v, GELU as a function."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.c_fc, self.c_out = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, z):
        parts = self.c_attn(self.ln_1(z)).unflatten(-1, (3, HEADS, -1))
        q, k, v = parts.movedim(-3, 0).transpose(2, 3)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        z = z + self.c_proj(seen.transpose(1, 2).flatten(2))
        return z + self.c_out(F.gelu(self.c_fc(self.ln_2(z))))


class TextNet(nn.Module):
    """Letters [N, T] to logits [N, VOCABULARY, T]; one table for tokens and head; GPT-2's start."""

    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.h = nn.Sequential(*(TextBlock() for _ in range(DEPTH)))
        self.ln_f, self.lm_head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.wte.weight
        for name, p in self.named_parameters():
            if p.ndim > 1:
                ends = name.endswith(("c_proj.weight", "c_out.weight"))
                nn.init.normal_(p, std=0.02 / (2 * DEPTH) ** (0.5 * ends))

    def forward(self, letters):
        z = self.wte(letters) + self.wpe.weight[: letters.shape[1]]
        return self.lm_head(self.ln_f(self.h(z))).mT


class PatchNet(nn.Module):
    """Digits [N, 64] as patches of 2×2 and a class token through torch's encoder, to [N, 10]."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.places = nn.Parameter(0.02 * torch.randn(1, 17, WIDTH))
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, **options)
        self.encoder = nn.TransformerEncoder(
            layer, DEPTH, nn.LayerNorm(WIDTH), enable_nested_tensor=False
        )
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, pixels):
        z = self.patches(pixels.unflatten(1, (1, 8, 8))).flatten(2).mT
        z = torch.cat([self.token.expand(len(z), -1, -1), z], dim=1) + self.places
        return self.head(self.encoder(z)[:, 0])


class NormBlock(nn.Module):
    """f(batch norm(conv f(batch norm(conv z))) + shortcut), ReLU as a function."""

    def __init__(self, d_in, d_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(d_in, d_out, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(d_out, d_out, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(d_out), nn.BatchNorm2d(d_out)
        self.shortcut = nn.Conv2d(d_in, d_out, 1, stride, bias=False)

    def forward(self, z):
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(z)))))
        return F.relu(branch + self.shortcut(z))


class NormNet(nn.Module):
    """A ResNet with batch norm, digits [N, 64] to [N, 10]."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.layers = nn.Sequential(NormBlock(8, 16, 2), NormBlock(16, 32, 2))
        self.fc = nn.Linear(32, 10)

    def forward(self, pixels):
        z = F.relu(self.bn(self.conv(pixels.unflatten(1, (1, 8, 8)))))
        return self.fc(self.layers(z).mean((2, 3)))


#: {name: (class, scheme that draws its layers or None, data, samples of a mini-batch)}
NETS = {
    "GPT": (TextNet, None, python_text, 8),
    "vision Transformer": (PatchNet, None, digits, 32),
    "ResNet, batch norm": (NormNet, "he", digits, 32),
}


def start(name, seed, device="cpu"):
    """One of NETS with its first weights, drawn on the CPU, on the device."""
    build, scheme, _, _ = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
    if scheme:
        init_(model, scheme, generator=seeded(seed))
    return model.to(device)


def trained(name, seed, rate, warmup, marks, device="cpu"):
    """AdamW from one start; the held-out loss after so many steps, floats, inf for nan."""
    model = start(name, seed, device)
    _, _, load, size = NETS[name]
    data = load().to(device)
    (inputs, targets), held_out = data.train, [part[:256] for part in data.test]
    optimizer = torch.optim.AdamW(model.parameters())
    order, losses = mini_batches(len(inputs), size, seed, device), []
    for step in range(1, max(marks) + 1):
        rows = next(order)
        loss = F.cross_entropy(model(inputs[rows]), targets[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate * min(1, step / warmup)
        optimizer.step()
        if step in marks:
            with torch.no_grad():
                last = float(F.cross_entropy(model.eval()(held_out[0]), held_out[1]))
            losses.append(last if math.isfinite(last) else math.inf)
            model.train()
    return losses


def asked(name, seed, device="cpu"):
    """The CurvatureReport of a start, for AdamW, on one mini-batch."""
    _, _, load, size = NETS[name]
    split = {"*.c_attn": 3} if name == "GPT" else None
    return report(
        start(name, seed, device),
        F.cross_entropy,
        load().batch(size, seeded(seed)),
        optimizer="adamw",
        split=split,
        settle=SETTLE,
        rtol=1e-2,
    )


def experiment(name, seed, marks, device="cpu"):
    """Ask the report, train as it proposes and as usual.

    Returns:
        {"rate", "warmup": proposed, "findings": [[level, text]], "losses": {arm: one a mark}}.
    """
    told = asked(name, seed, device)
    rate, findings = told.adam.rate, [[each.level, each.text] for each in told.findings]
    arms = {"proposed": (rate, told.adam.warmup(rate))} | USUAL
    losses = {
        arm: rounded(trained(name, seed, *chosen, marks, device)) for arm, chosen in arms.items()
    }
    (rate,) = rounded([rate])
    return {
        "rate": rate,
        "warmup": arms["proposed"][1],
        "findings": findings,
        "losses": losses,
    }


def run(size="quick", progress=False):
    """Compute what is not stored yet, and return a Found.

    Args:
        size: "quick" (one seed, 20 steps) or "full" (five seeds, 400 steps).
        progress: show bars.

    Raises:
        ValueError: for an unknown size.
    """
    return _found(size, True, progress)


def stored():
    """What is stored of the full size, a Found; nothing is computed."""
    return _found("full", False, False)


def _found(size, compute, progress):
    device, fresh = fastest_device(), None if compute else False
    results = Results("cookbook-practice", size, fresh=fresh)
    known = {
        each.partition(" ")[0]: each for each in results.data()
    }  # the text follows Python's version

    def source(setting):
        name = "python_text" if setting["name"] == "GPT" else "digits"
        if not compute:
            return known.get(name)
        return text() if name == "python_text" else label(name)

    results.data_of = source
    function = functools.partial(experiment, device=device)
    answers = {}
    for name in NETS:
        settings = [{"name": name, "seed": s, "marks": list(MARKS[size])} for s in SEEDS[size]]
        pairs = answered(results, function, settings, compute, device, progress)
        answers[name] = [answer for _, answer in pairs]
    return Found(answers, MARKS[size], [results])
