"""The operators of `curvature` over torch.distributed: every rank holds a part of the data.

A mean over all samples is the mean of the ranks' own operators, weighted by their samples: a product
takes one all-reduce of its P numbers. `spectrum` works on these operators unchanged and gives every
rank the same answer, as long as all ranks run the same lines, on processors of one kind.

    device = parallel.start()                        # under torchrun --nproc-per-node=RANKS script.py
    operator = parallel.hessian(model.to(device), loss_fn, parallel.shard(batch))
    values, bounds = top_eigenvalues(operator)       # on every rank; print on one

No rank waits for ever. A rank that meets an error takes part in the all-reduce all the same and says
that it failed; then all raise, naming it. If a rank dies, the others raise RuntimeError.
"""

import atexit
import contextlib
import datetime
import math
import os

import torch
from torch import distributed as dist

from . import curvature

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def start(timeout=600.0):
    """Join the processes that torchrun has started; returns this rank's torch.device.

    NCCL with a GPU for every rank where the machine has as many, else gloo on the CPU.
    timeout: seconds that a rank waits for the others, here and in each product; the slowest rank
    must not be later than that.

    Raises RuntimeError outside torchrun, ValueError for a timeout that is not positive.
    """
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
               if name not in os.environ]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} not set: run this script with "
                           "torchrun --nproc-per-node=RANKS script.py")
    if not timeout > 0:
        raise ValueError(f"timeout must be positive (seconds), got {timeout}")
    local_rank, local_ranks = (int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    device, backend = torch.device("cpu"), "gloo"
    if torch.cuda.is_available() and torch.cuda.device_count() >= max(local_ranks, local_rank + 1):
        device, backend = torch.device("cuda", local_rank), "nccl"
        torch.cuda.set_device(device)
        # Else torch's watchdog ends the process at the timeout, without an exception to read.
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout))
    atexit.register(_leave)  # else its threads may abort a process that ends in peace
    return device


def _leave():
    if dist.is_initialized():
        dist.destroy_process_group()


def shard(batch):
    """This rank's part `(inputs, targets)` of a batch that all ranks hold; sizes differ by at most one.

    Raises RuntimeError before `start`, ValueError for fewer samples than ranks.
    """
    _check_started()
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if len(batch[0]) < ranks:
        raise ValueError(f"{len(batch[0])} samples cannot be spread over {ranks} ranks")
    return tuple(part.tensor_split(ranks)[rank] for part in batch)


def hessian(model, loss_fn, shard, layer=None):
    """`curvature.hessian` of the mean loss over the samples of all ranks, as a ParallelOperator.

    shard: this rank's samples, a batch `(inputs, targets)` or a loader of batches; ranks may hold
    different numbers. (DistributedSampler repeats samples to make them equal: give it drop_last=True.)
    All ranks must hold the same weights.

    Raises, on all ranks, what `curvature.hessian` raises on any, with the rank's name; ValueError
    when ranks hold different models or weights; RuntimeError before `start` or when a rank dies.
    """
    return _build(curvature.hessian, model, loss_fn, shard, layer)


def gauss_newton(model, loss_fn, shard, layer=None):
    """`curvature.gauss_newton` of the samples of all ranks. Arguments and errors as `hessian`."""
    return _build(curvature.gauss_newton, model, loss_fn, shard, layer)


class ParallelOperator:
    """The mean over all samples of all ranks, known by its products; has what a CurvatureOperator has.

    `operator @ v` and `operator.matmat(V)` take one all-reduce each, which also tells every rank
    whether all have succeeded, and with the same vectors. All ranks must ask for them. `.loss`,
    `.gradient` [P] and `.samples` are those of all ranks' samples; reading them takes no communication.

    To know whether another rank has failed, the host reads two numbers a rank out of each all-reduce.
    On a GPU that waits for the product; a result that is not yet known to be one is never returned.
    """

    def __init__(self, local, share, loss, gradient, samples):
        self.names, self.shape, self.dtype, self.device = local.names, local.shape, local.dtype, local.device
        self.loss, self.gradient, self.samples = loss, gradient, samples
        self._local, self._share = local, share
        self._probe = torch.arange(self.shape[1], device=self.device).cos().to(self.dtype)

    as_scipy = curvature.CurvatureOperator.as_scipy

    def __matmul__(self, vector):
        return self._mean(vector, (), lambda: self._local @ vector)

    def matmat(self, matrix, memory=None):
        """The product with a matrix [P, K], as [P, K]. memory: as for CurvatureOperator, on each rank."""
        columns = getattr(matrix, "shape", ())[1:]
        return self._mean(matrix, columns, lambda: self._local.matmat(matrix, memory))

    def agree(self, vectors):
        """`vectors` of rank 0, on all ranks."""
        vectors = vectors.contiguous()
        with _collective():
            dist.broadcast(vectors, 0)
        return vectors

    def _mean(self, vectors, columns, product):
        rank, ranks = dist.get_rank(), dist.get_world_size()
        size, error = math.prod((self.shape[0], *columns)), None
        # The sum, and for each rank whether it failed and a mark of its vectors: a gather within the sum.
        buffer = torch.zeros(size + 2 * ranks, dtype=self.dtype, device=self.device)
        try:
            buffer[:size] = self._share * product().flatten()
            mark = (self._probe @ vectors).sum() / torch.linalg.vector_norm(vectors)
            buffer[size + ranks + rank] = mark
        except Exception as caught:  # whatever it is: the other ranks are waiting
            error, buffer[size + rank] = caught, 1
        with _collective():
            dist.all_reduce(buffer)
            failed, marks = buffer[size:].view(2, ranks).cpu()
        if failed.any():
            _raise(_gather(_description(error)), error)
        if marks.max() - marks.min() > torch.finfo(self.dtype).eps ** 0.5:
            raise ValueError("the ranks multiply different vectors: draw them on one rank and pass them "
                             "through operator.agree(vector)")
        return buffer[:size].view(self.shape[0], *columns)


def _build(build, model, loss_fn, shard, layer):
    _check_started()
    report, error = {}, None
    try:
        local = build(model, loss_fn, shard, layer)
        if dist.get_backend() == "nccl" and local.device.type != "cuda":
            raise ValueError(f"the model is on {local.device}: move it to the device that start() returned")
        shapes, weights = _state(model)
        report = {"shapes": shapes, "weights": weights,
                  "operator": {"function": build.__name__, "layer": layer, "parameters": local.names},
                  "samples": getattr(local, "samples", None) or len(shard[0])}
        sums = torch.cat([local.gradient, local.loss.to(local.dtype)[None]])
    except Exception as caught:  # as in a product: the other ranks are waiting
        error = caught
    descriptions, reports = zip(*_gather((_description(error), report)))
    _raise(descriptions, error)
    _compare(reports)
    samples = sum(each["samples"] for each in reports)
    share = report["samples"] / samples
    sums *= share
    with _collective():
        dist.all_reduce(sums)
    return ParallelOperator(local, share, sums[-1], sums[:-1], samples)


def _check_started():
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("torch.distributed is not initialized: run the script under torchrun and call "
                           "hessinit_lite.parallel.start() first; on one process use hessinit_lite.hessian")


@contextlib.contextmanager
def _collective():
    """Around a collective call: says in words what torch's error means."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(f"rank {dist.get_rank()} waited for the others in vain: a rank died (its own "
                           "message says why), left for another line of the program, or came later than "
                           f"the timeout of start(). torch says: {error}") from error


def _gather(what):
    """`what` of every rank, in a list."""
    found = [None] * dist.get_world_size()
    with _collective():
        dist.all_gather_object(found, what)
    return found


def _description(error):
    return None if error is None else (type(error).__name__, str(error))


def _raise(descriptions, error):
    """Raise on every rank if any has failed: `descriptions` are all ranks', `error` is this rank's own."""
    failed = {rank: d for rank, d in enumerate(descriptions) if d is not None}
    if not failed:
        return
    kinds = {kind for kind, _ in failed.values()}
    kind = {"TypeError": TypeError, "ValueError": ValueError}.get(kinds.pop()) if len(kinds) == 1 else None
    raise (kind or RuntimeError)("; ".join(
        f"rank {rank} of {len(descriptions)} failed: {name}: {text}"
        for rank, (name, text) in failed.items())) from error


def _state(model):
    """{name: shape and dtype}, {name: checksum} of parameters and buffers; one transfer to the host."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: f"{list(tensor.shape)} {tensor.dtype}" for name, tensor in state.items()}
    sums = []
    for tensor in state.values():
        # Of the bits as whole numbers: exact in any order. The odd factors notice exchanged numbers.
        bits = tensor.detach().flatten().view(_INTEGERS[tensor.element_size()]).long()
        sums.append((bits * torch.arange(1, 2 * len(bits), 2, device=bits.device)).sum())
    return shapes, dict(zip(state, torch.stack(sums).tolist()))


def _compare(reports):
    """ValueError, on all ranks, if some hold another model, other weights, or ask for another operator."""
    for part, words in (
            ("shapes", "hold differently shaped models: build the same one on every rank"),
            ("weights", "hold different weights: draw them with the same seed, load the same file, or "
                        "broadcast rank 0's parameters and buffers"),
            ("operator", "ask for different operators: call the same function on every rank")):
        ranks = [rank for rank, report in enumerate(reports) if report[part] != reports[0][part]]
        if ranks:
            own, other = reports[0][part], reports[ranks[0]][part]
            name = next(n for n in {**own, **other} if own.get(n) != other.get(n))
            raise ValueError(f"rank 0 and rank {', '.join(map(str, ranks))} {words} ({name}: {own.get(name)} "
                             f"on rank 0, {other.get(name)} on rank {ranks[0]})")
