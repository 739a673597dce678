"""Which layers, filters and classes the settings mean, or one line that says why not.
"""

import numpy as np

from cnn_jax.errors import InputError
from cnn_jax.networks.named_layers import (Layer, pick, shown_by_default, spread,
                                           weighted)
from cnn_jax.inspection.explain.saliency import pick_cam_layer, predicted
from cnn_jax.inspection.settings import Settings, names
from cnn_jax.inspection.inspected_run import Subject

SHOWN_LAYERS = 4  # where the settings name none


class NotForThisNetwork(InputError):
    """A picture that networks of this kind do not have; of others it is drawn."""


def check_names(subject: Subject, settings: Settings) -> None:
    """Raises InputError for a layer, filter, position or class that there is none of,
    and for a window that does not fit, before anything is drawn."""
    try:
        chosen = chosen_layers(subject, settings, maps=False)
    except NotForThisNetwork:
        chosen = []  # the pictures that need layers will say so
    for layer in chosen:
        chosen_filters(layer, settings, 1)
        chosen_position(layer, settings)
    chosen_cam_layer(subject, settings)
    if settings.target:
        class_index(subject, settings.target)
    height, width = subject.pixels.shape[1:3]
    if (settings.window or 0) > min(height, width):
        raise InputError(
            f"config.inspect.window = {settings.window} does not fit into images of "
            f"{height} x {width}: use 1 to {min(height, width)}, or none for an eighth "
            "of the shorter side")


def chosen_layers(subject: Subject, settings: Settings, maps: bool = True,
                  count: int = SHOWN_LAYERS) -> list[Layer]:
    """The layers of `settings.layers`, or for None some convolutions from first to last
    (those that an activation follows, where there are such), of a network without any
    some dense layers.

    maps: only those with height and width; there must be one.
    """
    asked, network_name = names(settings.layers), type(subject.network).__name__
    try:
        found = ([pick(subject.layers, name, network_name) for name in asked]
                 or shown_by_default(subject.layers))
    except InputError as error:
        raise InputError(f"config.inspect.layers = {settings.layers!r}: {error}"
                         ) from error
    found = [layer for layer in found if layer.is_map or not maps]
    if not found:
        raise NotForThisNetwork(
            (f"none of the layers {settings.layers}" if asked else
             f"no layer of {network_name} with weights")
            + " has height and width")
    return found if asked else spread(found, count)


def chosen_cam_layer(subject: Subject, settings: Settings) -> str | None:
    """The layer that Grad-CAM looks at; None in a network without convolutions."""
    if not settings.cam_layer and not any(
            layer.is_convolution for layer in weighted(subject.layers)):
        return None
    try:
        return pick_cam_layer(subject.layers, settings.cam_layer or "",
                              type(subject.network).__name__).name
    except InputError as error:
        raise InputError(f"config.inspect.cam_layer = {settings.cam_layer!r}: {error}"
                         ) from error


def chosen_filters(layer: Layer, settings: Settings, count: int) -> list[int]:
    """The filters of `settings.filters`, or for None the first `count`."""
    features = layer.shape[-1]
    found = []
    for word in names(settings.filters):
        if not word.isdecimal() or int(word) >= features:
            raise InputError(
                f"config.inspect.filters = {settings.filters!r}: layer {layer.name} "
                f"has {features} filters, 0 to {features - 1}, and no {word!r}; "
                "config.inspect.layers says which layers are meant")
        found.append(int(word))
    return found or list(range(min(count, features)))


def chosen_position(layer: Layer, settings: Settings) -> tuple[int, int] | None:
    """The unit of `settings.position` in a layer's maps, for None the middle one;
    None for a layer without height and width."""
    if not layer.is_map:
        return None
    height, width = layer.shape[:2]
    if settings.position is None:
        return height // 2, width // 2
    place = settings.position
    if not (0 <= place[0] < height and 0 <= place[1] < width):
        raise InputError(
            f"config.inspect.position = {place}: the maps of layer {layer.name} have "
            f"{height} x {width} units, (0, 0) to {height - 1, width - 1}; "
            "config.inspect.layers says which layers are meant")
    return place


def explained_classes(subject: Subject, settings: Settings) -> np.ndarray:
    """int [N]: the class of `settings.target`, or for None those the network names."""
    if not settings.target:
        return np.asarray(predicted(subject.image_logits))
    return np.full(len(subject.pixels), class_index(subject, settings.target))


def class_index(subject: Subject, target: str) -> int:
    """Of a class name, or of a number."""
    outputs = subject.image_logits.shape[-1]
    if target in subject.class_names:
        return subject.class_names.index(target)
    if target.isdecimal() and int(target) < outputs:
        return int(target)
    known = ", ".join(subject.class_names[:20])
    more = " ..." if len(subject.class_names) > 20 else ""
    raise InputError(f"config.inspect.target = {target!r}: there is no such class; "
                     f"known are {known}{more}, and numbers from 0 to {outputs - 1}")
