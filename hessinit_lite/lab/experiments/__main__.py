"""`python -m hessinit_lite.lab.experiments NAME [--size full]`: run an experiment, or go on."""

import argparse
import contextlib
import importlib
import sys

from ..records import choosing
from ..results import SIZES, folder_of_results

NAMES = ("starts", "rates", "sweep", "eigenvalues", "mnist", "cifar", "words", "approximation")
NAMES += ("width", "gpt", "depth", "practice")
NAMES += ("redraws", "panels", "errors", "cost", "again", "gpu")


def _pair(text):
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as depth=10")
    return key, value


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
    parser.add_argument(
        "--only",
        nargs="+",
        type=_pair,
        metavar="KEY=VALUE",
        help="compute only settings that say so, such as depth=10 activation=relu",
    )
    parser.add_argument("--left", action="store_true", help="say what is left; compute nothing")
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="of gpu: no new setting is begun after them"
    )
    chosen = parser.parse_args(arguments)
    module = importlib.import_module(f"{__package__}.{chosen.name}")
    more = {"minutes": chosen.minutes} if chosen.name == "gpu" else {}
    choice = contextlib.nullcontext()
    if chosen.only or chosen.left:
        if chosen.name == "gpu":
            parser.error("--only and --left are not for gpu: it goes by --minutes")
        choice = choosing(dict(chosen.only or ()), compute=not chosen.left)
    try:
        with choice:
            module.run(size=chosen.size, progress=True, **more)
    except RuntimeError as error:  # no GPU, or no data: said in a sentence
        print(f"{chosen.name}: {error}", file=sys.stderr)
        return 1
    if not chosen.left:
        print(f"{chosen.name} ({chosen.size}): the results lie in {folder_of_results().resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
