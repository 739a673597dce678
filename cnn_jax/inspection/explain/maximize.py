"""Computes images that maximize the activations of filters or the logits of classes."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from cnn_jax.networks.trace import features


class AscentConfig(NamedTuple):
    """Holds the settings of the gradient ascent; `maximize` explains the terms."""

    steps: int = 128
    rate: float = 0.1      # in units of the input's range, falling to 0
    noise: float = 0.05    # standard deviation of the first image around the middle
    jitter: int = 2        # pixels either way
    blur: float = 0.7      # standard deviation at the first step, pixels
    l2: float = 0.3
    variation: float = 0.2


class Maximized(NamedTuple):
    """Holds the image found for each filter, and the unit's value before and after."""

    images: jax.Array  # [K, H, W, C], the network's input
    first: jax.Array   # [K], on the noise
    last: jax.Array    # [K], on the image


def maximize(network: nn.Module, variables: Any, filters: jax.Array, key: jax.Array,
             layer: str, image_shape: tuple[int, int, int],
             input_range: tuple[ArrayLike, ArrayLike] = (0.0, 1.0),
             config: AscentConfig = AscentConfig(),
             position: tuple[int, int] | None = None) -> Maximized:
    """Finds an image that maximizes the activation of each filter [K] of a layer.

    u in 0..1 is the image, x = low + (high - low) u is the network's input, and a(x) is
    the filter's map at `position` (None: the mean of the map), or the output of a dense
    layer. Each step moves u along

        n(da / du) - d/du (l2 |u - 1/2|^2 + variation TV(u))

    where n divides by the root mean square, so that the scale of a filter does not
    matter, and TV(u) = sum of |u[y+1, x] - u[y, x]| + |u[y, x+1] - u[y, x]|. Before
    each step the image is shifted by up to `jitter` random pixels, and shifted back
    afterwards. Then it is blurred, less with each step, and not in the last quarter.

    key: for the initial noise and the shifts.
    input_range: the network's input for black and white, [C] or one for all channels.
    Sources: Erhan et al.: Visualizing higher-layer features, 2009; Yosinski et al.:
    Understanding neural networks through deep visualization, 2015.
    """
    low, high = (jnp.asarray(end).reshape(1, 1, -1) for end in input_range)

    def value(u: jax.Array, index: jax.Array) -> jax.Array:
        x = low + (high - low) * u
        values = features(network, variables, x[None], inner="/" in layer)[
            layer][0, ..., index].astype(jnp.float32)
        return values.mean() if position is None else values[position]

    def step(u: jax.Array, count_and_key: tuple[jax.Array, jax.Array],
             index: jax.Array) -> tuple[jax.Array, None]:
        count, key = count_and_key
        move = jax.random.randint(key, (2,), -config.jitter, config.jitter + 1)
        moved = jnp.roll(u, move, (0, 1))
        slope = jax.grad(value)(moved, index)
        slope /= jnp.sqrt(jnp.mean(slope ** 2)) + 1e-12
        slope = jnp.roll(slope, -move, (0, 1)) - jax.grad(penalty)(u, config)
        u += config.rate * (1 - count / config.steps) * slope
        sigma = config.blur * jnp.maximum(0, 1 - count / (0.75 * config.steps))
        return jnp.clip(blur(u, sigma), 0, 1), None

    def ascend(key: jax.Array, index: jax.Array) -> Maximized:
        start, moves = jax.random.split(key)
        u = 0.5 + config.noise * jax.random.normal(start, image_shape)
        times = jnp.arange(config.steps), jax.random.split(moves, config.steps)
        best, _ = lax.scan(functools.partial(step, index=index), u, times)
        return Maximized(low + (high - low) * best, value(u, index), value(best, index))

    filters = jnp.asarray(filters)
    return jax.vmap(ascend)(jax.random.split(key, len(filters)), filters)


def penalty(u: jax.Array, config: AscentConfig) -> jax.Array:
    """Computes l2 |u - 1/2|^2 + variation TV(u)."""
    variation = sum(jnp.abs(jnp.diff(u, axis=axis)).sum() for axis in (0, 1))
    return config.l2 * jnp.square(u - 0.5).sum() + config.variation * variation


def blur(u: jax.Array, sigma: jax.Array) -> jax.Array:
    """Convolves [H, W, C] along both axes with N(0, sigma^2) over 5 pixels.

    The border pixels are repeated.
    """
    weights = jnp.exp(-0.5 * (jnp.arange(-2, 3) / jnp.maximum(sigma, 1e-3)) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padding = [(2, 2) if axis == other else (0, 0) for other in range(3)]
        wide = jnp.pad(u, padding, mode="edge")
        u = sum(weight * lax.slice_in_dim(wide, i, i + u.shape[axis], axis=axis)
                for i, weight in enumerate(weights))
    return u
