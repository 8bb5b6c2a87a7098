"""Results of long experiments: stored as they come, continued after an interruption, checked when read.

An experiment is a function of a setting (a dict of plain values) that returns plain numbers, strings,
lists or dicts. `Results.run` calls it for one setting after another and keeps, beside each answer, the
setting, the seconds it took, and the versions and device it ran on. A setting names everything that the
answer depends on; when the function itself changes, give the settings a version number and raise it.
Files are JSON, written by this module only; a checksum tells whether a file is what was written.
"""

import datetime
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import sys
import time
import warnings
from pathlib import Path

import torch
from tqdm.auto import tqdm

SHIPPED = Path(__file__).with_name("stored")  #: results that come with the module
SIZES = ("quick", "full")


def size_of_experiments():
    """"quick" or "full", as the environment variable HESSINIT_SIZE says; "quick" if it says nothing."""
    size = os.environ.get("HESSINIT_SIZE", "quick")
    if size not in SIZES:
        raise ValueError(f"HESSINIT_SIZE is {size!r}; known sizes: {', '.join(SIZES)}")
    return size


def folder_of_results():
    """Where results are written: HESSINIT_RESULTS, else `results` in the current folder."""
    return Path(os.environ.get("HESSINIT_RESULTS", "results"))


class Results:
    """Answers of one experiment in one size, by setting.

    name: of the experiment, also of its file. size: "quick" answers are always computed anew, "full"
        ones continue from what is stored; None takes `size_of_experiments()`.
    folder: for the file `<name>-<size>.json`; None takes `folder_of_results()`. If there is no such file
        there, a full experiment starts from the one that comes with the module, if any.
    fresh: start from nothing, whatever is stored (the environment variable HESSINIT_FRESH=1 does the
        same). None: only in quick size.

    A file that cannot be read, or is not what was written, is moved aside as `<file>.corrupt` with a
    warning that names it, and its answers are computed again.
    """

    def __init__(self, name, size=None, folder=None, fresh=None):
        self.name, self.size = name, size_of_experiments() if size is None else size
        if self.size not in SIZES:
            raise ValueError(f"unknown size {self.size!r}; known: {', '.join(SIZES)}")
        self.path = (folder_of_results() if folder is None else Path(folder)) / f"{name}-{self.size}.json"
        if fresh is None:
            fresh = self.size == "quick" or os.environ.get("HESSINIT_FRESH") == "1"
        self.environments, self.records = [], []
        if not fresh:
            self._read()

    def run(self, function, settings, device="cpu", progress=True):
        """[function(**setting) for each setting], from the stored answers where there are any.

        Answers are stored as they come: interrupt it, and the next call goes on with the rest. A number
        that is not finite is stored as text ("inf", "nan") and comes back as a float.
        Raises TypeError for settings or answers that JSON cannot hold, before anything is lost.
        """
        settings = [json.loads(_dumps(setting)) for setting in settings]
        known = {_key(record["setting"]) for record in self.records}
        missing = {_key(setting): setting for setting in settings if _key(setting) not in known}
        saved = time.monotonic()
        try:
            for setting in tqdm(missing.values(), desc=self.name, disable=not progress, leave=False):
                start = time.perf_counter()
                answer = json.loads(_dumps(function(**setting)))
                self.records.append({"setting": setting, "answer": answer,
                                     "seconds": round(time.perf_counter() - start, 3),
                                     "environment": self._environment(device)})
                if time.monotonic() - saved > 2:
                    self.save()
                    saved = time.monotonic()
        finally:
            if missing:
                self.save()
        return self.answers(settings)

    def answers(self, settings=None):
        """Stored answers, of these settings in their order, or of all. Raises KeyError for one not stored."""
        if settings is None:
            return [_floats(record["answer"]) for record in self.records]
        by_key = {_key(record["setting"]): record["answer"] for record in self.records}
        try:
            return [_floats(by_key[_key(json.loads(_dumps(setting)))]) for setting in settings]
        except KeyError as missing:
            raise KeyError(f"{self.path.name} holds no answer for the setting {missing.args[0]}: call run") from None

    def items(self):
        """[(setting, answer), ...] of all that is stored."""
        return [(record["setting"], _floats(record["answer"])) for record in self.records]

    def __len__(self):
        return len(self.records)

    def __str__(self):
        """One line: how many answers, on what, when, how long."""
        if not self.records:
            return f"{self.name} ({self.size}): nothing stored"
        seconds = sum(record["seconds"] for record in self.records)
        used = [self.environments[i] for i in sorted({record["environment"] for record in self.records})]
        devices = ", ".join(dict.fromkeys(each["device"] for each in used))
        versions = ", ".join(dict.fromkeys(each["torch"] for each in used))
        dates = sorted({each["date"] for each in used})
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        spent = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        return f"{self.name} ({self.size}): {len(self)} runs, {spent} on {devices}; torch {versions}; {when}"

    def save(self):
        """Write the file, whole or not at all."""
        content = {"name": self.name, "size": self.size, "environments": self.environments,
                   "records": self.records}
        content["sha256"] = _checksum(content)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(_dumps(content, indent=0) + "\n", encoding="utf-8")
        os.replace(part, self.path)

    def _read(self):
        for path in (self.path, SHIPPED / self.path.name):
            if not path.exists():
                continue
            problem = None
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                if content.pop("sha256") != _checksum(content):
                    problem = "its checksum is not that of its content"
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                problem = f"it is not a file of results ({type(error).__name__}: {error})"
            if problem is None:
                self.environments, self.records = content["environments"], content["records"]
                return
            if path == self.path:
                os.replace(path, path.with_name(path.name + ".corrupt"))
            warnings.warn(f"{path} is corrupt: {problem}. Its results are computed again"
                          + (f"; the file was kept as {path.name}.corrupt" if path == self.path else ""),
                          stacklevel=3)

    def _environment(self, device):
        """Index of today's versions and device in `environments`."""
        device = torch.device(device)
        here = {
            "date": datetime.date.today().isoformat(),
            "python": platform.python_version(), "torch": torch.__version__,
            "hessinit_lite": _version(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({_processor()})",
            "threads": torch.get_num_threads(),
        }
        if here not in self.environments:
            self.environments.append(here)
        return self.environments.index(here)


def _version():
    try:
        return importlib.metadata.version("hessinit-lite")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor():
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _plain(value):
    """The same value in what JSON knows: numbers that are not finite become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _floats(value):
    if isinstance(value, dict):
        if set(value) == {"float"} and isinstance(value["float"], str):
            return float(value["float"])
        return {key: _floats(each) for key, each in value.items()}
    return [_floats(each) for each in value] if isinstance(value, list) else value


def _dumps(value, **options):
    return json.dumps(_plain(value), allow_nan=False, **options)


def _key(setting):
    return _dumps(setting, sort_keys=True)


def _checksum(content):
    return hashlib.sha256(_dumps(content, sort_keys=True).encode()).hexdigest()
