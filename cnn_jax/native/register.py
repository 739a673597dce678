"""Gives the convolutions and sums of the native library to `cnn_jax.ops`."""

from cnn_jax.native import convolution, library, moments
from cnn_jax.ops.conv import addon

addon.register(addon.AddOn(
    onednn=lambda: library.load_onednn() is not None, describe=library.describe,
    bfloat16=library.has_bfloat16, convolution=convolution.select,
    channel_sums=moments.channel_sums))
