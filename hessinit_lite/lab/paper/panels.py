"""Reported panels beside ours, on the same axes: black is the paper's, colours are ours."""

import torch

from ...plots import BLUE, GREEN, ORANGE, PURPLE, SKY, legend_below, panels_in_a_row
from . import LAYERS, one, rows, title

COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, "#7A5C00")
FIVE, FIFTY, NINETY_FIVE = 0.05, 0.5, 0.95


def bars(axes, reported, ours, names, color=BLUE, shift=0.17):
    """A row for each layer: ranges as bars with a mark in them, the paper's above ours.

    Args:
        axes: of matplotlib.
        reported: [(low, mark, high)] by layer, None for a layer that is not shown.
        ours: the same; None draws nothing.
        names: of the layers.
        color: of ours.
        shift: of ours below the middle of the row.
    """
    for i in range(len(names)):
        for found, down, style in ((reported, -0.2, "black"), (ours, shift, color)):
            if found is not None and found[i] is not None:
                low, mark, high = found[i]
                line = {"color": style, "linewidth": 2.5, "solid_capstyle": "butt", "alpha": 0.6}
                axes.plot([low, high], [i + down] * 2, **line)
                axes.plot(mark, i + down, "o", color=style, markersize=4)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)


def reported_values(item, panel):
    """[(5 %, mode, 95 %)] of log10 of the values, by layer: Figures 1 and 2."""
    found = []
    for layer in LAYERS:
        low, _, high = one(item, panel, "5, 50, 95 % of log10 value", layer).value
        found.append((low, one(item, panel, "mode of log10 value", layer).value, high))
    return found


def quantiles(values):
    """[(5 %, median, 95 %)] by layer of values [draws, layers]; None where half of them are 0.

    Example:
        >>> from hessinit_lite.lab.paper.panels import quantiles
        >>> quantiles(torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 0.0]]))[1] is None
        True
    """
    at = torch.tensor([FIVE, FIFTY, NINETY_FIVE], dtype=values.dtype)
    found = []
    for column in values.T:
        column = column[column > 0] if (column > 0).double().mean() > 0.5 else None
        found.append(None if column is None else tuple(column.quantile(at).tolist()))
    return found


def logs(found):
    """log10 of (low, mark, high)s."""
    return [f and tuple(torch.tensor(f, dtype=torch.float64).log10().tolist()) for f in found]


def draw_values(axes, item, panel, values):
    """One panel of densities, as bars: values [draws, 6] of ours or None, beside the paper's."""
    ours = None if values is None else logs(quantiles(values))
    bars(axes, reported_values(item, panel), ours, LAYERS)
    axes.axvspan(0, 1, color="gray", alpha=0.2, linewidth=0)
    axes.set(title=title(item, panel), xlabel="log10 of the value")


def draw_curve(axes, curves, at, color=BLUE, **line):
    """Mean and range of curves [runs, points] at some points."""
    axes.plot(at, curves.mean(0), color=color, **line)
    axes.fill_between(at, curves.amin(0), curves.amax(0), color=color, alpha=0.2, linewidth=0)


def draw_losses(axes, item, panel, curves):
    """One loss panel by share of the run: the paper's points, and curves [runs, points] of ours."""
    row = one(item, panel, f"loss over {'time' if item == 'Figure 1' else 'steps'}")
    end = row.at[-1]
    axes.plot([x / end for x in row.at], row.value, "o-", color="black", markersize=3, linewidth=1)
    if curves is not None:
        at = (torch.arange(curves.shape[1]) + 0.5) / curves.shape[1]
        draw_curve(axes, curves, at)
    axes.set(xlabel="share of the run", ylabel="loss")


def figure_1(found, width=8):
    """Figure 1: values at the start and losses of five starts, a row each; ours of one width.

    Args:
        found: of `experiments.panels`.
        width: of our ResNet-18.
    """
    from ..experiments.panels import FIGURE_1

    figure, panels = _rows_of_two(len(FIGURE_1), 1.75)
    for (left, right), (panel, case) in zip(panels, FIGURE_1.items()):
        draw_values(left, "Figure 1", panel, found.values.get((*case, width)))
        draw_losses(right, "Figure 1", panel, found.curves.get((*case, width)))
        left.set_title(f"{panel}: {title('Figure 1', panel)}")
    return figure


def figure_2(found, widths=(4, 8)):
    """Figure 2: three plain deviations; ours of two widths, values and losses by step."""
    from ..experiments.panels import FIGURE_2, PART

    figure, panels = _rows_of_two(len(FIGURE_2), 2.1)
    for (left, right), (panel, case) in zip(panels, FIGURE_2.items()):
        draw_values(left, "Figure 2", panel, None)
        for k, (width, color) in enumerate(zip(widths, COLORS)):
            values = found.values.get((*case, width))
            if values is not None:
                bars(left, None, logs(quantiles(values)), LAYERS, color, 0.05 + 0.22 * k)
            curves = found.curves.get((*case, width))
            if curves is not None:
                at = PART * (torch.arange(curves.shape[1]) + 0.5)
                lost = ": diverges" if curves.isnan().all() else ""
                draw_curve(right, curves, at, color, label=f"ours, width {width}{lost}")
        reported = rows("Figure 2", panel)
        curve = [row for row in reported if row.quantity == "loss over steps"]
        for row in curve:
            points = [(x + 1, y) for x, y in zip(row.at, row.value) if y > 0]
            line = {"color": "black", "markersize": 3, "linewidth": 1, "label": "the paper"}
            right.plot(*zip(*points), "o-", **line)
        right.set(xscale="log", xlabel="step + 1", ylabel="loss")
        if panel == "0.25":  # three steps of the paper's, then it diverges
            right.set(xscale="linear", xticks=[6, 7, 8], yscale="log")
        if not curve:
            level = one("Figure 2", panel, "loss at the end").value
            line = {"linewidth": 3, "alpha": 0.4, "zorder": 1, "label": "the paper"}
            right.axhline(level, color="black", **line)
            right.set_ylim(level - 0.1, level + 0.1)
        if right.get_legend_handles_labels()[0]:
            right.legend(fontsize="small", frameon=False)
    return figure


def figure_3(records, key="gradient"):
    """Figure 3: values of five layers and the loss over steps; records of `cifar.lenet_run`."""
    figure, _ = panels_in_a_row(height=4.6)
    figure.clear()
    panels = figure.subplots(2, 3).flatten()
    steps = torch.tensor(records[0]["steps"])
    values = torch.tensor([record[key] for record in records], dtype=torch.float64)
    for axes, (j, name) in zip(panels, enumerate(("conv1", "conv2", "dense1", "dense2", "dense3"))):
        row = one("Figure 3", "left", "value over steps", name)
        axes.plot(row.at, row.value, "o-", color="black", markersize=3, linewidth=1)
        draw_curve(axes, values[:, :, j], steps)
        axes.set(title=name, ylabel="value" if j in (0, 3) else "")
    row = one("Figure 3", "right", "loss over steps")
    panels[5].plot(row.at, row.value, "o-", color="black", markersize=3, linewidth=1)
    curves = torch.tensor([record["loss"] for record in records], dtype=torch.float64)
    draw_curve(panels[5], curves, steps + float(steps[1]) / 2)
    panels[5].set(title="loss", ylim=(0, None))
    for axes in panels[3:]:
        axes.set_xlabel("step")
    return figure


def figure_4(values, panel="cifar"):
    """Figure 4, one panel: values [seeds, steps, 4] of ours beside the paper's, a layer each."""
    figure, panels = panels_in_a_row(4, height=2.8, yscale="log", xlabel="step")
    for j, axes in enumerate(panels):
        row = one("Figure 4", panel, "value over steps", f"conv{j + 1}")
        axes.plot(row.at, row.value, "o-", color="black", markersize=3, linewidth=1)
        if values is not None:
            draw_curve(axes, values[:, :, j], range(values.shape[1]))
        axes.set_title(f"conv{j + 1}")
    panels[0].set_ylabel("value along the gradient")
    return figure


def figure_5(starts):
    """Figure 5: errors by layer at the start, bars from the median to 95 %.

    Args:
        starts: {panel: {label: tensor [draws, 5]}} of ours.
    """
    figure, panels = panels_in_a_row(max(1, len(starts)), height=3.0, xscale="log")
    names = ("conv1", "conv2", "conv3", "conv4", "dense")
    for axes, (panel, ours) in zip(panels, starts.items()):
        reported = []
        for name in names:
            values = [
                one("Figure 5", panel, quantity, name).value
                for quantity in ("median error", "95 % of the error")
            ]
            reported.append((values[0], *values))
        bars(axes, reported, None, names)
        for k, (color, (label, errors)) in enumerate(zip(COLORS, ours.items())):
            found = [q and (q[1], q[1], q[2]) for q in quantiles(errors.clamp(min=1e-6))]
            bars(axes, None, found, names, color, 0.14 * k)
            axes.plot([], [], "o", color=color, label=label)
        axes.set(title=title("Figure 5", panel), xlabel="relative error")
    if starts:
        most_labels = max(panels, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
        legend_below(figure, most_labels, 2)
    return figure


def figure_6(steps, at):
    """Figure 6: errors over steps, our conv layers in colour, the paper's in black.

    Args:
        steps: {net: tensor [seeds, times, 5]} of ours, drawn as geometric means over the seeds; a
            net may be missing.
        at: steps of the times.
    """
    named = {"ResNet-18": "ResNet", "EfficientNet": "EfficientNet", "GoogLeNet": "GoogleNet"}
    figure, panels = panels_in_a_row(3, 3.0, xlabel="step", yscale="log")
    for axes, (net, panel) in zip(panels, named.items()):
        for i, row in enumerate(rows("Figure 6", panel, "error over steps")):
            points = [(x, y) for x, y in zip(row.at, row.value) if y > 0]
            style = {"color": "black", "markersize": 3, "linewidth": 0.8, "alpha": 0.5}
            axes.plot(*zip(*points), "o-", label=None if i else "the paper's layers", **style)
        for j in range(4 if net in steps else 0):
            curve = steps[net][:, :, j].log().mean(0).exp()
            axes.plot(at, curve, color=COLORS[j], linewidth=1, label=f"layer {j + 1}")
        axes.set_title(net)
    shown = [axes for axes, net in zip(panels, named) if net in steps]
    legend_below(figure, (shown or panels)[0], 3)
    panels[0].set_ylabel("relative error (ratio)")
    return figure


def _rows_of_two(count, height):
    """A Figure of `count` rows with two axes each, and the axes."""
    figure, _ = panels_in_a_row(height=count * height)
    figure.clear()
    return figure, figure.subplots(count, 2)
