"""Draws a network: a picture (SVG), or text that Mermaid draws.

    blocks, repeats   layer graph -> boxes and frames
    ranks, layout     where they are, and the lines between them
    svg, mermaid      what is written
"""

from cnn_jax.networks.diagram.file import check, drawn, write
from cnn_jax.networks.diagram.mermaid import mermaid

__all__ = ["check", "drawn", "mermaid", "write"]
