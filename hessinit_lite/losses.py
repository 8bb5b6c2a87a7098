"""Curvature of the loss in the outputs, H_z = D²_z L: its products, its root and its factors.

In closed form for torch's mean cross-entropy (class weights, ignored labels, label smoothing and
probabilities as targets included), squared error and logistic error; by autograd for any other
twice differentiable loss.
"""

import torch
from torch import nn
from torch.nn import functional as F

_PLAIN = {"cross-entropy": (F.cross_entropy, nn.CrossEntropyLoss),
          "squared error": (F.mse_loss, nn.MSELoss),
          "logistic error": (F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss)}


def is_torchs(loss_fn, function, kind):
    """Whether `loss_fn` is torch's function or module itself: a subclass may compute anything."""
    return loss_fn is function or (type(loss_fn) is kind and "forward" not in vars(loss_fn))


def closed_form(loss_fn, outputs, targets):
    """Which of the losses above `loss_fn` is; None for any other, and for a sum instead of a mean."""
    for name, (function, kind) in _PLAIN.items():
        if is_torchs(loss_fn, function, kind):
            break
    else:
        return None
    if getattr(loss_fn, "reduction", "mean") != "mean":
        return None
    if name == "cross-entropy":
        return name if outputs.ndim > 1 else None
    weights = (getattr(loss_fn, attribute, None) for attribute in ("weight", "pos_weight"))
    if targets.shape != outputs.shape or any(w is not None for w in weights):
        return None
    return name


def _cross_entropy_counts(loss_fn, outputs, targets):
    """(m, mass): H_z is m_n/mass (diag p − p pᵀ) at every place n of the outputs; m: outputs without axis 1.

    The loss is a weighted mean Σ_n (…) / mass. Every −log p_c has the same Hessian, so that label
    smoothing and soft targets only change how much a place counts.
    """
    classes = outputs.shape[1]
    weight = getattr(loss_fn, "weight", None)
    smoothing = getattr(loss_fn, "label_smoothing", 0.0)
    weight = outputs.new_ones(classes) if weight is None else weight.to(outputs)
    if targets.is_floating_point():
        q = targets.to(outputs) * (1 - smoothing) + smoothing / classes
        counts = torch.einsum("nc...,c->n...", q, weight)
        mass = torch.full_like(counts[:1].sum(), counts.numel())
    else:
        kept = targets != getattr(loss_fn, "ignore_index", -100)
        own = weight[targets.where(kept, torch.zeros_like(targets))] * kept
        counts, mass = (1 - smoothing) * own + smoothing * weight.mean() * kept, own.sum()
    return counts, mass


def mean_weight(loss_fn, outputs, targets):
    """What the mean of a batch's loss divides by: how much the batch counts beside others.

    Class weights and ignored labels change it. For a loss that is not known: the number of samples.
    A float, or a tensor without dimension on the outputs' device.
    """
    kind = closed_form(loss_fn, outputs, targets)
    if kind == "cross-entropy":
        return _cross_entropy_counts(loss_fn, outputs.detach(), targets)[1]
    return float(targets.numel() if kind else len(targets))


def output_product(loss_fn, outputs, targets):
    """The function v -> H_z v for v [..., *outputs.shape], and the loss's gradient in the outputs.

    Raises ValueError for a loss that cannot be differentiated twice.
    """
    z = outputs.detach().requires_grad_()
    kind = closed_form(loss_fn, z, targets)
    loss = loss_fn(z, targets)
    (gradient,) = torch.autograd.grad(loss, z, seed_of(loss), create_graph=kind is None)
    if kind is None:
        refuse_once_differentiable([gradient])
        return lambda v: differentiate([gradient], [z], [v], v.ndim > z.ndim)[0], gradient.detach()
    z = z.detach()
    if kind == "squared error":
        return lambda v: v * (2 / z.numel()), gradient
    if kind == "logistic error":
        slope = torch.sigmoid(z) * torch.sigmoid(-z) / z.numel()
        return lambda v: v * slope, gradient
    p, (counts, mass) = F.softmax(z, dim=1), _cross_entropy_counts(loss_fn, z, targets)
    counts, top, axis = counts.unsqueeze(1), p.argmax(1, keepdim=True), 1 - z.ndim

    def product(v):
        # H_z 1 = 0, so v may be shifted. Without the likeliest class nothing large cancels in p·v.
        index = top.expand(*v.shape[:v.ndim - z.ndim], *top.shape)
        v = v - v.gather(axis, index)
        return p * (v - (p * v).sum(axis, keepdim=True)) * counts / mass

    return product, gradient


def output_root(loss_fn, outputs, targets):
    """The function w -> S w with H_z = S Sᵀ, for w [..., *outputs.shape]; None where it is not known.

    Of random signs w it makes random columns of the root: E (S w)(S w)ᵀ = H_z. For the cross-entropy
    S = √a (diag q − p qᵀ) with q = √p.
    """
    z, kind = outputs.detach(), closed_form(loss_fn, outputs, targets)
    if kind is None:
        return None
    if kind == "squared error":
        return lambda w: w * (2 / z.numel()) ** 0.5
    if kind == "logistic error":
        slope = (torch.sigmoid(z) * torch.sigmoid(-z) / z.numel()).sqrt()
        return lambda w: w * slope
    p, (counts, mass) = F.softmax(z, dim=1), _cross_entropy_counts(loss_fn, z, targets)
    q, scale, axis = p.sqrt(), (counts / mass).sqrt().unsqueeze(1), 1 - z.ndim
    return lambda w: (q * w - p * (q * w).sum(axis, keepdim=True)) * scale


def output_curvature(loss_fn, outputs, targets):
    """Factors of H_z: `(S [C, N, K], signs [C, N])` with D²_{z_n} L = Σ_c signs_cn S_cn S_cnᵀ.

    C = K columns, for the cross-entropy one fewer, since its H_z ∝ diag p − p pᵀ has rank K − 1.
    Where there is no closed form, from an eigenvalue decomposition per sample. outputs: [N, K].

    Raises ValueError for a loss that couples samples (its H_z has no per-sample blocks) or that
    cannot be differentiated twice.
    """
    samples, classes = outputs.shape
    z = outputs.detach()
    kind = closed_form(loss_fn, z, targets)
    if kind == "cross-entropy" and classes > 1:
        # H_z = a D (I − q qᵀ) D with q = √p a unit vector and D = diag q. The Householder reflection that
        # takes q to −e_j turns the projector into K − 1 columns; with j the likeliest class no digits cancel.
        counts, mass = _cross_entropy_counts(loss_fn, z, targets)
        q = F.softmax(z, dim=1).sqrt()
        j, rows = q.argmax(1), torch.arange(samples, device=z.device)
        v = q.clone()
        v[rows, j] += 1
        s = -v[:, :, None] * v[:, None, :] / v[rows, j][:, None, None]  # [N, c, K]
        s.diagonal(dim1=1, dim2=2).add_(1)
        s[rows, j] = s[:, -1].clone()  # column j is left out
        s = s[:, :-1] * q[:, None, :] * (counts / mass).sqrt()[:, None, None]
        return s.transpose(0, 1), z.new_ones(classes - 1, samples)
    if kind is not None:
        product, _ = output_product(loss_fn, outputs, targets)
        s = torch.diag_embed(product(torch.ones_like(z)).sqrt())
        return s.transpose(0, 1), z.new_ones(classes, samples)

    z.requires_grad_()
    loss = loss_fn(z, targets)
    (gradient,) = torch.autograd.grad(loss, z, seed_of(loss), create_graph=True)
    refuse_once_differentiable([gradient])
    basis = torch.eye(classes, dtype=z.dtype, device=z.device)[:, None, :].expand(-1, samples, -1)
    # A probe on some samples must leave the others alone. The bits of the samples' numbers tell all apart.
    numbers = torch.arange(samples, device=z.device)
    some = torch.stack([(numbers >> bit) % 2 == 1 for bit in range(max(1, (samples - 1).bit_length()))])
    probe = torch.randn(samples, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(z)
    columns = torch.cat([basis, probe * some[:, :, None]])
    (products,) = differentiate([gradient], [z], [columns], batched=True)
    blocks, probed = products.split([classes, len(some)])
    if bool(probed[~some].abs().sum() > 1e-6 * probed.abs().sum()):
        raise ValueError("this loss couples the samples of a batch, so its curvature is no sum over "
                         "samples: use gauss_newton(...) and top_eigenvalues(...)")
    values, vectors = torch.linalg.eigh(blocks.transpose(0, 1))
    s = vectors.transpose(1, 2) * values.abs().sqrt()[:, :, None]
    return s.transpose(0, 1), torch.where(values < 0, -1.0, 1.0).to(z.dtype).T


# What a second derivative needs to know about torch's graphs.

def nodes(tensors):
    """The nodes of the graph that computed `tensors`."""
    seen, todo = set(), [t.grad_fn for t in tensors]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        yield node
        seen.add(node)
        todo.extend(following for following, _ in node.next_functions)


def refuse_once_differentiable(tensors):
    """ValueError if the graph of `tensors` (first derivatives) holds a once-differentiable function.

    torch cuts the graph there, so a further derivative would be wrong without a word.
    """
    if any(node.name() == "torch::autograd::Error" for node in nodes(tensors)):
        raise ValueError("a part of the model or of the loss is marked once_differentiable: it "
                         "cannot be differentiated twice, so it has no Hessian")


def seed_of(loss):
    """The 1 that a backward pass of `loss` starts from, as a variable.

    Only if it asks for a derivative itself does torch mark a once-differentiable loss in the graph.
    """
    return torch.ones_like(loss, requires_grad=True)


def differentiate(outputs, inputs, vectors, batched):
    """Vector-Jacobian products through a kept graph; zero where the graph ends.

    A derivative that is constant (a loss linear in some weights) leaves no graph behind. batched: the
    vectors have a leading axis, and so have the results; all are made in one pass.
    """
    live = [(o, v) for o, v in zip(outputs, vectors) if o.requires_grad]
    results = [None] * len(inputs)
    if live:
        results = pull_back([o for o, _ in live], inputs, [v for _, v in live], batched)
    lead = vectors[0].shape[:1] if batched else ()
    return [x.new_zeros(*lead, *x.shape) if r is None else r for r, x in zip(results, inputs)]


def pull_back(outputs, inputs, vectors, batched):
    """`torch.autograd.grad` through a kept graph, None where an input is not reached.

    batched: one pass for all columns of the vectors' leading axis; where a function in the graph
    cannot do that (torch's group norm, custom functions, anomaly mode), one pass each.
    """
    def gradients(vectors, batched):
        return torch.autograd.grad(outputs, inputs, vectors, retain_graph=True, allow_unused=True,
                                   is_grads_batched=batched)

    if not batched:
        return gradients(vectors, False)
    try:
        return gradients(vectors, True)
    except RuntimeError:  # if the fault is another one, single passes meet it, too
        columns = [gradients(each, False) for each in zip(*vectors)]
    return [None if parts[0] is None else torch.stack(parts) for parts in zip(*columns)]
