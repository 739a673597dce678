"""What a trained network makes of one picture, for a page that asks at every stroke."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import ops
from cnn_jax.networks.named_layers import Layer, layers_of
from cnn_jax.networks.trace import perturbed
from cnn_jax.inspection.explain.saliency import grad_cam, predicted
from cnn_jax.inspection.inspected_run import logits_of
from cnn_jax.training.steps import Recipe
from cnn_jax.workdir.trained import Trained


class Answer(NamedTuple):
    """Of one picture [H, W, C]."""

    scores: jax.Array       # [classes]: probabilities; of masks, shares of the pixels
    mask: jax.Array | None  # [H, W]: class of each pixel; None: one class for all
    explained: jax.Array    # int [], the class that `cam` is about
    maps: jax.Array | None  # [h, w, K], the output of the layer; None without a layer
    cam: jax.Array | None   # [H, W], Grad-CAM, >= 0


def shown_layers(trained: Trained) -> list[Layer]:
    """Layers and blocks whose output has more than one position, as they end."""
    layers = layers_of(trained.recipe.model, trained.state.variables,
                       tuple(trained.info.image_shape))
    return [layer for layer in layers.values()
            if layer.is_map and layer.shape[:2] != (1, 1)]


def first_layer(layers: list[Layer]) -> str | None:
    """The one to begin with: the last convolution before the head, as in Grad-CAM; of
    a network without convolutions the last layer."""
    names = [layer.name for layer in layers
             if layer.is_convolution and layer.name != "head"]
    return (names or [layer.name for layer in layers] or [None])[-1]


def count_classes(trained: Trained) -> int:
    """How many outputs the head has."""
    shape = (1, *trained.info.image_shape)
    return jax.eval_shape(
        functools.partial(logits_of, trained.recipe.model), trained.state.variables,
        jax.ShapeDtypeStruct(shape, np.float32)).shape[-1]


def compiled(trained: Trained) -> Callable[[np.ndarray, int, str | None], Answer]:
    """(uint8 picture [H, W, C], class, layer) -> Answer; see `look`. What belongs to a
    layer is compiled at its first use."""
    program = jax.jit(functools.partial(look, recipe=trained.recipe),
                      static_argnames="layer", compiler_options=ops.compiler_options())
    # Arguments: as constants they would be compiled into the program.
    weights = jax.device_put(trained.state.variables)
    return lambda pixels, index, layer: program(
        weights, pixels, np.int32(index), layer=layer)


def look(variables: Any, pixels: jax.Array, index: jax.Array, layer: str | None,
         recipe: Recipe) -> Answer:
    """uint8 pixels [H, W, C] -> Answer.

    index: the class to explain; -1 is the one that the network names, of masks the one
    with the most pixels beside class 0, the background.
    layer: whose maps are shown and which Grad-CAM looks at; None: without both.
    """
    shown = (recipe.model, variables, recipe.scale(pixels[None]))
    if layer is None:
        logits, maps = logits_of(*shown), None
    else:  # nothing is added; it is the way to a layer's output
        logits, maps = perturbed(*shown, layer, jnp.zeros(()))
        logits, maps = logits.astype(jnp.float32), maps[0].astype(jnp.float32)
    scores, mask = jax.nn.softmax(logits[0]), None
    if logits.ndim > 2:
        mask = logits[0].argmax(-1)
        scores = jax.nn.one_hot(mask, logits.shape[-1]).mean((0, 1))
    explained = jnp.where(index < 0, predicted(logits)[0], index)
    cam = None if layer is None else grad_cam(*shown, explained[None], layer=layer)[0]
    return Answer(scores, mask, explained, maps, cam)
