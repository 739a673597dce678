"""The small CIFAR-10 networks of the TensorFlow 2 course (class 5), 32 x 32 x 3.

Its LeNet5 is `lenet.LeNet5` with sigmoid and max pooling, its ResNet18 is
`resnet.ResNet` with a 3 x 3 stem and SAME padding. Batch norm is keras' (epsilon 1e-3,
momentum 0.99). Deviations: none known; the course's initializer is `init='keras'`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax

from cnn_jax.layers import Activation, Concat, Flatten, GlobalAvgPool, Layers
from cnn_jax.networks.blocks import ConvNormAct
from cnn_jax.networks.inputs import takes_images

KERAS: dict[str, Any] = {"bias": True, "epsilon": 1e-3, "momentum": 0.99}


class CBAPDNet(nn.Module):
    """Groups of Convolution, Batch norm, Activation, Pool, Dropout; then dense layers.

    [N, H, W, C] -> logits [N, num_classes]. The defaults are the course's Baseline
    (198,494 parameters, 12 running statistics); its VGG16 has groups=((64, 64),
    (128, 128), (256,) * 3, (512,) * 3, (512,) * 3), kernel=3, dense=(512, 512).

    groups: features of the convolutions before each 2 x 2 max pool (SAME).
    kernel: size of all convolutions, pixels.
    dense: features of the hidden layers after flattening.
    dropout: the rate after each pool and each hidden dense layer.
    """

    num_classes: int = 10
    groups: tuple[tuple[int, ...], ...] = ((6,),)
    kernel: int = 5
    dense: tuple[int, ...] = (128,)
    dropout: float = 0.2
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        for i, group in enumerate(self.groups, 1):
            for j, features in enumerate(group, 1):
                x = ConvNormAct(features, (self.kernel, self.kernel), **KERAS,
                                layers=make, name=f"group{i}_conv{j}")(x, train)
            x = make.max_pool((2, 2), padding="SAME", name=f"group{i}_pool")(x)
            x = make.dropout(self.dropout, name=f"group{i}_drop")(x, train)
        x = Flatten(name="flatten")(x)
        for i, features in enumerate(self.dense, 1):
            x = make.dense(features, name=f"fc{i}")(x)
            x = Activation("relu", name=f"fc{i}_act")(x)
            x = make.dropout(self.dropout, name=f"fc{i}_drop")(x, train)
        return make.dense(self.num_classes, name="head")(x)


class AlexNet8(nn.Module):
    """The course's AlexNet: 3 x 3 kernels, batch norm in the first two layers only.

    [N, H, W, C] -> logits [N, num_classes]; 9,638,474 parameters, 704 statistics.

    dropout: the rate after each hidden dense layer.
    """

    num_classes: int = 10
    dropout: float = 0.5
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        block = functools.partial(ConvNormAct, **KERAS, layers=make)
        x = block(features=96, padding="VALID", name="conv1")(x, train)
        x = make.max_pool((3, 3), (2, 2), name="pool1")(x)
        x = block(features=256, padding="VALID", name="conv2")(x, train)
        x = make.max_pool((3, 3), (2, 2), name="pool2")(x)
        x = block(features=384, norm=False, name="conv3")(x, train)
        x = block(features=384, norm=False, name="conv4")(x, train)
        x = block(features=256, norm=False, name="conv5")(x, train)
        x = make.max_pool((3, 3), (2, 2), name="pool5")(x)
        x = Flatten(name="flatten")(x)
        for i in (1, 2):
            x = make.dense(2048, name=f"fc{i}")(x)
            x = Activation("relu", name=f"fc{i}_act")(x)
            x = make.dropout(self.dropout, name=f"fc{i}_drop")(x, train)
        return make.dense(self.num_classes, name="head")(x)


class Inception10(nn.Module):
    """Two blocks of two inception cells; 120,234 parameters, 1,184 statistics.

    [N, H, W, C] -> logits [N, num_classes]. The first cell of a block has stride 2, and
    each block has twice the features of the one before.

    features: of the stem and of each branch in the first block.
    blocks: number of blocks.
    batch_statistics: whether training normalizes by the statistics of the batch. False
        is how the course ran it: batch norm always works as in evaluation, so it is
        only a learned scale and shift.
    """

    num_classes: int = 10
    features: int = 16
    blocks: int = 2
    batch_statistics: bool = False
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        cell = self.layers.block(Cell, train)
        train = train and self.batch_statistics
        x = ConvNormAct(self.features, **KERAS, layers=self.layers,
                        name="stem")(x, train)
        for i in range(1, self.blocks + 1):
            features = self.features * 2 ** (i - 1)
            x = cell(features, 2, self.layers, name=f"block{i}_cell1")(x, train)
            x = cell(features, 1, self.layers, name=f"block{i}_cell2")(x, train)
        x = GlobalAvgPool(name="pool")(x)
        return self.layers.dense(self.num_classes, name="head")(x)


class Cell(nn.Module):
    """1x1 | 1x1, 3x3 | 1x1, 5x5 | 3x3 max pool, 1x1; concatenated."""

    features: int
    strides: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        block = functools.partial(ConvNormAct, features=self.features, **KERAS,
                                  layers=self.layers)
        point = functools.partial(block, kernel=(1, 1), strides=self.strides)
        a = point(name="a1")(x, train)
        b = point(name="b1")(x, train)
        b = block(kernel=(3, 3), name="b2")(b, train)
        c = point(name="c1")(x, train)
        c = block(kernel=(5, 5), name="c2")(c, train)
        d = self.layers.max_pool((3, 3), (1, 1), "SAME", name="d_pool")(x)
        d = point(name="d1")(d, train)
        return Concat(name="concat")(a, b, c, d)
