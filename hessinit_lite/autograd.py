"""What a second derivative needs to know about torch: a plain forward pass, and its graph."""

import contextlib
import functools
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

USE_EVAL = "the curvature would change from call to call; use model.eval()"
RANDOM = "the model draws random numbers in its forward pass (dropout in train mode?)"


def map_tensors(part, function):
    """`function` of a tensor, or of the tensors of a tuple or mapping; anything else stays."""
    if isinstance(part, Mapping):
        return {key: map_tensors(each, function) for key, each in part.items()}
    if isinstance(part, (tuple, list)):
        return tuple(map_tensors(each, function) for each in part)
    return function(part) if isinstance(part, torch.Tensor) else part


@contextlib.contextmanager
def twice_differentiable(model):
    """Fused kernels and compiled graphs have no second derivative: plain ones in here."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        if hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextlib.contextmanager
def one_function():
    """In here torch's encoders take one kernel: without gradients another zeroes padded places."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class NoOutputs(TypeError):
    """A model that returns neither a tensor nor something with a tensor called logits."""


def call(model, inputs):
    """`model(inputs)`, with a tuple or mapping unpacked, as one tensor of outputs."""
    with one_function():
        if isinstance(inputs, Mapping):
            outputs = model(**inputs)
        else:
            outputs = model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
    if isinstance(outputs, torch.Tensor):
        return outputs
    get = outputs.get if isinstance(outputs, Mapping) else functools.partial(getattr, outputs)
    logits = get("logits", None)
    if not isinstance(logits, torch.Tensor):
        raise NoOutputs(
            f"the model returns {type(outputs).__name__}, neither a tensor nor one called logits: "
            "wrap it in a module whose forward returns the outputs alone"
        )
    return logits


def random_states(device):
    """The states of torch's own generators, of the host and of `device`."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_random_states(states, device):
    """Undo what was drawn since `random_states`."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


@contextlib.contextmanager
def traceless(model, device):
    """Random numbers drawn inside and buffers changed are put back; yields what did so, at the end.

    In eval mode, too: a counter of calls or a running mean may not look at the mode.
    """
    states, traces = random_states(device), []
    buffers = [(name, b, b._version, b.clone()) for name, b in model.named_buffers()]
    try:
        yield traces
    finally:
        if any(not torch.equal(a, b) for a, b in zip(states, random_states(device))):
            set_random_states(states, device)
            traces.append(RANDOM)
        with torch.no_grad():
            for name, buffer, _, old in (each for each in buffers if each[1]._version != each[2]):
                buffer.copy_(old)
                traces.append(f"{name} changes in the forward pass")


def forward(model, inputs, device):
    """The outputs; ValueError where the forward pass draws random numbers or changes buffers.

    Both are put back, and the pass is the same in every call or refused.
    """
    with traceless(model, device) as traces, twice_differentiable(model):
        outputs = call(model, map_tensors(inputs, torch.clone))  # it may change them in place
    if traces:
        trains = any(module.training for module in model.modules())
        raise ValueError(f"{traces[0]}: {USE_EVAL if trains else 'it must not in eval mode'}")
    return outputs


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
    """ValueError if the graph of `tensors`, first derivatives, cannot be differentiated again.

    torch cuts it at a once-differentiable function: a further derivative would be wrong, silently.
    """
    if any(node.name() == "torch::autograd::Error" for node in nodes(tensors)):
        what = "a part of the model or of the loss is marked once_differentiable"
        raise ValueError(f"{what}: it cannot be differentiated twice, so it has no Hessian")


def seed_of(loss):
    """The 1 that a backward pass of `loss` starts from, as a variable.

    Only if it asks for a derivative itself does torch mark a once-differentiable loss in the graph.
    """
    return torch.ones_like(loss, requires_grad=True)


def differentiate(outputs, inputs, vectors, batched):
    """Vector-Jacobian products through a kept graph; zero where the graph ends.

    A derivative that is constant (a loss linear in some weights) leaves no graph behind. If
    `batched`, the vectors have a leading axis, and so have the results; all are made in one pass.
    """
    live = [(o, v) for o, v in zip(outputs, vectors) if o.requires_grad]
    results = [None] * len(inputs)
    if live:
        results = pull_back([o for o, _ in live], inputs, [v for _, v in live], batched)
    lead = vectors[0].shape[:1] if batched else ()
    return [x.new_zeros(*lead, *x.shape) if r is None else r for r, x in zip(results, inputs)]


def pull_back(outputs, inputs, vectors, batched):
    """`torch.autograd.grad` through a kept graph, None where an input is not reached.

    If `batched`, one pass for all columns of the vectors' leading axis; where a function in the
    graph cannot do that (torch's group norm, custom functions, anomaly mode), one pass each.
    """
    options = {"retain_graph": True, "allow_unused": True}

    def gradients(vectors, batched):
        return torch.autograd.grad(outputs, inputs, vectors, is_grads_batched=batched, **options)

    if not batched:
        return gradients(vectors, False)
    try:
        return gradients(vectors, True)
    except RuntimeError:  # if the fault is another one, single passes meet it, too
        columns = [gradients(each, False) for each in zip(*vectors)]
    return [None if parts[0] is None else torch.stack(parts) for parts in zip(*columns)]


@functools.lru_cache
def _saved_names(kind):
    return [name for name in dir(kind) if name.startswith("_saved_")]


def graph_bytes(tensors):
    """Bytes of the tensors that the graph of `tensors` keeps."""
    kept = {}
    for node in nodes(tensors):
        for name in _saved_names(type(node)):
            tensor = getattr(node, name)
            if isinstance(tensor, torch.Tensor):
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(kept.values())


@functools.lru_cache
def weight_norm_is_wrong():
    """Whether torch's fused weight_norm takes the norms for constants in its second derivative."""
    v = torch.tensor([[1.0, 2]], dtype=torch.float64, requires_grad=True)
    g = torch.ones(1, 1, dtype=torch.float64)

    def second(weight):
        (first,) = torch.autograd.grad(weight[0, 0], v, create_graph=True)
        return torch.autograd.grad(first[0, 0], v)[0]

    fused, plain = torch._weight_norm(v, g, 0), v * (g / v.norm(dim=1, keepdim=True))
    return not torch.allclose(second(fused), second(plain))
