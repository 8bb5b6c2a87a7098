"""What Adam meets: its own sharpness, the critical rate, how much the layers' spectra differ."""

import math
import re
from dataclasses import dataclass, field

import torch

from ..critical import critical_rate
from ..preconditioner import adam_preconditioner, preconditioned
from ..spectrum import spectral_density, top_eigenvalues
from .findings import Finding

#: Stable on a quadratic: rate · λ_P below (2 + 2β₁) / (1 − β₁) at Adam's usual β₁ = 0.9.
LIMIT = (2 + 2 * 0.9) / (1 - 0.9)
SHARE = 0.25  #: of the critical rate that is proposed: half of where a parabola is lowest
MOVE = 0.1  #: of the weights' own size: Adam moves each weight by its rate, and no more is proposed
MIXED = 0.5  #: a distance of the layers' spectra that is worth a word
_ATTENTION = re.compile(
    r"att(e?n)|qkv|in_proj|(^|[._])([qkv]|query|key|value)(_proj)?([._]|$)", re.I
)


@dataclass
class AdamCurvature:
    """Of Adam's first step, for the weights that it moves: `.adam` of a report.

    Example:
        >>> model, batch = hl.MLP(64, width=16, depth=3, out_features=10), hl.digits().batch(100)
        >>> found = hl.report(model, F.cross_entropy, batch, optimizer="adam").adam
        >>> 0 < found.rate < found.critical_rate, found.warmup(found.rate)
        (True, 1)
    """

    eigenvalue: float | None  #: λ_P, the largest of P^-½HP^-½; None if it was not found
    critical_rate: float | None  #: at which that step brings the loss back; None if not found
    rate: float | None  #: to start from; None where nothing is proposed
    heterogeneity: float  #: mean Jensen–Shannon distance of the layers' spectra, 0 to 1
    parts: dict = field(repr=False)  #: of a Transformer: {part: (smallest, largest norm)}

    def warmup(self, lr):
        """Steps of a linear warm-up to `lr` that begins at a quarter of the critical rate.

        λ_P has no say: at the start it is often far above 38/lr for the sake of a few weights whose
        gradients happen to be small, and training does not mind (chapter 20).
        """
        return max(1, math.ceil(lr / (SHARE * self.critical_rate))) if self.critical_rate else 1


def proposed_rate(critical, weights, loss, chance):
    """A share of the critical rate, at most a tenth of the smallest of the weights' deviations.

    None without a finite critical rate, and for a loss far above chance: it falls at almost any
    step, and says nothing of those to come.
    """
    if not critical or math.isinf(critical) or chance and loss > 3 * chance:
        return None
    sizes = torch.stack([weight.detach().std(correction=0) for weight in weights]).tolist()
    return min([SHARE * critical, *(MOVE * size for size in sizes if size > 0)])


def first_step(model, loss_fn, batch, operator, generator):
    """(λ_P, critical rate, notes) of Adam's first step; None and a note where one is not had."""
    notes, found = [], {}
    moves = operator.gradient != 0  # a weight without a gradient stays, and its P says nothing
    diagonal = adam_preconditioner(operator).where(moves, 1e30)

    def sharpness():
        inner = preconditioned(operator, diagonal)
        values, _ = top_eigenvalues(inner, 1, 0.02, generator, max_products=500, which="LA")
        return float(values[0])

    questions = {
        "the preconditioned sharpness": sharpness,
        "the critical rate": lambda: critical_rate(model, loss_fn, batch, "adam").rate,
    }
    for name, ask in questions.items():
        try:
            found[name] = ask()
        except ValueError as error:
            found[name] = None
            notes.append(Finding("note", f"{name} of Adam's first step was not found: {error}"))
    return *found.values(), notes


def curvature_density(block, generator):
    """Where the trace of a layer's block sits: its share by size of the eigenvalue, [bins].

    Bins are an eighth of a decade wide, from 1e-20 to 1e10. Eigenvalues weigh as much as they are
    large: the zeros, nearly all of them in a wide layer, would make all layers look alike.
    """
    nodes, weights = spectral_density(block, 12, 2, generator)
    share = (nodes.clamp(min=0) * weights).flatten()
    share = share / share.sum().clamp(min=torch.finfo(share.dtype).tiny)
    bins = torch.arange(-20, 10, 0.125, dtype=share.dtype, device=share.device)
    places = nodes.flatten().clamp(min=1e-30).log10()
    smooth = torch.exp(-8 * (bins[:, None] - places).square()) @ share  # a quarter of a decade
    return smooth / smooth.sum().clamp(min=torch.finfo(share.dtype).tiny)


def mean_distance(densities):
    """The mean Jensen–Shannon distance (base 2) of all pairs of densities: 0 if all are alike."""
    if len(densities) < 2:
        return 0.0

    def entropy(p):
        return -torch.special.xlogy(p, p).sum(-1) / math.log(2)

    a, b = torch.combinations(torch.arange(len(densities))).T.to(densities[0].device)
    p = torch.stack(densities)
    divergence = entropy((p[a] + p[b]) / 2) - (entropy(p[a]) + entropy(p[b])) / 2
    return float(divergence.clamp(min=0).sqrt().mean())


def parts_of(layers):
    """{part of a Transformer: names of its layers}, by class and name; empty for other nets."""
    attention = {layer.name for layer in layers if _ATTENTION.search(layer.name)}
    attention |= {each.name for each in layers if each.kind == "MultiheadAttention"}
    # The projection behind queries, keys and values is a part of the attention, however called.
    found = {"embedding": [], "attention": [], "MLP": [], "head": []}
    if not attention:
        return {}
    inside = {name.rpartition(".")[0] for name in attention}
    inside |= {name.rpartition(".")[0] for name in inside}  # q, k and v may be rows of one weight
    for number, layer in enumerate(layers):
        block = layer.name.rpartition(".")[0]
        named = layer.name.rpartition(".")[2]
        if layer.name in attention:
            part = "attention"
        elif layer.kind == "Embedding":
            part = "embedding"
        elif layer.kind != "Linear":
            part = "embedding" if number < 2 else ""
        elif named in ("out", "out_proj", "proj", "c_proj", "o_proj") and block in inside:
            part = "attention"
        else:
            deep = any(character.isdigit() for character in layer.name)
            part = "MLP" if deep else "embedding" if not found["attention"] else "head"
        if part:
            found[part].append(layer.name)
    return {part: names for part, names in found.items() if names}


def findings_of_adam(result, lr, optimizer):
    """What an `AdamCurvature` means for training with `optimizer` at the rate `lr` (or None)."""
    adam, findings = result.adam, []

    def say(level, text, advice=""):
        findings.append(Finding(level, text, advice))

    critical, rate = adam.critical_rate, adam.rate
    if critical == math.inf:
        say("note", "Adam's first step lowers the loss at any rate that was tried")
    steps = adam.warmup(lr or rate or 0)
    warm = f"a linear warm-up of at least {steps} steps" if steps > 1 else "no warm-up"
    why = f"so that the first step keeps to a quarter of the critical rate {critical or 0:.3g}"
    if lr and critical and lr > critical:
        advice = f"{warm}, {why}" + (f"; or lr near {rate:.2g}" if rate else "")
        text = (
            f"lr = {lr:g} is above the critical rate {critical:.3g}: {optimizer}'s first step at it"
        )
        say("warning", f"{text} raises the loss", advice)
    elif lr and critical:
        text = f"lr = {lr:g} is below the critical rate {critical:.3g}: the first step needs {warm}"
        say("note", text + (f", {why}" if steps > 1 else ""))
    elif rate:
        text = f"a rate to start from is {rate:.2g}, the smaller of a quarter of the critical rate "
        say("note", text + "and a tenth of the smallest layer's weights")
    elif critical and critical < math.inf:
        say("note", "no rate is proposed: with a loss this far above chance it falls at almost any")
    if adam.eigenvalue and adam.eigenvalue * (lr or rate or 0) > LIMIT:
        text = f"38/λ_P = {LIMIT / adam.eigenvalue:.2g} is below that rate: no fault at the start, "
        say("note", text + "where P knows one gradient; λ_P falls as soon as it knows a few")
    if adam.heterogeneity > MIXED:
        say(
            "note",
            f"the layers' spectra differ much (mean Jensen–Shannon distance "
            f"{adam.heterogeneity:.2f}): one rate of plain gradient descent hardly suits all "
            f"layers, and {optimizer}, which rescales weight by weight, is a fit choice",
        )
    if adam.parts:
        spans = (f"{part} {low:.2g} to {high:.2g}" for part, (low, high) in adam.parts.items())
        say("note", f"norms by part of the Transformer: {', '.join(spans)}")
    return findings
