"""Activation maximisation: the images that excite filters or classes most."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.inspection.draw import drawing
from cnn_jax.networks.trace import features
from cnn_jax.networks.named_layers import Layer
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.saliency import compiled
from cnn_jax.networks.receptive_field import field_of_layer
from cnn_jax.inspection.explain.selection import (chosen_filters, chosen_layers,
                                                  chosen_position, class_index)
from cnn_jax.inspection.settings import Settings
from cnn_jax.inspection.inspected_run import Subject


class Ascent(NamedTuple):
    """How the ascent goes; the terms are explained in `maximize`."""

    steps: int = 128
    rate: float = 0.1      # in units of the input's range, falling to 0
    noise: float = 0.05    # standard deviation of the first image around the middle
    jitter: int = 2        # pixels either way
    blur: float = 0.7      # standard deviation at the first step, pixels
    l2: float = 0.3
    variation: float = 0.2


class Excited(NamedTuple):
    """For each filter its image, and the unit's value on noise and on the image."""

    images: jax.Array  # [K, H, W, C], the network's input
    first: jax.Array   # [K]
    last: jax.Array    # [K]


def maximize(network: nn.Module, variables: Any, filters: jax.Array, key: jax.Array,
             layer: str, image_shape: tuple[int, int, int],
             span: tuple[float, float] = (0.0, 1.0), how: Ascent = Ascent(),
             position: tuple[int, int] | None = None) -> Excited:
    """For each of the filters [K] of a layer an image that makes it large.

    u in 0..1 is the image, x = low + (high - low) u the network's input, a(x) the value
    of the unit: of the filter's map at `position` (None: the mean of the map), of a
    dense layer its output. Each step climbs along

        n(da / du) - d/du (l2 |u - 1/2|^2 + variation TV(u))

    where n divides by the root mean square, so that filters of any scale are treated
    alike, and TV(u) = sum of |u[y+1, x] - u[y, x]| + |u[y, x+1] - u[y, x]|. The image
    is moved by up to `jitter` pixels at random before each step and back after it, and
    blurred, less and less, to none in the last quarter.

    key: of the noise that it begins with, and of the moves; span: (low, high).
    Sources: Erhan et al.: Visualizing higher-layer features, 2009; Yosinski et al.:
    Understanding neural networks through deep visualization, 2015.
    """
    low, high = span

    def value(u, index):
        x = low + (high - low) * u
        values = features(network, variables, x[None], inner="/" in layer)[
            layer][0, ..., index].astype(jnp.float32)
        return values.mean() if position is None else values[position]

    def climb(u, now, index):
        step, key = now
        move = jax.random.randint(key, (2,), -how.jitter, how.jitter + 1)
        moved = jnp.roll(u, move, (0, 1))
        slope = jax.grad(value)(moved, index)
        slope /= jnp.sqrt(jnp.mean(slope ** 2)) + 1e-12
        slope = jnp.roll(slope, -move, (0, 1)) - jax.grad(penalty)(u, how)
        u += how.rate * (1 - step / how.steps) * slope
        sigma = how.blur * jnp.maximum(0, 1 - step / (0.75 * how.steps))
        return jnp.clip(blurred(u, sigma), 0, 1), None

    def one(key, index):
        start, moves = jax.random.split(key)
        u = 0.5 + how.noise * jax.random.normal(start, image_shape)
        times = jnp.arange(how.steps), jax.random.split(moves, how.steps)
        best, _ = lax.scan(functools.partial(climb, index=index), u, times)
        return Excited(low + (high - low) * best, value(u, index), value(best, index))

    filters = jnp.asarray(filters)
    return jax.vmap(one)(jax.random.split(key, len(filters)), filters)


def penalty(u: jax.Array, how: Ascent) -> jax.Array:
    """l2 |u - 1/2|^2 + variation TV(u)"""
    variation = sum(jnp.abs(jnp.diff(u, axis=axis)).sum() for axis in (0, 1))
    return how.l2 * jnp.square(u - 0.5).sum() + how.variation * variation


def blurred(u: jax.Array, sigma: jax.Array) -> jax.Array:
    """[H, W, C] smoothed along both axes by N(0, sigma^2) over 5 pixels; the border is
    continued."""
    weights = jnp.exp(-0.5 * (jnp.arange(-2, 3) / jnp.maximum(sigma, 1e-3)) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padding = [(2, 2) if axis == one else (0, 0) for one in range(3)]
        wide = jnp.pad(u, padding, mode="edge")
        u = sum(weight * lax.slice_in_dim(wide, i, i + u.shape[axis], axis=axis)
                for i, weight in enumerate(weights))
    return u


def filters(subject: Subject, settings: Settings) -> Iterator[Picture]:
    """For each chosen layer the images that excite its filters most."""
    for layer in subject.track("activation maximisation",
                               chosen_layers(subject, settings, maps=False)):
        shown = chosen_filters(layer, settings, settings.max_filters)
        yield draw(subject, settings, layer, shown, [f"filter {i}" for i in shown],
                   f"What excites {layer.name}", chosen_position(layer, settings))


def classes(subject: Subject, settings: Settings) -> Iterator[Picture]:
    """The images that the network takes most for a class: for each of the first
    classes, or for `settings.target`."""
    head = subject.layers["head"]
    shown = ([class_index(subject, settings.target)] if settings.target
             else list(range(min(settings.max_filters, head.shape[-1]))))
    subject.progress("activation maximisation of classes")
    yield draw(subject, settings, head, shown, [subject.class_name(i) for i in shown],
               "What the network takes for the classes", None)


def draw(subject: Subject, settings: Settings, layer: Layer, shown: list[int],
         names: list[str], title: str, position: tuple[int, int] | None) -> Picture:
    """A grid of images, each with the value of its unit before and after."""
    shape = subject.pixels.shape[1:]
    how = Ascent(settings.steps)
    fields = field_of_layer(subject.network, shape, layer.name)
    if position and fields is not None:
        # A move by half of what the unit sees would smear all of it.
        how = how._replace(jitter=min(how.jitter, *(
            field.size // 8 for field in fields)))
    climb = functools.partial(maximize, layer=layer.name, image_shape=shape,
                              span=subject.range, how=how, position=position)
    excited = compiled(climb)(subject.network, subject.variables, jnp.array(shown),
                              jax.random.key(subject.config.seed))
    low, high = subject.range
    images = np.asarray(excited.images)
    pixels = 255 * (images - low) / (high - low)
    columns = min(8, max(4, -(-len(shown) // 2)), len(shown))
    figure, axes = drawing.grid(-(-len(shown) // columns), columns, cell=1.3,
                                aspect=shape[1] / shape[0], top=0.4)
    first, last = np.asarray(excited.first), np.asarray(excited.last)
    for i, axis in zip(range(len(shown)), axes.flat):
        drawing.image(axis, pixels[i])
        axis.set_title(f"{drawing.fit(names[i], 18)}\n{drawing.number(first[i])} "
                       f"to {drawing.number(last[i])}", fontsize=7, pad=3)
    unit = ("logit" if layer.name == "head" else "unit's value" if position is None
            else f"value of the unit at {position}")
    return Picture(
        "maximized_" + layer.name.replace("/", "_"), title,
        f"Images found by gradient ascent from noise ({settings.steps} steps, with "
        f"jitter, blur, L2 and total variation); above each the {unit}, on the noise "
        "and on the image.",
        f"{len(shown)} images that {layer.name} answers to most; its values rise from "
        f"{drawing.number(float(np.median(first)))} to "
        f"{drawing.number(float(np.median(last)))} (medians).", figure,
        {"images": images, "first": first, "last": last, "filters": np.array(shown)})
