"""Curvature matrices that are never formed: symmetric operators with a matrix-vector product.

`hessian` differentiates the gradient once more (Pearlmutter 1994); `gauss_newton` keeps only the
linearization effect of the Hessian chain rule (Skorski et al., eq. 5). Both build the graph they
differentiate once and keep it, so that a product costs about one more gradient.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .models import check_module, weight_layers


def check_vectors(operator, vectors, ndim):
    """`vectors`, or TypeError or ValueError if `operator` cannot be multiplied with them."""
    if not isinstance(vectors, torch.Tensor):
        raise TypeError(f"expected a torch.Tensor, got {type(vectors).__name__}")
    if vectors.ndim != ndim or vectors.shape[0] != operator.shape[1]:
        raise ValueError(f"expected {('a vector [P]', 'a matrix [P, K]')[ndim - 1]} with "
                         f"P = {operator.shape[1]}, got shape {tuple(vectors.shape)}")
    if vectors.dtype != operator.dtype or vectors.device != operator.device:
        raise TypeError(f"expected {operator.dtype} on {operator.device}, got {vectors.dtype} on "
                        f"{vectors.device}: convert the vector, not the model")
    return vectors


class CurvatureOperator:
    """A symmetric matrix [P, P] over a list of P weights in total, known by its products.

    `operator @ v` takes and returns a vector [P]; `operator.matmat(V)` a matrix [P, K], all columns
    in one batched backward pass. `.shape`, `.dtype`, `.device`, `.names` (the parameters, in the order of
    the vector). Vectors live on the model's device and in its dtype. The block of a pair of layers is
    a rectangle [P_rows, P_columns]; `.names` are then those of its columns.

    Operators see the weights as they were when they were built: if those change, a product raises
    RuntimeError and a new operator is needed.
    """

    def __init__(self, parameters, product, rows=None):
        self.names = list(parameters)
        self._parameters = list(parameters.values())
        rows = self._parameters if rows is None else list(rows.values())
        self._watched = [*self._parameters, *rows]
        self._versions = [p._version for p in self._watched]
        self._sizes = [p.numel() for p in self._parameters]
        self._product = product
        self.shape = (sum(p.numel() for p in rows), sum(self._sizes))
        self.dtype, self.device = self._parameters[0].dtype, self._parameters[0].device

    def _apply(self, vectors, batched):
        """Products with the rows of `vectors` ([K, P] if batched, else [P])."""
        if [p._version for p in self._watched] != self._versions:
            raise RuntimeError("the weights changed after this operator was built: build a new one")
        vectors, lead = vectors.contiguous(), vectors.shape[:-1]
        parts = [part.reshape(*lead, *p.shape) for part, p in
                 zip(vectors.split(self._sizes, dim=-1), self._parameters)]
        try:
            products = self._product(parts, batched)
        except RuntimeError as error:
            if "is not implemented" in str(error):
                raise ValueError(
                    "a part of the model or of the loss cannot be differentiated twice, so it has "
                    f"no Hessian: {error}") from error
            raise
        flat = [part.reshape(*lead, -1) for part in products]
        return torch.cat(flat, dim=-1).detach()

    def __matmul__(self, vector):
        return self._apply(check_vectors(self, vector, 1), batched=False)

    def matmat(self, matrix):
        """The product with a matrix [P, K], as [P, K]."""
        return self._apply(check_vectors(self, matrix, 2).T, batched=True).T


def check_batch(model, loss_fn, batch):
    """Run the model on `batch` and return `(outputs, loss)`, with the graph.

    Raises TypeError or ValueError for an empty or malformed batch, labels out of range, dropout or
    batch norm in train mode (curvature would be random), a non-finite or non-scalar loss.
    """
    check_module(model)
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
        raise TypeError("batch must be a pair (inputs, targets)")
    inputs, targets = batch
    if len(inputs) == 0:
        raise ValueError("the batch is empty: curvature is a mean over its samples")
    for name, module in model.named_modules():
        random = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        mixing = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if module.training and (random or mixing):
            raise ValueError(f"{name or 'the model'} ({type(module).__name__}) is in train mode: "
                             "the curvature would change from call to call; use model.eval()")
    outputs = model(inputs)
    classifies = loss_fn in (F.cross_entropy, F.nll_loss) or isinstance(
        loss_fn, (nn.CrossEntropyLoss, nn.NLLLoss))
    if classifies and not targets.is_floating_point():
        classes = outputs.shape[1]
        ignored = getattr(loss_fn, "ignore_index", -100)
        if bool((((targets < 0) | (targets >= classes)) & (targets != ignored)).any()):
            raise ValueError(f"labels out of range: the model has {classes} outputs, so labels must "
                             f"lie in 0..{classes - 1}")
    loss = loss_fn(outputs, targets)
    if loss.ndim != 0:
        raise ValueError(f"loss_fn must return one number (a mean over the batch), got shape "
                         f"{tuple(loss.shape)}")
    if not bool(torch.isfinite(loss)):
        raise ValueError(f"the loss is {loss.item()}: check the inputs and the scale of the weights")
    return outputs, loss


def _rows_and_columns(model, layer):
    """The parameters of a block's rows and columns; the same for all but a pair of layers."""
    if isinstance(layer, (tuple, list)):
        if len(layer) != 2:
            raise ValueError(f"layer must be a name or a pair (rows, columns), got {layer!r}")
        return _parameters(model, layer[0]), _parameters(model, layer[1])
    chosen = _parameters(model, layer)
    return chosen, chosen


def _parameters(model, layer):
    """{name: parameter} that an operator works on; ValueError where there is none."""
    check_module(model)
    if layer is None:
        chosen = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not chosen:
            raise ValueError("every parameter is frozen: set requires_grad=True on some")
        return chosen
    layers = weight_layers(model)
    if layer not in layers:
        raise ValueError(f"unknown layer {layer!r}; known: {', '.join(layers)}")
    weight = layers[layer].weight
    if not weight.requires_grad:
        raise ValueError(f"the weight of {layer!r} is frozen: set requires_grad=True")
    return {f"{layer}.weight": weight}


def refuse_once_differentiable(tensors):
    """ValueError if the graph of `tensors` (first derivatives) holds a once-differentiable function.

    torch cuts the graph there, so a further derivative would be wrong without a word.
    """
    seen, todo = set(), [t.grad_fn for t in tensors]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise ValueError("a part of the model or of the loss is marked once_differentiable: it "
                             "cannot be differentiated twice, so it has no Hessian")
        seen.add(node)
        todo.extend(following for following, _ in node.next_functions)


def seed_of(loss):
    """The 1 that a backward pass of `loss` starts from, as a variable.

    Only if it asks for a derivative itself does torch mark a once-differentiable loss in the graph.
    """
    return torch.ones_like(loss, requires_grad=True)


def _gradient(of, parameters, grad_outputs):
    """Gradients with a graph, or ValueError naming the parameters that `of` does not reach."""
    if not of.requires_grad:
        raise ValueError("the loss does not depend on any trainable parameter (is something "
                         "detached, or computed under torch.no_grad()?)")
    gradients = torch.autograd.grad(of, list(parameters.values()), grad_outputs, create_graph=True,
                                    allow_unused=True)
    unused = [name for name, g in zip(parameters, gradients) if g is None]
    if unused:
        raise ValueError(f"the loss does not depend on {', '.join(unused)}: freeze them "
                         "(requires_grad=False) or pick another layer")
    refuse_once_differentiable(gradients)
    return gradients


def _differentiate(outputs, inputs, vectors, batched):
    """Vector-Jacobian products through a kept graph; zero where the graph ends.

    A derivative that is constant (a loss linear in some weights) leaves no graph behind.
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


def hessian(model, loss_fn, batch, layer=None):
    """The Hessian of `loss_fn(model(inputs), targets)`, a mean over the batch, as an operator.

    Over all trainable parameters, or over the weight of the layer called `layer` alone: the block
    H_w(k) of the paper. A pair of names gives the block between two layers, rows first (Remark 2). A
    product is the derivative of ∇L·v (Pearlmutter 1994).

    Raises what `check_batch` raises, and ValueError for an unknown or frozen layer, a model without
    trainable parameters, parameters the loss does not reach, or a path that cannot be differentiated
    twice (for one of torch's own functions: at the first product).
    """
    rows, columns = _rows_and_columns(model, layer)
    _, loss = check_batch(model, loss_fn, batch)
    gradients = _gradient(loss, columns, seed_of(loss))
    weights = list(rows.values())

    def product(vectors, batched):
        return _differentiate(gradients, weights, vectors, batched)

    return CurvatureOperator(columns, product, rows)


def gauss_newton(model, loss_fn, batch, layer=None):
    """The Gauss-Newton matrix Jᵀ H_z J of the same loss, as an operator.

    J is the Jacobian of the outputs in the weights, H_z the Hessian of the loss in the outputs: the
    linearization effect D²_z L • D_w z • D_w z of the chain rule (Skorski et al., eq. 5), without
    the curvature effect D_z L • D²_w z. Arguments and errors as `hessian`.
    """
    rows, columns = _rows_and_columns(model, layer)
    outputs, _ = check_batch(model, loss_fn, batch)
    weights = list(rows.values())
    # Jᵀu is linear in u, so its derivative in u, taken backwards, is J v (the double-backward trick).
    u = torch.zeros_like(outputs, requires_grad=True)
    transposed = _gradient(outputs, columns, u)
    z = outputs.detach().requires_grad_()
    loss = loss_fn(z, batch[1])
    (loss_gradient,) = torch.autograd.grad(loss, z, seed_of(loss), create_graph=True)
    refuse_once_differentiable([loss_gradient])

    def product(vectors, batched):
        (jv,) = _differentiate(transposed, [u], vectors, batched)
        (hjv,) = _differentiate([loss_gradient], [z], [jv], batched)
        return _differentiate([outputs], weights, [hjv], batched)

    return CurvatureOperator(columns, product, rows)
