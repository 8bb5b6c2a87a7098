"""A curvature report: what a model's curvature says about how it will train, layer by layer.

One forward pass for the signals, one set of factors for the Gauss-Newton blocks (`chain_rule`), and
Lanczos on the Hessian of all weights for the learning rate. The model is left as it was.
"""

import base64
import copy
import html
import math
import textwrap
from dataclasses import asdict, dataclass, field

import torch
from tqdm import tqdm

from ..models import original, unsettled_batch_norms
from ..plots import BLUE, GREEN, ORANGE, PURPLE, SKY, panels_in_a_row, to_png, to_svg
from ..tables import Table
from .adam import LIMIT, findings_of_adam
from .findings import Finding, findings_of
from .measure import Measurement, as_it_was, measure, put_to_eval, settled, short_name


@dataclass
class CurvatureReport(Measurement):
    """What `report` measured: print it, take its `.figure()` or `.to_dict()`; notebooks do.

    Example:
        >>> model, batch = hl.MLP(64, width=16, depth=3, out_features=10), hl.digits().batch(100)
        >>> found = hl.report(model, F.cross_entropy, batch, lr=1e3)
        >>> found.stability_limit < 1e3
        True
    """

    findings: list = field(default_factory=list, repr=False)

    def _head(self):
        chance = "" if self.chance is None else f" (ignoring the input: {self.chance:.4g})"
        lines = [
            f"{self.model}: {self.parameters:,} trainable parameters, {self.samples} samples, "
            f"{self.device}, {self.dtype}",
            f"loss {self.loss:.4g}{chance}; gradient norm {self.gradient_norm:.3g}; curvature "
            f"along the gradient {self.quotient:.3g}",
            f"largest eigenvalue λ of the Hessian {self.eigenvalue:.4g} ± "
            f"{self.eigenvalue_bound:.1g}",
            f"learning rate of plain gradient descent: best guarantee 1/λ = {self.best_step:.3g}, "
            f"stability limit 2/λ = {self.stability_limit:.3g}",
        ]
        if self.adam:
            sharpness, critical = self.adam.eigenvalue, self.adam.critical_rate
            told = [] if not sharpness else [f"λ_P of the first step {sharpness:.3g}"]
            told += [f"38/λ_P = {LIMIT / sharpness:.3g}"] if sharpness and sharpness > 0 else []
            told += [] if critical is None else [f"critical rate {critical:.3g}"]
            told += [f"to start from {self.adam.rate:.2g}"] if self.adam.rate else []
            lines.append(f"learning rate of Adam: {', '.join(told)}")
        return lines

    _UNITS = (
        "signal: rms of the layer's outputs; gradient: rms of dL/dW; norm, trace, quotient along "
        "the gradient: of the layer's Gauss-Newton block, in loss per unit step² (~: estimated)"
    )

    def _table(self):
        columns = {"#": "d", "layer": "", "kind": "", "shape": "", "weight std": ".3g"}
        columns |= {"signal": ".3g", "gradient": ".3g", "norm": ".3g"}
        columns |= {"trace": lambda x: "~" * x[1] + f"{x[0]:.3g}", "quotient": ".3g"}
        rows = [
            (
                number,
                layer.name,
                layer.kind,
                "×".join(map(str, layer.shape)),
                layer.std,
                layer.signal,
                layer.gradient,
                layer.norm,
                (layer.trace, bool(layer.trace_error)),
                layer.quotient,
            )
            for number, layer in enumerate(self.layers, 1)
        ]
        return Table(rows, columns, "The layers' curvature", most=None)  # names have any length

    def __str__(self):
        findings = []
        for f in self.findings:
            findings += textwrap.wrap(f"{f.level}: {f.text}", 100, subsequent_indent="    ")
            findings += textwrap.wrap(
                f.advice, 100, initial_indent="    -> ", subsequent_indent="       "
            )
        return "\n".join(
            [
                *self._head(),
                "",
                str(self._table()),
                "",
                *textwrap.wrap(self._UNITS, 100),
                "",
                *findings,
            ]
        )

    def figure(self):
        """Curvature, signal and gradient of every layer.

        A matplotlib Figure with logarithmic axes; numbers that are 0 or not known are left out.
        """
        figure, (left, right) = panels_in_a_row(2, height=3.4)
        numbers = range(1, len(self.layers) + 1)
        for axes, series in (
            (left, (("norm", BLUE, "o"), ("trace", ORANGE, "s"), ("quotient", GREEN, "^"))),
            (right, (("signal", SKY, "o"), ("gradient", PURPLE, "s"))),
        ):
            for name, color, marker in series:
                values = [getattr(layer, name) or math.nan for layer in self.layers]
                axes.plot(
                    numbers,
                    [v if v > 0 else math.nan for v in values],
                    marker + "-",
                    color=color,
                    markersize=4,
                    label=name,
                )
            axes.set_yscale("log")
            axes.minorticks_off()  # half of the drawing time
            axes.set_xlabel("layer (number in the table)")
            axes.xaxis.get_major_locator().set_params(integer=True)
        if self.eigenvalue > 0:
            left.axhline(
                self.eigenvalue,
                color="black",
                linewidth=0.8,
                linestyle=":",
                label="λ of all weights",
            )
        left.set(
            title="curvature of the layers", ylabel="Gauss-Newton block\n(loss per unit step²)"
        )
        right.set(title="signal and gradient", ylabel="root mean square")
        handles, labels = (
            a + b
            for a, b in zip(left.get_legend_handles_labels(), right.get_legend_handles_labels())
        )
        figure.legend(
            handles,
            labels,
            loc="outside lower left",
            ncols=6,
            frameon=False,
            fontsize=9,
            columnspacing=1.2,
            handletextpad=0.4,
        )
        return figure

    def to_dict(self):
        """Everything as plain values for JSON; what is not finite becomes None."""

        def plain(value):
            if isinstance(value, float):
                return value if math.isfinite(value) else None
            if isinstance(value, dict):
                return {key: plain(each) for key, each in value.items()}
            return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value

        numbers = asdict(self)
        del numbers["notes"]  # they are among the findings
        return plain(
            {**numbers, "best_step": self.best_step, "stability_limit": self.stability_limit}
        )

    def _repr_mimebundle_(self, include=None, exclude=None):
        figure = self.figure()
        png = base64.b64encode(to_png(figure)).decode()
        return {"text/html": self._html(to_svg(figure)), "image/png": png, "text/plain": str(self)}

    def _repr_html_(self):
        return self._repr_mimebundle_()["text/html"]

    def _html(self, picture):
        findings = "".join(
            f"<li><strong>{f.level}:</strong> {html.escape(f.text)}"
            + (f"<br>→ <em>{html.escape(f.advice)}</em>" if f.advice else "")
            + "</li>\n"
            for f in self.findings
        )
        return (
            '<div class="hessinit-report">\n<p>'
            + "<br>\n".join(map(html.escape, self._head()))
            + "</p>\n"
            f'<div style="font-size:0.85em">\n{self._table()._repr_html_()}\n</div>\n'
            f"<p><small>{html.escape(self._UNITS)}</small></p>\n<ul>\n{findings}</ul>\n"
            f"{picture}\n</div>"
        )


OPTIMIZERS = ("sgd", "adam", "adamw")


def report(
    model,
    loss_fn,
    batch,
    *,
    layers=None,
    split=None,
    lr=None,
    optimizer="sgd",
    settle=0,
    rtol=1e-3,
    progress=False,
):
    """Measure the curvature of `model` on a batch and say what it means: a CurvatureReport.

    Weights, gradients, modes and hooks are left as they are. The model is measured in eval mode
    (the report says so where that matters); a half-precision model as a float32 copy. A layer is a
    trainable parameter with two dimensions or more. Its norm and trace are exact (`layer_norms`,
    `layer_traces`), but for weights that `layer_blocks` has no factors of (such as those of
    attention and recurrent layers in torch.nn) and that have more than 256 entries: their traces
    are estimated from 64 products, with a standard error. Of layers without factors at most 48 are
    measured, about a hundred products each, if `layers` does not ask for more: of each kind, alike
    but for the numbers in their names, first and last and some between. The report names the rest.
    So many classes that `layer_traces` estimates (a thousand and more) make the traces estimates,
    too, and the norms' residuals 1e-2; every layer then takes products with the whole net, about
    forty for Adam, so ask for some.

    Args:
        loss_fn: `loss_fn(outputs, targets)`, a mean over the batch; outputs as `check_batch` takes
            them.
        batch: `(inputs, targets)`, moved to the model's device and, where they are floating-point,
            to its dtype.
        layers: names of layers, or patterns such as "blocks.*", if not all are to be listed: a big
            model then needs less time and memory (the factors of a layer are classes · samples ·
            places · outputs numbers). The Hessian is that of all trainable parameters, anyway.
        split: {pattern: parts} for weights whose rows are several projections, `{"*.qkv": 3}`: each
            part is then listed as a layer of its own. torch's attention is split into queries, keys
            and values anyway.
        lr: a learning rate to judge.
        optimizer: what it is for: "sgd"; for "adam" and "adamw", whose steps are rescaled weight by
            weight, 2/λ says nothing. Then the report measures Adam's first step: its critical rate
            (`critical_rate`) and the largest eigenvalue λ_P of P^-½HP^-½ (`preconditioned`), with a
            rate to start from (a quarter of the critical one) and a warm-up; how much the layers'
            spectra differ (Zhang et al. 2024; here the mean Jensen–Shannon distance, 0 to 1, of how
            each layer's trace is spread over sizes of eigenvalues); the norms of a Transformer's
            embedding, attention, MLP and head.
        settle: passes of the batch through a copy whose batch norm is in train mode, before it is
            measured. A fresh batch norm has averages that do not normalize, and curvature that is
            not that of training.
        rtol: of the eigenvalue's residual.
        progress: show a bar that says what is being measured.

    Raises:
        TypeError, ValueError: as `check_batch`; also for no trainable weight, for patterns that fit
            none or an empty list of them, an lr that is not positive, an unknown optimizer, a
            negative settle, or a path that cannot be differentiated twice.

    Example:
        >>> model, batch = hl.MLP(64, width=16, depth=3, out_features=10), hl.digits().batch(100)
        >>> found = hl.report(model, F.cross_entropy, batch, lr=0.1)
        >>> found.samples, [layer.name for layer in found.layers]
        (100, ['layers.0', 'layers.1', 'layers.2'])
    """
    model = original(model)
    if lr is not None and not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr must be finite and positive, got {lr!r}")
    if isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            f"optimizer is a kind here, one of {', '.join(OPTIMIZERS)}: for the next step of an "
            "optimizer that is under way ask hl.critical_rate"
        )
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; known: {', '.join(OPTIMIZERS)}")
    if int(settle) != settle or settle < 0:
        raise ValueError(f"settle must be a whole number of passes, got {settle!r}")
    notes = []
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if dtypes & {torch.float16, torch.bfloat16}:
        model = copy.deepcopy(model).float()
        half = short_name(min(dtypes, key=str))
        notes.append(Finding("note", f"the weights are {half}: measured on a float32 copy"))
    if settle:
        model, found = settled(model, batch, settle)
        notes += found
    with as_it_was(model), tqdm(disable=not progress, leave=False) as bar:
        notes += put_to_eval(model)
        numbers = measure(model, loss_fn, batch, layers, split or {}, rtol, bar, optimizer)
        notes += numbers.notes
        known = not unsettled_batch_norms(model)
    told = findings_of_adam(numbers, lr, optimizer) if numbers.adam else []
    findings = notes + (findings_of(numbers, lr, optimizer, told) if known else [])
    findings.sort(key=lambda f: ("problem", "warning", "note").index(f.level))
    return CurvatureReport(**vars(numbers), findings=findings)
