"""Defines the names and layouts of our networks' parameters in other libraries.

There is a file for each library: a row of its `FAMILIES` names the layers of a family
of networks.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn

from cnn_jax.interop.names import keras, timm, torchvision
from cnn_jax.interop.names.layouts import (Layout, Shape, keras_depthwise, same,
                                           torch_kernel)
from cnn_jax.interop.names.rules import Names

TORCH = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean",
         "var": "running_var"}
KERAS_NORM = {"scale": "gamma", "bias": "beta", "mean": "moving_mean",
              "var": "moving_variance"}


class Library(NamedTuple):
    """Defines how a library names and lays out the arrays of its networks.

    families: our networks that it has.
    key: (their layer, our layer, name of our array, whether it is a batch norm) -> the
        key of the array in a file.
    kernel: (our layer, our shape) -> the usual layout of a kernel.
    ignored: a pattern of keys that hold no parameter.
    renamed: (pattern, template) pairs that turn keys of older files into current ones.
    """

    families: dict[type[nn.Module], Names]
    key: Callable[[str, str, str, bool], str]
    kernel: Callable[[str, Shape], Layout]
    ignored: str = ""
    renamed: tuple[tuple[str, str], ...] = ()


def torch_key(theirs: str, layer: str, leaf: str, norm: bool) -> str:
    return f"{theirs}.{TORCH[leaf]}"


def keras_key(theirs: str, layer: str, leaf: str, norm: bool) -> str:
    if norm:
        return f"{theirs}/{KERAS_NORM[leaf]}"
    part = layer.rpartition("/")[2]  # of a SeparableConv2D, which is one layer there
    return f"{theirs}/{part}_{leaf}" if part in ("depthwise", "pointwise") else (
        f"{theirs}/{leaf}")


def keras_kernel(layer: str, shape: Shape) -> Layout:
    return keras_depthwise(shape) if "depthwise" in layer else same(shape)


TORCHVISION = Library(
    torchvision.FAMILIES, torch_key, lambda layer, shape: torch_kernel(shape),
    ignored=r".*\bnum_batches_tracked",
    # `_orig_mod` and `module` wrap a network that is compiled or on several devices.
    # DenseNet's layers of 2017 had names that torch forbids today.
    renamed=((r"(?:_orig_mod\.|module\.)+(.+)", r"\1"),
             (r"(.+\.denselayer\d+\.(?:norm|conv))\.(\d\..+)", r"\1\2")))
LIBRARIES = {
    "torchvision": TORCHVISION,
    "timm": TORCHVISION._replace(families=timm.FAMILIES),
    "keras": Library(keras.FAMILIES, keras_key, keras_kernel),
    # The repository of this name had the network before torchvision did; packages
    # still carry its files.
    "pytorch-mobilenet-v2": TORCHVISION._replace(families=torchvision.FIRST_MOBILENET),
}
