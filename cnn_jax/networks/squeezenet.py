"""SqueezeNet (Iandola et al.: SqueezeNet: AlexNet-level accuracy with 50x fewer
parameters and <0.5MB model size, 2016)."""

from typing import NamedTuple

import flax.linen as nn
import jax

from cnn_jax import ops
from cnn_jax.layers import Activation, Concat, Conv, Layers, lookup
from cnn_jax.networks.inputs import takes_images

# Fire modules 2 to 9: features of the squeeze layer, and of each expand layer.
FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256),
         (64, 256))


class Version(NamedTuple):
    """What differs between the versions."""

    features: int             # of the first convolution
    kernel: int               # of the first convolution, pixels
    pools: tuple[int, ...]    # the fire modules that a max pool follows


VERSIONS = {"1.0": Version(96, 7, (4, 8)), "1.1": Version(64, 3, (3, 5))}


class SqueezeNet(nn.Module):
    """Fire modules: a 1 x 1 convolution squeezes, 1 x 1 and 3 x 3 expand.

    [N, 224, 224, C] -> logits [N, num_classes]; 1,248,424 / 1,235,496 parameters for
    versions 1.0 / 1.1. The pools round up. Version 1.1, by the authors, needs 2.4 times
    fewer multiply-adds. There are no dense layers: the head is a 1 x 1 convolution with
    ReLU, averaged over all positions, so logits are never negative.
    Deviations: none; as in torchvision. The paper's bypass connections are left out.

    version: '1.0' or '1.1'.
    dropout: the rate before the head.
    """

    num_classes: int = 1000
    version: str = "1.0"
    dropout: float = 0.5
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        version = lookup(VERSIONS, "version of SqueezeNet", self.version)

        def pool(name: str, x: jax.Array) -> jax.Array:
            return make.max_pool((3, 3), (2, 2), ceil_mode=True, name=name)(x)

        x = make.convolution(version.features, (version.kernel,) * 2, 2, "VALID",
                             name="conv1")(x)
        x = pool("conv1_pool", Activation("relu", name="conv1_act")(x))
        for i, (squeeze, expand) in enumerate(FIRES, 2):
            x = Fire(squeeze, expand, make, name=f"fire{i}")(x)
            if i in version.pools:
                x = pool(f"fire{i}_pool", x)
        x = make.dropout(self.dropout, name="drop")(x, train)
        return ConvHead(self.num_classes, (1, 1), name="head",
                        conv_general_dilated=make.implementation,
                        **make.weighted({}))(x)


class Fire(nn.Module):
    """A squeeze layer, then [1 x 1, 3 x 3] expand layers; ReLU after each."""

    squeeze: int
    expand: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def layer(name: str, features: int, size: int, x: jax.Array) -> jax.Array:
            x = self.layers.convolution(features, (size, size), name=name)(x)
            return Activation("relu", name=f"{name}_act")(x)

        x = layer("squeeze", self.squeeze, 1, x)
        return Concat(name="concat")(layer("expand1", self.expand, 1, x),
                                     layer("expand3", self.expand, 3, x))


class ConvHead(Conv):
    """1 x 1 convolution, ReLU, mean over all positions: [N, H, W, C] -> [N, features].
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return ops.global_avg_pool(jax.nn.relu(super().__call__(x)))
