"""What curvature costs, in gradients: python benchmarks/hessian_products.py

A gradient is one forward and one backward pass over the same batch. Each repeat times a job and, right
before and after it, the gradient: the ratio of neighbours cancels most of what else the machine does.
Prints medians and quartiles of the ratios. Machines differ; compare rows, not seconds.
"""

import platform
import statistics
import time

import torch
import torch.nn.functional as F
from tqdm import trange

import hessinit_lite as hl

REPEATS, PRODUCTS = 21, 20


def workload(device):
    """784-128-128-10 ReLU, 512 samples."""
    generator = torch.Generator().manual_seed(0)
    model = hl.init_(hl.MLP(784, 128, 3, 10, "relu"), "he", generator=generator)
    batch = torch.randn(512, 784, generator=generator), torch.randint(10, (512,), generator=generator)
    return model.to(device), F.cross_entropy, tuple(t.to(device) for t in batch)


def jobs(model, loss_fn, batch):
    """{name: (function, number by which its time is divided)}"""
    weights = list(model.parameters())
    size = sum(w.numel() for w in weights)
    vectors = [torch.randn(size, device=weights[0].device) for _ in range(PRODUCTS)]

    matrix = torch.stack(vectors, dim=1)

    def products():  # building the operator is part of the price
        operator = hl.hessian(model, loss_fn, batch)
        for k in range(PRODUCTS):
            operator @ vectors[k]

    return {
        "one Hessian product, amortized over 20": (products, PRODUCTS),
        "20 products together": (lambda: hl.hessian(model, loss_fn, batch).matmat(matrix), 1),
        "largest eigenvalue to 1e-3": (
            lambda: hl.top_eigenvalues(hl.hessian(model, loss_fn, batch),
                                       generator=torch.Generator(weights[0].device).manual_seed(0)), 1),
        "exact Gauss-Newton trace of every layer": (lambda: hl.layer_traces(model, loss_fn, batch), 1),
        "Gauss-Newton norm of every layer to 1e-3": (
            lambda: hl.layer_norms(model, loss_fn, batch, rtol=1e-3), 1),
    }


def seconds(function, device, times=1):
    start = time.perf_counter()
    for _ in range(times):
        function()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, loss_fn, batch = workload(device)
    weights = list(model.parameters())

    def gradient():
        torch.autograd.grad(loss_fn(model(batch[0]), batch[1]), weights)

    work = jobs(model, loss_fn, batch)
    for function in (gradient, *(function for function, _ in work.values())):
        function()  # warm up
    ratios = {name: [] for name in work}
    for _ in trange(REPEATS, desc="repeats", leave=False):
        for name, (function, divisor) in work.items():
            before = seconds(gradient, device, times=5)
            spent = seconds(function, device)
            after = seconds(gradient, device, times=5)
            ratios[name].append(spent / divisor / ((before + after) / 2))
    where = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    print(f"torch {torch.__version__}, {where}, {torch.get_num_threads()} threads, {REPEATS} paired repeats")
    print(f"{workload.__doc__} Costs in gradients:")
    print(f"{'':42}{'median':>8}{'quartiles':>16}")
    for name, found in ratios.items():
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"{name:42}{middle:8.2f}{low:9.2f} –{high:6.2f}")


if __name__ == "__main__":
    main()
