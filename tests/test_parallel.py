"""Sharded operators against the same operators on all the data, on gloo processes of this machine.

Run as a script (`torchrun --nproc-per-node=2 tests/test_parallel.py equality`) this file is what the
processes do.
"""

import datetime
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from dense import dense_hessian, dense_of, problem
from torch import distributed as dist
from torch.utils.data import DataLoader, TensorDataset

import hessinit_lite as hl
from hessinit_lite import parallel

KINDS = {"hessian": (parallel.hessian, hl.hessian), "gauss_newton": (parallel.gauss_newton, hl.gauss_newton)}
COLLECTIVES = ("all_reduce", "broadcast", "all_gather_object", "all_gather", "barrier")


# What a process does; every worker prints "done" when all its assertions held.

def case(device, dtype, samples=11):
    """A tiny `(model, loss_fn, batch)`, the same on every rank."""
    model, loss_fn, (inputs, targets) = problem(samples=samples)
    return model.to(device, dtype), loss_fn, (inputs.to(device, dtype), targets.to(device))


def is_last():
    return dist.get_rank() == dist.get_world_size() - 1


def shards(batch):
    """This rank's part of the batch, in three forms: an even batch, an uneven batch, a loader."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    first, last = (rank + 1) * rank, (rank + 2) * (rank + 1) if rank + 1 < ranks else len(batch[0])
    uneven = tuple(part[first:last] for part in batch)
    return {"shard": parallel.shard(batch), "uneven": uneven,
            "loader": DataLoader(TensorDataset(*uneven), batch_size=2)}


def answers(operator):
    """Everything that can be asked, with the same seed for everyone."""
    def seeded():
        return torch.Generator(operator.device).manual_seed(0)

    like = operator.gradient
    matrix = torch.randn(len(like), 5, generator=seeded(), dtype=like.dtype, device=like.device)
    found = {"loss": operator.loss, "gradient": operator.gradient, "product": operator @ matrix[:, 0],
             "matmat": operator.matmat(matrix), "in chunks": operator.matmat(matrix, memory=1),
             "top": hl.top_eigenvalues(operator, 2, generator=seeded())[0],
             "trace": hl.trace(operator, 12, seeded()),
             "hutch++": hl.trace(operator, 12, seeded(), "hutch++"),
             "norm": hl.frobenius_norm(operator, 12, seeded()),
             "density": hl.spectral_density(operator, 4, 3, seeded())}
    return {name: torch.stack(value) if isinstance(value, tuple) else value for name, value in found.items()}


def equality(device):
    # Ranks add up in another order: a few roundings a product, of which Lanczos and its weights see some ten.
    for dtype in (torch.float64, torch.float32):
        tolerance = 100 * torch.finfo(dtype).eps
        model, loss_fn, batch = case(device, dtype)
        for build, whole in KINDS.values():
            expected = answers(whole(model, loss_fn, batch))
            for form, data in shards(batch).items():
                operator = build(model, loss_fn, data)
                assert operator.samples == len(batch[0])
                found = answers(operator)
                for name, value in found.items():
                    error = float((value - expected[name]).norm() / expected[name].norm())
                    assert error <= tolerance, (build.__name__, dtype, form, name, error)
                everyone = [None] * dist.get_world_size()
                dist.all_gather_object(everyone, {name: value.cpu() for name, value in found.items()})
                for other in everyone:  # not only close: otherwise ranks would part ways at the next decision
                    assert all(torch.equal(value, everyone[0][name]) for name, value in other.items())
    for layer in ("layers.1", ("layers.0", "layers.2")):
        operator = parallel.hessian(model, loss_fn, parallel.shard(batch), layer)
        whole = hl.hessian(model, loss_fn, batch, layer)
        assert operator.names == whole.names and operator.shape == whole.shape
        torch.testing.assert_close(dense_of(operator), dense_of(whole), rtol=1e-5, atol=1e-6)
    count_collectives(device)
    agreement(device)


def count_collectives(device):
    """One all-reduce for a product with a vector or a matrix, and nothing else; none for what is known."""
    calls, originals = Counter(), {name: getattr(dist, name) for name in COLLECTIVES}
    model, loss_fn, batch = case(device, torch.float64)
    operator = parallel.hessian(model, loss_fn, shards(batch)["loader"])
    matrix = torch.ones(operator.shape[0], 4, dtype=operator.dtype, device=device)

    def counted(name):
        def call(*args, **kwargs):
            calls[name] += 1
            return originals[name](*args, **kwargs)
        return call

    def cost(function):
        calls.clear()
        function()
        return dict(calls)

    for name in COLLECTIVES:
        setattr(dist, name, counted(name))
    assert cost(lambda: operator @ matrix[:, 0]) == {"all_reduce": 1}
    assert cost(lambda: operator.matmat(matrix)) == {"all_reduce": 2}
    assert cost(lambda: operator.matmat(matrix, memory=1)) == {"all_reduce": 2}
    assert cost(lambda: (operator.loss, operator.gradient, operator.samples, operator.shape)) == {}
    assert cost(lambda: hl.trace(operator, 8)) == {"broadcast": 1, "all_reduce": 2}
    for name, original in originals.items():
        setattr(dist, name, original)


def agreement(device):
    """Without a seed the ranks draw different vectors, and still get one answer."""
    model, loss_fn, batch = case(device, torch.float64)
    operator = parallel.gauss_newton(model, loss_fn, parallel.shard(batch))
    torch.manual_seed(dist.get_rank())
    torch.cuda.manual_seed(dist.get_rank())
    everyone, found = [None] * dist.get_world_size(), (*hl.trace(operator), hl.top_eigenvalues(operator)[0])
    dist.all_gather_object(everyone, [x.cpu() for x in found])
    assert all(torch.equal(a, b) for other in everyone for a, b in zip(other, everyone[0]))


class Turning:
    """A loader whose batch is exchanged for `bad` (or made by it) after `good` passes."""

    def __init__(self, batch, bad, good=2):
        self.batch, self.bad, self.good = batch, bad, good

    def __iter__(self):
        self.good -= 1
        yield self.batch if self.good >= 0 else (self.bad() if callable(self.bad) else self.bad)


def message(kind, function):
    """What `function` raises, which must be of that kind."""
    try:
        function()
    except kind as error:
        assert type(error) is kind
        return str(error)
    raise AssertionError("nothing was raised")


def failures(device):
    """The last rank errs, all ranks raise, and go on; the same operator still serves at the end."""
    last = is_last()
    number = dist.get_world_size() - 1
    who = f"rank {number} of {number + 1} failed: "
    model, loss_fn, batch = case(device, torch.float64)
    inputs, targets = part = parallel.shard(batch)
    operator = parallel.hessian(model, loss_fn, part)
    good = operator @ operator.gradient

    # at construction: data
    for build, _ in KINDS.values():
        for bad, kind, words in (
                ((inputs, targets + 5), ValueError, "ValueError: labels out of range"),
                ((inputs * float("nan"), targets), ValueError, "ValueError: the loss is nan"),
                ((inputs[:0], targets[:0]), ValueError, "ValueError: the batch is empty"),
                ((inputs[:, :2], targets), RuntimeError, "RuntimeError: mat1 and mat2 shapes"),
                ([], ValueError, "ValueError: the loader gave no batch"),
                ([part, (inputs, targets - 9)], ValueError, "ValueError: batch 1 of the loader: labels"),
                (iter([part]), TypeError, "TypeError: an iterator can be read only once"),
                (None, TypeError, "TypeError: batch must be a pair")):
            assert (who + words) in message(kind, lambda: build(model, loss_fn, bad if last else part))
    text = message(ValueError, lambda: parallel.hessian(model, loss_fn, part, "layers.7"))
    assert text.count("failed: ValueError: unknown layer") == number + 1

    # at construction: models
    wider = hl.MLP(3, 5, 3, 2, activation="tanh").double().to(device)
    text = message(ValueError, lambda: parallel.hessian(wider if last else model, loss_fn, part))
    assert f"rank 0 and rank {number} hold differently shaped models" in text
    assert "(layers.0.weight: [4, 3] torch.float64 on rank 0, [5, 3] torch.float64 on" in text
    moved = case(device, torch.float64)[0]
    with torch.no_grad():
        weight = moved.layers[1].weight
        weight.copy_(weight.flip(0) if last else weight)
    text = message(ValueError, lambda: parallel.hessian(moved, loss_fn, part))
    assert f"rank 0 and rank {number} hold different weights" in text and "(layers.1.weight:" in text
    build, layer = (parallel.gauss_newton, "layers.0") if last else (parallel.hessian, "layers.1")
    text = message(ValueError, lambda: build(model, loss_fn, part))
    assert "ask for different operators" in text and "(function: hessian on rank 0, gauss_newton on" in text
    text = message(ValueError, lambda: parallel.hessian(model, loss_fn, part, layer))
    assert "(layer: layers.1 on rank 0, layers.0 on" in text

    # at a product
    vector = operator.gradient
    for bad, words in (((inputs, targets + 5), "batch 0 of the loader: labels out of range"),
                       ((inputs * float("inf"), targets), "batch 0 of the loader: the loss is nan"),
                       ((inputs[:1], targets[:1]), "the loader's data changed between two passes")):
        turning = parallel.hessian(model, loss_fn, Turning(part, bad) if last else [part])
        torch.testing.assert_close(turning @ vector, good, rtol=1e-10, atol=0)
        assert who + "ValueError: " + words in message(ValueError, lambda: turning @ vector)
        assert who + "ValueError: " + words in message(ValueError, lambda: turning.matmat(vector[:, None]))
    assert who + "ValueError: expected a vector" in message(
        ValueError, lambda: operator @ (vector[1:] if last else vector))
    assert who + "TypeError: expected torch.float64" in message(
        TypeError, lambda: operator.matmat((vector.float() if last else vector)[:, None]))
    assert who + "TypeError: expected a torch.Tensor" in message(
        TypeError, lambda: operator @ (None if last else vector))
    for other in (vector.flip(0), vector + 1e-3 * vector.norm() * torch.eye(len(vector))[0].to(vector)):
        assert "multiply different vectors" in message(
            ValueError, lambda: operator @ (other if last else vector))
    moved = case(device, torch.float64)[0]
    changing = parallel.hessian(moved, loss_fn, part)
    if last:
        moved.layers[0].weight.detach().mul_(2)
    assert who + "RuntimeError: the weights changed" in message(RuntimeError, lambda: changing @ vector)
    assert torch.equal(operator @ vector, good)
    assert "1 samples cannot be spread over" in message(
        ValueError, lambda: parallel.shard((inputs[:1], targets[:1])))


def marks(device):
    """Vectors of which one rank holds others, however little: all ranks raise, and go on."""
    for dtype in (torch.float64, torch.float32):
        marks_of(device, dtype)


def marks_of(device, dtype):
    number = dist.get_world_size() - 1
    model, loss_fn, batch = case(device, dtype)
    operator = parallel.hessian(model, loss_fn, parallel.shard(batch))
    size = len(operator.gradient)
    unit = torch.eye(size, dtype=dtype, device=device)[0]
    signs = torch.ones_like(unit)
    signs[1:3] = -1  # and their opposite: the sums of both, and of their places, are the same
    good = operator @ signs

    def refused(words, vector, other):
        """By a product with a vector and with a matrix that has it as a column."""
        mine = other if is_last() else vector
        matrix = torch.stack([unit, mine, unit], dim=1)
        for ask in (lambda: operator @ mine, lambda: operator.matmat(matrix)):
            assert words in message(ValueError, ask), words
        assert torch.equal(operator @ signs, good)

    next_one = torch.nextafter(torch.full_like(unit, 1e30), torch.tensor(torch.inf).to(unit))
    for vector, other in (
            (signs, 1.45 * signs), (signs, -signs), (signs, 0 * signs), (0 * signs, signs),
            (signs[:4].repeat(size)[:size], -signs[:4].repeat(size)[:size]),
            (1e30 * unit, 2e30 * unit), (torch.full_like(unit, 1e30), next_one),
            (1e-44 * signs, 3e-44 * signs), (signs, signs.roll(1))):
        refused("multiply different vectors", vector, other)
    for bad in (torch.nan, torch.inf, -torch.inf):
        refused(f"rank {number} of {number + 1} multiplies vectors that are not finite",
                signs, torch.where(unit > 0, bad, signs))
    everyone = ", ".join(map(str, range(number + 1)))
    refused(f"rank {everyone} of {number + 1} multiplies vectors that are not finite",
            bad * signs, bad * signs)
    for vector in (0 * signs, 1e30 * unit, 1e-44 * signs):  # the same everywhere: what it takes
        assert torch.isfinite(operator @ vector).all()
    assert operator.matmat(signs[:, None].expand(-1, 0)).shape == (size, 0)
    columns = torch.stack([unit, signs], dim=1)
    turned = columns.flip(1) if is_last() else columns
    assert "different vectors" in message(ValueError, lambda: operator.matmat(turned))
    narrower = columns[:, :1] if is_last() else columns
    assert "different widths" in message(ValueError, lambda: operator.matmat(narrower))
    stored_by_columns = columns.T.contiguous().T
    torch.testing.assert_close(operator.matmat(stored_by_columns)[:, 1], good)
    torch.testing.assert_close(operator.matmat(signs[None].T)[:, 0], good)


class Two(torch.nn.Module):
    """A model of two inputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(3, 2), torch.nn.Linear(4, 2)

    def forward(self, x, y, double=False):
        return (self.a(x) + self.b(y).tanh()) * (2 if double else 1)


def structures(device):
    """Batches whose inputs are a tuple or a dict, and losses that count samples differently."""
    torch.manual_seed(0)
    model = Two().double().to(device)
    x, y = torch.randn(11, 3).double().to(device), torch.randn(11, 4).double().to(device)
    targets = (torch.arange(11) // 6).to(device)  # sorted: the ranks' losses divide differently
    weighted = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0]).double().to(device))
    ignoring = torch.nn.CrossEntropyLoss(ignore_index=0)
    for inputs in ((x, y), [x, y], {"x": x, "y": y, "double": True}):
        part = parallel.shard((inputs, targets))
        assert type(part[0]) is (dict if isinstance(inputs, dict) else tuple)
        for loss_fn in (torch.nn.functional.cross_entropy, weighted):
            for build, whole in KINDS.values():
                operator = build(model, loss_fn, part)
                expected = whole(model, loss_fn, (inputs, targets))
                assert operator.samples == 11
                torch.testing.assert_close(dense_of(operator), dense_of(expected))
                torch.testing.assert_close(operator.gradient, expected.gradient)
                torch.testing.assert_close(operator.loss, expected.loss)
    rows = slice(dist.get_rank(), None, dist.get_world_size())  # with some of both on every rank
    operator = parallel.hessian(model, ignoring, ((x[rows], y[rows]), targets[rows]))
    expected = hl.hessian(model, ignoring, ((x, y), targets))
    torch.testing.assert_close(dense_of(operator), dense_of(expected))

    for bad, kind, words in (
            ((x, targets[:9]), ValueError, "inputs of 11 samples and targets of 9"),
            (((x, y[:9]), targets), ValueError, "inputs of 9 samples and targets of 11"),
            ((x, torch.tensor(1.0)), ValueError, "an axis of samples"),
            (({"x": torch.tensor(1.0)}, targets), ValueError, "an axis of samples"),
            ((x.cpu().numpy(), targets), TypeError, "inputs are a ndarray"),
            ((x, targets.tolist()), TypeError, "targets are a list"),
            (x, TypeError, "one batch, a pair"),
            ([(x, targets), (x, targets)], TypeError, "one batch, a pair")):
        assert words in message(kind, lambda bad=bad: parallel.shard(bad))


def sharded(device):
    """Parameters spread by fully_shard: the critical rate of one process, and nothing left changed."""
    from torch.distributed.fsdp import fully_shard

    def net():
        torch.manual_seed(0)
        return hl.TinyTransformer(8, 16, 2, 2, 10).double().to(device)

    whole, spread = net(), net()
    for part in (*spread.blocks, spread):
        fully_shard(part)
    inputs, targets = hl.digits().batch(24, torch.Generator().manual_seed(0))
    batch = inputs.double().view(24, 8, 8).to(device), targets.to(device)
    part = parallel.shard(batch)  # 24 samples: 8 a rank
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in (whole, spread)]
    for model, optimizer, (x, y) in zip((whole, spread), optimizers, (batch, part)):
        for _ in range(2):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    kept = [p.to_local().clone() for p in spread.parameters()], [p.grad for p in spread.parameters()]
    for own, its in (("sgd", "sgd"), ("adam", "adam"), optimizers):
        expected = hl.critical_rate(whole, torch.nn.functional.cross_entropy, batch, own)
        found = hl.critical_rate(spread, torch.nn.functional.cross_entropy, part, its)
        for (a, b), (c, d) in zip(found.path, expected.path, strict=True):
            assert abs(a - c) <= 1e-6 * c and abs(b - d) <= 1e-6 * d
        assert abs(found.rate - expected.rate) <= 1e-6 * expected.rate
    for build in (hl.hessian, hl.gauss_newton):
        words = message(ValueError, lambda: build(spread, torch.nn.functional.cross_entropy, part))
        assert "the parameters are sharded" in words
    products_of_sharded_parameters(whole, spread, batch)
    for old, grad, p in zip(*kept, spread.parameters()):
        assert torch.equal(p.to_local(), old) and p.grad is grad


def products_of_sharded_parameters(whole, spread, batch):
    """Differences of gradients against exact products of one process; uneven parts of the batch."""
    loss_fn, rank, ranks = torch.nn.functional.cross_entropy, dist.get_rank(), dist.get_world_size()
    first = 3 * rank
    part = tuple(x[first:first + 3 if rank + 1 < ranks else None] for x in batch)
    for build, exact in KINDS.values():
        operator, expected = build(spread, loss_fn, part), exact(whole, loss_fn, batch)
        assert type(operator).__name__ == "ShardedOperator" and operator.samples == len(batch[0])
        assert operator.names == expected.names and operator.shape == expected.shape
        assert abs(operator.loss - expected.loss) < 1e-12 and 0 < operator.error < 1e-6
        torch.testing.assert_close(operator.gradient, expected.gradient, rtol=1e-10, atol=1e-12)
        matrix = torch.randn(operator.shape[1], 3, generator=torch.Generator().manual_seed(0)).double()
        matrix[:, 2] = expected.gradient
        truth = expected.matmat(matrix)
        errors = (operator.matmat(matrix) - truth).norm(dim=0) / truth.norm(dim=0)
        assert float(errors.max()) < 1e-6, errors
        both = [hl.trace(each, 6, torch.Generator().manual_seed(0))[0] for each in (operator, expected)]
        assert abs(both[0] - both[1]) <= 1e-6 * abs(both[1])
        both = [hl.top_eigenvalues(each, 1, generator=torch.Generator().manual_seed(0))[0] for each in (operator, expected)]
        assert float((both[0] - both[1]).abs()) <= 1e-6 * float(both[1].abs())
        assert "leave layer out" in message(ValueError, lambda build=build: build(spread, loss_fn, part, "dense"))


def at_construction(device):
    """Uncaught: the last rank's labels are wrong."""
    model, loss_fn, batch = case(device, torch.float64)
    inputs, targets = parallel.shard(batch)
    parallel.gauss_newton(model, loss_fn, (inputs, targets + 5 * is_last()))


def at_a_product(device):
    """Uncaught: the last rank's loader turns bad while the largest eigenvalue is sought."""
    model, loss_fn, batch = case(device, torch.float64)
    inputs, targets = part = parallel.shard(batch)
    bad = (inputs, targets + 5) if is_last() else part
    hl.top_eigenvalues(parallel.hessian(model, loss_fn, Turning(part, bad, 4)))


def killed(device):
    """The last rank is killed in the middle of a product."""
    model, loss_fn, batch = case(device, torch.float64)
    part = parallel.shard(batch)

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    bad = die if is_last() else part
    hl.top_eigenvalues(parallel.hessian(model, loss_fn, Turning(part, bad, 4)))


def absent(device):
    """The last rank lives on until the others are gone, but never comes to the product."""
    model, loss_fn, batch = case(device, torch.float64)
    operator = parallel.hessian(model, loss_fn, parallel.shard(batch))
    if is_last():
        with pytest.raises(dist.DistError):  # the first rank serves the store, and takes it along
            dist.distributed_c10d._get_default_store().wait(["never"], datetime.timedelta(seconds=300))
    else:
        operator @ operator.gradient


# The tests.

def environment(**more):
    return {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(hl.__file__).parents[1]), **more}


def process(worker, rank, ranks, port, folder):
    os.environ.update(environment(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks),
                                  LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=port))
    torch.set_num_threads(1)
    with open(folder / f"{worker}{rank}.err", "w") as err:
        os.dup2(err.fileno(), 2)
    main(worker)


def launch(worker, ranks, folder):
    """Run a worker as torchrun does, but see how every rank ends: [(exit code, stderr)].

    The ranks are forked from a server that has imported everything once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hessinit_lite", "pytest"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [context.Process(target=process, args=(worker, rank, ranks, port, folder))
                 for rank in range(ranks)]
    try:
        for each in processes:
            each.start()
        for each in processes:
            each.join(timeout=300)
        return [(each.exitcode, (folder / f"{worker}{rank}.err").read_text())
                for rank, each in enumerate(processes)]
    finally:
        for each in processes:
            each.kill()


def torchrun(worker, ranks):
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone",
                           f"--nproc-per-node={ranks}", __file__, worker],
                          capture_output=True, text=True, timeout=600, env={**os.environ, **environment()})


def test_two_ranks_give_the_answers_of_one_process():
    done = torchrun("equality", 2)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("done") == 2


NEW = pytest.mark.skipif(torch.__version__ < "2.6", reason="fully_shard is of torch 2.6")


@pytest.mark.parametrize("worker", ["equality", "failures", "marks", "structures", pytest.param("sharded", marks=NEW)])
def test_three_ranks(worker, tmp_path):
    for code, stderr in launch(worker, 3, tmp_path):
        assert code == 0, stderr[-4000:]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL needs two GPUs: not run on this machine")
def test_two_gpus():
    done = torchrun("equality", 2)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("done on cuda") == 2


@pytest.mark.parametrize("worker", ["at_construction", "at_a_product"])
def test_the_error_of_one_rank_ends_all(worker, tmp_path):
    for code, stderr in launch(worker, 2, tmp_path):
        assert code == 1 and "ValueError: rank 1 of 2 failed: ValueError:" in stderr
        assert "labels out of range: the model has 2 outputs" in stderr


def test_a_killed_rank_ends_the_others(tmp_path):
    (first, text), (second, _) = launch("killed", 2, tmp_path)
    assert second == -signal.SIGKILL and first == 1
    assert "RuntimeError: rank 0 waited for the others in vain: a rank died" in text
    assert not re.search("time.?out|timed out", text.split("torch says:")[1], re.I)  # at once


def test_a_rank_that_does_not_come_ends_the_others_at_the_timeout(tmp_path):
    (first, text), (second, _) = launch("absent", 2, tmp_path)
    assert first == 1 and "RuntimeError: rank 0 waited for the others in vain" in text and second == 0


def test_without_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    model, loss_fn, batch = problem()
    for build in (parallel.hessian, parallel.gauss_newton):
        with pytest.raises(RuntimeError, match=r"not initialized: run the script under torchrun .*start\(\)"):
            build(model, loss_fn, batch)
    with pytest.raises(RuntimeError, match="not initialized"):
        parallel.shard(batch)
    with pytest.raises(RuntimeError, match="RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set: .* torchrun"):
        parallel.start()
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(ValueError, match="timeout must be positive"):
        parallel.start(timeout=0)


@pytest.fixture
def alone():
    """A process group of this process only."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("activation", hl.ACTIVATIONS)
def test_one_rank_against_the_dense_hessian(alone, activation):
    arguments = problem(activation)
    operator = parallel.hessian(*arguments)
    expected = dense_hessian(*arguments)
    torch.testing.assert_close(dense_of(operator), expected, rtol=1e-9, atol=1e-11)
    scipy = operator.as_scipy()
    torch.testing.assert_close(torch.as_tensor(scipy @ scipy.matmat(torch.eye(len(expected)).numpy())),
                               expected @ expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_checksums_see_every_bit(alone, dtype):
    """One bit of one weight or buffer, and two numbers exchanged."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).to(dtype)
    _, before = parallel._state(model)
    assert parallel._state(model)[1] == before
    changes = lambda t: t.flatten().view(torch.uint8)[:1].bitwise_xor_(1), lambda t: t.copy_(t.flip(0))
    for name, tensor in model.state_dict().items():
        kept = tensor.clone()
        for change in changes if tensor.unique().numel() > 1 else changes[:1]:
            with torch.no_grad():
                change(tensor)
                changed = parallel._state(model)[1]
                assert [n for n in before if changed[n] != before[n]] == [name]
                tensor.copy_(kept)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex64])
def test_checksums_of_sign_vectors_differ(alone, dtype):
    """All sign vectors of 8 numbers: patterns that sums with regular factors cannot tell apart."""
    signs = 1 - 2 * torch.cartesian_prod(*8 * [torch.arange(2)])
    holder = torch.nn.Module()
    found = set()
    for row in signs:
        holder.register_buffer("row", row.to(dtype))
        found.add(parallel._state(holder)[1]["row"])
    assert len(found) == len(signs) == 256


def main(worker):
    device = parallel.start(timeout=15 if worker == "absent" else 200)
    globals()[worker](device)
    print("done on", device)


if __name__ == "__main__":
    main(sys.argv[1])
