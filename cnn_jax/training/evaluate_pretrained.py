"""Evaluates a pretrained network on pictures in class folders: top-1 and top-5."""

import dataclasses
import math
from pathlib import Path
from typing import cast

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.console import Reporter
from cnn_jax.data.examples import Dataset, Examples
from cnn_jax.data.folders import class_folders
from cnn_jax.data.lazy import LazyImages
from cnn_jax.data.records import Records
from cnn_jax.data.sources import local_folder
from cnn_jax.errors import InputError
from cnn_jax.interop.imagenet import classes_of_folders
from cnn_jax.interop.load import published_top1
from cnn_jax.tasks.metrics import with_metrics
from cnn_jax.training import parallel
from cnn_jax.training.evaluate import open_evaluation
from cnn_jax.training.recipe import create_recipe
from cnn_jax.training.steps import TrainState
from cnn_jax.workdir.trained import load

VALIDATION = ("val", "validation", "valid")  # names of a folder of validation pictures


def evaluate_pretrained(workdir: Path, config: ConfigDict | None = None,
                        quiet: bool = False) -> dict[str, float]:
    """Evaluates an imported network on the pictures of `config.data.dir`.

    The folder holds one subfolder for each class, or has a folder `val` that does, as
    ImageNet has; see `imagenet.classes_of_folders` for their names. The pictures are
    streamed.
    Returns loss, accuracy, top5_accuracy and examples. Raises InputError for a folder
    that is missing or holds other classes than the network.
    """
    report = Reporter(quiet)
    with report.under_way("reading the checkpoint", plain=False):
        network = load(workdir)
    info = network.info
    config = (config or network.config).copy_and_resolve_references()
    with config.unlocked():
        config.batch_size = 1  # any training batch size; nothing is trained
    with report.under_way("listing the pictures", plain=False):
        folder = pictures_folder(config.data)
        records, class_names = class_records(folder)
    labels = classes_of_folders(class_names, info.class_names, str(folder))
    images = LazyImages(records, info.preprocessing, info.image_shape,
                        config.data.on_error == "skip")
    examples = Examples(cast(np.ndarray, images), labels[records.labels])
    dataset = Dataset(info.name, examples, examples, examples.take(np.arange(0)),
                      info.class_names, "")
    counts = {"train": len(records), "validation": len(records), "test": 0}
    placement = parallel.make_placement(config)
    recipe = create_recipe(config, info.__replace__(counts=counts), placement.axis_name)
    recipe = dataclasses.replace(
        recipe, task=with_metrics(recipe.task, "top5_accuracy"))
    state = TrainState(
        jnp.zeros((), jnp.int32), network.variables["params"],
        network.variables["batch_stats"], {}, {}, {})
    report.line(f"data: {len(records):,} pictures of {len(class_names):,} classes in "
                f"{folder}")
    with open_evaluation(recipe, state, dataset, info, config, placement,
                         report) as (_, evaluate):
        metrics = evaluate("validation")
    report.line(describe(metrics, published_top1(info.source)))
    return metrics


def pictures_folder(config: ConfigDict) -> Path:
    """Finds the folder that holds the class folders.

    It is `data.dir` or CNN_JAX_DATA/imagenet, or the validation folder inside.
    """
    root = local_folder(config)
    if root is None:
        raise InputError("--mode=eval of a pretrained network needs pictures: give "
                         "--config.data.dir=FOLDER, which is the folder of ImageNet or "
                         "one with a folder for each class")
    folder = next((root / name for name in VALIDATION if (root / name).is_dir()), root)
    if not any(path.is_dir() for path in folder.iterdir()):
        raise InputError(f"{folder} has no folders: put the pictures of each class "
                         "into a folder of its own there, such as n01440764")
    return folder


def class_records(folder: Path) -> tuple[Records, tuple[str, ...]]:
    """Lists the pictures in the class folders, and the names of the classes."""
    stored = class_folders(ConfigDict({"dir": str(folder)}))
    split = next(name for name in ("validation", "test", "train")
                 if name in stored.splits)
    return stored.splits[split], stored.class_names


def describe(metrics: dict[str, float], published: float | None) -> str:
    """Writes top-1 with its standard error, the published top-1, top-5 and the loss."""
    accuracy, count = metrics["accuracy"], metrics["examples"]
    error = math.sqrt(accuracy * (1 - accuracy) / count)
    return (f"top-1 {100 * accuracy:.2f} % (standard error {100 * error:.2f}"
            + (f"; published {published:g} %" if published is not None else "")
            + f"), top-5 {100 * metrics['top5_accuracy']:.2f} %, loss "
            f"{metrics['loss']:.4f}")
