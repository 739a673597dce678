"""Draws images, masks and maps on axes: most pictures consist of these."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnn_jax.inspection.draw.fonts import drawable, families

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

SIGNED, HEAT = "RdBu_r", "inferno"  # red above and blue below 0; dark to bright
COLUMNS, PANEL = 3, 1.5  # columns of a sheet; width of each in inches
HEAT_SHARE = 0.55  # weight of the map in an overlay; the rest is the grey image


def new_figure(width: float, height: float) -> Figure:
    """Makes an empty figure of a size in inches."""
    # Imported here: matplotlib takes a second, and not every command draws.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def grid(rows: int, columns: int, cell: float = 1.1, aspect: float = 1.0,
         left: float = 0.0, top: float = 0.0) -> tuple[Figure, np.ndarray]:
    """Makes a figure and axes [rows, columns] without ticks; lengths are in inches.

    aspect: width / height of the images.
    """
    width = cell * min(2.0, max(0.5, aspect))
    figure = new_figure(max(3.2, width * columns + left + 0.2), cell * rows + top + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        blank(axis)
    return figure, axes


def blank(axes: Axes) -> None:
    """Hides ticks and frame; titles and labels stay."""
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)


def image(axes: Axes, pixels: np.ndarray) -> None:
    """Draws pixels 0..255 [H, W, C]; channels that are not three are averaged."""
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    axes.imshow(pixels if pixels.shape[-1] == 3 else pixels.mean(-1), cmap="gray",
                vmin=0, vmax=255, interpolation="nearest")


def sheet(images: np.ndarray, titles: Sequence[tuple[str, str]]) -> Figure:
    """Draws images [N, H, W, C] in columns; each has a title of two parts."""
    rows = max(1, -(-len(images) // COLUMNS))
    figure = new_figure(PANEL * COLUMNS, 1.95 * rows + 0.1)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, pixels, title in zip(grid, images, titles):
        show(axes, pixels)
        axes.set_title("\n".join(fold(part, PANEL - 0.1, 8) for part in title),
                       fontsize=8)
    for axes in grid[len(images):]:
        axes.set_axis_off()
    return figure


def show(axes: Axes, pixels: np.ndarray, mask: np.ndarray | None = None) -> None:
    """Draws one image without ticks, and to its right its mask if it has one."""
    if mask is not None:
        pixels = np.broadcast_to(pixels, (*mask.shape, 3))
        gap = np.full((len(mask), 1, 3), 255, np.uint8)
        pixels = np.concatenate([pixels, gap, class_colours()[mask]], axis=1)
    image(axes, pixels)
    blank(axes)


def class_colours() -> np.ndarray:
    """Returns uint8 [256, 3]: black for class 0, then matplotlib's ten colours in turn.
    """
    from matplotlib import colormaps

    ten = (255 * np.array(colormaps["tab10"](range(10)))[:, :3]).astype(np.uint8)
    return np.concatenate([np.zeros((1, 3), np.uint8), np.resize(ten, (255, 3))])


def legend(figure: Figure, class_names: Sequence[str]) -> None:
    """Adds a legend of the colours of the classes in masks."""
    from matplotlib.patches import Patch

    figure.legend(
        handles=[Patch(facecolor=tuple(colour / 255), label=plain(name))
                 for colour, name in zip(class_colours()[1:], class_names[1:])],
        loc="outside lower center", ncols=min(6, len(class_names)), fontsize=8)


def signed(axes: Axes, values: np.ndarray, limit: float) -> AxesImage:
    """Draws [H, W] in red above and blue below 0; +-limit has the darkest colours."""
    return axes.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit,
                       interpolation="nearest")


def robust_limit(values: np.ndarray) -> float:
    """Returns a limit for `signed` that is robust to single pixels."""
    return float(np.percentile(np.abs(values), 99) or np.abs(values).max() or 1)


def heat(axes: Axes, values: np.ndarray, high: float | None = None,
         alpha: float = 1.0) -> None:
    """Draws [H, W] from 0 to `high`, by default the maximum, dark to bright."""
    axes.imshow(values, cmap=HEAT, vmin=0, vmax=high or float(values.max()) or 1.0,
                alpha=alpha, interpolation="nearest")


def heat_over(axes: Axes, pixels: np.ndarray, values: np.ndarray) -> None:
    """Draws a map >= 0 over the grey image."""
    image(axes, pixels.astype(np.float64).mean(-1, keepdims=True))
    heat(axes, values, alpha=HEAT_SHARE)


def plain(text: str) -> str:
    """Escapes characters that cannot be drawn, and $, which starts mathematics."""
    return "\n".join(map(drawable, text.split("\n"))).replace("$", r"\$")


def fit(name: str, width: int = 16) -> str:
    """Cuts a name to a width, and escapes it.

    width: in characters; Chinese characters and emoji count as two.
    """
    name = drawable(name)
    sizes = [2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in name]
    if sum(sizes) > width:
        name = name[:int(np.searchsorted(np.cumsum(sizes), width))] + "…"
    return plain(name)


def fold(text: str, inches: float, size: float, lines: int = 2) -> str:
    """Breaks a text into lines of at most `inches`, and escapes it.

    Lines break after spaces and underscores; a line that is still too wide is cut.
    size: of the font, in points.
    """
    text, rows = drawable(text), [""]
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
    """Measures a line of text, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    text = drawable(text.rstrip())
    width, _, _ = text_to_path.get_text_width_height_descent(
        text, FontProperties(family=families(text), size=size), ismath=False)
    return width / 72


def set_title(figure: Figure, text: str) -> None:
    """Sets the title of the whole figure, on as many lines as it needs."""
    width = int(14 * figure.get_figwidth())
    figure.suptitle(plain(textwrap.fill(drawable(text), width)), fontsize=8)


def label_row(axes: Axes, text: str, width: int = 14) -> None:
    """Sets a label at the left of a row; a line has about `width` characters."""
    lines = [fold(line, 0.08 * width, 8, 4) for line in text.split("\n")]
    axes.set_ylabel("\n".join(lines), rotation=0, ha="right", va="center", fontsize=8)
