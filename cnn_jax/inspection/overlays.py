"""What a network makes of every pixel, drawn over the images."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnn_jax.inspection.contact_sheet import CELL, class_colours, legend, save, show

SHARE = 0.65  # of the class colour in an overlay; the rest is the grey image


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image in grey, under the colours of the classes: uint8 [H, W, 3].

    image: uint8 [H, W, C]. mask: class of each pixel [H, W]; class 0, the background,
    leaves the grey image as it is.
    """
    grey = image.astype(np.float64).mean(-1, keepdims=True)
    tinted = (1 - SHARE) * grey + SHARE * class_colours()[mask]
    return np.rint(np.where(mask[..., None] > 0, tinted, grey)).astype(np.uint8)


def overlays(images: np.ndarray, predicted: np.ndarray, class_names: Sequence[str],
             path: Path, caption: str, names: Sequence[str],
             truth: np.ndarray | None = None) -> None:
    """Draws a row for each image: image, truth, prediction, and where they differ.

    images: uint8 [N, H, W, C]. predicted, truth: classes [N, H, W]; without `truth`
    there are only image and prediction.
    names: what stands beside each row.
    Raises InputError for a path that cannot be written.
    """
    # Imported here: matplotlib takes a second, and not every prediction draws.
    from matplotlib.figure import Figure

    columns = ("image", "truth", "prediction", "wrong pixels")
    columns = columns if truth is not None else columns[::2]
    figure = Figure(figsize=(max(5.0, CELL * len(columns) + 1.2),
                             CELL * len(images) + 1.2), layout="constrained")
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for row, image in enumerate(images):
        pictures = {"image": image, "prediction": overlay(image, predicted[row])}
        if truth is not None:
            pictures["truth"] = overlay(image, truth[row])
            pictures["wrong pixels"] = np.where(
                predicted[row] != truth[row], 255, 0)[..., None]
        for axes, column in zip(grid[row], columns):
            show(axes, pictures[column], 0)
        grid[row, 0].set_ylabel(textwrap.fill(names[row], 14), rotation=0, ha="right",
                                va="center", fontsize=8)
    for axes, column in zip(grid[0], columns):
        axes.set_title(column, fontsize=8)
    legend(figure, class_names)
    figure.suptitle(textwrap.fill(caption, int(14 * figure.get_figwidth())), fontsize=8)
    save(figure, path)
