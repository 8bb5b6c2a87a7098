"""Curvature matrices that are never formed: symmetric operators with a matrix-vector product.

`hessian` differentiates the gradient once more (Pearlmutter 1994); `gauss_newton` keeps only the
linearization effect of the Hessian chain rule (Skorski et al., eq. 5). Both build the graph they
differentiate once and keep it, so that a product costs about one more gradient. A loader of batches
is summed batch by batch, with one batch's graph in memory at a time.
"""

import functools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sized

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from .autograd import (
    USE_EVAL,
    differentiate,
    forward,
    graph_bytes,
    map_tensors,
    nodes,
    refuse_once_differentiable,
    seed_of,
    weight_norm_is_wrong,
)
from .losses import CrossEntropy, as_module, ignored_label, is_torchs, output_hessian
from .models import original, weight_layers


def check_vectors(operator, vectors, ndim):
    """`vectors`, or TypeError or ValueError if `operator` cannot be multiplied with them."""
    if not isinstance(vectors, torch.Tensor):
        raise TypeError(f"expected a torch.Tensor, got {type(vectors).__name__}")
    if vectors.ndim != ndim or vectors.shape[0] != operator.shape[1]:
        kind, size = ("a vector [P]", "a matrix [P, K]")[ndim - 1], operator.shape[1]
        raise ValueError(f"expected {kind} with P = {size}, got shape {tuple(vectors.shape)}")
    if vectors.dtype != operator.dtype or vectors.device != operator.device:
        got = f"got {vectors.dtype} on {vectors.device}: convert the vector, not the model"
        raise TypeError(f"expected {operator.dtype} on {operator.device}, {got}")
    return vectors


class CurvatureOperator:
    """A symmetric matrix [P, P] over a list of P weights in total, known by its products.

    `operator @ v` takes and returns a vector [P]; `operator.matmat(V)` a matrix [P, K]. `.shape`,
    `.dtype`, `.device`, `.names` and `.parameters` (in the order of the vector), `.loss` (of the
    batch) and `.gradient` (of the loss in these weights, [P]). Vectors live on the model's device
    and in its dtype. The block of a pair of layers is a rectangle [P_rows, P_columns]; `.names` and
    `.gradient` are then those of its columns. `.mass` is what the mean of the loss divides by: how
    much this batch counts beside others.

    Operators see the weights as they were when they were built: if those change, a product raises
    RuntimeError and a new operator is needed. (On an accelerator an edit of `.data`, which torch
    does not count, makes the products NaN instead: asking the device would wait for it.)

    Example:
        >>> model, batch = hl.MLP(2, 3, 2, 2), (torch.zeros(4, 2), torch.zeros(4, 2))
        >>> operator = hl.hessian(model, F.mse_loss, batch)
        >>> operator.shape, operator.matmat(torch.eye(17)).shape, operator.names[0]
        ((17, 17), torch.Size([17, 17]), 'layers.0.weight')
    """

    def __init__(self, rows, columns, product, gradient, loss, graph, mass=1.0):
        self.names, self.mass = list(columns), mass
        self.parameters = list(columns.values())
        self._watched = list(dict.fromkeys([*columns.values(), *rows.values()]))
        self._versions, self._mark = [p._version for p in self._watched], self._fingerprint()
        self._product, self._gradient, self.loss = product, gradient, loss.detach()
        self.shape = tuple(sum(p.numel() for p in side.values()) for side in (rows, columns))
        self.dtype, self.device = self.parameters[0].dtype, self.parameters[0].device
        self._graph = graph

    @property
    def gradient(self):
        """The gradient of the loss in the operator's weights, [P]."""
        return torch.cat([g.detach().flatten() for g in self._gradient()])

    @functools.cached_property
    def _column_bytes(self):
        """About what one column more takes in a batched pass.

        A derivative for everything that the graph keeps, and intermediate results: 2.5 times what
        it keeps, as measured (benchmarks/peers.py).
        """
        return max(1, int(2.5 * graph_bytes(self._graph)))

    def _fingerprint(self):
        """Norms of the weights: edits of `.data` leave the versions as they were."""
        return torch.stack([torch.linalg.vector_norm(p.detach()) for p in self._watched])

    def _guarded(self, products):
        """`products`; RuntimeError or NaN if the weights are no longer what they were."""
        on_cpu, same = self.device.type == "cpu", (self._fingerprint() == self._mark).all()
        if [p._version for p in self._watched] != self._versions or on_cpu and not same:
            raise RuntimeError("the weights changed after this operator was built: build a new one")
        return products() if on_cpu else products().where(same, torch.nan)

    def _apply(self, vectors, batched):
        """Products with the rows of `vectors` ([K, P] if batched, else [P])."""
        vectors, lead = vectors.contiguous(), vectors.shape[:-1]
        sizes = [p.numel() for p in self.parameters]
        parts = zip(vectors.split(sizes, dim=-1), self.parameters)
        try:
            products = self._product([v.reshape((*lead, *p.shape)) for v, p in parts], batched)
        except RuntimeError as error:
            if "is not implemented" in str(error):
                what = "a part of the model or of the loss cannot be differentiated twice"
                raise ValueError(f"{what}; write it in functions that can: {error}") from error
            raise
        flat = [part.reshape((*lead, -1)) for part in products]
        return torch.cat(flat, dim=-1).detach()

    def __matmul__(self, vector):
        vector = check_vectors(self, vector, 1)
        return self._guarded(lambda: self._apply(vector, batched=False))

    def matmat(self, matrix, memory=None):
        """The product with a matrix [P, K], as [P, K], in batched backward passes.

        Args:
            memory: bytes that a pass may take beside matrix and result; columns are taken in chunks
                that fit, at least one at a time. By default 80 MB on a CPU, where a pass over large
                layers takes one column in any case, and 1 GB elsewhere.
        """
        rows = check_vectors(self, matrix, 2).T
        if not len(rows):
            return matrix.new_empty(self.shape[0], 0)
        return self._guarded(lambda: self._columns_of(rows, memory or self._default_memory()))

    def _columns_of(self, rows, memory):
        """Products with each of `rows` [K, P], as [P, K]."""
        chunk = int(memory // self._column_bytes)
        if chunk > 1 and self._batch_pays:
            found = [self._apply(part, batched=True) for part in rows.split(chunk)]
            return (found[0] if len(found) == 1 else torch.cat(found)).T
        # Columns lie scattered in memory: all are copied at once, to where their products will be.
        found = rows.clone(memory_format=torch.contiguous_format)
        if self.shape[0] != self.shape[1]:
            return torch.stack([self._apply(row, batched=False) for row in found]).T
        for row in found:
            row.copy_(self._apply(row, batched=False))
        return found.T

    @functools.cached_property
    def _batch_pays(self):
        """Whether columns together cost less than one by one.

        A batch calls every node of the graph once for all columns; on a CPU its numbers leave the
        caches. With two threads it took 0.80 of the loop's time at 150 KB a node, and 1.09 at 660
        KB; with one thread it was the same at both.
        """
        small = self._column_bytes < 300_000 * sum(1 for _ in nodes(self._graph))
        return self.device.type != "cpu" or small

    def _default_memory(self):
        return 80 * 2**20 if self.device.type == "cpu" else 2**30

    def as_scipy(self):
        """The operator as a `scipy.sparse.linalg.LinearOperator` on NumPy vectors.

        Every product copies a vector to the model's device and one back. A rectangle has no
        transposed product: ask for the pair in the other order.
        """
        from scipy.sparse.linalg import LinearOperator

        def to(array):
            return torch.as_tensor(array, dtype=self.dtype, device=self.device)

        def matvec(v):
            return (self @ to(v).flatten()).cpu().numpy()

        def matmat(m):
            return self.matmat(to(m)).cpu().numpy()

        back = (matvec, matmat) if self.shape[0] == self.shape[1] else (None, None)
        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(self.shape, matvec, back[0], matmat, dtype, back[1])


class LoaderOperator(CurvatureOperator):
    """The mean of one operator per batch of a loader, each weighing as much as its loss's mean.

    For a mean over samples, or over labels that are not -100, this is the operator of all samples
    as one batch (a cross-entropy's class weights are counted, too), in the memory of one: a batch's
    graph is built for its product and dropped, so that a product costs about twice what it does for
    one batch. Ask for many columns at once (`matmat`): they share the graph. `.samples` counts the
    samples.

    Example:
        >>> model, batch = hl.MLP(2, 3, 2, 2), (torch.zeros(4, 2), torch.zeros(4, 2))
        >>> operator = hl.hessian(model, F.mse_loss, [batch, batch])
        >>> type(operator).__name__, operator.samples
        ('LoaderOperator', 8)
    """

    _batch_pays = True  # the columns of a chunk share the batches' graphs, which cost most

    def __init__(self, loader, model, build, rows, columns):
        self._operators = lambda: each_batch(loader, model, build)
        # The first pass counts the samples and meets whatever is wrong with a batch.
        samples, mass, loss, gradient, column_bytes = 0, 0.0, 0.0, 0.0, 0
        for count, operator in self._operators():
            samples, mass = samples + count, mass + operator.mass
            loss = loss + operator.mass * operator.loss
            gradient = gradient + operator.mass * operator.gradient
            column_bytes = column_bytes or operator._column_bytes  # batches are alike: one will do
        gradient = gradient / mass
        super().__init__(rows, columns, None, lambda: [gradient], loss / mass, (), mass)
        self.samples, self._column_bytes = samples, column_bytes

    def _default_memory(self):
        return 2**30

    def _apply(self, vectors, batched):
        total = vectors.new_zeros(*vectors.shape[:-1], self.shape[0])
        samples, loss = 0, torch.zeros_like(self.loss)
        for count, operator in self._operators():
            share = operator.mass / self.mass
            total += share * operator._apply(vectors, batched)
            samples, loss = samples + count, loss + share * operator.loss
        if samples != self.samples or not torch.allclose(loss, self.loss, rtol=1e-3):
            raise ValueError(
                f"the loader's data changed between two passes ({self.samples} samples of loss "
                f"{float(self.loss):.6g}, then {samples} of {float(loss):.6g}): switch off random "
                "augmentation, random sampling, and shuffle together with drop_last"
            )
        return total


def is_loader(data):
    """Whether `data` is a loader of batches; else it is, or should be, one batch."""
    if isinstance(data, (tuple, list)):
        return all(isinstance(batch, (tuple, list)) for batch in data)
    return isinstance(data, Iterable) and not isinstance(data, (torch.Tensor, Mapping, str))


def each_batch(loader, model, function):
    """`(samples, function(batch))` for the batches of a loader, copied to the model's device.

    Shows a progress bar where it takes a while. Errors of `function` get the batch's number.

    Raises:
        TypeError: for an iterator, which would be empty at the second pass.
        ValueError: for an empty loader.
    """
    if isinstance(loader, Iterator):
        raise TypeError("an iterator can be read only once: give a DataLoader or a list of batches")
    device, number = next(original(model).parameters()).device, -1
    total = len(loader) if isinstance(loader, Sized) else None
    # Not tqdm(loader): its notebook form asks for two iterators, and starts the workers twice.
    with tqdm(total=total, desc="batches", leave=False, delay=1) as bar:
        for number, batch in enumerate(loader):
            pair = isinstance(batch, (tuple, list)) and len(batch) == 2
            batch = map_tensors(batch, lambda tensor: tensor.to(device)) if pair else batch
            try:
                result = function(batch)
            except (TypeError, ValueError) as error:
                raise type(error)(f"batch {number} of the loader: {error}") from error
            yield len(batch[1]), result
            bar.update()
    if number < 0:
        raise ValueError("the loader gave no batch: curvature is a mean over samples")


def _check_dtypes(model):
    dtypes = {p.dtype for p in model.parameters()}
    names = " and ".join(sorted(map(str, dtypes)))
    if any(dtype.is_complex or dtype.itemsize < 4 for dtype in dtypes):
        need = "curvature needs real numbers of single or double precision"
        how = "measure a copy, copy.deepcopy(model).float()"
        raise ValueError(f"the weights are {names}: {need}; {how}")
    if len(dtypes) > 1:
        raise ValueError(f"the weights are {names}: give all the same precision: model.float()")


def check_pair(batch):
    """The inputs and targets of a batch; TypeError or ValueError if it is no batch."""
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
        raise TypeError("batch must be a pair (inputs, targets)")
    inputs, targets = batch
    if not isinstance(targets, torch.Tensor):
        how = f"got {type(targets).__name__}; stack several, and take them apart in loss_fn"
        raise TypeError(f"targets must be a torch.Tensor, {how}")
    if targets.ndim == 0:
        raise ValueError("the batch must have an axis of samples: targets are a single number")
    if len(targets) == 0:
        raise ValueError("the batch is empty: curvature is a mean over its samples")
    return inputs, targets


def check_batch(model, loss_fn, batch):
    """Run the model on `batch` and return `(outputs, loss)`, with the graph.

    Outputs are a tensor, or the `logits` of a mapping or object. For torch's cross-entropy with a
    label at every place, outputs [N, T, classes] are read as torch's [N, classes, T], and returned
    so.

    Args:
        batch: `(inputs, targets)`; a tuple or mapping of inputs is unpacked for the model.

    Raises:
        TypeError, ValueError: for an empty or malformed batch, labels out of range, a forward pass
            that is random (dropout) or mixes samples (batch norm in train mode) or changes buffers,
            weights that are complex, of half or of mixed precision, and a non-finite or non-scalar
            loss.
    """
    model = original(model)
    inputs, targets = check_pair(batch)
    _check_dtypes(model)
    for name, module in model.named_modules():
        random = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        mixing = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if module.training and (random or mixing):
            which = f"{name or 'the model'} ({type(module).__name__})"
            raise ValueError(f"{which} is in train mode: {USE_EVAL}")
    device = next((p.device for p in model.parameters()), targets.device)
    outputs, loss = loss_of(loss_fn, forward(model, inputs, device), targets)
    if not bool(torch.isfinite(loss)):
        raise ValueError(f"the loss is {loss.item()}: check the inputs and the weights' scale")
    made = (getattr(node, "_input_metadata", ()) for node in nodes([loss]))  # torch 2.3 has none
    dtypes = {each.dtype for found in made for each in found}
    if any(dtype.is_floating_point and dtype.itemsize < 4 for dtype in dtypes):
        raise ValueError("a part of the forward pass is of half precision: ask without autocast")
    return outputs, loss


def loss_of(loss_fn, outputs, targets):
    """`(outputs, loss)` with outputs [N, T, classes] as torch's loss takes them; errors named."""
    loss_fn = as_module(loss_fn)
    if is_torchs(loss_fn, *CrossEntropy.of) and not targets.is_floating_point():
        class_first = outputs.ndim > 1 and targets.shape == (outputs.shape[0], *outputs.shape[2:])
        class_last = outputs.ndim > 2 and targets.shape == outputs.shape[:-1]
        if class_last and not class_first:
            outputs = outputs.movedim(-1, 1)
        elif class_last and outputs.ndim == 3:
            what = f"outputs {tuple(outputs.shape)} are read as torch reads them, [N, classes, T]"
            warnings.warn(f"{what}; if classes come last, flatten N and T in loss_fn", stacklevel=2)
    classify = isinstance(loss_fn, (nn.CrossEntropyLoss, nn.NLLLoss))
    classify = classify or loss_fn in (F.cross_entropy, F.nll_loss)
    if classify and not targets.is_floating_point() and outputs.ndim > 1:
        classes, labelled = outputs.shape[1], targets != ignored_label(loss_fn)
        if bool((((targets < 0) | (targets >= classes)) & labelled).any()):
            what = f"labels out of range: the model has {classes} outputs"
            raise ValueError(f"{what}, so labels must lie in 0..{classes - 1}")
    loss = loss_fn(outputs, targets)
    if not isinstance(loss, torch.Tensor):
        raise TypeError(f"loss_fn must return a tensor with a graph, got {type(loss).__name__}")
    if loss.ndim != 0:
        what = "loss_fn must return one number (a mean over the batch)"
        raise ValueError(f"{what}, got shape {tuple(loss.shape)}")
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
    if any(hasattr(p, "device_mesh") for p in model.parameters()):
        raise ValueError(
            "the parameters are sharded (fully_shard, DTensor): ask hl.parallel.hessian or "
            "gauss_newton, whose products are then differences of gradients, or critical_rate"
        )
    if layer is None:
        chosen = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not chosen:
            raise ValueError("every parameter is frozen: set requires_grad=True on some")
        return chosen
    known = dict(model.named_parameters(remove_duplicate=False))
    name = layer if layer in known else f"{layer}.weight".lstrip(".")
    if name not in known:
        known = f"{', '.join(weight_layers(model))}, and the parameters of named_parameters()"
        raise ValueError(f"unknown layer {layer!r}; known: {known}")
    if not known[name].requires_grad:
        raise ValueError(f"{name} is frozen: set requires_grad=True")
    return {name: known[name]}


def _gradient(of, parameters, grad_outputs):
    """Gradients with a graph, or ValueError naming the parameters that `of` does not reach."""
    if not of.requires_grad:
        why = "is something detached, or computed under torch.no_grad()?"
        raise ValueError(f"the loss does not depend on any trainable parameter ({why})")
    options = {"create_graph": True, "allow_unused": True}
    gradients = torch.autograd.grad(of, list(parameters.values()), grad_outputs, **options)
    unused = [name for name, g in zip(parameters, gradients) if g is None]
    if unused:
        if any(node.name() == "CheckpointFunctionBackward" for node in nodes([of])):
            raise ValueError(
                f"{', '.join(unused)} lie behind a reentrant checkpoint, which autograd cannot "
                "look into: use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
            )
        how = "freeze them (requires_grad=False), pick another layer or, of experts, larger batches"
        raise ValueError(f"the loss does not depend on {', '.join(unused)}: {how}")
    if any(g.is_sparse for g in gradients):
        raise ValueError(
            "an embedding has sparse=True, whose gradient cannot be differentiated again: make "
            "it with sparse=False (layer_norms and layer_traces take it as it is)"
        )
    refuse_once_differentiable(gradients)
    return gradients


def hessian(model, loss_fn, batch, layer=None):
    """The Hessian of `loss_fn(model(inputs), targets)`, a mean over the batch, as an operator.

    A product is the derivative of ∇L·v (Pearlmutter 1994).

    Args:
        batch: a pair (inputs, targets), or a loader of such pairs that can be read again and again.
        layer: by default all trainable parameters. A layer's name: its weight alone, the block
            H_w(k) of the paper; the name of a parameter serves, too ("layers.0.bias"). A pair of
            names: the block between two layers, rows first (Remark 2).

    Returns:
        A `CurvatureOperator`, for a loader a `LoaderOperator`.

    Raises:
        TypeError, ValueError: as `check_batch`; also for an unknown or frozen layer, a model
            without trainable parameters, parameters the loss does not reach, an empty loader or one
            whose data change, or a path that cannot be differentiated twice (for one of torch's own
            functions: at the first product).

    Example:
        >>> model, inputs = nn.Linear(2, 1, bias=False), torch.diag(torch.tensor([2.0, 1.0]))
        >>> operator = hl.hessian(model, F.mse_loss, (inputs, torch.zeros(2, 1)))
        >>> (operator @ torch.ones(2)).round(decimals=3).tolist()
        [4.0, 1.0]
    """
    model = original(model)
    rows, columns = _rows_and_columns(model, layer)
    if is_loader(batch):
        build = functools.partial(hessian, model, loss_fn, layer=layer)
        return LoaderOperator(batch, model, build, rows, columns)
    outputs, loss = check_batch(model, loss_fn, batch)
    fused = any(node.name().startswith("WeightNorm") for node in nodes([loss]))
    if fused and weight_norm_is_wrong():
        raise ValueError(
            "the second derivative of this torch's weight_norm is wrong, so there is no Hessian: "
            "undo it (torch.nn.utils.parametrize.remove_parametrizations), or ask for gauss_newton"
        )
    gradients = _gradient(loss, columns, seed_of(loss))
    weights = list(rows.values())

    def product(vectors, batched):
        return differentiate(gradients, weights, vectors, batched)

    mass = output_hessian(loss_fn, outputs, batch[1]).mass
    return CurvatureOperator(rows, columns, product, lambda: gradients, loss, gradients, mass)


def gauss_newton(model, loss_fn, batch, layer=None):
    """The Gauss-Newton matrix Jᵀ H_z J of the same loss, as an operator.

    J is the Jacobian of the outputs in the weights, H_z the Hessian of the loss in the outputs: the
    linearization effect D²_z L • D_w z • D_w z of the chain rule (Skorski et al., eq. 5), without
    the curvature effect D_z L • D²_w z. Arguments and errors are those of `hessian`.

    Example:
        >>> model, batch = hl.MLP(2, 3, 2, 2, "tanh"), (torch.ones(4, 2), torch.ones(4, 2))
        >>> operator = hl.gauss_newton(model, F.mse_loss, batch)
        >>> values, bounds = hl.top_eigenvalues(operator, which="SA")
        >>> bool(values > -1e-3)  # as for every convex loss; the Hessian may have negative ones
        True
    """
    model = original(model)
    rows, columns = _rows_and_columns(model, layer)
    if is_loader(batch):
        build = functools.partial(gauss_newton, model, loss_fn, layer=layer)
        return LoaderOperator(batch, model, build, rows, columns)
    outputs, loss = check_batch(model, loss_fn, batch)
    # Jᵀu is linear in u: its derivative in u, taken backwards, is J v (the double-backward trick).
    u = torch.zeros_like(outputs, requires_grad=True)
    transposed = _gradient(outputs, columns, u)
    curve = output_hessian(loss_fn, outputs, batch[1])
    return _gauss_newton(outputs, loss, curve, curve.gradient(), u, transposed, columns, rows)


def gauss_newton_blocks(model, loss_fn, batch, names):
    """{parameter's name: operator} of several blocks on one graph: `gauss_newton` of each."""
    outputs, loss = check_batch(model, loss_fn, batch)
    weights = {name: model.get_parameter(name) for name in names}
    u = torch.zeros_like(outputs, requires_grad=True)
    curve, blocks = output_hessian(loss_fn, outputs, batch[1]), {}
    slope = curve.gradient()
    for name, back in zip(weights, _gradient(outputs, weights, u)):
        blocks[name] = _gauss_newton(outputs, loss, curve, slope, u, [back], {name: weights[name]})
    return blocks


def _gauss_newton(outputs, loss, curve, slope, u, back, columns, rows=None):
    """The operator, given the loss's slope in the outputs, and Jᵀu with its graph in u."""
    weights = list((rows or columns).values())

    def product(vectors, batched):
        (jv,) = differentiate(back, [u], vectors, batched)
        return differentiate([outputs], weights, [curve.product(jv)], batched)

    def gradient():
        return differentiate([outputs], list(columns.values()), [slope], False)

    return CurvatureOperator(rows or columns, columns, product, gradient, loss, back, curve.mass)
