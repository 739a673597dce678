"""Draws the kernels of the first layer, each as a small image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.inspection.draw import drawing
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.kernels import kernel_images
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.selection import NotForThisNetwork
from cnn_jax.networks.named_layers import kernel_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

MOST_KERNELS, MOST_CHANNELS = 64, 8  # in the picture


def first_layer(run: InspectedRun, settings: ConfigDict) -> Iterator[Picture]:
    """Draws the kernels of the first layer that has kernels.

    Kernels that read colours are drawn in colour, where 0 is grey. Kernels of one
    channel are red and blue, and so are the weights of a dense layer that reads the
    pixels. For other layers, the input channels are drawn side by side.
    """
    with_kernel = [layer for layer in run.layers.values()
                   if layer.kernel is not None and layer.is_leaf]
    if not with_kernel:
        raise NotForThisNetwork(f"{type(run.network).__name__} has no layer with a "
                                "kernel")
    layer = with_kernel[0]
    shown = kernel_images(layer, kernel_of(run.variables, layer), run.layers)
    if shown is None:
        raise NotForThisNetwork(
            f"the first layer with weights, {layer.name}, is dense and does not read "
            "an image, so its weights form no image")
    kernel, kind = shown
    kernel = kernel[..., :MOST_KERNELS]
    channels, count = kernel.shape[2:]
    limit = float(np.abs(kernel).max()) or 1.0
    colour = is_colour(kernel, run)
    if colour or channels == 1:
        columns = min(8, count)
        figure, axes = drawing.grid(-(-count // columns), columns, top=0.6)
        for axis, index in zip(axes.flat, range(count)):
            scale = draw_kernel(axis, kernel[..., index], limit)
            axis.set_title(str(index), fontsize=8, pad=2)
    else:
        drawn = min(channels, MOST_CHANNELS)
        count = min(count, settings.max_filters)
        figure, axes = drawing.grid(count, drawn, left=0.5, top=0.6)
        for row in range(count):
            drawing.label_row(axes[row, 0], str(row))
            for channel in range(drawn):
                scale = drawing.signed(axes[row, channel], kernel[..., channel, row],
                                       limit)
        for channel in range(drawn):
            axes[0, channel].set_title(f"channel {channel}", fontsize=8)
    if not colour:
        figure.colorbar(scale, ax=axes, shrink=min(1.0, 2 / figure.get_figheight()),
                        fraction=0.05, pad=0.02)
    legend = ("Colours are the weights of red, green and blue: grey is 0, and a "
              "coloured kernel responds to that colour" if colour else
              "Red weights are positive, blue weights negative, white is 0")
    yield Picture(
        "kernels", f"Kernels of the first layer, {layer.name}",
        f"{count} of {layer.shape[-1]} {kind}, all on one scale. {legend}.",
        f"{count} small images of {' x '.join(map(str, kernel.shape[:2]))} weights; "
        f"the largest is {limit:.3g}.", figure, {"kernels": kernel})


def is_colour(kernel: np.ndarray, run: InspectedRun) -> bool:
    """Tells whether a kernel [h, w, channels read, ...] can be drawn in colours."""
    return kernel.shape[2] == 3 == run.pixels.shape[-1]


def draw_kernel(axes: Axes, kernel: np.ndarray, limit: float) -> AxesImage:
    """Draws [h, w, 1] in red and blue, [h, w, 3] as colours around grey."""
    if kernel.shape[-1] == 3:
        return axes.imshow(0.5 + kernel / (2 * limit), interpolation="nearest")
    return drawing.signed(axes, kernel.mean(-1), limit)
