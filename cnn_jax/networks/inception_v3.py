"""Inception v3 (Szegedy et al.: Rethinking the inception architecture, 2016)."""

import functools

import flax.linen as nn
import jax

from cnn_jax.layers import Concat, GlobalAvgPool, Layers
from cnn_jax.networks.blocks import ConvNormAct, sow_logits
from cnn_jax.networks.inputs import takes_images

# A cell concatenates its branches; a branch is a sequence of steps. A step is one of
#     (features, kernel height, kernel width)      a convolution of stride 1, SAME
#     (features, kernel height, kernel width, 2)   a convolution of stride 2, VALID
#     'avg' or 'max'                               a 3 x 3 pool
#     (step, step)                                 the last two steps, in parallel
Step = tuple | str
Branches = tuple[tuple[Step, ...], ...]

LAST_STEPS = ((384, 1, 3), (384, 3, 1))


def cell_a(projection: int) -> Branches:
    return (((64, 1, 1),), ((48, 1, 1), (64, 5, 5)),
            ((64, 1, 1), (96, 3, 3), (96, 3, 3)), ("avg", (projection, 1, 1)))


def cell_c(width: int) -> Branches:
    return (((192, 1, 1),),
            ((width, 1, 1), (width, 1, 7), (192, 7, 1)),
            ((width, 1, 1), (width, 7, 1), (width, 1, 7), (width, 7, 1), (192, 1, 7)),
            ("avg", (192, 1, 1)))


CELL_E = (((320, 1, 1),), ((384, 1, 1), LAST_STEPS),
          ((448, 1, 1), (384, 3, 3), LAST_STEPS), ("avg", (192, 1, 1)))

CELLS = {
    "stage5_b": cell_a(32), "stage5_c": cell_a(64), "stage5_d": cell_a(64),
    "stage6_a": (((384, 3, 3, 2),), ((64, 1, 1), (96, 3, 3), (96, 3, 3, 2)), ("max",)),
    "stage6_b": cell_c(128), "stage6_c": cell_c(160), "stage6_d": cell_c(160),
    "stage6_e": cell_c(192),
    "stage7_a": (((192, 1, 1), (320, 3, 3, 2)),
                 ((192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)), ("max",)),
    "stage7_b": CELL_E, "stage7_c": CELL_E,
}


class InceptionV3(nn.Module):
    """Eleven inception cells with factorized convolutions.

    [N, 299, 299, C] -> logits [N, num_classes]; 27,161,264 parameters with the
    auxiliary head, 23,834,568 without. The auxiliary head exists in training only; its
    logits are sown into the collection `aux_logits`.
    Deviations: the figures of the paper leave details open; this is the network of its
    authors' code. keras.applications has scale=False (23,817,352), aux=False and no
    dropout; torchvision has count_include_pad=True, dropout=0.5.

    scale: whether batch norm has gamma.
    count_include_pad: whether the branches' average pools count the border's zeros.
    aux: whether the network has the auxiliary head.
    dropout: the rate before the head.
    """

    num_classes: int = 1000
    scale: bool = True
    count_include_pad: bool = False
    aux: bool = True
    dropout: float = 0.2
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        block = functools.partial(ConvNormAct, epsilon=1e-3, scale=self.scale,
                                  layers=make)
        x = block(32, (3, 3), 2, "VALID", name="stem_conv1")(x, train)
        x = block(32, (3, 3), 1, "VALID", name="stem_conv2")(x, train)
        x = block(64, (3, 3), name="stem_conv3")(x, train)
        x = make.max_pool((3, 3), (2, 2), name="stem_pool1")(x)
        x = block(80, (1, 1), name="stem_conv4")(x, train)
        x = block(192, (3, 3), 1, "VALID", name="stem_conv5")(x, train)
        x = make.max_pool((3, 3), (2, 2), name="stem_pool2")(x)
        for name, branches in CELLS.items():
            x = make.block(Cell, train)(branches, block, self.count_include_pad,
                                        name=name)(x, train)
            if name == "stage6_e" and self.aux and (train or self.is_initializing()):
                AuxiliaryHead(self.num_classes, block, make, name="aux")(x, train)
        x = GlobalAvgPool(name="pool")(x)
        x = make.dropout(self.dropout, name="drop")(x, train)
        return make.dense(self.num_classes, name="head")(x)


class Cell(nn.Module):
    """Concatenates branches of steps.

    The name of a layer is the letter of its branch and the number of its step.
    """

    branches: Branches
    block: functools.partial
    count_include_pad: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        outputs = []
        for letter, steps in zip("abcd", self.branches):
            y = x
            for i, step in enumerate(steps, 1):
                y = self.step(y, train, step, f"{letter}{i}")
            outputs.append(y)
        return Concat(name="concat")(*outputs)

    def step(self, x: jax.Array, train: bool, step: Step, name: str) -> jax.Array:
        make = self.block.keywords["layers"]
        if isinstance(step, str):
            if step == "max":
                return make.max_pool((3, 3), (2, 2), name=name)(x)
            return make.avg_pool((3, 3), (1, 1), "symmetric", name=name,
                                 count_include_pad=self.count_include_pad)(x)
        if isinstance(step[0], tuple):
            return Concat(name=f"{name}_concat")(*(
                self.step(x, train, side, f"{name}{i}") for i, side in zip("xy", step)))
        features, height, width, *stride = step
        strides, padding = (2, "VALID") if stride else (1, "SAME")
        return self.block(features, (height, width), strides, padding, name=name)(
            x, train)


class AuxiliaryHead(nn.Module):
    """5 x 5 average pool of stride 3, 1 x 1 and 5 x 5 convolutions, global average."""

    num_classes: int
    block: functools.partial
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = self.layers.avg_pool((5, 5), (3, 3), name="pool")(x)
        x = self.block(128, (1, 1), name="conv1")(x, train)
        x = self.block(768, (5, 5), 1, "VALID", name="conv2")(x, train)
        x = GlobalAvgPool(name="mean")(x)
        return sow_logits(self, self.layers.dense(self.num_classes, name="head")(x))
