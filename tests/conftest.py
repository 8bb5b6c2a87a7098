"""Settings of the whole test suite."""

import contextlib
import os
import sys
from pathlib import Path

# Also of the processes that tests start, and before torch reads it: threads of several that spin for each other's
# core made one of them take 136 s instead of 16.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import second_device
import torch

import hessinit_lite as hl

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_tools"))
with contextlib.suppress(second_device.Unavailable):  # its tests are skipped then, with the reason
    second_device.register()  # before the first backward pass: that is when autograd counts devices
torch.set_num_threads(1)  # tiny tensors: a second thread would only cost
# No deadline: the first example of a test pays for torch's warm-up. Fixed examples: same run, same result.
hypothesis.settings.register_profile("book", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("book")


@pytest.fixture(scope="session")
def digits():
    return hl.digits()


@pytest.fixture(scope="module")
def browser():
    """A Chromium. Not one for all files: while it is open its event loop counts as running, and others will not start."""
    import site_checks  # here: not every environment that runs the tests has playwright
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, site_checks.open_chromium(playwright) as browser:
        yield browser


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def pytest_make_parametrize_id(val, argname):
    """Bytes are named by their argument: what a compressor or a pickle writes may change from run to run."""
    return argname if isinstance(val, bytes) else None
