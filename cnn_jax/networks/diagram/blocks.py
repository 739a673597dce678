"""A layer graph as nested boxes: a block is a frame, and equal blocks share one.

The items of a `Level` are boxes of layers and frames of blocks; a frame has a level
inside. Consecutive blocks of equal structure and shapes become one frame with a count,
and so do the layers of a dense block, which differ in their number of channels.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cnn_jax.networks.diagram.items import (INPUT, OUTPUT, Box, Edge, Frame, Item,
                                            Level)
from cnn_jax.networks.diagram.mermaid import FOLLOWERS, box_of_nodes, text_of
from cnn_jax.networks.diagram.repeats import collapse
from cnn_jax.networks.graph import Graph, Node
from cnn_jax.networks.graph import operations as kinds
from cnn_jax.networks.summary import is_one_row, size_of
from cnn_jax.networks.trace import Call

# The colour of a box, by its first operation of one of these types.
COLOURS: dict[str, tuple[type, ...]] = {
    "input": (kinds.Input,), "conv": (kinds.Conv, kinds.ConvTranspose),
    "dense": (kinds.Dense,), "join": (kinds.Concat,),
    "pool": (kinds.MaxPool, kinds.AvgPool, kinds.GlobalAvgPool, kinds.Reduce)}
LONGEST_PERIOD = 3  # most items that repeat together, such as depthwise and pointwise


@dataclasses.dataclass(eq=False)
class Blocks:
    """The whole network."""

    level: Level
    params: int            # number of all parameters
    unused: dict[str, int]  # parameters of modules that have no box: auxiliary heads


def blocks_of(graph: Graph, calls: Sequence[Call]) -> Blocks:
    """Groups the nodes of a graph.

    calls: of the network as it is initialized, see `trace_shapes`; they have the
        classes of the modules and all parameters, those of auxiliary heads too.
    """
    sizes = sizes_by_module(calls[-1].variables.get("params", {}))
    counts, unused = params_of_nodes(graph, sizes)
    classes = {call.name: type(call.module).__name__ for call in calls}
    leaves = {call.name for call in calls if not call.inside or is_one_row(call)}
    builder = Builder(graph, classes, leaves, counts)
    level = builder.level(graph.nodes, "")
    level.edges = [edge for edge in level.edges if edge.target != OUTPUT]
    return Blocks(level, sum(sizes.values()), unused)


def sizes_by_module(params: Mapping[str, Any], path: str = "") -> dict[str, int]:
    """Counts the parameters that each module has of its own."""
    size = size_of([value for value in params.values()
                    if not isinstance(value, Mapping)])
    sizes = {path: size} if size else {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            sizes |= sizes_by_module(value, f"{path}/{name}" if path else name)
    return sizes


def params_of_nodes(graph: Graph, sizes: Mapping[str, int]
                    ) -> tuple[dict[str, int], dict[str, int]]:
    """Assigns the parameters of each module to one node: (by node, without a node)."""
    names = [node.name for node in graph.nodes]
    counts: dict[str, int] = collections.Counter()
    unused: dict[str, int] = collections.Counter()
    for path, size in sizes.items():
        inside = [name for name in names if path and name.startswith(path + "/")]
        if path in names or inside:
            counts[path if path in names else inside[-1]] += size
        else:
            unused[path.partition("/")[0]] += size
    return counts, unused


class Builder:
    """Makes levels of the nodes of one graph."""

    def __init__(self, graph: Graph, classes: Mapping[str, str], leaves: set[str],
                 counts: Mapping[str, int]) -> None:
        self.classes, self.leaves, self.counts = classes, leaves, counts
        self.consumers = graph.consumers()
        self.boxes = boxes = box_of_nodes(graph, True, (*FOLLOWERS, kinds.Elementwise))
        for node in graph.nodes:  # the last operation of a block has its name
            before = "".join(node.inputs[:1])
            if (isinstance(node.operation, (*FOLLOWERS, kinds.Elementwise))
                    and len(node.inputs) == 1 and len(self.consumers[before]) == 1
                    and before.rpartition("/")[0] == node.name):
                boxes[node.name] = boxes[before]
        self.output = graph.nodes[-1].name

    def level(self, nodes: Sequence[Node], prefix: str) -> Level:
        """Makes the level of the nodes inside a module; '' is the network."""
        def key(node: Node) -> str:
            box = self.boxes[node.name]  # '' for an operation of the module itself
            return (box + "/").removeprefix(prefix).split("/")[0]

        item_of = {node.name: key(node) for node in nodes}
        for name in cyclic(nodes, item_of):  # a module that is called twice
            item_of[name] = self.boxes[name]
        groups: dict[str, list[Node]] = {}
        for node in nodes:
            groups.setdefault(item_of[node.name], []).append(node)
        names = in_order(groups, item_of)
        index = {name: i for i, name in enumerate(names)}
        edges = []
        for node in nodes:
            for value in node.inputs:
                source = index[item_of[value]] if value in item_of else INPUT
                edges.append(Edge(source, index[item_of[node.name]], value))
            if node.name == self.output or any(
                    taker.name not in item_of for taker in self.consumers[node.name]):
                edges.append(Edge(index[item_of[node.name]], OUTPUT, node.name))
        items = [self.item(groups[name], prefix + name, name) for name in names]
        return collapse(with_ports(Level(items, [
            edge for edge in dict.fromkeys(edges) if edge.source != edge.target])),
            LONGEST_PERIOD if not prefix else 1)

    def item(self, nodes: list[Node], path: str, name: str) -> Item:
        """Makes a box of a layer, or a frame of a block of several boxes."""
        shape = nodes[-1].shape
        params = sum(self.counts.get(node.name, 0) for node in nodes)
        is_leaf = path in self.leaves and nodes[-1].name.startswith(path)
        if len({self.boxes[node.name] for node in nodes}) == 1 or is_leaf:
            has_parts = is_leaf and len(nodes) > 1 and nodes[0].name != path
            text = (self.classes[path] if has_parts
                    else ", ".join(map(describe, nodes)))
            return Box(name, [node.name for node in nodes], text, colour(nodes),
                       [shape], [params])
        inner = self.level(nodes, path + "/")
        if len(inner.items) == 1:
            item = inner.items[0]
            item.name = name if isinstance(item, Box) else f"{name}/{item.name}"
            return item
        return Frame(name, self.classes.get(path, ""), inner, [shape], [params])


def describe(node: Node) -> str:
    """Says what a node computes; max(x, 0) is a ReLU."""
    rectifies = (node.operation == kinds.Elementwise("max") and len(node.inputs) == 1
                 and not any(isinstance(value, jax.ShapeDtypeStruct) or np.any(value)
                             for value in node.params.values()))
    return "relu" if rectifies else text_of(node)


def colour(nodes: Iterable[Node]) -> str:
    for node in nodes:
        for name, classes in COLOURS.items():
            if isinstance(node.operation, classes):
                return name
        if len(set(node.inputs)) > 1:
            return "join"
    return "other"


def successors(nodes: Sequence[Node], item_of: Mapping[str, str]
               ) -> dict[str, set[str]]:
    """Maps each item to those that take its values."""
    after: dict[str, set[str]] = {name: set() for name in item_of.values()}
    for node in nodes:
        for value in node.inputs:
            if value in item_of and item_of[value] != item_of[node.name]:
                after[item_of[value]].add(item_of[node.name])
    return after


def cyclic(nodes: Sequence[Node], item_of: Mapping[str, str]) -> list[str]:
    """Lists the nodes of items that come both before and after another item."""
    after = successors(nodes, item_of)
    while True:  # removes the items that are before or after all others
        ends = {name for name, others in after.items()
                if not others or not any(name in other for other in after.values())}
        if not ends:
            return [node.name for node in nodes if item_of[node.name] in after]
        after = {name: others - ends for name, others in after.items()
                 if name not in ends}
        if not after:
            return []


def in_order(groups: Mapping[str, list[Node]], item_of: Mapping[str, str]) -> list[str]:
    """Sorts items so that each comes after its inputs, else in the network's order."""
    before = {name: {item_of[value] for node in nodes for value in node.inputs
                     if value in item_of} - {name} for name, nodes in groups.items()}
    ordered: list[str] = []
    while before:
        name = next(name for name, needed in before.items()
                    if not needed & before.keys())
        ordered.append(name)
        del before[name]
    return ordered


def with_ports(level: Level) -> Level:
    """Adds a small box for each value from outside, if there are several."""
    values = list(dict.fromkeys(edge.value for edge in level.edges
                                if edge.source == INPUT))
    if len(values) < 2:
        return level
    port_of = {value: len(level.items) + i for i, value in enumerate(values)}
    ports = [Box(value, [], "", "port", [], []) for value in values]
    inner = [edge if edge.source != INPUT else dataclasses.replace(
        edge, source=port_of[edge.value]) for edge in level.edges]
    return Level([*level.items, *ports],
                 [*(Edge(INPUT, port_of[value], value) for value in values), *inner])
