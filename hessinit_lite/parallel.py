"""The operators of `curvature` over torch.distributed: every rank holds a part of the data.

A mean over all samples is the mean of the ranks' own operators, weighted by what each divides by
(its samples; fewer where labels are ignored): a product takes one all-reduce of its P numbers.
`spectrum` works on these operators unchanged and gives every rank the same answer, as long as all
ranks run the same lines, on processors of one kind.

    device = parallel.start()                   # under torchrun --nproc-per-node=RANKS script.py
    operator = parallel.hessian(model.to(device), loss_fn, parallel.shard(batch))
    values, bounds = top_eigenvalues(operator)  # on every rank; print on one

No rank waits for ever. A rank that meets an error takes part in the all-reduce all the same and
says that it failed; then all raise, naming it. If a rank dies, the others raise RuntimeError.
"""

import atexit
import contextlib
import datetime
import math
import os
import time
from collections.abc import Mapping

import torch
from torch import distributed as dist

from . import curvature
from .sharded import ShardedOperator

#: Whole numbers as wide as a tensor's entries; wider entries are read in parts of 32 bits.
_INTEGERS = {1: torch.uint8, 2: torch.int16}
_MARKS = 5  #: numbers of a rank in an all-reduce, beside the sum
_FAILED, _NOT_FINITE = 1, 2


def start(timeout=600.0):
    """Join the processes that torchrun has started; returns this rank's torch.device.

    NCCL with a GPU for every rank where the machine has as many, else gloo on the CPU.

    Args:
        timeout: seconds that a rank waits for the others, here and in each product; the slowest
            rank must not be later than that.

    Raises:
        RuntimeError: outside torchrun.
        ValueError: for a timeout that is not positive.

    Example:
        >>> # in a script that torchrun --nproc-per-node=2 runs
        >>> hl.parallel.start()  # doctest: +SKIP
        device(type='cpu')
    """
    known = "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
    missing = ", ".join(name for name in known if name not in os.environ)
    if missing:
        how = "torchrun --nproc-per-node=RANKS script.py"
        raise RuntimeError(f"{missing} not set: run this script with {how}")
    if not timeout > 0:
        raise ValueError(f"timeout must be positive (seconds), got {timeout}")
    rank, ranks = (int(os.environ.get(f"LOCAL_{name}", "0")) for name in ("RANK", "WORLD_SIZE"))
    device, backend = torch.device("cpu"), "gloo"
    if torch.cuda.is_available() and torch.cuda.device_count() >= max(ranks, rank + 1):
        device, backend = torch.device("cuda", rank), "nccl"
        torch.cuda.set_device(device)
        # Else torch's watchdog ends the process at the timeout, without an exception to read.
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout))
    atexit.register(_leave)  # else its threads may abort a process that ends in peace
    return device


def _leave():
    if dist.is_initialized():
        time.sleep(
            0.1
        )  # torch 2.3: its threads let go of tensors first, for which they need Python
        dist.destroy_process_group()


def shard(batch):
    """This rank's part `(inputs, targets)` of a batch that all ranks hold, even to one sample.

    Inputs: a tensor, or a tuple or mapping of tensors (numbers, text and None in it are kept).

    Raises:
        RuntimeError: before `start`.
        TypeError: for anything that is no such batch.
        ValueError: for inputs and targets of different numbers of samples, or fewer samples than
            ranks.

    Example:
        >>> # after start() with two ranks
        >>> inputs, targets = hl.parallel.shard((torch.ones(5, 2), torch.ones(5)))  # doctest: +SKIP
        >>> len(targets)  # doctest: +SKIP
        3
    """
    _check_started()
    ranks = dist.get_world_size()
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2) or curvature.is_loader(batch):
        how = "of a list of batches give every rank its own: batches[rank::ranks]"
        raise TypeError(f"shard takes one batch, a pair (inputs, targets); {how}")
    inputs, targets = batch
    if not isinstance(targets, torch.Tensor):
        raise TypeError(f"targets are a {type(targets).__name__}, expected a torch.Tensor")
    if not targets.ndim:
        raise ValueError("targets need an axis of samples, they are a single number")
    if len(targets) < ranks:
        raise ValueError(f"{len(targets)} samples cannot be spread over {ranks} ranks")
    return _split(inputs, len(targets)), _split(targets, len(targets))


def _split(part, samples, inside=False):
    """This rank's rows of a tensor, or of all tensors of a tuple or mapping."""
    if isinstance(part, Mapping):
        return {key: _split(each, samples, True) for key, each in part.items()}
    if isinstance(part, (tuple, list)):
        return tuple(_split(each, samples, True) for each in part)
    if inside and (part is None or isinstance(part, (bool, int, float, str))):
        return part
    if not isinstance(part, torch.Tensor):
        wanted = "expected a torch.Tensor, or a tuple or mapping of them"
        raise TypeError(f"inputs are a {type(part).__name__}, {wanted}")
    if not part.ndim:
        raise ValueError("inputs need an axis of samples, there is a single number")
    if len(part) != samples:
        raise ValueError(f"inputs of {len(part)} samples and targets of {samples} do not fit")
    return part.tensor_split(dist.get_world_size())[dist.get_rank()]


def hessian(model, loss_fn, shard, layer=None):
    """`curvature.hessian` of the mean loss over the samples of all ranks, as a ParallelOperator.

    Args:
        shard: this rank's samples, a batch `(inputs, targets)` or a loader of batches; ranks may
            hold different numbers. (DistributedSampler repeats samples to make them equal: give it
            drop_last=True.) All ranks must hold the same weights. A model whose parameters are
            themselves spread, by FSDP2's `fully_shard`, is taken as it is, with one batch a rank:
            the answer is a `ShardedOperator`, whose products are differences of gradients.

    Raises:
        TypeError, ValueError: on all ranks, what `curvature.hessian` raises on any, with the rank's
            name; also when ranks hold different models or weights.
        RuntimeError: before `start` or when a rank dies.

    Example:
        >>> # after start(), on every rank
        >>> operator = hl.parallel.hessian(model, loss_fn, shard)  # doctest: +SKIP
        >>> values, bounds = hl.top_eigenvalues(operator)  # doctest: +SKIP
    """
    return _build(curvature.hessian, model, loss_fn, shard, layer)


def gauss_newton(model, loss_fn, shard, layer=None):
    """`curvature.gauss_newton` of the samples of all ranks. Arguments and errors as `hessian`.

    Example:
        >>> # after start(), on every rank
        >>> operator = hl.parallel.gauss_newton(model, loss_fn, shard)  # doctest: +SKIP
    """
    return _build(curvature.gauss_newton, model, loss_fn, shard, layer)


class ParallelOperator:
    """The mean over all samples of all ranks, known by its products, as a CurvatureOperator is.

    `operator @ v` takes one all-reduce, `operator.matmat(V)` another one of a number a rank before
    (V's width). It also tells every rank whether all have succeeded, and with the same vectors, to
    the last bit. All ranks must ask for the same. `.loss`, `.gradient` [P] and `.samples` are those
    of all ranks' samples; reading them takes no communication.

    To know whether another rank has failed, the host reads a few numbers a rank out of each
    all-reduce. On a GPU that waits for the product; a result that is not yet known to be one is
    never returned.

    Raises:
        TypeError, ValueError: in products, on all ranks, what those of a CurvatureOperator raise on
            any, with the rank's name; also when ranks multiply different vectors, or such as are
            not finite.
        RuntimeError: when a rank dies.
    """

    def __init__(self, local, share, loss, gradient, samples):
        self.names, self.parameters, self.shape = local.names, local.parameters, local.shape
        self.dtype, self.device = local.dtype, local.device
        self.loss, self.gradient, self.samples = loss, gradient, samples
        self._local, self._share = local, share
        self._factors = _factors(self.shape[1], self.device)

    as_scipy = curvature.CurvatureOperator.as_scipy

    def __matmul__(self, vector):
        return self._mean(vector, (), lambda: self._local @ vector)

    def matmat(self, matrix, memory=None):
        """The product with a matrix [P, K], as [P, K]; `memory` as a CurvatureOperator's."""
        columns = getattr(matrix, "shape", ())[1:]
        self._check_width(math.prod(columns))
        return self._mean(matrix, columns, lambda: self._local.matmat(matrix, memory))

    def _check_width(self, columns):
        """ValueError on all ranks if their matrices differ in width: no sum could hold them."""
        widths = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=self.device)
        widths[dist.get_rank()] = columns
        with _collective():
            dist.all_reduce(widths)
            widths = widths.tolist()
        if len(set(widths)) > 1:
            what = f"the ranks multiply matrices of different widths ({widths})"
            raise ValueError(f"{what}: give all the same columns")

    def agree(self, vectors):
        """`vectors` of rank 0, on all ranks; RuntimeError when a rank dies."""
        vectors = vectors.contiguous()
        with _collective():
            dist.broadcast(vectors, 0)
        return vectors

    def _mean(self, vectors, columns, product):
        rank, ranks = dist.get_rank(), dist.get_world_size()
        size, error = math.prod((self.shape[0], *columns)), None
        # The sum, and a row of marks for each rank, where others add 0: a gather within the sum.
        buffer = torch.zeros(size + _MARKS * ranks, dtype=self.dtype, device=self.device)
        marks = buffer[size:].view(ranks, _MARKS)
        try:
            buffer[:size] = self._share * product().flatten()
            marks[rank] = _marks(vectors, self._factors)
        except Exception as caught:  # noqa: BLE001 - whatever it is: the other ranks are waiting
            error, marks[rank, 0] = caught, _FAILED
        with _collective():
            dist.all_reduce(buffer)
            marks = marks.cpu()
        if (marks[:, 0] == _FAILED).any():
            _raise(_gather(_description(error)), error)
        bad = ", ".join(map(str, (marks[:, 0] == _NOT_FINITE).nonzero()[:, 0].tolist()))
        if bad:
            what = f"rank {bad} of {ranks} multiplies vectors that are not finite"
            raise ValueError(f"{what}: look for the inf or nan in what they were made of")
        if (marks != marks[0]).any():
            how = "draw them on one rank and pass them through operator.agree(vector)"
            raise ValueError(f"the ranks multiply different vectors: {how}")
        return buffer[:size].view(self.shape[0], *columns)


def _build(build, model, loss_fn, shard, layer):
    _check_started()
    if any(hasattr(p, "device_mesh") for p in model.parameters()):
        if layer is not None:
            raise ValueError("of sharded parameters there is no layer's block: leave layer out")
        return ShardedOperator(model, loss_fn, shard, build is curvature.gauss_newton)
    report, error = {}, None
    try:
        local = build(model, loss_fn, shard, layer)
        if dist.get_backend() == "nccl" and local.device.type != "cuda":
            where = "move it to the device that start() returned"
            raise ValueError(f"the model is on {local.device}: {where}")
        shapes, weights = _state(model)
        asked = {"function": build.__name__, "layer": layer, "parameters": local.names}
        report = {"shapes": shapes, "weights": weights, "operator": asked, "mass": local.mass}
        report["samples"] = getattr(local, "samples", None) or len(shard[1])
        sums = torch.cat([local.gradient, local.loss.to(local.dtype)[None]])
    except Exception as caught:  # noqa: BLE001 - as in a product: the other ranks are waiting
        error = caught
    descriptions, reports = zip(*_gather((_description(error), report)))
    _raise(descriptions, error)
    _compare(reports)
    share = report["mass"] / sum(each["mass"] for each in reports)
    sums *= share
    with _collective():
        dist.all_reduce(sums)
    samples = sum(each["samples"] for each in reports)
    return ParallelOperator(local, share, sums[-1], sums[:-1], samples)


def _check_started():
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "torch.distributed is not initialized: run the script under torchrun and call "
            "hessinit_lite.parallel.start() first; on one process use hessinit_lite.hessian"
        )


@contextlib.contextmanager
def _collective():
    """Around a collective call: says in words what torch's error means."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"rank {dist.get_rank()} waited for the others in vain: a rank died (its own message "
            "says why), left for another line of the program, or came later than the timeout of "
            f"start(). torch says: {error}"
        ) from error


def _gather(what):
    """`what` of every rank, in a list."""
    found = [None] * dist.get_world_size()
    with _collective():
        dist.all_gather_object(found, what)
    return found


def _description(error):
    return None if error is None else (type(error).__name__, str(error))


def _raise(descriptions, error):
    """Raise on every rank if any has failed: `descriptions` are all ranks', `error` is our own."""
    failed = {rank: d for rank, d in enumerate(descriptions) if d is not None}
    if not failed:
        return
    kinds = {kind for kind, _ in failed.values()}
    known = {("TypeError",): TypeError, ("ValueError",): ValueError}
    texts = (
        f"rank {rank} of {len(descriptions)} failed: {name}: {text}"
        for rank, (name, text) in failed.items()
    )
    raise known.get(tuple(kinds), RuntimeError)("; ".join(texts)) from error


def _factors(count, device):
    """Random odd whole numbers, the same on every rank."""
    generator = torch.Generator().manual_seed(0)
    return (torch.empty(count, dtype=torch.int64).random_(generator=generator) | 1).to(device)


def _checksum(tensor, factors):
    """A whole number of 64 bits for the bits of a tensor [n, ...]; `factors` are n or more.

    Sums of whole numbers are exact in any order, and as fine for tiny values as for huge ones. With
    an odd factor no change of one entry is lost; with random ones no pattern of changes cancels, as
    that of two opposite sign vectors would with regular ones.
    """
    flat = tensor.detach().contiguous().view(-1)  # a column has any stride and is contiguous
    bits = flat.view(_INTEGERS.get(tensor.element_size(), torch.int32))
    bits = bits.view(len(tensor), len(bits) // max(1, len(tensor)))
    total = torch.zeros(bits.shape[1], dtype=torch.int64, device=bits.device)
    few = max(1, 2**18 // max(1, bits.shape[1]))  # rows at a time, which a cache holds
    for part, own in zip(bits.split(few), factors[: len(bits)].split(few)):
        total += (part * own[:, None]).sum(0)
    return (total * _factors(len(total), total.device)).sum()


def _marks(vectors, factors):
    """[_NOT_FINITE or 0, and four numbers of 16 bits], which single precision holds exactly."""
    check = _checksum(vectors, factors)
    parts = check >> torch.arange(0, 64, 16, device=check.device) & 0xFFFF
    ends = torch.stack(vectors.aminmax()) if vectors.numel() else vectors.flatten()  # nan if any is
    return torch.cat([_NOT_FINITE * ~torch.isfinite(ends).all()[None], parts])


def _state(model):
    """{name: shape and dtype}, {name: checksum} of parameters and buffers; one copy to the host."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: f"{list(tensor.shape)} {tensor.dtype}" for name, tensor in state.items()}
    tensors = list(state.values())
    factors = _factors(max(tensor.numel() for tensor in tensors), tensors[0].device)
    sums = [_checksum(tensor.flatten(), factors) for tensor in tensors]
    return shapes, dict(zip(state, torch.stack(sums).tolist()))


def _compare(reports):
    """ValueError on all ranks if some hold another model or weights, or ask for another thing."""
    different = {
        "shapes": "hold differently shaped models: build the same one on every rank",
        "weights": "hold different weights: draw them with the same seed, load the same file, or "
        "broadcast rank 0's parameters and buffers",
        "operator": "ask for different operators: call the same function on every rank",
    }
    for part, words in different.items():
        ranks = [rank for rank, report in enumerate(reports) if report[part] != reports[0][part]]
        if ranks:
            own, other = reports[0][part], reports[ranks[0]][part]
            name = next(n for n in {**own, **other} if own.get(n) != other.get(n))
            raise ValueError(
                f"rank 0 and rank {', '.join(map(str, ranks))} {words} ({name}: "
                f"{own.get(name)} on rank 0, {other.get(name)} on rank {ranks[0]})"
            )
