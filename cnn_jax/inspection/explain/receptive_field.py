"""What a unit sees of the image: its receptive field, in theory and in effect."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.inspection.draw import drawing
from cnn_jax.networks.named_layers import Layer, find
from cnn_jax.networks.receptive_field import field_of_layer
from cnn_jax.networks.trace import features
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.saliency import compiled
from cnn_jax.inspection.explain.selection import (chosen_filters, chosen_layers,
                                                  chosen_position)
from cnn_jax.inspection.settings import Settings
from cnn_jax.inspection.inspected_run import Subject

SHOWN_LAYERS = 6  # where the settings name none
BEYOND = 0.12     # of the image's size, drawn around it where a field goes there


class Box(NamedTuple):
    """Pixels first ... first + size along each axis (the borders, so 0 is the left edge
    of pixel 0); fitted ones are no whole numbers."""

    top: float
    left: float
    height: float
    width: float


def theoretical(network: nn.Module, image_shape: tuple[int, int, int], layer: str,
                position: tuple[int, int]) -> Box | None:
    """What the unit at a position of a layer can see, beyond the image too.

    None where it is not known; see `networks.receptive_field`.
    """
    fields = field_of_layer(network, image_shape, layer)
    if fields is None:
        return None
    top, left = (field.stride * p + field.offset for field, p in zip(fields, position))
    return Box(top, left, fields[0].size, fields[1].size)


def effective(network: nn.Module, variables: Any, images: jax.Array, layer: str,
              position: tuple[int, int], filters: tuple[int, ...] | None = None
              ) -> jax.Array:
    """[H, W]: how much the unit at a position of a layer follows each pixel.

        sum over input channels of |d/dx of the sum of the unit's filters|, mean over
        the images [N, H, W, C]

    filters: which of the layer; None: all of them.
    Source: Luo et al.: Understanding the effective receptive field, 2016.
    """
    find(network, variables, images.shape[1:], layer, maps=True)
    chosen = slice(None) if filters is None else jnp.array(filters)

    def unit(images):
        out = features(network, variables, images, inner="/" in layer)[layer]
        return out[:, *position, chosen].astype(jnp.float32).sum()

    return jnp.abs(jax.grad(unit)(images)).sum(-1).mean(0)


def fitted(weights: np.ndarray) -> Box | None:
    """The box in which all pixels count alike and whose mean and spread are those of
    weights >= 0 [H, W]: along each axis

        size = sqrt(12 variance + 1), around the mean

    so a field whose pixels do count alike has its own size. None where all are 0.
    """
    total = weights.sum(dtype=np.float64)
    if total == 0:
        return None
    found = []
    for axis in (0, 1):
        share = weights.sum(1 - axis, dtype=np.float64) / total
        places = np.arange(len(share)) + 0.5
        mean = share @ places
        size = np.sqrt(12 * (share @ (places - mean) ** 2) + 1)
        found.append((mean - size / 2, size))
    return Box(found[0][0], found[1][0], found[0][1], found[1][1])


def fields(subject: Subject, settings: Settings) -> Iterator[Picture]:
    """For some layers what the unit in the middle, or at `settings.position`, sees."""
    chosen = chosen_layers(subject, settings, count=SHOWN_LAYERS)
    height, width = subject.pixels.shape[1:3]
    figure, axes = drawing.grid(2, len(chosen), cell=1.8, aspect=width / height,
                                left=0.6, top=0.7)
    arrays, said = {}, []
    for layer, (above, below) in zip(subject.track("receptive fields", chosen), axes.T):
        position = chosen_position(layer, settings)
        box, weights = fields_of(subject, settings, layer, position)
        fit = fitted(weights)
        arrays |= {layer.name: weights, f"{layer.name} theoretical": np.array(
            box or [np.nan] * 4), f"{layer.name} effective": np.array(
                fit or [np.nan] * 4)}
        drawing.image(above, subject.pixels[0])
        drawing.heat(below, np.sqrt(weights))
        for one, colour in ((above, "tab:red"), (below, "white")):
            shown = frame(one, box, height, width)
            outline(one, within(box, shown), colour, "-")
            outline(one, fit, "tab:cyan", "--")
        sizes = f"{size(box)}, effective {size(fit)}"
        above.set_title(f"{layer.name.replace('/', chr(10))}\nunit {position}\n{sizes}",
                        fontsize=7)
        said.append(f"{layer.name} {sizes}")
    drawing.beside(axes[0, 0], "image", 8)
    drawing.beside(axes[1, 0], "mean gradient", 8)
    yield Picture(
        "receptive_field", "What a unit sees of the image",
        "Solid: the pixels that can reach the unit at all. Below, how much it follows "
        f"each of them (mean over {len(subject.pixels)} images of the gradient's size; "
        "its square root is drawn). Dashed: the box of the same spread, the effective "
        "field; it is the larger one where a unit follows the rim of its field more "
        "than the middle. Of fields that go far beyond the image a part is drawn.",
        "Height x width in pixels: " + "; ".join(said) + ".", figure,
        arrays)


def fields_of(subject: Subject, settings: Settings, layer: Layer,
              position: tuple[int, int]) -> tuple[Box | None, np.ndarray]:
    """(theoretical field, effective one) of a unit of one layer."""
    shape = subject.pixels.shape[1:]
    filters = (tuple(chosen_filters(layer, settings, layer.shape[-1]))
               if settings.filters else None)
    weights = compiled(functools.partial(
        effective, layer=layer.name, position=position, filters=filters))(
            subject.network, subject.variables, subject.images)
    return (theoretical(subject.network, shape, layer.name, position),
            np.asarray(weights))


def size(box: Box | None) -> str:
    """'14 x 14', of a fitted box '9.1 x 8.8'"""
    return "unknown" if box is None else f"{box.height:.3g} x {box.width:.3g}"


def outline(axes, box: Box | None, colour: str, style: str) -> None:
    """A box on axes whose pixel i reaches from i - 1/2 to i + 1/2."""
    from matplotlib.patches import Rectangle
    if box is not None:
        axes.add_patch(Rectangle((box.left - 0.5, box.top - 0.5), box.width, box.height,
                                 fill=False, edgecolor=colour, linestyle=style,
                                 linewidth=1.4))


def frame(axes, box: Box | None, height: int, width: int) -> Box:
    """Shows the image, and around it a grey part of a box that goes beyond it."""
    top, left, bottom, right = 0.0, 0.0, float(height), float(width)
    if box is not None:
        y, x = BEYOND * height, BEYOND * width
        top, left = max(min(top, box.top), -y), max(min(left, box.left), -x)
        bottom = min(max(bottom, box.top + box.height), height + y)
        right = min(max(right, box.left + box.width), width + x)
    axes.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5),
             facecolor="0.6")
    return Box(top, left, bottom - top, right - left)


def within(box: Box | None, shown: Box) -> Box | None:
    """The part of a box that is shown."""
    if box is None:
        return None
    top, left = max(box.top, shown.top), max(box.left, shown.left)
    bottom = min(box.top + box.height, shown.top + shown.height)
    right = min(box.left + box.width, shown.left + shown.width)
    return Box(top, left, bottom - top, right - left)
