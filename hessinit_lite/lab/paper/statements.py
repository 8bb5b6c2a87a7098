"""The paper's equations, theorems, remarks and corollaries, each tried in a small computation.

Double precision, a few seeds, a second or two in all. Every function gives a `Line` whose verdict
follows from what was computed: a formula that holds is "yes", one that holds with a condition that
the paper does not state "in part".
"""

import math

import torch
import torch.nn.functional as F
from torch.func import hessian as dense_hessian

from ...curvature import gauss_newton, hessian
from ...models import ACTIVATIONS, MLP, activation_module
from ...schemes import init_
from ..data import digits
from ..experiments.approximation import (
    errors_of_seeds,
    frobenius,
    order_in_c,
    slope,
    small_net,
    theorem_1,
)
from ..experiments.cifar import pictures, start
from ..experiments.panels import values_along_gradients
from ..probes import seeded
from .verdict import Line

SEEDS = range(5)
FIVE = "5 seeds, double precision"
TINY = "5 tiny nets, dense matrices"


def _slopes_at_zero(name, h=1e-4):
    """f(0), f'(0±) and f''(0±) of an activation: [value, left slope, right slope, left, right]."""
    f, x = activation_module(name), torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).double() * h
    y = f(x)
    left, right = (y[2] - y[1]) / h, (y[3] - y[2]) / h
    bends = (y[0] - 2 * y[1] + y[2]) / h**2, (y[2] - 2 * y[3] + y[4]) / h**2
    return torch.stack([y[2], left, right, *bends])


def _admissible(name):
    """f(0) = 0 and f''(0) = 0, the second from both sides and without a kink."""
    value, left, right, *bends = _slopes_at_zero(name).tolist()
    return abs(value) < 1e-9 and abs(left - right) < 1e-3 and max(map(abs, bends)) < 1e-2


def _mean(function):
    """Mean over SEEDS of a function of a generator."""
    return float(torch.stack([function(seeded(seed)) for seed in SEEDS]).mean().detach())


def equation_1():
    deviations = {}
    for name in ("tanh", "relu", "sigmoid"):
        f, u = activation_module(name), torch.linspace(-1e-3, 1e-3, 101, dtype=torch.float64)
        deviations[name] = float((f(u) - u).abs().max() / 1e-3)
    met = tuple(value < 1e-3 for value in deviations.values())
    here = ", ".join(f"{name} off by {value:.2g}" for name, value in deviations.items())
    rule = "|f(u) - u| below 0.001 |u| at |u| = 0.001, for tanh, relu, sigmoid"
    claim = "near 0 a layer is linear: z(k+1) = w z(k) + b"
    return Line("(1)", claim, here, rule, met, "02-variance-flow", "a grid of u")


def equations_2_3():
    """Back-propagation with all slopes 1."""
    ratios = {}
    for name in ("tanh", "relu"):
        found = []
        for seed in SEEDS:
            model, batch = small_net(name, 3, seed, c=1e-3)
            z = batch[0].requires_grad_()
            (exact,) = torch.autograd.grad(F.cross_entropy(model(z), batch[1]), z)
            p = model(z).detach().softmax(1) - F.one_hot(batch[1], 10)
            back = p / len(p)
            for layer in reversed(model.layers):
                back = back @ layer.weight.detach()
            found.append((back - exact).norm() / exact.norm())
        ratios[name] = float(torch.stack(found).mean())
    met = tuple(ratio < 0.01 for ratio in ratios.values())
    here = ", ".join(f"{name} off by {ratio:.2g}" for name, ratio in ratios.items())
    rule = "relative error below 0.01 at inputs of size 0.001, for tanh and relu"
    claim = "dL/dz(k) is about the sum of dL/dz(k+1) w"
    return Line("(2), (3)", claim, here, rule, met, "02-variance-flow", FIVE)


def equation_4():
    def ratio(generator):
        model = init_(MLP(300, 200, 2, 100).double(), "glorot", generator=generator)
        return model.layers[1].weight.std() / math.sqrt(2 / (200 + 100))

    found = _mean(ratio)
    rule = "drawn deviation within 1 % of the formula"
    claim = "Glorot: deviation sqrt(2 / (dₖ + dₖ₊₁))"
    met = (abs(found - 1) < 0.01,)
    return Line("(4)", claim, f"ratio {found:.3f}", rule, met, "02-variance-flow", FIVE)


def example():
    """Two-layer linear regression, L = (w2 w1 x - t)², derivative in the output's two forms."""
    gaps = []
    for seed in SEEDS:
        w_1, w_2, x, t = torch.randn(4, dtype=torch.float64, generator=seeded(seed))
        exact = 2 * (w_2 * w_1 * x - t)
        gaps.append([abs(exact - (-2 * (w_2 * w_1 - t))), abs(exact - 2 * (w_2 * w_1 * x - t))])
    printed, right = torch.tensor(gaps).amax(0).tolist()
    rule = "printed form equals the derivative"
    here = f"printed form off by up to {printed:.2g}, 2(w2 w1 x - t) by {right:.2g}"
    claim = "2(z - t) = -2(w2 w1 - t)"
    return Line("example, p. 4", claim, here, rule, (printed < 1e-9,), "errata", FIVE)


def quadratic_model():
    cs, found = torch.tensor([1e-3, 1e-2], dtype=torch.float64), []
    for seed in SEEDS:
        model, batch = small_net("tanh", 3, seed)
        operator = hessian(model, F.cross_entropy, batch)
        g = operator.gradient
        curvature = torch.dot(g, operator @ g)
        weights = list(model.parameters())
        before = [w.detach().clone() for w in weights]
        loss, rest = float(operator.loss), []
        for c in cs:
            with torch.no_grad():
                parts = g.split([w.numel() for w in weights])
                for w, old, part in zip(weights, before, parts):
                    w.copy_(old - c * part.view_as(w))
                now = F.cross_entropy(model(batch[0]), batch[1])
            rest.append((now - (loss - c * g.dot(g) + c**2 / 2 * curvature)).abs())
        found.append(torch.stack(rest))
    order = slope(torch.stack(found), cs).mean
    rule = "the remainder is of order c³: slope within 0.2 of 3"
    claim = "L(w - c g) = L - c g'g + c²/2 g'Hg"
    met = (abs(order - 3) < 0.2,)
    return Line("p. 5", claim, f"slope {order:.2f}", rule, met, "11-principle", FIVE)


def step_size():
    def last(rate):
        values = torch.logspace(-2, 1, 20, dtype=torch.float64)
        w = torch.ones(20, dtype=torch.float64)
        for _ in range(100):
            w = w - rate / float(values.max()) * values * w
        return float((values * w.square()).sum() / values.sum())

    falls = {rate: last(rate) for rate in (1.0, 1.9, 2.1)}
    here = ", ".join(f"{rate:g}/λ: loss × {value:.1e}" for rate, value in falls.items())
    rule = "1/λ is stable; beyond it, at 1.9/λ, is not"
    met = falls[1.0] < 1, falls[1.9] > 1
    return Line("p. 5", "the largest step is 1/‖H‖", here, rule, met, "11-principle", "a quadratic")


def assumption_1():
    listed = {name: _admissible(name) for name in ("linear", "sigmoid", "tanh", "relu")}
    others = {name: _admissible(name) for name in ACTIVATIONS if name not in listed}
    here = "of those listed: " + ", ".join(name for name, good in listed.items() if good)
    here += f"; of the other {len(others)}: {sum(others.values())}"
    rule = "holds for linear, sigmoid, tanh, relu"
    claim = "f(0) = 0 and f''(0) = 0, as linear, sigmoid, tanh, relu"
    met = tuple(listed.values())
    return Line("assumption 1", claim, here, rule, met, "09-hessian-chain-rule", "derivatives at 0")


def assumption_2():
    norms = digits(standardize=False).train[0].norm(dim=1)
    here = f"digits in [0, 1]: norms {norms.min():.1f} to {norms.max():.1f}"
    rule = "the input's norm is at most 0.5, and so for real pictures"
    met = (bool(norms.max() <= 0.5),)
    claim = "‖z(k)‖ ≤ c in all layers, as c = 0.5"
    return Line("assumption 2", claim, here, rule, met, "15-approximation", "1,437 pictures")


def _dense_parts(name, seed, depth=2):
    """Dense H of the first layer, its Gauss-Newton block, and the curvature effect by itself."""
    model, batch = small_net(name, depth, seed, width=4, samples=3)
    inputs, targets = batch
    weight = model.layers[0].weight.detach()

    def outputs(w):
        return torch.func.functional_call(model, {"layers.0.weight": w.view_as(weight)}, (inputs,))

    flat = weight.flatten()
    z = outputs(flat)
    slopes = torch.autograd.functional.jacobian(lambda z: F.cross_entropy(z, targets), z.detach())
    effect = torch.einsum("nc,ncij->ij", slopes, dense_hessian(outputs)(flat).detach())
    h = hessian(model, F.cross_entropy, batch, layer="layers.0")
    g = gauss_newton(model, F.cross_entropy, batch, layer="layers.0")
    eye = torch.eye(len(flat), dtype=flat.dtype)
    return h.matmat(eye), g.matmat(eye), effect


def equation_5():
    gaps = []
    for seed in SEEDS:
        h, g, effect = _dense_parts("tanh", seed)
        gaps.append((h - g - effect).norm() / h.norm())
    gap = float(torch.stack(gaps).max())
    rule = "both sides agree to 1e-9"
    claim = "Hessian = linearization effect + curvature effect"
    return Line(
        "(5)", claim, f"off by {gap:.0e}", rule, (gap < 1e-9,), "09-hessian-chain-rule", TINY
    )


def _orders():
    return {
        name: slope(order_in_c(name, 3, 1, SEEDS)[1]).mean for name in ("tanh", "sigmoid", "selu")
    }


def theorem_one():
    orders = _orders()
    here = "relative error ∝ c^p: " + ", ".join(f"{n} p = {p:.2f}" for n, p in orders.items())
    rule = "p within 0.1 of 1 for tanh, and for sigmoid (listed) and selu (used)"
    met = tuple(abs(p - 1) < 0.1 for p in orders.values())
    claim = "H[g,g] = v'H_z v up to a higher order in the inputs' size c"
    return Line("Theorem 1", claim, here, rule, met, "09-hessian-chain-rule", FIVE)


def remark_2():
    """Blocks between layers: same form, smaller?"""
    shares = []
    for seed in SEEDS:
        model, batch = small_net("relu", 3, seed, c=0.01)
        sizes = [
            float(frobenius(model, batch, pair, seeded(seed), signs=8)[0])
            for pair in (
                ("layers.0", "layers.1"),
                ("layers.0", "layers.0"),
                ("layers.1", "layers.1"),
            )
        ]
        shares.append(sizes[0] / math.sqrt(sizes[1] * sizes[2]))
    share = sorted(shares)[len(shares) // 2]
    rule = "median of between over within below 1, relu, inputs of size 0.01"
    met = (share < 1,)
    return Line(
        "Remark 2",
        "blocks between layers are of smaller order",
        f"between / within: {share:.2g}",
        rule,
        met,
        "15-approximation",
        FIVE,
    )


def remark_4():
    """Any architecture: the value of a convolution in a ResNet by v = D_w z g."""
    gaps = []
    for seed in SEEDS:
        model, batch, _ = start(pictures("quick"), "selu", "lecun", seed, 2, 8)
        model, batch = model.double(), (batch[0].double(), batch[1])
        name = "blocks.3.conv2"
        operator = gauss_newton(model, F.cross_entropy, batch, layer=name)
        unit = operator.gradient / operator.gradient.norm()
        by_operator = float(torch.dot(unit, operator @ unit))
        gaps.append(abs(float(values_along_gradients(model, batch, [name])) / by_operator - 1))
    rule = "one forward derivative gives the block's value to 1e-6, in a ResNet-18"
    claim = "any architecture: v = D_w z(n) g"
    met = (max(gaps) < 1e-6,)
    return Line(
        "Remark 4", claim, f"off by {max(gaps):.0e}", rule, met, "13-cifar", "digits, 5 seeds"
    )


def remark_5():
    along, block = errors_of_seeds("relu", 3, range(3), SEEDS)
    within = float(torch.maximum(along, block).max())
    between = []
    for seed in SEEDS:
        model, batch = small_net("relu", 3, seed)
        full, missing = frobenius(model, batch, ("layers.0", "layers.1"), seeded(seed))
        between.append(float(missing / full))
    here = f"within a layer off by {within:.0e}, between two by {min(between):.2f} or more"
    rule = "error below 1e-9 within layers; between layers, too"
    met = within < 1e-9, max(between) < 1e-9
    claim = "exact for f'' = 0, as ReLU"
    return Line("Remark 5", claim, here, rule, met, "15-approximation", FIVE)


def remark_6():
    errors = {
        name: float(errors_of_seeds(name, 3, [1], SEEDS)[1].median()) for name in ("tanh", "gelu")
    }
    orders = {name: slope(order_in_c(name, 3, 1, SEEDS)[1]).mean for name in errors}
    here = ", ".join(f"{n}: c^{orders[n]:.2f}, at c = 1 {errors[n]:.2f}" for n in errors)
    rule = "relative error of order c or higher, and below 0.1 at standardized inputs: tanh, gelu"
    met = (*(p > 0.9 for p in orders.values()), *(error < 0.1 for error in errors.values()))
    claim = "for any activation the error is of lower order, its constant small"
    return Line("Remark 6", claim, here, rule, met, "15-approximation", FIVE)


def theorem_seven():
    """v by tangent slopes only, J x for the layer's input."""
    gaps = {}
    for name, c in (("relu", 1.0), ("tanh", 1e-2), ("tanh", 1.0), ("sigmoid", 1e-2)):
        found = []
        for seed in SEEDS:
            model, (x, _) = small_net(name, 4, seed, c=c)
            z, tangent = x, x
            for layer in model.layers[:2]:
                u = z @ layer.weight.detach().T
                f = model.activation
                slopes = torch.func.jvp(f, (u,), (torch.ones_like(u),))[1]
                z, tangent = f(u), slopes * (tangent @ layer.weight.detach().T)
            found.append((tangent - z).norm() / z.norm())
        gaps[name, c] = float(torch.stack(found).mean())
    here = ", ".join(f"{n}, c = {c:g}: {gap:.2g}" for (n, c), gap in gaps.items())
    rule = "J…J x within 0.01 of the layer's input: relu, tanh small, tanh at 1, sigmoid small"
    met = tuple(gap < 0.01 for gap in gaps.values())
    claim = "v is a product of all layers' Jacobians, up to third order"
    return Line("Theorem 7, (7)", claim, here, rule, met, "10-jacobian-products", FIVE)


def equation_8():
    """The bound on ‖v‖ lacks ‖g‖: with g twice as long v doubles, the bound stays."""
    ratios = []
    for seed in SEEDS:
        model, (x, _) = small_net("relu", 2, seed)
        w = model.layers[1].weight.detach()
        g = torch.randn(w.shape[1], x.shape[1], dtype=w.dtype, generator=seeded(seed))
        u = x[0] @ model.layers[0].weight.detach().T
        for size in (1.0, 1000.0):
            unit = size * g / torch.linalg.matrix_norm(g, 2)
            v = w @ ((u > 0) * (unit @ x[0]))
            bound = torch.linalg.matrix_norm(w, 2) * x[0].norm()
            ratios.append((size, float(v.norm() / bound)))
    largest = {size: max(r for s, r in ratios if s == size) for size in (1.0, 1000.0)}
    here = ", ".join(f"‖g‖ = {size:g}: ‖v‖ / bound {r:.2g}" for size, r in largest.items())
    rule = "‖v‖ below the bound for ‖g‖ = 1, and for ‖g‖ = 1000"
    met = tuple(r <= 1 for r in largest.values())
    claim = "‖v‖ ≤ product of the norms of Jacobians and ‖x‖"
    return Line("(8)", claim, here, rule, met, "10-jacobian-products", FIVE)


def remark_9():
    m, n = 400, 100

    def norm(generator):
        w = torch.randn(m, n, dtype=torch.float64, generator=generator)
        return torch.linalg.matrix_norm(w, 2)

    found, root = _mean(norm), math.sqrt(m) + math.sqrt(n)
    here = f"norm times (√m + √n) {found * root:.0f}, norm over it {found / root:.3f}"
    rule = "norm within 5 % of 1 / (√m + √n)"
    met = (abs(found * root - 1) < 0.05,)
    claim = "an m × n matrix of unit variance has norm 1 / (√m + √n)"
    return Line("Remark 9", claim, here, rule, met, "02-variance-flow", "400 × 100, 5 seeds")


def _products(rows, columns, variance, transposed=False):
    def ratio(generator):
        w = torch.randn(200, rows, columns, dtype=torch.float64, generator=generator)
        w = w * math.sqrt(variance)
        z = torch.randn(rows if transposed else columns, dtype=torch.float64, generator=generator)
        out = (w.mT if transposed else w) @ z
        return (out.square().sum(1) / z.square().sum()).mean()

    return _mean(ratio)


def lemma_10():
    forward = _products(60, 20, 0.03) / (60 * 0.03)
    backward = _products(60, 20, 0.03, transposed=True) / (20 * 0.03)
    here = f"measured over formula: {forward:.3f}, {backward:.3f}"
    rule = "both within 5 %"
    met = abs(forward - 1) < 0.05, abs(backward - 1) < 0.05
    claim = "E‖wz‖² = n σ² E‖z‖², E‖z'w‖² = m σ² E‖z'‖²"
    return Line("Lemma 10", claim, here, rule, met, "02-variance-flow", "1,000 matrices 60 × 20")


def corollary_11():
    forward = _products(60, 20, 1 / 60)
    backward = _products(60, 20, 1 / 20, transposed=True)
    per_unit = forward * 20 / 60
    here = f"norms {forward:.2f}, {backward:.2f}; per unit forwards {per_unit:.2f}"
    rule = "the norm is kept within 5 %, forwards and backwards (not the variance per unit)"
    met = abs(forward - 1) < 0.05, abs(backward - 1) < 0.05
    claim = "stable for variance 1/dₖ₊₁ forwards, 1/dₖ backwards"
    return Line("Corollary 11", claim, here, rule, met, "10b-glorot-and-he", "1,000 matrices")


def _through(factor, between, width=256, layers=8):
    """Mean square behind linear layers of deviation factor / √width, `between` after each."""

    def square(generator):
        z = torch.randn(64, width, dtype=torch.float64, generator=generator)
        for _ in range(layers):
            w = torch.randn(width, width, dtype=torch.float64, generator=generator)
            z = between(z @ w.T * factor / math.sqrt(width), generator)
        return z.square().mean()

    return _mean(square)


def _kept(z, generator, p=0.5):
    return torch.empty_like(z).bernoulli_(1 - p, generator=generator)


def equation_13():
    """The dropout Jacobian of inverted dropout is the mask over 1 - p."""
    x = torch.ones(4000, dtype=torch.float64, requires_grad=True)
    state = torch.get_rng_state()  # any draw has the same slopes
    y = F.dropout(x, 0.5)
    torch.set_rng_state(state)
    (slopes,) = torch.autograd.grad(y.sum(), x)
    values = sorted(set(slopes.tolist()))
    rule = "slopes of dropout are 0 and 1"
    here = f"slopes of torch's: {', '.join(f'{v:g}' for v in values)}"
    claim = "dropout's Jacobian is diag(B), B Bernoulli(1 - p)"
    met = (values == [0.0, 1.0],)
    return Line("(13)", claim, here, rule, met, "03-activations", "4,000 units")


def corollary_12():
    p = 0.5

    def inverted(z, generator):
        return z * _kept(z, generator) / (1 - p)

    def plain(z, generator):
        return z * _kept(z, generator)

    found = {
        "inverted": _through((1 - p) ** -0.5, inverted),
        "plain mask": _through((1 - p) ** -0.5, plain),
        "inverted, σ √(1-p)": _through((1 - p) ** 0.5, inverted),
    }
    here = ", ".join(f"{name}: {value:.2g}" for name, value in found.items())
    rule = "mean square between 0.5 and 2 behind 8 layers: inverted dropout, plain mask"
    met = tuple(0.5 < found[name] < 2 for name in ("inverted", "plain mask"))
    claim = "dropout: σ' = σ / √(1-p)"
    return Line("Corollary 12, (14)", claim, here, rule, met, "03-activations", FIVE)


def section_4_3():
    def ratio(generator):
        w = torch.randn(400, 60, 20, dtype=torch.float64, generator=generator) * 0.2
        z = torch.randn(20, dtype=torch.float64, generator=generator)
        return ((w @ z).relu().square().sum(1) / z.square().sum()).mean()

    found = _mean(ratio) / (60 * 0.04 / 2)
    rule = "within 3 %"
    claim = "relu: the forward factor is n σ² / 2"
    met = (abs(found - 1) < 0.03,)
    here = f"measured over formula {found:.3f}"
    return Line("section 4.3", claim, here, rule, met, "03-activations", "2,000 matrices")


def corollary_13():
    def relu(z, generator):
        return z.relu()

    printed, right = (_through(factor, relu) for factor in (2**-0.5, 2**0.5))
    here = f"mean square behind 8 layers: printed {printed:.1e}, σ √2 {right:.2f}"
    rule = "mean square behind 8 layers between 0.25 and 4"
    met = (0.25 < printed < 4,)
    return Line(
        "Corollary 13, (15)",
        "relu: σ' = σ / √2",
        here,
        rule,
        met,
        "03-activations",
        FIVE,
    )


def claim_1():
    """D²_w z(k+1)[g,g] = f''(u) (g z)²: its order for tanh and sigmoid, both listed."""
    orders = {}
    cs = torch.tensor([1e-3, 1e-2], dtype=torch.float64)
    for name in ("tanh", "sigmoid"):
        f, found = activation_module(name), []
        for seed in SEEDS:
            w, g = torch.randn(2, 8, 8, dtype=torch.float64, generator=seeded(seed)) / 3
            z = torch.randn(8, dtype=torch.float64, generator=seeded(seed + 50))
            row = []
            for c in cs:
                along = lambda t, c=c: f((w + t * g) @ (c * z))
                zero = torch.zeros((), dtype=torch.float64)
                slope_of = lambda t: torch.func.jvp(along, (t,), (torch.ones_like(t),))[1]
                row.append(torch.func.jvp(slope_of, (zero,), (torch.ones_like(zero),))[1].norm())
            found.append(torch.stack(row))
        orders[name] = slope(torch.stack(found), cs).mean
    here = ", ".join(f"{name}: order {p:.2f} in c" for name, p in orders.items())
    rule = "order within 0.1 of 3: tanh, sigmoid"
    met = tuple(abs(p - 3) < 0.1 for p in orders.values())
    claim = "a layer's second derivative in its weights is O(f''' c³)"
    return Line("Claim 1, (25)", claim, here, rule, met, "09-hessian-chain-rule", FIVE)


def claim_2():
    """D²_z z(k+1): O(f''' c) for weights of norm 1, and for larger ones."""
    found = {}
    for size in (1.0, 10.0):
        values = []
        for seed in SEEDS:
            w = torch.randn(8, 8, dtype=torch.float64, generator=seeded(seed))
            w = size * w / torch.linalg.matrix_norm(w, 2)
            z = torch.randn(8, dtype=torch.float64, generator=seeded(seed + 50))
            z = 1e-3 * z / z.norm()
            second = dense_hessian(lambda z, w=w: torch.tanh(w @ z))(z)
            values.append(second.abs().max() / 1e-3)
        found[size] = float(torch.stack(values).max())
    here = ", ".join(f"‖w‖ = {size:g}: {value:.2g} c" for size, value in found.items())
    rule = "largest entry at most 2 c (|f'''| ≤ 2) for ‖w‖ = 1; for ‖w‖ = 10"
    met = tuple(value <= 2 for value in found.values())
    claim = "a layer's second derivative in its inputs is O(f''' c)"
    return Line("Claim 2, (26)", claim, here, rule, met, "errata", FIVE)


def claim_3():
    """All later layers: order 3 for tanh; a sigmoid's second layer has no small inputs."""
    cs, orders = torch.tensor([1e-3, 1e-2], dtype=torch.float64), {}
    for name in ("tanh", "sigmoid"):
        found = []
        for seed in SEEDS:
            row = []
            for c in cs:
                model, (x, _) = small_net(name, 3, seed, c=float(c), samples=4)
                w = model.layers[0].weight.detach()
                g = torch.randn(w.shape, dtype=w.dtype, generator=seeded(seed + 50)) / 8

                def along(t, model=model, w=w, g=g, x=x):
                    weights = {"layers.0.weight": w + t * g}
                    return torch.func.functional_call(model, weights, (x,))

                slope_of = lambda t: torch.func.jvp(along, (t,), (torch.ones_like(t),))[1]
                zero = torch.zeros((), dtype=torch.float64)
                second = torch.func.jvp(slope_of, (zero,), (torch.ones_like(zero),))[1]
                row.append(second.detach().norm())
            found.append(torch.stack(row))
        orders[name] = slope(torch.stack(found), cs).mean
    here = ", ".join(f"{name}: order {p:.2f} in c" for name, p in orders.items())
    rule = "order within 0.1 of 3: tanh, sigmoid"
    met = tuple(abs(p - 3) < 0.1 for p in orders.values())
    claim = "of all later layers, too: O(f'' c³)"
    return Line("(27), Claim 3", claim, here, rule, met, "errata", FIVE)


def claims_4_5():
    gaps = []
    for seed in SEEDS:
        model, batch = small_net("tanh", 3, seed)
        found = theorem_1(model, batch, "layers.1", seeded(seed))
        value = values_along_gradients(model, batch, ["layers.1"])
        gaps.append(float((value[0] / found[1] - 1).abs()))
    rule = "D_z²L on (D_w z g) equals the Gauss-Newton quotient to 1e-9"
    claim = "the form on g is H_z on the velocities D_w z(n) g"
    met = (max(gaps) < 1e-9,)
    here = f"off by {max(gaps):.0e}"
    return Line("Claims 4, 5", claim, here, rule, met, "09-hessian-chain-rule", FIVE)


def claims_6_7():
    gaps = {}
    for name in ("tanh", "sigmoid"):
        found = []
        for seed in SEEDS:
            model, (x, _) = small_net(name, 2, seed, c=1e-2)
            u = x @ model.layers[0].weight.detach().T
            f = model.activation
            slopes = torch.func.jvp(f, (u,), (torch.ones_like(u),))[1]
            found.append((slopes * u - f(u)).norm() / f(u).norm())
        gaps[name] = float(torch.stack(found).mean())
    here = ", ".join(f"{name} off by {gap:.2g}" for name, gap in gaps.items())
    rule = "relative error below 0.01 at inputs of size 0.01: tanh, sigmoid"
    met = tuple(gap < 0.01 for gap in gaps.values())
    claim = "for small inputs z(k+1) = J(k) z(k), hence Theorem 7"
    return Line("Claims 6, 7", claim, here, rule, met, "10-jacobian-products", FIVE)


def lines():
    """All statements, in the paper's order."""
    functions = (
        equation_1,
        equations_2_3,
        equation_4,
        example,
        quadratic_model,
        step_size,
        assumption_1,
        assumption_2,
        equation_5,
        theorem_one,
        remark_2,
        remark_4,
        remark_5,
        remark_6,
        theorem_seven,
        equation_8,
        remark_9,
        lemma_10,
        corollary_11,
        equation_13,
        corollary_12,
        section_4_3,
        corollary_13,
        claim_1,
        claim_2,
        claim_3,
        claims_4_5,
        claims_6_7,
    )
    return [function() for function in functions]
