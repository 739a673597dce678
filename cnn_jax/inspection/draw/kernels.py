"""Kernels, and what they make of images: convolution, activation, pool, side by side.
"""

from collections.abc import Iterator

import numpy as np

from cnn_jax import layers
from cnn_jax.inspection.draw import drawing
from cnn_jax.networks.trace import features
from cnn_jax.networks.named_layers import STAGES, Layer, kernel_of, stage_of
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.selection import (NotForThisNetwork, chosen_filters,
                                                  chosen_layers)
from cnn_jax.inspection.settings import Settings
from cnn_jax.inspection.inspected_run import Subject
from cnn_jax.networks.lenet import SparseConv

MOST_KERNELS, MOST_CHANNELS = 64, 8  # of a picture of the first layer
STRIP_IMAGES, STRIP_FILTERS = 3, 8   # of a strip, where the settings do not say


def first_layer(subject: Subject, settings: Settings) -> Iterator[Picture]:
    """The kernels of the first layer that has any, each of them a little image.

    Those that read colours are drawn in colour, around grey; those of one channel are
    red and blue. The weights of a dense layer that reads the pixels are drawn as
    images. Of other first layers the input channels stand side by side.
    """
    known = subject.layers
    found = [layer for layer in known.values()
             if layer.kernel is not None and layer.is_leaf]
    if not found:
        raise NotForThisNetwork(f"{type(subject.network).__name__} has no layer with a "
                                "kernel")
    layer = found[0]
    kernel, kind = as_images(layer, kernel_of(subject.variables, layer), known)
    kernel = kernel[..., :MOST_KERNELS]
    channels, count = kernel.shape[2:]
    limit = float(np.abs(kernel).max()) or 1.0
    colour = channels == 3 and subject.pixels.shape[-1] == 3
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
            drawing.beside(axes[row, 0], str(row))
            for channel in range(drawn):
                scale = drawing.signed(axes[row, channel], kernel[..., channel, row],
                                       limit)
        for channel in range(drawn):
            axes[0, channel].set_title(f"channel {channel}", fontsize=8)
    if not colour:
        figure.colorbar(scale, ax=axes, shrink=min(1.0, 2 / figure.get_figheight()),
                        fraction=0.05, pad=0.02)
    how = ("Colours are weights of red, green and blue: grey is 0, and a coloured "
           "kernel answers to that colour" if colour else
           "Red weights are positive, blue ones negative, white is 0")
    yield Picture(
        "kernels", f"Kernels of the first layer, {layer.name}",
        f"{count} of {layer.shape[-1]} {kind}, on one scale. {how}.",
        f"{count} small images of {' x '.join(map(str, kernel.shape[:2]))} weights, of "
        f"which the largest is {drawing.number(limit)}.", figure, {"kernels": kernel})


def as_images(layer: Layer, kernel: np.ndarray,
              known: dict[str, Layer]) -> tuple[np.ndarray, str]:
    """([h, w, channels read, filters], what they are in words)."""
    module, (height, width) = layer.module, kernel.shape[:2]
    size = f"{height} x {width}"
    if isinstance(module, SparseConv):
        sources, targets = np.array(module.connections).T
        full = np.zeros((height, width, sources.max() + 1, module.features), np.float32)
        full[:, :, sources, targets] = kernel
        return full, f"kernels of {size} pixels, which read some of the channels"
    if isinstance(module, layers.ConvTranspose):
        kernel = np.moveaxis(kernel, 3, 2)
        return kernel, f"kernels of {size} pixels of a transposed convolution"
    if kernel.ndim == 4:
        groups = getattr(module, "feature_group_count", 1)
        kind = f"kernels of {size} pixels"
        if groups > 1 and kernel.shape[2] == 1:
            kind = f"depthwise kernels of {size} pixels, each reads one channel"
        elif groups > 1:
            kind += f" in {groups} groups, each reads {kernel.shape[2]} channels"
        return kernel, kind
    flatten = known.get(layer.follows)
    if flatten is None or not isinstance(flatten.module, layers.Flatten):
        raise NotForThisNetwork(
            f"the first layer with weights, {layer.name}, is dense and does not read "
            "an image: its weights are none")
    return (kernel.reshape(*flatten.input_shape, kernel.shape[-1]),
            "units of a dense layer, whose weights are drawn where the pixels are")


def draw_kernel(axes, kernel: np.ndarray, limit: float):
    """[h, w, 1] in red and blue, [h, w, 3] as colours around grey."""
    if kernel.shape[-1] == 3:
        return axes.imshow(0.5 + kernel / (2 * limit), interpolation="nearest")
    return drawing.signed(axes, kernel.mean(-1), limit)


def strip(subject: Subject, settings: Settings) -> Iterator[Picture]:
    """For each chosen layer: its kernels, and what the convolution and the layers right
    after it make of some images; a row a filter."""
    known = subject.layers
    stages = [stage_of(layer, known) for layer in chosen_layers(subject, settings)]
    wanted = [layer.name for stage in stages for layer in stage]

    def outputs(network, variables, images):
        values = features(network, variables, images, inner=True)
        return {name: values[name] for name in wanted}

    count = min(STRIP_IMAGES, len(subject.pixels))
    values = subject.over(subject.pixels[:count], outputs)
    for stage in subject.track("strip", stages):
        yield draw_stage(subject, settings, stage, values, known)


def draw_stage(subject: Subject, settings: Settings, stage: list[Layer],
               values: dict[str, np.ndarray], known: dict[str, Layer]) -> Picture:
    first = stage[0]
    shown = chosen_filters(first, settings, min(STRIP_FILTERS, settings.max_filters))
    kernel = None
    if first.kernel is not None:
        kernel, _ = as_images(first, kernel_of(subject.variables, first), known)
    left = int(kernel is not None)
    images = len(values[first.name])
    columns = left + images * len(stage)
    figure, axes = drawing.grid(1 + len(shown), columns, cell=0.85, left=0.5, top=0.4)
    for i in range(images):
        one = axes[0, left + i * len(stage)]
        drawing.image(one, subject.pixels[i])
        one.set_title(drawing.fit(subject.titles[i], 40), fontsize=8, loc="left")
    for row, index in enumerate(shown, 1):
        drawing.beside(axes[row, 0], f"filter {index}", 6)
        if left:
            one = summary(kernel[..., index], subject)
            draw_kernel(axes[row, 0], one, np.abs(one).max() or 1.0)
        for place, layer in enumerate(stage):
            maps = values[layer.name]
            limit = float(np.abs(maps[..., index]).max()) or 1.0
            for i in range(images):
                one = axes[row, left + i * len(stage) + place]
                if maps[..., shown].min() >= 0:
                    drawing.heat(one, maps[i, ..., index], 0.0, limit)
                else:
                    drawing.signed(one, maps[i, ..., index], limit)
    for column in range(columns):
        place = (column - left) % len(stage)
        axes[1, column].set_title("kernel" if left and not column
                                  else label(stage[place]), fontsize=7, pad=3)
    sizes = ", ".join(f"{label(layer, ' ')} {' x '.join(map(str, layer.shape[:2]))}"
                      for layer in stage)
    reads = 0 if kernel is None else kernel.shape[2]
    return Picture(
        "strip_" + first.name.replace("/", "_"), f"From kernel to pool: {first.name}",
        f"A row for each filter ({len(shown)} of {first.shape[-1]}), whose maps are on "
        "one scale for all images: red above and blue below 0; where a layer has "
        "nothing below 0, dark to bright. "
        f"Pixels: {sizes}."
        + (f" Of the {reads} channels that a kernel reads the mean is shown."
           if reads > 1 and not is_colour(kernel, subject) else ""),
        f"{len(shown)} filters on {images} images, layer by layer: {sizes}.", figure,
        {"images": subject.pixels[:images], "filters": np.array(shown)}
        | ({"kernel": kernel[..., shown]} if left else {})
        | {layer.name: values[layer.name][..., shown] for layer in stage})


def is_colour(kernel: np.ndarray, subject: Subject) -> bool:
    """Whether a kernel [h, w, channels read, ...] can be drawn in colours."""
    return kernel.shape[2] == 3 == subject.pixels.shape[-1]


def summary(kernel: np.ndarray, subject: Subject) -> np.ndarray:
    """[h, w, channels] -> [h, w, 1], the mean; colours stay."""
    return kernel if is_colour(kernel, subject) else kernel.mean(-1, keepdims=True)


def label(layer: Layer, gap: str = "\n") -> str:
    """'conv1', or 'max pool' above 'pool1'."""
    kinds = [words or layer.module.kind for kind, words in STAGES.items()
             if isinstance(layer.module, kind)]
    return kinds[0] if kinds else layer.name.rpartition("/")[2]
