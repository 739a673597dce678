"""ResNet for 32 x 32 images (He et al., 2016, section 4.2; pre-activation: He et al.,
Identity mappings in deep residual networks, 2016)."""

import flax.linen as nn
import jax

from cnn_jax.layers import Activation, GlobalAvgPool, Layers, lookup
from cnn_jax.networks.inputs import takes_images
from cnn_jax.networks.residual import PreActBlock, ResidualBlock

# Shortcut options of the paper, and for A where the zero channels go.
SHORTCUTS = {"A": "end", "A_both": "both", "B": "conv"}


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 features; depth = 6 n + 2, or 9 n + 2 bottlenecks.

    [N, 32, 32, C] -> logits [N, num_classes]; with option A 269,722 / 464,154 /
    658,586 / 853,018 / 1,727,962 parameters for 20 / 32 / 44 / 56 / 110 layers.
    Deviations: none known; the paper does not say where option A's zeros go.

    depth: layers with weights, not counting shortcuts.
    shortcut: 'A' (zero channels at the end), 'A_both' (half each side) or 'B' (1x1
        convolution; with batch norm unless pre-activated).
    preact: batch norm and ReLU before each convolution (version 2).
    bottleneck: 1x1, 3x3, 1x1 blocks, with the stride in the first.
    """

    num_classes: int = 10
    depth: int = 20
    shortcut: str = "A"
    preact: bool = False
    bottleneck: bool = False
    padding: str = "symmetric"
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        make = self.layers
        per_block = 9 if self.bottleneck else 6
        count, rest = divmod(self.depth - 2, per_block)
        if rest or count < 1:
            raise ValueError(f"depth must be {per_block} n + 2, not {self.depth}")
        shortcut = lookup(SHORTCUTS, "shortcut option", self.shortcut)
        block = PreActBlock if self.preact else ResidualBlock
        x = make.convolution(16, (3, 3), use_bias=False, name="stem_conv")(x)
        if not self.preact:
            x = make.batch_norm(train, momentum=0.9, name="stem_bn")(x)
            x = Activation("relu", name="stem_act")(x)
        for i in (1, 2, 3):
            for j in range(1, count + 1):
                x = block(16 * 2 ** (i - 1), 2 if i > 1 and j == 1 else 1,
                          self.bottleneck, "1x1", shortcut, padding=self.padding,
                          layers=make, name=f"stage{i}_block{j}")(x, train)
        if self.preact:
            x = make.batch_norm(train, momentum=0.9, name="final_bn")(x)
            x = Activation("relu", name="final_act")(x)
        x = GlobalAvgPool(name="pool")(x)
        return make.dense(self.num_classes, name="head")(x)
