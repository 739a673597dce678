"""Turns the kernels of a layer into small images."""

import numpy as np

from cnn_jax import layers
from cnn_jax.networks.lenet import SparseConv
from cnn_jax.networks.named_layers import Layer


def kernel_images(layer: Layer, kernel: np.ndarray,
                  known: dict[str, Layer]) -> tuple[np.ndarray, str] | None:
    """Returns ([h, w, channels read, filters], a description of the kernels).

    None for a dense layer that does not read an image.
    known: all layers of the network, by name.
    """
    module, (height, width) = layer.module, kernel.shape[:2]
    size = f"{height} x {width}"
    if isinstance(module, SparseConv):
        sources, targets = np.array(module.connections).T
        full = np.zeros((height, width, sources.max() + 1, module.features), np.float32)
        full[:, :, sources, targets] = kernel
        return full, f"kernels of {size} pixels, which read some of the channels"
    if isinstance(module, layers.ConvTranspose):
        kernel = np.moveaxis(kernel, 3, 2)
        return kernel, f"kernels of {size} pixels of a transposed convolution"
    if kernel.ndim == 4:
        groups = getattr(module, "feature_group_count", 1)
        kind = f"kernels of {size} pixels"
        if groups > 1 and kernel.shape[2] == 1:
            kind = f"depthwise kernels of {size} pixels, each reads one channel"
        elif groups > 1:
            kind += f" in {groups} groups, each reads {kernel.shape[2]} channels"
        return kernel, kind
    flatten = known.get(layer.follows) if layer.follows else None
    if flatten is None or not isinstance(flatten.module, layers.Flatten):
        return None
    return (kernel.reshape(*flatten.input_shape, kernel.shape[-1]),
            "units of a dense layer, whose weights are drawn where the pixels are")
