"""The paper's tables, figures and comparing claims, each beside stored answers of ours.

A rule is written before its numbers are looked up, and names the part that each bool is about. What
was not run has no verdict.
"""

import math

import torch

from ...tables import formatted
from ..experiments import cifar, cost, errors, mnist, panels, redraws, words
from ..results import SHIPPED, Results
from ..statistics import interval
from . import LAYERS, one, rows, title
from .verdict import FEWEST, Line, not_run, with_runs

FIVE = ("conv1", "conv2", "conv3", "conv4", "dense")
MNIST, CIFAR = "MNIST", "CIFAR-10, recompressed, 20,000 pictures"
COMMAND = "python -m hessinit_lite.lab.experiments"


def close(reported, ours, share=0.1):
    """Is a reported number within this share of ours?"""
    return abs(reported / ours - 1) < share


def medians_by_layer(errors):
    """The layers' medians of errors [seeds, times, layers], over the seeds and times together."""
    return errors.flatten(0, 1).quantile(0.5, dim=0)


def table_1():
    """Both rows, over redrawn weights."""
    found, lines = redraws.stored().rows, []
    for row, text in (
        ("row 1", "components of the loss/output gradient are dependent"),
        ("row 2", "loss/Output6 and Output6/Output5 are dependent"),
    ):
        need = rows("Table 1", row, "dependent seeds")[0].value
        text += f": {need} of {rows('Table 1', row, 'seeds')[0].value} seeds"
        seeds = {f: int((of[row][:, 1] < 0.05).sum()) for f, of in found.items()}
        r = {f: float(of[row][:, 0].mean()) for f, of in found.items()}
        many = min(len(of[row]) for of in found.values())
        here = "; ".join(f"{f}: {n} of {many} seeds, mean r {r[f]:.3f}" for f, n in seeds.items())
        which = "all 45 pairs (Bonferroni)" if row == "row 1" else "the pair, read as a weight,"
        rule = f"{which} significant at 95 % in {need} seeds or more: " + ", ".join(seeds)
        met = tuple(n >= need for n in seeds.values())
        width = redraws.settings_of("full")[0]["width"]
        sample = f"784-{width}-{width}-10, one {MNIST} picture a seed, {many} seeds"
        page = "06-what-variance-cannot-see"
        lines.append(Line(f"Table 1, {row}", text, here, rule, met, page, sample))
    return lines


def table_2():
    """Five rows and the claim that goes with them."""
    found, lines = mnist.stored(), []
    fewest = [
        min(len(of["epoch"]) for of in each.values())
        for each in (found.table, found.shorter, found.common[60_000])
    ]
    page, seeds = "12-mnist", f"{fewest[0]} seeds (42,000 pictures: {fewest[1]}"
    sample = f"{MNIST}, batches of {mnist.BATCH}, {seeds})"
    for run in mnist.PAPER:
        reported = one("Table 2", " ".join(run), "loss after 2 epochs").value
        ours = [float(of[(*run, 0.01)]["epoch"].mean()) for of in (found.table, found.shorter)]
        here = f"{ours[0]:.3f} on 60,000 pictures, {ours[1]:.3f} on 42,000"
        rule = "reported within a tenth of ours: 60,000 pictures, 42,000"
        met = tuple(close(reported, each) for each in ours)
        name = f"Table 2, {' '.join(run)}"
        lines.append(Line(name, f"loss {reported:.3f}", here, rule, met, page, sample))
    reported = one("Table 2", "relu Hessian-driven", "loss after 2 epochs").value
    driven = {
        run[1]: of["epoch"]
        for run, of in found.table.items()
        if run[0] == "relu" and run[1].split()[0] in ("spectral", "frobenius", "gradient")
    }
    common = {run[1]: of["epoch"] for run, of in found.common[60_000].items()}
    at_one = float(driven["spectral 1"].mean())
    both = {"d": driven, "c": common}
    best = {kind: min(of, key=lambda s, of=of: of[s].mean()) for kind, of in both.items()}
    lowest = [float(of[best[kind]].mean()) for kind, of in (("d", driven), ("c", common))]
    here = f"norm 1: {at_one:.3f}; best of {len(driven)} norms and targets {lowest[0]:.3f}; best "
    here += f"of {len(common)} common deviations {lowest[1]:.3f} ({best['c']})"
    rule = "reported within a tenth of ours: norm 1, the best target, the best deviation"
    met = tuple(close(reported, each) for each in (at_one, *lowest))
    text = f"loss {reported:.3f}"
    sample = f"{MNIST}, batches of {mnist.BATCH}, {fewest[0]} seeds (deviations: {fewest[2]})"
    lines.append(Line("Table 2, relu Hessian-driven", text, here, rule, met, page, sample))
    others = min(float(found.table[(*run, 0.01)]["epoch"].mean()) for run in mnist.PAPER)
    hessian = {k: v for k, v in found.table.items() if k[1] in driven or k[1] == "he"}
    against = mnist.minus_he(hessian, comparisons=len(driven))
    better = [start for start, each in against.items() if each.high < 0]
    here = f"norm 1: {at_one:.3f}, best of the other rows {others:.3f}; {len(better)} of "
    here += f"{len(driven)} targets below He's, intervals for all together"
    rule = "norm 1 has the lowest mean; some target is below He's scheme (Bonferroni)"
    met = at_one < others, bool(better)
    text = "Hessian-driven weights give much better results"
    lines.append(Line("Table 2, claim", text, here, rule, met, page, sample))
    return lines


def _near(item, panel, values, within=1.0):
    """How many layers' medians lie within so many decades of the reported modes, or None."""
    if values is None:
        return None
    count = 0
    for j, layer in enumerate(LAYERS):
        median = float(values[:, j].median())
        mode = one(item, panel, "mode of log10 value", layer).value
        count += median > 0 and abs(math.log10(median) - mode) <= within
    return count


DENSITY_RULE = "medians within a decade of the reported modes: in 5 of 6 layers; at least in 3 of 6"


def _density_line(item, panel, case, found, widths, wanted):
    counts = {w: _near(item, panel, found.values.get((*case, w))) for w in widths}
    counts = {w: n for w, n in counts.items() if n is not None}
    name = f"{item}, {title(item, panel)}: values"
    if not counts:
        return not_run(name, wanted, f"{COMMAND} panels --size full", "13-cifar")
    draws = min(len(found.values[(*case, w)]) for w in counts)
    best = max(counts.values())
    here = ", ".join(f"width {w}: {n} of 6 layers within a decade" for w, n in counts.items())
    ranges = [found.values[(*case, w)].median(0).values for w in counts]
    here += "; medians " + ", ".join(f"{v.min():.1g} to {v.max():.1g}" for v in ranges)
    sample = f"{CIFAR}, {draws} redraws"
    return Line(name, wanted, here, DENSITY_RULE, (best >= 5, best >= 3), "13-cifar", sample)


def _modes(item, panel):
    modes = [row.value for row in rows(item, panel, "mode of log10 value")]
    return f"modes {10 ** min(modes):.1g} to {10 ** max(modes):.1g}"


#: Figure 1's Hessian-driven panels, each with a rival of its activation.
RIVALS = ("a", "b"), ("d", "c"), ("d", "e")


def _ends_of_figure_1(found):
    """{panel: losses at the end, [seeds]} of what was run at width 8."""
    cases = {panel: (*case, 8) for panel, case in panels.FIGURE_1.items()}
    return {panel: found.ends[case] for panel, case in cases.items() if case in found.ends}


def figures_1_2():
    """Densities panel by panel, losses of Figure 2, the order of the losses of Figure 1."""
    found, lines = panels.stored(), []
    for panel, case in panels.FIGURE_1.items():
        lines.append(_density_line("Figure 1", panel, case, found, (8,), _modes("Figure 1", panel)))
    ends = _ends_of_figure_1(found)
    reported = {p: one("Figure 1", p, "loss at the end").value for p in panels.FIGURE_1}
    text = ", ".join(f"{p} {value:.2f}" for p, value in reported.items())
    if len(ends) == len(panels.FIGURE_1):
        here = ", ".join(f"{p} {float(each.mean()):.2f}" for p, each in ends.items())
        rule = "as in the figure, with each seed: " + ", ".join(
            f"{p} ends {'above' if reported[p] > reported[q] else 'below'} {q}" for p, q in RIVALS
        )
        seeds = min(len(each) for each in ends.values())
        met = tuple(
            all((x > y) == (reported[p] > reported[q]) for x, y in zip(ends[p], ends[q]))
            for p, q in RIVALS
        )
        sample = f"{CIFAR}, width 8, 200 steps of batches of 64, seeds: {seeds}"
        line = Line("Figure 1, losses", text, here, rule, met, "13-cifar", sample)
        lines.append(with_runs(line, seeds))
    else:
        lines.append(not_run("Figure 1, losses", text, f"{COMMAND} panels --size full", "13-cifar"))
    for panel, case in panels.FIGURE_2.items():
        lines.append(
            _density_line("Figure 2", panel, case, found, (4, 8), _modes("Figure 2", panel))
        )
        lines.append(_figure_2_loss(panel, case, found))
    return lines


def _figure_2_loss(panel, case, found):
    name = f"Figure 2, deviation {panel}: loss"
    curves = {w: found.curves[(*case, w)] for w in (4, 8) if (*case, w) in found.curves}
    if panel == "0.0001":
        text = f"ends at {one('Figure 2', panel, 'loss at the end').value:.3f}: stays at ln 10"
    else:
        row = one("Figure 2", panel, "loss over steps")
        there = {int(x): y for x, y in zip(row.at, row.value) if 50 <= x <= 300}
        text = f"explodes: {row.value[-1]:.0e} at step {row.at[-1]}"
        if panel == "0.1":
            text = ", ".join(f"{y:.2f} at step {x}" for x, y in there.items())
    if not curves:
        return not_run(name, text, f"{COMMAND} panels --size full", "13-cifar")
    sample = f"{CIFAR}, batches of 64, " + ", ".join(
        f"width {w}, seeds: {len(each)}" for w, each in curves.items()
    )
    runs = sum(len(each) for each in curves.values())
    if panel == "0.25":
        lost = {w: int(found.ends[(*case, w)].isinf().sum()) for w in curves}
        high = {w: float(each[:, 0].nan_to_num(math.inf).median()) for w, each in curves.items()}
        here = ", ".join(
            f"width {w}: {lost[w]} of {len(curves[w])} diverge, first mean loss {high[w]:.2g}"
            for w in curves
        )
        rule = "every run diverges, or its first ten steps have a mean loss above 100; at one width"
        hit = [lost[w] == len(curves[w]) or high[w] > 100 for w in curves]
        line = Line(name, text, here, rule, (all(hit), any(hit)), "13-cifar", sample)
        return with_runs(line, runs)
    if panel == "0.0001":
        off = max(float((each - math.log(10)).abs().max()) for each in curves.values())
        rule = "all means of ten steps within 0.005 of ln 10"
        met = (off < 0.005,)
        line = Line(name, text, f"at most {off:.1e} off", rule, met, "13-cifar", sample)
        return with_runs(line, runs)
    ours = {
        w: {s: float(each[:, s // panels.PART - 1 : s // panels.PART + 1].mean()) for s in there}
        for w, each in curves.items()
    }
    near = {w: sum(close(there[s], each[s]) for s in there) for w, each in ours.items()}
    here = "; ".join(
        f"width {w}: {', '.join(f'{y:.2f}' for y in each.values())}" for w, each in ours.items()
    )
    steps = ", ".join(map(str, there))
    rule = f"loss within a tenth at steps {steps}: at all of them, at half; the better width"
    met = max(near.values()) == len(there), max(near.values()) >= len(there) / 2
    return with_runs(Line(name, text, here, rule, met, "13-cifar", sample), runs)


def figure_3():
    """LeNet5 on MNIST and on CIFAR-10."""
    found = cifar.stored()
    runs = [run for run in found.lenet_mnist if not run["standardize"]]
    values = torch.tensor([run["gradient"] for run in runs], dtype=torch.float64)
    losses = torch.tensor([run["loss"] for run in runs], dtype=torch.float64)
    steps, sample = runs[0]["steps"], f"{MNIST}, batches of 64, one epoch, {len(runs)} seeds"
    row, ratios = one("Figure 3", "right", "loss over steps"), {}
    for x, y in zip(row.at, row.value):
        nearest = min(range(1, len(steps)), key=lambda i: abs(steps[i] - x))
        if x >= 100 and abs(steps[nearest] - x) <= 10:
            ratios[x] = float(losses[:, nearest - 1 : nearest + 1].mean()) / y
    here = f"ours over theirs {min(ratios.values()):.2f} to {max(ratios.values()):.2f}"
    here += f" at {len(ratios)} steps"
    rule = "within a tenth at all compared steps from 100 on; from 400 on"
    met = (
        all(close(1, ratio) for ratio in ratios.values()),
        all(close(1, ratio) for x, ratio in ratios.items() if x >= 400),
    )
    page, lines = "13-cifar", []
    end = one("Figure 3", "right", "loss at the end").value
    text = f"{row.value[0]:.2f} to {end:.2f}"
    lines.append(Line("Figure 3, loss", text, here, rule, met, page, sample))
    names = runs[0]["layers"]
    most = {n: one("Figure 3", "left", "largest value", n).value for n in names}
    least = {n: one("Figure 3", "left", "smallest value", n).value for n in names}
    highest = max(most, key=most.get)
    inside = float(((values >= 0) & (values <= most[highest])).double().mean())
    tops = [names[int(each.amax(0).argmax())] for each in values]  # a name a seed
    here = f"{inside:.0%} within; largest in " + ", ".join(
        f"{name} ({tops.count(name)})" for name in dict.fromkeys(tops)
    )
    rule = f"nine tenths within 0 to {most[highest]:.2f}; the largest value in {highest} with most"
    rule += " of the seeds"
    met = inside >= 0.9, 2 * tops.count(highest) > len(tops)
    text = f"values up to {most[highest]:.2f}, the largest in {highest}"
    lines.append(Line("Figure 3, values", text, here, rule, met, page, sample))
    growth = values.amax(1) / values[:, 0]
    here = f"grow by factors {growth.median(0).values.min():.1f} to "
    here += f"{growth.median(0).values.max():.1f} by layer"
    rule = "every layer's median growth is tenfold or more; threefold"
    met = tuple(bool((growth.median(0).values >= by).all()) for by in (10, 3))
    factors = [most[n] / least[n] for n in names]
    text = f"every layer grows, by factors from {min(factors):.0f} to {max(factors):.0f}"
    lines.append(Line("Figure 3, growth", text, here, rule, met, page, sample))
    last = [run["loss"][-1] for run in found.lenet]
    here = f"loss {min(last):.2f} to {max(last):.2f} in the last of {len(found.lenet[0]['loss'])}"
    here += " parts of ten epochs"
    met = (min(last) < 1.3 * end,)
    text = f"the data are CIFAR-10: {end:.2f} after {row.at[-1]:.0f} steps"
    sample = f"{CIFAR}, batches of 32, one seed for each of {len(last)} scales of the pixels"
    rule = f"a loss below 1.3 times the reported one, {1.3 * end:.2f}, is reached"
    lines.append(Line("Figure 3, data", text, here, rule, met, page, sample))
    return lines


def figure_4():
    """EfficientNet, tanh, Glorot."""
    values, page, lines = panels.stored().tracked, "15-approximation", []
    there = [one("Figure 4", "cifar", "value over steps", f"conv{j + 1}").value for j in range(4)]
    means = [sum(each) / len(each) for each in there]
    text = f"cifar: {min(map(min, there)):.1f} to {max(map(max, there)):.1f}; means "
    text += ", ".join(f"{mean:.2f}" for mean in means)
    if values is None:
        lines.append(
            not_run("Figure 4, cifar", text, f"{COMMAND} panels --size full", "15-approximation")
        )
    else:
        ours = values.mean((0, 1))
        count = sum(0.5 < value / mean < 2 for value, mean in zip(ours.tolist(), means))
        here = "means " + ", ".join(f"{value:.2g}" for value in ours.tolist())
        rule = "means within a factor of 2 in all four layers; falling from layer to layer"
        met = count == 4, bool((ours.diff() < 0).all())
        sample = f"{CIFAR}, width 8, no batch norm, 16 steps, seeds: {len(values)}"
        line = Line("Figure 4, cifar", text, here, rule, met, page, sample)
        lines.append(with_runs(line, len(values)))
    for panel, data in (("fashion", "FashionMNIST"), ("SVHN", "SVHN")):
        ends = [row.value for row in rows("Figure 4", panel) if isinstance(row.value, list)]
        text = f"{min(map(min, ends)):.1f} to {max(map(max, ends)):.1f}"
        why = f"{data} is not at hand"
        lines.append(not_run(f"Figure 4, {panel}", text, why, page))
    return lines


def figures_5_6():
    """Errors at the start, the softmax outside and inside, and in training."""
    found, page, lines = errors.stored(), "15-approximation", []
    for panel, data, net in (("a", "cifar10", "EfficientNet"), ("c", "mnist", "ResNet-18")):
        reported = {n: one("Figure 5", panel, "median error", n).value for n in FIVE}
        text = f"medians {min(reported.values()):.2g} to {max(reported.values()):.2g}"
        near, parts = {}, []
        for (d, of, norm, softmax), each in found.starts.items():
            if (d, of) == (data, net):
                median = each.median(0).values
                ratio = median / torch.tensor(list(reported.values()), dtype=torch.float64)
                near[norm, softmax] = int(((ratio > 1 / 3) & (ratio < 3)).sum())
                parts.append(
                    f"softmax {softmax}{', batch norm' if norm else ''}: {median.min():.1g} to "
                    f"{median.max():.2g}"
                )
        name = f"Figure 5, {title('Figure 5', panel)}"
        if not near:
            lines.append(not_run(name, text, f"{COMMAND} errors --size full", page))
            continue
        draws = min(len(v) for k, v in found.starts.items() if k[:2] == (data, net))
        rule = "medians within a factor of 3 in four of five layers, softmax outside; inside"
        best = [
            max((n for (_, s), n in near.items() if s == softmax), default=0) >= 4
            for softmax in errors.SOFTMAX
        ]
        sample = f"{MNIST if data == 'mnist' else CIFAR}, width 8, selu, {draws} restarts or more"
        lines.append(Line(name, text, "; ".join(parts), rule, tuple(best), page, sample))
    reported = [one("Figure 5", "b", "median error", n).value for n in FIVE]
    text = f"medians {min(reported):.2g} to {max(reported):.2g}"
    lines.append(not_run("Figure 5, EfficientNet, Flowers", text, "Flowers not at hand", page))
    for net, panel in (
        ("ResNet-18", "ResNet"),
        ("EfficientNet", "EfficientNet"),
        ("GoogLeNet", "GoogleNet"),
    ):
        top = max(row.value for row in rows("Figure 6", panel, "largest error"))
        middle = max(row.value for row in rows("Figure 6", panel, "mean error"))
        text = f"errors up to {top:.2g}, means up to {middle:.2g}"
        if net not in found.steps:
            lines.append(not_run(f"Figure 6, {panel}", text, f"{COMMAND} errors --size full", page))
            continue
        each = found.steps[net]
        ours = medians_by_layer(each)
        rule = "largest error at most the reported one; the layers' medians are; last layer exact"
        met = (
            float(each.max()) <= top,
            float(ours.max()) <= top,
            float(each[:, :, -1].max()) < 1e-4,
        )
        here = f"largest {float(each.max()):.2g}, medians by layer up to {float(ours.max()):.2g}"
        sample = f"{CIFAR}, width 8, 100 steps, batches of 16, seeds: {len(each)}"
        line = Line(f"Figure 6, {panel}", text, here, rule, met, page, sample)
        lines.append(with_runs(line, len(each)))
    return lines


def remark_3():
    """Cost."""
    found = cost.stored().ratios
    text = "the cost is like that of back-propagation"
    if not found:
        return [not_run("Remark 3, p. 14", text, f"{COMMAND} cost --size full", "how-fast")]
    here = "in gradients: " + "; ".join(
        f"{net} {each['one layer']:.1f} (one layer), {each['all layers']:.1f} (all)"
        for net, each in found.items()
    )
    rule = "at most three gradients: one layer; all layers"
    met = tuple(
        all(each[what] <= 3 for each in found.values()) for what in ("one layer", "all layers")
    )
    sample = "batches of 64, medians of 7, on a busy CPU"
    return [Line("Remark 3, p. 14", text, here, rule, met, "how-fast", sample)]


def word_vectors():
    """The claim of the arXiv version's abstract."""
    tuned, judged = (
        words.by_start_and_rate(Results(file, "full", SHIPPED, fresh=False))
        for file in ("14-word2vec", "14-word2vec-judged")  # the second: seeds that chose no rate
    )
    best, lines = words.best_rates(tuned), []
    for start, what in (("norm 1", "the whole tables"), ("norm 1 a pair", "one pair's loss")):
        answers = judged if (start, best[start]) in judged else tuned
        losses, usual = (
            torch.tensor(answers[of, best[of]]["loss"]).double() for of in (start, "word2vec")
        )
        seeds = len(losses)
        gap = interval(losses - usual)
        here = f"norm 1 of {what}: loss {losses.mean():.3f}, word2vec's start {usual.mean():.3f}, "
        here += f"difference {mnist.signed(gap)}"
        rule = "at its best rate below word2vec's own start, by the interval over the seeds; mean "
        rule += "within 2 % of it"
        met = bool(gap.high < 0), bool(losses.mean() < 1.02 * usual.mean())
        text = "Word2Vec (arXiv abstract): the norm guides the scale"
        sample = f"docstrings, {seeds} seeds"
        lines.append(Line(f"abstract, {what}", text, here, rule, met, "14-word2vec", sample))
    return lines


def _claims_on_deviations(found):
    """What the text says of Figure 2's bad deviations: of the values, and of the losses."""
    modes = {
        p: {row.layer: row.value for row in rows("Figure 2", p, "mode of log10 value")}
        for p in panels.FIGURE_2
    }
    good = modes["0.1"]
    beyond = {
        "0.25": sum(modes["0.25"][layer] > good[layer] for layer in LAYERS),
        "0.0001": sum(modes["0.0001"][layer] < good[layer] - 6 for layer in LAYERS),
    }
    here = f"its figure: {beyond['0.25']} and {beyond['0.0001']} of {len(LAYERS)} layers"
    met, sample = [all(n == len(LAYERS) for n in beyond.values())], "readings"
    for width in (4, 8):
        ours = {p: found.values.get((*case, width)) for p, case in panels.FIGURE_2.items()}
        if all(each is not None for each in ours.values()):
            middle = {p: each.median(0).values for p, each in ours.items()}
            above = int((middle["0.25"] > middle["0.1"]).sum())
            below = int((middle["0.0001"] < 1e-6 * middle["0.1"]).sum())
            here += f"; ours, width {width}: {above} and {below}"
            met.append(above == below == len(LAYERS))
            sample += f", {min(map(len, ours.values()))} redraws"
    rule = "every layer's values larger at 0.25 than at 0.1, and a millionth at 0.0001: its figure"
    rule += ", ours at each width"
    text = "Hessians explode or vanish for bad deviations (p. 11-12)"
    explode = Line("claim, Figure 2", text, here, rule, tuple(met), "13-cifar", sample)
    last = {p: rows("Figure 2", p, "loss at the end") for p in ("0.1", "0.0001")}
    last = {p: each[0].value for p, each in last.items()}
    last["0.25"] = one("Figure 2", "0.25", "loss over steps").value[-1]
    here = "its figure: " + ", ".join(f"{p} {value:.3g}" for p, value in last.items())
    met, sample = [last["0.1"] == min(last.values())], "readings"
    for width in (4, 8):
        ends = {p: found.ends.get((*case, width)) for p, case in panels.FIGURE_2.items()}
        if all(each is not None and len(each) >= FEWEST for each in ends.values()):
            means = {p: float(each.mean()) for p, each in ends.items()}
            here += f"; ours, width {width}: " + ", ".join(f"{p} {v:.3g}" for p, v in means.items())
            others = [ends[p] for p in ends if p != "0.1"]
            met.append(all((ends["0.1"] < each).all() for each in others))
            sample += f"; {CIFAR}, width {width}, seeds: {min(map(len, ends.values()))}"
    rule = "the loss ends lowest at 0.1: its figure, ours with each seed"
    text = "tracking the Hessian allows faster convergence (p. 11)"
    return [explode, Line("claim, Figure 2", text, here, rule, tuple(met), "13-cifar", sample)]


def claims():
    """What the paper's text says of its figures: by its own figure, and by our runs."""
    lines, page = [], "errata"
    found = panels.stored()
    modes = {
        p: [row.value for row in rows("Figure 1", p, "mode of log10 value")]
        for p in panels.FIGURE_1
    }
    middle = {p: sum(each) / len(each) for p, each in modes.items()}
    ours = {
        p: float(found.values[(*case, 8)].median(0).values.log10().mean())
        for p, case in panels.FIGURE_1.items()
        if (*case, 8) in found.values
    }
    met = [all(middle[p] > middle[q] for p, q in RIVALS)]
    here = "its figure: " + ", ".join(f"{p} {v:.1f}" for p, v in middle.items())
    if len(ours) == 5:
        met.append(all(ours[p] > ours[q] for p, q in RIVALS))
        here += "; ours: " + ", ".join(f"{p} {v:.1f}" for p, v in ours.items())
    rule = "mean log10 value larger in the Hessian-driven panels: its figure, ours"
    text = "other schemes under-estimate the weights (p. 11)"
    lines.append(Line("claim, Figure 1", text, here, rule, tuple(met), page, "readings, redraws"))
    ends = {p: one("Figure 1", p, "loss at the end").value for p in panels.FIGURE_1}
    met = [all(ends[p] < ends[q] for p, q in RIVALS)]
    here = "its figure: " + ", ".join(f"{p} {v:.2f}" for p, v in ends.items())
    own, sample = _ends_of_figure_1(found), "readings"
    if len(own) == len(ends) and min(map(len, own.values())) >= FEWEST:
        met.append(all((own[p] < own[q]).all() for p, q in RIVALS))
        here += "; ours: " + ", ".join(f"{p} {float(each.mean()):.2f}" for p, each in own.items())
        sample = f"readings; {CIFAR}, width 8, seeds: {min(map(len, own.values()))}"
    rule = "the Hessian-driven losses end lower: its figure, ours with each seed"
    text = "a Hessian norm near 1 leads to faster convergence (p. 14)"
    lines.append(Line("claim, conclusion", text, here, rule, tuple(met), page, sample))
    lines += _claims_on_deviations(found)
    low = [row.value for row in rows("Figure 2", "0.1", "mode of log10 value")]
    inside = sum(0 <= mode <= 1 for mode in low)
    rule = "at least four of the panel's six modes lie between 1 and 10; one does"
    here = f"{inside} of 6 modes, {10 ** min(low):.0f} to {10 ** max(low):.0f}"
    text = "good deviations are concentrated between 1 and 10 (p. 12)"
    met = inside >= 4, inside >= 1
    lines.append(Line("claim, Figure 2", text, here, rule, met, page, "readings"))
    spread = {}
    for panel in panels.FIGURE_2:
        each = [row.value for row in rows("Figure 2", panel, "mode of log10 value")]
        spread[panel] = max(each) - min(each)
    here = ", ".join(f"{p}: {v:.1f} decades" for p, v in spread.items())
    rule = "the layers' modes are nearest to one another at 0.1"
    met = (spread["0.1"] == min(spread.values()),)
    text = "layers nearly align for a good deviation (p. 11-12)"
    lines.append(Line("claim, Figure 2", text, here, rule, met, "13-cifar", "readings"))
    largest = {
        "Figure 3": max(row.value for row in rows("Figure 3", "left", "largest value")),
        "Figure 4, SVHN": max(row.value for row in rows("Figure 4", "SVHN", "mean value")),
    }
    here = ", ".join(f"{name}: up to {value:.2g}" for name, value in largest.items())
    rule = "values below 2: Figure 3, the SVHN panel"
    met = tuple(value < 2 for value in largest.values())
    text = "Hessian norms are relatively small under popular schemes (p. 12)"
    lines.append(Line("claim, Figures 3, 4", text, here, rule, met, page, "readings"))
    starts = [row.value for row in rows("Figure 3", "left", "smallest value")]
    four = [min(row.value) for row in rows("Figure 4", quantity="value over steps")]
    here = f"smallest values: Figure 3 {min(starts):.2g}, Figure 4 {min(four):.2g}"
    rule = "a layer below 0.1: Figure 3, Figure 4"
    met = min(starts) < 0.1, min(four) < 0.1
    text = "some layers are significantly smaller than 1 (p. 12)"
    lines.append(Line("claim, Figures 3, 4", text, here, rule, met, page, "readings"))
    error = errors.stored()
    page = "15-approximation"
    medians = {
        key: float(each.median(0).values[:4].max())
        for key, each in error.starts.items()
        if key[3] == "outside"
    }
    if medians:
        own = [row.value for row in rows("Figure 5", quantity="median error")]
        here = f"its figure: medians up to {max(own):.2g}; ours up to {max(medians.values()):.2g}"
        rule = "every layer's median error below 0.1: its figure, ours"
        met = max(own) < 0.1, max(medians.values()) < 0.1
        text = "the approximation is accurate at initialization (p. 13)"
        lines.append(Line("claim, Figure 5", text, here, rule, met, page, "readings, restarts"))
    if error.steps and min(map(len, error.steps.values())) >= FEWEST:
        own = [row.value for row in rows("Figure 6", quantity="mean error")]
        worst = {net: float(medians_by_layer(each)[:4].max()) for net, each in error.steps.items()}
        here = f"its figure: means up to {max(own):.2g}; ours: " + ", ".join(
            f"{net} medians up to {value:.2g}" for net, value in worst.items()
        )
        rule = "typical errors below 0.15 in every layer: its figure, ours"
        met = max(own) < 0.15, max(worst.values()) < 0.15
        text = "it works remarkably well in training (p. 13)"
        lines.append(Line("claim, Figure 6", text, here, rule, met, page, "readings, runs"))
    return lines


def best_rate_line():
    """The book's own question: what is left of a lead at each start's own rate."""
    best = mnist.stored().best
    (he,) = [of["epoch"] for run, of in best.items() if run[:2] == ("relu", "he")]
    found = {
        run[1]: of["epoch"] - he
        for run, of in best.items()
        if run[0] == "relu" and run[1].startswith("spectral")
    }
    level = 1 - 0.05 / len(found)
    ends = {start: interval(each, level) for start, each in found.items()}
    better = [start for start, each in ends.items() if each.high < 0]
    here = "; ".join(f"{start} {formatted(each.mean, '+.3f')}" for start, each in ends.items())
    rule = "some target is below He's scheme, each at its own rate (Bonferroni)"
    text = "(ours) the lead remains when every start has its best learning rate"
    met = (bool(better),)
    sample = f"{MNIST}, {len(he)} judging seeds"
    return [Line("Table 2, best rates", text, f"minus He: {here}", rule, met, "12-mnist", sample)]


def lines():
    """All tables and figures, in the paper's order."""
    return [
        *table_1(),
        *table_2(),
        *best_rate_line(),
        *figures_1_2(),
        *figure_3(),
        *figure_4(),
        *figures_5_6(),
    ]


def claim_lines():
    """All comparing claims."""
    return [*claims(), *remark_3(), *word_vectors()]
