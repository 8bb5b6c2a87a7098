"""`python -m hessinit_lite.lab.experiments NAME [--size full]`: run an experiment, or go on."""

import argparse
import importlib
import sys

from ..results import SIZES, folder_of_results

NAMES = ("starts", "mnist", "cifar", "words", "approximation")


def main(arguments=None):
    """Run the experiment that is named, with a bar; say where its results lie. Returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m hessinit_lite.lab.experiments",
        description="Run one of the book's experiments. Answers are stored as they come: "
        "interrupt it, and the next call goes on.",
    )
    parser.add_argument("name", choices=NAMES, help="which experiment")
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="quick",
        help="quick: minutes, always computed anew; full: hours, goes on from what is stored",
    )
    chosen = parser.parse_args(arguments)
    module = importlib.import_module(f"{__package__}.{chosen.name}")
    module.run(size=chosen.size, progress=True)
    print(f"{chosen.name} ({chosen.size}): the results lie in {folder_of_results().resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
