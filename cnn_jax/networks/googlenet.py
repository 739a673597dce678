"""GoogLeNet (Szegedy et al.: Going deeper with convolutions, 2015)."""

import functools

import flax.linen as nn
import jax

from cnn_jax.layers import (Activation, AdaptiveAvgPool, Concat, Flatten,
                            GlobalAvgPool, Layers, MaxPool)
from cnn_jax.networks.alexnet import response_norm
from cnn_jax.networks.blocks import ConvNormAct, sow_logits
from cnn_jax.networks.inputs import takes_images

# Table 1: 1x1 | 3x3 reduce, 3x3 | 5x5 reduce, 5x5 | pool projection.
CELLS = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
AUXILIARY = {"4a": "aux1", "4d": "aux2"}


class GoogLeNet(nn.Module):
    """Nine inception cells and a global average pool.

    [N, 224, 224, C] -> logits [N, num_classes]; 13,378,280 parameters with both
    auxiliary heads, 6,998,552 without. The pools round up (112, 56, 28, 14, 7). The
    auxiliary heads exist in training only; their logits are sown into the
    collection `aux_logits`; the paper's loss adds 0.3 times the loss of each. The form
    with batch norm has norm=True, lrn='' (7,005,832 parameters); torchvision's also has
    five=3, last_pool=2 (6,624,904: its '5x5' branch is 3 x 3) and aux_adaptive.
    Deviation: the paper gives no constants for the response norm; these are Caffe's.

    norm: whether batch norm follows each convolution, which then has no bias.
    five: kernel of the '5x5' branch, pixels; odd.
    last_pool: window of the last max pool (stride 2), pixels.
    lrn: 'caffe', 'paper' (AlexNet's) or ''.
    aux: whether the network has the two auxiliary heads.
    aux_adaptive: whether these average to 4 x 4 by windows that depend on the size;
        else, as in the paper, by 5 x 5 windows of stride 3 (4 x 4 for 224 pixels).
    dropout, aux_dropout: rates before the last dense layer of the heads.
    """

    num_classes: int = 1000
    norm: bool = False
    five: int = 5
    last_pool: int = 3
    lrn: str = "caffe"
    aux: bool = True
    aux_adaptive: bool = False
    dropout: float = 0.4
    aux_dropout: float = 0.7
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        if self.five % 2 == 0:
            raise ValueError(f"five must be an odd number of pixels, not {self.five}")
        block = functools.partial(
            ConvNormAct, padding="symmetric", bias=not self.norm, norm=self.norm,
            epsilon=1e-3, momentum=0.9, layers=make)

        def pool(window: int, name: str) -> MaxPool:
            return make.max_pool((window, window), (2, 2), ceil_mode=True, name=name)

        x = block(64, (7, 7), 2, name="stem_conv1")(x, train)
        x = pool(3, "stem_pool1")(x)
        x = response_norm(self.lrn, "stem_lrn1")(x)
        x = block(64, (1, 1), name="stem_conv2")(x, train)
        x = block(192, name="stem_conv3")(x, train)
        x = response_norm(self.lrn, "stem_lrn2")(x)
        x = pool(3, "stem_pool2")(x)
        for cell, widths in CELLS.items():
            stage = f"stage{cell[0]}"
            x = make.block(Cell, train)(widths, self.five, block,
                                        name=f"{stage}_{cell}")(x, train)
            if cell in AUXILIARY and self.aux and (train or self.is_initializing()):
                AuxiliaryHead(self.num_classes, self.aux_dropout, self.aux_adaptive,
                              block, make, name=AUXILIARY[cell])(x, train)
            if cell in ("3b", "4e"):
                x = pool(3 if cell == "3b" else self.last_pool, f"{stage}_pool")(x)
        x = GlobalAvgPool(name="pool")(x)
        x = make.dropout(self.dropout, name="drop")(x, train)
        return make.dense(self.num_classes, name="head")(x)


class Cell(nn.Module):
    """1x1 | 1x1, 3x3 | 1x1, 5x5 | 3x3 max pool, 1x1; concatenated."""

    widths: tuple[int, ...]
    five: int
    block: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        one, three_in, three, five_in, five, projection = self.widths
        a = self.block(one, (1, 1), name="a1")(x, train)
        b = self.block(three_in, (1, 1), name="b1")(x, train)
        b = self.block(three, (3, 3), name="b2")(b, train)
        c = self.block(five_in, (1, 1), name="c1")(x, train)
        c = self.block(five, (self.five, self.five), name="c2")(c, train)
        make = self.block.keywords["layers"]
        d = make.max_pool((3, 3), (1, 1), "symmetric", name="d_pool")(x)
        d = self.block(projection, (1, 1), name="d1")(d, train)
        return Concat(name="concat")(a, b, c, d)


class AuxiliaryHead(nn.Module):
    """Average pool to 4 x 4, 1 x 1 convolution, two dense layers."""

    num_classes: int
    dropout: float
    adaptive: bool
    block: functools.partial
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        x = (AdaptiveAvgPool(4, name="pool") if self.adaptive
             else make.avg_pool((5, 5), (3, 3), name="pool"))(x)
        x = self.block(128, (1, 1), name="conv")(x, train)
        x = Flatten(name="flatten")(x)
        x = make.dense(1024, name="fc")(x)
        x = Activation("relu", name="act")(x)
        x = make.dropout(self.dropout, name="drop")(x, train)
        return sow_logits(self, make.dense(self.num_classes, name="head")(x))
