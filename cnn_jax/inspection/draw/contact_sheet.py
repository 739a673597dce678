"""A contact sheet: training images as stored, and as the network sees them."""

import functools
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.data import Dataset
from cnn_jax.data.augment import augment, is_identity
from cnn_jax.data.batches import train_order
from cnn_jax.data.scaling import SCALINGS, scale
from cnn_jax.rng import draw_key
from cnn_jax.inspection.draw.drawing import above, blank, fit, plain
from cnn_jax.inspection.draw.picture import Picture

IMAGES, COPIES = 8, 6  # rows, and columns beside that of the stored images
CELL = 1.25  # inches


class Seen(NamedTuple):
    """The network's input for some images of the first batch, at one step."""

    inputs: np.ndarray  # float32 [n, H, W, C]
    targets: tuple      # (labels, weight of each image or 1.0), ...


def seen(dataset: Dataset, config: ConfigDict, steps: int) -> list[Seen]:
    """The first images of the first batch, with the random draws of the first steps.

    Element 0 is what training begins with, the others what the same images would have
    become.
    """
    train, size = dataset.train, config.batch_size
    indices = first_batch(dataset, config)
    images, labels = train.images[indices], train.labels[indices]
    scaling = SCALINGS[config.data.scaling](train.images)
    change = jax.jit(functools.partial(augment, settings=config.augment,
                                       zero=scaling.offset))
    found = []
    for step in range(steps):
        key, _ = jax.random.split(draw_key(config.seed, "step", step))  # as train_step
        pixels, targets = change(key, images, labels, jnp.arange(size))
        found.append(Seen(np.asarray(scale(pixels[:IMAGES], scaling)), tuple(
            (np.asarray(names)[:IMAGES], np.broadcast_to(weight, size)[:IMAGES])
            for names, weight in targets)))
    return found


def first_batch(dataset: Dataset, config: ConfigDict) -> np.ndarray:
    return train_order(config.seed, 0, range(len(dataset.train.labels)),
                       config.batch_size)[0]


def contact_sheet(dataset: Dataset, config: ConfigDict) -> Picture:
    """The sheet: a row for each image, mapped back to pixels.

    The first column is as stored; without augmentation there is only one more.
    Its arrays: 'stored' uint8 [n, H, W, C], their 'labels', and the network's 'inputs'
    float32 [columns, n, H, W, C].
    """
    # Imported here: matplotlib takes a second, and only this mode draws.
    from matplotlib.figure import Figure

    columns = 1 if is_identity(config.augment) else COPIES
    steps = seen(dataset, config, columns)
    scaling = SCALINGS[config.data.scaling](dataset.train.images)
    stored = dataset.train.take(first_batch(dataset, config)[:IMAGES])
    rows, masks = len(stored.labels), stored.labels.ndim > 1
    height, width = stored.images.shape[1:3]
    cell = CELL * (1 + masks) * min(2.0, max(0.5, width / height))
    figure = Figure(figsize=(max(6.0, cell * (columns + 1) + 1.2), CELL * rows + 1.2),
                    layout="constrained")
    grid = figure.subplots(rows, columns + 1, squeeze=False)
    for row in range(rows):
        show(grid[row, 0], stored.images[row], stored.labels[row])
        if not masks:
            grid[row, 0].set_ylabel(
                wrapped(dataset.class_names[stored.labels[row]]), rotation=0,
                ha="right", va="center", fontsize=8)
        for column, step in enumerate(steps, 1):
            pixels = step.inputs[row] / scaling.factor + scaling.offset
            show(grid[row, column], pixels, step.targets[0][0][row])
            if len(step.targets) > 1:
                grid[row, column].set_xlabel(
                    mixture(step.targets, row, dataset.class_names), fontsize=6)
    grid[0, 0].set_title("as stored", fontsize=8)
    for column in range(1, columns + 1):
        grid[0, column].set_title(
            f"draws of step {column}" if columns > 1 else "as seen", fontsize=8)
    if masks:
        legend(figure, dataset.class_names)
    inputs = np.stack([step.inputs for step in steps])
    words = caption(dataset, config, inputs)
    above(figure, words)
    return Picture(
        "data", "What the network sees", words,
        f"{rows} training images of {width} x {height} pixels, as stored and "
        + (f"with the random draws of {columns} steps." if columns > 1 else "as seen."),
        figure, {"stored": stored.images, "labels": stored.labels, "inputs": inputs})


def caption(dataset: Dataset, config: ConfigDict, inputs: np.ndarray) -> str:
    """What the pictures are, and the range of the numbers behind them."""
    return (f"{dataset.source}. Scaling {config.data.scaling!r}: input from "
            f"{inputs.min():.3g} to {inputs.max():.3g} in these images, shown as "
            "pixels.")


def wrapped(name: str) -> str:
    """'common_squirrel_monkey' on three lines."""
    return plain(textwrap.fill(name.replace("_", " "), 12))


def mixture(targets, row: int, class_names) -> str:
    """'70 % cat, 30 % dog' of an image that was mixed."""
    shares: dict[str, float] = {}
    for labels, weight in targets:
        name = class_names[labels[row]].replace("_", " ")
        shares[name] = shares.get(name, 0.0) + float(weight[row])
    return "\n".join(f"{100 * share:.0f} % {fit(name, 18)}"
                     for name, share in shares.items())


def show(axes, pixels: np.ndarray, label) -> None:
    """One image, 0..255; with its mask to the right where it has one."""
    image = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    image = np.repeat(image, 3, -1) if image.shape[-1] == 1 else image
    if np.ndim(label):
        gap = np.full((len(image), 1, 3), 255, np.uint8)
        image = np.concatenate([image, gap, class_colours()[label]], axis=1)
    axes.imshow(image, interpolation="nearest")
    blank(axes)


def class_colours() -> np.ndarray:
    """uint8 [256, 3]: black for class 0, then matplotlib's ten colours in turn."""
    from matplotlib import colormaps
    ten = (255 * np.array(colormaps["tab10"].colors)).astype(np.uint8)
    return np.concatenate([np.zeros((1, 3), np.uint8), np.resize(ten, (255, 3))])


def legend(figure, class_names) -> None:
    """Which colour of a mask is which class."""
    from matplotlib.patches import Patch
    figure.legend(
        handles=[Patch(facecolor=colour / 255, label=plain(name)) for colour, name in
                 zip(class_colours()[1:], class_names[1:])],
        loc="outside lower center", ncols=min(6, len(class_names)), fontsize=8)
