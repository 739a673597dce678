"""Draws what a convolution and the layers right after it compute."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.inspection.draw import drawing
from cnn_jax.inspection.draw.kernels import draw_kernel, is_colour
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.kernels import kernel_images
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.selection import chosen_filters, chosen_layers
from cnn_jax.networks.named_layers import FOLLOWERS, Layer, kernel_of, with_followers
from cnn_jax.networks.trace import features

MOST_IMAGES, MOST_FILTERS = 3, 8  # in a picture


def feature_maps(run: InspectedRun, settings: ConfigDict) -> Iterator[Picture]:
    """Draws a picture for each chosen layer: kernels, and maps of some images."""
    stages = [with_followers(layer, run.layers)
              for layer in chosen_layers(run, settings)]
    names = [layer.name for stage in stages for layer in stage]

    def outputs(network: nn.Module, variables: Any,
                images: jax.Array) -> dict[str, jax.Array]:
        values = features(network, variables, images, inner=True)
        return {name: values[name] for name in names}

    values = run.map_batches(run.pixels[:MOST_IMAGES], outputs)
    for stage in run.track("feature maps", stages):
        yield draw_stage(run, settings, stage, values)


def draw_stage(run: InspectedRun, settings: ConfigDict, stage: list[Layer],
               values: dict[str, np.ndarray]) -> Picture:
    """Draws a convolution and the norm, activation and pool after it, by filter."""
    first = stage[0]
    filters = chosen_filters(first, settings, min(MOST_FILTERS, settings.max_filters))
    kernels = first.kernel is not None and kernel_images(
        first, kernel_of(run.variables, first), run.layers)
    kernel = kernels[0] if kernels else None
    colour = kernel is not None and is_colour(kernel, run)
    left = int(kernel is not None)  # the column of kernels
    images = len(values[first.name])
    columns = left + images * len(stage)
    figure, axes = drawing.grid(1 + len(filters), columns, cell=0.85, left=0.5, top=0.4)
    for i in range(images):
        axis = axes[0, left + i * len(stage)]
        drawing.image(axis, run.pixels[i])
        axis.set_title(drawing.fit(run.titles[i], 40), fontsize=8, loc="left")
    for row, index in enumerate(filters, 1):
        drawing.label_row(axes[row, 0], f"filter {index}", 6)
        if kernel is not None:
            shown = (kernel[..., index] if colour
                     else kernel[..., index].mean(-1, keepdims=True))
            draw_kernel(axes[row, 0], shown, np.abs(shown).max() or 1.0)
        for k, layer in enumerate(stage):
            maps = values[layer.name]
            limit = float(np.abs(maps[..., index]).max()) or 1.0
            for i in range(images):
                axis = axes[row, left + i * len(stage) + k]
                if maps[..., filters].min() >= 0:
                    drawing.heat(axis, maps[i, ..., index], limit)
                else:
                    drawing.signed(axis, maps[i, ..., index], limit)
    for column in range(columns):
        axes[1, column].set_title(
            "kernel" if left and not column
            else label(stage[(column - left) % len(stage)]), fontsize=7, pad=3)
    sizes = ", ".join(f"{label(layer)} {' x '.join(map(str, layer.shape[:2]))}"
                      for layer in stage)
    reads = 0 if kernel is None else kernel.shape[2]
    arrays = {"images": run.pixels[:images], "filters": np.array(filters)}
    if kernel is not None:
        arrays["kernel"] = kernel[..., filters]
    return Picture(
        "feature_maps_" + first.name.replace("/", "_"),
        f"From kernel to pool: {first.name}",
        f"Each row is a filter ({len(filters)} of {first.shape[-1]}). The maps of a "
        "filter have one scale for all images: red is above 0 and blue below; a layer "
        f"without negative values is drawn from dark to bright. In pixels: {sizes}."
        + (f" The kernel is the mean over the {reads} channels that it reads."
           if reads > 1 and not colour else ""),
        f"{len(filters)} filters on {images} images, layer by layer: {sizes}.", figure,
        arrays | {layer.name: values[layer.name][..., filters] for layer in stage})


def label(layer: Layer) -> str:
    """Names a layer of a stage: 'conv1', 'relu', 'max pool'."""
    names = [name or layer.module.kind for kind, name in FOLLOWERS.items()
             if isinstance(layer.module, kind)]
    return names[0] if names else layer.name.rpartition("/")[2]
