"""VGG (Simonyan, Zisserman: Very deep convolutional networks for large-scale image
recognition, 2014)."""

import flax.linen as nn
import jax

from cnn_jax.layers import Activation, Layers
from cnn_jax.networks.alexnet import dense_layers, flattened
from cnn_jax.networks.inputs import takes_images

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3),
          19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """3 x 3 convolutions in five groups, each closed by a 2 x 2 max pool.

    [N, 224, 224, C] -> logits [N, num_classes]; 132,863,336 / 133,047,848 /
    138,357,544 / 143,667,240 parameters for 11 / 13 / 16 / 19 layers.
    Deviations: batch norm, which the paper does not have, is a variant; the
    convolutions keep their bias, as in torchvision. All strides are 1, so SAME padding
    is symmetric.

    depths: convolutions in each group (`DEPTHS`), at most five groups.
    norm: whether batch norm follows each convolution.
    dropout: the rate after each hidden dense layer.
    flatten_size: see `alexnet.flattened`; 7 in torchvision.
    """

    num_classes: int = 1000
    depths: tuple[int, ...] = DEPTHS[16]
    norm: bool = False
    dropout: float = 0.5
    flatten_size: int = 0
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        if len(self.depths) > len(WIDTHS):
            raise ValueError(f"VGG has at most {len(WIDTHS)} groups, not the "
                             f"{len(self.depths)} of depths = {self.depths}")
        for i, (features, depth) in enumerate(zip(WIDTHS, self.depths), 1):
            for j in range(1, depth + 1):
                x = make.convolution(features, (3, 3), name=f"stage{i}_conv{j}")(x)
                if self.norm:
                    x = make.batch_norm(train, momentum=0.9, name=f"stage{i}_bn{j}")(x)
                x = Activation("relu", name=f"stage{i}_act{j}")(x)
            x = make.max_pool((2, 2), name=f"stage{i}_pool")(x)
        x = flattened(x, self.flatten_size)
        return dense_layers(self, x, train)
