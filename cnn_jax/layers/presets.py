"""Activations, initializers and batch-norm presets, by name."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "lecun_tanh": lambda x: 1.7159 * jnp.tanh(x * (2 / 3)),  # LeCun et al., 1998
}


def within_fan_in(fan_in: int) -> Callable:
    """Makes the initializer of torch's biases: uniform within +- 1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int],
             dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)
    return init


def ai_edu_msra(key: jax.Array, shape: Sequence[int],
                dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draws the tutorial's He initialization: N(0, 2 / outputs) for dense layers.

    For convolutions its code has a standard deviation of sqrt(2 / height * width),
    which gives N(0, 2) for every square kernel.
    """
    deviation = math.sqrt(2 / shape[0] * shape[1] if len(shape) == 4 else 2 / shape[1])
    return deviation * jax.random.normal(key, shape, dtype)


def ai_edu_xavier(key: jax.Array, shape: Sequence[int],
                  dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draws the tutorial's Glorot initialization.

    The fans of a convolution are the height and width of its kernel.
    """
    bound = math.sqrt(6 / (shape[0] + shape[1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Initializers(NamedTuple):
    """The initializers of convolutions and dense layers."""

    kernel: Callable                              # (key, shape, dtype) -> array
    bias: Callable[[int], Callable] | None = None  # fan-in -> initializer; None: zeros


# Named after the library whose default they are, or by their usual name.
INITIALIZERS = {
    "flax": Initializers(nn.initializers.lecun_normal()),
    "lecun": Initializers(nn.initializers.lecun_normal()),
    "keras": Initializers(nn.initializers.glorot_uniform()),
    "glorot": Initializers(nn.initializers.glorot_uniform()),
    # kaiming_uniform(a=sqrt(5)): the kernels too are uniform within +- 1 / sqrt(fan_in)
    "torch": Initializers(nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
                          within_fan_in),
    "he": Initializers(nn.initializers.he_normal()),
    "ai_edu_msra": Initializers(ai_edu_msra),
    "ai_edu_xavier": Initializers(ai_edu_xavier),
    "gaussian": Initializers(nn.initializers.normal(0.01)),  # AlexNet, VGG
}


class BatchNormPreset(NamedTuple):
    """The options of batch norm in which libraries differ."""

    epsilon: float
    momentum: float         # the weight of the *old* running value
    unbiased: bool = False  # whether the running variance has the factor n / (n - 1)


BATCH_NORM = {
    "paper": BatchNormPreset(1e-5, 0.99),  # unless the network states its own
    "flax": BatchNormPreset(1e-5, 0.99),
    "keras": BatchNormPreset(1e-3, 0.99),
    "keras_resnet": BatchNormPreset(1.001e-5, 0.99),  # and keras' DenseNet
    "keras_mobilenet_v2": BatchNormPreset(1e-3, 0.999),
    "torch": BatchNormPreset(1e-5, 0.9, True),
    "torch_inception": BatchNormPreset(1e-3, 0.9, True),  # and torchvision's GoogLeNet
}


def lookup(table: dict, kind: str, name: str) -> Any:
    """Looks a name up; ValueError lists the known names."""
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(sorted(table))}")
    return table[name]
