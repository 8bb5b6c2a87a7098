"""Results of long experiments: stored as they come, continued after an interruption, checked.

An experiment is a function of a setting (a dict of plain values) that returns plain numbers,
strings, lists or dicts. `Results.run` calls it for one setting after another and keeps, beside each
answer, the setting, the data it is of, the seconds it took, and the versions, commit and device it
ran on. A setting and its data are everything that the answer depends on; when the function itself
changes, give the settings a version number and raise it. Files are JSON, written by this module
only; a checksum tells whether a file is what was written. Several processes may write one file.

Files of an older module are read, too: what they do not say counts as "unknown".
"""

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
import uuid
import warnings
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

SHIPPED = Path(__file__).with_name("stored")  #: results that come with the module
SIZES = ("quick", "full")
STALE = 20.0  #: seconds after which a lock that nobody has touched is that of a dead process
DEEPEST = 100  #: levels of lists and dicts in a setting or an answer
UNKNOWN = "unknown"  #: what an older file does not say


def size_of_experiments():
    """ "quick" or "full", as the environment variable HESSINIT_SIZE says; ValueError for others."""
    size = os.environ.get("HESSINIT_SIZE", "quick")
    if size not in SIZES:
        raise ValueError(f"HESSINIT_SIZE is {size!r}; known sizes: {', '.join(SIZES)}")
    return size


def folder_of_results():
    """Where results are written: HESSINIT_RESULTS, else `results` in the current folder."""
    return Path(os.environ.get("HESSINIT_RESULTS", "results"))


class Results:
    """Answers of one experiment in one size, by setting.

    A file that cannot be read, or is not what was written, is moved aside as `<file>.corrupt` with
    a warning that names it, and its answers are computed again.

    Args:
        name: of the experiment, also of its file.
        size: "quick" answers are always computed anew, "full" ones continue from what is stored;
            None takes `size_of_experiments()`.
        folder: for the file `<name>-<size>.json`; None takes `folder_of_results()`. If there is no
            such file there, a full experiment starts from the one that comes with the module, if
            any.
        fresh: start from nothing: what is stored now goes with the first save (the environment
            variable HESSINIT_FRESH=1 does the same). None: only in quick size.
        data_of: function of a setting: its data's name and hash, as text (`records.label`). Only
            answers that are of these data are found. None for experiments without data.

    Raises:
        ValueError: for an unknown size.
        OSError: for a file that is there and may not be read.

    Example:
        >>> import tempfile
        >>> results = hl.Results("squares", size="quick", folder=tempfile.mkdtemp())
        >>> results.run(lambda x: x**2, [{"x": 2}, {"x": 3}], progress=False)
        [4, 9]
    """

    def __init__(self, name, size=None, folder=None, fresh=None, data_of=None):
        self.data_of = data_of or (lambda setting: None)
        self.name, self.size = name, size_of_experiments() if size is None else size
        if self.size not in SIZES:
            raise ValueError(f"unknown size {self.size!r}; known: {', '.join(SIZES)}")
        folder = folder_of_results() if folder is None else Path(folder)
        self.path = folder / f"{name}-{self.size}.json"
        if fresh is None:
            fresh = self.size == "quick" or os.environ.get("HESSINIT_FRESH") == "1"
        self.environments, self.records = [], []
        self._computed = set()  # keys of the settings whose answers are this object's own
        try:
            found = read(self.path)
        except ValueError:
            with _alone(self.path):  # another may be at it, too
                found = self._read_or_move_aside()
        self._dropped = {_identity(record) for record in found[1]} if fresh and found else set()
        if not fresh:
            self.environments, self.records = found or self._shipped()

    def run(self, function, settings, device="cpu", progress=True):
        """`[function(**setting) for each setting]`, from stored answers where there are any.

        Answers are stored as they come: interrupt it, and the next call goes on with the rest. The
        function gets a setting as it is. A number that is not finite is stored as text ("inf",
        "nan") and comes back as a float; tuples come back as lists, keys of dicts as strings.

        Raises:
            TypeError: for settings or answers that JSON cannot hold.
            ValueError: for those nested deeper than 100 levels or with two keys that are the same
                as strings.
            OSError: if the file cannot be written; what was answered before that is kept.
        """
        settings = [(setting, self._asked(setting)) for setting in settings]
        known = {_key(record) for record in self.records}
        missing = {
            _key(stored): (setting, stored)
            for setting, stored in settings
            if _key(stored) not in known
        }
        environment = _here(device) if missing else None  # of the code that is loaded now
        saved = time.monotonic()
        todo = tqdm(missing.items(), desc=self.name, leave=False) if progress else missing.items()
        try:
            for key, (setting, stored) in todo:
                start = time.perf_counter()
                answer = _plain(function(**setting))
                self.records.append(
                    {
                        **stored,
                        "answer": answer,
                        "seconds": round(time.perf_counter() - start, 3),
                        "environment": _index(self.environments, environment),
                    }
                )
                self._computed.add(key)
                if time.monotonic() - saved > 2:
                    self.save()
                    saved = time.monotonic()
        finally:
            if missing:
                self.save()
        return self._answers([stored for _, stored in settings])

    def answers(self, settings=None):
        """Stored answers, of these settings in their order, or of all.

        Raises:
            KeyError: for a setting that is not stored.
            TypeError, ValueError: as `run`.
        """
        if settings is None:
            return [floats(record["answer"]) for record in self.records]
        return self._answers([self._asked(setting) for setting in settings])

    def __contains__(self, setting):
        """Is there an answer to this setting, of its data?"""
        asked = _key(self._asked(setting))
        return any(_key(record) == asked for record in self.records)

    def _asked(self, setting):
        """What tells a record from others: the setting, as it is stored, and its data."""
        return {"setting": _plain(setting), "data": self.data_of(setting)}

    def _answers(self, asked):
        """Answers to what `_asked` gives."""
        by_key = {_key(record): record["answer"] for record in self.records}
        try:
            return [floats(by_key[_key(each)]) for each in asked]
        except KeyError as missing:
            raise KeyError(
                f"{self.path.name} holds no answer for {missing.args[0]}: call run"
            ) from None

    def data(self):
        """Names and hashes of the data that the stored answers are of, sorted."""
        return sorted({str(record["data"]) for record in self.records if record["data"]})

    def items(self):
        """[(setting, answer), ...] of all that is stored."""
        return [(floats(record["setting"]), floats(record["answer"])) for record in self.records]

    def __len__(self):
        return len(self.records)

    def __str__(self):
        """One line: how many answers, on what, when, how long."""
        if not self.records:
            return f"{self.name} ({self.size}): nothing stored"
        seconds = sum(record["seconds"] for record in self.records)
        numbers = sorted({record["environment"] for record in self.records})
        used = [self.environments[number] for number in numbers]
        devices = ", ".join(dict.fromkeys(each["device"] for each in used))
        versions = ", ".join(dict.fromkeys(each["torch"] for each in used))
        dates = sorted({each["date"] for each in used})
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        spent = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        return (
            f"{self.name} ({self.size}): {len(self)} runs, {spent} on {devices}; "
            f"torch {versions}; {when}"
        )

    def save(self):
        """Write the file, whole or not at all. What others have stored there meanwhile stays in it.

        Raises:
            OSError: if that cannot be done; the file is then as it was.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(self.path):
            theirs, records = self._read_or_move_aside() or ([], [])
            environments = list(self.environments)
            merged = {_key(record): record for record in self.records}
            for record in records:
                key = _key(record)
                if key not in self._computed and _identity(record) not in self._dropped:
                    number = _index(environments, theirs[record["environment"]])
                    merged[key] = {**record, "environment": number}
            write(self.path, self.name, self.size, environments, list(merged.values()))
            self._dropped = set()

    def _read_or_move_aside(self):
        """What `read` gives; a file that is corrupt is moved aside. To be called alone."""
        try:
            return read(self.path)
        except ValueError as error:
            aside = self.path.with_name(self.path.name + ".corrupt")
            if aside.exists():
                aside = aside.with_name(f"{aside.name}.{uuid.uuid4().hex[:8]}")
            os.replace(self.path, aside)
            warnings.warn(
                f"{self.path} is corrupt: {error}. Its results are computed again; the "
                f"file was kept as {aside.name}",
                stacklevel=3,
            )
            return None

    def _shipped(self):
        """The environments and records that come with the module."""
        path = SHIPPED / self.path.name
        try:
            return read(path) or ([], [])
        except ValueError as error:
            warnings.warn(
                f"{path} is corrupt: {error}. Its results are computed again", stacklevel=3
            )
            return [], []


def read(path):
    """(environments, records) of a file, None if there is none; ValueError if it is corrupt.

    What an older file does not say is "unknown".
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("sha256") != _checksum(content):
            raise ValueError("its checksum is not that of its content")
        environments = [{**_NOTHING_KNOWN, **each} for each in content["environments"]]
        return environments, [{"data": UNKNOWN, **each} for each in content["records"]]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(
            f"it is not a file of results as it was written ({type(error).__name__}: {error})"
        ) from error


def write(path, name, size, environments, records):
    """Write a file in one step: those who read it meanwhile find the old one or the new one."""
    content = {"name": name, "size": size, "environments": environments, "records": records}
    text = json.dumps({**content, "sha256": _checksum(content)}, indent=0, allow_nan=False)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_text(text + "\n", encoding="utf-8")
        for patience in range(100, -1, -1):
            try:
                os.replace(part, path)
                break
            except PermissionError:  # on Windows, while another process reads the file
                if not patience:
                    raise
                time.sleep(0.01)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(path):
    """No two processes are in here for one path: who makes the file `<path>.lock` is, others wait.

    To make a file that must not exist is one step on every system. Whoever is in here needs
    milliseconds, so a lock that stays the same for long was left by a process that died.
    """
    lock = path.with_name(path.name + ".lock")
    seen, since = None, time.monotonic()  # not the lock's age: another machine's clock may be wrong
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            try:
                stamp = lock.stat().st_mtime_ns
            except OSError:  # it has just gone
                stamp = None
            if stamp is None or stamp != seen:
                seen, since = stamp, time.monotonic()
            elif time.monotonic() - since > STALE:
                lock.unlink(missing_ok=True)
        except PermissionError:  # on Windows also while a lock is going
            if os.name != "nt" or time.monotonic() - since > STALE:
                raise
        time.sleep(0.005)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


#: What an environment says since it was first asked for; older files lack some of it.
_NOTHING_KNOWN = dict.fromkeys(("numpy", "commit", "instructions"), UNKNOWN)


def _here(device):
    """Today's versions, commit and device."""
    device = torch.device(device)
    gpu = device.type == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "hessinit_lite": _version(),
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if gpu else f"CPU ({_processor()})",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


@functools.cache
def _commit():
    """The module's commit, with "+" if files changed since; "unknown" outside a checkout."""
    here = Path(__file__).parents[1]

    def git(*arguments):
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout

    try:
        git("ls-files", "--error-unmatch", str(Path(__file__)))  # not a copy that is installed
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(here))
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN


def _index(environments, environment):
    """The number of an environment in a list, which gets it if it has not."""
    if environment not in environments:
        environments.append(environment)
    return environments.index(environment)


def _version():
    try:
        return importlib.metadata.version("hessinit-lite")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor():
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _plain(value, levels=DEEPEST):
    """A copy of a setting or an answer in what JSON knows; ValueError or TypeError for the rest.

    Numbers that are not finite become {"float": text}.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(float(value))}
    if isinstance(value, (dict, list, tuple)) and not levels:
        raise ValueError(
            f"a setting or an answer is nested deeper than {DEEPEST} levels, or "
            "contains itself: use flat lists and dicts"
        )
    if isinstance(value, dict):
        names = {}
        for key in value:
            if names.setdefault(str(key), key) is not key:
                raise ValueError(
                    f"the keys {names[str(key)]!r} and {key!r} are the same in JSON: rename one"
                )
        return {name: _plain(value[key], levels - 1) for name, key in names.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, levels - 1) for each in value]
    return json.loads(json.dumps(value))


def floats(value):
    """A setting or an answer as it was before it was stored: the opposite of `_plain`."""
    if isinstance(value, dict):
        if list(value) == ["float"] and value["float"] in ("inf", "-inf", "nan"):
            return float(value["float"])
        return {key: floats(each) for key, each in value.items()}
    return [floats(each) for each in value] if isinstance(value, list) else value


def _key(record):
    """A record's setting and data as text."""
    return json.dumps([record["setting"], record["data"]], sort_keys=True)


def _identity(record):
    """What tells a record from a newer one of the same setting."""
    return json.dumps([_key(record), record["answer"], record["seconds"]], sort_keys=True)


def _checksum(content):
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
