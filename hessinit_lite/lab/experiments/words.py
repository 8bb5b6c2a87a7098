"""Word vectors from starts of many scales: the measurements of chapter 14.

A rate is given per pair, as word2vec's is: the mean loss over a batch's LOGITS logits has the
learning rate LOGITS times as large. Texts and weights are drawn on the CPU, so that they are the
same on every device.
"""

import copy
import functools
import hashlib
import math
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...chain_rule import layer_norms
from ..corpus import Corpus, docstrings, text8
from ..data import DataUnavailable
from ..networks import SkipGram
from ..probes import seeded
from ..records import answered
from ..results import Results

NEGATIVES, WINDOW, BATCH = 5, 5, 128
LOGITS = BATCH * (1 + NEGATIVES)  #: of a mini-batch: torch's mean loss divides by this number
STARTS = ("word2vec", 0.1, "norm 1 a pair", 1.0, "norm 1")
RATES = (0.025, 0.1, 0.2)
COMPARED = ("word2vec", 0.1, "norm 1 a pair")  #: the starts that are told apart in full size
JUDGES = [2, 3, 4, 5, 6]  #: seeds of their comparison: others chose the rates

loss_fn = F.binary_cross_entropy_with_logits


class Task(NamedTuple):
    """A text to train on, one to judge by, and the sizes that go with them."""

    corpus: Corpus  # all of it
    text: Corpus  # thinned, without what is held out
    held: tuple  # 10,000 pairs of what is held out
    look: tuple  # pairs of `text`, for measuring curvature
    dim: int
    steps: int
    seeds: list
    device: str


def task(size="quick", device="cpu", judges=False):
    """The Task of a size: "quick" takes NumPy's docstrings, "full" text8 where it can be had.

    Frequent words are thinned as Mikolov et al. (2013) do; every twentieth piece of 500 words is
    held out. With `judges` every tenth is, and half of them judge: text and seeds that chose no
    rate.
    """
    full = size == "full"
    if full:
        try:
            corpus = text8()
        except DataUnavailable as error:
            print(f"text8 is not to be had, the docstrings take its place: {error}")
            corpus = docstrings()
    else:
        corpus = docstrings(("numpy",), min_count=10)
    thinned = corpus.subsample(1e-3, seeded(0))
    piece = torch.arange(len(thinned.tokens)) // 500 % 20
    out = (piece == 19) | (piece == 9) if judges else piece == 19
    text = thinned._replace(tokens=thinned.tokens[~out])
    held = thinned._replace(tokens=thinned.tokens[piece == (9 if judges else 19)])
    held = pairs(held, 10_000, 0, device)
    look = pairs(text, 512 if full else 256, 1, device)
    steps = 3 * len(text.tokens) // BATCH if full else 800
    seeds = JUDGES if judges else [0, 1] if full else [0, 1, 2, 3, 4]
    return Task(corpus, text, held, look, 100 if full else 16, steps, seeds, device)


def fingerprint(corpus):
    """16 hex digits that tell a Corpus from any other."""
    found = hashlib.sha256(corpus.tokens.to(torch.int64).cpu().numpy().tobytes())
    found.update("\n".join(corpus.words).encode())
    return found.hexdigest()[:16]


def pairs(text, size, seed, device="cpu", dtype=None):
    """A batch of `size` pairs of a Corpus, on `device`."""
    batch = text.batch(size, WINDOW, NEGATIVES, seeded(seed), dtype)
    return tuple(part.to(device) for part in batch)


def toy_text(words=20, length=4000, seed=0):
    """A Corpus in which each even word is followed by the odd one after it."""
    chance = 1 / torch.arange(1, words // 2 + 1)
    drawn = torch.multinomial(chance, length // 2, replacement=True, generator=seeded(seed))
    tokens = torch.stack([2 * drawn, 2 * drawn + 1], dim=1).flatten()
    counts = tokens.bincount(minlength=words)
    return Corpus("toy", tokens, [f"w{i}" for i in range(words)], counts)


def word_blocks(model, batch):
    """The blocks of all center rows and of all context rows, two tensors [V, d, d]."""
    inputs, (words, dim) = batch[0], model.center.weight.shape
    center, others = inputs[:, :1].expand_as(inputs[:, 1:]).flatten(), inputs[:, 1:].flatten()
    u, v = model.center.weight.detach(), model.context.weight.detach()
    z = model(inputs).detach().flatten()
    s = (torch.sigmoid(z) * torch.sigmoid(-z) / len(z))[:, None, None]
    found = []
    for own, other, table in ((center, others, v), (others, center, u)):
        rows = table[other]
        blocks = torch.zeros(words, dim, dim, dtype=u.dtype, device=u.device)
        found.append(blocks.index_add_(0, own, s * rows[:, :, None] * rows[:, None, :]))
    return tuple(found)


def largest(model, batch):
    """Norms of both tables' blocks, [2]: the largest of their words'."""
    return torch.stack(
        [torch.linalg.eigvalsh(blocks)[:, -1].max() for blocks in word_blocks(model, batch)]
    )


def meetings(batch, words):
    """The matrix R [V, V]: sum of t - 1/2 over the logits of two words, over the number of all."""
    inputs, targets = batch
    where = inputs[:, :1].expand_as(targets), inputs[:, 1:]
    found = torch.zeros(words, words, dtype=targets.dtype, device=targets.device)
    return found.index_put_(where, targets - 0.5, accumulate=True) / targets.numel()


@torch.no_grad()
def pair_norms(model, batch):
    """Norms of both blocks for one pair alone and the *sum* of its 1 + K losses: [2], means."""
    inputs, _ = batch
    u, v = model.center(inputs[:, 0]), model.context(inputs[:, 1:])
    z = model(inputs)
    s = torch.sigmoid(z) * torch.sigmoid(-z)
    center = torch.linalg.matrix_norm(s.sqrt()[:, :, None] * v, ord=2) ** 2
    context = s.amax(1) * u.square().sum(1)
    return torch.stack([center.mean(), context.mean()])


def norms(model, batch):
    """Spectral norms of both tables' blocks, [2] numbers rounded to 4 digits."""
    found = layer_norms(model, loss_fn, batch, rtol=1e-2)
    return [float(f"{found[name]:.4g}") for name in ("center", "context")]


@torch.no_grad()
def scale_(model, center, context):
    """The model, its tables multiplied by two numbers, in place."""
    model.center.weight.mul_(center)
    model.context.weight.mul_(context)
    return model


@torch.no_grad()
def word2vec_start_(model, seed, factor=1.0):
    """word2vec's start times a factor, in place: center rows uniform in ±0.5/d, context rows 0."""
    dim = model.center.weight.shape[1]
    drawn = torch.empty_like(model.center.weight, device="cpu")
    drawn.uniform_(-0.5 / dim, 0.5 / dim, generator=seeded(seed))
    model.center.weight.copy_(drawn.mul_(factor))
    model.context.weight.zero_()
    return model


def make(task, start, seed, dim=None, sparse=False):
    """A SkipGram of the task's words.

    Args:
        start: a name in `STARTS`, or the standard deviation of both tables' entries.
        dim: None for the task's.
        sparse: as for `SkipGram`.
    """
    dim = dim or task.dim
    generator = seeded(seed)
    model = SkipGram(len(task.corpus.words), dim, sparse)
    u, v = model.center.weight, model.context.weight
    with torch.no_grad():
        u.normal_(generator=generator)
        v.normal_(generator=generator)
        if start == "word2vec":
            u.uniform_(-0.5 / dim, 0.5 / dim, generator=generator)
            v.zero_()
        elif start == "norm 1":  # rows of the two tables in two orthogonal halves of the space
            u[:, dim // 2 :] = 0
            v[:, : dim // 2] = 0
    model.to(task.device)
    if start == "norm 1":
        found = layer_norms(model, loss_fn, task.look)
        scale_(model, found["context"] ** -0.5, found["center"] ** -0.5)
    elif start == "norm 1 a pair":
        low, high = -5.0, 1.0  # log σ, by bisection
        for _ in range(20):
            middle = (low + high) / 2
            scaled = scale_(copy.deepcopy(model), math.exp(middle), math.exp(middle))
            small = float(pair_norms(scaled, task.look).prod()) < 1
            low, high = (middle, high) if small else (low, middle)
        scale_(model, math.exp(middle), math.exp(middle))
    elif start != "word2vec":
        scale_(model, start, start)
    return model


@torch.no_grad()
def train(models, text, rate, steps, seeds):
    """Plain SGD on mini-batches of BATCH pairs, several models at once, in place.

    Only the rows in use are read and written. It ends early when no loss is finite any more.

    Args:
        models: SkipGrams of one shape, each with pairs of its own.
        rate: per pair.
        seeds: of the pairs, one a model.

    Returns:
        The mini-batches' mean losses [steps, models].
    """
    tables = [
        torch.cat([getattr(m, name).weight for m in models]) for name in ("center", "context")
    ]
    u, v = tables
    generators = [seeded(1000 + seed) for seed in seeds]
    shift = len(u) // len(models) * torch.arange(len(models))[:, None, None]
    losses = []
    for begin in range(0, steps, 500):
        size = min(500, steps - begin)
        drawn = [text.batch(size * BATCH, WINDOW, NEGATIVES, each) for each in generators]
        inputs = (torch.stack([words for words, _ in drawn]) + shift).to(u.device)
        targets = torch.stack([t for _, t in drawn]).to(u.device)
        for words, t in zip(inputs.split(BATCH, 1), targets.split(BATCH, 1)):
            words, t = words.flatten(0, 1), t.flatten(0, 1)
            center, others = words[:, 0], words[:, 1:]
            rows, columns = u[center], v[others]
            z = torch.bmm(columns, rows[:, :, None])[:, :, 0]
            each = loss_fn(z, t, reduction="none")
            losses.append(each.view(len(models), -1).mean(1))
            push = rate * (torch.sigmoid(z) - t)
            u.index_add_(0, center, torch.bmm(push[:, None], columns)[:, 0], alpha=-1)
            change = (push[:, :, None] * rows[:, None]).flatten(0, 1)
            v.index_add_(0, others.flatten(), change, alpha=-1)
        if not torch.isfinite(losses[-1]).any():
            break
    for name, table in zip(("center", "context"), tables):
        for model, own in zip(models, table.chunk(len(models))):
            getattr(model, name).weight.copy_(own)
    return torch.stack(losses)


def train_by_autograd(model, text, rate, steps, seed):
    """The same for one model by torch's SGD."""
    inputs, targets = pairs(text, steps * BATCH, 1000 + seed, model.center.weight.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate * LOGITS)
    for words, t in zip(inputs.split(BATCH), targets.split(BATCH)):
        optimizer.zero_grad()
        loss_fn(model(words), t).backward()
        optimizer.step()


def steps_to(losses, level, average):
    """Steps [models] until the running mean of losses [steps, models] is below level, or inf."""
    below = losses.unfold(0, average, 1).mean(2) < level
    first = below.int().argmax(0) + float(average)
    return torch.where(below.any(0), first, math.inf)


def neighbours(model, words=500, k=10):
    """The k nearest of the most frequent words by the cosine of center rows, [words, k]."""
    unit = F.normalize(model.center.weight.detach()[:words], dim=1)
    return (unit @ unit.T).fill_diagonal_(-2).topk(k, dim=1).indices


def agreement(models):
    """Mean share of the ten nearest neighbours that two of the models have in common."""
    shares = [
        (a[:, :, None] == b[:, None, :]).any(2).float().mean()
        for a, b in combinations([neighbours(model) for model in models], 2)
    ]
    return float(torch.stack(shares).mean())


def plurals(model, words, most=1000):
    """Share of words whose plural in -s is among the ten nearest of the `most` frequent words."""
    index = {word: i for i, word in enumerate(words[:most])}
    found = [
        (i, index[word + "s"]) for word, i in index.items() if len(word) > 3 and word + "s" in index
    ]
    found = torch.tensor(found, device=model.center.weight.device)
    near = neighbours(model, most)[found[:, 0]]
    return float((near == found[:, 1:]).any(1).float().mean())


@torch.no_grad()
def loss_of(model, batch):
    """The mean loss on a batch, a float."""
    return float(loss_fn(model(batch[0]), batch[1]))


def answer(task, start, rate, dim, steps, seeds, text):
    """Train from a start once a seed: held-out loss, speed, norms at both ends, neighbours.

    {"loss": inf} if any run diverges. `text` names the task's corpus in the setting.
    """
    models = [make(task, start, seed, dim) for seed in seeds]
    before = [norms(model, task.look) for model in models]
    losses = train(models, task.text, rate, steps, seeds)
    held = [loss_of(model, task.held) for model in models]
    if not all(loss < 2 for loss in held):  # not finite, or far above the 0.69 of an untrained one
        return {"loss": math.inf}
    return {
        "loss": [float(f"{loss:.6g}") for loss in held],
        "steps": steps_to(losses, 0.5, average=50).tolist(),
        "before": before,
        "after": [norms(model, task.look) for model in models],
        "agreement": agreement(models),
        "plurals": [plurals(model, task.corpus.words) for model in models],
    }


def settings(task):
    """The settings of `answer`: every start at every rate, and "norm 1" at learning rate 1."""
    return settings_like(_common(task))


def _common(task):
    """What all settings of a task say."""
    return {
        "dim": task.dim,
        "steps": task.steps,
        "seeds": list(task.seeds),
        "text": task.corpus.name,
    }


def settings_like(setting):
    """Every start at every rate, all else as in a setting."""
    both = [(start, rate) for rate in RATES for start in STARTS] + [("norm 1", 1 / LOGITS)]
    return [{**setting, "start": start, "rate": rate} for start, rate in both]


def run(size="quick", progress=False, device="cpu", folder=None, made=None):
    """Compute what is not stored yet, and return the `Results` of "14-word2vec".

    In full size the starts that are told apart are compared, too: see `compared`.

    Args:
        size: "quick" (a minute) or "full" (two hours on a CPU).
        progress: show a bar.
        device: where the models live.
        folder: as for `Results`.
        made: a Task in place of the size's own.
    """
    tuned = made or task(size, device)
    results = _answers("14-word2vec", size, folder, tuned, settings(tuned), progress)
    if size == "full" and not made:
        judged = task(size, device, judges=True)
        both = [{**_common(judged), **chosen} for chosen in compared(results)]
        _answers("14-word2vec-judged", size, folder, judged, both, progress)
    return results


def _answers(name, size, folder, made, settings, progress):
    """The `Results` of a name, with answers to the settings."""
    text = f"{made.corpus.name} sha256:{fingerprint(made.corpus)}"
    results = Results(name, size, folder, data_of=lambda _: text)
    answered(results, functools.partial(answer, made), settings, True, made.device, progress)
    return results


def compared(results):
    """[{"start", "rate"}, …]: each start of COMPARED at word2vec's rate and at its best one."""
    best = best_rates(by_start_and_rate(results))
    return [
        {"start": start, "rate": rate}
        for start in COMPARED
        for rate in dict.fromkeys((RATES[0], best.get(start, RATES[0])))
    ]


def by_start_and_rate(results):
    """{(start, rate): answer}, the starts in the order of STARTS."""
    found = {(setting["start"], setting["rate"]): answer for setting, answer in results.items()}
    return dict(sorted(found.items(), key=lambda item: (STARTS.index(item[0][0]), item[0][1])))


def best_rates(answers):
    """{start: the rate of its lowest mean loss}, of what `by_start_and_rate` gives."""
    falling = sorted(answers, key=lambda key: mean_loss(answers[key]), reverse=True)
    return dict(sorted(falling, key=lambda key: STARTS.index(key[0])))  # the last of a start stays


def mean_loss(answer):
    """Mean held-out loss of an answer over its seeds; inf if a run diverged."""
    return float(torch.tensor(answer["loss"], dtype=torch.float64).mean())


def label(start):
    """A start's name in figures and tables."""
    return start if isinstance(start, str) else f"σ = {start:g}"


def mean_slope(tau):
    """E ℓ''(τ x) for a standard normal x, ℓ the logistic loss."""
    z = min(tau, 1.0) * torch.linspace(-40, 40, 8001, dtype=torch.float64)
    density = torch.exp(-((z / tau) ** 2) / 2) / (tau * math.sqrt(2 * math.pi))
    return float(torch.trapezoid(density * torch.sigmoid(z) * torch.sigmoid(-z), z))
