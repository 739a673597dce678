"""Measures weights, activations and dead units of a network, layer by layer."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.layers import ACTIVATIONS, Activation
from cnn_jax.networks.named_layers import Layer, kernel_of
from cnn_jax.networks.trace import Call, trace

PER_IMAGE = 64           # activations to keep of each layer and image
MOST_WEIGHTS = 100_000   # weights to keep of each layer
DEAD = 1e-6              # the largest slope of a dead unit


def kernel_values(variables: Any,
                  layers: Mapping[str, Layer]) -> dict[str, np.ndarray]:
    """Returns {layer: values of its kernel [n]}, at most `MOST_WEIGHTS` of each."""
    return {layer.name: subsample(kernel_of(variables, layer))
            for layer in layers.values() if layer.kernel is not None}


def subsample(values: np.ndarray, most: int = MOST_WEIGHTS) -> np.ndarray:
    """Flattens an array; draws `most` values if it has more, the same in each call."""
    if values.size <= most:
        return values.ravel()
    index = np.random.default_rng(0).integers(values.size, size=most)
    return values.ravel()[index]


def watch_activations(network: nn.Module, variables: Any,
                      images: jax.Array) -> dict[str, dict[str, jax.Array]]:
    """Measures each activation function f of the network. Returns, by layer name,

        slope    [N, units]      max |f'(z)| over the positions of an image
        values   [N, PER_IMAGE]  f(z) at random positions, the same in all images
    """
    _, calls = trace(network, variables, images)
    return {call.name: measure(call) for call in calls
            if isinstance(call.module, Activation)}


def measure(call: Call) -> dict[str, jax.Array]:
    """Measures one activation function; see `watch_activations`."""
    z = call.inputs[0].astype(jnp.float32)
    _, slope = jax.jvp(ACTIVATIONS[call.module.kind], (z,), (jnp.ones_like(z),))
    flat = call.output.reshape(len(z), -1).astype(jnp.float32)
    index = np.random.default_rng(0).integers(flat.shape[1], size=PER_IMAGE)
    return {"slope": jnp.abs(slope).max(tuple(range(1, z.ndim - 1))),
            "values": flat[:, index]}


def is_dead(slope: np.ndarray) -> np.ndarray:
    """Marks the units that have no slope in any image: [N, units] -> bool [units]."""
    return slope.max(0) <= DEAD


def standard_deviation(values: np.ndarray) -> float:
    """Computes the standard deviation in float64: squares may overflow float32."""
    return float(values.std(dtype=np.float64))
