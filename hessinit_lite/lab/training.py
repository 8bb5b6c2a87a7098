"""Short, deterministic SGD runs, with the curvature of every layer tracked on the way."""

import math
from dataclasses import dataclass, field

import torch
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional as F
from tqdm import tqdm

from ..chain_rule import layer_norms


@dataclass
class Run:
    """What `train` recorded. `losses` [steps]: the loss of each mini-batch before its step.

    Example:
        >>> run = hl.Run(losses=torch.tensor([2.0] * 18 + [1.0, 0.5]))
        >>> run.final_loss, run.diverged
        (0.75, False)
    """

    losses: torch.Tensor = field(repr=False)
    diverged: bool = False  #: did the loss stop being finite?
    tracked_steps: list = field(default_factory=list, repr=False)
    norms: list = field(default_factory=list, repr=False)  #: dicts by layer, one a tracked step

    @property
    def final_loss(self):
        """Mean loss of the last tenth of the steps; inf for a run that diverged."""
        if self.diverged:
            return math.inf
        return float(_last_tenth(self.losses).mean())


def train(
    model,
    data,
    lr,
    steps,
    batch_size=32,
    seed=0,
    loss_fn=F.cross_entropy,
    momentum=0.0,
    track_every=None,
    track_batch=None,
    progress=False,
    warmup=0,
):
    """Plain SGD on `data.train` (on the model's device) for `steps` mini-batches, in place.

    The order of the samples depends on `seed` alone. A run whose loss is no longer finite ends
    early; the weights of its last finite loss are kept.

    Args:
        track_every: with k the spectral norm of every layer's Gauss-Newton block on `track_batch`
            is recorded before each k-th step.
        warmup: the learning rate grows linearly to lr over so many first steps, from lr/warmup at
            the first one.

    Returns:
        A Run.

    Raises:
        ValueError: for a learning rate or number of steps that is not positive, or a negative
            warmup.

    Example:
        >>> model = hl.MLP(64, width=16, depth=2, out_features=10)
        >>> run = hl.train(model, hl.digits(), lr=0.1, steps=100)
        >>> run.losses.shape, run.final_loss < float(run.losses[0])
        (torch.Size([100]), True)
    """
    _check_schedule(lr, steps, warmup)
    if track_every and track_batch is None:
        raise ValueError("track_every needs track_batch=(inputs, targets)")
    inputs, targets = data.train
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    weight = next(model.parameters())  # not the inputs, which may be words
    run = Run(losses=weight.new_full((steps,), math.nan))
    order = mini_batches(len(inputs), batch_size, seed, inputs.device)
    kept = [p.detach().clone() for p in model.parameters()]
    check = 50  # a look at the losses costs a transfer, so it is not taken at every step
    for step in _numbered(steps, progress):
        if track_every and step % track_every == 0:
            run.tracked_steps.append(step)
            try:
                run.norms.append(layer_norms(model, loss_fn, track_batch, rtol=1e-3))
            except ValueError:  # the loss overflowed between two checks
                run.tracked_steps.pop()
                run.diverged = True
        if step % check == 0 and step:
            run.diverged |= not bool(torch.isfinite(run.losses[:step]).all())
        if run.diverged:
            break
        rows = next(order)
        loss = loss_fn(model(inputs[rows]), targets[rows])
        if step % check == 0:
            with torch.no_grad():
                for saved, p in zip(kept, model.parameters()):
                    saved.copy_(torch.where(torch.isfinite(loss), p, saved))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.param_groups[0]["lr"] = lr * _share(step, warmup)
        optimizer.step()
        run.losses[step] = loss.detach()
    finite = [torch.isfinite(x).all() for x in (run.losses[: step + 1], *model.parameters())]
    run.diverged |= not bool(torch.stack(finite).all())
    if run.diverged:
        with torch.no_grad():
            for saved, p in zip(kept, model.parameters()):
                p.copy_(saved)
    return run


def sweep(make_model, data, lrs, seeds, steps, **options):
    """Final losses of `train` for every learning rate and seed, as a tensor [lrs, seeds].

    A run that diverged counts as inf.

    Args:
        make_model: `make_model(seed)` returns a freshly initialized model.
        options: go to `train`.

    Example:
        >>> make_model = lambda seed: hl.MLP(64, width=16, depth=2, out_features=10)
        >>> losses = hl.sweep(make_model, hl.digits(), lrs=[0.01, 0.1], seeds=[0, 1, 2], steps=5)
        >>> losses.shape
        torch.Size([2, 3])
    """
    losses = torch.empty(len(lrs), len(seeds))
    for i, lr in enumerate(tqdm(lrs, desc="learning rates", leave=False)):
        for j, seed in enumerate(seeds):
            losses[i, j] = train(make_model(seed), data, lr, steps, seed=seed, **options).final_loss
    return losses


def accuracy(model, batch):
    """Share of samples of `batch` whose largest output is the label's, as a float.

    Example:
        >>> hl.accuracy(nn.Identity(), (torch.eye(4), torch.tensor([0, 1, 2, 0])))
        0.75
    """
    with torch.no_grad():
        return float((model(batch[0]).argmax(1) == batch[1]).float().mean())


def mini_batches(samples, size, seed, device="cpu"):
    """Endless rows [size] of mini-batches: epoch by epoch in random order, a rest dropped.

    Of fewer samples than `size` each mini-batch has all.
    """
    generator = torch.Generator(device).manual_seed(seed)
    size = min(size, samples)
    while True:
        order = torch.randperm(samples, generator=generator, device=device)
        yield from order[: samples - samples % size].split(size)


def final_losses(losses):
    """Mean of the last tenth of the steps of each run: [runs] of losses [steps, runs].

    It is inf for a run with a loss that is not finite.

    Example:
        >>> hl.final_losses(torch.tensor([[2.0, 2.0], [1.0, torch.nan]]))
        tensor([1., inf])
    """
    return torch.where(torch.isfinite(losses).all(0), _last_tenth(losses).mean(0), math.inf)


def _last_tenth(losses):
    return losses[-max(1, len(losses) // 10) :]


def _check_schedule(lr, steps, warmup):
    """ValueError for rates or steps that are not positive, or a negative warmup."""
    if not (all(rate > 0 for rate in torch.as_tensor(lr).flatten().tolist()) and steps > 0):
        raise ValueError(f"lr and steps must be positive, got {lr!r} and {steps!r}")
    if not warmup >= 0:
        raise ValueError(f"warmup must be a number of steps, 0 for none, got {warmup!r}")


def _numbered(steps, progress):
    """0, 1, … of the steps, with a bar or without."""
    return tqdm(range(steps), desc="training", leave=False) if progress else range(steps)


def _share(step, warmup):
    """Of the full learning rate, in a linear warm-up."""
    return min(1, (step + 1) / warmup) if warmup else 1


def train_together(
    models,
    data,
    lr,
    steps,
    batch_size=32,
    seed=0,
    loss_fn=F.cross_entropy,
    warmup=0,
    optimizer=torch.optim.SGD,
    progress=False,
    **options,
):
    """`train` for several models of one shape at once, in place: faster, for small nets.

    One batched pass serves all of them. They see the same mini-batches, those of `train` with this
    seed, unless `seed` is a list with a seed for each model.

    Args:
        models: modules that differ in their weights alone, without buffers (batch norm).
        data: a `Data` on the models' device.
        lr: one learning rate, or one for each model.
        steps: mini-batches.
        batch_size: samples in each.
        seed: of the order of the samples; one for all, or one for each model.
        loss_fn: loss_fn(outputs, targets), a mean over the mini-batch.
        warmup: steps over which the rates grow linearly, as in `train`.
        optimizer: torch.optim.SGD, Adam or AdamW, whose steps are proportional to the rate.
        progress: show a bar.
        options: of the optimizer, such as momentum=0.9 or weight_decay=0.1.

    Returns:
        Losses [steps, models], each before its step. A run whose loss stops being finite stays
        where it is; `final_losses` counts it as inf.

    Raises:
        ValueError: for no models, one that is listed twice or has buffers, numbers of rates or
            seeds that do not fit, and as `train`.

    Example:
        >>> models = [hl.MLP(64, width=16, depth=2, out_features=10) for _ in range(3)]
        >>> losses = hl.train_together(models, hl.digits(), lr=[0.01, 0.03, 0.1], steps=20)
        >>> losses.shape
        torch.Size([20, 3])
    """
    if not models or len(set(map(id, models))) < len(models):
        raise ValueError("models must be different modules, at least one")
    if next(models[0].buffers(), None) is not None:
        raise ValueError("the models have buffers (batch norm?): train them one by one")
    shared = isinstance(seed, int)
    for name, each in (("lr", lr), ("seed", seed)):
        if not isinstance(each, (int, float)) and len(each) != len(models):
            raise ValueError(f"{name} has {len(each)} entries for {len(models)} models")
    _check_schedule(lr, steps, warmup)
    inputs, targets = data.train
    weights = {name: w.detach() for name, w in stack_module_state(models)[0].items()}
    like = next(iter(weights.values()))
    rates = torch.as_tensor(lr, dtype=like.dtype, device=like.device).expand(len(models))
    order = [
        mini_batches(len(inputs), batch_size, each, inputs.device)
        for each in ([seed] if shared else seed)
    ]

    def loss(w, x, t):
        return loss_fn(functional_call(models[0], w, (x,)), t)

    gradients_and_losses = vmap(grad_and_value(loss), in_dims=(0, None, None) if shared else 0)
    stepping = optimizer(list(weights.values()), lr=1.0, **options)
    losses = like.new_empty(steps, len(models))
    for step in _numbered(steps, progress):
        rows = next(order[0]) if shared else torch.stack([next(each) for each in order])
        gradients, losses[step] = gradients_and_losses(weights, inputs[rows], targets[rows])
        before = {name: w.clone() for name, w in weights.items()}
        for name, w in weights.items():
            w.grad = gradients[name]
        stepping.step()
        now = (rates * _share(step, warmup)).where(torch.isfinite(losses[step]), 0)
        for name, w in weights.items():  # a step of rate 1, shortened to each model's own
            own = now.view(-1, *[1] * (w.ndim - 1))
            w.copy_(torch.where(own > 0, before[name] + own * (w - before[name]), before[name]))
    with torch.no_grad():
        for i, model in enumerate(models):
            for name, p in model.named_parameters():
                p.copy_(weights[name][i])
    return losses
