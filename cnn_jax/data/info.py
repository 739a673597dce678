"""Describes a data set for all later uses of a network that was trained on it."""

import hashlib

import msgspec
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.data.examples import Dataset
from cnn_jax.data.images import Preprocessing
from cnn_jax.data.lazy import LazyImages
from cnn_jax.data.scaling import MEASURED, SCALINGS, Scaling
from cnn_jax.tasks.task import LabelStatistics, label_statistics

SPLITS = ("train", "validation", "test")


class DataInfo(msgspec.Struct, frozen=True):
    """What later uses of a trained network must know about its data: data.json."""

    name: str
    source: str
    image_shape: tuple[int, int, int]  # (H, W, C)
    class_names: tuple[str, ...]
    scaling: Scaling
    counts: dict[str, int]             # examples in train, validation, test
    sha256: str                        # over all images and labels; see `checksum`
    shorter_side: int | None = None    # see data.images.Preprocessing
    interpolation: str = "bilinear"
    targets: LabelStatistics | None = None  # of labels that are numbers
    streamed: bool | None = None            # None in runs of earlier versions

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
    """Describes the set of a `data` config."""
    scaling, measured_on = measure_scaling(dataset.train.images, config.scaling)
    source = dataset.source + (
        f"; scaling measured on {measured_on:,} training images"
        if measured_on < len(dataset.train.labels) else "")
    counts = {split: len(getattr(dataset, split).labels) for split in SPLITS}
    labels = dataset.train.labels
    numbers = np.issubdtype(labels.dtype, np.floating)
    return DataInfo(dataset.name, source, dataset.train.images.shape[1:],
                    dataset.class_names, scaling, counts, checksum(dataset),
                    config.shorter_side, config.interpolation,
                    label_statistics(labels) if numbers else None,
                    isinstance(dataset.train.images, LazyImages))


def measure_scaling(images: np.ndarray, name: str) -> tuple[Scaling, int]:
    """Measures a scaling on training images; returns it and the number of images.

    For lazy images it measures a sample.
    """
    if isinstance(images, LazyImages) and name in MEASURED:
        images = images.sample()
    return SCALINGS[name](images), len(images)


def checksum(dataset: Dataset) -> str:
    """Hashes all images and labels, or the fingerprints of the records of a lazy set.
    """
    digest = hashlib.sha256()
    for split in SPLITS:
        images, labels = getattr(dataset, split)
        if isinstance(images, LazyImages):
            digest.update(images.records.fingerprint.encode())
        else:
            digest.update(np.ascontiguousarray(images).data)
            digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()
