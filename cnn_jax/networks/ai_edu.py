"""The networks of the ai-edu tutorial (microsoft/ai-edu, step 8).

They are convolutional or, for comparison, fully connected. Batch norm has epsilon 1e-5
and momentum 0.9.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax.layers import Activation, Flatten, Layers
from cnn_jax.networks.inputs import takes_images


class AiEduCNN(nn.Module):
    """Convolution, ReLU, 2 x 2 max pool, repeated; dense, batch norm, ReLU; classes.

    [N, H, W, C] -> logits [N, num_classes]. The defaults are the colour network (3,815
    parameters on 28 x 28 x 3, 6 classes); the others are rows of `NETWORKS`.
    Deviations: the running variance of batch norm starts at 1 (in the tutorial at 0).

    convs: (features, kernel size, padding in pixels) of each convolution.
    dense: the features of the hidden layer.
    activation: a name in `layers.ACTIVATIONS`; the tutorial's is ReLU.
    """

    num_classes: int = 6
    convs: tuple[tuple[int, int, int], ...] = ((2, 1, 0), (3, 3, 0))
    dense: int = 32
    activation: str = "relu"
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        for i, (features, size, padding) in enumerate(self.convs, 1):
            x = make.convolution(features, (size, size), padding=padding,
                                 name=f"conv{i}")(x)
            x = Activation(self.activation, name=f"conv{i}_act")(x)
            x = make.max_pool((2, 2), name=f"conv{i}_pool")(x)
        x = Flatten(name="flatten")(x)
        x = make.dense(self.dense, name="fc1")(x)
        x = make.batch_norm(train, momentum=0.9, name="fc1_bn")(x)
        x = Activation(self.activation, name="fc1_act")(x)
        return make.dense(self.num_classes, name="head")(x)


class AiEduDNN(nn.Module):
    """No convolution: grey pixels, two hidden layers with ReLU, classes.

    [N, H, W, C] -> logits [N, num_classes]; 109,126 parameters on 28 x 28, 6 classes.
    The network turns colour images grey, .299 R + .587 G + .114 B, as in the tutorial.
    Deviations: the running variance of batch norm starts at 1 (in the tutorial at 0).

    hidden: features of the hidden layers.
    activations: one for each hidden layer, names in `layers.ACTIVATIONS`.
    norm: whether batch norm precedes each activation.
    """

    num_classes: int = 6
    hidden: tuple[int, ...] = (128, 64)
    activations: tuple[str, ...] = ("relu", "relu")
    norm: bool = False
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        if x.shape[-1] == 3:
            x = Grey(name="grey")(x)
        if len(self.hidden) != len(self.activations):
            raise ValueError(f"{len(self.hidden)} hidden layers need as many "
                             f"activations, not {self.activations}")
        x = Flatten(name="flatten")(x)
        for i, (features, kind) in enumerate(zip(self.hidden, self.activations), 1):
            x = make.dense(features, name=f"fc{i}")(x)
            if self.norm:
                x = make.batch_norm(train, momentum=0.9, name=f"fc{i}_bn")(x)
            x = Activation(kind, name=f"fc{i}_act")(x)
        return make.dense(self.num_classes, name="head")(x)


class AiEduCifar(nn.Module):
    """Keras' first CIFAR-10 example; 1,250,858 parameters on 32 x 32 x 3.

    [N, H, W, C] -> logits [N, num_classes]. Deviations: none known.
    """

    num_classes: int = 10
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        for i, features in enumerate((32, 64), 1):
            for j, padding in enumerate(("SAME", "VALID"), 1):
                x = make.convolution(features, (3, 3), padding=padding,
                                     name=f"group{i}_conv{j}")(x)
                x = Activation("relu", name=f"group{i}_act{j}")(x)
            x = make.max_pool((2, 2), name=f"group{i}_pool")(x)
            x = make.dropout(0.25, name=f"group{i}_drop")(x, train)
        x = Flatten(name="flatten")(x)
        x = make.dense(512, name="fc1")(x)
        x = Activation("relu", name="fc1_act")(x)
        x = make.dropout(0.5, name="fc1_drop")(x, train)
        return make.dense(self.num_classes, name="head")(x)


class Grey(nn.Module):
    """Computes the luminance of ITU-R BT.601: [N, H, W, 3] -> [N, H, W, 1]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.result_type(x, jnp.float32))  # integers would round to 0
        # On a CPU, XLA takes ten times as long for a sum over an axis of three.
        red, green, blue = jnp.split(x, 3, axis=-1)
        return 0.299 * red + 0.587 * green + 0.114 * blue
