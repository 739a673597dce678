"""One walk through a network: every call of a layer or block, with its values.

The layer table, the receptive fields, features, activation statistics, Grad-CAM and
guided backpropagation all read the calls that `trace` records, or edit their outputs.

The path of a module names its layer: `conv1`, or `stage1_block2/conv1` inside a block.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import networks
from cnn_jax.layers import eval_shape
from cnn_jax.networks.parts import HEAD

ImageShape = tuple[int, int, int]  # (H, W, C)


class Call(NamedTuple):
    """One call of a layer, of a block, or of the network itself."""

    name: str                      # 'stage1_block2/conv1'; '' for the network
    module: nn.Module
    variables: Mapping[str, Any]   # {"params": ..., "batch_stats": ...} of the module
    inputs: tuple[jax.Array, ...]  # the arrays among its arguments
    output: jax.Array
    inside: int                    # how many calls ran inside this one

    @property
    def params(self) -> Mapping[str, Any]:
        """Its parameters, including those of the layers inside it."""
        return self.variables.get("params", {})

    @property
    def has_own_parameters(self) -> bool:
        """Whether it has parameters besides those of the layers inside it."""
        return not all(isinstance(value, Mapping) for value in self.params.values())


Edit = Callable[[Call], jax.Array]


def trace(network: nn.Module, variables: Mapping[str, Any] | None, images: jax.Array,
          edit: Edit | None = None) -> tuple[jax.Array, list[Call]]:
    """Applies a network to images [N, H, W, C] as in evaluation and records its calls.

    variables: {"params": ..., "batch_stats": ...}. None: the network is initialized,
        and layers that only training has (auxiliary heads) run too.
    edit: receives each call as it ends, and returns the output to use in its place.

    Returns (logits, calls in the order in which they end). The call of a block comes
    after those of the layers inside it, its `inside` predecessors; the last call is
    that of the network. Pure: it can be jitted and differentiated. Under
    `jax.eval_shape` nothing is computed, and the calls hold shapes.
    """
    with recorded(edit) as calls:
        if variables is None:
            logits, _ = network.init_with_output(jax.random.key(0), images, train=False)
        else:
            logits = network.apply(variables, images, train=False)
    return logits, calls


@contextlib.contextmanager
def recorded(edit: Edit | None = None) -> Iterator[list[Call]]:
    """Records the calls of the network that runs inside the context; see `trace`."""
    calls: list[Call] = []
    running: list[nn.Module] = []

    def record(run: Callable, args: tuple, kwargs: dict,
               context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__" or any(
                module is other for other in running):  # super().__call__
            return run(*args, **kwargs)
        running.append(module)
        first = len(calls)
        output = run(*args, **kwargs)
        running.pop()
        inputs = tuple(x for x in jax.tree.leaves((args, kwargs))
                       if hasattr(x, "shape"))
        call = Call("/".join(module.path), module, module.variables, inputs, output,
                    len(calls) - first)
        if edit is not None:
            call = call._replace(output=edit(call))
        calls.append(call)
        return call.output

    # Interceptors belong to a thread: other threads record none of these calls.
    with nn.intercept_methods(record):
        yield calls


def trace_shapes(network: nn.Module, variables: Mapping[str, Any] | None,
                 image_shape: ImageShape) -> list[Call]:
    """Lists the calls of a network on one image; computes only shapes."""
    calls: list[Call] = []

    def run(variables: Mapping[str, Any] | None, images: jax.Array) -> None:
        calls.extend(trace(network, variables, images)[1])

    eval_shape(run, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return calls


def features(network: str | nn.Module, variables: Mapping[str, Any], images: jax.Array,
             inner: bool = False) -> dict[str, jax.Array]:
    """Computes every named intermediate of a network for images [N, H, W, C].

    network: a module, or the name of one with the fields of `networks.NETWORKS`.
    variables: {"params": ..., "batch_stats": ...}.
    images: scaled as in training; raw pixels are not scaled here.
    inner: whether to add the layers inside blocks, as `stage1_block2/conv1`.

    Returns a dict with the output of each layer or block at the top level (conv1,
    stage1_block2, ...) and of each part (stem, stage1, ...: the output of its last
    layer; see `networks.part_of`), the input of the last layer as `before_head`, and
    the logits as `head`. If a layer and a part have the same name, the output is the
    layer's (AlexNet's part conv1 ends in conv1_pool). Pure: it can be jitted and
    differentiated.
    Raises ValueError for variables or images that the network cannot take.
    """
    if "params" not in variables:
        raise ValueError("variables must be {'params': ..., 'batch_stats': ...}, not a "
                         f"mapping of {', '.join(map(str, variables)) or 'nothing'}")
    if isinstance(network, str):
        network = networks.create(network, count_classes(variables))
    calls = {call.name: call for call in trace(network, variables, images)[1]}
    outputs = {name: call.output for name, call in calls.items() if name}
    top = {name: output for name, output in outputs.items() if "/" not in name}
    parts = {networks.part_of(name): output for name, output in top.items()}
    values = parts | (outputs if inner else top)
    if last := last_layer(list(calls.values())):
        values["before_head"] = last.inputs[0]
    return values


def before_head(network: nn.Module, variables: Mapping[str, Any],
                images: jax.Array) -> jax.Array:
    """Computes the input of the last layer, as in evaluation, for scaled images."""
    last = last_layer(trace(network, variables, images)[1])
    if last is None:
        raise ValueError(f"no layer of {type(network).__name__} has parameters")
    return last.inputs[0]


def last_layer(calls: Sequence[Call]) -> Call | None:
    """Finds the layer `head`, or else the last layer with parameters of its own."""
    heads = [call for call in calls if call.name == HEAD] or [
        call for call in calls if call.name and call.has_own_parameters]
    return heads[-1] if heads else None


def parts_in_order(network: nn.Module, image_shape: ImageShape) -> list[str]:
    """Lists the parts that have parameters, in the order in which they run."""
    return list(dict.fromkeys(
        networks.part_of(call.name) for call in trace_shapes(network, None, image_shape)
        if call.name and "/" not in call.name and call.params))


def count_classes(variables: Mapping[str, Any]) -> int | None:
    """Counts the outputs of the head; None where it has no parameters."""
    head = variables["params"].get("head")
    return head["kernel"].shape[-1] if head else None


def perturbed(network: nn.Module, variables: Mapping[str, Any], images: jax.Array,
              name: str, change: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Adds `change` to the output of a layer: (logits, output before the change).

    The gradient of the logits with respect to `change`, at 0, is their gradient with
    respect to the layer's output.
    """
    outputs = []

    def add(call: Call) -> jax.Array:
        if call.name != name:
            return call.output
        outputs.append(call.output)
        return call.output + change.astype(call.output.dtype)

    logits, _ = trace(network, variables, images, add)
    return logits, outputs[-1]
