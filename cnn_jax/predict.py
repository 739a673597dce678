"""The classes of the user's own pictures, by a trained run."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import data, ops
from cnn_jax.data.images import find_images, read_image
from cnn_jax.errors import InputError
from cnn_jax.training.steps import predict_logits
from cnn_jax.training.trained import load

BATCH = 64  # pictures per call


class Prediction(NamedTuple):
    """The most probable classes of one picture, best first."""

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def classify(workdir: Path, images: Sequence[str | Path], top: int = 3,
             invert: bool = False) -> list[Prediction]:
    """Classifies picture files, and those in folders, with a run's best checkpoint.

    Each picture is decoded, resized and brought to the number of channels of the
    training data, then scaled as they were. `invert` exchanges dark and bright first.
    Raises InputError for a workdir or a picture that cannot be read.
    """
    trained = load(workdir)
    if trained.config.data.name in data.PIXEL_LABELS:
        raise InputError(f"{workdir} was trained on {trained.config.data.name}, which "
                         "has a class for each pixel; --mode=predict names one class "
                         "for each picture")
    *size, channels = trained.info.image_shape
    paths = find_images(images)
    names = trained.info.class_names
    # The state is an argument: as a constant it would be compiled into the program.
    logits_of = jax.jit(functools.partial(predict_logits, recipe=trained.recipe),
                        compiler_options=ops.compiler_options())
    predictions = []
    for start in range(0, len(paths), BATCH):
        group = paths[start:start + BATCH]
        pixels = np.stack([read_image(path, tuple(size), channels) for path in group])
        pixels = 255 - pixels if invert else pixels
        # One shape for all calls: one compilation.
        padded = np.resize(pixels, (min(BATCH, len(paths)), *pixels.shape[1:]))
        logits = logits_of(trained.state, padded)[:len(group)]
        probabilities = np.asarray(jax.nn.softmax(logits.astype(jnp.float32)))
        for path, row in zip(group, probabilities):
            best = np.argsort(-row, kind="stable")[:top]
            predictions.append(Prediction(
                str(path), tuple(class_name(names, c) for c in best),
                tuple(float(row[c]) for c in best)))
    return predictions


def class_name(names: Sequence[str], index: int) -> str:
    """A head may have more outputs than the data set has names."""
    return names[index] if index < len(names) else f"class {index}"


def line(prediction: Prediction) -> str:
    """'digits/seven.png: seven 98.1 %, one 1.2 %'"""
    words = [f"{name} {100 * p:.1f} %" for name, p in
             zip(prediction.classes, prediction.probabilities)]
    return f"{prediction.image}: {', '.join(words)}"
