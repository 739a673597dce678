"""Draws a network into a file: a picture (SVG), or text that Mermaid draws."""

from pathlib import Path

import flax.linen as nn
import jax

from cnn_jax.errors import InputError
from cnn_jax.networks.diagram.mermaid import box_of_nodes, mermaid
from cnn_jax.networks.diagram.svg import svg
from cnn_jax.networks.graph import layer_graph
from cnn_jax.networks.trace import ImageShape, trace_shapes

SUFFIXES = (".svg", ".mmd", ".md")
MOST_BOXES = 60  # in Mermaid's text; a larger network gets one box for each block


def check(path: Path) -> None:
    """Raises InputError for a file that is none of `SUFFIXES`."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"--diagram={path} must end in .svg for a picture, or in .mmd "
                         "or .md for Mermaid's text")


def write(path: Path, network: nn.Module, name: str, image_shape: ImageShape) -> None:
    """Draws a network for images of (H, W, C), in the format of the suffix.

    name: the title. Raises InputError for a network whose layer graph cannot be read,
    and for a file that cannot be written.
    """
    text = drawn(network, name, image_shape, path.suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}): name "
                         "another file with --diagram") from error


def drawn(network: nn.Module, name: str, image_shape: ImageShape, suffix: str) -> str:
    """Returns the text of the file."""
    calls = trace_shapes(network, None, image_shape)
    variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
                             dict(calls[-1].variables))
    graph = layer_graph(network, variables, image_shape)
    if suffix == ".svg":
        return svg(graph, calls, name)
    inside = len(set(box_of_nodes(graph, inside=True).values())) <= MOST_BOXES
    text = mermaid(graph, inside)
    return text if suffix == ".mmd" else f"# {name}\n\n```mermaid\n{text}```\n"
