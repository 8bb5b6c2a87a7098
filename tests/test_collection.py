"""The workers of a parallel run collect by themselves and must find the same tests."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def collected(hash_seed):
    """All test ids, from a process of its own."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(TESTS)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=True,
                          env={**environment, "PYTHONHASHSEED": hash_seed})
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_ids_depend_neither_on_time_nor_on_the_hash_seed():
    first, second = collected("1"), collected("2")  # a collection takes more than a second
    assert len(first) > 1000 and first == second
