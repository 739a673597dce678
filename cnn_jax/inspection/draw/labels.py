"""Images with their labels: masks in the colours of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnn_jax.inspection.draw.drawing import blank, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show(axes: Axes, pixels: np.ndarray, mask: np.ndarray | None = None) -> None:
    """Draws one image, 0..255, with its mask to the right where it has one."""
    image = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    image = np.repeat(image, 3, -1) if image.shape[-1] == 1 else image
    if mask is not None:
        gap = np.full((len(image), 1, 3), 255, np.uint8)
        image = np.concatenate([image, gap, class_colours()[mask]], axis=1)
    axes.imshow(image, interpolation="nearest")
    blank(axes)


def class_colours() -> np.ndarray:
    """Returns uint8 [256, 3]: black for class 0, then matplotlib's ten colours in turn.
    """
    from matplotlib import colormaps
    ten = (255 * np.array(colormaps["tab10"](range(10)))[:, :3]).astype(np.uint8)
    return np.concatenate([np.zeros((1, 3), np.uint8), np.resize(ten, (255, 3))])


def legend(figure: Figure, class_names: Sequence[str]) -> None:
    """Says which colour of a mask is which class."""
    from matplotlib.patches import Patch
    figure.legend(
        handles=[Patch(facecolor=tuple(colour / 255), label=plain(name))
                 for colour, name in zip(class_colours()[1:], class_names[1:])],
        loc="outside lower center", ncols=min(6, len(class_names)), fontsize=8)
