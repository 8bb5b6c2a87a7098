"""The module on the command line: python -m hessinit_lite diagnose yourmodule:make_model"""

import argparse
import contextlib
import functools
import importlib
import inspect
import io
import json
import math
import os
import sys
import traceback
from pathlib import Path

import torch
from matplotlib.backend_bases import FigureCanvasBase
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from .autograd import NoOutputs, call, map_tensors
from .diagnosis.measure import as_it_was, put_to_eval, to_model
from .diagnosis.report import OPTIMIZERS, report
from .lab import data

#: Data sets that --data knows, and the shape of one of their pictures.
PICTURES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion_mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
}
LOSSES = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
EXAMPLE = """\
example: a file mynet.py in the current folder with a function that returns the model,

    def make_model():
        return torch.nn.Sequential(
            torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

    python -m hessinit_lite diagnose mynet:make_model --data digits --lr 0.1 --plot mynet.png
"""
#: What a terminal shows whose encoding lacks these.
PLAIN = str.maketrans({"λ": "lambda", "×": "x", "²": "^2", "–": "-", "→": "->", "±": "+/-"})


class Refused(Exception):
    """Something that the user can put right: shown as one line, exit code 2."""


def _shape(text):
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 1,8,8, got {text!r}")
    return sizes


def _seed(text):
    try:
        seed = int(text)
    except ValueError:
        seed = 2**64
    if not -(2**63) <= seed < 2**64:
        known = "must be a whole number from -2^63 to 2^64 - 1"
        raise argparse.ArgumentTypeError(f"{known}, got {text!r}")
    return seed


def _positive(kind):
    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
        return value

    return read


def parser():
    """The parser of the command line."""
    about = "Curvature of neural networks at initialization."
    main = argparse.ArgumentParser(prog="hessinit-lite", description=about)
    commands = main.add_subparsers(dest="command", required=True)
    diagnose = commands.add_parser(
        "diagnose",
        help="print a curvature report of a model of yours",
        description="Print a curvature report of a model of yours: signal, gradient and curvature "
        "of every layer, the learning rates that are safe, and what looks wrong. Exit code 0, or 2 "
        "with one line that says what to change.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = diagnose.add_argument
    add(
        "model",
        metavar="MODULE:FUNCTION",
        help="function without arguments that returns a torch.nn.Module; the module is looked for "
        "in the current folder first",
    )
    add(
        "--data",
        default="digits",
        metavar="NAME",
        help=f"{', '.join(PICTURES)}, or MODULE:FUNCTION, a function without arguments that "
        "returns a batch (inputs, targets); digits needs no network (default: %(default)s)",
    )
    add(
        "--shape",
        type=_shape,
        metavar="C,H,W",
        help="reshape every input, for instance 1,8,8 for digits as pictures",
    )
    add(
        "--batch",
        type=_positive(int),
        default=256,
        metavar="N",
        help="samples to draw from the data (default: %(default)s)",
    )
    add(
        "--loss",
        choices=LOSSES,
        default="cross_entropy",
        help="mse takes labels as one-hot vectors (default: %(default)s)",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto is cuda where there is one (default: %(default)s)",
    )
    add(
        "--seed",
        type=_seed,
        default=0,
        help="of the model's weights and of the choice of samples (default: %(default)s)",
    )
    add("--lr", type=_positive(float), help="a learning rate to judge")
    add(
        "--optimizer",
        choices=OPTIMIZERS,
        default="sgd",
        help="what --lr is for; for adam and adamw the report measures Adam's first step, and "
        "proposes a rate (default: %(default)s)",
    )
    add(
        "--settle",
        type=_positive(int),
        default=0,
        metavar="PASSES",
        help="let the batch norm of a copy average over so many passes of the batch first",
    )
    add(
        "--layers",
        nargs="+",
        metavar="NAME",
        help='only these layers, by name or pattern such as "blocks.*"',
    )
    add(
        "--plot",
        metavar="FILE",
        help="save the figure (png, svg, pdf; .png is added where the name has no ending)",
    )
    add("--json", metavar="FILE", help="save all numbers")
    for name, text in (
        ("allow-unverified", "read CIFAR-10 files whose checksum is not the official one"),
        ("progress", "show progress bars"),
        ("traceback", "show where an error came from"),
    ):
        add(f"--{name}", action="store_true", help=text)
    return main


def _print(text, file=None):
    """Print `text`, in plain words where the terminal's encoding lacks a letter."""
    file = file or sys.stdout
    encoding = getattr(file, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    print(text, file=file)


def _one_line(error, file=None):
    """An exception in one line; with the line of `file` (the user's module) that it passed last."""
    text = " ".join(str(error).split()) or "no message"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    place = f" ({os.path.basename(file)}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {text[:300]}{place}"


def _as_in_an_import(name):
    """What to write in place of `name`, the path of a file, with a colon at its end."""
    path = name.lstrip(".") if name.startswith(".") and "/" not in name else os.path.relpath(name)
    folder, base = os.path.split(path)
    if path.startswith(os.pardir):
        return f"cd {os.path.abspath(folder)}, and then {base}:"
    return path.replace(os.sep, ".") + ":"


def _call(path, example):
    """What the function returns that `path` ("module:function") names; Refused if that fails."""
    name, _, function = path.rpartition(":")
    if not (name and function):
        raise Refused(f"expected module:function such as mynet:{example}, got {path!r}")
    plain = name.replace("\\", "/").removesuffix(".py")
    if plain != name or "/" in name or name.startswith("."):
        raise Refused(
            f"expected module:function, got {path!r}; name the module (without .py) as "
            f"in an import: {_as_in_an_import(plain)}{function}"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            where = f"there is no {name.replace('.', '/')}.py in the current folder"
            raise Refused(f"no module {name!r}: {where}, and none is installed") from error
        why = f"it needs {error.name!r}, which is not installed"
        raise Refused(f"module {name!r} cannot be imported: {why}") from error
    except (Exception, SystemExit) as error:  # whatever the user's file does
        raise Refused(f"module {name!r} cannot be imported: {_one_line(error)}") from error
    if not hasattr(module, function):
        own = lambda value: inspect.isfunction(value) and value.__module__ == module.__name__
        known = ", ".join(key for key, value in vars(module).items() if own(value)) or "none"
        raise Refused(f"{name} has no {function!r}; functions in it: {known}")
    named = getattr(module, function)
    if not callable(named):
        how = "write a function without arguments that returns it"
        raise Refused(f"{path} is no function but {type(named).__name__}: {how}")
    try:
        return named()
    except (Exception, SystemExit) as error:
        line = _one_line(error, getattr(module, "__file__", None))
        raise Refused(f"{path} raised {line}") from error


def _model(args):
    torch.manual_seed(args.seed)
    model = _call(args.model, "make_model")
    if not isinstance(model, nn.Module):
        raise Refused(f"{args.model} returned {type(model).__name__}, not a torch.nn.Module")
    if next(model.parameters(), None) is None:
        raise Refused(f"the model of {args.model} has no weights")
    device = args.device
    if device == "cuda" and not torch.cuda.is_available():
        raise Refused("--device cuda: torch finds no GPU here; use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device)


def _batch(args):
    if ":" in args.data:
        batch = _call(args.data, "make_batch")
        pair = isinstance(batch, (tuple, list)) and len(batch) == 2
        if not (pair and _tensors(batch[0]) and isinstance(batch[1], torch.Tensor)):
            raise Refused(
                f"{args.data} must return a pair of tensors (inputs, targets); a tuple or "
                "mapping of inputs is unpacked for the model"
            )
        inputs, targets = batch
        shapes = [tuple(part.shape) for part in (*_tensors(inputs), targets)]
        if () in shapes:
            raise Refused(
                f"{args.data} must return a batch: inputs and targets need an axis of "
                f"samples, they have the shapes {' and '.join(map(str, shapes))}"
            )
    elif args.data not in PICTURES:
        known = ", ".join(PICTURES)
        raise Refused(f"unknown data {args.data!r}; known: {known}, or module:function")
    else:
        load = getattr(data, args.data)
        if args.allow_unverified and args.data == "cifar10":
            load = functools.partial(load, allow_unverified=True)
        try:
            pictures = load()
            inputs, targets = pictures.batch(args.batch, torch.Generator().manual_seed(args.seed))
        except (data.DataUnavailable, ValueError) as error:
            raise Refused(f"--data {args.data}: {error}") from error
    if args.shape:
        if not isinstance(inputs, torch.Tensor):
            raise Refused(f"--shape is for one tensor of inputs, {args.data} gave several")
        numbers, asked = inputs[0].numel() if len(inputs) else 0, math.prod(args.shape)
        if asked != numbers:
            what = f"--shape {','.join(map(str, args.shape))} has {asked} numbers"
            raise Refused(f"{what}, but an input of {args.data} has {numbers}")
        inputs = inputs.reshape(len(inputs), *args.shape)
    return inputs, targets


def _tensors(inputs):
    """The tensors of a batch's inputs: one, or those of a tuple or mapping."""
    found = []
    map_tensors(inputs, found.append)
    return found


def _outputs(model, inputs, args):
    """The model's outputs, or Refused with a hint at --shape where it does not take the inputs."""
    try:
        with as_it_was(model), torch.no_grad():
            put_to_eval(model)
            return call(model, map_tensors(inputs, torch.clone))
    except NoOutputs as error:
        raise Refused(str(error)) from error
    except (Exception, SystemExit) as error:
        shape = " and ".join(str(tuple(part.shape)) for part in _tensors(inputs))
        hint = ""
        if args.data in PICTURES:
            pictures = PICTURES[args.data]
            flat = str(torch.Size(pictures).numel())
            hint = f"; pictures: --shape {','.join(map(str, pictures))}, flat: --shape {flat}"
        message = f"the model does not accept inputs of shape {shape} ({_one_line(error)}){hint}"
        raise Refused(message) from error


def _check_file(option, name):
    """Refused if no file `name` can be written: better said before the computation than after."""
    folder = os.path.dirname(name) or "."
    if os.path.isdir(name):
        raise Refused(f"{option} {name}: it is a folder; give the name of a file")
    if not os.path.basename(name):
        raise Refused(f"{option} {name}: it ends like a folder; give the name of a file")
    if not os.path.isdir(folder):
        raise Refused(f"{option} {name}: there is no folder {folder}")
    if not os.access(name if os.path.exists(name) else folder, os.W_OK):
        raise Refused(f"{option} {name}: you may not write it; choose another place")


def _check_files(args):
    """Refused for files that cannot be written; `args.plot` becomes the name that is written."""
    if args.plot is not None:
        _check_file("--plot", args.plot)
        root, ending = os.path.splitext(args.plot)
        if ending in ("", "."):  # as matplotlib would do, without a word
            args.plot, ending = f"{root}.png", ".png"
            _check_file("--plot", args.plot)
        known = FigureCanvasBase.get_supported_filetypes()
        if ending[1:].lower() not in known:
            known = ", ".join(f".{kind}" for kind in sorted(known))
            raise Refused(f"--plot {args.plot}: expected a name that ends in {known}")
    if args.json is not None:
        _check_file("--json", args.json)
        if args.plot is not None and os.path.realpath(args.plot) == os.path.realpath(args.json):
            raise Refused(f"--plot {args.plot} and --json {args.json} are the same file")


def _save(args, result):
    """The files that `args` ask for; Refused, when all has been tried, if some cannot be written.

    The bytes are made first: what fails before them leaves an old file as it was.
    """

    def figure():
        drawn = io.BytesIO()
        kind = os.path.splitext(args.plot)[1][1:].lower()
        result.figure().savefig(drawn, dpi=150, format=kind)
        return drawn.getvalue()

    def numbers():
        return json.dumps(result.to_dict(), indent=1, allow_nan=False).encode()

    failed = []
    for what, name, make in (("figure", args.plot, figure), ("numbers", args.json, numbers)):
        if name is None:
            continue
        try:
            Path(name).write_bytes(make())
            _print(f"{what}: {name}")
        except Exception as error:  # noqa: BLE001 - a full disk, a format that needs a program
            failed.append((f"{name} cannot be saved: {_one_line(error)}", error))
    if failed:
        raise Refused("; ".join(line for line, _ in failed)) from failed[0][1]


def diagnose(args):
    """Print the report that `args` asks for; Refused where that cannot be done."""
    _check_files(args)
    model = _model(args)
    inputs, targets = to_model(_batch(args), next(model.parameters()))
    count = len(_tensors(inputs)[0])
    if count == 0 or count != len(targets):
        raise Refused(f"{args.data} gave {count} inputs and {len(targets)} targets")
    outputs = _outputs(model, inputs, args)
    if outputs.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point():
        classes = outputs.shape[1]
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= classes:
            what = f"labels out of range: the model has {classes} outputs"
            raise Refused(f"{what}, the labels of {args.data} go from {low} to {high}")
        if args.loss == "mse":
            targets = F.one_hot(targets.long(), classes).to(outputs.dtype)
    if args.loss == "mse" and targets.shape != outputs.shape:
        raise Refused(
            f"--loss mse needs targets in the shape of the outputs {tuple(outputs.shape)}, "
            f"or labels for outputs [N, classes]; they have {tuple(targets.shape)}"
        )
    try:
        names = "layers", "lr", "optimizer", "settle", "progress"
        options = {name: getattr(args, name) for name in names}
        result = report(model, LOSSES[args.loss], (inputs, targets), **options)
    except torch.cuda.OutOfMemoryError as error:
        how = "a smaller --batch, or some --layers only"
        raise Refused(f"the GPU's memory does not suffice: {how}") from error
    except (Exception, SystemExit) as error:
        known = type(error) in (TypeError, ValueError)
        raise Refused(" ".join(str(error).split()) if known else _one_line(error)) from error
    _print(str(result))
    _save(args, result)


@contextlib.contextmanager
def _quiet():
    """No progress bars in here, whoever draws them."""
    start = tqdm.__init__
    tqdm.__init__ = functools.partialmethod(start, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = start


def main(argv=None):
    """Run the command; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        with contextlib.nullcontext() if args.progress else _quiet():
            diagnose(args)
    except Exception as error:
        if args.traceback:
            raise
        expected = isinstance(error, Refused)
        line = str(error) if expected else f"{_one_line(error)} (--traceback shows where)"
        _print(f"hessinit-lite: error: {line}", sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
