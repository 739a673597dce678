"""Draws images that maximize filters or classes."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.inspection.draw import drawing
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.maximize import AscentConfig, maximize
from cnn_jax.inspection.forward import compiled
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.selection import (NotForThisNetwork, chosen_filters,
                                          chosen_layers, chosen_position, class_index,
                                          last_layer)
from cnn_jax.networks.named_layers import Layer
from cnn_jax.networks.receptive_field import field_of_layer


def filters(run: InspectedRun, settings: ConfigDict) -> Iterator[Picture]:
    """Draws the images that maximize the filters of each chosen layer."""
    for layer in run.track("activation maximization",
                           chosen_layers(run, settings, maps=False)):
        index = chosen_filters(layer, settings, settings.max_filters)
        yield draw(run, settings, layer, index, [f"filter {i}" for i in index],
                   f"Images that maximize {layer.name}",
                   chosen_position(layer, settings))


def classes(run: InspectedRun, settings: ConfigDict) -> Iterator[Picture]:
    """Draws images that maximize the logits of the first classes or `settings.target`.
    """
    head = last_layer(run)
    if head.shape[-1] != run.image_logits.shape[-1]:
        raise NotForThisNetwork(f"the last layer with parameters, {head.name}, has "
                                f"{head.shape[-1]} outputs, which are not the logits")
    index = ([class_index(run, settings.target)] if settings.target
             else list(range(min(settings.max_filters, head.shape[-1]))))
    run.progress("activation maximization of classes")
    yield draw(run, settings, head, index, [run.class_name(i) for i in index],
               "Images that maximize the classes", None)


def ascent_config(run: InspectedRun, settings: ConfigDict, layer: Layer,
                  position: tuple[int, int] | None) -> AscentConfig:
    """Limits the jitter for a unit with a small receptive field.

    Shifts by half of its receptive field would smear the whole image.
    """
    config = AscentConfig(settings.steps)
    fields = field_of_layer(run.network, run.pixels.shape[1:], layer.name)
    if position is None or fields is None:
        return config
    return config._replace(
        jitter=min(config.jitter, *(field.size // 8 for field in fields)))


def draw(run: InspectedRun, settings: ConfigDict, layer: Layer, index: list[int],
         names: list[str], title: str, position: tuple[int, int] | None) -> Picture:
    """Draws a grid of images, each with the value of its unit before and after."""
    shape = run.pixels.shape[1:]
    maximized = compiled(functools.partial(
        maximize, layer=layer.name, image_shape=shape, input_range=run.input_range,
        config=ascent_config(run, settings, layer, position), position=position))(
            run.network, run.variables, jnp.array(index),
            jax.random.key(run.config.seed))
    low, high = run.input_range
    images = np.asarray(maximized.images)
    pixels = 255 * (images - low) / (high - low)
    columns = min(8, max(4, -(-len(index) // 2)), len(index))
    figure, axes = drawing.grid(-(-len(index) // columns), columns, cell=1.3,
                                aspect=shape[1] / shape[0], top=0.4)
    first, last = np.asarray(maximized.first), np.asarray(maximized.last)
    for i, axis in zip(range(len(index)), axes.flat):
        drawing.image(axis, pixels[i])
        axis.set_title(f"{drawing.fit(names[i], 18)}\n{first[i]:.3g} "
                       f"to {last[i]:.3g}", fontsize=7, pad=3)
    unit = ("logit" if layer.name == run.last_layer else
            "unit's value" if position is None
            else f"value of the unit at {position}")
    return Picture(
        "maximized_" + layer.name.replace("/", "_"), title,
        f"Images found by gradient ascent from noise ({settings.steps} steps, with "
        f"jitter, blur, L2 and total variation). Above each image: the {unit} on the "
        "noise and on the image.",
        f"{len(index)} images that {layer.name} responds to most; the medians of its "
        f"values rise from {np.median(first):.3g} to {np.median(last):.3g}.", figure,
        {"images": images, "first": first, "last": last, "filters": np.array(index)})
