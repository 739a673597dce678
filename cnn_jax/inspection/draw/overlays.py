"""Draws the predicted class of every pixel over the images."""

from collections.abc import Iterable, Sequence

import numpy as np

from cnn_jax.inspection.draw.drawing import (class_colours, label_row, legend,
                                             new_figure, set_title, show)
from cnn_jax.inspection.draw.picture import Picture

OPACITY = 0.65  # of the class colour in an overlay; the rest is the grey image
CELL = 1.25   # inches


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draws the colours of the classes over the grey image, uint8 [H, W, 3].

    image: uint8 [H, W, C]. mask: class of each pixel [H, W]; where it is class 0, the
    background, the grey image stays as it is.
    """
    grey = image.astype(np.float64).mean(-1, keepdims=True)
    tinted = (1 - OPACITY) * grey + OPACITY * class_colours()[mask]
    return np.rint(np.where(mask[..., None] > 0, tinted, grey)).astype(np.uint8)


def panels(image: np.ndarray, predicted: np.ndarray,
           truth: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Returns {title: pixels} for one row: image, truth, prediction, wrong pixels.

    Without `truth`, the row is image and prediction.

    image: uint8 [H, W, C]. predicted, truth: classes [H, W].
    """
    prediction = overlay(image, predicted)
    if truth is None:
        return {"image": image, "prediction": prediction}
    wrong = np.where(predicted != truth, 255, 0)[..., None]
    return {"image": image, "truth": overlay(image, truth), "prediction": prediction,
            "wrong pixels": wrong}


def overlays(images: np.ndarray, predicted: np.ndarray, class_names: Sequence[str],
             title: str, caption: str, names: Sequence[str],
             truth: np.ndarray | None = None) -> Picture:
    """Draws a row for each image, with its `panels`.

    images: uint8 [N, H, W, C]. predicted, truth: classes [N, H, W].
    names: the label of each row.
    """
    rows = [panels(image, predicted[i], None if truth is None else truth[i])
            for i, image in enumerate(images)]
    figure = new_figure(max(5.0, CELL * len(rows[0]) + 1.2), CELL * len(rows) + 1.2)
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axes, row, name in zip(grid, rows, names):
        draw_panels(axes, row)
        label_row(axes[0], name)
    name_panels(grid[0], rows[0])
    legend(figure, class_names)
    set_title(figure, caption)
    return Picture(
        "overlays", title, caption, f"{len(rows)} images, each with "
        f"{', '.join(rows[0])}.", figure, {"images": images, "predicted": predicted}
        | ({} if truth is None else {"truth": truth}))


def draw_panels(axes: np.ndarray, row: dict[str, np.ndarray]) -> None:
    """Draws the panels of an image on a row of axes."""
    for axis, pixels in zip(axes, row.values(), strict=True):
        show(axis, pixels)


def name_panels(axes: np.ndarray, titles: Iterable[str]) -> None:
    """Sets the titles of the columns above a row of axes."""
    for axis, title in zip(axes, titles):
        axis.set_title(title, fontsize=8)
