"""Loads pretrained weights: a published source or a file -> a network ready for use.

A source is the name of a row of `PRETRAINED`, such as 'torchvision:resnet50', or the
path of a file: .pth, .pt, .safetensors, .h5, .weights.h5, .keras or our own .npz.
"""

import re
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cnn_jax import networks
from cnn_jax.config import default_config
from cnn_jax.data.images import preprocessing_of
from cnn_jax.data.info import DataInfo
from cnn_jax.data.scaling import FIXED, Scaling
from cnn_jax.download import Checksum
from cnn_jax.errors import InputError
from cnn_jax.interop.download import (announced_checksum, fetch_weights,
                                      weights_folder)
from cnn_jax.interop.imagenet import imagenet_classes
from cnn_jax.interop.mapping import find_mapping, variables_from
from cnn_jax.interop.pretrained import Pretrained, find_row, mapping_of_row
from cnn_jax.interop.readers import read_arrays
from cnn_jax.workdir.trained import Trained

SUFFIXES = (".pth", ".pt", ".safetensors", ".h5", ".keras", ".npz")


def is_file(source: str) -> bool:
    """Tells whether a source is the path of a weight file."""
    return source.endswith(SUFFIXES)


def is_published(source: str) -> bool:
    """Tells whether a source is the name of a published set, 'LIBRARY:NAME'."""
    return re.match(r"(torchvision|timm|keras):", source) is not None


def config_of(source: str) -> ConfigDict:
    """Makes the config of a published set: its network, and how pictures are prepared.

    Raises InputError for an unknown source, and for a file, which does not say what its
    network is.
    """
    if is_file(source):
        raise InputError(f"{source} does not say which network it is for: name it with "
                         "--config=configs/network.py:NAME, and config.data.scaling")
    row = find_row(source)
    config = default_config()
    with config.unlocked():
        config.model.name, config.model.bn = row.network, row.bn
        config.model.fields.update(row.fields)
        config.data.update(
            name="imagenet", image_size=row.preprocessing.size, channels=3,
            shorter_side=row.preprocessing.shorter_side,
            interpolation=row.preprocessing.interpolation,
            scaling=name_of(row.scaling))
    return config


def check_same_network(source: str, config: ConfigDict) -> None:
    """Raises InputError if a config has not the network of a published set.

    Other padding or another epsilon has parameters of the same shapes.
    """
    theirs = config_of(source).model
    ours = networks.variant_fields(config.model.name) | dict(config.model.fields)
    same = (config.model.name == theirs.name and config.model.bn == theirs.bn
            and all(ours[name] == value for name, value in theirs.fields.items()))
    if not same:
        fields = "".join(f", model.fields.{name}={value}"
                         for name, value in theirs.fields.items())
        raise InputError(
            f"config.model.init_from = {source} is for model.name={theirs.name}, "
            f"model.bn={theirs.bn}{fields}; --config=configs/transfer.py:{source} sets "
            "them")


def name_of(scaling: Scaling) -> str:
    """Finds the name of a scaling that does not depend on the data."""
    return next(name for name, known in FIXED.items()
                if all(map(np.allclose, known, scaling)))


def load_pretrained(source: str, config: ConfigDict | None = None) -> Trained:
    """Loads a network with its weights; a published file is downloaded once.

    config: for a file it must say the network, its fields and its batch norm, and how
        pictures are prepared. A published set has all that; only the size of the
        images may be another.
    Raises InputError for a source that is unknown or out of reach, and for a file that
    is not of this network.
    """
    config = config or config_of(source)
    if config.data.scaling not in FIXED:
        raise InputError(
            f"config.data.scaling = {config.data.scaling!r} is measured on the data, "
            f"and {source} comes without: use {', '.join(FIXED)}")
    row = None if is_file(source) else find_row(source)
    path = download(source, row) if row else Path(source)
    arrays = read_arrays(path)
    network = networks.from_config(config, len(imagenet_classes()) if row else None)
    size, channels, *_ = preprocessing_of(config.data)
    published = networks.NETWORKS[config.model.name].input_shape
    image_shape = (*(size or published[:2]), channels or published[2])
    mapping = mapping_of_row(row) if row else find_mapping(
        network, image_shape, arrays, source)
    variables = variables_from(mapping, arrays, source)
    info = DataInfo(
        name=config.data.name, source=f"pretrained weights {source}",
        image_shape=image_shape,
        class_names=class_names(network.num_classes),
        scaling=FIXED[config.data.scaling],
        counts=dict.fromkeys(("train", "validation", "test"), 0), sha256="",
        shorter_side=config.data.shorter_side, interpolation=config.data.interpolation)
    return Trained(config, info, network, variables, 0, [])


def class_names(count: int) -> tuple[str, ...]:
    """Names the classes: 1,000 are those of ImageNet, others have numbers alone."""
    names = imagenet_classes()
    return names if count == len(names) else tuple(f"class {i}" for i in range(count))


def download(source: str, row: Pretrained) -> Path:
    """Returns the file of a published set in the cache folder."""
    name = re.sub(r"[^\w.-]", "-", source) + Path(row.url).suffix
    kept = weights_folder() / name
    if row.checksum is None and kept.exists():
        return kept  # it was checked when it came
    checksum = (Checksum(*row.checksum) if row.checksum
                else announced_checksum(row.url))
    return fetch_weights(row.url, checksum, name)
