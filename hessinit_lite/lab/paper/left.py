"""What of the paper's experiments is not stored: counted from settings and files, not typed."""

import json
from typing import NamedTuple

from ..experiments import (
    again,
    approximation,
    cifar,
    cost,
    errors,
    gpu,
    mnist,
    panels,
    redraws,
    words,
)
from ..records import KNOWN, counting, minutes_left
from ..results import SHIPPED, Results

#: Those whose `stored()` asks for all of their settings.
EXPERIMENTS = redraws, mnist, panels, cifar, errors, cost, again


class Left(NamedTuple):
    """One file of one experiment."""

    experiment: str  #: its name on the command line
    file: str
    settings: int  #: that the full size asks for
    missing: list  #: those without a stored answer
    minutes: float  #: by stored answers of the same size
    unlike: int  #: how many of the missing have no stored answer of their size

    @property
    def which(self):
        """The missing settings in words: what they have in common, and how they differ."""
        parts = []
        for key in (
            "data",
            "net",
            "activation",
            "scheme",
            "start",
            "rate",
            "width",
            "steps",
            "seed",
        ):
            values = {setting[key]: None for setting in self.missing if key in setting}
            numbers = all(isinstance(value, (int, float)) for value in values)
            if len(values) > 3:
                ends = f"{key}s {min(values):g} to {max(values):g}" if numbers else None
                parts.append(ends or f"{len(values)} {key}s")
            elif values:
                shown = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in values)
                parts.append(f"{key} " + ", ".join(shown))
        return "; ".join(parts)

    @property
    def time(self):
        """How long the missing ones take, as text."""
        known = f"{self.minutes:.0f} min" if len(self.missing) > self.unlike else ""
        unknown = f"{self.unlike} not known" if self.unlike else ""
        return ", ".join(filter(None, (known, unknown)))

    @property
    def command(self):
        """What computes the rest."""
        return f"python -m hessinit_lite.lab.experiments {self.experiment} --size full"


def _asked():
    """(experiment, Results, settings) of all files; nothing is computed."""
    for module in EXPERIMENTS:
        with counting() as asked:
            module.stored()
        for stored, settings in asked:
            yield module.__name__.rpartition(".")[2], stored, settings
    of_data = lambda setting: KNOWN[setting["data"]]
    for file, settings in (
        ("15-approximation", approximation.start_settings("full")),
        ("15-approximation-training", approximation.training_settings("full")),
    ):
        yield "approximation", Results(file, "full", fresh=False, data_of=of_data), settings
    texts = Results("14-word2vec", "full", SHIPPED, fresh=False)
    (text,) = texts.data()
    stored, judged = (
        Results(file, "full", fresh=False, data_of=lambda _: text)
        for file in ("14-word2vec", "14-word2vec-judged")
    )
    yield "words", stored, words.settings_like(texts.items()[0][0])
    like = judged.items()[0][0]
    yield "words", judged, [{**like, **chosen} for chosen in words.compared(stored)]
    for file, settings in gpu.settings_of("full").items():
        source = lambda setting: KNOWN[setting.get("data", "cifar10")]
        yield "gpu", Results(file, "full", fresh=False, data_of=source), settings


def left():
    """A Left for each file of each experiment on the paper, in full size.

    Example:
        >>> from hessinit_lite.lab.paper.left import left
        >>> sorted({each.experiment for each in left() if each.file == "paper-losses"})
        ['gpu', 'panels']
    """
    found = {}
    for name, stored, settings in _asked():
        _, of = found.setdefault((name, stored.name), (stored, {}))
        of.update({json.dumps(setting, sort_keys=True): setting for setting in settings})
    rows = []
    for (name, file), (stored, of) in found.items():
        missing = [setting for setting in of.values() if setting not in stored]
        rows.append(Left(name, file, len(of), missing, *minutes_left(stored, missing)))
    return rows
