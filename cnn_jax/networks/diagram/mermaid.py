"""A layer graph as a diagram: text for Mermaid, which GitHub and Sphinx draw."""

import math
import re

from cnn_jax.errors import one_line
from cnn_jax.networks.graph import Graph, Node
from cnn_jax.networks.graph import operations as kinds

# The operations that join the box of the layer before them.
FOLLOWERS = (kinds.BatchNorm, kinds.Activation)


def mermaid(graph: Graph, inside: bool = True) -> str:
    """Writes a graph as a Mermaid flowchart, from the image down to the logits.

    A box has the name of a layer, what it computes, and its output shape for one image.
    Batch norm and activation share the box of the layer that they follow. The layers of
    a block share a frame.
    inside: False draws each block as one box, for large networks.
    """
    boxes = box_of_nodes(graph, inside)
    contents: dict[str, list[Node]] = {}
    for node in graph.nodes:
        contents.setdefault(boxes[node.name], []).append(node)
    ids = {box: f"n{i}" for i, box in enumerate(contents)}
    frames: dict[str, dict[str, list[Node]]] = {}
    for box, nodes in contents.items():
        frames.setdefault(box.partition("/")[0], {})[box] = nodes
    lines = ["flowchart TD"]
    for frame, members in frames.items():
        framed = len(members) > 1
        if framed:
            identifier = re.sub(r"\W", "_", frame)
            lines.append(f'  subgraph {identifier}_frame["{escaped(frame)}"]')
        for box, nodes in members.items():
            name = box.partition("/")[2] or box if framed else box
            lines.append(f'  {"  " * framed}{ids[box]}["{label(box, name, nodes)}"]')
        if framed:
            lines.append("  end")
    edges = dict.fromkeys((ids[boxes[name]], ids[boxes[node.name]])
                          for node in graph.nodes for name in node.inputs)
    lines += [f"  {start} --> {end}" for start, end in edges if start != end]
    return "\n".join(lines) + "\n"


def box_of_nodes(graph: Graph, inside: bool,
                 followers: tuple[type, ...] = FOLLOWERS) -> dict[str, str]:
    """Maps the name of each node to the name of its box.

    followers: operations that join the box of the node before them, if they have one
        input.
    """
    consumers = graph.consumers()
    boxes: dict[str, str] = {}
    for node in graph.nodes:
        block, before = node.name.rpartition("/")[0], "".join(node.inputs[:1])
        if block and not inside:
            boxes[node.name] = block.partition("/")[0]
        elif (isinstance(node.operation, followers) and len(node.inputs) == 1
                and len(consumers[before]) == 1
                and before.rpartition("/")[0] == block):
            boxes[node.name] = boxes[before]
        else:
            boxes[node.name] = node.name
    return boxes


def label(box: str, name: str, nodes: list[Node]) -> str:
    """Writes the text of a box: name, what it computes, shape of its output."""
    is_block = nodes[0].name != box
    content = (f"{len(nodes)} operations" if is_block
               else ", ".join(map(text_of, nodes)))
    shape = " × ".join(map(str, nodes[-1].shape)) or "1"
    return f"<b>{escaped(name)}</b><br/>{content}<br/>{shape}"


def escaped(name: str) -> str:
    """Escapes the characters that end a text in Mermaid or start HTML in it."""
    return re.sub(r'["<>&#]', lambda match: f"#{ord(match[0])};", one_line(name))


def text_of(node: Node) -> str:
    operation = node.operation
    if isinstance(operation, kinds.Input):
        return "images"
    if isinstance(operation, (kinds.Conv, kinds.ConvTranspose)):
        groups = f" in {operation.groups} groups" if operation.groups > 1 else ""
        return (f"{type(operation).__name__} "
                f"{window(node.params['kernel'].shape, operation.strides)}{groups}")
    if isinstance(operation, (kinds.MaxPool, kinds.AvgPool)):
        return (f"{type(operation).__name__} "
                f"{window(operation.window, operation.strides)}")
    if isinstance(operation, (kinds.Activation, kinds.Elementwise)):
        return operation.kind
    if isinstance(operation, kinds.Reduce):
        return f"{operation.kind} over axes {', '.join(map(str, operation.axes))}"
    return type(operation).__name__


def window(kernel: tuple[int, ...], strides: tuple[int, ...]) -> str:
    """Writes a window and its stride: '3x3/2'."""
    stride = "x".join(map(str, dict.fromkeys(strides)))
    return f"{kernel[0]}x{kernel[1]}" + (f"/{stride}" if math.prod(strides) > 1 else "")
