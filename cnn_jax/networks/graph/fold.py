"""Folds batch norm into the layer before it."""

import dataclasses
from typing import Any

import numpy as np

from cnn_jax.networks.graph.nodes import Graph, Node
from cnn_jax.networks.graph.operations import (BatchNorm, Conv, ConvTranspose, Dense,
                                               Params)

WEIGHTED = (Conv, ConvTranspose, Dense)


def fold_batch_norm(graph: Graph) -> Graph:
    """Folds every batch norm that follows a layer with a kernel into that layer.

    With a = scale / sqrt(var + epsilon), which has an entry for each output channel,

        a (x * w + b - mean) + bias  =  x * (a w) + (a (b - mean) + bias).

    A batch norm remains if other nodes also read the layer before it, or if no layer
    with a kernel precedes it (pre-activated blocks, DenseNet).
    """
    consumers = graph.consumers()
    nodes: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        inputs = tuple(renamed.get(name, name) for name in node.inputs)
        before = nodes.get(inputs[0]) if inputs else None
        if (isinstance(node.operation, BatchNorm) and before is not None
                and isinstance(before.operation, WEIGHTED)
                and len(consumers[node.inputs[0]]) == 1):
            nodes[before.name] = dataclasses.replace(
                before, params=folded(before, node.operation.epsilon, node.params))
            renamed[node.name] = before.name
        else:
            nodes[node.name] = dataclasses.replace(node, inputs=inputs)
    return Graph(graph.network, tuple(nodes.values()))


def folded(node: Node, epsilon: float, norm: Params) -> dict[str, np.ndarray]:
    """Computes kernel and bias of a layer with batch norm, in float64."""
    mean, var, scale, shift = (wide(norm[name])
                               for name in ("mean", "var", "scale", "bias"))
    a = scale / np.sqrt(var + epsilon)
    kernel, bias = node.params["kernel"], wide(node.params.get("bias", 0.0))
    factor = a
    if isinstance(node.operation, ConvTranspose):  # [h, w, O / groups, C]
        groups, channels = node.operation.groups, kernel.shape[-1]
        factor = np.repeat(a.reshape(groups, -1).T, channels // groups, axis=1)
    return {"kernel": np.asarray(wide(kernel) * factor, kernel.dtype),
            "bias": np.asarray(a * (bias - mean) + shift, kernel.dtype)}


def wide(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)
