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

    passes = 0

    def __iter__(self):
        self.passes += 1
        yield good if self.passes < 4 else wrong_labels


def attempt(what, function):
    """Note what each rank is told."""
    message = "no error"
    try:
        function()
    except Exception as error:  # whatever it is, it is reported
        message = f"{type(error).__name__}: {error}"
    messages = [None, None]
    dist.all_gather_object(messages, message)
    found[what] = messages


parallel.start(timeout=60)
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the others; rank 0 shall live to tell
model, batch = problem(0)
good = parallel.shard(batch)
wrong_labels = good[0], good[1] + 100
bad = dist.get_rank() == 1
found = {}


def build(data):
    return parallel.hessian(model, F.cross_entropy, data)


def random_vector():
    return torch.randn(operator.shape[0], dtype=torch.float64)


operator = build(good)
attempt("labels", lambda: build(wrong_labels if bad else good))
attempt("no samples", lambda: build([] if bad else [good]))
later = build(Turning() if bad else [good])
attempt("products 1 and 2", lambda: (later @ later.gradient, later @ later.gradient))
attempt("product 3", lambda: later @ later.gradient)
torch.manual_seed(dist.get_rank())
attempt("vectors", lambda: operator @ random_vector())
other, _ = problem(dist.get_rank())
attempt("weights", lambda: parallel.hessian(other, F.cross_entropy, good))
attempt("after all that", lambda: operator @ operator.gradient)
if bad:
    os._exit(1)  # without a word, as a process does that runs out of memory
try:
    operator @ operator.gradient
except RuntimeError as error:
    found["death"] = [f"RuntimeError: {error}".split(" torch says")[0]]
with open(sys.argv[1], "w") as file:
    json.dump(found, file)
