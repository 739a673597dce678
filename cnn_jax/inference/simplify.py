"""Replaces functions of JAX in a graph by layers, and folds batch norm.

Exported programs and the compiled network begin with this graph.
"""

import dataclasses
from typing import Any

import numpy as np

from cnn_jax.networks.graph import Graph, Node, fold_batch_norm
from cnn_jax.networks.graph.operations import (Activation, Conv, Dense, Elementwise,
                                               GlobalAvgPool, Reduce, Reshape)


def simplify_and_fold(graph: Graph) -> Graph:
    """Replaces functions of JAX by layers, then folds batch norm into the layers.

    The last value equals that of `graph`, up to rounding.
    """
    return fold_batch_norm(simplify(graph))


def simplify(graph: Graph) -> Graph:
    """Replaces functions of JAX by layers.

    max(x, 0) becomes ReLU. A sum over all pixels, divided by their number, becomes
    global average pooling. A constant vector that is added to the output of a layer
    without bias becomes its bias.
    """
    consumers = graph.consumers()
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        before = nodes.get(node.inputs[0]) if node.inputs else None
        if before is not None and len(consumers[before.name]) > 1:
            before = None  # its own value is needed too
        nodes[node.name] = (relu(node) or before and (
            mean(node, before, nodes) or biased(node, before)) or node)
    return Graph(graph.network, needed(nodes, graph.nodes[-1].name))


def needed(nodes: dict[str, Node], output: str) -> tuple[Node, ...]:
    """Lists the nodes that the output depends on, in order."""
    used = {output}
    for name, node in reversed(nodes.items()):
        if name in used:
            used.update(node.inputs)
    return tuple(node for name, node in nodes.items() if name in used)


def constant(node: Node, kind: str) -> Any:
    """Returns the constant c of an elementwise `x kind c`; None for other nodes."""
    is_kind = (isinstance(node.operation, Elementwise) and node.operation.kind == kind
               and len(node.inputs) == 1)
    return node.params.get("1") if is_kind else None


def relu(node: Node) -> Node | None:
    """Returns ReLU for max(x, 0)."""
    bound = constant(node, "max")
    if bound is None or np.ndim(bound) or float(bound) != 0:
        return None
    return dataclasses.replace(node, operation=Activation("relu"), params={})


def mean(node: Node, before: Node, nodes: dict[str, Node]) -> Node | None:
    """Returns global average pooling for a sum over pixels, divided by their number."""
    count = constant(node, "div")
    if count is None or np.ndim(count) or not isinstance(before.operation, Reduce):
        return None
    summed = nodes[before.inputs[0]]
    pixels = summed.shape[:-1]
    axes = tuple(range(1, len(pixels) + 1))
    if before.operation != Reduce("sum", axes) or float(count) != np.prod(pixels):
        return None
    if isinstance(summed.operation, Reshape):  # [H, W, C] -> [H W, C]
        summed = nodes[summed.inputs[0]]
    if len(summed.shape) != 3 or summed.shape[-1:] != before.shape:
        return None
    return dataclasses.replace(node, operation=GlobalAvgPool(), inputs=(summed.name,),
                               params={})


def biased(node: Node, before: Node) -> Node | None:
    """Returns the layer before with the constant of a sum as its bias."""
    shift = constant(node, "add")
    if (shift is None or not isinstance(before.operation, (Conv, Dense))
            or "bias" in before.params or np.size(shift) != node.shape[-1]
            or np.shape(shift)[-1:] != node.shape[-1:] or before.shape != node.shape):
        return None
    return dataclasses.replace(before, name=node.name, params={
        **before.params, "bias": np.reshape(shift, -1)})
