"""Fuses a layer graph: batch norm, sums and activations join the layers before them."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax import lax

from cnn_jax.inference.simplify import needed, simplify_and_fold
from cnn_jax.layers import ACTIVATIONS
from cnn_jax.networks.graph.fold import wide
from cnn_jax.networks.graph.nodes import Graph, Node
from cnn_jax.networks.graph.operations import (Activation, BatchNorm, Concat, Conv,
                                               Dense, Elementwise, Params)


@dataclasses.dataclass(frozen=True)
class Fused:
    """activation(operation(x) + added); the sum only if `adds`."""

    operation: Conv | Dense
    adds: bool = False
    activation: str | None = None

    def __call__(self, params: Params, x: jax.Array, *added: jax.Array) -> jax.Array:
        y = self.operation(params, x)
        return activated(self.activation, y + added[0] if self.adds else y)


@dataclasses.dataclass(frozen=True)
class Sum:
    """activation(a + b) of two arrays of one shape."""

    activation: str | None = None

    def __call__(self, params: Params, a: jax.Array, b: jax.Array) -> jax.Array:
        return activated(self.activation, a + b)


@dataclasses.dataclass(frozen=True)
class Join:
    """activation(`scale` * x + `shift`), x the inputs concatenated along the last axis.

    Without params it is activation(x).
    """

    activation: str | None = None

    def __call__(self, params: Params, *inputs: jax.Array) -> jax.Array:
        x = lax.concatenate(inputs, inputs[0].ndim - 1)
        if params:
            scale, shift = (lax.broadcast_to_rank(params[name], x.ndim)
                            for name in ("scale", "shift"))
            x = x * scale + shift
        return activated(self.activation, x)


def with_operation(node: Node, operation: Any, **fields: Any) -> Node:
    """Returns the node with one of the operations above."""
    return dataclasses.replace(node, operation=operation, **fields)


def activated(kind: str | None, x: jax.Array) -> jax.Array:
    return ACTIVATIONS[kind](x) if kind else x


def fuse(graph: Graph) -> Graph:
    """Folds batch norm and fuses sums, joins and activations into the layers before.

    Every value that the result keeps equals that of `graph`, up to rounding. The
    operations are those of `graph` and `Fused`, `Sum` and `Join`.
    """
    graph = simplify_and_fold(graph)
    fuser = Fuser(graph)
    for node in graph.nodes:
        fuser.add(node)
    return Graph(graph.network, needed(fuser.nodes, graph.nodes[-1].name))


class Fuser:
    """Takes the nodes of a graph in order and fuses each with the nodes before it."""

    def __init__(self, graph: Graph) -> None:
        self.consumers = graph.consumers()
        self.order = {node.name: i for i, node in enumerate(graph.nodes)}
        self.nodes: dict[str, Node] = {}

    def add(self, node: Node) -> None:
        self.nodes[node.name] = (
            self.activation(node) or self.sum(node) or self.join(node)
            or (with_operation(node, Fused(node.operation))
                if isinstance(node.operation, (Conv, Dense)) else node))

    def sole_producer(self, name: str) -> Node | None:
        """Returns the node that computes a value, if only one node reads the value."""
        return self.nodes[name] if len(self.consumers[name]) == 1 else None

    def activation(self, node: Node) -> Node | None:
        """Fuses an activation into the operation before it."""
        if not isinstance(node.operation, Activation):
            return None
        before = self.sole_producer(node.inputs[0])
        operation: Any = before and before.operation
        if (before is None or not isinstance(operation, (Fused, Sum, Join))
                or operation.activation is not None):
            return None
        return with_operation(before, dataclasses.replace(
            operation, activation=node.operation.kind), name=node.name)

    def sum(self, node: Node) -> Node | None:
        """Fuses a sum into the later of its operands, if that is a convolution."""
        if (not isinstance(node.operation, Elementwise) or node.operation.kind != "add"
                or node.params or len(set(node.inputs)) != 2
                or any(self.nodes[name].shape != node.shape for name in node.inputs)):
            return None
        first, last = sorted(node.inputs, key=lambda name: self.order[name])
        before = self.sole_producer(last)
        operation: Any = before and before.operation
        if (before is not None and isinstance(operation, Fused)
                and isinstance(operation.operation, Conv)
                and operation == Fused(operation.operation)):
            return with_operation(before, dataclasses.replace(operation, adds=True),
                                  name=node.name, inputs=(*before.inputs, first))
        return with_operation(node, Sum())

    def join(self, node: Node) -> Node | None:
        """Joins nested concatenations and the batch norm after them in one operation.
        """
        operation = node.operation
        if isinstance(operation, Concat) and operation.axis == len(node.shape):
            return with_operation(node, Join(), inputs=self.joined(node))
        if not isinstance(operation, BatchNorm):
            return None
        mean, var, scale, shift = (wide(node.params[name])
                                   for name in ("mean", "var", "scale", "bias"))
        a = scale / np.sqrt(var + operation.epsilon)
        dtype = node.params["scale"].dtype
        params = {"scale": a.astype(dtype), "shift": (shift - a * mean).astype(dtype)}
        return with_operation(node, Join(), inputs=self.joined(node), params=params)

    def joined(self, node: Node) -> tuple[str, ...]:
        """Lists the inputs of a node, and in place of concatenations their inputs."""
        names: list[str] = []
        for name in node.inputs:
            before = self.nodes[name]
            operation: Any = before.operation
            concatenates = operation == Join() and not before.params
            names += before.inputs if concatenates else [name]
        return tuple(names)
