"""What long experiments share: their device, rounded answers, and of which data an answer is."""

import hashlib
import textwrap

import torch

from .data import DataUnavailable


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


def marked(settings, name_of, load, known):
    """The settings; those on other data than the stored answers' name their fingerprint.

    Of data that cannot be had there are none, and a line says so.

    Args:
        settings: dicts.
        name_of: from a setting to its data's name.
        load: from a name to the Data.
        known: {name: fingerprint of the data that the stored answers are of}.
    """
    try:
        marks = {name: fingerprint(load(name)) for name in {name_of(s) for s in settings}}
    except DataUnavailable as error:
        print(f"left out: {error}")
        return []
    same = {name for name, mark in marks.items() if known[name] == mark}
    return [s if name_of(s) in same else {**s, "fingerprint": marks[name_of(s)]} for s in settings]


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
    if compute:
        return list(zip(settings, stored.run(function, settings, device, progress)))
    known = [record["setting"] for record in stored.records]
    settings = [setting for setting in settings if setting in known]
    return list(zip(settings, stored.answers(settings)))


def provenance(stored):
    """A line of text for each of some Results (how many runs, on what, when), 79 columns wide."""
    lines = [textwrap.fill(str(each), 79, subsequent_indent="    ") for each in stored]
    return "\n".join(lines)
