"""Makes the recipe and the initial state from a config and the info on its data."""

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Iterator

import numpy as np
from ml_collections import ConfigDict

from cnn_jax import data, networks, optimizers, user_code
from cnn_jax.data.augment import augment, check_channels
from cnn_jax.data.batches import steps_per_epoch
from cnn_jax.data.info import DataInfo
from cnn_jax.data.scaling import scale
from cnn_jax.errors import InputError, first_line
from cnn_jax.networks.summary import LayerTable, table_of
from cnn_jax.networks.trace import parts_in_order, recorded
from cnn_jax.training.initial import InitProgram, trace
from cnn_jax.tasks import Task, losses
from cnn_jax.tasks.metrics import split_names, with_metrics
from cnn_jax.training.steps import Recipe, TrainState, create_state


def create_recipe(config: ConfigDict, info: DataInfo, axis_name: str | None = None,
                  cropped: bool = False, labels: np.ndarray | None = None,
                  devices: int = 1) -> Recipe:
    """Makes the recipe of a config on the data that `info` describes.

    cropped: whether images come as random-resized crops, as streamed ones do.
    labels: of the training split, for class weights; None means no class weights.
    devices: the number of devices that share a training batch.
    Raises InputError for settings that do not fit the data or the devices.
    """
    check_fits_data(config, info)
    classes = len(info.class_names)
    schedule = optimizers.schedule(
        config, steps_per_epoch(info.counts["train"], config.batch_size))
    task = data.task_of(config.data, info.targets)
    model = networks.from_config(config, classes, axis_name, devices)
    groups = networks.batch_norm_groups(config, devices)
    if groups % devices and devices % groups:
        raise InputError(f"config.model.bn_sync = {config.model.bn_sync!r} makes "
                         f"{groups} groups of a batch, which do not divide over "
                         f"{devices} devices: use a multiple or a divisor of "
                         f"{config.batch_size // devices} images")
    parts: list[str] = []
    if config.optimizer.depth_decay is not None:
        with refusing(type(model).__name__, info.image_shape):
            parts = parts_in_order(model, info.image_shape)
    return Recipe(
        task=measured_task(config, task), model=model,
        loss=losses.loss_of(task, config.loss, weights_of(config, classes, labels)),
        optimizer=optimizers.create(config, schedule, parts), schedule=schedule,
        augment=functools.partial(augment, settings=config.augment,
                                  zero=info.scaling.offset, task=task,
                                  axis_name=axis_name, cropped=cropped),
        scale=functools.partial(scale, scaling=info.scaling), seed=config.seed,
        ema_decay=config.optimizer.ema_decay or 0.0,
        accumulate_steps=config.optimizer.accumulate_steps,
        swa_from=swa_start(config, info), tta=split_names(config.eval.tta),
        freeze=networks.frozen_parts(config.model),
        axis_name=axis_name)


def check_fits_data(config: ConfigDict, info: DataInfo) -> None:
    """Raises InputError for settings that do not fit the data."""
    classes = len(info.class_names)
    if (config.model.num_classes or classes) < classes:
        raise InputError(f"config.model.num_classes = {config.model.num_classes} is "
                         f"less than the {classes} classes of {info.name}: use none")
    if config.batch_size > info.counts["train"]:
        raise InputError(f"config.batch_size = {config.batch_size} is more than the "
                         f"{info.counts['train']} training images of {info.name}: use "
                         "that number or less")
    check_channels(config.augment, info.image_shape[2])
    for section in ("early_stopping", "checkpoint"):
        monitor = config[section].monitor
        if section == "early_stopping" and config.early_stopping.patience is None:
            continue
        if info.counts["validation"] == 0 and monitor.startswith("val_"):
            raise InputError(
                f"config.{section}.monitor = {monitor!r} needs a validation split, and "
                f"{info.name} has none: set config.data.validation, or monitor "
                "'loss' or 'accuracy'")


def swa_start(config: ConfigDict, info: DataInfo) -> int | None:
    """Returns the update after which the averages of optimizer.swa_epochs begin."""
    if config.optimizer.swa_epochs is None:
        return None
    steps = steps_per_epoch(info.counts["train"], config.batch_size)
    before = config.epochs - config.optimizer.swa_epochs
    return before * steps // config.optimizer.accumulate_steps


def measured_task(config: ConfigDict, task: Task) -> Task:
    """Returns the task with the loss and metrics of evaluation.

    That loss has neither label smoothing nor class weights.
    """
    task = dataclasses.replace(task, losses=losses.evaluation_loss(task, config.loss))
    return with_metrics(task, config.eval.metrics)


def weights_of(config: ConfigDict, classes: int,
               labels: np.ndarray | None) -> np.ndarray | None:
    """Returns the class weights of training, float32 [classes], or None.

    Raises InputError unless there is one weight for each class.
    """
    if labels is None:
        return None
    try:
        return losses.class_weights(config.loss.class_weights, labels, classes)
    except ValueError as error:
        raise InputError(f"config.loss.{error}") from error


@contextlib.contextmanager
def refusing(network: str, image_shape: tuple[int, int, int]) -> Iterator[None]:
    """Turns the ValueError of a network that refuses images into an InputError.

    A network of the user's own is named with the line that raised the error.
    """
    try:
        yield
    except ValueError as error:
        line = user_code.source_line(error)
        raise InputError(f"{network}{f' ({line})' * bool(line)} on images of shape "
                         f"{tuple(image_shape)}: {first_line(error)}") from error


def describe_network(recipe: Recipe, image_shape: tuple[int, int, int],
                     images: int = 1) -> tuple[LayerTable, InitProgram]:
    """Traces the network once; returns its layer table and program of initial values.

    images: the batch size of the table.
    Raises InputError if
        the network does not accept images of this shape,
        it lacks a module that `model.freeze` names,
        its outputs are for images and the labels for pixels, or the reverse, or
        its number of outputs is not that of the classes.
    """
    with refusing(type(recipe.model).__name__, image_shape):
        with recorded() as calls:
            program = trace(lambda: create_state(recipe, image_shape))
    logits = calls[-1].output.shape[1:]
    if logits != recipe.task.logits_shape(tuple(image_shape), logits[-1]):
        unit = "pixel" if len(logits) > 1 else "image"
        raise InputError(
            f"{type(recipe.model).__name__} has an output for each {unit}, the data "
            f"have a label for each {recipe.task.unit}: choose another "
            "config.model.name or data.name")
    classes = getattr(recipe.model, "num_classes", logits[-1])
    if logits[-1] != classes:
        raise InputError(
            f"{type(recipe.model).__name__} returns {logits[-1]} numbers for each "
            f"{recipe.task.unit}, and the data need {classes}: its last layer must "
            "have num_classes outputs")
    return table_of(recipe.model, image_shape, calls, images), program


def at_size(recipe: Recipe, size: tuple[int, int] | None) -> Recipe:
    """Returns the recipe that trains on images of this (height, width).

    None keeps the size of the data.
    """
    if size is None:
        return recipe
    return dataclasses.replace(recipe,
                               augment=functools.partial(recipe.augment, size=size))


def check_training_sizes(recipe: Recipe, image_shape: tuple[int, int, int],
                         sizes: Collection[tuple[int, int] | None]) -> None:
    """Raises InputError for training image sizes at which the network cannot train.

    image_shape: that of evaluation. It must be square, and the network must have the
        same parameters at every size.
    """
    height, width, channels = image_shape
    for size in sorted(filter(None, sizes)):
        if height != width:
            raise InputError(
                f"config.progressive.sides is for square images, these have {height} x "
                f"{width} pixels: unset it, or set data.image_size to a square")
        with refusing(type(recipe.model).__name__, (*size, channels)):
            params = abstract_state(recipe, (*size, channels)).params
        if params != abstract_state(recipe, image_shape).params:
            raise InputError(
                f"config.progressive.sides: {type(recipe.model).__name__} has other "
                f"parameters on images of {size[0]} x {size[1]} pixels than on the "
                f"{height} x {width} of evaluation: unset it, or choose a network that "
                "averages over its last feature map, such as a ResNet")


def first_state(recipe: Recipe, image_shape: tuple[int, int, int]) -> TrainState:
    """Makes the state before the first step, as NumPy arrays."""
    return trace(lambda: create_state(recipe, image_shape)).run()


def abstract_state(recipe: Recipe, image_shape: tuple[int, int, int]) -> TrainState:
    """Returns the structure, shapes and dtypes of a state, without its arrays."""
    return networks.eval_shape(lambda: create_state(recipe, image_shape))
