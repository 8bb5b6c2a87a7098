"""The module on the command line: python -m hessinit_lite diagnose yourmodule:make_model --data digits"""

import argparse
import importlib
import inspect
import json
import os
import sys
import traceback

import torch
from torch import nn
from torch.nn import functional as F

from . import data
from .report import _as_it_was, _to_model, report

#: Data sets that --data knows, and the shape of one of their pictures.
PICTURES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
LOSSES = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
EXAMPLE = """\
example: a file mynet.py in the current folder with a function that returns the model,

    def make_model():
        return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

    python -m hessinit_lite diagnose mynet:make_model --data digits --lr 0.1 --plot mynet.png
"""


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
    main = argparse.ArgumentParser(prog="hessinit-lite",
                                   description="Curvature of neural networks at initialization.")
    commands = main.add_subparsers(dest="command", required=True)
    diagnose = commands.add_parser(
        "diagnose", help="print a curvature report of a model of yours",
        description="Print a curvature report of a model of yours: signal, gradient and curvature of every layer, "
        "the learning rates that are safe, and what looks wrong. Exit code 0, or 2 with one line that says what "
        "to change.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = diagnose.add_argument
    add("model", metavar="MODULE:FUNCTION", help="function without arguments that returns a torch.nn.Module; "
        "the module is looked for in the current folder first")
    add("--data", default="digits", metavar="NAME", help=f"{', '.join(PICTURES)}, or MODULE:FUNCTION, a "
        "function without arguments that returns a batch (inputs, targets); digits needs no network "
        "(default: digits)")
    add("--shape", type=_shape, metavar="C,H,W", help="reshape every input, for instance 1,8,8 for digits as "
        "pictures")
    add("--batch", type=_positive(int), default=256, metavar="N", help="samples to draw from the data "
        "(default: 256)")
    add("--loss", choices=LOSSES, default="cross_entropy", help="mse takes labels as one-hot vectors "
        "(default: cross_entropy)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto is cuda where there is one "
        "(default: auto)")
    add("--seed", type=int, default=0, help="of the model's weights and of the choice of samples (default: 0)")
    add("--lr", type=_positive(float), help="a learning rate to judge")
    add("--layers", nargs="+", metavar="NAME", help='only these layers, by name or pattern such as "blocks.*"')
    add("--plot", metavar="FILE", help="save the figure (png, svg, pdf)")
    add("--json", metavar="FILE", help="save all numbers")
    add("--allow-unverified", action="store_true", help="read CIFAR-10 files whose checksum is not the "
        "official one")
    add("--progress", action="store_true", help="show a progress bar")
    add("--traceback", action="store_true", help="show where an error came from")
    return main


def _one_line(error, file=None):
    """An exception in one line; with the line of `file` (the user's module) that it passed through last."""
    text = " ".join(str(error).split()) or "no message"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" ({os.path.basename(file)}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {text[:300]}{place}"


def _call(path, example):
    """What the function that `path` ("module:function") names returns; Refused with what is wrong."""
    name, _, function = path.partition(":")
    if not (name and function) or name.endswith(".py"):
        raise Refused(f"expected module:function such as mynet:{example} (without .py), got {path!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise Refused(f"no module {name!r}: there is no {name.replace('.', '/')}.py in the current folder, and "
                          "none is installed") from error
        raise Refused(f"module {name!r} cannot be imported: it needs {error.name!r}, which is not "
                      "installed") from error
    except Exception as error:  # whatever the user's file does
        raise Refused(f"module {name!r} cannot be imported: {_one_line(error)}") from error
    if not hasattr(module, function):
        known = [key for key, value in vars(module).items()
                 if inspect.isfunction(value) and value.__module__ == module.__name__]
        raise Refused(f"{name} has no {function!r}; functions in it: {', '.join(known) or 'none'}")
    if not callable(getattr(module, function)):
        raise Refused(f"{path} is no function but {type(getattr(module, function)).__name__}: write a function "
                      "without arguments that returns it")
    try:
        return getattr(module, function)()
    except Exception as error:
        raise Refused(f"{path} raised {_one_line(error, getattr(module, '__file__', None))}") from error


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
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2
                and all(isinstance(part, torch.Tensor) for part in batch)):
            raise Refused(f"{args.data} must return a pair of tensors (inputs, targets)")
        inputs, targets = batch
    elif args.data not in PICTURES:
        raise Refused(f"unknown data {args.data!r}; known: {', '.join(PICTURES)}, or module:function")
    else:
        options = {"allow_unverified": True} if args.allow_unverified and args.data == "cifar10" else {}
        try:
            pictures = getattr(data, args.data)(**options)
            inputs, targets = pictures.batch(args.batch, torch.Generator().manual_seed(args.seed))
        except (data.DataUnavailable, ValueError) as error:
            raise Refused(f"--data {args.data}: {error}") from error
    if args.shape:
        numbers = inputs[0].numel() if len(inputs) else 0
        asked = torch.Size(args.shape).numel()
        if asked != numbers:
            raise Refused(f"--shape {','.join(map(str, args.shape))} has {asked} numbers, but an input of "
                          f"{args.data} has {numbers}")
        inputs = inputs.reshape(len(inputs), *args.shape)
    return inputs, targets


def _outputs(model, inputs, args):
    """The model's outputs, or Refused with a hint at --shape where it does not take the inputs."""
    shape = tuple(inputs.shape)
    try:
        with _as_it_was(model), torch.no_grad():
            outputs = model.eval()(inputs)
    except Exception as error:
        hint = ""
        if args.data in PICTURES:
            pictures = PICTURES[args.data]
            flat = str(torch.Size(pictures).numel())
            hint = f"; pictures: --shape {','.join(map(str, pictures))}, flat: --shape {flat}"
        message = f"the model does not accept inputs of shape {shape} ({_one_line(error)}){hint}"
        raise Refused(message) from error
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
        found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise Refused(f"the model must return one tensor [N, classes], it returns {found} for inputs of shape "
                      f"{shape}")
    return outputs


def diagnose(args):
    """Print the report that `args` asks for; Refused where that cannot be done."""
    model = _model(args)
    inputs, targets = _to_model(_batch(args), next(model.parameters()))
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise Refused(f"{args.data} gave {len(inputs)} inputs and {len(targets)} targets")
    outputs = _outputs(model, inputs, args)
    classes = outputs.shape[1]
    if not targets.is_floating_point():
        if targets.min() < 0 or targets.max() >= classes:
            raise Refused(f"labels out of range: the model has {classes} outputs, the labels of {args.data} go "
                          f"from {int(targets.min())} to {int(targets.max())}")
        if args.loss == "mse":
            targets = F.one_hot(targets.long(), classes).to(outputs.dtype)
    try:
        result = report(model, LOSSES[args.loss], (inputs, targets), layers=args.layers, lr=args.lr,
                        progress=args.progress)
    except torch.cuda.OutOfMemoryError as error:
        raise Refused("the GPU's memory does not suffice: a smaller --batch, or some --layers only") from error
    except (TypeError, ValueError, RuntimeError) as error:
        known = type(error) in (TypeError, ValueError)
        raise Refused(" ".join(str(error).split()) if known else _one_line(error)) from error
    print(result)
    try:
        if args.plot:
            result.figure().savefig(args.plot, dpi=150)
            print(f"figure: {args.plot}")
        if args.json:
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(result.to_dict(), file, indent=1, allow_nan=False)
            print(f"numbers: {args.json}")
    except (OSError, ValueError) as error:  # no such folder; a format that matplotlib does not know
        raise Refused(f"cannot be saved: {_one_line(error)}") from error


def main(argv=None):
    """Run the command; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        diagnose(args)
    except Refused as error:
        if args.traceback:
            raise
        print(f"hessinit-lite: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
