"""Docstrings of the module: their examples run, and they are in one style, which Sphinx reads."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hessinit_lite as hl
from hessinit_lite.lab import explorable

ROOT = Path(__file__).resolve().parent.parent
API = (ROOT / "book" / "api.md").read_text()
LISTED = re.findall(r"auto(?:class|function|exception):: (\S+)", API)
MODULES = [importlib.import_module(each.name) for each in pkgutil.walk_packages(hl.__path__, "hessinit_lite.")
           if not each.name.endswith("__main__")]
SECTION = re.compile("(Args|Returns|Raises|Example|Yields):")


def public(owner, module, prefix):
    """(name, object) of the public classes, functions, methods and properties that `owner` defines."""
    for name, found in vars(owner).items():
        found = getattr(found, "__func__", getattr(found, "fget", getattr(found, "func", found)))
        found = inspect.unwrap(found) if callable(found) else found
        code = inspect.isclass(found) or inspect.isfunction(found)
        if code and found.__module__ == module and not name.startswith("_"):
            yield f"{prefix}.{name}", found
            if inspect.isclass(found):
                yield from public(found, module, f"{prefix}.{name}")


PUBLIC = dict(each for module in MODULES for each in public(module, module.__name__, module.__name__))
WITH_DOCSTRING = {name: inspect.getdoc(found) for name, found in PUBLIC.items() if found.__doc__}
WITH_EXAMPLE = {name: text for name, text in WITH_DOCSTRING.items() if ">>>" in text}


def former_style(text, arguments):
    """Lines of a docstring that say outside of a section what a section is for."""
    found, section = [], None
    for line in text.splitlines():
        section = section if line.startswith(" ") else SECTION.fullmatch(line)
        argument = re.match(r"\**(\w+)(, \w+)*:( |$)", line)
        if not section and (argument and argument[1] in arguments
                            or re.search(r"(^|[.;] )(Raises?|Returns) (an? )?[A-Z]", line)):
            found.append(line)
    return found


def test_the_listed_names_are_there():
    assert len(LISTED) > 60 and set(LISTED) <= set(WITH_DOCSTRING)


def test_every_name_of_the_front_door_is_listed():
    offered = [inspect.unwrap(getattr(hl, name)) for name in hl.__all__]
    offered = [each for each in offered if inspect.isclass(each) or inspect.isfunction(each)]
    assert {f"{each.__module__}.{each.__qualname__}" for each in offered} <= set(LISTED)


@pytest.mark.parametrize("name", LISTED)
def test_every_listed_name_has_an_example(name):
    assert name in WITH_EXAMPLE


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_example(name, monkeypatch):
    monkeypatch.setattr(explorable, "tqdm", lambda frames, **_: frames)  # a bar prints
    torch.manual_seed(0)
    names = {"hl": hl, "torch": torch, "nn": nn, "F": F}
    example = doctest.DocTestParser().get_doctest(WITH_EXAMPLE[name], names, name, None, None)
    said = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", [name for name in WITH_DOCSTRING if ".lab.figures" not in name])
def test_style(name):
    found = PUBLIC[name]
    exception = inspect.isclass(found) and issubclass(found, Exception)
    assert former_style(WITH_DOCSTRING[name], [] if exception else inspect.signature(found).parameters) == []


def test_the_former_style_would_be_found():
    former = "model: a module.", "batch, model: both.", "Works. Raises ValueError for nothing.", "Returns a Run."
    for line in former:
        assert former_style(f"A function.\n\n{line}", ["model", "batch"]) == [line]
    for text in ("Args:\n    model: a module.", "Returns:\n    A Run.", "Words: these are no arguments."):
        assert former_style(f"A function.\n\n{text}", ["model", "batch"]) == []
