"""ResNet for ImageNet (He, Zhang, Ren, Sun: Deep residual learning for image
recognition, 2016, and Identity mappings in deep residual networks, 2016)."""

import flax.linen as nn
import jax

from cnn_jax.layers import Activation, GlobalAvgPool, Layers, Padding, ZeroPad
from cnn_jax.networks.inputs import takes_images
from cnn_jax.networks.residual import PreActBlock, ResidualBlock

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
          152: (3, 8, 36, 3)}


class ResNet(nn.Module):
    """Version 1: convolution, batch norm, ReLU; the addition precedes the last ReLU.

    [N, 224, 224, C] -> logits [N, num_classes]; 11,689,512 / 21,797,672 / 25,557,032 /
    44,549,160 / 60,192,808 parameters for 18 / 34 / 50 / 101 / 152 layers.
    Deviations: symmetric padding and a padded stem pool, as in torchvision (the
    authors' Caffe pool is unpadded and rounds up: stem_pool='ceil').
    keras.applications has bias=True. For 32 x 32 images: stem='3x3'.
    ResNeXt (Xie et al.: Aggregated residual transformations for deep neural networks,
    2017) has groups=32, width=128 ('50 32x4d': 25,028,904 parameters) or width=256
    ('101 32x8d': 88,791,336). Wide ResNet (Zagoruyko, Komodakis, 2016) has width=128
    ('50-2': 68,883,240; '101-2': 126,886,696).

    blocks: number of blocks in each of the four stages (`DEPTHS`).
    bottleneck: whether blocks are 1x1, 3x3, 1x1 (50 layers and more).
    width: features of the 3 x 3 convolutions in the first stage, doubled in each later
        one. A bottleneck ends in 256 features (512, 1024, 2048) all the same, so its
        width must divide 256.
    groups: of a bottleneck's 3 x 3 convolution; must divide the width.
    stride_in: of a bottleneck, '1x1' as published or '3x3' (v1.5, torchvision).
    bias: whether the convolutions have a bias.
    stem: '7x7' of stride 2 and a pool, or '3x3' of stride 1.
    stem_pool: 'padded' with -inf, 'zero' (padded with zeros) or 'ceil'.
    padding: of strided layers, 'symmetric' or 'SAME'.
    zero_gamma: whether every block starts as the identity (Goyal et al., 2017).
    """

    num_classes: int = 1000
    blocks: tuple[int, ...] = DEPTHS[18]
    bottleneck: bool = False
    width: int = 64
    groups: int = 1
    stride_in: str = "1x1"
    bias: bool = False
    stem: str = "7x7"
    stem_pool: str = "padded"
    padding: str = "symmetric"
    zero_gamma: bool = False
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        check_widths(self)
        x = stem_convolution(self, x)
        x = make.batch_norm(train, momentum=0.9, name="stem_bn")(x)
        x = Activation("relu", name="stem_act")(x)
        if self.stem == "7x7":
            x = stem_pool(make, x, self.stem_pool, self.padding)
        for i, count in enumerate(self.blocks, 1):
            for j in range(1, count + 1):
                x = make.block(ResidualBlock, train)(
                    self.width * 2 ** (i - 1), 2 if i > 1 and j == 1 else 1,
                    self.bottleneck, 256 // self.width, self.groups,
                    self.stride_in, bias=self.bias,
                    padding=self.padding, zero_gamma=self.zero_gamma, layers=make,
                    name=f"stage{i}_block{j}")(x, train)
        x = GlobalAvgPool(name="pool")(x)
        return make.dense(self.num_classes, name="head")(x)


def check_widths(network: ResNet) -> None:
    """Raises ValueError for a width or groups that the blocks cannot have."""
    width, groups = network.width, network.groups
    if width < 1 or groups < 1 or width % groups:
        raise ValueError("ResNet takes a width and groups of at least 1, and groups "
                         f"must divide the width, not width {width}, groups {groups}")
    if network.bottleneck and 256 % width:
        raise ValueError("the width of ResNet's bottlenecks must divide 256, not be "
                         f"{width}")
    if groups > 1 and not network.bottleneck:
        raise ValueError(f"groups = {groups} are those of bottlenecks: set "
                         "bottleneck=True, or groups=1")


class PreActResNet(nn.Module):
    """Version 2: batch norm and ReLU before each convolution, none after the addition.

    [N, 224, 224, C] -> logits [N, num_classes]; 11,687,720 / 21,795,880 / 25,549,352 /
    44,541,480 / 60,185,128 parameters for 18 / 34 / 50 / 101 / 152 layers.
    Deviations: the stride of a stage is in a 3 x 3 convolution, as in timm; the
    authors' code has it in the first 1 x 1. The first activation has another place: the
    paper's appendix applies batch norm and ReLU right after the stem's convolution,
    before the first block splits into its two paths. Here, as in timm and Keras, the
    pool takes the convolution's output, and the first block activates it. With
    bottlenecks that block changes the number of features, so both of its paths still
    start from the activated input. With 18 and 34 layers it does not, and its shortcut
    carries the pooled output of the convolution, neither normalized nor rectified.
    stem_activation=True gives the paper's order: the activation then precedes the pool.
    keras.applications has stride_in='last', bias=True and stem_pool='zero' (without an
    activation in the stem, padding by zeros and by -inf differ).

    blocks, bottleneck, stem, padding: as in `ResNet`.
    stride_in: '3x3' or '1x1' of a stage's first block, or 'last': of the last block of
        the first three stages, with a 1 x 1 max pool on its shortcut.
    bias: whether the stem, the shortcuts and the last convolution of each block have a
        bias.
    stem_activation: whether batch norm and ReLU follow the stem's convolution. The
        first block then has no first batch norm and ReLU; the number of parameters is
        the same.
    """

    num_classes: int = 1000
    blocks: tuple[int, ...] = DEPTHS[50]
    bottleneck: bool = True
    stride_in: str = "3x3"
    bias: bool = False
    stem: str = "7x7"
    stem_pool: str = "padded"
    padding: str = "symmetric"
    stem_activation: bool = False
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        if self.stride_in not in ("1x1", "3x3", "last"):
            raise ValueError("stride_in must be '1x1', '3x3' or 'last', not "
                             f"{self.stride_in!r}")
        x = stem_convolution(self, x)
        if self.stem_activation:
            x = make.batch_norm(train, momentum=0.9, name="stem_bn")(x)
            x = Activation("relu", name="stem_act")(x)
        if self.stem == "7x7":
            x = stem_pool(make, x, self.stem_pool, self.padding)
        for i, count in enumerate(self.blocks, 1):
            if self.stride_in == "last":
                strided = count if i < len(self.blocks) else 0
            else:
                strided = 1 if i > 1 else 0
            for j in range(1, count + 1):
                x = make.block(PreActBlock, train)(
                    64 * 2 ** (i - 1), 2 if j == strided else 1, self.bottleneck,
                    "1x1" if self.stride_in == "1x1" else "3x3", bias=self.bias,
                    padding=self.padding, layers=make,
                    preactivated=self.stem_activation and i == j == 1,
                    name=f"stage{i}_block{j}")(x, train)
        x = make.batch_norm(train, momentum=0.9, name="final_bn")(x)
        x = Activation("relu", name="final_act")(x)
        x = GlobalAvgPool(name="pool")(x)
        return make.dense(self.num_classes, name="head")(x)


def stem_convolution(network: ResNet | PreActResNet, x: jax.Array) -> jax.Array:
    """Applies the first convolution: 7 x 7 of stride 2, or 3 x 3 of stride 1."""
    if network.stem not in ("7x7", "3x3"):
        raise ValueError(f"stem must be '7x7' or '3x3', not {network.stem!r}")
    size, stride = (7, 2) if network.stem == "7x7" else (3, 1)
    return network.layers.convolution(64, (size, size), stride, network.padding,
                                      use_bias=network.bias, name="stem_conv")(x)


def stem_pool(make: Layers, x: jax.Array, kind: str, padding: Padding) -> jax.Array:
    """Applies a 3 x 3 max pool of stride 2, padded by -inf or zeros or rounding up."""
    pool = (3, 3), (2, 2)
    if kind == "padded":
        return make.max_pool(*pool, padding, name="stem_pool")(x)
    if kind == "zero":
        x = ZeroPad(((1, 1), (1, 1)), name="stem_pad")(x)
        return make.max_pool(*pool, name="stem_pool")(x)
    if kind == "ceil":
        return make.max_pool(*pool, ceil_mode=True, name="stem_pool")(x)
    raise ValueError(f"stem_pool must be 'padded', 'zero' or 'ceil', not {kind!r}")
