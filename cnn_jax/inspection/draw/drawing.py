"""Grids of images and maps: what most pictures of a network are made of."""

import textwrap
from typing import NamedTuple

import numpy as np

from cnn_jax.errors import one_line

SIGNED, HEAT = "RdBu_r", "inferno"  # red above and blue below 0; dark to bright
HEAT_SHARE = 0.55  # of the colours of a map over the grey image


class Grid(NamedTuple):
    """A figure with axes [rows, columns] that have no ticks."""

    figure: object
    axes: np.ndarray


def grid(rows: int, columns: int, cell: float = 1.1, aspect: float = 1.0,
         left: float = 0.0, top: float = 0.0) -> Grid:
    """Axes for images of width / height = `aspect`; `cell`, `left`, `top` in inches."""
    # Imported here: matplotlib takes a second, and not every command draws.
    from matplotlib.figure import Figure

    width = cell * min(2.0, max(0.5, aspect))
    figure = Figure(figsize=(max(3.2, width * columns + left + 0.2),
                             cell * rows + top + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        blank(one)
    return Grid(figure, axes)


def blank(axes) -> None:
    """No ticks and no frame; titles and labels stay."""
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)


def image(axes, pixels: np.ndarray) -> None:
    """Pixels 0..255 [H, W, C]; of a number of channels that is not 1 or 3, the mean."""
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    axes.imshow(displayed(pixels), cmap="gray", vmin=0, vmax=255,
                interpolation="nearest")


def displayed(pixels: np.ndarray) -> np.ndarray:
    """[H, W, C] -> [H, W] or [H, W, 3], as imshow takes it."""
    return pixels if pixels.shape[-1] == 3 else pixels.mean(-1)


def signed(axes, values: np.ndarray, limit: float | None = None):
    """[H, W] around 0: white; `limit` is the darkest, by default the largest |value|.
    """
    limit = limit or float(np.abs(values).max()) or 1.0
    return axes.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit,
                       interpolation="nearest")


def outliers_cut(values: np.ndarray, percent: float = 99.0) -> float:
    """A limit that single pixels do not decide; 0 only where all values are 0."""
    found = np.percentile(np.abs(values), percent)
    return float(found or np.abs(values).max())


def heat(axes, values: np.ndarray, low: float = 0.0, high: float | None = None):
    """[H, W] from `low` upwards, dark to bright."""
    high = float(values.max()) if high is None else high
    high = high if high > low else low + 1
    return axes.imshow(values, cmap=HEAT, vmin=low, vmax=high, interpolation="nearest")


def heat_over(axes, pixels: np.ndarray, values: np.ndarray):
    """A map >= 0 over the image in grey."""
    grey = pixels.astype(np.float64).mean(-1)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    high = float(values.max()) or 1.0
    return axes.imshow(values, cmap=HEAT, vmin=0, vmax=high, alpha=HEAT_SHARE,
                       interpolation="nearest")


def plain(text: str) -> str:
    """Lines with names of somebody's, safe: matplotlib reads $...$ as mathematics."""
    return "\n".join(map(one_line, text.split("\n"))).replace("$", r"\$")


def fit(name: str, width: int = 16) -> str:
    """A name of somebody's cut to a width, and safe."""
    return plain(name if len(name) <= width else name[:width - 1] + "…")


def above(figure, text: str) -> None:
    """A title over the whole figure, on as many lines as it takes."""
    width = int(14 * figure.get_figwidth())
    figure.suptitle(plain(textwrap.fill(text, width)), fontsize=8)


def beside(axes, text: str, width: int = 14, size: int = 8) -> None:
    """A label to the left of a row."""
    lines = [textwrap.fill(line, width) for line in text.split("\n")]
    axes.set_ylabel(plain("\n".join(lines)), rotation=0, ha="right", va="center",
                    fontsize=size)


def number(value: float) -> str:
    """Three digits: 0.0123, 1.23, 123, 1.2e+04"""
    return f"{value:.3g}"
