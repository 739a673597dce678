"""Draws a network: a picture (SVG), or text that Mermaid draws.

    blocks, items, repeats           layer graph -> boxes and frames
    slots, columns, across, layout   their positions, and the lines between them
    svg, mermaid, file               the text that is written
"""

from cnn_jax.networks.diagram.file import check, drawn, write
from cnn_jax.networks.diagram.mermaid import mermaid

__all__ = ["check", "drawn", "mermaid", "write"]
