"""What a config may hold: one rule per field, checked before anything compiles.

`configs/default.py` names the fields; `RULES` says what each may be. ml_collections
checks names and types of command-line overrides, but accepts a learning rate of NaN or
a batch size of 0, and nothing at all is checked in a notebook.
"""

import difflib
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cnn_jax import data, layers, networks, ops
from cnn_jax.data import scaling, warp
from cnn_jax.errors import InputError
from cnn_jax.json_files import sealed
from cnn_jax import optimizers as optimizer
from cnn_jax.tasks import TASKS

# What training and evaluation measure; each task adds its own.
MONITORS = ("loss", "accuracy", "val_loss", "val_accuracy",
            *(f"val_{name}" for task in TASKS.values() for name in task.monitors))

# Where and how a run is executed, not what it computes: free to differ on resume.
EXECUTION = ("parallel", "devices", "coordinator", "num_processes", "process_id",
             "data.dir", "log.every_steps", "checkpoint.keep", "checkpoint.fallback",
             "debug.determinism")
PICTURES = "inspect."  # fields that only decide what is drawn of a run: free as well
# Fields that the config of an older workdir may lack, with what they were then.
ADDED = {"checkpoint.fallback": False, "debug.determinism": False}


class Rule(NamedTuple):
    """What a field may be: a test, and the words that say so."""

    holds: Callable[[Any], bool]
    allowed: str
    names: tuple[str, ...] = ()  # where the values are names


def integer(low: int, high: int = 2**31 - 1) -> Rule:
    return Rule(lambda v: isinstance(v, int) and not isinstance(v, bool)
                and low <= v <= high, f"a whole number from {low} to {high}")


def number(low: float, high: float = math.inf, open_low: bool = False,
           open_high: bool = False) -> Rule:
    """A finite number in an interval, open at the ends named."""
    def holds(v):
        return (isinstance(v, (int, float)) and not isinstance(v, bool)
                and math.isfinite(v) and (low < v if open_low else low <= v)
                and (v < high if open_high else v <= high))
    words = f"a finite number {'>' if open_low else '>='} {low:g}"
    if high < math.inf:
        words += f" and {'<' if open_high else '<='} {high:g}"
    return Rule(holds, words)


def one_of(names) -> Rule:
    return Rule(lambda v: isinstance(v, str) and v in names,
                "one of " + ", ".join(sorted(names)), tuple(names))


def sequence(item: Rule, length: int | None = None) -> Rule:
    """A tuple whose items all follow one rule."""
    def holds(v):
        return (isinstance(v, (tuple, list)) and len(v) == (length or len(v))
                and all(map(item.holds, v)))
    return Rule(holds, f"a tuple of {length or 'some'} items, each {item.allowed}")


def is_address(value: str) -> bool:
    """host:port"""
    host, _, port = value.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


boolean = Rule(lambda v: isinstance(v, bool), "true or false")
text = Rule(lambda v: isinstance(v, str), "a string")
fraction = number(0, 1, open_high=True)
RULES = {
    "seed": integer(0),
    "epochs": integer(1),
    "batch_size": integer(1),
    "eval_batch_size": integer(1),
    "dtype": one_of(("float32", "bfloat16")),
    "parallel": one_of(("jit", "pmap")),
    "devices": integer(0),
    "steps_per_call": integer(0, 1000),
    "coordinator": Rule(
        lambda v: isinstance(v, str) and (v in ("", "auto") or is_address(v)),
        "'' (one process), 'auto', or 'host:port'"),
    "num_processes": integer(0),
    "process_id": integer(-1),
    "model.name": one_of(networks.NETWORKS),
    "model.num_classes": integer(0, 1_000_000),  # ImageNet-21k has 21,843
    "model.conv": one_of(ops.CONVS),
    "model.pool": one_of(ops.POOLS),
    "model.init": one_of(layers.INITIALIZERS),
    "model.bn": one_of(layers.BATCH_NORM),
    "model.init_from": text,
    "model.freeze": text,
    # Which values of these a data set accepts is said by `data.check`.
    "data.name": text,
    "data.dir": text,
    "data.image_size": sequence(integer(0), 2),
    "data.channels": integer(0),
    "data.validation": number(0),
    "data.split": text,
    "data.test": number(0),
    "data.validation_is_test": boolean,
    "data.limit": integer(0),
    "data.seed": integer(0),
    "data.biased_triangles": boolean,
    "data.scaling": one_of(scaling.SCALINGS),
    "augment.rotation_range": number(0, 180),
    "augment.width_shift_range": fraction,
    "augment.height_shift_range": fraction,
    "augment.shear_range": number(0, 90, open_high=True),
    "augment.zoom_range": fraction,
    "augment.horizontal_flip": boolean,
    "augment.vertical_flip": boolean,
    "augment.fill_mode": one_of(warp.FILL_MODES),
    "augment.crop_padding": integer(0, 256),
    "augment.cutout": integer(0),
    "augment.mixup": number(0),
    "augment.cutmix": number(0),
    "loss.label_smoothing": fraction,
    "optimizer.name": one_of(optimizer.OPTIMIZERS),
    "optimizer.learning_rate": number(0, open_low=True),
    "optimizer.momentum": fraction,
    "optimizer.weight_decay": number(0),
    "optimizer.decay_parts": text,
    "optimizer.clip_norm": number(0),
    "optimizer.accumulate_steps": integer(1),
    "optimizer.ema_decay": fraction,
    "schedule.name": one_of(optimizer.SCHEDULES),
    "schedule.warmup_epochs": number(0),
    "schedule.boundaries_epochs": sequence(number(0)),
    "schedule.factor": number(0, open_low=True),
    "schedule.final_factor": number(0, 1),
    "schedule.decay": number(0),
    "early_stopping.monitor": one_of(MONITORS),
    "early_stopping.patience": integer(0),
    "early_stopping.min_delta": number(0),
    "checkpoint.monitor": one_of(MONITORS),
    "checkpoint.every_steps": integer(0),
    "checkpoint.keep": integer(2),
    "checkpoint.fallback": boolean,
    "debug.determinism": boolean,
    "log.every_steps": integer(1),
    # Which names a trained run has is said where it is drawn.
    "inspect.only": text,
    "inspect.images": integer(1, 64),
    "inspect.layers": text,
    "inspect.filters": text,
    "inspect.max_filters": integer(1, 256),
    "inspect.target": text,
    "inspect.cam_layer": text,
    "inspect.position": sequence(integer(-1), 2),
    "inspect.steps": integer(1, 100_000),
    "inspect.samples": integer(1, 10_000),
    "inspect.noise": number(0, 1),
    "inspect.window": integer(0, 1024),
}
FIELDS = (*RULES, "model.fields")  # the network's own fields are its own business


def flat(config: Mapping, prefix: str = "") -> dict[str, Any]:
    """{'data.name': 'digits', ...}; the network's own fields stay one mapping."""
    out = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict) and prefix + key != "model.fields":
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


def is_field(name: str) -> bool:
    """Whether configs have a field, or a part, of this name."""
    return name.startswith("model.fields.") or any(
        field == name or field.startswith(name + ".") for field in FIELDS)


def unknown_field(name: str) -> str:
    """The message for a field that there is none of."""
    near = difflib.get_close_matches(name, FIELDS, 1)
    return f"config.{name}: no such field; " + (
        f"did you mean config.{near[0]}?" if near else
        "configs/default.py names all of them")


def check(config: ConfigDict) -> None:
    """Raises InputError for the first field that is unknown, missing or not allowed."""
    fields = flat(config)
    for field in fields:
        if field not in FIELDS:
            raise InputError(unknown_field(field))
    for field in FIELDS:
        if field not in fields:
            raise InputError(f"config.{field} is missing: start from "
                             "configs/default.py, which names every field")
    for field, rule in RULES.items():
        if not rule.holds(fields[field]):
            near = difflib.get_close_matches(str(fields[field]), rule.names)
            raise InputError(
                f"config.{field} = {fields[field]!r} is not allowed: "
                + (f"did you mean {' or '.join(near)}? It " if near else "")
                + f"must be {rule.allowed}")
    check_together(config)


def check_together(config: ConfigDict) -> None:
    """The rules that more than one field has a part in."""
    try:
        networks.create(config.model.name, layers=layers.Layers(),
                        **config.model.fields)
    except ValueError as error:
        raise InputError(f"config.model.fields = {dict(config.model.fields)}: "
                         f"{error}") from error
    try:
        data.check(config.data)
    except InputError as error:
        raise InputError(f"config.{error}") from error
    mixing = [name for name in ("cutout", "mixup", "cutmix") if config.augment[name]]
    task = data.task_of(config.data)
    if mixing and not task.can_mix:
        raise InputError(
            f"config.augment.{mixing[0]} = {config.augment[mixing[0]]} is not for "
            f"{config.data.name}, which has a label for each "
            f"{task.unit}: set it to 0 (maps, "
            "flips and crop_padding move images and labels alike)")
    for part in ("early_stopping", "checkpoint"):
        monitor = config[part].monitor
        others = [other.name for other in TASKS.values() if other is not task
                  and monitor.removeprefix("val_") in other.monitors]
        if others:
            raise InputError(
                f"config.{part}.monitor = {monitor!r} is for sets of the task "
                f"{' or '.join(others)}, not for {config.data.name}: use val_accuracy")
    if config.coordinator not in ("", "auto") and not (
            0 <= config.process_id < config.num_processes):
        raise InputError(
            f"config.coordinator = {config.coordinator!r} needs config.num_processes "
            ">= 1 and config.process_id from 0 to num_processes - 1, not "
            f"{config.num_processes} and {config.process_id}")
    if config.coordinator and config.checkpoint.fallback:
        raise InputError("config.checkpoint.fallback = True moves checkpoints, which "
                         "is for one process: start one without config.coordinator "
                         "first, then all of them with fallback = False")
    if config.schedule.warmup_epochs > config.epochs:
        raise InputError(f"config.schedule.warmup_epochs = "
                         f"{config.schedule.warmup_epochs} is not allowed: must be <= "
                         f"config.epochs = {config.epochs}")


def to_json(config: ConfigDict) -> str:
    """The config as readable JSON with its CRC-32, the same for the same values."""
    values = sealed(json.loads(config.to_json()))
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def computed(config: ConfigDict) -> dict[str, Any]:
    """The fields that decide what is computed, as plain JSON values."""
    fields = flat(json.loads(config.to_json()))
    return {k: v for k, v in fields.items()
            if k not in EXECUTION and not k.startswith(PICTURES)}


def differences(ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """'field: theirs -> ours' for each field that would change what is computed."""
    new, old = computed(ours), computed(theirs)
    return [f"{field}: {old.get(field)!r} -> {new.get(field)!r}"
            for field in sorted(new.keys() | old.keys())
            if new.get(field) != old.get(field)]


def fingerprint(config: ConfigDict) -> str:
    """Eight hex digits that tell apart configs which compute different things.

    A folder of the user's own is its data set's only name, so it counts.
    """
    facts = computed(config)
    if config.data.name == "folder" or config.data.name.startswith("tfds:"):
        facts["data.dir"] = os.path.abspath(config.data.dir)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
