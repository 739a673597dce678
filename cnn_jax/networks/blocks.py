"""Blocks that several families share: short sequences of layers."""

import flax.linen as nn
import jax

from cnn_jax.layers import Activation, Layers, Padding, Pair


class ConvNormAct(nn.Module):
    """Convolution, batch norm, activation: the C, B and A of CBAPD.

    [N, H, W, C] -> [N, H', W', features].
    features: 0 keeps the number of channels, as a depthwise convolution does.
    activation: a name in `layers.ACTIVATIONS`, or '' for none.
    norm: whether batch norm follows the convolution. `epsilon` and `momentum` are the
        network's own (None: the preset's); scale=False leaves out gamma.
    groups: of channels; -1: one group per channel, a depthwise convolution.
    """

    features: int
    kernel: Pair = (3, 3)
    strides: int = 1
    padding: Padding = "SAME"
    activation: str = "relu"
    bias: bool = False
    norm: bool = True
    epsilon: float | None = None
    momentum: float | None = None
    scale: bool = True
    groups: int = 1
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make, channels = self.layers, x.shape[-1]
        x = make.convolution(
            self.features or channels, self.kernel, self.strides, self.padding,
            use_bias=self.bias, name="conv",
            feature_group_count=channels if self.groups == -1 else self.groups)(x)
        if self.norm:
            x = make.batch_norm(train, self.epsilon, self.momentum,
                                use_scale=self.scale, name="bn")(x)
        if self.activation:
            x = Activation(self.activation, name="act")(x)
        return x


class SeparableConv(nn.Module):
    """A depthwise convolution, then a pointwise one; nothing between them.

    [N, H, W, C] -> [N, H', W', features] with k*k*C + C*features weights instead of
    k*k*C*features, as in keras' SeparableConv2D. `bias` is that of the pointwise
    convolution. Source: Chollet, 2017.
    """

    features: int
    kernel: Pair = (3, 3)
    strides: int = 1
    padding: Padding = "SAME"
    bias: bool = True
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        x = self.layers.convolution(
            channels, self.kernel, self.strides, self.padding, use_bias=False,
            feature_group_count=channels, name="depthwise")(x)
        return self.layers.convolution(self.features, (1, 1), use_bias=self.bias,
                                       name="pointwise")(x)


def sow_logits(head: nn.Module, logits: jax.Array) -> jax.Array:
    """Sows the logits of an auxiliary head into the collection `aux_logits`."""
    if not head.is_initializing():  # or the collection would become part of the state
        head.sow("aux_logits", "logits", logits)
    return logits
