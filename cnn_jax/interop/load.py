"""Loads pretrained weights: a published source or a file -> a trained network.

A source is one of

    torchvision:resnet50           the name of a row of `PRETRAINED`
    torchvision:resnet50=FILE      the network of that row with the weights of your file
    FILE                           weights of the network that a config names

FILE is .pth, .pt, .safetensors, .h5, .weights.h5, .keras or our own .npz; a name that
the current folder lacks is looked up among the downloaded weights.
"""

import logging
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from ml_collections import ConfigDict

from cnn_jax import networks
from cnn_jax.config import default_config
from cnn_jax.console import Reporter
from cnn_jax.data.images import preprocessing_of
from cnn_jax.data.info import DataInfo
from cnn_jax.data.scaling import FIXED, Scaling
from cnn_jax.download import Checksum
from cnn_jax.errors import InputError
from cnn_jax.interop.download import (fetch_announced, fetch_weights,
                                      weights_folder)
from cnn_jax.interop.imagenet import imagenet_classes
from cnn_jax.interop.mapping import (Arrays, classes_of, find_mapping, fits,
                                     reversed_input, variables_from)
from cnn_jax.interop.pretrained import (PRETRAINED, Pretrained, find_row,
                                        mapping_of_row)
from cnn_jax.interop.pretrained.form import differences
from cnn_jax.interop.readers import read_arrays
from cnn_jax.workdir.trained import Trained

ORIGIN = "pretrained weights "  # how `DataInfo.source` begins
SUFFIXES = (".pth", ".pt", ".safetensors", ".h5", ".keras", ".npz")


def is_file(source: str) -> bool:
    """Tells whether a source is just the path of a weight file."""
    return source.endswith(SUFFIXES) and not is_published(source)


def is_published(source: str) -> bool:
    """Tells whether a source names a published set, 'LIBRARY:NAME' or more."""
    return re.match(r"(torchvision|timm|keras):", source) is not None


def row_of(source: str) -> Pretrained:
    """Looks up the row of a published set. Raises InputError for an unknown one."""
    return find_row(source.partition("=")[0])


def published_top1(origin: str) -> float | None:
    """Looks up the published top-1 in percent by the `DataInfo.source` of a network."""
    row = PRETRAINED.get(origin.removeprefix(ORIGIN))
    return row.top1 if row else None


def config_of(source: str) -> ConfigDict:
    """Makes the config of a published set: its network and the preprocessing.

    Raises InputError for an unknown source, and for a file, which does not say what its
    network is.
    """
    if is_file(source):
        raise InputError(
            f"{source} does not say which network it is for: name the published network"
            f" that it equals, such as torchvision:resnet50={source}, or set "
            "--config=configs/network.py:NAME and config.data.scaling")
    row = row_of(source)
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
    """Raises InputError if a config does not have the network of a published set.

    Shapes of parameters do not show this, for example with other padding or epsilon.
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

    config: for a file it must set the network, its fields, its batch norm and the
        preprocessing. A published set has all these; only the size of the images may
        differ. If model.num_classes is None, the last layer of a file gives the number
        of classes.
    Raises InputError for a source that is unknown or unreachable, and for a file that
    is not of this network.
    """
    config = config or config_of(source)
    if config.data.scaling not in FIXED:
        raise InputError(
            f"config.data.scaling = {config.data.scaling!r} is measured on the data, "
            f"and {source} comes without data: use {', '.join(FIXED)}")
    size, channels, *_ = preprocessing_of(config.data)
    published = networks.find(config.model.name).input_shape
    image_shape = (*(size or published[:2]), channels or published[2])
    classes = len(imagenet_classes()) if is_published(source) else None
    network = networks.from_config(config, classes)
    arrays, file = read_source(source)
    if file and config.model.num_classes is None:
        count = classes_of(network, image_shape, arrays)
        if count not in (None, network.num_classes):
            Reporter(stderr=True).line(f"{file}: its last layer is for {count} classes")
            network = networks.from_config(config, count)
    variables = fit_variables(source, arrays, network, image_shape)
    info = DataInfo(
        name=config.data.name, source=f"{ORIGIN}{source}",
        image_shape=image_shape,
        class_names=class_names(network.num_classes),
        scaling=FIXED[config.data.scaling],
        counts=dict.fromkeys(("train", "validation", "test"), 0), sha256="",
        shorter_side=config.data.shorter_side, interpolation=config.data.interpolation)
    return Trained(config, info, network, variables, 0, [])


def read_source(source: str) -> tuple[Arrays, str]:
    """Reads the arrays of a source; returns them and its file, '' for a download."""
    if not is_published(source):
        return read_arrays(local_file(source)), source
    row, file = row_of(source), source.partition("=")[2]
    return read_arrays(local_file(file) if file else download(source, row)), file


def fit_variables(source: str, arrays: Arrays, network: nn.Module,
                  image_shape: tuple[int, int, int], whole: bool = True
                  ) -> dict[str, Any]:
    """Makes the variables of a network from the arrays of a source.

    whole: whether all arrays must be there. If not, heads that the file lacks, or has
        for another number of classes, are left out.
    """
    if not is_published(source):
        mapping = find_mapping(network, image_shape, arrays, source, whole)
        different = differences(mapping.library, network, image_shape)
        if different:
            logging.getLogger(__name__).warning(
                "%s has the arrays of %s's network, which computes something else: "
                "this network has %s", source, mapping.library, ", ".join(different))
        return variables_from(mapping, arrays, source)
    row, file = row_of(source), source.partition("=")[2]
    mapping = mapping_of_row(row)
    if file and not fits(mapping, arrays):  # perhaps with the names of another library
        mapping = find_mapping(network, image_shape, arrays, file, whole)
        if row.bgr and mapping.library == row.library:
            mapping = reversed_input(mapping)
    return variables_from(mapping, arrays, file or source)


def class_names(count: int) -> tuple[str, ...]:
    """Names the classes: 1,000 classes are those of ImageNet, others are numbered."""
    names = imagenet_classes()
    return names if count == len(names) else tuple(f"class {i}" for i in range(count))


def local_file(file: str) -> Path:
    """Finds a file by its path, else by its name among the downloaded weights."""
    path, downloaded = Path(file).expanduser(), weights_folder() / file
    return downloaded if downloaded.is_file() and not path.exists() else path


def download(source: str, row: Pretrained) -> Path:
    """Returns the file of a published set in the cache folder."""
    name = re.sub(r"[^\w.-]", "-", source) + Path(row.url).suffix
    if row.checksum:
        return fetch_weights(row.url, Checksum(*row.checksum), name)
    return fetch_announced(row.url, name, source)
