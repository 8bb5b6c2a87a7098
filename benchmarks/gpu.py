"""Everything that wants a GPU, in half an hour: python benchmarks/gpu.py

In this order, each part with its share of the time, and stored as soon as it is done:

1. the tests that need CUDA;
2. peers.py's three workloads on the GPU (peers that are not installed are left out);
3. floors: for each of our jobs its operations and its bytes, counted as it runs, over the card's measured
   ceilings, beside the seconds that it takes;
4. the kept product as a CUDA graph, and the product compiled by `torch.compile`, beside the plain one;
5. a ResNet-18 of width 64 and a GPT of 1.2·10⁸ parameters with 32,000 tokens: products, the largest
   eigenvalue, all traces from random columns, norms of a few layers.

Writes book/how-fast/gpu.json and gpu.md (or to --out). `--tiny --device cpu` runs all of it in a minute
at sizes that say nothing, to see that it works; CUDA's own parts are then skipped, and said to be.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
import traceback
from pathlib import Path

import peers
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import hessinit_lite as hl
from hessinit_lite.chain_rule import curved_weights

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 1800  # seconds in all


class Bytes(TorchDispatchMode):
    """Counts the bytes that operations read and write, each as if nothing were kept in a cache."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if not function.is_view:
            leaves = torch.utils._pytree.tree_leaves((args, kwargs, found))
            self.count += sum(x.numel() * x.element_size() for x in leaves if isinstance(x, torch.Tensor))
        return found


class Bench:
    """One run: a device, sizes, and what has been found so far."""

    def __init__(self, device, tiny, out):
        self.device, self.tiny, self.out, self.start = device, tiny, Path(out), time.perf_counter()
        self.found = {"machine": peers.machine(device), "torch": torch.__version__, "tiny": tiny,
                      "date": datetime.date.today().isoformat(), "parts": {}}

    def left(self):
        return LIMIT - (time.perf_counter() - self.start)

    def seconds(self, function, budget=2.0):
        """The median of as many calls as fit into `budget` seconds, three at least; one warms up."""
        peers.seconds(function, self.device)
        times = []
        while len(times) < 3 or sum(times) < (0.05 if self.tiny else budget):
            times.append(peers.seconds(function, self.device)[0])
        return statistics.median(times)

    def run(self, name, function):
        """A part of the run. One that fails says how; the next ones run all the same."""
        start = time.perf_counter()
        try:
            found = function(self) if self.left() > 60 else {"left out": "no time was left"}
        except Exception as error:  # stored, shown in the table, and told by the exit status
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {error}"}
        self.found["parts"][name] = {**found, "seconds": time.perf_counter() - start}
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu.json").write_text(json.dumps(self.found, indent=1) + "\n")
        (self.out / "gpu.md").write_text(table(self.found))
        print(f"{name}: {found}", flush=True)


def tests(bench):
    if bench.device != "cuda":
        return {"left out": "no CUDA device"}
    command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda or gpu or device", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    return {"status": done.returncode, "says": done.stdout.strip().splitlines()[-1:]}


def workloads(bench):
    if bench.device != "cuda":
        return {"left out": "peers.py measures them here"}
    found = {}
    for number, work in peers.workloads("cuda", (1, 2, 3)).items():
        work.seconds = 60
        found[f"{number} cuda"] = peers.measure(work, quick=True)
    return {"workloads": found}


def ceilings(bench):
    """Operations and bytes a second that the device reaches: a product of large matrices, a copy."""
    size = 256 if bench.tiny else 8192
    a, b = (torch.randn(size, size, device=bench.device) for _ in range(2))
    long = torch.randn(2**20 if bench.tiny else 2**28, device=bench.device)
    other = torch.empty_like(long)
    return {"operations": 2 * size**3 / bench.seconds(lambda: a @ b),
            "bytes": 2 * long.nbytes / bench.seconds(lambda: other.copy_(long))}


def dense(bench, depth=4, width=2048, samples=1024, classes=10):
    if bench.tiny:
        width, samples = 32, 16
    generator = torch.Generator().manual_seed(0)
    model = hl.init_(hl.MLP(784, width, depth, classes, "tanh"), "glorot", generator=generator)
    batch = (torch.randn(samples, 784, generator=generator),
             torch.randint(classes, (samples,), generator=generator))
    return model.to(bench.device), tuple(x.to(bench.device) for x in batch)


def questions(model, batch, layers=None):
    """{job: function} of what is asked of a model."""
    weights = [p for p in model.parameters() if p.requires_grad]
    operator = hl.hessian(model, F.cross_entropy, batch)
    vector = torch.randn(operator.shape[0], device=operator.device)
    return {
        "gradient": lambda: torch.autograd.grad(F.cross_entropy(model(batch[0]), batch[1]), weights),
        "product": lambda: operator @ vector,
        "largest eigenvalue": lambda: hl.top_eigenvalues(
            hl.hessian(model, F.cross_entropy, batch), rtol=1e-2,
            generator=torch.Generator(operator.device).manual_seed(0)),
        "all traces, 16 random columns": lambda: hl.layer_traces(model, F.cross_entropy, batch, samples=16),
        "norms of three layers": lambda: hl.layer_norms(model, F.cross_entropy, batch, rtol=1e-2, layers=layers),
    }


def some(model):
    """The first weight, one in the middle, the last."""
    names = list(curved_weights(model))
    return sorted({names[0], names[len(names) // 2], names[-1]})


def floors(bench):
    """Seconds of each job, and what its operations and bytes would take at the ceilings."""
    top = ceilings(bench)
    model, batch = dense(bench)
    found = {"ceilings": top, "jobs": {}}
    for job, function in questions(model, batch, some(model)).items():
        with FlopCounterMode(display=False) as flops:
            function()
        with Bytes() as moved:
            function()
        found["jobs"][job] = {"seconds": bench.seconds(function),
                              "operations": flops.get_total_flops() / top["operations"],
                              "bytes": moved.count / top["bytes"]}
    return found


def graphs(bench):
    """The kept product as it is, replayed as a CUDA graph, and compiled from `torch.func`."""
    model, batch = dense(bench, width=128, samples=512)
    operator = hl.hessian(model, F.cross_entropy, batch)
    v = torch.randn(operator.shape[0], device=bench.device)
    expected = operator @ v
    found = {"plain": bench.seconds(lambda: operator @ v)}

    def compare(name, product):
        error = float(torch.linalg.vector_norm(product() - expected) / torch.linalg.vector_norm(expected))
        found[name] = bench.seconds(product)
        found[f"{name}, relative error"] = error

    if bench.device == "cuda":
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                operator @ v
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = operator @ v
        compare("CUDA graph", lambda: (graph.replay(), result)[1])
    compare("torch.compile", compiled(model, batch, v))
    return found


def compiled(model, batch, vector):
    """The product from forward over reverse mode, compiled."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    parts = vector.split([p.numel() for p in weights.values()])
    tangent = {name: part.view_as(p) for (name, p), part in zip(weights.items(), parts)}
    gradient = torch.func.grad(
        lambda w: F.cross_entropy(torch.func.functional_call(model, w, batch[0]), batch[1]))
    product = torch.compile(lambda w, t: torch.func.jvp(gradient, (w,), (t,))[1])
    return lambda: torch.cat([part.flatten() for part in product(weights, tangent).values()])


def nets(bench):
    """A ResNet-18 of width 64, and a GPT of 1.2·10⁸ parameters."""
    generator, tiny = torch.Generator().manual_seed(0), bench.tiny
    side, samples = (8, 4) if tiny else (32, 256)
    resnet = hl.init_(hl.ResNet18(width=4 if tiny else 64), "he", generator=generator).to(bench.device)
    pictures = torch.randn(samples, 3, side, side, generator=generator).to(bench.device)
    labels = torch.randint(10, (samples,), generator=generator).to(bench.device)
    sizes = (50, 8, 1, 2, 8) if tiny else (32_000, 768, 14, 12, 256)
    gpt = hl.GPT(*sizes).to(bench.device)
    tokens = torch.randint(sizes[0], (2 if tiny else 8, sizes[-1] + 1), generator=generator).to(bench.device)
    found = {}
    for name, model, batch in (("ResNet-18", resnet, (pictures, labels)),
                               ("GPT", gpt, (tokens[:, :-1], tokens[:, 1:]))):
        found[name] = {"parameters": sum(p.numel() for p in model.parameters()), "jobs": {}}
        for job, function in questions(model.eval(), batch, some(model)).items():
            found[name]["jobs"][job] = {"seconds": bench.seconds(function),
                                        "memory": peers.peak_memory(function, bench.device)}
    return {"nets": found}


PARTS = {"tests": tests, "workloads": workloads, "floors": floors, "graphs": graphs, "nets": nets}


def table(found):
    """What was found, in Markdown."""
    lines = [f"On {found['machine']}, torch {found['torch']}, {found['date']}"
             + (", at sizes that say nothing." if found["tiny"] else "."), ""]
    number = peers.number
    for name, part in found["parts"].items():
        for how in ("left out", "failed"):
            if how in part:
                lines += [f"- {name}: {how}: {part[how]}", ""]
        if name == "tests" and "status" in part:
            lines += [f"- tests: exit status {part['status']}: {' '.join(part['says'])}", ""]
        if "workloads" in part:
            lines += [peers.table({"workloads": part["workloads"], "versions": {"torch": found["torch"]}})]
        if name == "floors" and "jobs" in part:
            top = part["ceilings"]
            lines += [f"Ceilings: {top['operations'] / 1e12:.3g}·10¹² operations a second, "
                      f"{top['bytes'] / 1e9:.3g} GB/s.", "",
                      "| job | ms | operations alone | bytes alone | over the larger |", "|---|---|---|---|---|"]
            for job, each in part["jobs"].items():
                over = each["seconds"] / max(each["operations"], each["bytes"])
                cells = [number(1e3 * each[key]) for key in ("seconds", "operations", "bytes")]
                lines.append(f"| {job} | {' | '.join(cells)} | {number(over)} |")
            lines.append("")
        if name == "graphs" and "plain" in part:
            lines += ["| one product | ms | relative error |", "|---|---|---|"]
            for way in ("plain", "CUDA graph", "torch.compile"):
                if way in part:
                    error = part.get(f"{way}, relative error")
                    lines.append(f"| {way} | {number(1e3 * part[way])} | {'' if error is None else f'{error:.0e}'} |")
            lines.append("")
        for net, each in part.get("nets", {}).items():
            base = each["jobs"]["gradient"]["seconds"]
            lines += [f"| {net}, {each['parameters']:,} parameters | ms | gradients | peak memory (MB) |",
                      "|---|---|---|---|"]
            for job, row in each["jobs"].items():
                memory = "–" if row["memory"] is None else f"{row['memory'] / 1e6:.0f}"
                lines.append(f"| {job} | {number(1e3 * row['seconds'])} | {number(row['seconds'] / base)} | {memory} |")
            lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that it works")
    parser.add_argument("--out", default=ROOT / "book" / "how-fast", help="folder for gpu.json and gpu.md")
    parser.add_argument("--only", action="append", choices=tuple(PARTS))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --tiny --device cpu tries the script without one")
    if options.device == "cpu" and not options.tiny:
        parser.error("on a CPU only --tiny: peers.py measures it")
    bench = Bench(options.device, options.tiny, options.out)
    for name in options.only or PARTS:
        bench.run(name, PARTS[name])
    failed = [name for name, part in bench.found["parts"].items() if "failed" in part or part.get("status")]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
