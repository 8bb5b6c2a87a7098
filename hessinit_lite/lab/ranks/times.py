"""Run by torchrun: seconds of a product, of a rank's own part of it, and of an all-reduce alone."""

import json
import sys
import time

import torch
import torch.nn.functional as F
from torch import distributed as dist

import hessinit_lite as hl
from hessinit_lite import parallel

WIDTHS, SAMPLES, REPEATS = (64, 192, 576), (256, 1024), 9


def seconds(function):
    """Of REPEATS calls, after two that warm up."""
    times = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times[2:]


def measured(model, batch, uneven=False):
    """A row of the table; with `uneven`, also with nine tenths of the samples on rank 0."""
    part = parallel.shard(batch)
    together = parallel.hessian(model, F.cross_entropy, part)
    alone = hl.hessian(model, F.cross_entropy, part)
    v, buffer = together.gradient, together.gradient.clone()
    row = {
        "samples": len(batch[0]),
        "parameters": len(v),
        "product": seconds(lambda: together @ v),
        "own part": seconds(lambda: alone @ v),
        "all_reduce": seconds(lambda: dist.all_reduce(buffer.zero_())),
    }
    if uneven:
        cut = len(batch[0]) * 9 // 10
        mine = [x[:cut] if dist.get_rank() == 0 else x[cut:] for x in batch]
        lopsided = parallel.hessian(model, F.cross_entropy, mine)
        row["uneven"] = seconds(lambda: lopsided @ v)
    return row


def main():
    device = parallel.start(timeout=60)
    rows = []
    for width in WIDTHS:
        model = hl.MLP(64, width, 4, 10, activation="tanh").to(device)
        for p in model.parameters():  # every rank draws its own weights: take rank 0's
            dist.broadcast(p.data, 0)
        for samples in SAMPLES:
            inputs = torch.ones(samples, 64, device=device)
            batch = inputs, torch.zeros(samples, dtype=torch.long, device=device)
            rows.append(measured(model, batch, dist.get_world_size() == 2 and width == WIDTHS[1]))
    if dist.get_rank() == 0:
        with open(sys.argv[1], "w") as file:
            json.dump(rows, file)


if __name__ == "__main__":
    main()
