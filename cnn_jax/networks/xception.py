"""Xception (Chollet: Xception: Deep learning with depthwise separable convolutions,
2017)."""

import functools
from typing import Any

import flax.linen as nn
import jax

from cnn_jax.layers import Activation, Add, GlobalAvgPool, Layers, Padding
from cnn_jax.networks.blocks import ConvNormAct, SeparableConv
from cnn_jax.networks.inputs import takes_images

NORM: dict[str, Any] = {"epsilon": 1e-3, "momentum": 0.99}


class Xception(nn.Module):
    """Separable convolutions: entry flow, eight middle blocks, exit flow.

    [N, 299, 299, C] -> logits [N, num_classes]; 22,855,952 parameters.
    Deviations: none; the pools are SAME as in the author's code. timm has
    padding='symmetric'.

    middle: number of blocks of the middle flow.
    padding: of the strided pools, 'SAME' or 'symmetric'.
    dropout: the rate before the head.
    """

    num_classes: int = 1000
    middle: int = 8
    padding: str = "SAME"
    dropout: float = 0.5
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        block = functools.partial(make.block(Block, train), padding=self.padding,
                                  layers=make)
        for i, (features, stride) in enumerate(((32, 2), (64, 1)), 1):
            x = ConvNormAct(features, (3, 3), stride, "VALID", **NORM, layers=make,
                            name=f"stem_conv{i}")(x, train)
        for i, features in enumerate((128, 256, 728), 1):
            x = block((features, features), 2, first_act=i > 1,
                      name=f"entry_block{i}")(x, train)
        for i in range(1, self.middle + 1):
            x = block((728, 728, 728), name=f"middle_block{i}")(x, train)
        x = block((728, 1024), 2, name="exit_block1")(x, train)
        for i, features in enumerate((1536, 2048), 1):
            x = SeparableConv(features, bias=False, layers=make,
                              name=f"exit_conv{i}")(x)
            x = make.batch_norm(train, **NORM, name=f"exit_bn{i}")(x)
            x = Activation("relu", name=f"exit_act{i}")(x)
        x = GlobalAvgPool(name="pool")(x)
        x = make.dropout(self.dropout, name="drop")(x, train)
        return make.dense(self.num_classes, name="head")(x)


class Block(nn.Module):
    """ReLU, separable convolution, batch norm for each width; a shortcut around all.

    With stride 2, a 3 x 3 max pool ends the branch, and the shortcut is a 1 x 1
    convolution with batch norm.
    first_act: whether the block starts with ReLU.
    """

    widths: tuple[int, ...]
    stride: int = 1
    first_act: bool = True
    padding: Padding = "SAME"
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        y = x
        for i, features in enumerate(self.widths, 1):
            if i > 1 or self.first_act:
                y = Activation("relu", name=f"act{i}")(y)
            y = SeparableConv(features, bias=False, layers=make, name=f"conv{i}")(y)
            y = make.batch_norm(train, **NORM, name=f"bn{i}")(y)
        if self.stride > 1:
            y = make.max_pool((3, 3), (self.stride,) * 2, self.padding, name="pool")(y)
            x = ConvNormAct(features, (1, 1), self.stride, self.padding, "", **NORM,
                            layers=make, name="shortcut")(x, train)
        return Add(name="add")(y, x)
