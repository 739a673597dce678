"""`Compiled`: the evaluation of a network, with the `apply` of a network."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from cnn_jax.errors import InputError
from cnn_jax.inference.fuse import fuse
from cnn_jax.inference.program import NativeSubgraph, partition
from cnn_jax.layers import Layers
from cnn_jax.native import library
from cnn_jax.networks.graph import Graph, layer_graph
from cnn_jax.networks.trace import ImageShape

Variables = Mapping[str, Any]


class Compiled:
    """The evaluation of a network: a function of images, scaled as in training.

    subgraphs: programs of native/network.cc, and nodes that XLA computes.
    variables: {"params": the network's folded arrays, in a list with one entry for each
        subgraph}. As with a network, `apply(variables, images, train=False)` may be
        called inside `jit`.
    """

    def __init__(self, graph: Graph) -> None:
        self.input, self.output = graph.nodes[0].name, graph.nodes[-1].name
        self.subgraphs = [*partition(graph)] if runs_natively() else [*graph.nodes[1:]]
        self.variables: Variables = {"params": [
            subgraph.weights() if isinstance(subgraph, NativeSubgraph)
            else subgraph.params
            for subgraph in self.subgraphs]}
        self._run = jax.jit(self.apply)

    def apply(self, variables: Variables, images: jax.Array,
              train: bool = False) -> jax.Array:
        """Computes what the network's `apply` returns in evaluation, up to rounding."""
        if train:
            raise ValueError("a compiled network evaluates only, received train=True: "
                             "train the network that it was compiled from")
        values = {self.input: images}
        for subgraph, params in zip(self.subgraphs, variables["params"]):
            inputs = [values[name] for name in subgraph.inputs]
            if isinstance(subgraph, NativeSubgraph):
                values.update(subgraph.run(params, *inputs))
            else:
                values[subgraph.name] = subgraph.operation(params, *inputs)
        return values[self.output]

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the output for images [N, H, W, C]."""
        return self._run(self.variables, images)


def compile(network: nn.Module, variables: Variables,
            image_shape: ImageShape) -> Compiled:
    """Compiles the evaluation of a network with these variables, in float32.

    variables: {"params": ..., "batch_stats": ...}. They are copied: later changes to
        them have no effect.
    Raises InputError for a network that has no layer graph (`graph.layer_graph`).
    """
    return Compiled(fuse(layer_graph(
        network, jax.tree.map(np.asarray, variables), image_shape)))


def fastest(network: nn.Module, variables: Variables, image_shape: ImageShape,
            devices: int = 1) -> tuple[Any, Variables]:
    """Returns (network, variables) whose `apply` is the fastest in evaluation.

    On one CPU device with the extra `onednn` they are those of `compile`. They are the
    given ones elsewhere, and if the network asks for another dtype or implementation or
    has no layer graph.
    """
    layers = getattr(network, "layers", Layers())
    by_default = (layers.conv, layers.pool, layers.dtype) == ("auto", "auto", "float32")
    if not by_default or devices > 1 or not runs_natively():
        return network, variables
    try:
        compiled = compile(network, variables, image_shape)
    except InputError:  # the user's own network has an unknown operation
        return network, variables
    return compiled, compiled.variables


def runs_natively() -> bool:
    return jax.default_backend() == "cpu" and library.load_onednn() is not None
