"""ResNet for 32 x 32 images (He, Zhang, Ren, Sun: Deep residual learning for image
recognition, 2016, section 4.2; Identity mappings in deep residual networks, 2016)."""

import functools

import flax.linen as nn
import jax

from cnn_jax.layers import Activation, GlobalAvgPool, Layers, lookup
from cnn_jax.networks.inputs import takes_images
from cnn_jax.networks.residual import PreActBlock, ResidualBlock

# The paper's shortcut options -> `ResidualBlock.shortcut`; A has two places for zeros.
SHORTCUTS = {"A": "end", "A_both": "both", "B": "conv"}


class CifarResNet(nn.Module):
    """Three stages of 16, 32, 64 features; depth 6 n + 2, or 9 n + 2 with bottlenecks.

    [N, 32, 32, C] -> logits [N, num_classes]; with option A 269,722 / 464,154 /
    658,586 / 853,018 / 1,727,962 parameters for 20 / 32 / 44 / 56 / 110 layers.
    Deviations of version 1: none known; the paper does not say where option A's zeros
    go. Deviation of version 2 with two-convolution blocks (110 layers): the appendix of
    its paper applies batch norm and ReLU right after the stem's convolution, before the
    first block splits into its two paths; here the first block does that on its
    residual branch alone, and its shortcut carries the convolution's output as it is.
    stem_activation=True is the paper's order. The first block of the 164 and 1001
    layers changes the number of features, so its shortcut starts from the activated
    input, which is the paper's order already.

    depth: layers with weights, not counting shortcuts.
    shortcut: 'A' (zero channels at the end), 'A_both' (half on each side) or 'B' (1x1
        convolution; with batch norm unless pre-activated).
    preact: batch norm and ReLU before each convolution (version 2).
    bottleneck: 1x1, 3x3, 1x1 blocks, with the stride in the first convolution.
    stem_activation: of version 2 (version 1 always has it): batch norm and ReLU follow
        the stem's convolution, and the first block has no first batch norm and ReLU.
    """

    num_classes: int = 10
    depth: int = 20
    shortcut: str = "A"
    preact: bool = False
    bottleneck: bool = False
    padding: str = "symmetric"
    stem_activation: bool = False
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        per_block = 9 if self.bottleneck else 6
        count, remainder = divmod(self.depth - 2, per_block)
        if remainder or count < 1:
            raise ValueError(f"depth must be {per_block} n + 2, not {self.depth}")
        shortcut = lookup(SHORTCUTS, "shortcut option", self.shortcut)
        block = functools.partial(
            make.block(PreActBlock if self.preact else ResidualBlock, train),
            bottleneck=self.bottleneck, stride_in="1x1", shortcut=shortcut,
            padding=self.padding, layers=make)
        first_block = block
        if self.preact and self.stem_activation:
            first_block = functools.partial(block, preactivated=True)
        x = make.convolution(16, (3, 3), use_bias=False, name="stem_conv")(x)
        if not self.preact or self.stem_activation:
            x = make.batch_norm(train, momentum=0.9, name="stem_bn")(x)
            x = Activation("relu", name="stem_act")(x)
        for i in (1, 2, 3):
            for j in range(1, count + 1):
                make_block = first_block if i == j == 1 else block
                x = make_block(16 * 2 ** (i - 1), 2 if i > 1 and j == 1 else 1,
                               name=f"stage{i}_block{j}")(x, train)
        if self.preact:
            x = make.batch_norm(train, momentum=0.9, name="final_bn")(x)
            x = Activation("relu", name="final_act")(x)
        x = GlobalAvgPool(name="pool")(x)
        return make.dense(self.num_classes, name="head")(x)
