"""Draws the features before the last layer as points in a plane."""

from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.inspection.draw.drawing import fit, new_figure
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.embedding import (Plane, pixel_features,
                                                  principal_plane)
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.selection import (NotForThisNetwork, check_labels,
                                          last_layer)
from cnn_jax.networks.trace import before_head

POINTS = 2000  # images, or pixels if each pixel has a label
MASKS = 64     # images that these pixels come from
NAMED = 20     # classes that are named in the plane


def embedding(run: InspectedRun, settings: ConfigDict) -> Iterator[Picture]:
    """Draws the input of the last layer for examples of the split."""
    check_labels(run)
    last_layer(run)
    if not run.task.exclusive:
        raise NotForThisNetwork("it needs one class for each image or pixel, and "
                                f"{run.config.data.name} has several, or numbers")
    values, labels = penultimate(run)
    yield draw_plane(principal_plane(values), labels, run)


def penultimate(run: InspectedRun) -> tuple[np.ndarray, np.ndarray]:
    """Computes features [n, F] and labels [n] of images, or of random pixels of the
    first `MASKS` images."""
    masks = run.task.unit == "pixel"
    images, labels = run.examples.take(slice(MASKS if masks else POINTS))
    values = run.map_batches(images, before_head)
    if masks:
        return pixel_features(values, labels, POINTS)
    return values.reshape(len(values), -1), labels


def draw_plane(plane: Plane, labels: np.ndarray, run: InspectedRun) -> Picture:
    """Draws a point for each example in the colour of its true class."""
    points, explained = plane
    classes = np.unique(labels)
    figure = new_figure(4.6, 4.4)
    axes = figure.subplots()
    few = labels.max(initial=0) < 10
    axes.scatter(points[:, 0], points[:, 1], c=labels % NAMED, vmin=0,
                 vmax=9 if few else NAMED - 1, cmap="tab10" if few else "tab20", s=9,
                 alpha=0.75, linewidths=0)
    # Colours alone do not distinguish twenty classes, and not every reader sees them.
    for label in classes if len(classes) <= NAMED else ():
        x, y = np.median(points[labels == label], axis=0)
        axes.text(x, y, fit(run.class_name(int(label))), fontsize=8,
                  weight="bold", ha="center", va="center",
                  bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "0.5",
                        "boxstyle": "round,pad=0.2"})
    axes.set(xlabel=f"first component, {explained[0]:.0%} of the variance",
             ylabel=f"second component, {explained[1]:.0%} of the variance")
    axes.grid(alpha=0.3)
    return Picture(
        "embedding", "Penultimate features",
        f"The input of the last layer for {len(points):,} {run.task.unit}s of the "
        f"{run.split} split, projected on the two directions in which it varies most "
        "(PCA). A point has the colour of its true class; the name of a class is at "
        "the median of its points.",
        f"{len(points):,} points of {len(classes)} classes in a plane that holds "
        f"{explained.sum():.0%} of the variance of the features.", figure,
        {"points": points, "labels": labels, "explained": explained})
