"""What the measured numbers mean, in words: findings and advice."""

import math
from dataclasses import dataclass

#: A layer whose norm is below this share of the whole Hessian's hardly moves at any stable learning
#: rate: an error along an eigenvector of curvature h shrinks by 1 − ηh a step, and η < 2/λ.
SLOW = 1e-4
#: A net whose outputs differ between samples by a smaller share of their size has lost its signal.
#: Its λ is small for that reason and grows once training brings the signal back. Dense ReLU nets
#: that were looked at have 0.3 or more from He's rule or hessian_init_, at most 0.1 from torch's
#: default at depth 5 or more. Nets with norms are not judged by it: a vision Transformer starts
#: with less, and trains.
VARIES = 0.15
SPAN = 1e3  #: norms or signals whose largest and smallest differ by more are worth a warning


@dataclass
class Finding:
    """One observation in plain words, and what to do about it.

    `level` is "problem", "warning" or "note".

    Example:
        >>> model, batch = hl.MLP(64, width=16, depth=3, out_features=10), hl.digits().batch(100)
        >>> found = hl.report(model, F.cross_entropy, batch, lr=1e3)
        >>> found.findings[0].level
        'problem'
    """

    level: str
    text: str
    advice: str = ""


def listed(names, most=4):
    """The first `most` names in a row, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def findings_of(result, lr, optimizer, told=()):
    """`told`, and what a `Measurement` means for `optimizer` at the rate `lr` (or None)."""
    findings, layers, scale, best = list(told), result.layers, result.eigenvalue, result.best_step
    plain = optimizer == "sgd"
    solve = "hl.hessian_init_(model, loss_fn, batch) levels the norms before training"

    def say(level, text, advice=""):
        findings.append(Finding(level, text, advice))

    zeros, waking, extreme = result.zeros, set(result.waking), result.extreme
    behind = result.waking
    if zeros and (behind or result.variation < VARIES):
        text = f"{listed(zeros)} is exactly zero"
        if behind:
            text += f", so that {listed(behind)} has no gradient yet: it wakes after one step"
        say(
            "note",
            text + "; λ and the norms are those of this moment, and change with the first steps",
            "nothing to mend; train a few steps and ask again",
        )
    dead = [layer for layer in layers if layer.idle == 1 and layer.name not in waking]
    loops = [layer for layer in dead if layer.name.rpartition(".")[2].startswith("weight_hh_")]
    for some, advice in (
        (
            [layer for layer in dead if layer not in loops],
            "a dead ReLU, a detached path or weights of zero: draw new weights "
            "(hl.init_(model, 'he')), lower the biases or use leaky_relu",
        ),
        (
            loops,
            "its states are zero at every step that the loss sees: a direction that is read behind "
            "its first step only? Take its output at the other end of the sequence, or h_n",
        ),
    ):
        if some:
            names = listed(each.name for each in some)
            text = f"no gradient at all in {names}: dead, nothing there can be learnt"
            say("problem", text, advice)
    layers = [layer for layer in layers if layer.name not in waking]
    flat = [layer for layer in layers if layer.norm == 0 and layer not in dead]
    if flat:
        level, why, advice = "problem", "", ""
        if result.chance is None:  # it may be any loss
            level, why = "warning", "linear in the outputs (l1_loss, nll_loss, a critic's mean) or "
            advice = "give logits to F.cross_entropy, or ask for hl.hessian; else "
        say(
            level,
            f"a gradient but no curvature in {listed(each.name for each in flat)}: the loss is "
            f"{why}saturated, a probability of 1 for one class",
            f"{advice}smaller weights: {solve}",
        )
    alive = [layer for layer in layers if layer not in dead and layer not in flat]
    slow = [layer for layer in alive if scale > 0 and layer.norm < SLOW * scale]
    if slow:
        least = min(layer.norm for layer in slow)
        end = (
            "it will not move"
            if plain
            else f"{optimizer} moves it all the same, since it rescales the steps"
        )
        say(
            "problem" if plain else "note",
            f"{listed(each.name for each in slow)}: norm down to {least:.1g}, that of the whole "
            f"Hessian is {scale:.2g}; in plain gradient descent at the best safe rate 1/λ an "
            f"error there shrinks by {least / scale:.0e} of itself a step: {end}",
            solve if plain else "",
        )
    if len(alive) > 1:
        span = max(layer.norm for layer in alive) / min(layer.norm for layer in alive)
        if span > SPAN:
            say(
                "warning" if plain else "note",
                f"the layers' norms span {math.log10(span):.1f} orders of magnitude: "
                "no single learning rate of plain gradient descent suits them all",
                solve + "; Adam-like optimizers hide part of it" if plain else "",
            )
    idle = [f"{layer.name} ({layer.idle:.0%})" for layer in alive if layer.idle > 0.5]
    if idle:
        say(
            "warning",
            f"more than half of the units get no gradient on this batch in {listed(idle)}",
            "units that are off for every sample: smaller biases, another seed, leaky_relu",
        )
    signals = [layer for layer in layers if layer.signal]
    if len(signals) > 1:
        low, high = (
            min(signals, key=lambda layer: layer.signal),
            max(signals, key=lambda layer: layer.signal),
        )
        if high.signal > SPAN * low.signal:
            say(
                "warning",
                f"the signal spans {math.log10(high.signal / low.signal):.1f} orders of magnitude, "
                f"from {low.signal:.1g} ({low.name}) to {high.signal:.1g} ({high.name})",
                "a scheme with the activation's gain: hl.init_(model, 'forward')",
            )
    if result.variation < VARIES and result.samples > 1 and not zeros and not result.normed:
        say(
            "warning",
            f"the outputs hardly depend on the input: only {result.variation:.1g} of their size "
            "differs between samples; λ is small for that reason and grows in training, so that "
            "2/λ is too bold",
            "the signal is lost on the way (biases may hide that); " + solve,
        )
    if result.chance:
        if result.loss > 3 * result.chance:
            say(
                "warning",
                f"the loss {result.loss:.3g} is far above {result.chance:.3g}, that of outputs "
                "that ignore the input: confident and wrong",
                "smaller weights in the last layer, or standardized inputs",
            )
        elif abs(result.loss / result.chance - 1) < 0.02:
            say(
                "note",
                f"the loss {result.loss:.3g} is at chance ({result.chance:.3g}): as it should be "
                "before training; after training it means that nothing was learnt",
            )
    if extreme < 0 < scale:
        say(
            "note",
            f"the Hessian's eigenvalue of largest magnitude is negative ({extreme:.3g}): a "
            "saddle; λ above is the largest positive one",
        )
    elif extreme < 0:
        say(
            "note",
            f"the Hessian has no positive eigenvalue (the largest in magnitude is {extreme:.3g}): "
            "no rate is unstable by curvature alone",
        )
    if lr is not None and plain and lr > result.stability_limit:
        say(
            "problem",
            f"lr = {lr:g} is above 2/λ = {result.stability_limit:.3g}: plain full-batch gradient "
            "descent is unstable here; the loss rises at first, and then finds flatter ground or "
            "diverges",
            f"lr near 1/λ = {best:.3g}, a warm-up, or hl.hessian_init_ with a smaller target",
        )
    elif lr is not None and plain and lr < 0.01 * best < math.inf:
        say(
            "note",
            f"lr = {lr:g} is {best / lr:.0f} times below 1/λ = {best:.3g}: safe and slow",
            "a larger rate, or a larger target of hl.hessian_init_",
        )
    if not any(finding.level in ("problem", "warning") for finding in findings):
        say("note", "nothing in the curvature speaks against training")
    return findings
