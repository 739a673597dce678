"""Draws theoretical and effective receptive fields over an image."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.inspection.draw import drawing
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.receptive_field import (PixelBox, effective_field,
                                                        fit_box, theoretical_field)
from cnn_jax.inspection.forward import compiled
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.selection import (chosen_filters, chosen_layers,
                                          chosen_position)
from cnn_jax.networks.named_layers import Layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_LAYERS = 6  # if the settings name none
BEYOND = 0.12     # margin around the image where fields are drawn, as a fraction of it


def receptive_fields(run: InspectedRun, settings: ConfigDict) -> Iterator[Picture]:
    """Draws the receptive fields of one unit of each layer.

    It is the unit at `settings.position`, by default the middle one.
    """
    layers = chosen_layers(run, settings, count=SHOWN_LAYERS)
    height, width = run.pixels.shape[1:3]
    figure, axes = drawing.grid(2, len(layers), cell=1.8, aspect=width / height,
                                left=0.6, top=0.7)
    arrays: dict[str, np.ndarray] = {}
    sentences = []
    for layer, (above, below) in zip(run.track("receptive fields", layers), axes.T):
        position = chosen_position(layer, settings)
        assert position is not None, layer  # these layers have height and width
        box, weights = fields_of(run, settings, layer, position)
        fit = fit_box(weights)
        arrays |= {layer.name: weights,
                   f"{layer.name} theoretical": np.array(box or [np.nan] * 4),
                   f"{layer.name} effective": np.array(fit or [np.nan] * 4)}
        drawing.image(above, run.pixels[0])
        drawing.heat(below, np.sqrt(weights))
        for axis, colour in ((above, "tab:red"), (below, "white")):
            visible = frame(axis, box, height, width)
            outline(axis, intersection(box, visible), colour, "-")
            outline(axis, fit, "tab:cyan", "--")
        sizes = f"{size(box)}, effective {size(fit)}"
        above.set_title(f"{layer.name.replace('/', chr(10))}\nunit {position}\n{sizes}",
                        fontsize=7)
        sentences.append(f"{layer.name} {sizes}")
    drawing.label_row(axes[0, 0], "image", 8)
    drawing.label_row(axes[1, 0], "mean gradient", 8)
    yield Picture(
        "receptive_field", "Receptive fields",
        "Solid: the theoretical field, the pixels that the unit can depend on. Below: "
        "how strongly it depends on each pixel (the absolute gradient, averaged over "
        f"{len(run.pixels)} images; its square root is drawn). Dashed: the effective "
        "field, a box with the variance of these values. It is larger than the solid "
        "box if the unit depends more on the border of its field than on the middle. A "
        "field that goes far beyond the image is cut.",
        "Height x width in pixels: " + "; ".join(sentences) + ".", figure, arrays)


def fields_of(run: InspectedRun, settings: ConfigDict, layer: Layer,
              position: tuple[int, int]) -> tuple[PixelBox | None, np.ndarray]:
    """Computes (theoretical field, weight of each pixel) for a unit of a layer."""
    filters = (tuple(chosen_filters(layer, settings, layer.shape[-1]))
               if settings.filters else None)
    weights = compiled(functools.partial(
        effective_field, layer=layer.name, position=position, filters=filters))(
            run.network, run.variables, run.images)
    return (theoretical_field(run.network, run.pixels.shape[1:], layer.name, position),
            np.asarray(weights))


def size(box: PixelBox | None) -> str:
    """Returns '14 x 14', or '9.1 x 8.8' for a fitted box."""
    return "unknown" if box is None else f"{box.height:.3g} x {box.width:.3g}"


def outline(axes: Axes, box: PixelBox | None, colour: str, style: str) -> None:
    """Draws a box on axes whose pixel i reaches from i - 1/2 to i + 1/2."""
    from matplotlib.patches import Rectangle
    if box is not None:
        axes.add_patch(Rectangle((box.left - 0.5, box.top - 0.5), box.width, box.height,
                                 fill=False, edgecolor=colour, linestyle=style,
                                 linewidth=1.4))


def frame(axes: Axes, box: PixelBox | None, height: int, width: int) -> PixelBox:
    """Limits the axes to the image and, in grey, a margin for a box beyond it."""
    top, left, bottom, right = 0.0, 0.0, float(height), float(width)
    if box is not None:
        y, x = BEYOND * height, BEYOND * width
        top, left = max(min(top, box.top), -y), max(min(left, box.left), -x)
        bottom = min(max(bottom, box.top + box.height), height + y)
        right = min(max(right, box.left + box.width), width + x)
    axes.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5),
             facecolor="0.6")
    return PixelBox(top, left, bottom - top, right - left)


def intersection(box: PixelBox | None, visible: PixelBox) -> PixelBox | None:
    """Cuts a box to what is visible."""
    if box is None:
        return None
    top, left = max(box.top, visible.top), max(box.left, visible.left)
    bottom = min(box.top + box.height, visible.top + visible.height)
    right = min(box.left + box.width, visible.left + visible.width)
    return PixelBox(top, left, bottom - top, right - left)
