"""A small fully convolutional network, which gives every pixel a class (after Long,
Shelhamer, Darrell: Fully convolutional networks for semantic segmentation, 2015)."""

import flax.linen as nn
import jax

from cnn_jax.layers import Activation, Layers
from cnn_jax.networks.inputs import takes_images


class FCN(nn.Module):
    """Convolutions and pools down, transposed convolutions up, a 1 x 1 convolution.

    [N, H, W, C] -> logits [N, H, W, num_classes]; H and W must be multiples of 4 (of
    2^n with n pools). 64,694 parameters for six classes in colour. The transposed
    convolutions have 4 x 4 kernels of stride 2. As the stride divides the kernel's
    size, every pixel sums the same number of products. This avoids checkerboard
    patterns (Odena, Dumoulin, Olah: Deconvolution and checkerboard artifacts, 2016).
    Deviations: only the idea is the paper's. The paper starts from a trained
    classifier, and adds the upsampled logits of earlier stages; this network does not.

    widths: features of the convolutions; a 2 x 2 max pool follows each but the last.
    kernel: of the convolutions, pixels.
    """

    num_classes: int = 6
    widths: tuple[int, ...] = (16, 32, 64)
    kernel: int = 3
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make, pools = self.layers, len(self.widths) - 1
        height, width = x.shape[1:3]
        if min(height, width) < 1 or height % 2 ** pools or width % 2 ** pools:
            raise ValueError(
                f"FCN takes images whose height and width are multiples of "
                f"{2 ** pools}, not {height}x{width} pixels: pad or resize them")
        for i, features in enumerate(self.widths, 1):
            x = make.convolution(features, (self.kernel,) * 2, name=f"encoder_conv{i}")(
                x)
            x = Activation("relu", name=f"encoder_act{i}")(x)
            if i <= pools:
                x = make.max_pool((2, 2), name=f"encoder_pool{i}")(x)
        for i, features in enumerate(reversed(self.widths[:-1]), 1):
            x = make.conv_transpose(features, (4, 4), 2, name=f"decoder_up{i}")(x)
            x = Activation("relu", name=f"decoder_act{i}")(x)
        return make.convolution(self.num_classes, (1, 1), name="head")(x)
