"""A second device without hardware: torch on the CPU under another name, that behaves as a GPU does.

Inside `available()` tensors may live on "second". They hold CPU data, but an operation that mixes them with
CPU tensors raises, drawing with a generator of the other device raises, `.numpy()` raises, and everything
that a GPU would have to wait for is counted: copies to the host, single values (`.item()`, `if tensor:`),
results whose size depends on the data. What passes here mixes no devices on a GPU either. Speed, kernels
and random streams of a real GPU are not imitated.

torch calls its Python backends experimental; where they are missing `available` raises `Unavailable`.
"""

import contextlib
import functools
from collections import Counter

import torch
from torch.overrides import TorchFunctionMode

NAME = "second"
#: operations whose result has a size that the host must know, or is a value on the host
WAITS = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "unique", "_unique2", "unique_consecutive")
#: in-place operations that change a tensor's shape, not its data
RESHAPES = ("t_", "transpose_", "swapaxes_", "swapdims_", "squeeze_", "unsqueeze_", "as_strided_")
_waits = Counter()


class Unavailable(RuntimeError):
    """This version of torch has no Python backends as they are used here."""


@contextlib.contextmanager
def counted():
    """Counts what is waited for: `with counted() as waits: ...`, then `waits` is {operation: times}."""
    waits, before = Counter(), Counter(_waits)
    try:
        yield waits
    finally:
        waits.update(_waits - before)


class SecondTensor(torch.Tensor):
    """A tensor on the second device; `raw` is the CPU tensor that holds its data."""

    @staticmethod
    def __new__(cls, raw):
        made = torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype,
            layout=raw.layout, device=torch.device(NAME, 0), requires_grad=raw.requires_grad)
        made.raw = raw
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})

    def __repr__(self):
        return f"{self.raw!r} on {NAME}"

    def tolist(self):
        _waits["tolist"] += 1
        return self.raw.tolist()

    def __format__(self, spec):
        _waits["format"] += 1
        return format(self.raw, spec)

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def new_tensor(self, data, dtype=None):
        return torch.tensor(data, dtype=dtype or self.dtype, device=self.device)

    def untyped_storage(self):
        return self.raw.untyped_storage()


def _name(operation):
    return operation._schema.name.removeprefix("aten::")


def _map(function, tree):
    """`function` of each leaf: torch's own `tree_map` takes several times as long, and runs at each operation."""
    kind = type(tree)
    if kind is tuple or kind is list:
        return kind([_map(function, each) for each in tree])
    if kind is dict:
        return {key: _map(function, each) for key, each in tree.items()}
    return function(tree)


def _run(operation, args, kwargs):
    """Run an operation on the CPU data of its second-device tensors, and wrap what comes out."""
    name, tensors = _name(operation), []

    def unwrap(leaf):
        if not isinstance(leaf, torch.Tensor):
            return leaf
        tensors.append(leaf)
        return leaf.raw if isinstance(leaf, SecondTensor) else leaf

    raw_args, raw_kwargs = _map(unwrap, args), _map(unwrap, kwargs)
    ours = [tensor for tensor in tensors if isinstance(tensor, SecondTensor)]
    copies = name in ("copy_", "_copy_from", "_to_copy")
    others = [tensor for tensor in tensors if not isinstance(tensor, SecondTensor) and tensor.ndim]
    if ours and others and not copies:
        raise RuntimeError(f"{name}: expected all tensors on one device, found {NAME} and cpu "
                           f"{[tuple(tensor.shape) for tensor in others]}")
    to = kwargs.get("device")
    stays = to is None or torch.device(to).type == NAME
    if to is not None and stays:
        raw_kwargs["device"] = torch.device("cpu")
    if name == "copy_" and ours:
        stays = isinstance(args[0], SecondTensor)
    if ours and (name in WAITS or not stays):
        _waits[name] += 1
    if name.startswith("index") and any(tensor.dtype == torch.bool for tensor in tensors[1:]):
        _waits["index by a mask"] += 1
    out = operation(*raw_args, **raw_kwargs)
    if name in RESHAPES:
        args[0].data = SecondTensor(args[0].raw)  # the shape of a wrapper is its own
    same = {id(tensor.raw): tensor for tensor in ours}  # in-place operations return their argument

    def wrap(leaf):
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return same.get(id(leaf)) if id(leaf) in same else SecondTensor(leaf) if stays else leaf

    return _map(wrap, out)


class _Rules(TorchFunctionMode):
    """What a GPU refuses and this backend would not see: a generator of the other device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if isinstance(generator, torch._C.Generator):
            target = kwargs.get("device")
            if target is None:
                drawn = next((a for a in args if isinstance(a, torch.Tensor)), None)
                target = torch.get_default_device() if drawn is None else drawn.device
            if torch.device(target).type != generator.device.type:
                raise RuntimeError(f"Expected a '{torch.device(target).type}' device type for generator but found "
                                   f"'{generator.device.type}'")
        return function(*args, **kwargs)


def _made_on_the_cpu(function):
    """A factory without a kernel for Python backends: made on the CPU, then moved."""
    @functools.wraps(function)
    def make(*args, device=None, **kwargs):
        made = function(*args, **kwargs)
        return made if device is None else made.to(device)

    return make


class _Generator(torch.Generator):
    """A torch.Generator that also serves the second device, with the CPU's stream."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu" if torch.device(device).type == NAME else device)
        made._second = torch.device(device).type == NAME
        return made

    @property
    def device(self):
        return torch.device(NAME, 0) if self._second else super().device


FACTORIES = ("tensor", "as_tensor", "eye", "arange", "linspace", "logspace", "tril_indices", "triu_indices")


@functools.cache
def register():
    """Tell torch of the device, for as long as the process lives; before its first backward pass."""
    try:
        from torch.utils.backend_registration import (
            _setup_privateuseone_for_python_backend as setup,
        )

        setup(NAME)
    except (ImportError, AttributeError, TypeError) as error:
        raise Unavailable(f"torch {torch.__version__} has no Python backends: {error}") from error
    getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]  # checkpointing asks for it
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda operation, *args, **kwargs: _run(operation, args, kwargs), "PrivateUse1")
    return library  # lives as long as the cache


@contextlib.contextmanager
def available():
    """Inside, "second" is a device of torch's. Raises Unavailable where torch has no Python backends."""
    register()
    bridged = {name: _made_on_the_cpu(getattr(torch, name)) for name in FACTORIES} | {"Generator": _Generator}
    own = {name: getattr(torch, name) for name in bridged}
    # A wrapper keeps its dtype when `.data` is replaced, as `model.double()` does: it makes new parameters here.
    replaced = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        for name, function in bridged.items():
            setattr(torch, name, function)
        with _Rules():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(replaced)
        for name, function in own.items():
            setattr(torch, name, function)
