"""MobileNet (Howard et al., 2017) and MobileNetV2 (Sandler et al.: Inverted residuals
and linear bottlenecks, 2018)."""

import functools

import flax.linen as nn
import jax

from cnn_jax.layers import Add, GlobalAvgPool, Layers, Padding
from cnn_jax.networks.blocks import ConvNormAct
from cnn_jax.networks.inputs import takes_images

# Depthwise separable layers of version 1: features, stride.
SEPARABLE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
             *((512, 1),) * 5, (1024, 2), (1024, 1))
# Stages of version 2 (its table 2): expansion, features, blocks, stride of the first.
INVERTED = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
            (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV1(nn.Module):
    """Depthwise and pointwise convolutions, each with batch norm and activation.

    [N, 224, 224, C] -> logits [N, num_classes]; 4,231,976 parameters at width 1.
    Deviations: none; dropout as in the authors' code. keras.applications has
    activation='relu6', padding='keras'.

    width: multiplies all features (1, 0.75, 0.5, 0.25 in the paper).
    activation: 'relu', or 'relu6' as in most implementations.
    padding: of strided convolutions: 'SAME', 'symmetric', or 'keras' (one row of zeros
        below and one column on the right, which is SAME for even sizes only).
    dropout: the rate before the head.
    """

    num_classes: int = 1000
    width: float = 1.0
    activation: str = "relu"
    padding: str = "SAME"
    dropout: float = 1e-3
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        check_width(self.width)
        block = functools.partial(
            self.layers.block(ConvNormAct, train), activation=self.activation,
            epsilon=1e-3, layers=self.layers)
        strided: Padding = ((0, 1), (0, 1)) if self.padding == "keras" else self.padding
        x = block(int(32 * self.width), (3, 3), 2, strided, name="stem")(x, train)
        stage = 1
        for i, (features, stride) in enumerate(SEPARABLE, 1):
            stage += stride - 1
            name = f"stage{stage}_layer{i}"
            x = block(0, (3, 3), stride, strided if stride == 2 else "SAME", groups=-1,
                      name=f"{name}_depthwise")(x, train)
            x = block(int(features * self.width), (1, 1),
                      name=f"{name}_pointwise")(x, train)
        x = GlobalAvgPool(name="pool")(x)
        x = self.layers.dropout(self.dropout, name="drop")(x, train)
        return self.layers.dense(self.num_classes, name="head")(x)


class MobileNetV2(nn.Module):
    """Inverted residuals: expand, depthwise, project without activation.

    [N, 224, 224, C] -> logits [N, num_classes]; 3,504,872 parameters at width 1.
    Deviations: none. keras.applications has `bn='keras_mobilenet_v2'`, torchvision
    padding='symmetric'.

    width: multiplies all features, rounded to multiples of 8. Below 1 it leaves the
        1280 features of the last layer unchanged.
    padding: of strided convolutions: 'SAME' or 'symmetric'.
    dropout: the rate before the head.
    """

    num_classes: int = 1000
    width: float = 1.0
    padding: str = "SAME"
    dropout: float = 0.2
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        check_width(self.width)
        block = functools.partial(ConvNormAct, activation="relu6", epsilon=1e-3,
                                  padding=self.padding, layers=self.layers)
        x = block(rounded(32 * self.width), (3, 3), 2, name="stem")(x, train)
        for i, (expansion, features, count, stride) in enumerate(INVERTED, 1):
            for j in range(1, count + 1):
                x = self.layers.block(InvertedResidual, train)(
                    rounded(features * self.width), expansion, stride if j == 1 else 1,
                    block, name=f"stage{i}_block{j}")(x, train)
        x = block(rounded(1280 * max(1.0, self.width)), (1, 1), name="final")(x, train)
        x = GlobalAvgPool(name="pool")(x)
        x = self.layers.dropout(self.dropout, name="drop")(x, train)
        return self.layers.dense(self.num_classes, name="head")(x)


class InvertedResidual(nn.Module):
    """1 x 1 expansion, 3 x 3 depthwise, linear 1 x 1; a shortcut if shapes agree."""

    features: int
    expansion: int
    stride: int
    block: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        y = x
        if self.expansion != 1:
            expanded = self.expansion * x.shape[-1]
            y = self.block(expanded, (1, 1), name="expand")(y, train)
        y = self.block(0, (3, 3), self.stride, groups=-1, name="depthwise")(y, train)
        y = self.block(self.features, (1, 1), activation="", name="project")(y, train)
        if self.stride == 1 and x.shape[-1] == self.features:
            y = Add(name="add")(y, x)
        return y


def rounded(features: float) -> int:
    """Rounds to the nearest multiple of 8, but never down by more than 10 %."""
    near = max(8, int(features + 4) // 8 * 8)
    return near + 8 if near < 0.9 * features else near


def check_width(width: float) -> None:
    """Raises ValueError for a width that is out of range."""
    if not 1 / 32 <= width <= 32:
        raise ValueError(f"width must be from 1/32 to 32, not {width}")
