"""Which pixels an answer rests on: six ways to ask a network, as pure functions.

All of them explain the score of one class for each image: its logit, and of a network
that names a class for each pixel the mean logit over the pixels that it gives to this
class. Images are the network's input [N, H, W, C]; `targets` are classes [N], by
default those that the network names.

`gradient`, `guided_gradient` and `grad_cam` can be put under `jax.jit`. The others call
one compiled program many times, since on a CPU a convolution is slower in a loop;
`track` wraps what they loop over, to show how far they are.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax import ops
from cnn_jax.errors import InputError
from cnn_jax.inspection.inspected_run import logits_of
from cnn_jax.networks.named_layers import Layer, layers_of, pick
from cnn_jax.networks.receptive_field import field_of_layer
from cnn_jax.networks.trace import Call, perturbed, trace
from cnn_jax.layers import ACTIVATIONS, Activation

GUIDED = ("relu", "relu6")  # activations that guided backpropagation changes


class Attributions(NamedTuple):
    """Integrated gradients."""

    values: jax.Array  # [N, H, W, C]
    error: jax.Array   # [N], how far their sum is from the change of the score
    steps: int         # points on the way


def predicted(logits: jax.Array) -> jax.Array:
    """int [N]: the class of each image; of pixels the one with most of them, class 0
    (the background) only where there is no other."""
    classes = logits.argmax(-1)
    if classes.ndim == 1:
        return classes
    counts = jax.nn.one_hot(classes, logits.shape[-1]).sum((1, 2))
    return (counts.at[:, 0].multiply(1e-9)).argmax(-1)


def score_weights(logits: jax.Array, targets: jax.Array | None) -> jax.Array:
    """w, of the shape of the logits, with score = sum of w * logits; constant."""
    logits = lax.stop_gradient(logits)
    targets = predicted(logits) if targets is None else jnp.asarray(targets)
    chosen = jax.nn.one_hot(targets, logits.shape[-1])
    if logits.ndim == 2:
        return chosen
    where = logits.argmax(-1) == targets[:, None, None]
    where = jnp.where(where.any((1, 2), keepdims=True), where, True)
    return chosen[:, None, None] * (
        where / where.sum((1, 2), keepdims=True))[..., None]


def scores(logits: jax.Array, weights: jax.Array) -> jax.Array:
    """[N]"""
    return (logits * weights).sum(tuple(range(1, logits.ndim)))


def score_of(network: nn.Module, variables: Any, images: jax.Array,
             weights: jax.Array) -> jax.Array:
    """[N]"""
    return scores(logits_of(network, variables, images), weights)


def score_gradient(network: nn.Module, variables: Any, images: jax.Array,
                   weights: jax.Array) -> jax.Array:
    """d score / d image, [N, H, W, C]; every image has its own score."""
    return jax.grad(lambda images: score_of(
        network, variables, images, weights).sum())(images)


@functools.lru_cache(maxsize=32)
def compiled(function: Callable) -> Callable:
    """function(network, ...) as one program for each network and shape."""
    return jax.jit(function, static_argnums=0, compiler_options=ops.compiler_options())


def gradient(network: nn.Module, variables: Any, images: jax.Array,
             targets: jax.Array | None = None) -> jax.Array:
    """d score / d image, [N, H, W, C].

    Source: Simonyan, Vedaldi, Zisserman: Deep inside convolutional networks, 2014.
    """
    def total(images):
        logits = logits_of(network, variables, images)
        return scores(logits, score_weights(logits, targets)).sum()
    return jax.grad(total)(images)


def smooth_grad(network: nn.Module, variables: Any, images: jax.Array,
                targets: jax.Array | None = None, *, key: jax.Array, sigma: float,
                samples: int = 32, track: Callable = iter) -> jax.Array:
    """The mean of the gradient at `samples` images x + N(0, sigma^2), [N, H, W, C].

    sigma: in units of the input; 0.1 to 0.2 of its range is usual.
    Source: Smilkov et al.: SmoothGrad, 2017.
    """
    weights = score_weights(compiled(logits_of)(network, variables, images), targets)
    slope = functools.partial(compiled(score_gradient), network, variables)
    total = 0.0
    for one in track(jax.random.split(key, samples)):
        noise = sigma * jax.random.normal(one, images.shape)
        # Without waiting, the images of all calls would be held at once.
        total = jax.block_until_ready(total + slope(images + noise, weights))
    return total / samples


def integrated_gradients(network: nn.Module, variables: Any, images: jax.Array,
                         targets: jax.Array | None = None, *,
                         baseline: jax.Array | float = 0.0, steps: int = 64,
                         tolerance: float = 1e-3, most_steps: int = 2000,
                         track: Callable = iter) -> Attributions:
    """(x - x0) * mean of the gradient on the straight line from x0 to x.

        values = (x - x0) * (1 / steps) sum over k = 0 ... steps - 1 of
                 score'(x0 + (k + 1/2) / steps * (x - x0))
        error = |sum of values - change| / max(1, |change|),
        change = score(x) - score(x0)

    The error is 0 for exact integrals (completeness). It falls with the steps; where a
    ReLU or a maximum switches on the way, like 1 / steps. Steps are tripled, which
    keeps the points there are, until it is at most `tolerance` for every image, or they
    would be more than `most_steps`.
    Source: Sundararajan, Taly, Yan: Axiomatic attribution for deep networks, 2017.
    """
    start = jnp.broadcast_to(jnp.asarray(baseline, images.dtype), images.shape)
    logits = functools.partial(compiled(logits_of), network, variables)
    slope = functools.partial(compiled(score_gradient), network, variables)
    weights = score_weights(logits(images), targets)
    change = scores(logits(images) - logits(start), weights)
    total, places = 0.0, np.arange(steps)
    while True:
        for place in track(places):
            at = start + (place + 0.5) / steps * (images - start)
            total = jax.block_until_ready(total + slope(at, weights))
        values = (images - start) * total / steps
        error = (jnp.abs(values.sum((1, 2, 3)) - change)
                 / jnp.maximum(1, jnp.abs(change)))
        if error.max() <= tolerance or 3 * steps > most_steps:
            return Attributions(values, error, steps)
        steps *= 3
        places = np.arange(steps)[np.arange(steps) % 3 != 1]


def guided_gradient(network: nn.Module, variables: Any, images: jax.Array,
                    targets: jax.Array | None = None) -> jax.Array:
    """Guided backpropagation: every ReLU passes only positive gradients, [N, H, W, C].

        backward of y = relu(x):  dx = (x > 0) * max(dy, 0)

    Of ReLU6 likewise, where 0 < x < 6. The method knows no other activations: selu,
    sigmoid and tanh keep their own backward pass, and where a network has only these
    the result is the gradient. Maxima are passed as in the gradient.
    Source: Springenberg et al.: Striving for simplicity, 2015.
    """
    def guide(call: Call) -> jax.Array:
        module = call.module
        if isinstance(module, Activation) and module.kind in GUIDED:
            return guided(ACTIVATIONS[module.kind], *call.inputs)
        return call.output

    def total(images: jax.Array) -> jax.Array:
        logits, _ = trace(network, variables, images, guide)
        logits = logits.astype(jnp.float32)
        return scores(logits, score_weights(logits, targets)).sum()
    return jax.grad(total)(images)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def guided(activation, x: jax.Array) -> jax.Array:
    """activation(x), whose backward pass drops negative gradients."""
    return activation(x)


def guided_forward(activation, x):
    return activation(x), x


def guided_backward(activation, x, g):
    _, backward = jax.vjp(activation, x)
    return backward(jnp.maximum(g, 0))


guided.defvjp(guided_forward, guided_backward)


def grad_cam(network: nn.Module, variables: Any, images: jax.Array,
             targets: jax.Array | None = None, *, layer: str = "") -> jax.Array:
    """Grad-CAM on a layer with output A [N, h, w, K]: [N, H, W], >= 0.

        a[k] = mean over the positions of d score / d A[.., k]
        map = relu(sum over k of a[k] * A[.., k]), interpolated to the pixels

    Position p of the layer stands at the middle of its receptive field (for layers
    padded to the same size that is plain enlarging).
    layer: by default the last one with height and width (`cam_layer`).
    Raises InputError for a layer that does not exist or has no height and width.
    Source: Selvaraju et al.: Grad-CAM, 2017.
    """
    image_shape = images.shape[1:]
    layer, shape = cam_layer(network, variables, image_shape, layer)

    def total(change):
        logits, out = perturbed(network, variables, images, layer, change)
        logits = logits.astype(jnp.float32)
        return scores(logits, score_weights(logits, targets)).sum(), out

    slopes, maps = jax.grad(total, has_aux=True)(jnp.zeros((len(images), *shape)))
    weights = slopes.mean((1, 2), keepdims=True)
    cam = jax.nn.relu((weights * maps.astype(jnp.float32)).sum(-1))
    across = [interpolation(n, size, field) for n, size, field in zip(
        shape, image_shape, field_of_layer(network, image_shape, layer)
        or (None, None))]
    return jnp.einsum("yh,nhw,xw->nyx", across[0], cam, across[1])


def cam_layer(network: nn.Module, variables: Any, image_shape: tuple[int, int, int],
              name: str = "") -> tuple[str, tuple[int, int, int]]:
    """Name and shape of what `pick_cam_layer` finds in a network, which is traced for
    it."""
    layer = pick_cam_layer(layers_of(network, variables, image_shape), name,
                           type(network).__name__)
    return layer.name, layer.shape


def pick_cam_layer(layers: dict[str, Layer], name: str, network_name: str) -> Layer:
    """The layer of that name, or for '' the last convolution before the head."""
    if name:
        return pick(layers, name, network_name, maps=True)
    convolutions = [layer for layer in layers.values() if layer.is_convolution
                    and layer.is_map and layer.name != "head"]
    if not convolutions:
        raise InputError(f"{network_name} has no convolution, and Grad-CAM needs one: "
                         "ask for another explanation")
    return convolutions[-1]


def interpolation(positions: int, pixels: int, field) -> jax.Array:
    """[pixels, positions]: the weights by which every pixel mixes the nearest two
    positions; beyond the outermost ones it takes these."""
    if field is not None and field.stride:
        middle = field.offset + (field.size - 1) / 2  # of the first position
        place = (jnp.arange(pixels) - middle) / field.stride
    else:
        place = (jnp.arange(pixels) + 0.5) * positions / pixels - 0.5
    place = jnp.clip(place, 0, positions - 1)
    return jnp.maximum(0, 1 - jnp.abs(place[:, None] - jnp.arange(positions)))


def occlusion(network: nn.Module, variables: Any, images: jax.Array,
              targets: jax.Array | None = None, *, window: int, stride: int = 0,
              fill: float = 0.0, chunk: int = 16, track: Callable = iter) -> jax.Array:
    """How much the score falls where a square is hidden: [N, H, W].

    Of each pixel it is the mean over the squares that cover it. They stand `stride`
    pixels apart (0: half a side), and the last of a row ends with the image.

    window: side of the square, pixels; fill: what it is filled with, in units of the
    input; chunk: how many squares are tried at once on every image.
    Source: Zeiler, Fergus: Visualizing and understanding convolutional networks, 2014.
    """
    height, width = images.shape[1:3]
    if not 1 <= window <= min(height, width):
        raise InputError(f"a window of {window} pixels does not fit into images of "
                         f"{height} x {width}: use 1 to {min(height, width)}")
    masks = np.stack([  # [squares, H, W]
        np.outer(inside(y, window, height), inside(x, window, width))
        for y in starts(height, window, stride) for x in starts(width, window, stride)])
    weights = score_weights(compiled(logits_of)(network, variables, images), targets)
    score = functools.partial(compiled(score_of), network, variables)
    whole, falls = score(images, weights), 0.0
    size = min(chunk, len(masks))
    for first in track(range(0, len(masks), size)):
        # The last chunk is filled up with squares of nothing: one compilation.
        group = np.zeros((size, height, width), bool)
        found = masks[first:first + size]
        group[:len(found)] = found
        hidden = jnp.where(group[:, None, ..., None], fill, images[None])
        after = score(hidden.reshape(-1, *images.shape[1:]),
                      jnp.tile(weights, (size, *(1,) * (weights.ndim - 1))))
        fall = whole - after.reshape(size, -1)
        falls += jnp.einsum("pn,phw->nhw", fall, group.astype(jnp.float32))
    return falls / masks.sum(0)


def inside(first: int, count: int, size: int) -> np.ndarray:
    """bool [size]: whether first <= place < first + count."""
    return (np.arange(size) >= first) & (np.arange(size) < first + count)


def starts(size: int, window: int, stride: int = 0) -> list[int]:
    """Where the squares begin along an axis."""
    stride = stride or max(1, window // 2)
    return [*range(0, size - window, stride), size - window]
