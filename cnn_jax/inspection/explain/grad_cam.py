"""Computes Grad-CAM: where a layer's maps support a class."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax.errors import InputError
from cnn_jax.inspection.explain.scores import score_weights, weighted_logits
from cnn_jax.networks.named_layers import Layer, layers_of, pick
from cnn_jax.networks.receptive_field import AxisField, field_of_layer
from cnn_jax.networks.trace import perturbed


def grad_cam(network: nn.Module, variables: Any, images: jax.Array,
             targets: jax.Array | None = None, *, layer: str = "") -> jax.Array:
    """Computes Grad-CAM on a layer with output A [N, h, w, K]: [N, H, W], >= 0.

        a[k] = mean over the positions of d score / d A[.., k]
        map = relu(sum over k of a[k] * A[.., k]), interpolated to the pixels

    Position p of the layer is placed at the middle of its receptive field. If every
    layer pads to the same size, that only enlarges the map.
    layer: by default the last convolution before the head, or the block around it.
    Raises InputError for a layer that does not exist or has no height and width.
    Source: Selvaraju et al.: Grad-CAM, 2017.
    """
    _, height, width, channels = images.shape
    image_shape = height, width, channels
    cam_layer = pick_cam_layer(layers_of(network, variables, image_shape), layer,
                               type(network).__name__)

    def total(change: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, out = perturbed(network, variables, images, cam_layer.name, change)
        logits = logits.astype(jnp.float32)
        return weighted_logits(logits, score_weights(logits, targets)).sum(), out

    slopes, maps = jax.grad(total, has_aux=True)(
        jnp.zeros((len(images), *cam_layer.shape)))
    weights = slopes.mean((1, 2), keepdims=True)
    cam = jax.nn.relu((weights * maps.astype(jnp.float32)).sum(-1))
    fields = field_of_layer(network, image_shape, cam_layer.name) or (None, None)
    down, across = (interpolation(*axis)
                    for axis in zip(cam_layer.shape, image_shape, fields))
    return jnp.einsum("yh,nhw,xw->nyx", down, cam, across)


def pick_cam_layer(layers: dict[str, Layer], name: str, network_name: str) -> Layer:
    """Returns the named layer, or for '' the last convolution before the head.

    If that is inside a block, it is the block, whose output holds all its branches,
    after their activations.
    """
    if name:
        return pick(layers, name, network_name, maps=True)
    convolutions = [layer for layer in layers.values() if layer.is_convolution
                    and layer.is_map and layer.name != "head"]
    if not convolutions:
        raise InputError(f"{network_name} has no convolution, and Grad-CAM needs one: "
                         "ask for another explanation")
    last = convolutions[-1]
    block = layers.get(last.name.partition("/")[0], last)
    return block if block.is_map else last


def interpolation(positions: int, pixels: int, field: AxisField | None) -> jax.Array:
    """Returns the weights [pixels, positions] of linear interpolation.

    Every pixel mixes the two nearest positions; pixels beyond the outermost position
    take its value.
    """
    if field is not None and field.stride:
        middle = field.offset + (field.size - 1) / 2  # of the first position
        position = (jnp.arange(pixels) - middle) / field.stride
    else:
        position = (jnp.arange(pixels) + 0.5) * positions / pixels - 0.5
    position = jnp.clip(position, 0, positions - 1)
    return jnp.maximum(0, 1 - jnp.abs(position[:, None] - jnp.arange(positions)[None]))
