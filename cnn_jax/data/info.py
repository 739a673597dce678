"""Describes a data set, for every later use of a network that was trained on it."""

import hashlib

import msgspec
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.data.examples import Dataset
from cnn_jax.data.images import Preprocessing
from cnn_jax.data.lazy import LazyImages
from cnn_jax.data.scaling import MEASURED, SCALINGS, Scaling

SPLITS = ("train", "validation", "test")


class DataInfo(msgspec.Struct, frozen=True):
    """Holds what later uses of a trained network must know of its data: data.json."""

    name: str
    source: str
    image_shape: tuple[int, int, int]  # (H, W, C)
    class_names: tuple[str, ...]
    scaling: Scaling
    counts: dict[str, int]             # examples in train, validation, test
    sha256: str                        # over all images and labels; see `checksum`
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

    The scaling is measured on the training split alone: on all of its images, or on
    some of them if they are lazy, see `LazyImages.sample`.
    """
    images, source = dataset.train.images, dataset.source
    if isinstance(images, LazyImages) and config.scaling in MEASURED:
        images = images.sample()
        source += f"; scaling measured on {len(images):,} training images"
    counts = {split: len(getattr(dataset, split).labels) for split in SPLITS}
    return DataInfo(dataset.name, source, images.shape[1:], dataset.class_names,
                    SCALINGS[config.scaling](images), counts, checksum(dataset),
                    config.shorter_side, config.interpolation)


def checksum(dataset: Dataset) -> str:
    """Hashes all images and labels; of a lazy set, the fingerprints of its records."""
    digest = hashlib.sha256()
    for split in SPLITS:
        images, labels = getattr(dataset, split)
        if isinstance(images, LazyImages):
            digest.update(images.records.fingerprint.encode())
        else:
            digest.update(np.ascontiguousarray(images).data)
            digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()
