"""Predicts pictures with a trained run, for --mode=predict and --mode=overlays."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from cnn_jax import data, inference
from cnn_jax.console import Reporter
from cnn_jax.data.images import Preprocessing, convert_images, find_images
from cnn_jax.errors import InputError, one_line
from cnn_jax.inspection.draw.overlays import overlays
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.classification_metrics import image_ious
from cnn_jax.inspection.forward import batch_program, compute_logits
from cnn_jax.inspection.run import read_images
from cnn_jax.tasks import Task, class_name
from cnn_jax.workdir import trained
from cnn_jax.workdir.folder import load_data, read_config, read_data_info
from cnn_jax.workdir.trained import Trained

__all__ = ["Prediction", "predict", "predict_arrays"]

BATCH = 64  # pictures per call
ROWS, TEST_ROWS = 24, 8  # rows of overlays
ERRORS = 3  # pictures that cannot be read and are described


class Prediction(NamedTuple):
    """Holds what a run predicts for one picture."""

    image: str
    classes: tuple[str, ...]   # the classes to name, best first
    scores: tuple[float, ...]  # their probabilities, fractions of the pixels, or values
    pixels: np.ndarray         # uint8 [H, W, C], the picture as the network saw it
    label: np.ndarray          # a class, classes [C] of 0 and 1, or a mask [H, W]


def task_of(workdir: Path) -> Task:
    """Returns the task of a run."""
    return data.task_of(read_config(workdir).data)


def task_in_units(run: Trained) -> Task:
    """Returns the task of a run; it predicts numbers in the units of the labels."""
    return data.task_of(run.config.data, run.info.targets)


def predict(workdir: str | Path, images: Sequence[str | Path], top: int = 5,
            invert: bool = False, unreadable: dict[Path, InputError] | None = None
            ) -> list[Prediction]:
    """Predicts picture files, and those in folders, with a run's best checkpoint.

    Each picture is decoded, resized, converted to the channels of the training data and
    scaled like them. `invert` exchanges dark and bright first.

    top: how many classes to name if an image has one class; other tasks name all
        classes that they predict.
    unreadable: pictures that cannot be read are skipped, and their errors are added to
        it as {picture: error}. If it is None, the first error is raised.
    Raises InputError for a workdir or a picture that cannot be read.
    """
    # On stderr, because stdout may be piped as JSON.
    report = Reporter(stderr=True)
    with report.under_way("reading the checkpoint", plain=False):
        run = trained.load(workdir)
    task, names = task_in_units(run), run.info.class_names
    paths = find_images(images)
    compute = prediction_program(run, min(BATCH, len(paths)))
    starts = range(0, len(paths), BATCH)
    predictions = []
    with report.track("pictures", starts, len(starts), f"batches of {BATCH}") as shown:
        for start in shown:
            pictures = read_readable(paths[start:start + BATCH],
                                     run.info.preprocessing, invert, unreadable)
            if not pictures:
                continue
            files, batch = zip(*pictures)
            for path, pixels, scores, label in zip(
                    files, batch, *compute(np.stack(batch))):
                classes = task.named_classes(scores, top)
                predictions.append(Prediction(
                    str(path), tuple(class_name(names, i) for i in classes),
                    tuple(float(scores[i]) for i in classes), pixels, label))
    return predictions


def predict_arrays(workdir: str | Path, images: np.ndarray
                   ) -> tuple[np.ndarray, np.ndarray]:
    """Predicts images with a run's best checkpoint.

    images: uint8 [N, H, W, C] or [N, H, W]. They are resized and converted to the
        channels of the training data, as in training.
    Returns scores [N, classes] (probabilities of classes, fractions of the pixels, or
    values) and predicted labels.
    Raises InputError for a workdir that cannot be read and for other images.
    """
    run = trained.load(workdir)
    title = f"images are {images.dtype} {list(images.shape)}"
    if images.ndim == 3 and images.shape[2] in (1, 3):
        raise InputError(f"{title}, which looks like one image [height, width, "
                         "channels]: pass image[None]")
    images = images[..., None] if images.ndim == 3 else images
    if (images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3)
            or not images.size):
        raise InputError(f"{title}: they must be uint8 [N, height, width, channels] "
                         "with 1 or 3 channels, or [N, height, width], from 0 to 255")
    compute = prediction_program(run, min(BATCH, len(images)))
    outputs = [compute(convert_images(images[start:start + BATCH],
                                      run.info.preprocessing))
               for start in range(0, len(images), BATCH)]
    scores, labels = map(np.concatenate, zip(*outputs))
    return scores, labels


def read_readable(paths: Sequence[Path], preprocessing: Preprocessing, invert: bool,
                  unreadable: dict[Path, InputError] | None
                  ) -> list[tuple[Path, np.ndarray]]:
    """Reads each picture as uint8 [H, W, C]; see `predict` for `unreadable`."""
    pictures = []
    for path in paths:
        try:
            pictures.append((path, read_images([path], preprocessing, invert)[0]))
        except InputError as error:
            if unreadable is None:
                raise
            unreadable[path] = error
    return pictures


def prediction_program(run: Trained, size: int
                       ) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Compiles pixels [n, H, W, C] -> (scores [n, classes], labels), n <= `size`."""
    task = task_in_units(run)

    def function(network: nn.Module, variables: Any,
                 images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = compute_logits(network, variables, images)
        return task.scores(logits), task.predict(logits)

    network, variables = inference.fastest(run.network, run.variables,
                                           run.info.image_shape)
    return batch_program(function, network, variables, run.info.scaling, size)


def as_json(prediction: Prediction, task: Task) -> dict[str, Any]:
    """Returns a prediction as --json prints it."""
    return {"image": prediction.image, "classes": prediction.classes,
            task.figures: prediction.scores}


def as_line(prediction: Prediction, task: Task) -> str:
    """Returns 'digits/seven.png: seven 98.1 %, one 1.2 %', or 'ann.jpg: age 41.5'."""
    template = "{} {:.4g}" if task.figures == "values" else "{} {:.1%}"
    entries = [template.format(name, score).replace("%", " %")
               for name, score in zip(prediction.classes, prediction.scores)]
    return one_line(f"{prediction.image}: {', '.join(entries) or 'no class'}")


def first_errors(unreadable: Mapping[Path, InputError]) -> str:
    """Writes the errors of the first pictures, and counts the others."""
    errors = [str(error) for error in unreadable.values()]
    more = len(errors) - ERRORS
    return "; ".join(errors[:ERRORS]) + (
        f"; and {more:,} more, which --json lists" if more > 0 else "")


def draw_predictions(predictions: Sequence[Prediction], workdir: Path) -> Picture:
    """Draws the first pictures with the predicted classes of their pixels."""
    shown = predictions[:ROWS]
    count = (f"all {len(predictions)} pictures" if len(predictions) <= ROWS
             else f"the first {ROWS} of {len(predictions)} pictures")
    return overlays(
        np.stack([prediction.pixels for prediction in shown]),
        np.stack([prediction.label for prediction in shown]),
        read_data_info(workdir).class_names, f"overlays of {count}",
        f"{workdir.name}: {count}",
        [Path(prediction.image).name for prediction in shown])


def draw_test_images(workdir: Path, config: ConfigDict | None = None) -> Picture:
    """Draws the first test images with the true and predicted classes of their pixels.

    config: may differ from the run's own in the location of the data.
    Raises InputError, including for data that have changed.
    """
    if task_of(workdir).unit != "pixel":
        raise InputError(f"{workdir} predicts classes of images, and --mode=overlays "
                         "draws classes of pixels: use --mode=inspect")
    run = trained.load(workdir)
    config = config or run.config
    dataset = load_data(workdir, config)
    images, truth = dataset.test.take(slice(TEST_ROWS))
    _, predicted = prediction_program(run, len(images))(images)
    title = f"the first {len(images)} of {len(dataset.test.labels):,} test images"
    return overlays(
        images, predicted, dataset.class_names, title,
        f"{workdir.name}, step {run.step}: {title}. IoU: mean over the classes in the "
        "image or its prediction.",
        [f"IoU {iou:.2f}" for iou in image_ious(truth, predicted)], truth)
