"""Grids of images and maps: what most pictures of a network are made of."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnn_jax.errors import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

SIGNED, HEAT = "RdBu_r", "inferno"  # red above and blue below 0; dark to bright
HEAT_SHARE = 0.55  # of the colours of a map over the grey image


class Grid(NamedTuple):
    """A figure with axes [rows, columns] that have no ticks."""

    figure: Figure
    axes: np.ndarray


def grid(rows: int, columns: int, cell: float = 1.1, aspect: float = 1.0,
         left: float = 0.0, top: float = 0.0) -> Grid:
    """Makes axes for images of width / height = `aspect`; lengths are in inches."""
    # Imported here: matplotlib takes a second, and not every command draws.
    from matplotlib.figure import Figure

    width = cell * min(2.0, max(0.5, aspect))
    figure = Figure(figsize=(max(3.2, width * columns + left + 0.2),
                             cell * rows + top + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        blank(axis)
    return Grid(figure, axes)


def blank(axes: Axes) -> None:
    """Hides ticks and frame; titles and labels stay."""
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)


def image(axes: Axes, pixels: np.ndarray) -> None:
    """Draws pixels 0..255 [H, W, C]; other channels than 1 or 3 are averaged."""
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    axes.imshow(displayed(pixels), cmap="gray", vmin=0, vmax=255,
                interpolation="nearest")


def displayed(pixels: np.ndarray) -> np.ndarray:
    """Returns [H, W, C] as imshow takes it: [H, W] or [H, W, 3]."""
    return pixels if pixels.shape[-1] == 3 else pixels.mean(-1)


def signed(axes: Axes, values: np.ndarray, limit: float | None = None) -> AxesImage:
    """Draws [H, W] around 0, which is white; `limit`, by default the largest |value|,
    is darkest."""
    limit = limit or float(np.abs(values).max()) or 1.0
    return axes.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit,
                       interpolation="nearest")


def outliers_cut(values: np.ndarray, percent: float = 99.0) -> float:
    """Returns a limit that single pixels do not decide; 0 only if all values are 0."""
    limit = np.percentile(np.abs(values), percent)
    return float(limit or np.abs(values).max())


def heat(axes: Axes, values: np.ndarray, low: float = 0.0,
         high: float | None = None) -> AxesImage:
    """Draws [H, W] from `low` upwards, dark to bright."""
    high = float(values.max()) if high is None else high
    high = high if high > low else low + 1
    return axes.imshow(values, cmap=HEAT, vmin=low, vmax=high, interpolation="nearest")


def heat_over(axes: Axes, pixels: np.ndarray, values: np.ndarray) -> AxesImage:
    """Draws a map >= 0 over the image in grey."""
    grey = pixels.astype(np.float64).mean(-1)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    high = float(values.max()) or 1.0
    return axes.imshow(values, cmap=HEAT, vmin=0, vmax=high, alpha=HEAT_SHARE,
                       interpolation="nearest")


def plain(text: str) -> str:
    """Escapes what matplotlib would read as mathematics, $...$, and control characters.
    """
    return "\n".join(map(one_line, text.split("\n"))).replace("$", r"\$")


def fit(name: str, width: int = 16) -> str:
    """Cuts a name of the user's to a width in characters, and escapes it."""
    return plain(name if len(name) <= width else name[:width - 1] + "…")


def fold(text: str, inches: float, size: float, lines: int = 2) -> str:
    """Breaks a text of the user's into lines that are at most so many inches wide.

    It breaks after spaces and underscores, cuts what is still too wide, and escapes the
    text. size: of the font, points.
    """
    rows = [""]
    for word in re.findall(r"[^\s_]*[\s_]*", text):
        if rows[-1] and text_width(rows[-1] + word, size) > inches:
            rows.append("")
        rows[-1] += word
    rows = [*rows[:lines - 1], "".join(rows[lines - 1:])]
    return plain("\n".join(cut(row.rstrip(), inches, size) for row in rows if row))


def cut(text: str, inches: float, size: float) -> str:
    """Cuts a line to a width in inches."""
    end = len(text)
    while end and text_width(text[:end] + "…" * (end < len(text)), size) > inches:
        end -= 1
    return text[:end] + "…" * (end < len(text))


def text_width(text: str, size: float) -> float:
    """Measures a line of text in matplotlib's default font, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(
        one_line(text.rstrip()), font, ismath=False)
    return width / 72


def above(figure: Figure, text: str) -> None:
    """Sets a title over the whole figure, on as many lines as it takes."""
    width = int(14 * figure.get_figwidth())
    figure.suptitle(plain(textwrap.fill(text, width)), fontsize=8)


def beside(axes: Axes, text: str, width: int = 14, size: int = 8) -> None:
    """Sets a label to the left of a row."""
    lines = [textwrap.fill(line, width) for line in text.split("\n")]
    axes.set_ylabel(plain("\n".join(lines)), rotation=0, ha="right", va="center",
                    fontsize=size)


def number(value: float) -> str:
    """Formats three digits: 0.0123, 1.23, 123, 1.2e+04."""
    return f"{value:.3g}"
