"""Python runs this at the start of every process of a notebook under test, subprocesses included (PYTHONPATH).

SEED_OFFSET=n adds n to every seed of torch's generators: other draws, as on another kind of device.
SECOND_DEVICE=1 makes the device of second_device.py available.
"""

import os

if "SEED_OFFSET" in os.environ:
    import torch

    offset, manual_seed = int(os.environ["SEED_OFFSET"]), torch.manual_seed

    class Generator(torch.Generator):
        def manual_seed(self, seed):
            return super().manual_seed(int(seed) + offset)

    torch.Generator = Generator
    torch.manual_seed = lambda seed: manual_seed(int(seed) + offset)

if "SECOND_DEVICE" in os.environ:
    import second_device

    second = second_device.available()  # kept: it ends where it is collected
    second.__enter__()
