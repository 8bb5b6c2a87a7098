"""What long experiments share: their device, what of them is computed, of which data it is."""

import contextlib
import contextvars
import functools
import hashlib
import textwrap
import warnings
from collections import Counter

import torch

from .data import DataUnavailable, cache_folder, cifar10, digits, fashion_mnist, mnist
from .results import Results

LOADERS = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": functools.partial(cifar10, allow_unverified=True),
}
#: Labels of the data that the answers which come with the module are of; see `label`.
KNOWN = {
    "digits": "digits sha256:da4d061b39becc82",
    "mnist": "mnist sha256:a734e8c838896b6f",
    "cifar10": "cifar10 (unverified files, 20,000 training pictures) sha256:93d720e7e3fa75ed",
    "fashion_mnist": None,
}


def fastest_device():
    """ "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def rounded(values):
    """Floats of six significant digits: what is stored of numbers that another machine may vary."""
    return [float(f"{value:.6g}") for value in values]


def fingerprint(data):
    """16 hex digits that tell a data set's training part, inputs in [0, 1], from any other.

    Example:
        >>> from hessinit_lite.lab.records import fingerprint
        >>> fingerprint(hl.digits(standardize=False)) == fingerprint(hl.digits())
        False
    """
    inputs, targets = (part.cpu() for part in data.train)
    found = hashlib.sha256((inputs * 255).round().to(torch.int16).numpy().tobytes())
    found.update(targets.numpy().tobytes())
    return found.hexdigest()[:16]


def label(name):
    """Name and fingerprint of a data set, as text: what `Results` keeps with an answer.

    Args:
        name: a name in LOADERS.

    Raises:
        DataUnavailable: as the loaders of `hessinit_lite.lab.data`.

    Example:
        >>> from hessinit_lite.lab.records import label
        >>> label("digits")
        'digits sha256:da4d061b39becc82'
    """
    return _label(name, str(cache_folder()))


@functools.cache
def _label(name, folder):
    data = raw(name)
    return f"{data.name} sha256:{fingerprint(data)}"


def raw(name):
    """A data set, inputs in [0, 1], as a Data; unofficial files are taken: the name says so.

    Raises:
        DataUnavailable: as the loaders of `hessinit_lite.lab.data`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LOADERS[name](standardize=False)


def available(settings, name_of):
    """The settings whose data are here or can be had; a line says what is left out, and why.

    Args:
        settings: dicts.
        name_of: from a setting to a name in LOADERS.
    """
    lost = set()
    for name in dict.fromkeys(map(name_of, settings)):
        try:
            label(name)
        except DataUnavailable as error:
            print(f"left out: {error}")
            lost.add(name)
    return [setting for setting in settings if name_of(setting) not in lost]


def opened(name, size, compute, source):
    """The `Results` of an experiment, to go on with or only to read.

    Args:
        name, size: as for `Results`.
        compute: False only reads: stored answers are kept, and data need not be here.
        source: a name in LOADERS, or a function from a setting to one.
    """
    labels = label if compute else KNOWN.get
    fresh = None if compute else False
    of = source if callable(source) else lambda setting: source
    return Results(name, size, fresh=fresh, data_of=lambda setting: labels(of(setting)))


#: What the command line chose, for all parts of an experiment: see `choosing`.
_CHOICE = contextvars.ContextVar("choice", default=None)


@contextlib.contextmanager
def choosing(only, compute=True):
    """Within it `answered` computes some settings, or none, and prints what is left of each part.

    Args:
        only: {key: value as text}: what settings must say to be computed.
        compute: False computes nothing.
    """
    token = _CHOICE.set((only, compute))
    try:
        yield
    finally:
        _CHOICE.reset(token)


#: What `answered` was asked for, while somebody counts: see `counting`.
_COUNTS = contextvars.ContextVar("counts", default=None)


@contextlib.contextmanager
def counting():
    """Within it `answered` notes what it is asked for: a list of (Results, settings).

    Example:
        >>> import tempfile
        >>> from hessinit_lite.lab.records import answered, counting
        >>> stored = hl.Results("squares", folder=tempfile.mkdtemp())
        >>> with counting() as asked:
        ...     answered(stored, None, [{"x": 2}], compute=False)
        []
        >>> [(str(results), settings) for results, settings in asked]
        [('squares (quick): nothing stored', [{'x': 2}])]
    """
    token = _COUNTS.set([])
    try:
        yield _COUNTS.get()
    finally:
        _COUNTS.reset(token)


def answered(stored, function, settings, compute=True, device="cpu", progress=False):
    """[(setting, answer), …] of a `Results`: computed where missing, or only what is stored.

    Args:
        stored: a Results.
        function: as for `Results.run`.
        settings: as for `Results.run`.
        compute: False leaves out settings without a stored answer.
        device: named with the answers.
        progress: show a bar.
    """
    choice, counts = _CHOICE.get(), _COUNTS.get()
    if counts is not None:
        counts.append((stored, settings))
    if compute and not choice:
        return list(zip(settings, stored.run(function, settings, device, progress)))
    if compute:
        only, now = choice
        chosen = [
            setting
            for setting in settings
            if all(key in setting and str(setting[key]) == only[key] for key in only)
        ]
        print(left_over(stored, settings, chosen), flush=True)
        if now:
            stored.run(function, chosen, device, progress)
    settings = [setting for setting in settings if setting in stored]
    return list(zip(settings, stored.answers(settings)))


#: By what the time of a setting is told: stored ones that say the same of these take as long.
SIZE_KEYS = ("net", "width", "depth", "samples", "steps", "epochs", "draws", "points", "dim")


def minutes_left(stored, missing):
    """How long settings take by stored ones of their size, and how many have none of their size.

    Args:
        stored: a Results.
        missing: settings.

    Example:
        >>> import tempfile
        >>> from hessinit_lite.lab.records import minutes_left
        >>> stored = hl.Results("squares", folder=tempfile.mkdtemp())
        >>> stored.run(lambda steps, x: x**2, [{"steps": 1, "x": 2}], progress=False)
        [4]
        >>> minutes, unlike = minutes_left(stored, [{"steps": 1, "x": 3}, {"steps": 9, "x": 3}])
        >>> round(minutes), unlike
        (0, 1)
    """
    size_of = lambda setting: tuple(setting.get(key) for key in SIZE_KEYS)
    seconds, unlike, total = {}, 0, 0.0
    for record in stored.records:
        seconds.setdefault(size_of(record["setting"]), []).append(record["seconds"])
    for setting in missing:
        like = seconds.get(size_of(setting))
        unlike += not like
        total += sum(like) / len(like) if like else 0.0
    return total / 60, unlike


def left_over(stored, settings, chosen):
    """What is left of an experiment's part, as text: how many answers, how long, and of what.

    Args:
        stored: a Results.
        settings: all of the part's settings.
        chosen: those that are asked for.

    Example:
        >>> import tempfile
        >>> from hessinit_lite.lab.records import left_over
        >>> stored = hl.Results("squares", folder=tempfile.mkdtemp())
        >>> settings = [{"x": 2, "seed": 0}, {"x": 3, "seed": 0}]
        >>> print(left_over(stored, settings, settings))
        squares: 0 of 2 answers are stored; 2 of 2 chosen ones are left
          x: 2 (1), 3 (1)
    """
    missing = [setting for setting in chosen if setting not in stored]
    there = sum(setting in stored for setting in settings)
    line = f"{stored.name}: {there} of {len(settings)} answers are stored; "
    line += f"{len(missing)} of {len(chosen)} chosen ones are left" if chosen else "none is chosen"
    minutes, unlike = minutes_left(stored, missing)
    if len(missing) > unlike:
        line += f", about {minutes:.0f} min if each takes as long as those of its size"
    if unlike and len(stored):
        line += f"; nothing of their size is stored of {unlike}, so their time is not known"
    shown = missing if chosen else settings  # a choice that fits nothing: what there is to choose
    lines = [line]
    for key in dict.fromkeys(key for setting in shown for key in setting):
        counts = Counter(str(setting[key]) for setting in shown if key in setting)
        if len(counts) > 1 and max(map(len, counts)) <= 20:
            lines.append(f"  {key}: " + ", ".join(f"{v} ({n})" for v, n in counts.items()))
    return "\n".join(lines)


def provenance(stored):
    """A line of text for each of some Results (how many runs, on what, when, of which data)."""
    lines = [
        textwrap.fill("; ".join((str(each), *each.data())), 79, subsequent_indent="    ")
        for each in stored
    ]
    return "\n".join(lines)
