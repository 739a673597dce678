"""Projects the features before the last layer on their first principal components."""

from typing import NamedTuple

import numpy as np


class Plane(NamedTuple):
    """Features projected on their first two principal components."""

    points: np.ndarray  # [n, 2]
    explained: np.ndarray  # [2], fractions of the variance


def pixel_features(values: np.ndarray, labels: np.ndarray,
                   count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns features and labels of `count` random pixels, the same in each call.

    values: [N, h, w, F]. labels: masks [N, H, W]; if the last layer upsamples, a
    feature gets the label of the pixel at its upper left corner.
    """
    rows, columns = (pixels // size for pixels, size in zip(labels.shape[1:],
                                                            values.shape[1:3]))
    labels = labels[:, ::rows, ::columns].ravel()
    index = np.random.default_rng(0).permutation(len(labels))[:count]
    return values.reshape(-1, values.shape[-1])[index], labels[index]


def principal_plane(values: np.ndarray) -> Plane:
    """Projects features [n, F] on their first two principal components.

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
    points *= np.sign(model.components_[np.arange(len(largest)), largest])[None]
    missing = 2 - points.shape[1]
    explained = np.nan_to_num(model.explained_variance_ratio_)
    return Plane(np.pad(points, ((0, 0), (0, missing))),
                 np.pad(explained, (0, missing)))
