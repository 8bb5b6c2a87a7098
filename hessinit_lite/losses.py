"""Curvature of the loss in the outputs, H_z = D²_z L: its factors and its products.

In closed form for the mean cross-entropy, squared error and logistic error; by autograd for any other
twice differentiable loss.
"""

import torch
from torch import nn
from torch.nn import functional as F

_PLAIN = {"cross-entropy": (F.cross_entropy, nn.CrossEntropyLoss),
          "squared error": (F.mse_loss, nn.MSELoss),
          "logistic error": (F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss)}


def closed_form(loss_fn, outputs, targets):
    """Which of the losses above `loss_fn` is, in its plain form; None for any other.

    Plain: a mean without weights, and for the cross-entropy outputs [N, classes] with a class for
    every sample. Label smoothing moves the gradient, not the curvature.
    """
    for name, (function, module) in _PLAIN.items():
        if loss_fn is function or isinstance(loss_fn, module):
            break
    else:
        return None
    weights = (getattr(loss_fn, attribute, None) for attribute in ("weight", "pos_weight"))
    if getattr(loss_fn, "reduction", "mean") != "mean" or any(w is not None for w in weights):
        return None
    if name == "cross-entropy":
        ignored = getattr(loss_fn, "ignore_index", -100)
        classes_only = outputs.ndim == 2 and targets.ndim == 1
        if not classes_only or bool((targets == ignored).any()):
            return None
    return name


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
    p, samples = F.softmax(z, dim=1), len(z)
    top = p.argmax(1, keepdim=True)

    def product(v):
        # H_z 1 = 0, so v may be shifted. Without the likeliest class nothing large cancels in p·v.
        v = v - v.gather(-1, top.expand(*v.shape[:-1], 1))
        return p * (v - (p * v).sum(-1, keepdim=True)) / samples

    return product, gradient


def output_curvature(loss_fn, outputs, targets):
    """Factors of H_z: `(S [C, N, K], signs [C, N])` with D²_{z_n} L = Σ_c signs_cn S_cn S_cnᵀ.

    C = K columns, for the cross-entropy one fewer, since its H_z = (diag p − p pᵀ)/N has rank K − 1.
    Where there is no closed form, from an eigenvalue decomposition per sample. outputs: [N, K].

    Raises ValueError for a loss that couples samples (its H_z has no per-sample blocks) or that
    cannot be differentiated twice.
    """
    samples, classes = outputs.shape
    z = outputs.detach()
    kind = closed_form(loss_fn, z, targets)
    if kind == "cross-entropy" and classes > 1:
        # H_z = D (I − q qᵀ) D / N with q = √p a unit vector and D = diag q. The Householder reflection that
        # takes q to −e_j turns the projector into K − 1 columns; with j the likeliest class no digits cancel.
        q = F.softmax(z, dim=1).sqrt()
        j, rows = q.argmax(1), torch.arange(samples, device=z.device)
        v = q.clone()
        v[rows, j] += 1
        s = -v[:, :, None] * v[:, None, :] / v[rows, j][:, None, None]  # [N, c, K]
        s.diagonal(dim1=1, dim2=2).add_(1)
        s[rows, j] = s[:, -1].clone()  # column j is left out
        s = s[:, :-1] * q[:, None, :] / samples ** 0.5
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
    (blocks,) = differentiate([gradient], [z], [basis], batched=True)
    # A probe on some samples must leave the others alone. Drawn, since a loss may couple them in any pattern.
    some = torch.rand(samples, generator=torch.Generator().manual_seed(0)) < 0.5
    some[0], some[-1] = True, samples == 1
    some = some.to(z.device)
    probe = torch.arange(z.numel(), dtype=z.dtype, device=z.device).cos().view_as(z) * some[:, None]
    (product,) = differentiate([gradient], [z], [probe], batched=False)
    if bool(product[~some].abs().sum() > 1e-6 * product.abs().sum()):
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
    if live:
        results = torch.autograd.grad(
            [o for o, _ in live], inputs, [v for _, v in live], retain_graph=True,
            allow_unused=True, is_grads_batched=batched)
    else:
        results = [None] * len(inputs)
    lead = vectors[0].shape[:1] if batched else ()
    return [x.new_zeros(*lead, *x.shape) if r is None else r for r, x in zip(results, inputs)]
