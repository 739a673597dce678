"""`Graph`: a network in evaluation as a list of operations, and how to run it."""

import collections
import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cnn_jax.networks.graph.operations import Operation, Params, Shape


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One operation of a graph, and the value that it computes.

    name: that of the layer, 'stage1_block2/conv1'. If a layer or block is read as
        several operations, the last of them has its name, and the others add what
        they compute, 'grey/mul_2'.
    inputs: the names of the nodes whose values it takes.
    shape: of its value for one image, without the batch.
    params: the arrays of the operation. They are not copies: layers that share
        parameters share them here.
    """

    name: str
    operation: Operation
    inputs: tuple[str, ...]
    shape: Shape
    params: Params = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """The nodes of a network, each after its inputs.

    The first node is the `Input`, the last is the output: the logits. Every node
    contributes to the output.
    """

    network: str  # the class of the network
    nodes: tuple[Node, ...]

    @property
    def image_shape(self) -> Shape:
        return self.nodes[0].shape

    @property
    def params(self) -> dict[str, Params]:
        """The params of every node by its name."""
        return {node.name: node.params for node in self.nodes}

    def consumers(self) -> dict[str, list[Node]]:
        """Lists the nodes that take the value of each node."""
        consumers: dict[str, list[Node]] = collections.defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                consumers[name].append(node)
        return consumers


def run(graph: Graph, images: jax.Array,
        params: Mapping[str, Params] | None = None) -> jax.Array:
    """Computes the output of a graph for images [N, H, W, C].

    The images are scaled as in training. The result equals
    `network.apply(variables, images, train=False)`.
    params: replaces `graph.params`; under `jit`, pass them as an argument, or they
        become constants of the program.
    """
    params = jax.tree.map(jnp.asarray, graph.params if params is None else params)
    values: dict[str, jax.Array] = {}
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs] or [images]
        values[node.name] = node.operation(params[node.name], *inputs)
    return values[graph.nodes[-1].name]
