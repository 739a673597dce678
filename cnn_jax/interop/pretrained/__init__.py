"""Lists published weights by their source, such as 'torchvision:resnet50'.

`PRETRAINED` has a row for every set of weights that torchvision, timm or
keras.applications publish for one of our networks.
"""

import dataclasses
import difflib

import flax.linen as nn

from cnn_jax import networks
from cnn_jax.errors import InputError
from cnn_jax.interop.mapping import Mapping, mapping_of
from cnn_jax.interop.pretrained import keras, timm, torchvision
from cnn_jax.interop.pretrained.row import Pretrained
from cnn_jax.layers import Layers

PRETRAINED: dict[str, Pretrained] = torchvision.ROWS | timm.ROWS | keras.ROWS
CLASSES = 1000  # of ImageNet
SOURCES_COMMAND = "python -m cnn_jax.interop.pretrained.table"


def find_row(source: str) -> Pretrained:
    """Looks up a source such as 'torchvision:resnet50:IMAGENET1K_V2' or 'keras:vgg16'.

    Raises InputError, which lists similar sources, if it is not in `PRETRAINED`.
    """
    if source in PRETRAINED:
        return PRETRAINED[source]
    # A network without its weights: all sets of weights of that network.
    near = ([known for known in PRETRAINED if known.startswith(f"{source}.")]
            or difflib.get_close_matches(source, PRETRAINED, 3, 0.4)
            or ["torchvision:resnet50", "timm:resnet50.a1_in1k", "keras:resnet50"])
    raise InputError(f"there are no pretrained weights {source!r}; known are "
                     f"{', '.join(near)} and others: {SOURCES_COMMAND} prints them")


def network_of(row: Pretrained, layers: Layers = Layers()) -> nn.Module:
    """Creates the network that equals the published one: its fields and batch norm."""
    return networks.create(row.network, CLASSES,
                           dataclasses.replace(layers, bn=row.bn), **row.fields)


def mapping_of_row(row: Pretrained) -> Mapping:
    """Makes the mapping between the published file and our network."""
    plain = Layers(conv="lax", pool="lax")  # the same arrays, the fastest to trace
    height, width = row.preprocessing.size or networks.NETWORKS[row.network][1][:2]
    return mapping_of(row.library, network_of(row, plain), (height, width, 3), row.bgr)
