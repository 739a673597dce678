"""What a trained run makes of pictures: the classes of each, or of each pixel."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnn_jax import data, ops
from cnn_jax.data.images import find_images, read_image
from cnn_jax.errors import InputError, one_line
from cnn_jax.inspection.draw.overlays import overlays
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.console import Reporter
from cnn_jax.tasks import TASKS, segment as segment_task
from cnn_jax.tasks.metrics import mean_iou
from cnn_jax.training.steps import predict_logits
from cnn_jax.workdir.trained import Trained, load
from cnn_jax.data.info import describe
from cnn_jax.workdir.folder import check_same_data, read_config, read_data_info

BATCH = 64  # pictures per call
ROWS, TEST_ROWS = 24, 8  # of a sheet of overlays


class Prediction(NamedTuple):
    """The most probable classes of one picture, best first."""

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


class Segmentation(NamedTuple):
    """The class of each pixel of one picture, at the size of the training data."""

    image: str
    pixels: np.ndarray  # uint8 [H, W, C], what the network saw
    mask: np.ndarray    # int [H, W]
    classes: tuple[str, ...]    # those that occur, the largest first
    shares: tuple[float, ...]   # of the pixels


def has_pixel_labels(workdir: Path) -> bool:
    """Whether a run was trained on masks: a class for each pixel."""
    return data.task_of(read_config(workdir).data).unit == "pixel"


def classify(workdir: Path, images: Sequence[str | Path], top: int = 3,
             invert: bool = False) -> list[Prediction]:
    """Classifies picture files, and those in folders, with a run's best checkpoint.

    Each picture is decoded, resized and brought to the number of channels of the
    training data, then scaled as they were. `invert` exchanges dark and bright first.
    Raises InputError for a workdir or a picture that cannot be read.
    """
    if has_pixel_labels(workdir):
        raise InputError(f"{workdir} was trained to name a class for each pixel, not "
                         "for each picture: use predict.segment")
    trained = read(workdir)
    names = trained.info.class_names
    predictions = []
    for path, _, logits in answers(trained, find_images(images), invert):
        row = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)))
        best = np.argsort(-row, kind="stable")[:top]
        predictions.append(Prediction(
            str(path), tuple(class_name(names, c) for c in best),
            tuple(float(row[c]) for c in best)))
    return predictions


def segment(workdir: Path, images: Sequence[str | Path],
            invert: bool = False) -> list[Segmentation]:
    """The class of each pixel of picture files; they are read as `classify` does.

    Raises InputError, also for a run that names one class for each picture.
    """
    need_pixel_labels(workdir)
    trained = read(workdir)
    names, found = trained.info.class_names, []
    for path, pixels, logits in answers(trained, find_images(images), invert):
        mask = logits.argmax(-1)
        classes, counts = np.unique(mask, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        found.append(Segmentation(
            str(path), pixels, mask,
            tuple(class_name(names, classes[i]) for i in order),
            tuple(float(counts[i] / mask.size) for i in order)))
    return found


def read(workdir: Path) -> Trained:
    """`load`, said on a terminal; beside the answers, which may be piped on as JSON."""
    with Reporter(stderr=True).under_way("reading the checkpoint", plain=False):
        return load(workdir)


def need_pixel_labels(workdir: Path) -> None:
    if not has_pixel_labels(workdir):
        masked = [name for name, source in data.SOURCES.items()
                  if TASKS[source.task].unit == "pixel"]
        raise InputError(f"{workdir} was trained to name one class for each picture; "
                         f"overlays are of sets such as {', '.join(masked)}")


def answers(trained: Trained, paths: Sequence[Path],
            invert: bool) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """Each picture's path, its pixels as the network saw them, and its logits."""
    *size, channels = trained.info.image_shape
    logits_of = compiled(trained)
    # Beside the answers, which may be piped on as JSON.
    report, starts = Reporter(stderr=True), range(0, len(paths), BATCH)
    with report.track("pictures", starts, len(starts), f"batches of {BATCH}") as found:
        for start in found:
            group = paths[start:start + BATCH]
            pixels = np.stack(
                [read_image(path, tuple(size), channels) for path in group])
            pixels = 255 - pixels if invert else pixels
            # One shape for all calls: one compilation.
            padded = np.resize(pixels, (min(BATCH, len(paths)), *pixels.shape[1:]))
            yield from zip(group, pixels, np.asarray(logits_of(padded)))


def compiled(trained: Trained) -> Callable[[np.ndarray], jax.Array]:
    """uint8 images -> logits, with the parameters of a run."""
    # The state is an argument: as a constant it would be compiled into the program.
    program = jax.jit(functools.partial(predict_logits, recipe=trained.recipe),
                      compiler_options=ops.compiler_options())
    return functools.partial(program, trained.state)


def draw_segmentations(found: Sequence[Segmentation], workdir: Path) -> Picture:
    """The first pictures with the classes of their pixels."""
    shown = found[:ROWS]
    count = (f"all {len(found)} pictures" if len(found) <= ROWS
             else f"the first {ROWS} of {len(found)} pictures")
    return overlays(
        np.stack([one.pixels for one in shown]), np.stack([one.mask for one in shown]),
        read_data_info(workdir).class_names, f"overlays of {count}",
        f"{workdir.name}: {count}", [Path(one.image).name for one in shown])


def draw_test_images(workdir: Path, config: ConfigDict | None = None) -> Picture:
    """The first test images with their true and predicted classes.

    config: may differ from the run's own in where the data lie.
    Raises InputError, also where the data have changed.
    """
    need_pixel_labels(workdir)
    trained = load(workdir)
    config = config or trained.config
    dataset = data.load(config.data, config.seed)
    check_same_data(workdir, describe(dataset, config.data.scaling))
    images, truth = dataset.test.take(slice(TEST_ROWS))
    words = f"the first {len(images)} of {len(dataset.test.labels):,} test images"
    logits = np.asarray(compiled(trained)(images))
    return overlays(
        images, logits.argmax(-1), dataset.class_names, words,
        f"{workdir.name}, step {trained.step}: {words}. IoU: mean over the classes in "
        "the image or its prediction.",
        [f"IoU {image_iou(*pair):.2f}" for pair in zip(logits, truth)], truth)


def image_iou(logits: np.ndarray, truth: np.ndarray) -> float:
    """Mean IoU of one image, over the classes that it holds or is said to hold."""
    sums = segment_task.confusion(logits[None], truth[None], np.ones(1))
    return mean_iou(np.asarray(sums["confusion"]))


def class_name(names: Sequence[str], index: int) -> str:
    """A head may have more outputs than the data set has names."""
    return names[index] if index < len(names) else f"class {index}"


def line(answer: Prediction | Segmentation) -> str:
    """'digits/seven.png: seven 98.1 %, one 1.2 %'; of pixels, their shares."""
    image, *_, classes, figures = answer
    words = [f"{name} {100 * f:.1f} %" for name, f in zip(classes, figures)]
    return one_line(f"{image}: {', '.join(words)}")
