"""DenseNet (Huang, Liu, van der Maaten, Weinberger: Densely connected convolutional
networks, 2017)."""

import flax.linen as nn
import jax

from cnn_jax.layers import Activation, Concat, GlobalAvgPool, Layers
from cnn_jax.networks.inputs import takes_images

DEPTHS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32),
          264: (6, 12, 64, 48)}


class DenseNet(nn.Module):
    """Every layer reads all layers before it in its block.

    [N, 224, 224, C] -> logits [N, num_classes]; 7,978,856 / 14,149,480 / 20,013,928 /
    33,337,704 parameters for 121 / 169 / 201 / 264 layers. For 32 x 32 images:
    stem='3x3' and three equal blocks. The paper's L40 k12 (1,019,722 parameters) has no
    bottleneck and compression 1; its BC networks have both (L100 k12: 769,162).
    Deviations: none known. The paper has dropout 0.2 where images are not augmented.

    blocks: layers in each block (`DEPTHS`).
    growth: the features that a layer adds.
    compression: the fraction of the features that a transition keeps, in (0, 1].
    bottleneck: a 1 x 1 convolution to 4 * growth before each 3 x 3.
    stem: '7x7' of stride 2 and a pool, or '3x3' of stride 1.
    padding: of the stem's strided layers, 'symmetric' or 'SAME'.
    dropout: the rate after each 3 x 3 convolution.
    """

    num_classes: int = 1000
    blocks: tuple[int, ...] = DEPTHS[121]
    growth: int = 32
    compression: float = 0.5
    bottleneck: bool = True
    stem: str = "7x7"
    padding: str = "symmetric"
    dropout: float = 0.0
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        if self.growth < 1 or not 0 < self.compression <= 1:
            raise ValueError("DenseNet takes growth >= 1 and a compression above 0 and "
                             f"at most 1, not {self.growth} and {self.compression}")
        if self.stem == "7x7":
            x = make.convolution(2 * self.growth, (7, 7), 2, self.padding,
                                 use_bias=False, name="stem_conv")(x)
            x = norm_act(make, x, train, "stem_")
            x = make.max_pool((3, 3), (2, 2), self.padding, name="stem_pool")(x)
        elif self.stem == "3x3":
            features = 2 * self.growth if self.bottleneck else 16
            x = make.convolution(features, (3, 3), use_bias=False, name="stem_conv")(x)
        else:
            raise ValueError(f"stem must be '7x7' or '3x3', not {self.stem!r}")
        for i, count in enumerate(self.blocks, 1):
            for j in range(1, count + 1):
                x = make.block(DenseLayer, train)(
                    self.growth, self.bottleneck, self.dropout, make,
                    name=f"block{i}_layer{j}")(x, train)
            if i < len(self.blocks):
                x = make.block(Transition, train)(
                    int(x.shape[-1] * self.compression), make,
                    name=f"transition{i}")(x, train)
        x = norm_act(make, x, train, "final_")
        x = GlobalAvgPool(name="pool")(x)
        return make.dense(self.num_classes, name="head")(x)


class DenseLayer(nn.Module):
    """[x, F(x)] with F = batch norm, ReLU, convolution, once or (1 x 1 first) twice."""

    growth: int
    bottleneck: bool
    dropout: float
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        y = x
        if self.bottleneck:
            y = norm_act(make, y, train, "neck_")
            y = make.convolution(4 * self.growth, (1, 1), use_bias=False,
                                 name="neck_conv")(y)
            y = make.dropout(self.dropout, name="neck_drop")(y, train)
        y = norm_act(make, y, train, "")
        y = make.convolution(self.growth, (3, 3), use_bias=False, name="conv")(y)
        y = make.dropout(self.dropout, name="drop")(y, train)
        return Concat(name="concat")(x, y)


class Transition(nn.Module):
    """Batch norm, ReLU, 1 x 1 convolution, 2 x 2 mean pool: half the size."""

    features: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = norm_act(self.layers, x, train, "")
        x = self.layers.convolution(self.features, (1, 1), use_bias=False,
                                    name="conv")(x)
        return self.layers.avg_pool((2, 2), name="pool")(x)


def norm_act(make: Layers, x: jax.Array, train: bool, prefix: str) -> jax.Array:
    """Applies batch norm and ReLU."""
    x = make.batch_norm(train, momentum=0.9, name=f"{prefix}bn")(x)
    return Activation("relu", name=f"{prefix}act")(x)
