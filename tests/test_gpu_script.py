"""benchmarks/gpu.py waits for a GPU; at sizes that say nothing its parts run anywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu.py"


def run(*options):
    path = os.pathsep.join(filter(None, [str(SCRIPT.parent.parent), os.environ.get("PYTHONPATH")]))
    return subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=600,
                          env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""})


def test_its_parts_run_and_are_stored(tmp_path):
    done = run("--tiny", "--device", "cpu", "--out", str(tmp_path), "--only", "floors", "--only", "nets")
    assert done.returncode == 0, done.stderr[-2000:]
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    ceiling, jobs = parts["floors"]["ceilings"]["operations"], parts["floors"]["jobs"]
    for job in jobs.values():  # which of them takes longer is the machine's affair, and its load's
        assert job["seconds"] > 0 and job["operations"] > 0 and job["bytes"] > 0
    first, rest = 784 * 32, 32 * 32 + 32 * 32 + 32 * 10  # weights; 16 samples, 2 operations each
    forward, backward = first + rest, first + 2 * rest  # nothing is passed back to the pictures
    assert jobs["gradient"]["operations"] * ceiling == pytest.approx(16 * 2 * (forward + backward))
    assert set(parts["nets"]["nets"]) == {"ResNet-18", "GPT"}
    table = (tmp_path / "gpu.md").read_text()
    assert "at sizes that say nothing" in table and "all traces, 16 random columns" in table


def test_it_says_what_is_missing():
    done = run()
    assert done.returncode == 2 and "no CUDA device here; --tiny --device cpu" in done.stderr
