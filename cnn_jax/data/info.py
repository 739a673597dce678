"""Describes a data set, for every later use of a network that was trained on it."""

import hashlib

import msgspec
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.data.examples import Dataset
from cnn_jax.data.images import Preprocessing
from cnn_jax.data.scaling import SCALINGS, Scaling


class DataInfo(msgspec.Struct, frozen=True):
    """Holds what later uses of a trained network must know of its data: data.json."""

    name: str
    source: str
    image_shape: tuple[int, int, int]  # (H, W, C)
    class_names: tuple[str, ...]
    scaling: Scaling
    counts: dict[str, int]             # examples in train, validation, test
    sha256: str                        # over all images and labels
    shorter_side: int | None = None    # see data.images.Preprocessing
    interpolation: str = "bilinear"

    @property
    def has_images(self) -> bool:
        """Tells whether there is a set; an imported network has only a description."""
        return any(self.counts.values())

    @property
    def preprocessing(self) -> Preprocessing:
        """Says how a picture becomes an image of this set."""
        return Preprocessing(self.image_shape[:2], self.image_shape[2],
                             self.shorter_side, self.interpolation)


def describe(dataset: Dataset, config: ConfigDict) -> DataInfo:
    """Describes the set of a `data` config.

    The scaling is measured on the training split alone.
    """
    counts, digest = {}, hashlib.sha256()
    for split in ("train", "validation", "test"):
        examples = getattr(dataset, split)
        counts[split] = len(examples.labels)
        digest.update(np.ascontiguousarray(examples.images).data)
        digest.update(np.ascontiguousarray(examples.labels).data)
    return DataInfo(dataset.name, dataset.source, dataset.train.images.shape[1:],
                    dataset.class_names,
                    SCALINGS[config.scaling](dataset.train.images), counts,
                    digest.hexdigest(), config.shorter_side, config.interpolation)
