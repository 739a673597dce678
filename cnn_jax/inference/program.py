"""Writes a fused graph as programs of native/network.cc."""

import dataclasses
import itertools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.inference.fuse import Fused, Join, Sum
from cnn_jax.native import cost, library
from cnn_jax.networks.graph import Graph, Node
from cnn_jax.networks.graph import operations as kinds
from cnn_jax.ops.conv.spec import conv_spec
from cnn_jax.ops.geometry import Pairs

# The kinds of steps and the activations of network.cc, in its order.
(INPUT, CONVOLUTION, DENSE, MAX_POOL, AVG_POOL, GLOBAL_AVG_POOL, JOIN, ACTIVATION, ADD,
 COPY, RESHAPE, LOCAL_RESPONSE_NORM) = range(12)
FUNCTIONS = {None: 0, "relu": 1, "relu6": 2, "selu": 3, "sigmoid": 4, "tanh": 5,
             "lecun_tanh": 6}
NUMBERS = itertools.count(1)  # one for each set of weights in this process
IN_LOOPS = (None, "relu", "relu6")  # activations of sums and joins


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of network.cc; pass.h lists the numbers and params of each kind."""

    kind: int
    numbers: Sequence[int] = ()
    params: Sequence[np.ndarray] = ()


def step_of(node: Node, shape: Sequence[int]) -> Step | None:
    """Writes the step of a node whose input has `shape`; None if there is none."""
    operation, params = node.operation, node.params
    activation = getattr(operation, "activation", None)
    if isinstance(operation, Fused):
        kernel = params["kernel"]
        bias = params.get("bias", np.zeros(node.shape[-1], kernel.dtype))
        if isinstance(operation.operation, kinds.Dense):
            return Step(DENSE, [FUNCTIONS[activation]], [kernel, bias])
        conv = operation.operation
        return window_step(CONVOLUTION, kernel.shape[:2], conv,
                           [conv.groups, FUNCTIONS[activation],
                            *tiles(conv, shape, kernel)],
                           [kernel, bias])
    if isinstance(operation, kinds.MaxPool):
        return window_step(MAX_POOL, operation.window, operation, [0])
    if isinstance(operation, kinds.AvgPool):
        counts = operation.counted == operation.padding
        if counts or not any(map(any, operation.counted)):
            return window_step(AVG_POOL, operation.window, operation, [int(counts)])
    elif isinstance(operation, kinds.GlobalAvgPool):
        return Step(GLOBAL_AVG_POOL)
    elif isinstance(operation, (Join, Sum)) and activation in IN_LOOPS:
        return Step(JOIN if isinstance(operation, Join) else ADD,
                    [FUNCTIONS[activation]], [*params.values()])
    elif isinstance(operation, kinds.Activation) and operation.kind in FUNCTIONS:
        return Step(ACTIVATION, [FUNCTIONS[operation.kind]])
    elif isinstance(operation, kinds.Reshape):
        return Step(RESHAPE)
    elif isinstance(operation, kinds.LocalResponseNorm) and operation.size % 2:
        return Step(LOCAL_RESPONSE_NORM, [operation.size], [np.array(
            [operation.k, operation.alpha * operation.size, operation.beta])])
    elif isinstance(operation, kinds.Slice) and len(shape) == 3:
        return Step(COPY, [*itertools.chain(*zip(
            operation.starts, operation.steps, node.shape, (0, 0, 0)))])
    elif (isinstance(operation, kinds.Pad) and len(shape) == 3
          and operation.value == 0 and not_negative(operation.padding)):
        return Step(COPY, [*itertools.chain(*zip(
            (0, 0, 0), (1, 1, 1), shape, (low for low, _ in operation.padding)))])
    return None


def window_step(kind: int, window: Sequence[int], operation: Any, more: Sequence[int],
                params: Sequence[np.ndarray] = ()) -> Step | None:
    """Writes the step of a convolution or a pooling."""
    low, high = zip(*operation.padding)
    if len(window) != 2 or not not_negative(operation.padding):
        return None
    return Step(kind, [*window, *operation.strides, *low, *high, *operation.dilation,
                       *more], params)


def tiles(conv: kinds.Conv, shape: Sequence[int], kernel: np.ndarray) -> list[int]:
    """Chooses m of Winograd's F(m x m, 3 x 3), or 0, for 1, 2, 4, ... 64 images."""
    return [cost.tile_of(conv_spec(
        (images, *shape), kernel.shape, conv.strides, conv.padding, None, conv.dilation,
        conv.groups), jnp.float32, packed=True) for images in (1, 2, 4, 8, 16, 32, 64)]


def not_negative(padding: Pairs) -> bool:
    return min(map(min, padding)) >= 0


def partition(graph: Graph) -> Iterator["NativeSubgraph | Node"]:
    """Groups the nodes that network.cc computes into programs; yields others as is."""
    shapes = {node.name: node.shape for node in graph.nodes}
    readers = graph.consumers()
    group: list[tuple[Node, Step]] = []

    def finish_group() -> NativeSubgraph:
        names = {node.name for node, _ in group}
        results = [node.name for node, _ in group if node is graph.nodes[-1] or any(
            reader.name not in names for reader in readers[node.name])]
        program = NativeSubgraph([*group], results, shapes)
        group.clear()
        return program

    for node in graph.nodes[1:]:
        step = step_of(node, shapes[node.inputs[0]])
        if step is None:
            if group:
                yield finish_group()
            yield node
        else:
            group.append((node, step))
    if group:
        yield finish_group()


class NativeSubgraph:
    """Some nodes of a graph, computed by one call of network.cc."""

    def __init__(self, group: list[tuple[Node, Step]], results: list[str],
                 shapes: Mapping[str, Sequence[int]]) -> None:
        names = {node.name for node, _ in group}
        self.inputs = tuple(dict.fromkeys(
            name for node, _ in group for name in node.inputs if name not in names))
        self.results = {name: shapes[name] for name in results}
        index = {name: i for i, name in enumerate(
            [*self.inputs, *(node.name for node, _ in group)])}
        self.params = [np.ascontiguousarray(array, np.float32)
                       for _, step in group for array in step.params]
        code: list[int] = [len(index)]
        for name in index:
            code += listed(shapes[name])
        code.append(len(index))
        for i, name in enumerate(self.inputs):
            code += [INPUT, index[name], 0, 1, i, 0]
        numbers = itertools.count()
        for node, step in group:
            code += [step.kind, index[node.name],
                     *listed([index[name] for name in node.inputs]),
                     *listed(step.numbers),
                     *listed([next(numbers) for _ in step.params])]
        code += listed([index[name] for name in results])
        self.code = np.array(code)

    def weights(self) -> list[jax.Array]:
        """Returns a new number, followed by the arrays.

        network.cc keeps packed kernels under the number until the array that holds it
        is deleted.
        """
        value = next(NUMBERS)
        number = jnp.asarray(value, jnp.int32)
        weakref.finalize(number, library.drop_weights, value)
        return [number, *map(jnp.asarray, self.params)]

    def run(self, weights: Sequence[jax.Array],
            *inputs: jax.Array) -> dict[str, jax.Array]:
        """Computes the results by name."""
        number, *params = weights
        shapes = [jax.ShapeDtypeStruct((len(inputs[0]), *shape), jnp.float32)
                  for shape in self.results.values()]
        results = jax.ffi.ffi_call(library.NETWORK, shapes)(
            number, *(x.astype(jnp.float32) for x in inputs), *params, code=self.code)
        return dict(zip(self.results, results))


def listed(numbers: Sequence[int]) -> list[int]:
    """Writes a list as network.cc reads it."""
    return [len(numbers), *map(int, numbers)]
