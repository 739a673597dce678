"""The blocks of the ResNets: a residual branch and a shortcut around it."""

import flax.linen as nn
import jax

from cnn_jax.layers import Activation, Add, Layers, Padding, Subsample


class ResidualBlock(nn.Module):
    """y = relu(F(x) + shortcut(x)), with F of two 3x3 or of 1x1, 3x3, 1x1 convolutions.

    Batch norm follows each convolution, and ReLU each batch norm but the last of F.

    features: of the 3 x 3 convolutions; a bottleneck ends in `expansion` times as many.
    groups: of the 3 x 3 convolution of a bottleneck.
    stride_in: the convolution of a bottleneck that has the stride, '1x1' or '3x3'.
    shortcut: where the shapes differ, 'conv' (1 x 1 convolution and batch norm: the
        paper's option B), or without parameters (option A) 'end' or 'both': every
        second pixel, and zero channels at the end or half on each side.
    zero_gamma: whether the last batch norm of F starts with gamma = 0.
    """

    features: int
    stride: int = 1
    bottleneck: bool = False
    expansion: int = 4
    groups: int = 1
    stride_in: str = "1x1"
    shortcut: str = "conv"
    bias: bool = False
    padding: Padding = "symmetric"
    zero_gamma: bool = False
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        plan = convolutions(self, self.expansion)
        y = x
        for i, (features, size, stride) in enumerate(plan, 1):
            last = i == len(plan)
            grouped = self.bottleneck and size == 3
            y = self.layers.convolution(
                features, (size, size), stride, self.padding, use_bias=self.bias,
                feature_group_count=self.groups if grouped else 1, name=f"conv{i}")(y)
            gamma = (nn.initializers.zeros if last and self.zero_gamma
                     else nn.initializers.ones)
            y = self.layers.batch_norm(train, momentum=0.9, scale_init=gamma,
                                       name=f"bn{i}")(y)
            if not last:
                y = Activation("relu", name=f"act{i}")(y)
        if self.stride != 1 or x.shape[-1] != features:
            x = project(self, x, features)
            if self.shortcut == "conv":
                x = self.layers.batch_norm(train, momentum=0.9, name="shortcut_bn")(x)
        return Activation("relu", materialized=True, name="act")(Add(name="add")(y, x))


class PreActBlock(nn.Module):
    """y = F(relu(bn(x))) + shortcut: batch norm and ReLU before each convolution.

    A shortcut that changes the number of features starts from relu(bn(x)), so the two
    paths split after that activation. Any other shortcut starts from x; one that only
    changes the size is a 1 x 1 max pool.

    preactivated: whether x is a relu(bn(...)) already, so that the block has no first
        batch norm and ReLU (the first block after a stem with an activation).
    bias: whether the shortcut and the last convolution have a bias.
    The other fields are those of `ResidualBlock`; a bottleneck expands four times.
    """

    features: int
    stride: int = 1
    bottleneck: bool = True
    stride_in: str = "3x3"
    shortcut: str = "conv"
    bias: bool = False
    padding: Padding = "symmetric"
    preactivated: bool = False
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        plan = convolutions(self)
        y = activated = x
        for i, (features, size, stride) in enumerate(plan, 1):
            if i > 1 or not self.preactivated:
                y = self.layers.batch_norm(train, momentum=0.9, name=f"bn{i}")(y)
                y = Activation("relu", name=f"act{i}")(y)
            if i == 1:
                activated = y
            y = self.layers.convolution(
                features, (size, size), stride, self.padding,
                use_bias=self.bias and i == len(plan), name=f"conv{i}")(y)
        if x.shape[-1] != features:
            x = project(self, activated, features)
        elif self.stride != 1:
            x = self.layers.max_pool((1, 1), (self.stride,) * 2,
                                     name="shortcut_pool")(x)
        return Add(name="add")(y, x)


Block = ResidualBlock | PreActBlock


def convolutions(block: Block, expansion: int = 4) -> list[tuple[int, int, int]]:
    """Lists (features, kernel size, stride) of the residual branch's convolutions."""
    features, stride = block.features, block.stride
    if block.stride_in not in ("1x1", "3x3"):
        raise ValueError(f"stride_in must be '1x1' or '3x3', not {block.stride_in!r}")
    if not block.bottleneck:
        return [(features, 3, stride), (features, 3, 1)]
    first, second = (stride, 1) if block.stride_in == "1x1" else (1, stride)
    return [(features, 1, first), (features, 3, second),
            (expansion * features, 1, 1)]


def project(block: Block, x: jax.Array, features: int) -> jax.Array:
    """Applies the shortcut that gives x the shape of the residual branch's output."""
    if block.shortcut == "conv":
        return block.layers.convolution(features, (1, 1), block.stride, block.padding,
                                        use_bias=block.bias, name="shortcut_conv")(x)
    missing = features - x.shape[-1]
    before = {"end": 0, "both": missing // 2}.get(block.shortcut)
    if before is None:
        raise ValueError(f"shortcut must be 'conv', 'end' or 'both', not "
                         f"{block.shortcut!r}")
    return Subsample(block.stride, (before, missing - before), name="shortcut")(x)
