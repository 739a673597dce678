"""The small networks of the tutorials: stacks of convolutions and 2 x 2 max pools."""

import flax.linen as nn
import jax

from cnn_jax.layers import Activation, Flatten, Layers
from cnn_jax.networks.blocks import SeparableConv
from cnn_jax.networks.inputs import takes_images


class StackedCNN(nn.Module):
    """Groups of convolutions, each closed by a 2 x 2 max pool; dense layers.

    [N, H, W, C] -> logits [N, num_classes]. The defaults are the SELU network for
    Fashion-MNIST (435,306 parameters on 28 x 28 x 1; 184,234 with separable=True).
    With ReLU, on 128 x 128 x 3, it is the network for ten monkeys (4,482,730). keras'
    simple MNIST network (34,826) has ReLU, groups=((32,), (64,)), dense=(),
    padding='VALID' and, in keras' own form, dropout=0.5; with kernels=(3, 2) it becomes
    that of a PyTorch tutorial (31,626).
    Deviations: none; the tutorials use keras' initializer (`Layers(init='keras')`).

    groups: features of the convolutions before each pool.
    kernels: size of the convolutions in each group, pixels; the last holds for all
        groups after it.
    dense: features of the hidden layers after flattening.
    activation: a name in `layers.ACTIVATIONS`.
    padding: of the convolutions.
    separable: whether all convolutions but the first are depthwise separable.
    dropout: the rate before the head.
    """

    num_classes: int = 10
    groups: tuple[tuple[int, ...], ...] = ((32, 32), (64, 64), (128, 128))
    kernels: tuple[int, ...] = (3,)
    dense: tuple[int, ...] = (128,)
    activation: str = "selu"
    padding: str = "SAME"
    separable: bool = False
    dropout: float = 0.0
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        for i, group in enumerate(self.groups, 1):
            kernel = (self.kernels[min(i, len(self.kernels)) - 1],) * 2
            for j, features in enumerate(group, 1):
                name = f"group{i}_conv{j}"
                if self.separable and (i, j) != (1, 1):
                    x = SeparableConv(features, kernel, padding=self.padding,
                                      layers=make, name=name)(x)
                else:
                    x = make.convolution(features, kernel, padding=self.padding,
                                         name=name)(x)
                x = Activation(self.activation, name=f"group{i}_act{j}")(x)
            x = make.max_pool((2, 2), name=f"group{i}_pool")(x)
        x = Flatten(name="flatten")(x)
        for i, features in enumerate(self.dense, 1):
            x = make.dense(features, name=f"fc{i}")(x)
            x = Activation(self.activation, name=f"fc{i}_act")(x)
        if self.dropout:
            x = make.dropout(self.dropout, name="drop")(x, train)
        return make.dense(self.num_classes, name="head")(x)
