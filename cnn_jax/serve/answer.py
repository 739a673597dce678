"""Computes what the page shows for one picture, at every stroke of a drawing."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import data, inference, ops
from cnn_jax.data.scaling import Scaling, scale
from cnn_jax.inspection.explain.grad_cam import grad_cam, pick_cam_layer
from cnn_jax.inspection.explain.scores import predicted_classes
from cnn_jax.inspection.forward import compute_logits
from cnn_jax.networks.named_layers import Layer
from cnn_jax.networks.trace import perturbed
from cnn_jax.tasks import Task
from cnn_jax.workdir.trained import Trained


class Answer(NamedTuple):
    """Holds what the page shows for one picture [H, W, C]."""

    scores: jax.Array       # [classes]: probabilities, or fractions of the pixels
    mask: jax.Array | None  # [H, W]: class of each pixel; None for classes of images
    explained: jax.Array    # int [], the class that `cam` explains
    maps: jax.Array | None  # [h, w, K], the output of the layer; None without a layer
    cam: jax.Array | None   # [H, W], Grad-CAM, >= 0


def default_layer(layers: list[Layer]) -> str | None:
    """Returns the layer to show first.

    It is that of Grad-CAM, the last convolution before the head or the block around it,
    or the last layer of a network without convolutions.
    """
    if any(layer.is_convolution and layer.name != "head" for layer in layers):
        return pick_cam_layer({layer.name: layer for layer in layers}, "", "").name
    return layers[-1].name if layers else None


def compile_answer(trained: Trained
                   ) -> Callable[[np.ndarray, int, str | None], Answer]:
    """Compiles (uint8 picture [H, W, C], class, layer) -> Answer; see `answer`.

    The program of a layer is compiled at its first use.
    """
    @functools.cache
    def program(explains: bool) -> Callable[..., Answer]:
        network, variables = (
            (trained.network, trained.variables) if explains else inference.fastest(
                trained.network, trained.variables, trained.info.image_shape))
        # Variables are an argument: a closure would compile them in as constants.
        return functools.partial(ops.jit(functools.partial(
            answer, network=network, scaling=trained.info.scaling,
            task=data.task_of(trained.config.data)), static_argnames="layer"),
            jax.device_put(variables))

    return lambda pixels, index, layer: program(layer is not None)(
        pixels, np.int32(index), layer=layer)


def answer(variables: Any, pixels: jax.Array, index: jax.Array, layer: str | None,
           network: nn.Module, scaling: Scaling, task: Task) -> Answer:
    """Computes the answer for uint8 pixels [H, W, C].

    index: the class to explain. -1 stands for the predicted class, or in segmentation
        for the class of most pixels, other than the background if there is another.
    layer: the layer for the maps and for Grad-CAM; None leaves both out.
    """
    inputs = (network, variables, scale(pixels[None], scaling))
    if layer is None:
        logits, maps = compute_logits(*inputs), None
    else:  # a change of zero: `perturbed` also returns the layer's output
        logits, maps = perturbed(*inputs, layer, jnp.zeros(()))
        logits, maps = logits.astype(jnp.float32), maps[0].astype(jnp.float32)
    mask = task.predict(logits)[0] if task.unit == "pixel" else None
    explained = jnp.where(index < 0, predicted_classes(logits)[0], index)
    cam = None if layer is None else grad_cam(*inputs, explained[None], layer=layer)[0]
    return Answer(task.scores(logits)[0], mask, explained, maps, cam)
