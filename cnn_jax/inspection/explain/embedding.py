"""The features before the last layer as points in a plane."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from cnn_jax.inspection.draw.drawing import fit
from cnn_jax.networks.trace import features
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.settings import Settings
from cnn_jax.inspection.inspected_run import Subject

POINTS = 2000  # images, or pixels where each has a label
MASKS = 64     # images that these pixels come from
NAMED = 20     # classes that are named in the plane


def embedding(subject: Subject, settings: Settings) -> Iterator[Picture]:
    """The input of the last layer for images of the part, by its two main axes."""
    yield draw_plane(*plane(*penultimate(subject)), subject)


def penultimate(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """(features [n, F], labels [n]) of images of the part; of masks, of pixels drawn
    at random from the first `MASKS` images."""
    images, labels = subject.examples
    count = POINTS if labels.ndim == 1 else MASKS
    found = subject.over(images[:count], before_head)
    labels = labels[:count]
    if labels.ndim == 1:
        return found.reshape(len(found), -1), labels
    # Where the last layer upsamples, a feature stands for the pixel at its corner.
    steps = [pixels // size for pixels, size in zip(labels.shape[1:], found.shape[1:])]
    labels = labels[:, ::steps[0], ::steps[1]]
    found, labels = found.reshape(-1, found.shape[-1]), labels.ravel()
    places = np.random.default_rng(0).permutation(len(labels))[:POINTS]
    return found[places], labels[places]


def before_head(network: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    return features(network, variables, images)["before_head"]


def plane(values: np.ndarray,
          labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(points [n, 2], labels, share of the variance [2]) by principal components.

    The sign of an axis is free: here its largest loading is positive, so that the same
    features always give the same picture. Missing axes are zero.
    Source: Pearson, On lines and planes of closest fit, 1901.
    """
    # Imported here: scikit-learn takes a second, and few modes need it.
    from sklearn.decomposition import PCA

    values = values.astype(np.float64)
    model = PCA(min(2, *values.shape), svd_solver="full")
    with np.errstate(invalid="ignore"):  # 0 / 0 where all points are alike
        points = model.fit_transform(values)
    largest = np.abs(model.components_).argmax(1)
    points *= np.sign(model.components_[np.arange(len(largest)), largest])
    missing = 2 - points.shape[1]
    shares = np.nan_to_num(model.explained_variance_ratio_)
    return np.pad(points, ((0, 0), (0, missing))), labels, np.pad(shares, (0, missing))


def draw_plane(points: np.ndarray, labels: np.ndarray, shares: np.ndarray,
               subject: Subject) -> Picture:
    # Imported here: matplotlib takes a second, and few modes draw.
    from matplotlib.figure import Figure

    classes = np.unique(labels)
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    few = labels.max(initial=0) < 10
    axes.scatter(*points.T, c=labels % NAMED, cmap="tab10" if few else "tab20", vmin=0,
                 vmax=9 if few else NAMED - 1, s=9, alpha=0.75, linewidths=0)
    # Colours alone do not tell twenty classes apart, nor all readers any of them.
    for label in classes if len(classes) <= NAMED else ():
        centre = np.median(points[labels == label], axis=0)
        axes.text(*centre, fit(subject.class_name(int(label))), fontsize=8,
                  weight="bold", ha="center", va="center",
                  bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "0.5",
                        "boxstyle": "round,pad=0.2"})
    axes.set(xlabel=f"first component, {shares[0]:.0%} of the variance",
             ylabel=f"second component, {shares[1]:.0%} of the variance")
    axes.grid(alpha=0.3)
    unit = "pixels" if subject.examples.labels.ndim > 1 else "images"
    return Picture(
        "embedding", "Penultimate features",
        f"The input of the last layer for {len(points):,} {unit} of the {subject.part} "
        "part, projected on the two directions in which it varies most (PCA); a point "
        "has the colour of its true class, a name stands at the median of the class.",
        f"{len(points):,} points of {len(classes)} classes in a plane that holds "
        f"{shares.sum():.0%} of the variance of the features.", figure,
        {"points": points, "labels": labels, "shares": shares})
