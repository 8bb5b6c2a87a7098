"""Stored answers, computed again: equal, or how far off.

Of each file the answer that took least time is asked for anew, and compared number by number.
"""

import functools
import math
from typing import NamedTuple

from ..records import KNOWN, answered, available, label
from ..results import SHIPPED, Results, floats, read
from . import approximation, cifar, errors, gpt, mnist, panels, rates, redraws, starts, width, words


def _of_cifar(**setting):
    return cifar.experiment(data=cifar.pictures("full"), **setting)


def _of_panels(function, **setting):
    return function(data=cifar.pictures("full"), **setting)


def _of_words(**setting):
    return words.answer(words.task("full"), **setting)


#: Of each stored file the function that answers, and the data if its settings do not say: a name in
#: `records.LOADERS`, or a function that gives the label of what is here.
FUNCTIONS = {
    "11-starts": (starts.compare, None),
    "11-rates": (rates.curvatures, None),
    "12-mnist": (mnist.experiment, None),
    "12-mnist-rates": (mnist.experiment, None),
    "12-mnist-shorter": (mnist.experiment, None),
    "12-mnist-common": (mnist.experiment, None),
    "13-cifar": (_of_cifar, "cifar10"),
    "13-cifar-lenet": (functools.partial(cifar.lenet_run, kind="full"), "cifar10"),
    "13-cifar-lenet-mnist": (cifar.lenet_run, "mnist"),
    "14-word2vec": (_of_words, None),
    "15-approximation": (approximation.at_start, None),
    "15-approximation-training": (approximation.in_training, None),
    "19-width": (width.experiment, "digits"),
    "21-gpt": (gpt.experiment, gpt.text),
    "paper-table-1": (redraws.tests, None),
    "paper-densities": (functools.partial(_of_panels, panels.densities), "cifar10"),
    "paper-losses": (functools.partial(_of_panels, panels.losses), "cifar10"),
    "paper-tracked": (functools.partial(_of_panels, panels.tracked), "cifar10"),
    "paper-errors": (errors.restarts, None),
    "paper-errors-training": (errors.in_steps, None),
}
QUICK = ("19-width",)  # needs no data but the digits
FULL = (
    "15-approximation",
    "12-mnist-rates",
    "13-cifar",
    "13-cifar-lenet-mnist",
    "15-approximation-training",
)
FULL += ("paper-table-1", "paper-densities", "19-width", "11-starts", "11-rates", "21-gpt")
FULL += ("paper-losses", "paper-errors", "paper-errors-training")


def numbers(answer):
    """All numbers of an answer, in order; text and None are left out.

    Example:
        >>> from hessinit_lite.lab.experiments.again import numbers
        >>> numbers({"a": [1, 2.5], "b": {"c": None}, "d": "text"})
        [1.0, 2.5]
    """
    if isinstance(answer, bool) or answer is None or isinstance(answer, str):
        return []
    if isinstance(answer, (int, float)):
        return [float(answer)]
    parts = answer.values() if isinstance(answer, dict) else answer
    return [number for part in parts for number in numbers(part)]


def difference(old, new):
    """{"numbers", "equal", "largest"}: how many, how many the same, largest relative difference.

    Raises:
        ValueError: for answers with different numbers of numbers.
    """
    a, b = numbers(old), numbers(new)
    if len(a) != len(b):
        raise ValueError(f"the answers have {len(a)} and {len(b)} numbers: not of one setting")
    off = [_relative(x, y) for x, y in zip(a, b)]
    return {"numbers": len(a), "equal": sum(x == 0 for x in off), "largest": max(off, default=0.0)}


def _relative(x, y):
    if x == y or (math.isnan(x) and math.isnan(y)):
        return 0.0
    lost = not (math.isfinite(x) and math.isfinite(y))  # one of two runs
    return math.inf if lost else abs(x - y) / max(abs(x), abs(y))


def once_more(name, folder=None):
    """The `difference` of the cheapest stored answer of a file and the same setting, run now.

    Args:
        name: a name in FUNCTIONS.
        folder: where the file is; None for the one that comes with the module.

    Raises:
        ValueError: if none of the data that the answers are of is here.
    """
    _, records = read((folder or SHIPPED) / f"{name}-full.json")
    function, source = FUNCTIONS[name]
    if callable(source):
        here, source = source(), None
        records = [record for record in records if record["data"] == here]

    of = lambda setting: source or setting.get("data")
    named = [record for record in records if of(record["setting"])]
    at_hand = available([record["setting"] for record in named], of)
    known = [record for record in records if not of(record["setting"])]
    for record in named:
        name = of(record["setting"])
        if record["setting"] in at_hand and record["data"] in (label(name), KNOWN.get(name)):
            known.append(record)
    if not known:
        raise ValueError(f"none of the data of {name}'s answers is here: set HESSINIT_DATA")
    record = min(known, key=lambda record: record["seconds"])
    return difference(floats(record["answer"]), function(**record["setting"]))


class Found(NamedTuple):
    """What the page draws from."""

    rows: dict  #: {file: answer of `once_more`}
    stored: list  #: the Results behind it


def run(size="quick", progress=False):
    """Compute what is not stored yet, and return a Found.

    Args:
        size: "quick" (a second) or "full" (minutes).
        progress: show a bar.

    Raises:
        ValueError: for an unknown size.
    """
    return _found(size, True, progress)


def stored():
    """What is stored of the full size, a Found; nothing is computed."""
    return _found("full", False, False)


def _found(size, compute, progress):
    where = Results("again", size, fresh=None if compute else False)
    settings = [{"name": name} for name in (FULL if size == "full" else QUICK)]
    found = answered(where, once_more, settings, compute, progress=progress)
    return Found({setting["name"]: answer for setting, answer in found}, [where])
