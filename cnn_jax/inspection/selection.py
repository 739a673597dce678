"""Resolves the layers, filters and classes that `config.inspect` names.

An unknown name raises InputError, which lists the known ones.
"""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.errors import InputError
from cnn_jax.inspection.explain.grad_cam import pick_cam_layer
from cnn_jax.inspection.explain.scores import predicted_classes
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.networks.named_layers import (Layer, default_layers, evenly_spaced,
                                           kernel_layers, pick)

DEFAULT_LAYERS = 4  # drawn if the settings name no layers


class NotForThisNetwork(InputError):
    """Raised for a picture that does not exist for this kind of network or task."""


def check_labels(run: InspectedRun) -> None:
    """Raises NotForThisNetwork if the images have no labels."""
    if not len(run.examples.labels):
        raise NotForThisNetwork("it needs labelled images")


def last_layer(run: InspectedRun) -> Layer:
    """Returns the last layer. Raises NotForThisNetwork if no layer has parameters."""
    if run.last_layer is None:
        raise NotForThisNetwork("no layer of the network has parameters")
    return run.layers[run.last_layer]


def split_names(text: str | None) -> list[str]:
    """Splits 'conv1, conv2' into ['conv1', 'conv2']; None gives []."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def check_names(run: InspectedRun, settings: ConfigDict) -> None:
    """Raises InputError for a setting that does not fit, before drawing begins."""
    try:
        layers = chosen_layers(run, settings, maps=False)
    except NotForThisNetwork:
        layers = []  # the pictures that need layers will say so
    for layer in layers:
        chosen_filters(layer, settings, 1)
        chosen_position(layer, settings)
    chosen_cam_layer(run, settings)
    if settings.target:
        class_index(run, settings.target)
    height, width = run.pixels.shape[1:3]
    if settings.window and settings.window > min(height, width):
        raise InputError(
            f"config.inspect.window = {settings.window} does not fit into images of "
            f"{height} x {width}: use 1 to {min(height, width)}, or leave it unset for "
            "an eighth of the shorter side")


def chosen_layers(run: InspectedRun, settings: ConfigDict, maps: bool = True,
                  count: int = DEFAULT_LAYERS) -> list[Layer]:
    """Returns the layers of `settings.layers`.

    By default it returns `count` of `default_layers`, evenly from first to last.

    maps: return only layers with height and width, at least one.
    """
    names, network_name = split_names(settings.layers), type(run.network).__name__
    try:
        layers = ([pick(run.layers, name, network_name) for name in names]
                  or default_layers(run.layers))
    except InputError as error:
        raise InputError(f"config.inspect.layers = {settings.layers!r}: {error}"
                         ) from error
    layers = [layer for layer in layers if layer.is_map or not maps]
    if not layers:
        raise NotForThisNetwork(
            (f"none of the layers {settings.layers}" if names else
             f"no layer of {network_name} with weights")
            + " has height and width")
    return layers if names else evenly_spaced(layers, count)


def chosen_cam_layer(run: InspectedRun, settings: ConfigDict) -> str | None:
    """Returns the layer for Grad-CAM; None for a network without convolutions."""
    if not settings.cam_layer and not any(
            layer.is_convolution for layer in kernel_layers(run.layers)):
        return None
    try:
        return pick_cam_layer(run.layers, settings.cam_layer or "",
                              type(run.network).__name__).name
    except InputError as error:
        raise InputError(f"config.inspect.cam_layer = {settings.cam_layer!r}: {error}"
                         ) from error


def chosen_filters(layer: Layer, settings: ConfigDict, count: int) -> list[int]:
    """Returns the filters of `settings.filters`, or the first `count`."""
    features = layer.shape[-1]
    filters = []
    for text in split_names(settings.filters):
        if not text.isdecimal() or int(text) >= features:
            raise InputError(
                f"config.inspect.filters = {settings.filters!r}: layer {layer.name} "
                f"has {features} filters, 0 to {features - 1}, and no {text!r}; "
                "config.inspect.layers says which layers are meant")
        filters.append(int(text))
    return filters or list(range(min(count, features)))


def chosen_position(layer: Layer, settings: ConfigDict) -> tuple[int, int] | None:
    """Returns the unit at `settings.position` in a layer, by default the middle one.

    None for a layer without height and width.
    """
    if not layer.is_map:
        return None
    height, width = layer.shape[:2]
    if settings.position is None:
        return height // 2, width // 2
    row, column = settings.position
    if not (0 <= row < height and 0 <= column < width):
        raise InputError(
            f"config.inspect.position = {row, column}: the maps of layer {layer.name} "
            f"have {height} x {width} units, (0, 0) to {height - 1, width - 1}; "
            "config.inspect.layers says which layers are meant")
    return row, column


def explained_classes(run: InspectedRun, settings: ConfigDict) -> np.ndarray:
    """Returns the class of `settings.target`, or the predicted classes, int [N]."""
    if not settings.target:
        return np.asarray(predicted_classes(jnp.asarray(run.image_logits)))
    return np.full(len(run.pixels), class_index(run, settings.target))


def class_index(run: InspectedRun, target: str) -> int:
    """Returns the class with a name or a number."""
    outputs = run.image_logits.shape[-1]
    if target in run.class_names:
        return run.class_names.index(target)
    if target.isdecimal() and int(target) < outputs:
        return int(target)
    known = ", ".join(run.class_names[:20])
    more = " ..." if len(run.class_names) > 20 else ""
    raise InputError(f"config.inspect.target = {target!r}: there is no such class; "
                     f"known are {known}{more}, and numbers from 0 to {outputs - 1}")
