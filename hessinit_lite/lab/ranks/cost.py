"""Chapter 18's programs under torchrun, and the model of what a product over ranks costs."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch


def torchrun(ranks, program, timeout=600):
    """Run a program of this folder on `ranks` processes with one thread each, on the CPU.

    Args:
        ranks: processes.
        program: "spectra", "times" or "failures".
        timeout: seconds after which all of them are ended.

    Returns:
        The exit status, and what rank 0 left.

    Raises:
        RuntimeError: with the end of the log, if rank 0 left nothing.
        subprocess.TimeoutExpired: after `timeout`.
    """
    package = str(Path(__file__).resolve().parents[3])
    python_path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), package]))
    one_thread = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": python_path}
    with tempfile.TemporaryDirectory() as folder:
        answer, log = Path(folder) / "answer.json", Path(folder) / "log.txt"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={ranks}", "-m", f"hessinit_lite.lab.ranks.{program}"]
        with open(log, "w") as file:
            done = subprocess.run(
                [*command, str(answer)],
                stdout=file,
                stderr=file,
                env={**os.environ, **one_thread},
                timeout=timeout,
            )
        if not answer.exists():
            raise RuntimeError(log.read_text()[-3000:])
        return done.returncode, json.loads(answer.read_text())


class Times(NamedTuple):
    """Quartiles [rows, 3] in milliseconds, by net and number of samples."""

    samples: torch.Tensor  # [rows], N
    parameters: torch.Tensor  # [rows], P
    one: torch.Tensor  # a product on one rank
    two: torch.Tensor  # on two
    own: torch.Tensor  # a rank's part of it, without communication
    all_reduce: torch.Tensor  # of two ranks


def quartiles(seconds):
    """25 %, 50 % and 75 % of measured seconds, in milliseconds, [3]."""
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    return torch.quantile(1000 * torch.tensor(seconds, dtype=torch.float64), levels)


def times(one, two):
    """The rows that "times" left on one and on two ranks, as Times."""
    sizes = [torch.tensor([float(row[key]) for row in one]) for key in ("samples", "parameters")]
    columns = (one, "product"), (two, "product"), (two, "own part"), (two, "all_reduce")
    found = [torch.stack([quartiles(row[key]) for row in rows]) for rows, key in columns]
    return Times(*[size.double() for size in sizes], *found)


class Cost(NamedTuple):
    """Chapter 18's model of a product's time, in milliseconds."""

    fixed: float  # c
    compute: float  # a, per sample and parameter
    latency: float  # ℓ, per message
    per_byte: float  # 1/B

    def terms(self, ranks, samples, parameters):
        """Compute, latency, traffic of a product in float32; their sum is the time."""
        return (
            self.fixed + self.compute * samples * parameters / ranks,
            2 * (ranks - 1) * self.latency,
            2 * (ranks - 1) / ranks * 4 * parameters * self.per_byte,
        )

    def time(self, ranks, samples, parameters):
        return sum(self.terms(ranks, samples, parameters))


def fit(measured):
    """The Cost of Times: compute from one rank's products, traffic from two ranks' all-reduces."""
    n, p = measured.samples, measured.parameters
    fixed, compute = _fit([torch.ones_like(n), n * p], measured.one[:, 1])
    latency, per_byte = _fit([2 * torch.ones_like(n), 4 * p], measured.all_reduce[:, 1])
    return Cost(fixed, compute, latency, per_byte)


def _fit(columns, milliseconds):
    """Coefficients of two columns, the first not negative, that fit the times in relative terms."""
    scaled = torch.stack(columns, 1) / milliseconds[:, None]
    ones = torch.ones_like(milliseconds)[:, None]
    for kept in (scaled, scaled[:, 1:]):  # a negative constant means that there is none to see
        found = torch.linalg.lstsq(kept, ones).solution[:, 0].tolist()
        if min(found) >= 0:
            break
    return [0.0] * (2 - len(found)) + found
