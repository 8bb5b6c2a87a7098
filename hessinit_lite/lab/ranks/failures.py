"""Run by torchrun on two ranks: rank 1 makes one mistake after another, and at last dies."""

import json
import os
import signal
import sys

import torch
import torch.nn.functional as F
from torch import distributed as dist

from hessinit_lite import parallel
from hessinit_lite.lab.ranks.example import problem


class Turning:
    """A loader that is all right for three passes."""

    def __init__(self, good, wrong):
        self.good, self.wrong, self.passes = good, wrong, 0

    def __iter__(self):
        self.passes += 1
        yield self.good if self.passes < 4 else self.wrong


def told(function):
    """What each of the two ranks is told."""
    message = "no error"
    try:
        function()
    except Exception as error:  # whatever it is, it is reported
        message = f"{type(error).__name__}: {error}"
    messages = [None, None]
    dist.all_gather_object(messages, message)
    return messages


def mistakes(bad):
    """{mistake: what the ranks are told}; `bad`: this rank makes them."""
    model, batch = problem(0)
    good = parallel.shard(batch)
    wrong = good[0], good[1] + 100
    build = lambda data: parallel.hessian(model, F.cross_entropy, data)
    operator, found = build(good), {}
    found["labels"] = told(lambda: build(wrong if bad else good))
    found["no samples"] = told(lambda: build([] if bad else [good]))
    later = build(Turning(good, wrong) if bad else [good])
    found["products 1 and 2"] = told(lambda: (later @ later.gradient, later @ later.gradient))
    found["product 3"] = told(lambda: later @ later.gradient)
    torch.manual_seed(dist.get_rank())
    vector = torch.randn(operator.shape[0], dtype=torch.float64)  # another on each rank
    found["vectors"] = told(lambda: operator @ vector)
    other, _ = problem(dist.get_rank())
    found["weights"] = told(lambda: parallel.hessian(other, F.cross_entropy, good))
    found["after all that"] = told(lambda: operator @ operator.gradient)
    return operator, found


def main():
    parallel.start(timeout=60)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the others; rank 0 shall tell
    bad = dist.get_rank() == 1
    operator, found = mistakes(bad)
    if bad:
        os._exit(1)  # without a word, as a process does that runs out of memory
    try:
        operator @ operator.gradient
    except RuntimeError as error:
        found["death"] = [f"RuntimeError: {error}".split(" torch says")[0]]
    with open(sys.argv[1], "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
