"""Computes which pixels a score depends on, by gradients; all functions are pure.

Images are the network's input [N, H, W, C]; `targets` are classes [N], by default the
predicted ones; `explain.scores` defines the score.

`gradient` and `guided_gradient` can be jitted. The others call a compiled program many
times, since on a CPU a convolution is slower inside a jitted loop; `track` wraps their
loop, to show progress.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cnn_jax.inspection.explain.scores import (score_gradient, score_weights,
                                               weighted_logits)
from cnn_jax.inspection.forward import compiled, compute_logits
from cnn_jax.layers import ACTIVATIONS, Activation
from cnn_jax.networks.trace import Call, trace

GUIDED = ("relu", "relu6")  # activations that guided backpropagation changes


class Attributions(NamedTuple):
    """Holds integrated gradients."""

    values: jax.Array  # [N, H, W, C]
    error: jax.Array   # [N], relative error of their sum, see `integrated_gradients`
    steps: int         # number of points on the line


def gradient(network: nn.Module, variables: Any, images: jax.Array,
             targets: jax.Array | None = None) -> jax.Array:
    """Computes d score / d image, [N, H, W, C].

    Source: Simonyan, Vedaldi, Zisserman: Deep inside convolutional networks, 2014.
    """
    def total(images: jax.Array) -> jax.Array:
        logits = compute_logits(network, variables, images)
        return weighted_logits(logits, score_weights(logits, targets)).sum()
    return jax.grad(total)(images)


def smooth_grad(network: nn.Module, variables: Any, images: jax.Array,
                targets: jax.Array | None = None, *, key: jax.Array,
                sigma: ArrayLike, samples: int = 32,
                track: Callable = iter) -> jax.Array:
    """Averages the gradient over `samples` images x + N(0, sigma^2), [N, H, W, C].

    sigma: in units of the input, one for all channels or one for each; 0.1 to 0.2 of
        the input's range is usual.
    Source: Smilkov et al.: SmoothGrad, 2017.
    """
    weights = score_weights(compiled(compute_logits)(network, variables, images),
                            targets)
    slope = functools.partial(compiled(score_gradient), network, variables)
    total, sigma = jnp.zeros(images.shape), jnp.broadcast_to(sigma, images.shape)
    for sample_key in track(jax.random.split(key, samples)):
        noise = sigma * jax.random.normal(sample_key, images.shape)
        # Without waiting, the images of all calls would be in memory at once.
        total = jax.block_until_ready(total + slope(images + noise, weights))
    return total / samples


def integrated_gradients(network: nn.Module, variables: Any, images: jax.Array,
                         targets: jax.Array | None = None, *,
                         baseline: ArrayLike = 0.0, steps: int = 64,
                         tolerance: float = 1e-3, most_steps: int = 2000,
                         track: Callable = iter) -> Attributions:
    """Integrates the gradient along the straight line from a baseline x0 to x.

        values = (x - x0) * (1 / steps) sum over k = 0 ... steps - 1 of
                 score'(x0 + (k + 1/2) / steps * (x - x0))
        error = |sum of values - change| / max(1, |change|),
        change = score(x) - score(x0)

    The error is 0 for exact integrals (completeness). It falls with the steps, but only
    like 1 / steps if a ReLU or a maximum switches on the line. The steps are tripled,
    which keeps the points computed so far, until the error is at most `tolerance` for
    every image or another tripling would exceed `most_steps`.
    Source: Sundararajan, Taly, Yan: Axiomatic attribution for deep networks, 2017.
    """
    start = jnp.broadcast_to(jnp.asarray(baseline, images.dtype), images.shape)
    logits = functools.partial(compiled(compute_logits), network, variables)
    slope = functools.partial(compiled(score_gradient), network, variables)
    weights = score_weights(logits(images), targets)
    change = weighted_logits(logits(images) - logits(start), weights)
    total, points = jnp.zeros(images.shape), np.arange(steps)
    while True:
        for k in track(points):
            at = start + (k + 0.5) / steps * (images - start)
            total = jax.block_until_ready(total + slope(at, weights))
        values = (images - start) * total / steps
        error = (jnp.abs(values.sum((1, 2, 3)) - change)
                 / jnp.maximum(1, jnp.abs(change)))
        if error.max() <= tolerance or 3 * steps > most_steps:
            return Attributions(values, error, steps)
        steps *= 3
        points = np.arange(steps)[np.arange(steps) % 3 != 1]


def guided_gradient(network: nn.Module, variables: Any, images: jax.Array,
                    targets: jax.Array | None = None) -> jax.Array:
    """Computes guided backpropagation: every ReLU passes only positive gradients.

        backward of y = relu(x):  dx = (x > 0) * max(dy, 0)

    For ReLU6 the condition is 0 < x < 6. All other layers keep their backward pass, so
    that a network without ReLU gives the plain gradient. Returns [N, H, W, C].
    Source: Springenberg et al.: Striving for simplicity, 2015.
    """
    def guide(call: Call) -> jax.Array:
        module = call.module
        if isinstance(module, Activation) and module.kind in GUIDED:
            return guided(ACTIVATIONS[module.kind], *call.inputs)
        return call.output

    def total(images: jax.Array) -> jax.Array:
        logits = trace(network, variables, images, guide)[0].astype(jnp.float32)
        return weighted_logits(logits, score_weights(logits, targets)).sum()
    return jax.grad(total)(images)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def guided(activation: Callable, x: jax.Array) -> jax.Array:
    """Computes activation(x); the backward pass drops negative gradients."""
    return activation(x)


def guided_forward(activation: Callable, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keeps x for the backward pass."""
    return activation(x), x


def guided_backward(activation: Callable, x: jax.Array,
                    g: jax.Array) -> tuple[jax.Array]:
    """Passes max(g, 0) through the activation's own backward pass."""
    _, backward = jax.vjp(activation, x)
    return backward(jnp.maximum(g, 0))


guided.defvjp(guided_forward, guided_backward)
