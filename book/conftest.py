"""A progress bar is no output: nbval would compare it with what is stored."""

import os

os.environ["TQDM_DISABLE"] = "1"
