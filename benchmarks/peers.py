"""What curvature costs, in gradients, beside other libraries: python benchmarks/peers.py [--quick]

A gradient is one forward and one backward pass over the same batch. Every measurement times a job and,
right before and after it, the gradient: the ratio of neighbours cancels most of what else the machine
does. Jobs and tools take turns in random order, in one process. No answer is timed unchecked: each is
compared with the truth, and an iterative method gets the loosest of its settings that is good enough.

The peers (requirements.txt beside this file) are used as their documentation says, and where it offers a
choice in the way that is fastest for them: curvlinops without its check for determinism and with known
data size, its matrices through their batched product, its eigenvalues by SciPy's ARPACK;
hessian-eigenthings by Lanczos with as few steps as do; all of them without their own progress bars.

Writes book/how-fast/: table.md, growth.md, many-classes.md, solver.md, costs.svg and growth.svg (each also for dark pages), results.json.
"""

import argparse
import contextlib
import copy
import ctypes
import datetime
import importlib.metadata
import json
import math
import os
import platform
import random
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import linregress
from scipy.stats import t as student
from torch import nn
from tqdm import tqdm

import hessinit_lite as hl
from hessinit_lite.lab.explorable import draw as drawn
from hessinit_lite.lab.ranks import cost
from hessinit_lite.plots import BLUE, GREEN, ORANGE, PURPLE, SKY, to_svg

OUT = Path(__file__).resolve().parent.parent / "book" / "how-fast"
PRODUCTS, ERROR, TRACE_ERROR, MOST_SAMPLES = 20, 1e-3, 0.015, 96
LOSS = nn.CrossEntropyLoss()

JOBS = {
    "product": f"one Hessian product, of {PRODUCTS} one by one",
    "together": f"{PRODUCTS} Hessian products together",
    "eigenvalue": "largest eigenvalue, true error below 10⁻³",
    "eigenvalue-bound": "largest eigenvalue, residual bound below 10⁻³",
    "trace": "Gauss-Newton trace of all weights",
    "norms": "spectral norm of every layer's block, true errors below 10⁻³",
    "norms-bound": "spectral norm of every layer's block, residual bounds below 10⁻³",
}


# ---------------------------------------------------------------------------------------------- workloads

class Workload:
    """A model with a batch, the truth in float64, and the seconds that its measurements may take."""

    def __init__(self, title, model, inputs, seconds, device, loop_layers=None):
        generator = torch.Generator().manual_seed(1)
        self.title, self.seconds, self.device = title, seconds, device
        self.model = model.to(device)
        targets = torch.randint(10, (len(inputs),), generator=generator)
        self.batch = inputs.to(device), targets.to(device)
        self.weights = list(self.model.parameters())
        self.size = sum(w.numel() for w in self.weights)
        self.vectors = torch.randn(PRODUCTS, self.size, generator=generator).to(device)
        self.matrix = self.vectors.T.contiguous()
        self.layers = list(hl.weight_layers(self.model))
        self.loop_layers = loop_layers(self.layers) if loop_layers else self.layers
        # For piecewise linear nets a layer's block of the Hessian is that of Gauss-Newton (Remark 5).
        self.piecewise_linear = any(isinstance(m, nn.ReLU) for m in self.model.modules())

    def gradient(self):
        return torch.autograd.grad(LOSS(self.model(self.batch[0]), self.batch[1]), self.weights)

    @contextlib.contextmanager
    def only(self, *names):
        """Freeze all parameters but those whose names end in one of `names`."""
        for name, p in self.model.named_parameters():
            p.requires_grad_(name.endswith(names))
        try:
            yield
        finally:
            self.model.requires_grad_()


def workloads(device, chosen):
    generator = torch.Generator().manual_seed(0)

    def dense(width, depth, activation, scheme):
        return hl.init_(hl.MLP(784, width, depth, 10, activation), scheme, generator=generator)

    def inputs(*shape):
        return torch.randn(*shape, generator=generator)

    makers = {
        1: lambda: Workload("784-128-128-10 ReLU, 512 samples", dense(128, 3, "relu", "he"),
                            inputs(512, 784), 60, device),
        2: lambda: Workload("784-512×8-10 tanh, 512 samples", dense(512, 9, "tanh", "glorot"),
                            inputs(512, 784), 120, device, lambda names: names[::4]),
        3: lambda: Workload("ResNet-18 of width 16 without norm layers, 128 samples of 3×32×32",
                            hl.init_(hl.ResNet18(width=16), "he", generator=generator),
                            inputs(128, 3, 32, 32), 150, device, lambda names: names[::7]),
    }
    return {number: makers[number]() for number in chosen}


class Truth:
    """Answers in float64: products and the eigenvalue by plain double backward and ARPACK, so without any
    of the tools; traces and norms of the layers by our own chain rule, which the peers then confirm."""

    def __init__(self, work):
        model = copy.deepcopy(work.model).double()
        weights, batch = list(model.parameters()), (work.batch[0].double(), work.batch[1])
        gradients = torch.autograd.grad(LOSS(model(batch[0]), batch[1]), weights, create_graph=True)
        sizes = [w.numel() for w in weights]

        def product(vector):
            parts = torch.as_tensor(vector, device=work.device).double().flatten().split(sizes)
            parts = [part.view_as(w) for part, w in zip(parts, weights)]
            found = torch.autograd.grad(gradients, weights, parts, retain_graph=True)
            return torch.cat([part.flatten() for part in found])

        self.products = {k: product(work.vectors[k]) for k in (0, PRODUCTS - 1)}
        start = torch.cat([g.detach().flatten() for g in gradients]).cpu().numpy()
        operator = LinearOperator((work.size,) * 2, lambda v: product(v).cpu().numpy(), dtype=np.float64)
        # ARPACK's tolerance is one on the residual: the eigenvalue's own error is of the order of its square.
        self.eigenvalue = float(eigsh(operator, k=1, which="LM", v0=start, ncv=20, tol=1e-4,
                                      return_eigenvectors=False)[0])
        self.norms = hl.layer_norms(model, LOSS, batch, rtol=1e-5)
        self.trace = sum(hl.layer_traces(model, LOSS, batch).values())
        self.hessian_norms, self.hessian_trace = self.norms, self.trace
        if not work.piecewise_linear:
            generator = torch.Generator(work.device).manual_seed(0)
            self.hessian_norms = {
                name: float(hl.top_eigenvalues(hl.hessian(model, LOSS, batch, layer=name), rtol=1e-3,
                                               generator=generator)[0][0].abs())
                for name in work.loop_layers}
        self.samples = self._samples(work)

    def _samples(self, work):
        """{(matrix, estimator): (products, relative error)} for an error of about TRACE_ERROR.

        At most MOST_SAMPLES products: where they do not suffice, the error is what they reach.
        """
        found = {}
        generator = torch.Generator(work.device).manual_seed(0)
        with work.only("weight"):
            for matrix, build in ("Gauss-Newton", hl.gauss_newton), ("Hessian", hl.hessian):
                estimate, error = hl.trace(build(work.model, LOSS, work.batch), 64, generator=generator)
                spread = float(error / estimate.abs()) * 8
                n = min(MOST_SAMPLES, max(4, math.ceil((spread / TRACE_ERROR) ** 2)))
                found[matrix, "Hutchinson"] = n, spread / math.sqrt(n)
            if not work.piecewise_linear:  # the last estimate, of the Hessian, is all there is to compare with
                self.hessian_trace = float(estimate)
            operator = hl.gauss_newton(work.model, LOSS, work.batch)
            for n in range(6, found["Gauss-Newton", "Hutchinson"][0], 6):
                estimates = [float(hl.trace(operator, n, generator=generator, method="hutch++")[0])
                             for _ in range(3)]
                error = root_mean_square([x / self.trace - 1 for x in estimates])
                if error < TRACE_ERROR:
                    found["Gauss-Newton", "Hutch++"] = n, error
                    break
        return found

    def product_error(self, products):
        """Largest relative error of the first and the last of the products, rows of a matrix."""
        return max(float(torch.linalg.vector_norm(products[k] - true) / torch.linalg.vector_norm(true))
                   for k, true in self.products.items())

    def eigenvalue_error(self, value):
        return abs(value / self.eigenvalue - 1)

    def norms_error(self, norms, matrix="Gauss-Newton"):
        truth = self.norms if matrix == "Gauss-Newton" else self.hessian_norms
        return max(abs(value / truth[name] - 1) for name, value in norms.items())

    def trace_error(self, value, matrix="Gauss-Newton"):
        return value / (self.trace if matrix == "Gauss-Newton" else self.hessian_trace) - 1


# ------------------------------------------------------------------------------------------------- tools
# Each has `jobs(work, truth)`: {job: candidates}, the candidates from cheap to expensive. A candidate is
# (what it is, function of a seed, error of its answer) and, if it is not ERROR, the largest error that it may
# have; a job that a library does not offer is missing.

class Ours:
    name, color, marker = "hessinit_lite", BLUE, "o"

    def jobs(self, work, truth):
        model, batch = work.model, work.batch

        def products(seed):
            operator = hl.hessian(model, LOSS, batch)
            return [operator @ vector for vector in work.vectors]

        def eigenvalue(rtol):
            return lambda seed: float(hl.top_eigenvalues(
                hl.hessian(model, LOSS, batch), rtol=rtol,
                generator=torch.Generator(work.device).manual_seed(seed))[0][0])

        def norms(rtol):
            return lambda seed: hl.layer_norms(model, LOSS, batch, rtol=rtol)

        tolerances = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
        return {
            "product": [("graph of the gradient kept", products, truth.product_error)],
            "together": [("matmat", lambda seed: hl.hessian(model, LOSS, batch).matmat(work.matrix).T,
                          truth.product_error)],
            "eigenvalue": [(f"Lanczos, rtol {r:g}", eigenvalue(r), truth.eigenvalue_error) for r in tolerances],
            "eigenvalue-bound": [("Lanczos, rtol 0.001", eigenvalue(1e-3), truth.eigenvalue_error)],
            "trace": [("exact", lambda seed: sum(hl.layer_traces(model, LOSS, batch).values()),
                       truth.trace_error)],
            "norms": [(f"Lanczos on the factors, rtol {r:g}", norms(r), truth.norms_error) for r in tolerances],
            "norms-bound": [("Lanczos on the factors, rtol 0.001", norms(1e-3), truth.norms_error)],
        }


class PyHessian:
    """Differentiates the gradient of the whole model; a layer by freezing all others. Hessian only."""

    name, color, marker = "PyHessian", ORANGE, "s"

    def __init__(self):
        from pyhessian import hessian
        from pyhessian.utils import hessian_vector_product
        self.hessian, self.product = hessian, hessian_vector_product
        # It leaves the graph in `.grad`; `build` takes it out again.
        warnings.filterwarnings("ignore", "Using backward.. with create_graph=True")

    def build(self, work):
        work.model.zero_grad()
        built = self.hessian(work.model, LOSS, data=work.batch, cuda=work.device == "cuda")
        work.model.zero_grad()
        return built

    def jobs(self, work, truth):
        sizes = [w.numel() for w in work.weights]
        lists = [[part.view_as(w) for part, w in zip(vector.split(sizes), work.weights)]
                 for vector in work.vectors]

        def products(seed):
            built = self.build(work)
            return [self.product(built.gradsH, built.params, vector) for vector in lists]

        def error(products):
            return truth.product_error([torch.cat([part.flatten() for part in p]) for p in products])

        def eigenvalue(tol):
            def run(seed):
                torch.manual_seed(seed)
                return self.build(work).eigenvalues(maxIter=500, tol=tol)[0][0]
            return run

        def norms(tol):
            def run(seed):
                found = {}
                for name in work.loop_layers:
                    with work.only(f"{name}.weight"):
                        found[name] = abs(eigenvalue(tol)(seed))
                return found
            return run

        def trace(samples):
            def run(seed):
                torch.manual_seed(seed)
                with work.only("weight"):
                    return float(np.mean(self.build(work).trace(maxIter=samples, tol=0)))
            return run

        samples, error_of_trace = truth.samples["Hessian", "Hutchinson"]
        tolerances = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
        return {
            "product": [("graph of the gradient kept", products, error)],
            "eigenvalue": [(f"power iteration, tol {t:g}", eigenvalue(t), truth.eigenvalue_error)
                           for t in tolerances],
            "trace": [(f"Hutchinson, {samples} samples, of the Hessian", trace(samples),
                       lambda value: truth.trace_error(value, "Hessian"), 7 * error_of_trace)],
            "norms": [(f"power iteration, tol {t:g}, on the Hessian's blocks", norms(t),
                       lambda found: truth.norms_error(found, "Hessian")) for t in tolerances],
        }


class Curvlinops:
    name, color, marker = "curvlinops", GREEN, "^"

    def __init__(self):
        import curvlinops
        self.library = curvlinops

    def build(self, kind, work, names=None):
        weights = [p for name, p in work.model.named_parameters() if names is None or name.endswith(names)]
        operator = getattr(self.library, f"{kind}LinearOperator")
        return operator(work.model, LOSS, weights, [work.batch], check_deterministic=False,
                        num_data=len(work.batch[0]))

    def jobs(self, work, truth):
        def products(seed):
            operator = self.build("Hessian", work)
            return [operator @ vector for vector in work.vectors]

        def top(operator, basis, tol, seed):
            start = np.random.default_rng(seed).standard_normal(operator.shape[0], dtype=np.float32)
            return float(eigsh(operator.to_scipy(), k=1, which="LM", ncv=basis, tol=tol, v0=start,
                               return_eigenvectors=False)[0])

        def eigenvalue(basis, tol):
            return lambda seed: top(self.build("Hessian", work), basis, tol, seed)

        def norms(basis, tol):
            return lambda seed: {name: top(self.build("GGN", work, f"{name}.weight"), basis, tol, seed)
                                 for name in work.loop_layers}

        def trace(estimator, samples):
            def run(seed):
                torch.manual_seed(seed)
                return float(estimator(self.build("GGN", work, "weight"), samples))
            return run

        # ARPACK's default basis of 20 vectors costs at least 20 products; smaller ones restart earlier.
        settings = ((5, 0.3), (5, 0.1), (5, 0.03), (10, 0.1), (10, 0.01), (20, 0.01), (20, 1e-3))
        found = {
            "product": [("a Jacobian-vector product of the gradient", products, truth.product_error)],
            "together": [("batched by vmap", lambda seed: (self.build("Hessian", work) @ work.matrix).T,
                          truth.product_error)],
            "eigenvalue": [(f"ARPACK, ncv {n}, tol {t:g}", eigenvalue(n, t), truth.eigenvalue_error)
                           for n, t in settings],
            "eigenvalue-bound": [("ARPACK, ncv 10, tol 0.001", eigenvalue(10, 1e-3), truth.eigenvalue_error)],
            "norms": [(f"ARPACK, ncv {n}, tol {t:g}", norms(n, t), truth.norms_error) for n, t in settings],
            "norms-bound": [("ARPACK, ncv 10, tol 0.001", norms(10, 1e-3), truth.norms_error)],
        }
        name, samples = cheapest_estimator(truth, multiple=3)
        estimator = {"Hutchinson": self.library.hutchinson_trace, "Hutch++": self.library.hutchpp_trace}[name]
        found["trace"] = [(f"{name}, {samples} products", trace(estimator, samples), truth.trace_error,
                           5 * TRACE_ERROR)]
        return found


class EigenThings:
    name, color, marker = "hessian-eigenthings", PURPLE, "D"

    def __init__(self):
        import hessian_eigenthings
        self.library = hessian_eigenthings

    def hessian(self, work, names="*"):
        return self.library.HessianOperator(work.model, [work.batch], self.library.supervised_loss(LOSS),
                                            param_filter=self.library.match_names(names))

    def gauss_newton(self, work, names="*"):
        return self.library.GGNOperator(
            work.model, [work.batch], self.library.supervised_forward,
            self.library.supervised_loss_of_output(LOSS), param_filter=self.library.match_names(names))

    def jobs(self, work, truth):
        # Its Hessian products are the cheaper ones, so they are used where both matrices have these blocks.
        block = self.hessian if work.piecewise_linear else self.gauss_newton

        def products(seed):
            operator = self.hessian(work)
            return [operator @ vector for vector in work.vectors]

        def top(operator, steps, seed, bound):
            found = self.library.lanczos(operator, k=1, max_iter=steps, tol=ERROR, seed=seed)
            return float(found.eigenvalues[0]) if bool(found.converged[0]) or not bound else math.nan

        def eigenvalue(steps, bound=False):
            return lambda seed: top(self.hessian(work), steps, seed, bound)

        def norms(steps, bound=False):
            return lambda seed: {name: abs(top(block(work, f"{name}.weight"), steps, seed, bound))
                                 for name in work.loop_layers}

        def trace(method, samples):
            return lambda seed: self.library.trace(self.gauss_newton(work, "*weight"), num_matvecs=samples,
                                                   method=method, seed=seed).estimate

        name, samples = cheapest_estimator(truth, multiple=3)
        steps = (4, 6, 8, 10, 12, 15, 20, 30, 50)
        return {
            "product": [("graph built for every product", products, truth.product_error)],
            "eigenvalue": [(f"Lanczos, {n} steps", eigenvalue(n), truth.eigenvalue_error) for n in steps],
            "eigenvalue-bound": [(f"Lanczos, {n} steps", eigenvalue(n, True), truth.eigenvalue_error)
                                 for n in steps],
            "trace": [(f"{name}, {samples} products", trace(name.lower(), samples), truth.trace_error,
                       5 * TRACE_ERROR)],
            "norms": [(f"Lanczos, {n} steps", norms(n), truth.norms_error) for n in steps],
            "norms-bound": [(f"Lanczos, {n} steps", norms(n, True), truth.norms_error) for n in steps],
        }


def cheapest_estimator(truth, multiple):
    """The estimator of the Gauss-Newton trace that needs the fewest products, and how many."""
    found = {name: n for (matrix, name), (n, _) in truth.samples.items() if matrix == "Gauss-Newton"}
    name = min(found, key=found.get)
    return name, math.ceil(found[name] / multiple) * multiple


TOOLS = (Ours, PyHessian, Curvlinops, EigenThings)
STYLE = {tool.name: (tool.color, tool.marker) for tool in TOOLS}


# ----------------------------------------------------------------------------------------------- measuring

def root_mean_square(values):
    return math.sqrt(statistics.fmean(value**2 for value in values))


def seconds(function, device, times=1):
    """`(seconds per call, last answer)`."""
    start = time.perf_counter()
    for _ in range(times):
        answer = function()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times, answer


class Entry:
    """A job of a tool: its setting, ratios to the gradient, errors, and peak memory."""

    def __init__(self, tool, job, work, setting, run, error, limit=ERROR):
        self.tool, self.job, self.work = tool, job, work
        self.setting, self.run, self.error, self.limit = setting, run, error, limit
        self.ratios, self.errors, self.memory = [], [], None
        # A loop over some layers stands for one over all of them.
        self.scale = 1 / PRODUCTS if job == "product" else 1.0
        if job.startswith("norms") and tool != Ours.name:
            self.scale = len(work.layers) / len(work.loop_layers)

    def try_out(self, seed):
        """Whether the answer for a seed is good enough; notes the memory, and warms the tool up."""
        answers = []
        used = peak_memory(lambda: answers.append(self.run(seed)), self.work.device)
        if used is not None:  # a first call loads code and tables, too: the smaller number is the job's
            self.memory = used if self.memory is None else min(used, self.memory)
        self.errors.append(self.error(answers[0]))
        return abs(self.errors[-1]) < self.limit

    def measure(self, seed, gradients):
        """One run between two gradients."""
        device = self.work.device
        before, _ = seconds(self.work.gradient, device, gradients)
        spent, answer = seconds(lambda: self.run(seed), device)
        after, _ = seconds(self.work.gradient, device, gradients)
        self.ratios.append(spent * self.scale / ((before + after) / 2))
        self.errors.append(self.error(answer))

    def record(self):
        size = root_mean_square if self.job == "trace" else max
        return dict(tool=self.tool, job=self.job, setting=self.setting, ratios=self.ratios,
                    error=size([abs(error) for error in self.errors]), memory=self.memory,
                    scale=self.scale)


def choose(tool, job, candidates, work, seeds):
    """The first candidate that is good enough for all seeds; None if there is none."""
    for candidate in candidates:
        entry = Entry(tool.name, job, work, *candidate)
        if all(entry.try_out(seed) for seed in seeds):
            return entry
    return None


def peak_memory(function, device):
    """Peak bytes that a call takes beyond what was in use before it; None where it cannot be seen.

    On the CPU the kernel's own high-water mark of resident memory, reset before the call (Linux): it sees
    torch's, NumPy's and SciPy's allocations alike. What the C library keeps for reuse is handed back first,
    else a call could live on memory that was counted before. On a GPU torch's allocator keeps the mark.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    if sys.platform != "linux":
        return None
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    function()
    return _resident("VmHWM") - before


def _resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def measure(work, quick, wanted=JOBS):
    """The wanted jobs of one workload, as a record for results.json."""
    notes, entries = [], []
    for _ in range(3):
        once, _ = seconds(work.gradient, work.device)
    gradients = max(1, round(0.01 / once))  # so that the clock's and the scheduler's grain do not show
    truth = Truth(work)
    seeds = range(2 if quick or once > 0.1 else 3)
    for make in TOOLS:
        try:
            tool = make()
        except ImportError as error:
            notes.append(f"{make.name} was not run, it cannot be imported here: {error}")
            continue
        jobs = {job: found for job, found in tool.jobs(work, truth).items() if job in wanted}
        for job, candidates in tqdm(jobs.items(), desc=tool.name, leave=False):
            try:
                entry = choose(tool, job, candidates, work, seeds)
            except Exception as error:  # a peer that fails is a result, too: the table says so
                notes.append(f"{tool.name}, {JOBS[job]}: stopped with {type(error).__name__}: {error}")
                continue
            if entry is None:
                notes.append(f"{tool.name}, {JOBS[job]}: no setting was good enough; not timed")
            else:
                entries.append(entry)
    repeat(entries, work, gradients, quick)
    return dict(
        title=work.title, device=work.device, machine=machine(work.device), quick=quick,
        date=datetime.date.today().isoformat(), gradient=once, parameters=work.size,
        layers=len(work.layers), loop_layers=len(work.loop_layers), piecewise_linear=work.piecewise_linear,
        budgets=budgets(work), entries=[entry.record() for entry in entries], notes=notes)


def repeat(entries, work, gradients, quick):
    """Measure in random turns, every entry as often as fits into its share of the workload's seconds."""
    share = work.seconds / (4 if quick else 1) / len(entries)
    turns = []
    for number, entry in enumerate(entries):
        start = time.perf_counter()
        entry.measure(100, gradients)
        more = min(20, int(share / (time.perf_counter() - start)) - 1)
        draw = random.Random(number)
        turns += [((k + draw.random()) / more, k, entry) for k in range(more)]
    for _, k, entry in tqdm(sorted(turns, key=lambda turn: turn[0]), desc="repeats", leave=False):
        entry.measure(101 + k, gradients)


def budgets(work):
    """Peak bytes beyond matrix and result of our products together, for budgets given to `matmat`."""
    found = {}
    operator = hl.hessian(work.model, LOSS, work.batch)
    for budget in (2**24, 2**26, 2**28, 2**30):
        used = peak_memory(lambda: operator.matmat(work.matrix, memory=budget), work.device)
        if used is not None:
            found[budget] = used - work.matrix.nbytes
    return found


def machine(device):
    if device == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"


# -------------------------------------------------------------------------------------------------- growth

SCALED = {
    "depth": ("weight matrices", (3, 6, 12, 24, 48)),
    "width": ("units a layer", (64, 128, 256, 512, 1024)),
    "samples": ("samples", (64, 128, 256, 512, 1024, 2048)),
    "classes": ("classes", (10, 30, 100, 300, 1000, 3000, 10_000)),
    "ranks": ("processes", tuple(2**k for k in range(8) if 2**k <= os.cpu_count())),
}
BASE = dict(depth=6, width=256, samples=256, classes=10)
COLUMNS, RTOL = 16, 1e-2
SCALED_JOBS = {
    "gradient": ("#777777", "x"), "product": (BLUE, "o"), "products together": (SKY, "v"),
    "largest eigenvalue": (ORANGE, "s"), "all traces": (GREEN, "^"),
    f"all traces, {COLUMNS} random columns": (GREEN, "*"), "all norms": (PURPLE, "D"),
}


def growth(device, quick, axes):
    """{axis: {"points": {job: [[size, seconds], ...]}, "memory": {job: bytes at the largest size}, ...}}.

    Medians of our jobs on dense tanh nets. On a CPU they are CPU seconds of one thread, which other
    processes lengthen far less than they do the seconds of a clock; over ranks seconds of a clock.
    """
    found, threads = {}, torch.get_num_threads()
    for axis in tqdm(axes, desc="growth", leave=False):
        points, memory = {job: [] for job in SCALED_JOBS}, {}
        sizes = SCALED[axis][1][::2] if quick else SCALED[axis][1]
        torch.set_num_threads(1 if device == "cpu" else threads)
        for size in tqdm(sizes, desc=axis, leave=False):
            if axis == "ranks":
                rows = cost.torchrun(size, "times")[1]
                points["product"].append([size, statistics.median(rows[-1]["product"])])
                continue
            for job, function in _scaled_jobs(**{**BASE, axis: size}, device=device).items():
                answer = function()  # warms up
                if job == "all traces" and any(isinstance(each, hl.Estimate) for each in answer.values()):
                    continue  # no longer exact
                points[job].append([size, statistics.median(_times(function, device, quick))])
                if size == sizes[-1]:
                    memory[job] = peak_memory(function, device)
        found[axis] = {"points": {job: each for job, each in points.items() if each}, "memory": memory,
                       "machine": machine(device), "date": datetime.date.today().isoformat(), "quick": quick,
                       "rtol": RTOL, "clock": "CPU" if device == "cpu" and axis != "ranks" else "wall",
                       "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}
        torch.set_num_threads(threads)
    return found


def _times(function, device, quick):
    """Seconds of 3 calls or more, of one where it takes long."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times, stop = [], 0.1 if quick else 0.4
    while (len(times) < 3 or sum(times) < stop) and sum(times) < 3:
        start = clock()
        seconds(function, device)
        times.append(clock() - start)
    return times


def _scaled_jobs(depth, width, samples, classes, device):
    generator = torch.Generator().manual_seed(0)
    model = hl.init_(hl.MLP(784, width, depth, classes, "tanh"), "glorot", generator=generator).to(device)
    batch = (torch.randn(samples, 784, generator=generator).to(device),
             torch.randint(classes, (samples,), generator=generator).to(device))
    weights = list(model.parameters())
    matrix = torch.randn(sum(w.numel() for w in weights), PRODUCTS, generator=generator).to(device)
    operator = hl.hessian(model, LOSS, batch)
    return {
        "gradient": lambda: torch.autograd.grad(LOSS(model(batch[0]), batch[1]), weights),
        "product": lambda: operator @ matrix[:, 0],
        "products together": lambda: operator.matmat(matrix),
        "largest eigenvalue": lambda: hl.top_eigenvalues(
            hl.hessian(model, LOSS, batch), generator=torch.Generator(device).manual_seed(0)),
        "all traces": lambda: hl.layer_traces(model, LOSS, batch),
        f"all traces, {COLUMNS} random columns": lambda: hl.layer_traces(model, LOSS, batch, samples=COLUMNS),
        "all norms": lambda: hl.layer_norms(model, LOSS, batch, rtol=RTOL),
    }


# --------------------------------------------------------------------------------------------- many classes

def vocabularies():
    """{title: (model, batch)} of nets with 8,000 classes."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randint(8000, shape, generator=generator)
    dense = hl.init_(hl.MLP(64, 128, 3, 8000, "tanh"), "glorot", generator=generator)
    torch.manual_seed(0)
    gpt = hl.GPT(8000, 64, 2, 4, 32)
    return {"64-128-128-8,000 tanh, 128 samples": (dense, (torch.randn(128, 64, generator=generator), draw(128))),
            "GPT of width 64, 2 blocks, 8,000 tokens, 16 texts of 32": (gpt, (draw(16, 32), draw(16, 32)))}


@contextlib.contextmanager
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def many_classes(quick, nets=None):
    """[{model, job, seconds, gradients, memory, error}] in CPU seconds of one thread.

    Errors are relative, the largest of all layers: of traces the standard error that comes with them, of norms
    the distance to those of rtol=1e-4.
    """
    rows = []
    for title, (model, batch) in (nets or vocabularies()).items():
        weights = list(model.parameters())
        exact = hl.layer_norms(model, LOSS, batch, rtol=1e-4)
        of_trace = lambda found: max(each.error / each for each in found.values())
        of_norm = lambda found: max(abs(each / exact[name] - 1) for name, each in found.items())
        jobs = {
            "gradient": (lambda: torch.autograd.grad(LOSS(model(batch[0]), batch[1]), weights), None),
            **{f"all traces, {n} random columns": (
                lambda n=n: hl.layer_traces(model, LOSS, batch, samples=n), of_trace) for n in (8, 16)},
            **{f"all norms, rtol {r:g}": (lambda r=r: hl.layer_norms(model, LOSS, batch, rtol=r), of_norm)
               for r in (0.1, 0.01)},
        }
        base = None
        for job, (function, error) in jobs.items():
            answer = []
            memory = peak_memory(lambda: answer.append(function()), "cpu")  # warms up, too
            cpu = statistics.median(_times(function, "cpu", quick))
            base = base or cpu
            rows.append({"model": title, "job": job, "seconds": cpu, "gradients": cpu / base,
                         "memory": memory, "error": error and error(answer[0])})
    return {"rows": rows, "machine": machine("cpu"), "date": datetime.date.today().isoformat(),
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}


def many_classes_table(results):
    found = results["many classes"]
    load = "" if found["load"] is None else f"; load average {found['load']:.0f} of {os.cpu_count()} cores"
    lines = []
    for title in dict.fromkeys(row["model"] for row in found["rows"]):
        lines += [f"| {title} | gradients | CPU seconds | error | peak memory (MB) |", "|---|---|---|---|---|"]
        for row in found["rows"]:
            if row["model"] == title:
                memory = "–" if row["memory"] is None else f"{row['memory'] / 1e6:.0f}"
                error = "" if row["error"] is None else f"{100 * row['error']:.2g} %"
                lines.append(f"| {row['job']} | {number(row['gradients'])} | {number(row['seconds'])} | {error} "
                             f"| {memory} |")
        lines.append("")
    where = found["machine"].split(",")[0]
    lines += [f"On {where}, one thread; {found['date']}{load}. Errors are the largest of all layers: of a trace its "
              "standard error, of a norm its distance to that of rtol 0.0001.", ""]
    return "\n".join(lines)


@one_thread()
def solver(quick, depths=(10, 30, 100), activations=("relu", "tanh", "gelu"), width=64):
    """[{depth, activation, reached, starts, measurements, gradients}]: what `hl.hessian_init_` costs.

    For dense nets on 128 digits from its default start; medians over the starts, in CPU seconds of one thread
    over those of a gradient of the same batch. `reached` counts the starts that came to the target.
    """
    rows = []
    batch, starts = hl.digits().batch(128), 3 if quick else 5
    for depth in depths:
        for activation in activations:
            costs, reports = [], []
            for start in range(starts):
                model, generator = hl.MLP(64, width, depth, 10, activation), torch.Generator().manual_seed(start)
                hl.init_(model, "forward", generator=generator)
                gradient = lambda: torch.autograd.grad(LOSS(model(batch[0]), batch[1]), list(model.parameters()))
                base = statistics.median(_times(gradient, "cpu", quick))
                from_ = time.process_time()
                reports.append(hl.hessian_init_(model, LOSS, batch, generator=generator))
                costs.append((time.process_time() - from_) / base)
            rows.append({"depth": depth, "activation": activation, "starts": starts,
                         "reached": sum(each.converged for each in reports),
                         "measurements": statistics.median(each.steps for each in reports),
                         "gradients": statistics.median(costs)})
    return {"rows": rows, "machine": machine("cpu"), "date": datetime.date.today().isoformat()}


def solver_table(results):
    found = results["solver"]
    lines = ["| depth | activation | target reached | measurements | gradients | a measurement |",
             "|---|---|---|---|---|---|"]
    for row in found["rows"]:
        lines.append(f"| {row['depth']} | {row['activation']} | {row['reached']} of {row['starts']} "
                     f"| {number(row['measurements'])} | {number(row['gradients'])} "
                     f"| {number(row['gradients'] / row['measurements'])} |")
    where = found["machine"].split(",")[0]
    return "\n".join([*lines, "", f"On {where}, one thread; {found['date']}. Medians over the starts.", ""])


def exponent(points):
    """(p, half its 95 % interval) of a power law size^p through [[size, seconds], ...].

    Least squares of logarithms with Student's t; the half is None for fewer than three sizes. The scatter
    about the line is mostly that a cost is no power law, so the interval is one for these sizes only.
    """
    fit = linregress(*np.log(np.array(points)).T)
    if len(points) < 3:
        return float(fit.slope), None
    return float(fit.slope), float(student.ppf(0.975, len(points) - 2) * fit.stderr)


# --------------------------------------------------------------------------------------------- the report

def middle(entry):
    return statistics.median(entry["ratios"])


def quartiles(entry):
    if len(entry["ratios"]) < 2:
        return entry["ratios"][0], entry["ratios"][0]
    low, _, high = statistics.quantiles(entry["ratios"], n=4, method="inclusive")
    return low, high


def lookup(work):
    """{(job, tool): entry}; a tool that makes products one by one makes them so together as well."""
    found = {(entry["job"], entry["tool"]): entry for entry in work["entries"]}
    for tool in STYLE:
        if ("product", tool) in found and ("together", tool) not in found:
            alone = found["product", tool]
            found["together", tool] = {**alone, "setting": "one by one, " + alone["setting"],
                                       "ratios": [PRODUCTS * ratio for ratio in alone["ratios"]]}
    return found


def number(value):
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 9.95 else f"{value:.2g}"


def verdict(job, found):
    """A sentence: who is fastest at a job, and by how much; none without peers."""
    ours = found.get((job, Ours.name))
    peers = [entry for (other, tool), entry in found.items() if other == job and tool != Ours.name]
    if ours is None or not peers:
        return None
    best = min(peers, key=middle)
    slower, faster = (best, ours) if middle(ours) < middle(best) else (ours, best)
    times = f"{number(middle(slower) / middle(faster))} times"
    if quartiles(faster)[1] >= quartiles(slower)[0]:
        return f"{JOBS[job]}: {Ours.name} and {best['tool']} are about equal (their quartiles overlap)"
    if middle(slower) < 1.05 * middle(faster):
        return f"{JOBS[job]}: {Ours.name} and {best['tool']} are within 5 % of each other"
    if faster is ours:
        return f"{JOBS[job]}: {Ours.name} is the fastest, by {times} over {best['tool']}"
    return f"{JOBS[job]}: {best['tool']} is faster than {Ours.name}, by {times}"


def table(results):
    """The page's generated part, in Markdown."""
    lines = []
    for work in results["workloads"].values():
        found = lookup(work)
        tools = [tool for tool in STYLE if any(name == tool for _, name in found)]
        fewest, most = (pick(len(e["ratios"]) for e in work["entries"]) for pick in (min, max))
        lines += [f"## {work['title']}", "",
                  f"On {work['machine']}; {work['date']}{', a quick run' if work['quick'] else ''}; "
                  f"{work['parameters']:,} parameters; a gradient takes {1e3 * work['gradient']:.3g} ms. "
                  f"Medians of {fewest} to {most} paired runs, quartiles in brackets; "
                  "costs in gradients, so less is better; the smallest of a row in bold.", "",
                  "| | " + " | ".join(tools) + " |", "|---|" + "---|" * len(tools)]
        for job, title in JOBS.items():
            row = {tool: found[job, tool] for tool in tools if (job, tool) in found}
            cells = []
            for tool in tools:
                if tool not in row:
                    cells.append("not offered" if (job != "eigenvalue-bound" or tool != "PyHessian")
                                 else "no bound")
                    continue
                text = number(middle(row[tool]))
                text = f"**{text}**" if row[tool] is min(row.values(), key=middle) else text
                low, high = quartiles(row[tool])
                cells.append(f"{text} ({number(low)}–{number(high)})")
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
        lines += ["", *(f"- {text}." for text in (verdict(job, found) for job in JOBS) if text), ""]
        lines += details(work, found, tools)
    if not any(work["device"] == "cuda" for work in results["workloads"].values()):
        lines += ["Not run on a GPU: none was at hand. The script measures the same table there when it finds "
                  "one.", ""]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines += [f"Versions: {versions}.", ""]
    return "\n".join(lines)


def details(work, found, tools):
    lines = [":::{admonition} Settings, errors and memory", ":class: dropdown", "",
             "| job | tool | setting | error | peak memory (MB) |", "|---|---|---|---|---|"]
    for job, title in JOBS.items():
        for tool in tools:
            if (job, tool) in found:
                entry = found[job, tool]
                memory = "–" if entry["memory"] is None else f"{entry['memory'] / 1e6:.0f}"
                lines.append(f"| {title} | {tool} | {entry['setting']} | {entry['error']:.1e} | {memory} |")
    lines += ["", "Errors are relative, the largest of all runs (of products: to float64's; of a trace: root "
                  "mean square)."]
    if not work["piecewise_linear"]:
        lines.append("PyHessian knows the Hessian only, whose blocks and trace differ from Gauss-Newton's on "
                     "this net: its errors are to the Hessian's own.")
    if work["loop_layers"] < work["layers"]:
        lines.append(f"The peers' loops over layers were run for {work['loop_layers']} of the {work['layers']} "
                     "layers, and their cost scaled up; their memory is that of a layer anyway.")
    if work["budgets"]:
        pairs = ", ".join(f"{int(budget) / 1e6:.0f} MB: {used / 1e6:.0f} MB"
                          for budget, used in work["budgets"].items())
        lines.append(f"Our {PRODUCTS} products together within a budget (`memory=`): peak beyond matrix and "
                     f"result, {pairs}.")
    lines += [f"{note}." for note in work["notes"]]
    return [*lines, ":::", ""]


def costs_figure(results):
    """One row a job, one panel a workload: medians and quartiles of every tool, in gradients."""
    works = list(results["workloads"].values())
    figure = Figure(figsize=(7.2, 0.9 + 2.6 * len(works)), layout="constrained")
    for ax, work in zip(figure.subplots(len(works), 1, squeeze=False)[:, 0], works):
        found = lookup(work)
        for row, job in enumerate(JOBS):
            for shift, (tool, (color, marker)) in enumerate(STYLE.items()):
                if (job, tool) in found:
                    entry = found[job, tool]
                    y = row + 0.18 * (shift - 1.5)
                    ax.plot(quartiles(entry), (y, y), color=color, lw=2)
                    ax.plot(middle(entry), y, color=color, marker=marker, ms=5, ls="",
                            label=tool if row == 0 else None)
        ax.set(xscale="log", ylim=(len(JOBS) - 0.5, -0.5),
               yticks=range(len(JOBS)), yticklabels=[short(job) for job in JOBS])
        ax.set_title(f"{work['title']} ({work['device'].upper()})", fontsize=9)
        ax.set_xlabel("cost (gradients)")
        ax.grid(alpha=0.25, axis="x")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def short(job):
    return {"product": "a product", "together": f"{PRODUCTS} together", "eigenvalue": "top eigenvalue",
            "eigenvalue-bound": "… with bound", "trace": "trace", "norms": "all layers' norms",
            "norms-bound": "… with bounds"}[job]


def signed(value, digits=2):
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def growth_figure(results):
    """How our jobs grow; each line ends in its fitted exponent."""
    shown = {axis: found["points"] for axis, found in results["growth"].items() if axis != "ranks"}
    figure = Figure(figsize=(7.2, 3.2 * math.ceil(len(shown) / 2)), layout="constrained")
    grid = figure.subplots(math.ceil(len(shown) / 2), 2, sharey=True, squeeze=False)
    for number, (ax, (axis, curves)) in enumerate(zip(grid.flat, shown.items())):
        ends, lowest = [], -math.inf
        for job, points in curves.items():
            color, marker = SCALED_JOBS[job]
            sizes, times = zip(*points)
            ax.loglog(sizes, [1e3 * t for t in times], color=color, marker=marker, ms=4, label=job)
            ends.append((math.log10(1e3 * times[-1]), sizes[-1], exponent(points)[0], color))
        for height, end, power, color in sorted(ends):  # numbers of lines that end close together are moved apart
            lowest = max(height, lowest + 0.3)
            ax.annotate(signed(power), (end, 10**lowest), xytext=(6, -3),
                        textcoords="offset points", color=color, fontsize=8)
        sizes = [size for size, _ in curves["gradient"]]
        ax.set(xlabel=SCALED[axis][0], ylabel="" if number % 2 else "time (ms)",
               xlim=(sizes[0] / 1.2, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.2))
        ax.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8 if len(sizes) > 6 else None)
        ax.minorticks_off()
        ax.grid(alpha=0.25)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def growth_table(results):
    """The exponents with their intervals, and what the largest number of classes costs, in Markdown."""
    found = results["growth"]
    axes = [axis for axis in SCALED if axis in found]
    lines = ["| exponent in | " + " | ".join(axes) + " |", "|---|" + "---|" * len(axes)]
    for job in SCALED_JOBS:
        cells = []
        for axis in axes:
            points = found[axis]["points"].get(job, [])
            power, half = exponent(points) if len(points) > 1 else (None, None)
            cells.append("" if power is None else signed(power) + ("" if half is None else f" ± {half:.2f}"))
        lines += [f"| {job} | " + " | ".join(cells) + " |"] if any(cells) else []
    lines.append("")
    for axis in axes:
        each, load = found[axis], ""
        if each["load"] is not None:
            load = f", load average {each['load']:.0f} of {os.cpu_count()} cores"
        lines.append(f"- {axis}: {each['machine']}, {each['clock']} seconds, norms to rtol "
                     f"{each['rtol']:g}, {each['date']}{load}.")
    lines += ["", "Intervals are Student's, of 95 %, from the scatter about the line.", ""]
    if found.get("classes", {}).get("memory"):
        points, memory = found["classes"]["points"], found["classes"]["memory"]
        size, base = points["gradient"][-1]
        lines += [f"| at {size:,} classes | gradients | CPU seconds | peak memory (MB) |", "|---|---|---|---|"]
        for job, each in points.items():
            if each[-1][0] == size:
                used = "–" if memory.get(job) is None else f"{memory[job] / 1e6:.0f}"
                lines.append(f"| {job} | {number(each[-1][1] / base)} | {number(each[-1][1])} | {used} |")
    return "\n".join([*lines, ""])


def write(results):
    OUT.mkdir(exist_ok=True)
    (OUT / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (OUT / "table.md").write_text(table(results))
    figures = {"costs": costs_figure}
    if results["growth"]:
        figures["growth"] = growth_figure
        (OUT / "growth.md").write_text(growth_table(results))
    if "many classes" in results:
        (OUT / "many-classes.md").write_text(many_classes_table(results))
    if "solver" in results:
        (OUT / "solver.md").write_text(solver_table(results))
    for name, draw in figures.items():
        svg = drawn(lambda: draw(results), {}, to_svg)
        (OUT / f"{name}.svg").write_text(svg.replace("currentColor", "#1f2328"))
        (OUT / f"{name}-dark.svg").write_text(svg.replace("currentColor", "#d6d9dd"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the repeats")
    parser.add_argument("--only", choices=("1", "2", "3", "growth", "many", "solver"),
                        help="only this workload, how our times grow, many classes, or the solver; what is stored of the others stays")
    parser.add_argument("--job", action="append", choices=tuple(JOBS),
                        help="only these jobs; what is stored of a workload's others stays")
    parser.add_argument("--axis", action="append", choices=tuple(SCALED),
                        help="only how times grow along these; what is stored of the others stays")
    parser.add_argument("--redraw", action="store_true", help="table and figures from results.json alone")
    options = parser.parse_args()
    stored = OUT / "results.json"
    results = json.loads(stored.read_text()) if stored.exists() else {"workloads": {}, "growth": {}}
    if not options.redraw:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            chosen = [number for number in (1, 2, 3) if options.only in (None, str(number))]
            for number, work in workloads(device, chosen).items():
                found, key = measure(work, options.quick, options.job or JOBS), f"{number} {device}"
                if options.job:
                    others = [e for e in results["workloads"][key]["entries"] if e["job"] not in options.job]
                    found = {**results["workloads"][key], "entries": others + found["entries"],
                             "budgets": found["budgets"]}
                results["workloads"][key] = found
        if options.only in (None, "growth"):
            results["growth"] |= growth("cpu", options.quick, options.axis or SCALED)
            results["growth"] = {axis: results["growth"][axis] for axis in SCALED if axis in results["growth"]}
        if options.only in (None, "many"):
            results["many classes"] = many_classes(options.quick)
        if options.only in (None, "solver"):
            results["solver"] = solver(options.quick)
        results["workloads"] = dict(sorted(results["workloads"].items()))
        if options.only not in ("growth", "many", "solver"):
            results["versions"] = {name: importlib.metadata.version(name) for name in (
                "torch", "hessinit-lite", "PyHessian", "curvlinops-for-pytorch", "hessian-eigenthings", "scipy")}
    write(results)
    print(table(results))


if __name__ == "__main__":
    main()
