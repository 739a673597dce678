"""A network of three units, small enough to compute by hand."""

import flax.linen as nn
import jax
import numpy as np

from cnn_jax import layers


class Small(nn.Module):
    """Has three hidden units and known parameters."""

    kind: str
    classes: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(3, name="fc")(x)
        x = layers.Activation(self.kind, name="act")(x)
        return layers.Dense(self.classes, name="head")(x)


# For x = (1, 2) and (3, 0): z = (-99, 0.5, 102) and (-97, -2.5, 100). With ReLU the
# features are (0, 0.5, 102) and (0, 0, 100), the logits (102, -101.5) and (100, -100).
PARAMS = {"fc": {"kernel": np.array([[1, -1, 0], [0, 0.5, 1]], np.float32),
                 "bias": np.array([-100, 0.5, 100], np.float32)},
          "head": {"kernel": np.array([[1, 0], [0, 1], [1, -1]], np.float32),
                   "bias": np.zeros(2, np.float32)}}
PIXELS = np.array([[1, 2], [3, 0]], np.uint8).reshape(2, 1, 2, 1)
