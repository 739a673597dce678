"""Draws training images as they are stored and as the network sees them."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnn_jax import data
from cnn_jax.data.augment import augment, check_channels, is_identity
from cnn_jax.data.batches import train_order
from cnn_jax.data.examples import Dataset
from cnn_jax.data.crops import training_crop
from cnn_jax.data.info import measure_scaling
from cnn_jax.data.lazy import cropped_when_read
from cnn_jax.data.progressive import training_size
from cnn_jax.data.scaling import scale
from cnn_jax.inspection.draw.drawing import fold, legend, new_figure, set_title, show
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.rng import draw_key
from cnn_jax.tasks import Task

IMAGES, COPIES = 8, 6  # rows; columns after that of the stored images
CELL = 1.25  # inches


class Seen(NamedTuple):
    """Holds the network's input for some images of the first batch, at one step."""

    inputs: np.ndarray  # float32 [n, H, W, C]
    # Pairs of (labels, weight of each image [n]); two pairs if images are mixed
    targets: tuple[tuple[np.ndarray, np.ndarray], ...]


def seen(dataset: Dataset, config: ConfigDict, steps: int) -> list[Seen]:
    """Augments the first images of the first batch with the draws of the first steps.

    Element 0 is the first input of training; the others show the same images with the
    random draws of later steps. A streamed set makes its random-resized crops when
    pictures are read; here these are the crops of later epochs.
    """
    train, size = dataset.train, config.batch_size
    check_channels(config.augment, train.images.shape[3])
    indices = first_batch(dataset, config)
    task, labels = data.task_of(config.data), train.labels[indices]
    cropped = cropped_when_read(train.images, task)
    images = None if cropped else train.images[indices]
    scaling, _ = measure_scaling(train.images, config.data.scaling)
    augment_batch = jax.jit(functools.partial(
        augment, settings=config.augment, task=task, zero=scaling.offset,
        cropped=cropped, size=training_size(config.progressive, 0)))
    draws = []
    for step in range(steps):
        key, _ = jax.random.split(draw_key(config.seed, "step", step))  # as train_step
        if cropped:
            images = read_crops(train.images, indices, config, epoch=step)
        pixels, targets = augment_batch(key, images, labels, jnp.arange(size))
        draws.append(Seen(np.asarray(scale(pixels[:IMAGES], scaling)), tuple(
            (np.asarray(labels)[:IMAGES], np.broadcast_to(weight, size)[:IMAGES])
            for labels, weight in targets)))
    return draws


def read_crops(images: Any, rows: np.ndarray, config: ConfigDict,
               epoch: int) -> np.ndarray:
    """Reads images of a streamed set with the training crops of an epoch.

    Their size is that of the first epoch.
    """
    settings = config.augment
    if settings.crop_scale:
        images = images.at_size(training_size(config.progressive, 0))
    return images.read_rows(rows, lambda row: training_crop(
        config.seed, epoch, row, settings.crop_scale, settings.crop_ratio))


def first_batch(dataset: Dataset, config: ConfigDict) -> np.ndarray:
    """Returns the indices of the first batch of the first epoch."""
    return train_order(config.seed, 0, range(len(dataset.train.labels)),
                       config.batch_size)[0]


def contact_sheet(dataset: Dataset, config: ConfigDict) -> Picture:
    """Draws a row for each image; the network's input is mapped back to pixels.

    The first column shows the stored image, the others show steps; without augmentation
    there is only one step. The arrays of the picture are 'stored' uint8 [n, H, W, C],
    'labels', and the network's 'inputs' float32 [steps, n, H, W, C].
    """
    task = data.task_of(config.data)
    masks = task.unit == "pixel"
    columns = 1 if is_identity(config.augment) else COPIES
    steps = seen(dataset, config, columns)
    scaling, _ = measure_scaling(dataset.train.images, config.data.scaling)
    stored = dataset.train.take(first_batch(dataset, config)[:IMAGES])
    rows = len(stored.labels)
    height, width = stored.images.shape[1:3]
    cell = CELL * (1 + masks) * min(2.0, max(0.5, width / height))
    figure = new_figure(max(6.0, cell * (columns + 1) + 1.2), CELL * rows + 1.2)
    grid = figure.subplots(rows, columns + 1, squeeze=False)
    for row in range(rows):
        label = stored.labels[row]
        show(grid[row, 0], stored.images[row], label if masks else None)
        if not masks:
            grid[row, 0].set_ylabel(
                fold(task.label_text(label, dataset.class_names), 1.1, 8, 4),
                rotation=0, ha="right", va="center", fontsize=8)
        for column, step in enumerate(steps, 1):
            pixels = (step.inputs[row] / np.array(scaling.factor)
                      + np.array(scaling.offset))
            show(grid[row, column], pixels,
                 step.targets[0][0][row] if masks else None)
            if len(step.targets) > 1:
                grid[row, column].set_xlabel(
                    mixture(step.targets, row, task, dataset.class_names, cell),
                    fontsize=6)
    grid[0, 0].set_title("as stored", fontsize=8)
    for column in range(1, columns + 1):
        grid[0, column].set_title(
            f"draws of step {column}" if columns > 1 else "as seen", fontsize=8)
    if masks:
        legend(figure, dataset.class_names)
    inputs = np.stack([step.inputs for step in steps])
    caption = (f"{dataset.source}. Scaling {config.data.scaling!r}: the network's "
               f"input ranges from {inputs.min():.3g} to {inputs.max():.3g} in these "
               "images. They are shown as pixels.")
    set_title(figure, caption)
    return Picture(
        "data", "What the network sees", caption,
        f"{rows} training images of {width} x {height} pixels, as stored and "
        + (f"with the random draws of {columns} steps." if columns > 1 else "as seen."),
        figure, {"stored": stored.images, "labels": stored.labels, "inputs": inputs})


def mixture(targets: Sequence[tuple[np.ndarray, np.ndarray]], row: int, task: Task,
            class_names: Sequence[str], inches: float) -> str:
    """Describes a mixed image on lines such as '70 % cat' and '30 % dog'."""
    fractions: dict[str, float] = {}
    for labels, weight in targets:
        name = task.label_text(labels[row], class_names)
        fractions[name] = fractions.get(name, 0.0) + float(weight[row])
    return "\n".join(fold(f"{100 * fraction:.0f} % {name}", inches, 6, 1)
                     for name, fraction in fractions.items())
