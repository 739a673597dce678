"""Draws a network: a picture (SVG), or text that Mermaid draws.

    blocks, items, repeats           layer graph -> boxes and frames
    slots, columns, across, layout   where they are, and the lines between them
    svg, mermaid, file               what is written
"""

from cnn_jax.networks.diagram.file import check, drawn, write
from cnn_jax.networks.diagram.mermaid import mermaid

__all__ = ["check", "drawn", "mermaid", "write"]
