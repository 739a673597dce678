"""AlexNet (Krizhevsky, Sutskever, Hinton: ImageNet classification with deep
convolutional neural networks, 2012), its one-tower form, and ZFNet (2014)."""

from collections.abc import Callable

import flax.linen as nn
import jax

from cnn_jax.layers import (Activation, AdaptiveAvgPool, Flatten, Layers,
                            LocalResponseNorm, lookup)
from cnn_jax.networks.inputs import takes_images

# The constants of the local response norm, by their source.
LRN = {
    "paper": {"k": 2.0, "alpha": 1e-4, "divide_by_size": False},
    "caffe": {"k": 1.0, "alpha": 1e-4, "divide_by_size": True},
    "": None,
}


def response_norm(convention: str, name: str) -> Callable:
    """Makes the local response norm of a convention in `LRN`; '' gives the identity."""
    fields = lookup(LRN, "local response norm", convention)
    return (lambda x: x) if fields is None else LocalResponseNorm(**fields, name=name)


class AlexNet(nn.Module):
    """Two groups, local response norm, overlapping pools; 60,965,224 parameters.

    [N, 227, 227, C] -> logits [N, num_classes]; with groups=1 62,378,344. The paper
    says 224 pixels, which do not give its 55 x 55; 227 without padding do. The
    one-tower network of 'One weird trick' (Krizhevsky, 2014), as in torchvision, takes
    224 pixels and has widths=(64, 192, 384, 256, 256), groups=1, padding=2, lrn='',
    dropout_first=True: 61,100,840 parameters. CaffeNet, by Caffe's authors, has
    lrn='caffe', pool_first=True.
    Deviations: none in the architecture; `layers.init` chooses the initializer.

    widths: features of the five convolutions.
    groups: of the second, fourth and fifth convolution; must divide all widths.
    padding: of the first convolution, in pixels.
    lrn: 'paper' (k = 2), 'caffe' (k = 1, alpha / 5) or ''.
    pool_first: whether the pool comes before the response norm.
    dropout: the rate after each hidden dense layer; before it with dropout_first.
    flatten_size: see `flattened`; 6 in torchvision.
    """

    num_classes: int = 1000
    widths: tuple[int, ...] = (96, 256, 384, 384, 256)
    groups: int = 2
    padding: int = 0
    lrn: str = "paper"
    pool_first: bool = False
    dropout: float = 0.5
    dropout_first: bool = False
    flatten_size: int = 0
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        if len(self.widths) != 5 or self.groups < 1 or any(
                width % self.groups for width in self.widths):
            raise ValueError("AlexNet takes five widths that are multiples of groups = "
                             f"{self.groups}, not {self.widths}")
        kernels = (11, 5, 3, 3, 3)
        groups = (1, self.groups, 1, self.groups, self.groups)
        for i, (features, kernel) in enumerate(zip(self.widths, kernels), 1):
            x = make.convolution(
                features, (kernel, kernel), 4 if i == 1 else 1,
                self.padding if i == 1 else "symmetric",
                feature_group_count=groups[i - 1], name=f"conv{i}")(x)
            x = Activation("relu", name=f"conv{i}_act")(x)
            followers = []
            if i in (1, 2):
                followers.append(response_norm(self.lrn, f"conv{i}_lrn"))
            if i in (1, 2, 5):
                followers.append(make.max_pool((3, 3), (2, 2), name=f"conv{i}_pool"))
            for layer in reversed(followers) if self.pool_first else followers:
                x = layer(x)
        x = flattened(x, self.flatten_size)
        return dense_layers(self, x, train, self.dropout_first)


class ZFNet(nn.Module):
    """AlexNet without groups, with a stem of 7 x 7 and stride 2.

    [N, 224, 224, C] -> logits [N, num_classes]; 62,357,608 parameters. The pools round
    up (110 -> 55, 26 -> 13), and the response norm follows them. Source: Zeiler and
    Fergus, 'Visualizing and understanding convolutional networks', 2014.
    Deviations: none known; the paper calls its norm a contrast normalization and gives
    no constants, so these are AlexNet's.

    lrn: 'paper' (AlexNet's), 'caffe' or ''.
    dropout: the rate after each hidden dense layer.
    """

    num_classes: int = 1000
    lrn: str = "paper"
    dropout: float = 0.5
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        table = ((96, 7, 2, 1), (256, 5, 2, 0), (384, 3, 1, 1), (384, 3, 1, 1),
                 (256, 3, 1, 1))  # features, kernel, stride, padding
        for i, (features, kernel, stride, padding) in enumerate(table, 1):
            x = make.convolution(features, (kernel, kernel), stride, padding,
                                 name=f"conv{i}")(x)
            x = Activation("relu", name=f"conv{i}_act")(x)
            if i in (1, 2, 5):
                x = make.max_pool((3, 3), (2, 2), ceil_mode=True,
                                  name=f"conv{i}_pool")(x)
            if i in (1, 2):
                x = response_norm(self.lrn, f"conv{i}_lrn")(x)
        x = Flatten(name="flatten")(x)
        return dense_layers(self, x, train)


def flattened(x: jax.Array, size: int) -> jax.Array:
    """Flattens a map before the dense layers.

    size: pixels. The map is first averaged to size x size, as in torchvision, so that
        images of any size fit the same dense layers. 0: no averaging.
    """
    if size < 0:
        raise ValueError(f"flatten_size must be a number of pixels or 0, not {size}")
    if size and x.shape[1:3] != (size, size):
        x = AdaptiveAvgPool(size, name="flatten_pool")(x)
    return Flatten(name="flatten")(x)


def dense_layers(network: nn.Module, x: jax.Array, train: bool,
                 dropout_first: bool = False) -> jax.Array:
    """Applies AlexNet's and VGG's two hidden layers (ReLU, dropout) and the head."""
    make = network.layers
    for i in (1, 2):
        drop = make.dropout(network.dropout, name=f"fc{i}_drop")
        if dropout_first:
            x = drop(x, train)
        x = make.dense(4096, name=f"fc{i}")(x)
        x = Activation("relu", name=f"fc{i}_act")(x)
        if not dropout_first:
            x = drop(x, train)
    return make.dense(network.num_classes, name="head")(x)
