"""Checks a config before anything compiles.

ml_collections checks the names and types of command-line overrides. It accepts a
learning rate of NaN or a batch size of 0, and it checks nothing in a notebook.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cnn_jax import data, layers, networks, optimizers, user_code
from cnn_jax.config.compare import flat
from cnn_jax.config.fields import FIELDS, NETWORK_FIELDS, default_config
from cnn_jax.data.augment import AUGMENTATIONS, is_identity
from cnn_jax.errors import InputError
from cnn_jax.tasks import TASKS, Task, losses
from cnn_jax.tasks.metrics import METRICS, split_names, with_metrics
from cnn_jax.tasks.tta import VIEWS

# The names of fields in other programs.
ALIASES = {
    "lr": "optimizer.learning_rate", "wd": "optimizer.weight_decay",
    "opt": "optimizer.name", "bs": "batch_size", "batchsize": "batch_size",
    "batch": "batch_size", "num_epochs": "epochs", "arch": "model.name",
    "model": "model.name", "network": "model.name", "net": "model.name",
    "dataset": "data.name", "data_dir": "data.dir", "img_size": "data.image_size",
    "imgsz": "data.image_size", "input_size": "data.image_size",
    "num_workers": "data.workers", "amp": "dtype", "precision": "dtype",
    "ema": "optimizer.ema_decay", "pretrained": "model.init_from",
    "lr_scheduler": "schedule.name", "scheduler": "schedule.name"}


def is_field(name: str) -> bool:
    """Tells whether configs have a field, or a section, of this name."""
    return name.startswith(NETWORK_FIELDS + ".") or any(
        field == name or field.startswith(name + ".") for field in FIELDS)


def unknown_field(name: str) -> str:
    """Writes the message for a field that does not exist."""
    near = nearest_field(name)
    return f"config.{name}: no such field; " + (
        f"did you mean config.{near}?" if near else
        "cnn_jax/config/fields.py names all of them")


def nearest_field(name: str) -> str | None:
    """Finds the field that was meant: by an alias, its last word, or similar letters.
    """
    word = name.rpartition(".")[2].replace("-", "_").lower()
    if word in ALIASES:
        return ALIASES[word]
    with_word = [field for field in FIELDS if field.rpartition(".")[2] == word]
    near = difflib.get_close_matches(name, FIELDS, 1)
    return next(iter(with_word if len(with_word) == 1 else near), None)


def check(config: ConfigDict) -> None:
    """Raises InputError for the first field that is unknown, missing or not allowed."""
    check_fields(config)
    check_together(config)


def check_fields(config: Mapping[str, Any] | ConfigDict) -> None:
    """Raises InputError for the first field that its own rule does not allow."""
    values = flat(config)
    for name in values:
        if name not in FIELDS:
            raise InputError(unknown_field(name))
    for name, field in FIELDS.items():
        if name not in values:
            raise InputError(f"config.{name} is missing: start from configs/default.py,"
                             " which has every field")
        value, rule = values[name], field.rule
        if not rule.holds(value):
            near = difflib.get_close_matches(str(value), rule.names, 5)
            raise InputError(
                f"config.{name} = {value!r} is not allowed: "
                + (f"did you mean {' or '.join(near)}? It " if near else "")
                + f"must be {rule.allowed}")


def check_together(config: ConfigDict) -> None:
    """Raises InputError for the first fields whose values do not fit together."""
    check_network(config)
    try:
        data.check(config.data)
    except InputError as error:
        raise InputError(f"config.{error}") from error
    mixing = [name for name in ("cutout", "random_erasing", "mixup", "cutmix")
              if config.augment[name]]
    task = data.task_of(config.data)
    if mixing and not task.can_mix:
        raise InputError(
            f"config.augment.{mixing[0]} = {config.augment[mixing[0]]} is not for "
            f"{config.data.name}, which has a label for each {task.unit}: set it to 0 "
            "(rotation, shifts, shear, zoom, flips, crops and trivial_augment move the "
            "labels with the images)")
    check_own_functions(config)
    check_measures(config, task)
    if config.coordinator not in (None, "auto") and not (
            config.num_processes is not None and config.process_id is not None
            and config.process_id < config.num_processes):
        raise InputError(
            f"config.coordinator = {config.coordinator!r} needs config.num_processes "
            ">= 1 and config.process_id from 0 to num_processes - 1, not "
            f"{config.num_processes} and {config.process_id}")
    check_progressive(config)
    check_averages(config, task)
    if (config.schedule.warmup_epochs or 0) > config.epochs:
        raise InputError(
            f"config.schedule.warmup_epochs = {config.schedule.warmup_epochs} is not "
            f"allowed: it must be <= config.epochs = {config.epochs}")


def check_own_functions(config: ConfigDict) -> None:
    """Raises InputError for a MODULE:FUNCTION that cannot be imported."""
    for name, value, table in (
            ("optimizer.name", config.optimizer.name, optimizers.OPTIMIZERS),
            ("schedule.name", config.schedule.name, optimizers.SCHEDULES),
            ("augment.own", config.augment.own, AUGMENTATIONS)):
        if value is not None:
            try:
                user_code.find(table, value)
            except ValueError as error:
                raise InputError(f"config.{name} = {error}") from error


def check_measures(config: ConfigDict, task: Task) -> None:
    """Raises InputError for a loss, metric or monitor that is not for the task."""
    try:
        losses.check(task, config.loss)
    except ValueError as error:
        raise InputError(f"config.loss.{error}") from error
    try:
        measured = with_metrics(task, config.eval.metrics).monitors
    except ValueError as error:
        raise InputError(f"config.eval.metrics: {error}") from error
    names = ("loss", "accuracy") if task.correct else ("loss",)
    known = (*names, *(f"val_{name}" for name in (*names, *measured)))
    for section in ("early_stopping", "checkpoint"):
        monitor = config[section].monitor
        if monitor not in known:
            metric = monitor.removeprefix("val_")
            others = [other.name for other in TASKS.values()
                      if metric in other.monitors]
            raise InputError(
                f"config.{section}.monitor = {monitor!r} is not measured: "
                + f"it is for the task {' or '.join(others)}; " * bool(others)
                + f"config.eval.metrics = {metric} adds it; " * (metric in METRICS)
                + f"the task {task.name} has {', '.join(known)}")


def check_averages(config: ConfigDict, task: Task) -> None:
    """Raises InputError for impossible averages of parameters or of predictions."""
    settings = config.optimizer
    if settings.swa_epochs is not None and settings.ema_decay is not None:
        raise InputError(f"config.optimizer.swa_epochs = {settings.swa_epochs} and "
                         f"ema_decay = {settings.ema_decay} are two averages of the "
                         "same parameters: unset one")
    if settings.swa_epochs is not None and settings.swa_epochs > config.epochs:
        raise InputError(f"config.optimizer.swa_epochs = {settings.swa_epochs} is not "
                         f"allowed: it must be <= config.epochs = {config.epochs}")
    views = split_names(config.eval.tta)
    if (unknown := [view for view in views if view not in VIEWS]) or (
            views and task.unit == "pixel"):
        raise InputError(
            f"config.eval.tta = {config.eval.tta!r} is not allowed: "
            + (f"there is no view {unknown[0]!r}, only {', '.join(VIEWS)}" if unknown
               else "it is for labels of images, not of pixels: unset it"))


def check_network(config: ConfigDict) -> None:
    """Raises InputError for an unknown network, and for fields that it does not take.
    """
    try:
        networks.find(config.model.name)
    except ValueError as error:
        raise InputError(f"config.model.name: {error}") from error
    try:
        networks.create(config.model.name, layers=layers.Layers(),
                        **config.model.fields)
    except ValueError as error:
        raise InputError(f"config.model.fields = {dict(config.model.fields)}: "
                         f"{error}; --config.model.fields={{}} unsets the fields that "
                         "a config sets for another network") from error
    if not networks.has_layers(config.model.name):
        check_without_layers(config)
    if config.model.train == "head":
        check_head_alone(config)
    sync = config.model.bn_sync
    if sync.isdecimal() and config.batch_size % int(sync):
        raise InputError(f"config.model.bn_sync = {sync!r} does not divide "
                         f"config.batch_size = {config.batch_size}: use a divisor")
    if config.model.remat and not networks.has_blocks(config.model.name):
        raise InputError(
            "config.model.remat = True is for networks made of blocks (ResNet, "
            "DenseNet, MobileNet, GoogLeNet, Inception, Xception), not for "
            f"{config.model.name}: set it to false")


def check_progressive(config: ConfigDict) -> None:
    """Raises InputError for progressive sizes without epochs, or that never end."""
    sides, epochs = config.progressive.sides, config.progressive.epochs
    if (sides is None) != (epochs is None):
        raise InputError(
            f"config.progressive.sides = {sides} and config.progressive.epochs = "
            f"{epochs} go together: set both, such as (160, 192) and (11, 13), or none")
    if epochs is not None and epochs[1] >= config.epochs:
        raise InputError(
            f"config.progressive.epochs = {epochs} is not allowed: the growth must end "
            f"at less than config.epochs = {config.epochs}, so that the last side is "
            "trained")


def check_without_layers(config: ConfigDict) -> None:
    """Raises InputError for fields that have an effect only through `Layers`."""
    values = flat(config)
    for name in ("model.conv", "model.pool", "model.init", "model.bn",
                 "model.bn_sync", "dtype", "parallel"):
        value, default = values[name], FIELDS[name].default
        if value != default:
            raise InputError(
                f"config.{name} = {value!r} has no effect on {config.model.name}, "
                f"which has no field 'layers': use {default!r}, or make its layers by "
                "a cnn_jax.layers.Layers")


def check_head_alone(config: ConfigDict) -> None:
    """Raises InputError for fields that model.train = head excludes."""
    if not config.model.init_from:
        raise InputError("config.model.train = head needs config.model.init_from, the "
                         "trained network whose last layer learns")
    if config.model.freeze:
        raise InputError(f"config.model.freeze = {config.model.freeze!r} is not for "
                         "config.model.train = head, which freezes all but the head")
    if config.progressive.sides is not None:
        raise InputError(
            f"config.progressive.sides = {config.progressive.sides} is not for "
            "config.model.train = head, which computes the head's input once: unset it")
    if not is_identity(config.augment):
        active = next(name for name, value in config.augment.items()
                      if value != FIELDS[f"augment.{name}"].default)
        raise InputError(
            f"config.augment.{active} = {config.augment[active]} changes images from "
            "epoch to epoch, but config.model.train = head computes the head's input "
            "once: unset it, or train through the network with config.model.train = "
            "all and config.model.freeze = trunk")
    if config.data.on_error == "skip":
        raise InputError("config.data.on_error = skip is not for config.model.train = "
                         "head, which needs every image: use stop")


def from_json(values: Mapping[str, Any]) -> ConfigDict:
    """Makes a locked config from JSON values; raises InputError as `check` does."""
    check_fields(values)
    config = default_config()
    with config.unlocked():
        config.update(networks.as_tuples(values))
    check(config)
    return config
